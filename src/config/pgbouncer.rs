//! Every setting of PgBouncer 1.25, and what has become of it here.
//!
//! A setting that is refused is never ignored: an operator who sets it must learn that it has no effect,
//! why, and what to do instead. One source: the errors of configurations, the report of `import` and
//! docs/PGBOUNCER.md are made of it. Invariant (tested): a setting is either a key of `schema` in the same
//! section, or has an answer here.

use super::keys::{Section, keys_of};

/// What has become of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A key of the same name and meaning.
    Same,
    /// Another key does it; the sentence says how.
    Mapped(&'static str, &'static str),
    /// Nothing does; the sentence says why, and what to do.
    Refused(&'static str),
}

/// One setting of PgBouncer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The section that it is in here; `[pgbouncer]` is [`Section::General`].
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// Its value if it is left out; empty for none.
    pub default: &'static str,
    /// What has become of it.
    pub answer: Answer,
}

/// Why `key` of PgBouncer's is no key here; `None` if PgBouncer has none of that name either.
pub(super) fn refusal(section: Section, key: &str) -> Option<&'static str> {
    let setting = settings().find(|setting| setting.section == section && setting.name == key)?;
    match setting.answer {
        Answer::Same => None,
        Answer::Mapped(_, why) | Answer::Refused(why) => Some(why),
    }
}

/// All settings, in PgBouncer's order.
pub fn settings() -> impl Iterator<Item = Setting> {
    let all =
        [(Section::General, GENERAL), (Section::Databases, DATABASES), (Section::Users, USERS)];
    all.into_iter().flat_map(|(section, list)| {
        list.iter().map(move |(name, default)| Setting {
            section,
            name,
            default,
            answer: answer(section, name),
        })
    })
}

fn answer(section: Section, name: &str) -> Answer {
    if keys_of(section).any(|key| key.name == name) {
        return Answer::Same;
    }
    let other = OTHERS.iter().find(|(of, other, _)| *of == section && *other == name);
    other.map_or(Answer::Refused(""), |(_, _, answer)| *answer)
}

/// The sentence for the section of peers.
pub const PEERS: &str =
    "One pgbaton uses every core and has one table of cancel keys: no peers are needed.";

use Answer::{Mapped, Refused};

/// What is no key here.
const OTHERS: &[(Section, &str, Answer)] = &[
    (
        Section::General,
        "client_tls_dheparams",
        Refused(
            "Finite-field Diffie-Hellman is not offered; curves are, see client_tls_ecdhcurve.",
        ),
    ),
    (
        Section::General,
        "conffile",
        Refused("The file is given on the command line, and is the one that RELOAD reads."),
    ),
    (
        Section::General,
        "disable_pqexec",
        Refused(
            "Simple queries are always allowed; use a role whose rights bound what an injected query can do.",
        ),
    ),
    (
        Section::General,
        "dns_zone_check_period",
        Refused("Zone serials are not polled; names are asked anew after dns_max_ttl."),
    ),
    (
        Section::General,
        "job_name",
        Refused("There is no Windows service; it has no effect elsewhere either."),
    ),
    (
        Section::General,
        "log_stats",
        Refused("There is no line of statistics in the log yet; ask the console (SHOW POOLS)."),
    ),
    (
        Section::General,
        "max_packet_size",
        Refused("Messages stream through in bounded memory; PostgreSQL's own limit of 1 GB holds."),
    ),
    (
        Section::General,
        "peer_id",
        Refused(
            "One pgbaton uses every core and has one table of cancel keys: no peers are needed.",
        ),
    ),
    (
        Section::General,
        "pkt_buf",
        Refused("Connections own no buffers: those of the workers are shared and adapt."),
    ),
    (
        Section::General,
        "resolv_conf",
        Refused("Names are resolved as the system does it; configure /etc/resolv.conf."),
    ),
    (
        Section::General,
        "sbuf_loopcnt",
        Refused("How much is moved at a time adapts; there is nothing to tune."),
    ),
    (
        Section::General,
        "service_name",
        Refused("There is no Windows service; it has no effect elsewhere either."),
    ),
    (
        Section::General,
        "so_reuseport",
        Mapped(
            "workers",
            "One pgbaton uses every core by itself: set workers instead, and start one process.",
        ),
    ),
    (
        Section::General,
        "stats_period",
        Refused("There is no line of statistics in the log yet; ask the console (SHOW POOLS)."),
    ),
    (
        Section::General,
        "suspend_timeout",
        Refused(
            "There is no SUSPEND yet; SIGTERM drains at transaction boundaries, see shutdown_timeout.",
        ),
    ),
    (
        Section::General,
        "syslog",
        Refused(
            "Log lines go to standard error, which systemd gives to its journal, and to logfile.",
        ),
    ),
    (
        Section::General,
        "syslog_facility",
        Refused(
            "Log lines go to standard error, which systemd gives to its journal, and to logfile.",
        ),
    ),
    (
        Section::General,
        "syslog_ident",
        Refused(
            "Log lines go to standard error, which systemd gives to its journal, and to logfile.",
        ),
    ),
    (
        Section::General,
        "tcp_defer_accept",
        Refused(
            "A connection that says nothing costs no worker anything; client_login_timeout ends it.",
        ),
    ),
    (
        Section::General,
        "track_extra_parameters",
        Mapped(
            "",
            "Every setting that PostgreSQL reports is followed already, and those given at login.",
        ),
    ),
    (Section::General, "verbose", Mapped("log_level", "Set log_level: 0 is info, more is debug.")),
    (
        Section::General,
        "auth_ldap_options",
        Refused("LDAP is not supported yet; use scram-sha-256, cert or auth_query."),
    ),
];

