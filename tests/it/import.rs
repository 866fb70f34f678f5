//! `pgbaton import`: twenty files as they are found, each converted, checked, started and used.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::certificates::Authority;
use crate::support::pgbaton::{Config, Pgbaton, run_to_end};
use crate::support::postgres::{PASSWORD, Postgres, SCRAM_ROLE, SUPERUSER};
use crate::support::wire::{Login, Wire};

/// What lies about where the file expects it.
fn furnish(folder: &Path, postgres: &Postgres) {
    let stored = format!("select rolpassword from pg_authid where rolname = '{SCRAM_ROLE}'");
    let stored = postgres.sql("postgres", &stored);
    let users = format!("\"{SUPERUSER}\" \"{PASSWORD}\"\n\"{SCRAM_ROLE}\" \"{stored}\"\n");
    let address = postgres.address();
    let database = format!("app = host={} port={} dbname=trust", address.ip(), address.port());
    for (file, text) in [
        ("userlist.txt", users.as_str()),
        ("pg_hba.conf", "local all all peer\nhost all all 127.0.0.1/32 scram-sha-256\n"),
        ("pg_ident.conf", "# none\n"),
        ("databases.ini", &format!("[databases]\n{database}\n")),
        ("common.ini", "listen_addr = 127.0.0.1\nauth_type = trust\n"),
    ] {
        fs::write(folder.join(file), text).unwrap();
    }
    Authority::new("import").identity(&["localhost"]).write(folder);
}

fn whoami() -> String {
    let id = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

/// The file with its places filled in.
fn filled_in(file: &Path, folder: &Path, port: u16, postgres: &Postgres) -> String {
    let address = postgres.address();
    fs::read_to_string(file)
        .unwrap()
        .replace("@HOST@", &address.ip().to_string())
        .replace("@PORT@", &address.port().to_string())
        .replace("@LISTEN@", &port.to_string())
        .replace("@DIR@", &folder.display().to_string())
        // Whoever runs the tests is meant, root or not.
        .replace("[pgbouncer]", &format!("[pgbouncer]\nuser = {}", whoami()))
}

#[test]
fn twenty_files_are_converted_started_and_used() {
    let postgres = Postgres::shared();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pgbouncer");
    let mut files: Vec<_> = fs::read_dir(files).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 20);
    let mut refusing = Vec::new();
    for file in &files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
        furnish(folder.path(), postgres);
        let config = Config::new();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = filled_in(file, folder.path(), config.port(), postgres);
        fs::write(path("pgbouncer.ini"), text).unwrap();
        let (ini, toml, report) = (path("pgbouncer.ini"), path("config.toml"), path("report"));
        let run = run_to_end(&["import", &ini, "--output", &toml, "--report", &report]);
        let report = fs::read_to_string(&report).unwrap();
        match run.status.code() {
            Some(0) => assert!(!report.contains("REFUSED"), "{name}: {report}"),
            Some(3) => {
                assert!(report.contains("REFUSED"), "{name}: {report}");
                refusing.push(name.to_owned());
            }
            _ => panic!("{name}: {run:?}"),
        }
        // It is not written over.
        let again = run_to_end(&["import", &ini, "--output", &toml]);
        assert!(String::from_utf8_lossy(&again.stderr).contains("(--force)"), "{again:?}");
        let check = run_to_end(&["check", "--config", &toml]);
        let text = fs::read_to_string(&toml).unwrap();
        assert!(check.status.success(), "{name}: {check:?}\n{text}\n{report}");
        let pgbaton = Pgbaton::start_text(&text, &config, &[]);
        let database = if text.contains("\"app\" = ") { "app" } else { "trust" };
        let login = Login::new(SUPERUSER, database, PASSWORD);
        let mut wire = Wire::login(pgbaton.address(), &login);
        assert_eq!(wire.query("select 40 + 2").value(), "42", "{name}");
        if text.contains("auth_user") || text.contains("userlist") {
            let login = Login::new(SCRAM_ROLE, database, PASSWORD);
            let mut wire = Wire::login(pgbaton.address(), &login);
            assert_eq!(wire.query("select current_user").value(), SCRAM_ROLE, "{name}");
        }
    }
    assert_eq!(refusing, ["19-so-reuseport-and-peers", "20-unknown-and-old"]);
}

#[test]
fn check_says_whether_servers_are_there_and_config_what_there_is() {
    let postgres = Postgres::shared();
    let folder = tempfile::Builder::new().prefix("pgbaton-it-").tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let check = |hosts: &str| {
        let body = format!("host = \"{hosts}\"\nport = {}", postgres.port());
        let config = Config::new().section("databases.app", &body);
        fs::write(&file, config.text()).unwrap();
        let output = run_to_end(&["check", "--connect", "--config", file.to_str().unwrap()]);
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (is_good, said) = check(&format!("127.0.0.1, {}", postgres.socket_folder().display()));
    assert!(is_good && said.matches("answers, without TLS").count() == 2, "{said}");
    let (is_good, said) = check("127.0.0.1, 127.0.0.9");
    assert!(!is_good && said.contains("127.0.0.9") && said.contains("cannot be reached"), "{said}");
    let schema = run_to_end(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["properties"]["general"]["properties"]["listen_port"]["default"], "6432");
}
