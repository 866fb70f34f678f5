//! PgBouncer's connection strings: `app = "host=10.0.0.1 port=5432 dbname=x"`.
//!
//! Pairs of `key=value` parted by white space; a value with spaces stands in single quotes, and
//! a single quote inside is written twice. Invariant: once a string holds a password, nothing of
//! it is shown in an error, for an unquoted space lets a password spill into the next key.

use super::error::Problem;
use super::faults::{Faults, Origin};
use super::raw::RawTable;
use super::value::Value;

/// The pairs of a connection string as text.
///
/// # Errors
/// It cannot be read; the reason quotes nothing of it.
pub(super) fn split(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    let text_of = |value: Value| match value {
        Value::Text(text) => text.as_str().to_owned(),
        _ => unreachable!("BUG: a connection string holds texts only"),
    };
    Ok(pairs(text)?.into_iter().map(|pair| (pair.key, text_of(pair.value))).collect())
}

/// One pair.
struct Pair {
    key: String,
    value: Value,
}

/// Reads a connection string into the table of its database.
pub(super) fn fill(table: &mut RawTable, text: &str, at: Origin, faults: &mut Faults) {
    let path = table.path.clone();
    let refuse = |reason| Problem::ConnectionString { path: path.clone(), reason };
    let pairs = match pairs(text) {
        Ok(pairs) => pairs,
        Err(reason) => return faults.add(at, refuse(reason)),
    };
    let hidden = pairs.iter().any(|pair| pair.key == "password");
    for pair in pairs {
        match table.known(&pair.key) {
            Ok(key) => {
                if !table.set(key, pair.value, at, hidden) {
                    faults.add(at, refuse("a key of the connection string stands there twice"));
                }
            }
            Err(problem @ Problem::UnsupportedKey { .. }) => faults.add(at, problem),
            Err(_) if hidden => faults.add(
                at,
                refuse(
                    "unknown key in a connection string with a password; \
                     a password with spaces must stand in single quotes",
                ),
            ),
            Err(problem) => faults.add(at, problem),
        }
    }
}

/// Splits a connection string.
fn pairs(text: &str) -> Result<Vec<Pair>, &'static str> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let no_equals = "expected key=value pairs parted by spaces";
        let (key, after) = rest.split_once('=').ok_or(no_equals)?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '\'') {
            return Err(no_equals);
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push(Pair { key: key.to_owned(), value });
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// Takes a value, quoted or not, from the front of `text`; returns it and what follows.
fn value(text: &str) -> Result<(Value, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Ok((Value::text(value), rest));
    };
    let mut value = zeroize::Zeroizing::new(String::with_capacity(rest.len()));
    loop {
        let (piece, after) =
            rest.split_once('\'').ok_or("a single quote is opened and not closed")?;
        value.push_str(piece);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if after.is_empty() || after.starts_with(char::is_whitespace) => {
                return Ok((Value::Text(value), after));
            }
            None => return Err("a closing single quote must be followed by a space"),
        }
    }
}
