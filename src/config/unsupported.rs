//! PgBouncer 1.25's keys that pgbaton does not act on yet.
//!
//! They are refused, not ignored: an operator who sets one must learn that it has no effect.
//! Invariant: no name here is also a key of `schema` in the same section (tested).

use super::keys::Section;

/// Whether PgBouncer knows `key` in `section` and pgbaton does not.
pub(super) fn is_unsupported(section: Section, key: &str) -> bool {
    let keys = match section {
        Section::General => GENERAL,
        Section::Databases => DATABASES,
        Section::Users => USERS,
    };
    keys.contains(&key)
}

/// Keys of PgBouncer's `[pgbouncer]` section.
pub(super) const GENERAL: &[&str] = &[
    "application_name_add_host",
    "auth_ldap_options",
    "client_tls_dheparams",
    "conffile",
    "disable_pqexec",
    "dns_max_ttl",
    "dns_nxdomain_ttl",
    "dns_zone_check_period",
    "job_name",
    "log_stats",
    "max_packet_size",
    "peer_id",
    "pkt_buf",
    "query_wait_notify",
    "resolv_conf",
    "sbuf_loopcnt",
    "service_name",
    "so_reuseport",
    "stats_period",
    "suspend_timeout",
    "syslog",
    "syslog_facility",
    "syslog_ident",
    "tcp_defer_accept",
    "tcp_socket_buffer",
    "track_extra_parameters",
    "verbose",
];

/// Keys of PgBouncer's connection strings in `[databases]`.
pub(super) const DATABASES: &[&str] =
    &["application_name", "client_encoding", "datestyle", "load_balance_hosts", "timezone"];

/// Keys of PgBouncer's `[users]`.
pub(super) const USERS: &[&str] = &[];
