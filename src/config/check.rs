//! Cross-checks: what contradicts itself is refused, what is unwise is a warning.
//!
//! Each rule looks at the whole configuration after every value was typed. It must not read
//! values itself and holds no precedence of its own.

use std::collections::BTreeMap;

use super::error::{Problem, WarningKind};
use super::faults::{Faults, Origin};
use super::keys::{Section, SectionPath};
use super::kinds::host::{ListenAddr, ServerHost};
use super::kinds::secret::{Password, PasswordKind};
use super::kinds::word::AuthType;
use super::raw::{RawConfig, RawTable};
use super::resolved::{Config, FALLBACK_DATABASE, is_console_database};
use super::schema::Database;

/// A warning before its place is known in lines and columns.
type Found = (Origin, WarningKind);

/// Refuses what cannot work.
pub(super) fn refuse(raw: &RawConfig, config: &Config, faults: &mut Faults) {
    let general = &config.general;
    if general.listen_addr.is_empty() && general.unix_socket_dir.is_none() {
        let at = raw.general.origin_of("listen_addr");
        faults.add(at, Problem::NothingToListenOn);
    }
    for (name, table) in &raw.databases {
        if is_console_database(name) {
            faults.add(table.at, Problem::ReservedDatabase(name.clone()));
        }
    }
    // An entry whose host was refused has had its say already: only a blank one is looked at.
    let blank = |table: &RawTable| general.unix_socket_dir.is_none() && table.is_blank("host");
    for table in raw.databases.values().filter(|table| blank(table)) {
        faults.add(table.at, Problem::NoHost(table.path.clone()));
    }
    if general.auth_type == AuthType::Hba && general.auth_hba_file.is_none() {
        faults.add(raw.general.origin_of("auth_type"), hba_needs_file());
    }
    auth_databases(raw, config, faults);
    let forces_none = |table: &RawTable| table.is_blank("user");
    if general.auth_type == AuthType::Any {
        for table in raw.databases.values().filter(|table| forces_none(table)) {
            faults.add(table.at, Problem::AnyNeedsUser(table.path.clone()));
        }
    }
    if let Some(table) = raw.users.get(FALLBACK_DATABASE) {
        faults.add(table.at, Problem::FallbackUser);
    }
    bad_names(Section::Databases, &raw.databases, faults);
    bad_names(Section::Users, &raw.users, faults);
}

/// Rules must be somewhere.
pub(super) fn hba_needs_file() -> Problem {
    let path = SectionPath { section: Section::General, name: None };
    Problem::RefusedValue { key: "auth_type", path, reason: "hba needs auth_hba_file" }
}

/// Users must be looked up in a database that there is.
fn auth_databases(raw: &RawConfig, config: &Config, faults: &mut Faults) {
    let of_all = config.general.auth_dbname.as_ref().map(|name| (&raw.general, name));
    let of_each = databases(config)
        .filter_map(|(name, entry)| Some((raw.databases.get(name)?, entry.auth_dbname.as_ref()?)));
    for (table, name) in of_all.into_iter().chain(of_each) {
        if config.database(name).is_none() {
            let at = table.origin_of("auth_dbname");
            let reason = "no database entry of that name";
            let path = table.path.clone();
            faults.add(at, Problem::RefusedValue { key: "auth_dbname", path, reason });
        }
    }
}

fn bad_names(section: Section, tables: &BTreeMap<String, RawTable>, faults: &mut Faults) {
    for (name, table) in tables {
        if name.is_empty() || name.contains('\0') {
            let path = SectionPath { section, name: Some(name.clone()) };
            faults.add(table.at, Problem::BadName(path));
        }
    }
}

/// Every entry of `[databases]`, the fallback last.
fn databases(config: &Config) -> impl Iterator<Item = (&str, &Database)> {
    let named = config.databases.named.iter().map(|(name, entry)| (name.as_str(), entry));
    let fallback = config.databases.fallback.as_ref().map(|entry| (FALLBACK_DATABASE, entry));
    named.chain(fallback)
}

/// Finds what is unwise, in the order of the file.
pub(super) fn warnings(raw: &RawConfig, config: &Config) -> Vec<Found> {
    let mut found = Vec::new();
    listening(raw, config, &mut found);
    console_users(raw, config, &mut found);
    for (name, entry) in databases(config) {
        if let Some(table) = raw.databases.get(name) {
            database(table, name, entry, config, &mut found);
        }
    }
    if databases(config).next().is_none() {
        found.push((Origin::File, WarningKind::NoDatabases));
    }
    for (name, table) in &raw.users {
        user(table, name, config, &mut found);
    }
    auth_users(raw, config, &mut found);
    lookup_anywhere(raw, config, &mut found);
    found.sort_by_key(|(origin, _)| *origin);
    found
}

fn listening(raw: &RawConfig, config: &Config, found: &mut Vec<Found>) {
    if !matches!(config.general.auth_type, AuthType::Trust | AuthType::Any) {
        return;
    }
    let local = |address: &ListenAddr| match address {
        ListenAddr::Any => false,
        ListenAddr::Ip(ip) => ip.is_loopback(),
        ListenAddr::Name(name) => name.eq_ignore_ascii_case("localhost"),
    };
    for address in config.general.listen_addr.iter().filter(|address| !local(address)) {
        let at = raw.general.origin_of("auth_type");
        found.push((at, WarningKind::TrustOnNetwork(address.clone())));
    }
}