/// Settings of `[pgbouncer]` and their defaults.
const GENERAL: &[(&str, &str)] = &[
    ("logfile", ""),
    ("pidfile", ""),
    ("listen_addr", ""),
    ("listen_port", "6432"),
    ("listen_backlog", "128"),
    ("unix_socket_dir", "/tmp"),
    ("unix_socket_mode", "0777"),
    ("unix_socket_group", ""),
    ("user", ""),
    ("service_name", "pgbouncer"),
    ("job_name", "pgbouncer"),
    ("conffile", ""),
    ("so_reuseport", "0"),
    ("peer_id", "0"),
    ("stats_period", "60"),
    ("pool_mode", "session"),
    ("max_client_conn", "100"),
    ("default_pool_size", "20"),
    ("min_pool_size", "0"),
    ("reserve_pool_size", "0"),
    ("reserve_pool_timeout", "5"),
    ("max_db_connections", "0"),
    ("max_db_client_connections", "0"),
    ("max_user_connections", "0"),
    ("max_user_client_connections", "0"),
    ("server_round_robin", "0"),
    ("max_prepared_statements", "200"),
    ("track_extra_parameters", "IntervalStyle"),
    ("ignore_startup_parameters", ""),
    ("disable_pqexec", "0"),
    ("application_name_add_host", "0"),
    ("scram_iterations", "4096"),
    ("auth_type", "md5"),
    ("auth_file", ""),
    ("auth_hba_file", ""),
    ("auth_ident_file", ""),
    ("auth_user", ""),
    ("auth_query", super::schema::AUTH_QUERY),
    ("auth_dbname", ""),
    ("auth_ldap_options", ""),
    ("admin_users", ""),
    ("stats_users", ""),
    ("syslog", "0"),
    ("syslog_ident", "pgbouncer"),
    ("syslog_facility", "daemon"),
    ("log_connections", "1"),
    ("log_disconnections", "1"),
    ("log_pooler_errors", "1"),
    ("log_stats", "1"),
    ("verbose", "0"),
    ("login_notify_message", ""),
    ("server_reset_query", "DISCARD ALL"),
    ("server_reset_query_always", "0"),
    ("server_check_query", "<empty>"),
    ("server_check_delay", "30"),
    ("server_fast_close", "0"),
    ("server_lifetime", "3600"),
    ("server_idle_timeout", "600"),
    ("server_connect_timeout", "15"),
    ("server_login_retry", "15"),
    ("client_login_timeout", "60"),
    ("autodb_idle_timeout", "3600"),
    ("pool_idle_timeout", "0"),
    ("query_wait_timeout", "120"),
    ("query_wait_notify", "5"),
    ("cancel_wait_timeout", "10"),
    ("query_timeout", "0"),
    ("client_idle_timeout", "0"),
    ("idle_transaction_timeout", "0"),
    ("transaction_timeout", "0"),
    ("suspend_timeout", "10"),
    ("dns_max_ttl", "15"),
    ("dns_nxdomain_ttl", "15"),
    ("dns_zone_check_period", "0"),
    ("resolv_conf", ""),
    ("pkt_buf", "4096"),
    ("max_packet_size", "2147483647"),
    ("sbuf_loopcnt", "5"),
    ("tcp_defer_accept", "1"),
    ("tcp_socket_buffer", "0"),
    ("tcp_keepalive", "1"),
    ("tcp_keepcnt", "0"),
    ("tcp_keepidle", "0"),
    ("tcp_keepintvl", "0"),
    ("tcp_user_timeout", "0"),
    ("client_tls_sslmode", "disable"),
    ("client_tls_key_file", ""),
    ("client_tls_cert_file", ""),
    ("client_tls_ca_file", ""),
    ("client_tls_protocols", "secure"),
    ("client_tls_ciphers", "default"),
    ("client_tls13_ciphers", ""),
    ("client_tls_ecdhcurve", "auto"),
    ("client_tls_dheparams", "auto"),
    ("server_tls_sslmode", "prefer"),
    ("server_tls_key_file", ""),
    ("server_tls_cert_file", ""),
    ("server_tls_ca_file", ""),
    ("server_tls_protocols", "secure"),
    ("server_tls_ciphers", "default"),
    ("server_tls13_ciphers", ""),
];

/// Settings of a database's connection string.
const DATABASES: &[(&str, &str)] = &[
    ("dbname", ""),
    ("host", ""),
    ("port", "5432"),
    ("user", ""),
    ("password", ""),
    ("auth_user", ""),
    ("auth_query", ""),
    ("auth_dbname", ""),
    ("pool_size", ""),
    ("min_pool_size", ""),
    ("reserve_pool_size", ""),
    ("pool_mode", ""),
    ("max_db_connections", ""),
    ("max_db_client_connections", ""),
    ("server_lifetime", ""),
    ("query_wait_timeout", ""),
    ("load_balance_hosts", "round-robin"),
    ("connect_query", ""),
    ("client_encoding", ""),
    ("datestyle", ""),
    ("timezone", ""),
    ("application_name", ""),
];

/// Settings of `[users]`.
const USERS: &[(&str, &str)] = &[
    ("pool_mode", ""),
    ("pool_size", ""),
    ("reserve_pool_size", ""),
    ("max_user_connections", ""),
    ("max_user_client_connections", ""),
    ("query_timeout", ""),
    ("query_wait_timeout", ""),
    ("idle_transaction_timeout", ""),
    ("transaction_timeout", ""),
    ("client_idle_timeout", ""),
];
