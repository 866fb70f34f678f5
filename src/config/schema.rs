//! The tables of keys: every setting that takes effect in this version, and nothing else.
//!
//! The first paragraph above each line is the key's documentation everywhere: in `config::keys`,
//! in docs/CONFIG.md and in rustdoc. Names and defaults are PgBouncer 1.25's wherever the
//! meaning is equal. Adding a key here means adding it to config.toml and docs/CONFIG.md; a test
//! fails until both agree.

use ipnet::IpNet;
use std::path::PathBuf;
use std::time::Duration;

use super::diff::SettingChange;
use super::faults::Faults;
use super::keys::{KeyDefault, KeyInfo, RELOAD, RESTART, Section, SectionKeys, settings};
use super::kinds::duration::{Bare, Time};
use super::kinds::flag::Flag;
use super::kinds::host::{Host, ListenAddr, ListenAddrs, ServerHost, SocketDir};
use super::kinds::list::{NameList, Networks};
use super::kinds::number::{FileMode, Int, Limit, LimitUpTo};
use super::kinds::path::FilePath;
use super::kinds::secret::{Password, Secret};
use super::kinds::tls::{self, Picked};
use super::kinds::word::{
    AuthType, ClientSslMode, LoadBalance, LogFormat, LogLevel, PoolMode, ServerSslMode, Word,
};
use super::raw::RawTable;
use super::value::{AnyText, Kind, Maybe, Name, OffAtZero, OptionalName};

use KeyDefault::{Absent, Value};

/// Who may log in, and whose password holds.
pub(super) const AUTH_QUERY: &str = "\
    SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
    FROM pg_catalog.pg_authid WHERE rolname = $1 AND rolcanlogin";
/// A port, on either side.
const PORT: Int = Int { min: 1, max: 65_535 };
/// A cap on connections or waiters. The top is far above what a machine can hold.
const COUNT: LimitUpTo = LimitUpTo(COUNT_MAX);
const COUNT_MAX: u32 = 10_000_000;
/// A count of connections where 0 is none.
const COUNT_OR_NONE: Int = Int { min: 0, max: COUNT_MAX };
/// Whole seconds as the kernel takes them: a tcp keepalive time of at most 32767 seconds.
const KEEPALIVE: Time =
    Time { bare: Bare::Seconds, max: Duration::from_secs(32_767), whole_seconds: true };
/// The kernel's unit and largest value of TCP_USER_TIMEOUT, rounded down to a day.
const USER_TIMEOUT: Time =
    Time { bare: Bare::Millis, max: Duration::from_secs(24 * 86_400), whole_seconds: false };