fn console_users(raw: &RawConfig, config: &Config, found: &mut Vec<Found>) {
    let auth_type = config.general.auth_type;
    let needs_password =
        matches!(auth_type, AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256);
    if !needs_password || looks_users_up(config) {
        return;
    }
    let lists = [
        ("admin_users", &config.general.admin_users),
        ("stats_users", &config.general.stats_users),
    ];
    for (key, users) in lists {
        for user in users.iter().filter(|user| !config.users.is_known(user)) {
            let at = raw.general.origin_of(key);
            found.push((at, WarningKind::UnknownConsoleUser { key, user: user.clone() }));
        }
    }
}

/// Whether users may be known whom neither `[users]` nor `auth_file` names.
fn looks_users_up(config: &Config) -> bool {
    let of_any = databases(config).any(|(_, entry)| entry.auth_user.is_some());
    of_any || config.general.auth_user.is_some()
}

/// With `"*"`, strangers have the look-up go to databases of their choice.
fn lookup_anywhere(raw: &RawConfig, config: &Config, found: &mut Vec<Found>) {
    let Some(fallback) = &config.databases.fallback else { return };
    let is_said = fallback.auth_dbname.is_some() || config.general.auth_dbname.is_some();
    let looks_up = fallback.auth_user.is_some() || config.general.auth_user.is_some();
    if looks_up
        && !is_said
        && let Some(table) = raw.databases.get(FALLBACK_DATABASE)
    {
        found.push((table.at, WarningKind::LookupAnywhere));
    }
}

/// Whoever looks users up logs in with a password in clear text, or where none is asked for.
fn auth_users(raw: &RawConfig, config: &Config, found: &mut Vec<Found>) {
    let of_all = config.general.auth_user.as_ref().map(|user| (&raw.general, user));
    let of_each = databases(config)
        .filter_map(|(name, entry)| Some((raw.databases.get(name)?, entry.auth_user.as_ref()?)));
    for (table, user) in of_all.into_iter().chain(of_each) {
        let kind = config.users.password(user).map(Password::kind);
        if kind.is_some_and(|kind| kind != PasswordKind::Plain) {
            let at = table.origin_of("auth_user");
            found.push((at, WarningKind::AuthUserWithHash(user.clone())));
        }
    }
}

fn database(
    table: &RawTable,
    name: &str,
    entry: &Database,
    config: &Config,
    found: &mut Vec<Found>,
) {
    let database = name.to_owned();
    match &entry.user {
        None if entry.password.is_some() => {
            let at = table.origin_of("password");
            found.push((at, WarningKind::PasswordWithoutUser(database.clone())));
        }
        None => {}
        Some(user) => {
            let (database, user) = (database.clone(), user.clone());
            let at = table.origin_of("user");
            match config.forced_password(entry, &user).map(Password::kind) {
                None => {
                    found.push((at, WarningKind::ForcedUserWithoutPassword { database, user }));
                }
                Some(PasswordKind::ScramSha256) => {
                    found.push((at, WarningKind::ForcedUserWithVerifier { database, user }));
                }
                Some(PasswordKind::Plain | PasswordKind::Md5) => {}
            }
        }
    }
    let general = &config.general;
    let pool_size = entry.pool_size.unwrap_or(general.default_pool_size).get();
    let cap = entry.max_db_connections.unwrap_or(general.max_db_connections).get();
    if let (Some(pool_size), Some(max_db_connections)) = (pool_size, cap)
        && pool_size > max_db_connections
    {
        let at = table.origin_of("pool_size");
        let database = database.clone();
        found
            .push((at, WarningKind::PoolAboveDatabase { database, pool_size, max_db_connections }));
    }
    if points_at_itself(entry, config) {
        found.push((table.at, WarningKind::PointsAtItself(database)));
    }
}

/// Whether an entry's server is plainly pgbaton's own listener. Names are not resolved.
fn points_at_itself(entry: &Database, config: &Config) -> bool {
    let general = &config.general;
    if entry.port != general.listen_port {
        return false;
    }
    match &entry.host {
        None => true,
        Some(host) => host.each().iter().any(|host| is_own(host, config)),
    }
}

fn is_own(host: &ServerHost, config: &Config) -> bool {
    let general = &config.general;
    match host {
        ServerHost::SocketDir(dir) => general.unix_socket_dir.as_ref() == Some(dir),
        ServerHost::Ip(ip) => general.listen_addr.iter().any(|address| match address {
            ListenAddr::Any => ip.is_loopback(),
            ListenAddr::Ip(own) => own == ip || (own.is_unspecified() && ip.is_loopback()),
            ListenAddr::Name(_) => false,
        }),
        ServerHost::Name(host) => general.listen_addr.iter().any(|address| match address {
            ListenAddr::Any => host == "localhost",
            ListenAddr::Ip(own) => host == "localhost" && own.is_loopback(),
            ListenAddr::Name(own) => own == host,
        }),
        ServerHost::Several(_) => false,
    }
}

fn user(table: &RawTable, name: &str, config: &Config, found: &mut Vec<Found>) {
    let auth_type = config.general.auth_type;
    // Rules, certificates and look-ups let in users whom nothing here has a password of.
    let needs_password =
        matches!(auth_type, AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256);
    if !needs_password || looks_users_up(config) {
        return;
    }
    let user = name.to_owned();
    match config.users.password(name).map(Password::kind) {
        None => found.push((table.at, WarningKind::UserWithoutPassword { user, auth_type })),
        Some(PasswordKind::Md5) if auth_type == AuthType::ScramSha256 => {
            found.push((table.origin_of("password"), WarningKind::Md5UserUnderScram(user)));
        }
        Some(_) => {}
    }
}
