//! What is unwise but works, with its exact text and place.

use super::super::load;
use super::messages::TempFile;
use super::{loaded, no_env};

/// The warnings of a text, one a line.
fn warnings(text: &str) -> Vec<String> {
    loaded(text).warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_file_has_none() {
    let text = "[general]\nauth_type = \"scram-sha-256\"\nadmin_users = \"bob\"\n\
                [databases.app]\nhost = \"10.0.0.1\"\nuser = \"bob\"\n\
                [users.bob]\npassword = \"x\"\n";
    assert_eq!(warnings(text), [""; 0]);
}

#[test]
fn users_who_cannot_log_in() {
    assert_eq!(
        warnings("[databases.d]\n[users.bob]\n"),
        ["config.toml:2:8: user \"bob\" has no password and cannot log in with auth_type md5"]
    );
    let md5 = "md5000102030405060708090a0b0c0d0e0f";
    let text = format!(
        "[databases.d]\n[general]\nauth_type = \"scram-sha-256\"\n\
         [users.bob]\npassword = \"{md5}\"\n"
    );
    assert_eq!(
        warnings(&text),
        ["config.toml:5:12: user \"bob\" has an md5 password and cannot log in with \
          auth_type scram-sha-256"]
    );
    assert_eq!(warnings("[databases.d]\n[general]\nauth_type = \"trust\"\n[users.bob]\n"), [""; 0]);
}

#[test]
fn console_users_whom_nobody_knows() {
    let text = "[databases.d]\n[general]\nadmin_users = \"root, bob\"\nstats_users = [\"eve\"]\n\
                [users.bob]\npassword = \"x\"\n";
    assert_eq!(
        warnings(text),
        [
            "config.toml:3:15: admin_users names \"root\", who is in no [users.NAME] or \
             auth_file and cannot log in",
            "config.toml:4:15: stats_users names \"eve\", who is in no [users.NAME] or \
             auth_file and cannot log in",
        ]
    );
}

#[test]
fn passwords_of_databases() {
    assert_eq!(
        warnings("[databases.d]\npassword = \"x\"\n"),
        ["config.toml:2:12: databases.d: password has no effect without user"]
    );
    assert_eq!(
        warnings("[databases.d]\nuser = \"bob\"\n"),
        ["config.toml:2:8: databases.d: user \"bob\" has no password and can log in only to a \
          server that asks for none"]
    );
    assert_eq!(
        warnings(
            "[databases.d]\nuser = \"bob\"\n\
             password = \"SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5\"\n"
        ),
        ["config.toml:2:8: databases.d: the password of user \"bob\" is a SCRAM verifier, which \
          cannot log in to a server"]
    );
}

#[test]
fn pools_that_never_reach_their_size() {
    assert_eq!(
        warnings("[databases.d]\npool_size = 9\nmax_db_connections = 5\n"),
        ["config.toml:2:13: databases.d: pool_size 9 is above max_db_connections 5"]
    );
    assert_eq!(warnings("[databases.d]\npool_size = 5\nmax_db_connections = 5\n"), [""; 0]);
    assert_eq!(warnings("[databases.d]\npool_size = 0\nmax_db_connections = 5\n"), [""; 0]);
}

#[test]
fn databases_that_lead_back() {
    let itself = "config.toml:1:12: databases.d: host and port are those pgbaton itself listens on";
    for (text, hit) in [
        ("host = \"127.0.0.1\"\nport = 6432", true),
        ("host = \"localhost\"\nport = 6432", true),
        ("host = \"/tmp\"\nport = 6432", true),
        ("port = 6432", true),
        ("host = \"127.0.0.1\"", false),
        ("host = \"10.0.0.1\"\nport = 6432", false),
        ("host = \"/run\"\nport = 6432", false),
        ("host = \"other\"\nport = 6432", false),
        ("host = \"127.0.0.1\"\nport = 6432\n[general]\nlisten_addr = \"*\"", true),
        ("host = \"::1\"\nport = 6432\n[general]\nlisten_addr = \"::\"", true),
        ("host = \"box\"\nport = 6432\n[general]\nlisten_addr = \"box\"", true),
        ("host = \"127.0.0.1\"\nport = 6432\n[general]\nlisten_addr = \"\"", false),
    ] {
        let found = warnings(&format!("[databases.d]\n{text}\n"));
        let expected: &[&str] = if hit { &[itself] } else { &[] };
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn trust_that_others_can_reach() {
    let text = |address: &str| {
        format!("[databases.d]\n[general]\nauth_type = \"trust\"\nlisten_addr = \"{address}\"\n")
    };
    for address in ["*", "0.0.0.0", "10.0.0.1", "db.example.org"] {
        let expected =
            format!("config.toml:3:13: auth_type trust lets anyone in who can reach {address}");
        assert_eq!(warnings(&text(address)), [expected]);
    }
    for address in ["", "127.0.0.1", "::1", "localhost"] {
        assert_eq!(warnings(&text(address)), [""; 0]);
    }
}

#[test]
fn a_file_without_databases() {
    assert_eq!(
        warnings(""),
        ["config.toml: no database is configured: clients can reach only the console"]
    );
}

#[cfg(unix)]
#[test]
fn secrets_that_every_local_user_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let check = |text: &str, mode: u32| {
        let file = TempFile::new(text.as_bytes());
        std::fs::set_permissions(&file.0, std::fs::Permissions::from_mode(mode)).unwrap();
        let loaded = load(&file.0, &no_env).unwrap();
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let secret = "[databases.d]\n[users.a]\npassword = \"x\"\n";
    let found = check(secret, 0o644);
    assert_eq!(found.len(), 1);
    let expected = ": the file holds passwords and every local user can read it (mode 0644)";
    assert!(found[0].ends_with(expected), "{found:?}");
    assert_eq!(check(secret, 0o640), [""; 0]);
    assert_eq!(check("[databases.d]\n", 0o644), [""; 0]);
}

#[test]
fn looking_users_up() {
    let general = "[general]\nauth_user = \"a\"\nadmin_users = \"x\"\n";
    let password = "[users.a]\npassword = \"p\"\n[users.b]\n";
    assert_eq!(warnings(&format!("{general}[databases.d]\n{password}")), [""; 0]);
    let anywhere = format!("{general}[databases.\"*\"]\n{password}");
    let said = "config.toml:4:12: auth_user without auth_dbname: for \"*\", whoever connects says in \
                which database to look users up";
    assert_eq!(warnings(&anywhere), [said]);
    let fixed =
        format!("{general}auth_dbname = \"d\"\n[databases.\"*\"]\n[databases.d]\n{password}");
    assert_eq!(warnings(&fixed), [""; 0]);
    let hash = "[users.a]\npassword = \"md5000102030405060708090a0b0c0d0e0f\"\n";
    assert_eq!(
        warnings(&format!("{general}[databases.d]\n{hash}")),
        [
            "config.toml:2:13: auth_user \"a\" has a hash or verifier for a password, which does not log \
          in to a server"
        ]
    );
}
