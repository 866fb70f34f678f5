//! Every form in which a value may be written, and the edges of the ranges.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::super::{
    AuthType, Config, DURATION_MAX, KeyDefault, Limit, ListenAddr, LogFormat, LogLevel, Password,
    PasswordKind, PoolMode, Section, ServerHost, keys,
};
use super::{config, errors};

fn general(line: &str) -> Config {
    config(&format!("[general]\n{line}\n"))
}

/// Whether `[general]` refuses a line, with one error at the value.
fn refused(line: &str) -> bool {
    let text = format!("[general]\n{line}\n");
    match super::parse(&text, "config.toml", &super::no_env) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.diagnostics.len(), 1, "{error}");
            true
        }
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let general = config("").general;
    assert_eq!(general.listen_addr, [ListenAddr::Ip(Ipv4Addr::LOCALHOST.into())]);
    assert_eq!(general.listen_port, 6432);
    assert_eq!(general.listen_backlog, 128);
    assert_eq!(general.unix_socket_dir, Some(PathBuf::from("/tmp")));
    assert_eq!(general.unix_socket_mode, 0o777);
    assert_eq!(general.workers, None);
    assert_eq!(general.pool_mode, PoolMode::Session);
    assert_eq!(general.max_client_conn, 100);
    assert_eq!(general.default_pool_size, Limit::from(20));
    assert_eq!(general.max_db_connections, Limit::Unlimited);
    assert_eq!(general.max_user_connections, Limit::Unlimited);
    assert!(!general.server_round_robin);
    assert_eq!(general.max_connecting_per_pool, 4);
    assert_eq!(general.max_waiting_clients, Limit::Unlimited);
    assert_eq!(general.auth_type, AuthType::Md5);
    assert!(general.admin_users.is_empty() && general.stats_users.is_empty());
    assert_eq!(general.query_wait_timeout, Some(Duration::from_secs(120)));
    assert_eq!(general.client_login_timeout, Some(Duration::from_secs(60)));
    assert_eq!(general.server_connect_timeout, Some(Duration::from_secs(15)));
    assert_eq!(general.server_login_retry, Duration::from_secs(15));
    assert_eq!(general.cancel_wait_timeout, Some(Duration::from_secs(10)));
    assert_eq!(general.shutdown_timeout, Some(Duration::from_secs(60)));
    assert_eq!(general.client_cleanup_timeout, Duration::from_secs(5));
    assert_eq!(general.server_reset_query, "DISCARD ALL");
    assert!(!general.server_reset_query_always);
    assert_eq!(general.max_prepared_statements, 200);
    assert!(general.ignore_startup_parameters.is_empty());
    assert!(general.tcp_keepalive);
    assert_eq!(general.tcp_keepcnt, None);
    assert_eq!(general.tcp_keepidle, None);
    assert_eq!(general.tcp_keepintvl, None);
    assert_eq!(general.tcp_user_timeout, None);
    assert!(general.log_connections && general.log_disconnections && general.log_pooler_errors);
    assert_eq!(general.log_format, LogFormat::Text);
    assert_eq!(general.log_level, LogLevel::Info);
}

#[test]
fn settings_print_the_defaults_as_the_key_table_has_them() {
    let text = "[databases.a]\n[users.b]\n";
    let config = config(text);
    let printed = [
        config.general.settings(),
        config.databases.named["a"].settings(),
        config.users.named["b"].settings(),
    ]
    .concat();
    assert_eq!(printed.len(), keys().len());
    for ((name, text), key) in printed.iter().zip(keys()) {
        assert_eq!(*name, key.name);
        match key.default {
            KeyDefault::Value(default) => assert_eq!(text, default, "{name}"),
            KeyDefault::Absent(_) => assert_eq!(text, "", "{name}"),
        }
    }
}

