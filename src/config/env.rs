//! What the environment adds to the file, for containers.
//!
//! A variable wins over the file; an empty one counts as unset. Errors name the variable and,
//! for the URL, quote nothing of it. This file asks a closure, never the process's environment,
//! so that tests need no global state.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::error::Problem;
use super::faults::{Faults, Origin};
use super::keys::Section;
use super::raw::{RawConfig, RawTable};
use super::value::Value;

/// Variables that set one key of `[general]`.
pub(super) const GENERAL_VARIABLES: [(&str, &str); 5] = [
    ("PGBATON_LISTEN_ADDR", "listen_addr"),
    ("PGBATON_LISTEN_PORT", "listen_port"),
    ("PGBATON_WORKERS", "workers"),
    ("PGBATON_LOG_FORMAT", "log_format"),
    ("PGBATON_LOG_LEVEL", "log_level"),
];

/// The variable that defines a database and its user.
pub(super) const DATABASE_URL: &str = "PGBATON_DATABASE_URL";

/// Looks a variable up; `None` if it is unset.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Writes the environment's settings over those of the file.
pub(super) fn apply(raw: &mut RawConfig, env: Env<'_>, faults: &mut Faults) {
    for (variable, key) in GENERAL_VARIABLES {
        if let Some(text) = env(variable).filter(|text| !text.is_empty()) {
            raw.general.set(key, Value::text(text), Origin::Env(variable), false);
        }
    }
    let Some(url) = env(DATABASE_URL).filter(|url| !url.is_empty()) else {
        return;
    };
    let url = Zeroizing::new(url);
    match DatabaseUrl::parse(&url) {
        Ok(url) => url.apply(raw),
        Err(reason) => faults.add(Origin::Env(DATABASE_URL), Problem::DatabaseUrl(reason)),
    }
}

/// `postgres://user:password@host:port/database`, percent-decoded (RFC 3986).
struct DatabaseUrl {
    user: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
    host: Zeroizing<String>,
    port: Option<Zeroizing<String>>,
    dbname: Zeroizing<String>,
}

impl DatabaseUrl {
    fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = ["postgres://", "postgresql://"]
            .into_iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .ok_or("expected postgres://user:password@host:port/database")?;
        if rest.contains('#') {
            return Err("a # must be written as %23");
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        check_query(query)?;
        let (authority, dbname) =
            rest.split_once('/').ok_or("no database is named: end the URL with /NAME")?;
        if dbname.is_empty() {
            return Err("no database is named: end the URL with /NAME");
        }
        // A raw slash or at sign here is most likely one of the password.
        if dbname.contains(['/', '@']) {
            return Err("a / or @ in a user, password or name must be written as %2F or %40");
        }
        let (login, address) = match authority.rsplit_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let (user, password) = login.map_or(Ok((None, None)), parse_login)?;
        let (host, port) = split_port(address)?;
        Ok(Self {
            user,
            password,
            host: percent_decode(host)?,
            port: port.map(percent_decode).transpose()?,
            dbname: percent_decode(dbname)?,
        })
    }

    fn apply(self, raw: &mut RawConfig) {
        // Every value counts as a secret: a URL with an unescaped password falls apart in
        // places that nobody foresees.
        let at = Origin::Env(DATABASE_URL);
        let database = entry(&mut raw.databases, Section::Databases, self.dbname.as_str(), at);
        database.set("host", Value::Text(self.host), at, true);
        if let Some(port) = self.port {
            database.set("port", Value::Text(port), at, true);
        }
        let Some(user) = self.user else { return };
        let user = entry(&mut raw.users, Section::Users, user.as_str(), at);
        if let Some(password) = self.password {
            user.set("password", Value::Text(password), at, true);
        }
    }
}

/// The entry of this name, made if the file has none.
fn entry<'a>(
    entries: &'a mut BTreeMap<String, RawTable>,
    section: Section,
    name: &str,
    at: Origin,
) -> &'a mut RawTable {
    entries
        .entry(name.to_owned())
        .or_insert_with(|| RawTable::new(section, Some(name.to_owned()), at))
}

type Login = (Option<Zeroizing<String>>, Option<Zeroizing<String>>);

fn parse_login(login: &str) -> Result<Login, &'static str> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    if user.is_empty() {
        return Err("no user is named before the @");
    }
    let password = password.filter(|password| !password.is_empty());
    Ok((Some(percent_decode(user)?), password.map(percent_decode).transpose()?))
}

/// Splits `host:port`; an IPv6 address stands in brackets, which stay on.
fn split_port(address: &str) -> Result<(&str, Option<&str>), &'static str> {
    let (host, port) = if address.starts_with('[') {
        let end = address.find(']').ok_or("the [ of an IPv6 address is not closed")?;
        let (host, after) = address.split_at(end + 1);
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err("expected :port or / after the ] of an IPv6 address"),
        }
    } else {
        match address.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address must stand in brackets, as in [::1]:5432");
            }
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    Ok((host, port.filter(|port| !port.is_empty())))
}

/// Parameters would change how the server is reached, so none is dropped silently.
fn check_query(query: &str) -> Result<(), &'static str> {
    let harmless = |pair: &str| pair.is_empty() || pair == "sslmode=disable";
    if query.split('&').all(harmless) {
        return Ok(());
    }
    Err("no parameter after the ? is supported by this version of pgbaton but sslmode=disable")
}

pub(super) fn percent_decode(text: &str) -> Result<Zeroizing<String>, &'static str> {
    const BAD: &str = "a % must be followed by two hexadecimal digits";
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(hex_digit).ok_or(BAD);
        let (high, low) = (digit()?, digit()?);
        bytes.push(high * 16 + low);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "percent-encoding must be of UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