settings! {
    /// `[general]`: what holds for the whole process, and what the other sections inherit.
    pub struct General in Section::General;

    /// Addresses to accept TCP connections on. `*` is every interface; empty is unix socket only.
    listen_addr: Vec<ListenAddr> = Value("127.0.0.1"), RESTART, ListenAddrs;
    /// TCP port, and the number in the name of the unix socket.
    listen_port: u16 = Value("6432"), RESTART, PORT;
    /// Connections that the kernel may queue before they are accepted.
    listen_backlog: u32 = Value("128"), RESTART, Int { min: 1, max: 65_535 };
    /// Networks of load balancers that say in the PROXY protocol (v1, v2) whom they speak for.
    proxy_protocol_from: Vec<IpNet> = Value(""), RELOAD, Networks;
    /// Directory of the unix socket, and of servers whose `host` is empty.
    unix_socket_dir: Option<PathBuf> = Value("/tmp"), RESTART, SocketDir;
    /// Permissions of the unix socket file.
    unix_socket_mode: u32 = Value("0777"), RESTART, FileMode;
    /// Group of the unix socket file, by name.
    unix_socket_group: Option<String> = Value(""), RESTART, OptionalName;
    /// The user to become when started as root, by name; root without it is refused.
    user: Option<String> = Value(""), RESTART, OptionalName;
    /// File to write the process id to; removed at the end.
    pidfile: Option<PathBuf> = Value(""), RESTART, FilePath;
    /// Worker threads. 0 is one per core.
    workers: Option<usize> = Value("0"), RESTART, OffAtZero(Int { min: 0, max: 1024 });

    /// When a server connection goes back to its pool.
    pool_mode: PoolMode = Value("session"), RELOAD, Word;
    /// Client connections that are let in; the console is exempt.
    max_client_conn: usize = Value("100"), RELOAD, Int { min: 1, max: COUNT_MAX };
    /// Server connections of one pool, which is one user on one database.
    default_pool_size: Limit = Value("20"), RELOAD, COUNT;
    /// Server connections that a pool with clients keeps open, also when nothing is to be done.
    min_pool_size: usize = Value("0"), RELOAD, COUNT_OR_NONE;
    /// Server connections of one pool beyond its size, for clients that have waited
    /// `reserve_pool_timeout`.
    reserve_pool_size: usize = Value("0"), RELOAD, COUNT_OR_NONE;
    /// Wait of a client after which it may have a connection of the reserve. 0 is no reserve.
    reserve_pool_timeout: Option<Duration> = Value("5"), RELOAD, OffAtZero(Time::SECONDS);
    /// Server connections of one database, over all its users.
    max_db_connections: Limit = Value("0"), RELOAD, COUNT;
    /// Client connections of one database.
    max_db_client_connections: Limit = Value("0"), RELOAD, COUNT;
    /// Server connections of one user, over all databases.
    max_user_connections: Limit = Value("0"), RELOAD, COUNT;
    /// Client connections of one user, over all databases.
    max_user_client_connections: Limit = Value("0"), RELOAD, COUNT;
    /// Use the server connection that rested longest instead of the one used last.
    server_round_robin: bool = Value("0"), RELOAD, Flag;
    /// Server connections that one pool opens at the same time.
    max_connecting_per_pool: usize = Value("4"), RELOAD, Int { min: 1, max: 10_000 };
    /// Server connections that all pools together open at the same time to one PostgreSQL.
    max_connecting_per_server: usize = Value("16"), RELOAD, Int { min: 1, max: 10_000 };
    /// Clients of one pool that may wait for a server connection; more are turned away.
    max_waiting_clients: Limit = Value("0"), RELOAD, COUNT;

    /// How clients prove who they are. With md5, users stored as SCRAM verifiers use SCRAM.
    auth_type: AuthType = Value("md5"), RELOAD, Word;
    /// Iterations of the SCRAM verifiers that are made of passwords in clear text.
    scram_iterations: u32 = Value("4096"), RELOAD, Int { min: 1, max: 100_000 };
    /// File of users and secrets in the form of PgBouncer's userlist.txt. `[users.NAME]` wins over it.
    auth_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// File of rules in the form of pg_hba.conf, for `auth_type` hba.
    auth_hba_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// File of maps in the form of pg_ident.conf, for rules that name one.
    auth_ident_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// Role that looks up users whom neither `[users]` nor `auth_file` names. Empty is none.
    auth_user: Option<String> = Value(""), RELOAD, OptionalName;
    /// Query by which `auth_user` does so: it gives name and secret of the user `$1`.
    auth_query: String = Value(AUTH_QUERY), RELOAD, AnyText;
    /// Database entry in which `auth_query` runs. Empty is that which the client asks for.
    auth_dbname: Option<String> = Value(""), RELOAD, OptionalName;
    /// Time for which a user that `auth_query` has found need not be looked up again.
    auth_query_ttl: Duration = Value("0"), RELOAD, Time::SECONDS;
    /// The same for a user that it has not found.
    auth_query_negative_ttl: Duration = Value("1"), RELOAD, Time::SECONDS;
    /// Users who may do everything on the console.
    admin_users: Vec<String> = Value(""), RELOAD, NameList;
    /// Users who may only look at the console.
    stats_users: Vec<String> = Value(""), RELOAD, NameList;

    /// Whether clients get TLS: `allow`, `prefer` if they ask, `require` over TCP always, `verify-*` with
    /// a certificate of theirs.
    client_tls_sslmode: ClientSslMode = Value("disable"), RELOAD, Word;
    /// The certificate that clients are shown, with those between it and its CA, in PEM form.
    client_tls_cert_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// The private key of that certificate, in PEM form and without a passphrase.
    client_tls_key_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// Certificates that are trusted to vouch for clients', in PEM form. With it clients are asked for
    /// one.
    client_tls_ca_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// Versions of TLS for clients.
    client_tls_protocols: Picked = Value("secure"), RELOAD, tls::VERSIONS;
    /// Cipher suites of TLS 1.2 for clients.
    client_tls_ciphers: Picked = Value("default"), RELOAD, tls::CIPHERS;
    /// Cipher suites of TLS 1.3 for clients; empty is all.
    client_tls13_ciphers: Picked = Value(""), RELOAD, tls::CIPHERS_13;
    /// Curves on which keys are exchanged with clients.
    client_tls_ecdhcurve: Picked = Value("auto"), RELOAD, tls::CURVES;
    /// Use TLS towards servers: `allow` and `prefer` if they have it, the others always. Only
    /// `verify-ca` and `verify-full` look at certificates.
    server_tls_sslmode: ServerSslMode = Value("prefer"), RELOAD, Word;
    /// Certificates that are trusted to vouch for servers', in PEM form.
    server_tls_ca_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// The certificate that servers are shown if they ask for one, in PEM form.
    server_tls_cert_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// The private key of that certificate, in PEM form and without a passphrase.
    server_tls_key_file: Option<PathBuf> = Value(""), RELOAD, FilePath;
    /// Versions of TLS for servers.
    server_tls_protocols: Picked = Value("secure"), RELOAD, tls::VERSIONS;
    /// Cipher suites of TLS 1.2 for servers.
    server_tls_ciphers: Picked = Value("default"), RELOAD, tls::CIPHERS;
    /// Cipher suites of TLS 1.3 for servers; empty is all.
    server_tls13_ciphers: Picked = Value(""), RELOAD, tls::CIPHERS_13;

    /// Longest wait for a server connection, then the client is disconnected. 0 waits for ever.
    query_wait_timeout: Option<Duration> = Value("120"), RELOAD, OffAtZero(Time::SECONDS);
    /// Wait for a server connection after which the client is told that it waits. 0 is never.
    query_wait_notify: Option<Duration> = Value("5"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest time a client may be idle without a server connection. 0 is no limit.
    client_idle_timeout: Option<Duration> = Value("0"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest time a client may be idle in a transaction; it is rolled back then. 0 is no limit.
    idle_transaction_timeout: Option<Duration> = Value("0"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest time a transaction may take; it is rolled back then. 0 is no limit.
    transaction_timeout: Option<Duration> = Value("0"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest time until a request is answered; it is cancelled then and its client disconnected.
    /// 0 is no limit.
    query_timeout: Option<Duration> = Value("0"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest time a client may take to log in. 0 is no limit.
    client_login_timeout: Option<Duration> = Value("60"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest time to connect and log in to a server. 0 is no limit.
    server_connect_timeout: Option<Duration> = Value("15"), RELOAD, OffAtZero(Time::SECONDS);
    /// Pause after a failed login to a server before the next attempt.
    server_login_retry: Duration = Value("15"), RELOAD, Time::SECONDS;
    /// Age at which a server connection is closed when it is next free, not all of a pool at once.
    /// 0 closes it after one use.
    server_lifetime: Duration = Value("3600"), RELOAD, Time::SECONDS;
    /// Rest after which a server connection is closed, down to `min_pool_size`. 0 is no limit.
    server_idle_timeout: Option<Duration> = Value("600"), RELOAD, OffAtZero(Time::SECONDS);
    /// Time after which a pool without clients and server connections is forgotten. 0 is never.
    pool_idle_timeout: Option<Duration> = Value("0"), RELOAD, OffAtZero(Time::SECONDS);
    /// The same for pools of databases that have no entry of their own. 0 is never.
    autodb_idle_timeout: Option<Duration> = Value("3600"), RELOAD, OffAtZero(Time::SECONDS);
    /// Longest wait of a cancel request for its connection. 0 waits for ever.
    cancel_wait_timeout: Option<Duration> = Value("10"), RELOAD, OffAtZero(Time::SECONDS);
    /// Time that running transactions get to finish after SIGTERM. 0 waits for ever.
    shutdown_timeout: Option<Duration> = Value("60"), RELOAD, OffAtZero(Time::SECONDS);
    /// Time that a server whose client vanished gets for cancel, ROLLBACK and reset, then it is
    /// closed. 0 closes it at once.
    client_cleanup_timeout: Duration = Value("5"), RELOAD, Time::SECONDS;

    /// Query that cleans a server before its next client. Session mode only; empty is none.
    server_reset_query: String = Value("DISCARD ALL"), RELOAD, AnyText;
    /// Run `server_reset_query` in every pool mode.
    server_reset_query_always: bool = Value("0"), RELOAD, Flag;
    /// Query that asks a server that has rested whether it is still there. `<empty>` is an empty
    /// query; an empty text is none.
    server_check_query: String = Value("<empty>"), RELOAD, AnyText;
    /// Rest after which a server is asked before it is used. 0 always asks.
    server_check_delay: Duration = Value("30"), RELOAD, Time::SECONDS;
    /// In session mode, do not wait for the client's end to close a server whose settings changed:
    /// close both after the transaction.
    server_fast_close: bool = Value("0"), RELOAD, Flag;
    /// Named prepared statements kept on each server connection. 0 turns the support off.
    max_prepared_statements: usize = Value("200"), RELOAD, Int { min: 0, max: 1_000_000 };
    /// Bytes that the texts of all clients' prepared statements may take; beyond it new ones are
    /// refused with 53200.
    max_prepared_statement_bytes: usize = Value("268435456"), RELOAD, Int { min: 1, max: u32::MAX };
    /// Startup parameters that are accepted and dropped instead of refused.
    ignore_startup_parameters: Vec<String> = Value(""), RELOAD, NameList;
    /// Put the client's address behind the `application_name` that it logs in with.
    application_name_add_host: bool = Value("0"), RELOAD, Flag;
    /// A notice that each client gets when it has logged in. Empty is none.
    login_notify_message: String = Value(""), RELOAD, AnyText;

    /// Time for which the addresses of a host name are remembered.
    dns_max_ttl: Duration = Value("15"), RELOAD, Time::SECONDS;
    /// Time for which it is remembered that a host name has no address.
    dns_nxdomain_ttl: Duration = Value("15"), RELOAD, Time::SECONDS;

    /// Turn on TCP keepalive for client and server connections.
    tcp_keepalive: bool = Value("1"), RELOAD, Flag;
    /// Unanswered keepalive probes before a connection is dead. 0 is the system's choice.
    tcp_keepcnt: Option<u32> = Value("0"), RELOAD, OffAtZero(Int { min: 0, max: 127 });
    /// Silence before the first keepalive probe. 0 is the system's choice.
    tcp_keepidle: Option<Duration> = Value("0"), RELOAD, OffAtZero(KEEPALIVE);
    /// Pause between keepalive probes. 0 is the system's choice.
    tcp_keepintvl: Option<Duration> = Value("0"), RELOAD, OffAtZero(KEEPALIVE);
    /// Longest time sent data may stay unacknowledged; a bare number counts milliseconds. 0 is
    /// the system's choice.
    tcp_user_timeout: Option<Duration> = Value("0"), RELOAD, OffAtZero(USER_TIMEOUT);
    /// Bytes that the kernel may buffer per connection and direction. 0 is the system's choice.
    tcp_socket_buffer: Option<u32> = Value("0"), RELOAD, OffAtZero(Int { min: 0, max: 1 << 30 });

    /// Log each login of a client and each connection to a server.
    log_connections: bool = Value("1"), RELOAD, Flag;
    /// Log each disconnection with its reason.
    log_disconnections: bool = Value("1"), RELOAD, Flag;
    /// Log each error that pgbaton itself sends to a client.
    log_pooler_errors: bool = Value("1"), RELOAD, Flag;
    /// File to log to, beside standard error. It is opened anew at each reload.
    logfile: Option<PathBuf> = Value(""), RESTART, FilePath;
    /// Log lines for people, or one JSON object a line.
    log_format: LogFormat = Value("text"), RESTART, Word;
    /// The least important lines that are still logged.
    log_level: LogLevel = Value("info"), RELOAD, Word;
}

settings! {
    /// `[databases.NAME]`: one name that clients may ask for, or `"*"` for all others.
    pub struct Database in Section::Databases;

    /// Server to connect to, or several. A value that starts with `/` is a socket directory.
    host: Option<ServerHost> = Absent("`unix_socket_dir`"), RELOAD, Host;
    /// Which of several hosts is tried first: the next one in turn, or that which was reached last.
    load_balance_hosts: LoadBalance = Value("round-robin"), RELOAD, Word;
    /// Port of the server, also part of its unix socket's name.
    port: u16 = Value("5432"), RELOAD, PORT;
    /// Name of the database on the server.
    dbname: Option<String> = Absent("the name asked for"), RELOAD, Maybe(Name);
    /// Log in to the server as this user, whoever the client is: one pool for all clients.
    user: Option<String> = Absent("the client's user"), RELOAD, Maybe(Name);
    /// Password of `user` at the server.
    password: Option<Password> = Absent("that of `[users.NAME]`"), RELOAD, Maybe(Secret);
    /// Server connections of each pool of this database. 0 is no limit.
    pool_size: Option<Limit> = Absent("`default_pool_size`"), RELOAD, Maybe(COUNT);
    /// Server connections that each pool of this database keeps open.
    min_pool_size: Option<usize> = Absent("`min_pool_size` of `[general]`"), RELOAD,
        Maybe(COUNT_OR_NONE);
    /// Server connections of each pool beyond its size, for clients that wait long.
    reserve_pool_size: Option<usize> = Absent("`reserve_pool_size` of `[general]`"), RELOAD,
        Maybe(COUNT_OR_NONE);
    /// When a server connection goes back to its pool.
    pool_mode: Option<PoolMode> = Absent("`pool_mode` of `[general]`"), RELOAD, Maybe(Word);
    /// Server connections of this database, over all its users. 0 is no limit.
    max_db_connections: Option<Limit> = Absent("`max_db_connections` of `[general]`"), RELOAD,
        Maybe(COUNT);
    /// Client connections of this database. 0 is no limit.
    max_db_client_connections: Option<Limit> =
        Absent("`max_db_client_connections` of `[general]`"), RELOAD, Maybe(COUNT);
    /// Age at which a server connection of this database is closed. 0 closes it after one use.
    server_lifetime: Option<Duration> = Absent("`server_lifetime` of `[general]`"), RELOAD,
        Maybe(Time::SECONDS);
    /// Query that each server connection runs after its login, before clients use it. If it fails,
    /// that is logged and nothing more.
    connect_query: Option<String> = Absent("none"), RELOAD, Maybe(AnyText);
    /// `client_encoding` that its server connections begin with.
    client_encoding: Option<String> = Absent("the server's"), RELOAD, Maybe(Name);
    /// `DateStyle` that its server connections begin with.
    datestyle: Option<String> = Absent("the server's"), RELOAD, Maybe(Name);
    /// `TimeZone` that its server connections begin with.
    timezone: Option<String> = Absent("the server's"), RELOAD, Maybe(Name);
    /// `application_name` that its server connections begin with.
    application_name: Option<String> = Absent("none"), RELOAD, Maybe(Name);
    /// Role that looks users of this database up.
    auth_user: Option<String> = Absent("`auth_user` of `[general]`"), RELOAD, Maybe(Name);
    /// Query by which it does so.
    auth_query: Option<String> = Absent("`auth_query` of `[general]`"), RELOAD, Maybe(AnyText);
    /// Database entry in which it does so.
    auth_dbname: Option<String> = Absent("`auth_dbname` of `[general]`"), RELOAD, Maybe(Name);
    /// Longest wait for a server connection of this database. 0 waits for ever.
    query_wait_timeout: Option<Option<Duration>> = Absent("`query_wait_timeout` of `[general]`"),
        RELOAD, Maybe(OffAtZero(Time::SECONDS));
}

settings! {
    /// `[users.NAME]`: one user who may log in, and what differs for that user.
    pub struct User in Section::Users;

    /// The secret for checking the client, and for logging in to servers as this user.
    password: Option<Password> = Absent("none: cannot log in"), RELOAD, Maybe(Secret);
    /// When a server connection goes back to its pool.
    pool_mode: Option<PoolMode> = Absent("that of the database"), RELOAD, Maybe(Word);
    /// Server connections of each pool of this user. 0 is no limit.
    pool_size: Option<Limit> = Absent("that of the database"), RELOAD, Maybe(COUNT);
    /// Server connections of each pool of this user beyond its size.
    reserve_pool_size: Option<usize> = Absent("that of the database"), RELOAD,
        Maybe(COUNT_OR_NONE);
    /// Server connections of this user, over all databases. 0 is no limit.
    max_user_connections: Option<Limit> = Absent("`max_user_connections` of `[general]`"), RELOAD,
        Maybe(COUNT);
    /// Client connections of this user, over all databases. 0 is no limit.
    max_user_client_connections: Option<Limit> =
        Absent("`max_user_client_connections` of `[general]`"), RELOAD, Maybe(COUNT);
    /// Longest wait of this user for a server connection. 0 waits for ever.
    query_wait_timeout: Option<Option<Duration>> = Absent("that of the database"), RELOAD,
        Maybe(OffAtZero(Time::SECONDS));
    /// Longest time a client of this user may be idle without a server connection. 0 is no limit.
    client_idle_timeout: Option<Option<Duration>> = Absent("`client_idle_timeout` of `[general]`"),
        RELOAD, Maybe(OffAtZero(Time::SECONDS));
    /// Longest time this user may be idle in a transaction. 0 is no limit.
    idle_transaction_timeout: Option<Option<Duration>> =
        Absent("`idle_transaction_timeout` of `[general]`"), RELOAD,
        Maybe(OffAtZero(Time::SECONDS));
    /// Longest time a transaction of this user may take. 0 is no limit.
    transaction_timeout: Option<Option<Duration>> = Absent("`transaction_timeout` of `[general]`"),
        RELOAD, Maybe(OffAtZero(Time::SECONDS));
    /// Longest time until a request of this user is answered. 0 is no limit.
    query_timeout: Option<Option<Duration>> = Absent("`query_timeout` of `[general]`"), RELOAD,
        Maybe(OffAtZero(Time::SECONDS));
}