#[test]
fn every_key_takes_its_printed_form_in_its_section() {
    let samples = |name: &str| match name {
        "listen_addr" => "::1, db.example.org",
        "unix_socket_dir" => "/run/pgbaton",
        "unix_socket_mode" => "0700",
        "pool_mode" => "transaction",
        "auth_type" => "scram-sha-256",
        "client_tls_sslmode" | "server_tls_sslmode" => "require",
        "client_tls_protocols" | "server_tls_protocols" => "tlsv1.3",
        "client_tls_ciphers" | "server_tls_ciphers" => "ECDHE-RSA-AES256-GCM-SHA384",
        "client_tls13_ciphers" | "server_tls13_ciphers" => "TLS_AES_128_GCM_SHA256",
        "client_tls_ecdhcurve" => "X25519",
        "proxy_protocol_from" => "10.0.0.0/8",
        "log_format" => "json",
        "log_level" => "debug",
        "admin_users" | "stats_users" | "ignore_startup_parameters" => "a, b",
        "server_reset_query" => "RESET ALL",
        "host" => "db.example.org",
        "dbname" | "user" => "name",
        "password" => "***",
        "server_round_robin" | "server_reset_query_always" | "server_fast_close" => "1",
        "application_name_add_host" => "1",
        "load_balance_hosts" => "disable",
        "tcp_keepalive" | "log_connections" | "log_disconnections" | "log_pooler_errors" => "0",
        _ => "7",
    };
    for key in keys() {
        let sample = samples(key.name);
        let (header, section) = match key.section {
            Section::General => ("[general]", key.section),
            Section::Databases => ("[databases.x]", key.section),
            Section::Users => ("[users.x]", key.section),
        };
        let config = config(&format!("{header}\n{} = \"{sample}\"\n[databases.7]\n", key.name));
        let settings = match section {
            Section::General => config.general.settings(),
            Section::Databases => config.databases.named["x"].settings(),
            Section::Users => config.users.named["x"].settings(),
        };
        let printed = settings.into_iter().find(|(name, _)| *name == key.name);
        assert_eq!(printed, Some((key.name, sample.to_owned())));
    }
}

#[test]
fn durations_in_every_form() {
    let timeout = |text: &str| general(&format!("query_wait_timeout = {text}"));
    for (text, millis) in [
        ("5", 5_000),
        ("0.25", 250),
        ("0.1", 100),
        ("\"5\"", 5_000),
        ("\"1.5\"", 1_500),
        ("\"250ms\"", 250),
        ("\"5s\"", 5_000),
        ("\" 5 s \"", 5_000),
        ("\"2min\"", 120_000),
        ("\"1h\"", 3_600_000),
        ("\"1d\"", 86_400_000),
        ("\"0.001\"", 1),
    ] {
        let expected = Some(Duration::from_millis(millis));
        assert_eq!(timeout(text).general.query_wait_timeout, expected, "{text}");
    }
    for text in ["0", "0.0", "\"0\"", "\"0ms\"", "\"0h\""] {
        assert_eq!(timeout(text).general.query_wait_timeout, None, "{text}");
    }
    assert_eq!(timeout("\"365d\"").general.query_wait_timeout, Some(DURATION_MAX));
}

#[test]
fn what_is_no_duration_is_refused() {
    for text in [
        "-1",
        "-0.5",
        "nan",
        "inf",
        "true",
        "[]",
        "31536001",
        "\"\"",
        "\"s\"",
        "\"5m\"",
        "\"5 5\"",
        "\"-5s\"",
        "\"+5\"",
        "\"1e3\"",
        "\"inf\"",
        "\"nan\"",
        "\".5\"",
        "\"1.2.3\"",
        "\"366d\"",
        "\"0.0001\"",
        "0.0009",
        "9223372036854775807",
        "1979-05-27",
    ] {
        assert!(refused(&format!("query_wait_timeout = {text}")), "{text}");
    }
}

#[test]
fn keepalive_times_are_whole_seconds_and_user_timeout_counts_milliseconds() {
    let read = general("tcp_keepidle = \"2min\"\ntcp_user_timeout = 1500").general;
    assert_eq!(read.tcp_keepidle, Some(Duration::from_secs(120)));
    assert_eq!(read.tcp_user_timeout, Some(Duration::from_millis(1500)));
    let read = general("tcp_user_timeout = \"2s\"\ntcp_keepintvl = \"3000ms\"").general;
    assert_eq!(read.tcp_user_timeout, Some(Duration::from_secs(2)));
    assert_eq!(read.tcp_keepintvl, Some(Duration::from_secs(3)));
    assert!(refused("tcp_keepidle = 1.5"));
    assert!(refused("tcp_keepidle = 32768"));
    assert!(refused("tcp_user_timeout = \"25d\""));
}

#[test]
fn booleans_in_every_form() {
    for text in ["true", "1", "\"1\"", "\"yes\"", "\"ON\"", "\"True\""] {
        assert!(general(&format!("server_round_robin = {text}")).general.server_round_robin);
    }
    for text in ["false", "0", "\"0\"", "\"no\"", "\"Off\"", "\"false\""] {
        assert!(!general(&format!("tcp_keepalive = {text}")).general.tcp_keepalive);
    }
    for text in ["2", "-1", "1.0", "\"\"", "\"y\"", "\"enabled\"", "[true]"] {
        assert!(refused(&format!("tcp_keepalive = {text}")), "{text}");
    }
}

#[test]
fn whole_numbers_and_their_edges() {
    assert_eq!(general("listen_port = 1").general.listen_port, 1);
    assert_eq!(general("listen_port = \"65535\"").general.listen_port, 65_535);
    assert_eq!(general("listen_port = 0x1000").general.listen_port, 4096);
    for text in ["0", "65536", "-1", "1.0", "\"\"", "\"+1\"", "\"1_000\"", "4294967297", "true"] {
        assert!(refused(&format!("listen_port = {text}")), "{text}");
    }
    assert_eq!(general("workers = 2").general.workers, Some(2));
    assert_eq!(general("tcp_keepcnt = 3").general.tcp_keepcnt, Some(3));
    assert!(refused("max_client_conn = 0"));
    assert!(refused("max_client_conn = 99999999999999999999"));
}

#[test]
fn limits_know_no_zero() {
    assert_eq!(Limit::from(0).get(), None);
    assert_eq!(Limit::from(0).or_max(), usize::MAX);
    assert_eq!(Limit::from(3).get(), Some(3));
    assert_eq!(Limit::from(3).or_max(), 3);
    assert_eq!(general("default_pool_size = 0").general.default_pool_size, Limit::Unlimited);
}

#[test]
fn file_modes_are_octal_in_every_form() {
    for text in ["\"0750\"", "\"750\"", "\"0o750\"", "0o750", "750"] {
        let mode = general(&format!("unix_socket_mode = {text}")).general.unix_socket_mode;
        assert_eq!(mode, 0o750, "{text}");
    }
    for text in ["\"0888\"", "888", "1000", "\"\"", "-1", "0o1000", "\"rwx\"", "true"] {
        assert!(refused(&format!("unix_socket_mode = {text}")), "{text}");
    }
}

#[test]
fn words_in_any_case() {
    assert_eq!(general("pool_mode = \"Transaction\"").general.pool_mode, PoolMode::Transaction);
    assert_eq!(general("auth_type = \"SCRAM-SHA-256\"").general.auth_type, AuthType::ScramSha256);
    assert_eq!(AuthType::ScramSha256.to_string(), "scram-sha-256");
    assert_eq!(PoolMode::Transaction.to_string(), "transaction");
    assert!(LogLevel::Error < LogLevel::Warn && LogLevel::Info < LogLevel::Debug);
    assert!(refused("pool_mode = 1"));
    assert_eq!(general("pool_mode = \"statement\"").general.pool_mode, PoolMode::Statement);
}

#[test]
fn lists_as_arrays_and_comma_strings() {
    for text in ["[\"a\", \"b\"]", "\"a,b\"", "\" a , b, \"", "[\"a\", \" b \", \"a\"]"] {
        let users = general(&format!("admin_users = {text}")).general.admin_users;
        assert_eq!(users, ["a", "b"], "{text}");
    }
    for text in ["[]", "\"\"", "\" , \""] {
        assert!(general(&format!("admin_users = {text}")).general.admin_users.is_empty());
    }
    for text in ["[1]", "[\"\"]", "[[\"a\"]]", "1", "\"a\\u0000\"", "[\"a\\u0000\"]"] {
        assert!(refused(&format!("admin_users = {text}")), "{text}");
    }
}

#[test]
fn listen_addresses() {
    let read = |text: &str| general(&format!("listen_addr = {text}")).general.listen_addr;
    assert_eq!(read("\"*\""), [ListenAddr::Any]);
    assert_eq!(read("\"\""), []);
    assert_eq!(
        read("\"0.0.0.0, [::1], db_host-1.local\""),
        [
            ListenAddr::Ip(Ipv4Addr::UNSPECIFIED.into()),
            ListenAddr::Ip(Ipv6Addr::LOCALHOST.into()),
            ListenAddr::Name("db_host-1.local".into()),
        ]
    );
    for text in [
        "\"*, ::1\"",
        "\"a b\"",
        "\"host:6432\"",
        "\"[::1\"",
        "\"999.1.1.1\"",
        "\"::1::\"",
        "\"/tmp\"",
        "6432",
    ] {
        assert!(refused(&format!("listen_addr = {text}")), "{text}");
    }
}

#[test]
fn hosts_of_databases() {
    let host = |text: &str| {
        let config = config(&format!("[databases.a]\nhost = \"{text}\"\n"));
        config.database("a").expect("a route").host
    };
    assert_eq!(host("10.0.0.1"), ServerHost::Ip(Ipv4Addr::new(10, 0, 0, 1).into()));
    assert_eq!(host("[::1]"), ServerHost::Ip(Ipv6Addr::LOCALHOST.into()));
    assert_eq!(host("db.example.org"), ServerHost::Name("db.example.org".into()));
    assert_eq!(host("/run/pg"), ServerHost::SocketDir("/run/pg".into()));
    assert_eq!(host(""), ServerHost::SocketDir("/tmp".into()));
    let long = format!("/{}", "d".repeat(92));
    let several = [
        ServerHost::Name("a".into()),
        ServerHost::Ip(Ipv6Addr::LOCALHOST.into()),
        ServerHost::SocketDir("/run".into()),
    ];
    assert_eq!(host("a, ::1,/run"), ServerHost::Several(several.to_vec()));
    for text in ["a,,b", "a:5432", "a b", "@abstract", "300.1.1.1", "é", long.as_str()] {
        let text = format!("[databases.a]\nhost = \"{text}\"\n");
        assert_eq!(errors(&text).len(), 1, "{text}");
    }
}

#[test]
fn socket_directories() {
    let read = |text: &str| general(&format!("unix_socket_dir = \"{text}\""));
    assert_eq!(read("").general.unix_socket_dir, None);
    assert_eq!(read("/run").general.unix_socket_dir, Some("/run".into()));
    let longest = format!("/{}", "d".repeat(91));
    assert_eq!(read(&longest).general.unix_socket_dir, Some(longest.clone().into()));
    for text in ["tmp", "@name", &format!("{longest}d"), "/a\\u0000"] {
        assert!(refused(&format!("unix_socket_dir = \"{text}\"")), "{text}");
    }
}

#[test]
fn passwords_keep_their_form() {
    let kind = |text: &str| Password::new(text).kind();
    assert_eq!(kind("secret"), PasswordKind::Plain);
    assert_eq!(kind("md5 is old"), PasswordKind::Plain);
    assert_eq!(kind("md5000102030405060708090a0b0c0d0e0f"), PasswordKind::Md5);
    assert_eq!(kind("md5000102030405060708090a0b0c0d0e0g"), PasswordKind::Plain);
    assert_eq!(kind("SCRAM-SHA-256$4096:c2FsdA==$a2V5:a2V5"), PasswordKind::ScramSha256);
    let config = config("[users.a]\npassword = \" spaced \"\n");
    let password = config.users.get("a").and_then(|user| user.password.as_ref());
    assert_eq!(password.map(Password::expose), Some(" spaced "));
    for text in [
        "\"\"",
        "5",
        "\"a\\u0000\"",
        "\"SCRAM-SHA-256$4096:c2FsdA==$a2V5\"",
        "\"SCRAM-SHA-256$0:c2FsdA==$a2V5:a2V5\"",
        "\"SCRAM-SHA-256$x:c2FsdA==$a2V5:a2V5\"",
        "\"SCRAM-SHA-256$4096:$a2V5:a2V5\"",
        "\"SCRAM-SHA-256$4096:c2FsdA==$a2 V5:a2V5\"",
    ] {
        assert_eq!(errors(&format!("[users.a]\npassword = {text}\n")).len(), 1, "{text}");
    }
}

#[test]
fn connection_strings() {
    let text = "[databases]\n\
        app = \"host=10.0.0.1 port=5433  dbname = x user='a b' password='it''s' pool_size=3\"\n\
        bare = \"\"\n\
        \"*\" = \"host=::1\"\n";
    let config = config(text);
    let app = config.database("app").expect("a route");
    assert_eq!(app.port, 5433);
    assert_eq!(app.dbname, "x");
    assert_eq!(app.forced_user.as_deref(), Some("a b"));
    assert_eq!(app.forced_password.as_ref().map(Password::expose), Some("it's"));
    assert_eq!(config.databases.named["app"].pool_size, Some(Limit::from(3)));
    assert_eq!(config.database("bare").expect("a route").dbname, "bare");
    let other = config.database("other").expect("the fallback");
    assert_eq!(other.host, ServerHost::Ip(Ipv6Addr::LOCALHOST.into()));
}

#[test]
fn nul_is_refused_wherever_text_goes_to_a_server() {
    for line in [
        "user = \"a\\u0000b\"",
        "dbname = \"a\\u0000b\"",
        "host = \"a\\u0000b\"",
        "password = \"a\\u0000b\"",
    ] {
        assert_eq!(errors(&format!("[databases.d]\n{line}\n")).len(), 1, "{line}");
    }
    assert!(refused("server_reset_query = \"DISCARD\\u0000ALL\""));
    // A connection string is another way to the same keys.
    assert_eq!(errors("[databases]\nd = \"user=a\\u0000b\"\n").len(), 1);
}
