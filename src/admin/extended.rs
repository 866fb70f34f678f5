//! The console's prepared statements and portals, for drivers that speak nothing but the extended
//! query protocol.
//!
//! Pure: it keeps commands by name and reads the messages about them; it carries nothing out.
//! Commands take no parameters. What a client may keep is bounded.

use std::collections::HashMap;

use super::command::Command;
use super::reply::Format;
use crate::protocol::decode::{self, DecodeError, Target};
use crate::protocol::error::ErrorMessage;
use crate::protocol::sqlstate::SqlState;

/// Statements, and portals, that one console may have at a time.
const NAMES_MAX: usize = 100;

/// A command that is ready to be executed.
#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub(super) command: Command,
    /// How the columns are wanted: one for all, or one each; none is text.
    pub(super) formats: Vec<Format>,
}

/// What one console has prepared and bound.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
}

impl Prepared {
    /// Parse.
    pub(super) fn parse(&mut self, body: &[u8]) -> Result<(), ErrorMessage> {
        let message = decode::parse(body).map_err(malformed)?;
        let command = Command::parse(&String::from_utf8_lossy(message.query))?;
        if !message.name.is_empty() && self.statements.contains_key(message.name) {
            let name = String::from_utf8_lossy(message.name);
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(ErrorMessage::error(SqlState::DUPLICATE_PREPARED_STATEMENT, text));
        }
        insert(&mut self.statements, message.name, command)
    }

    /// Bind.
    pub(super) fn bind(&mut self, body: &[u8]) -> Result<(), ErrorMessage> {
        let malformed_bind = || protocol_violation("malformed Bind");
        let names = decode::bind(body, body.len()).map_err(malformed)?;
        let names = names.ok_or_else(malformed_bind)?;
        let (parameters, formats) =
            formats(&body[names.rest_offset..]).ok_or_else(malformed_bind)?;
        if parameters > 0 {
            return Err(protocol_violation("the console's commands take no parameters"));
        }
        let command = self.statement(names.statement)?.clone();
        insert(&mut self.portals, names.portal, Portal { command, formats })
    }

    /// The statement or portal that a Describe is about.
    pub(super) fn describe(&self, body: &[u8]) -> Result<(Target, Portal), ErrorMessage> {
        let message = decode::describe_or_close(body).map_err(malformed)?;
        let portal = match message.kind {
            Target::Portal => self.portal(message.name)?.clone(),
            Target::Statement => {
                Portal { command: self.statement(message.name)?.clone(), formats: Vec::new() }
            }
        };
        Ok((message.kind, portal))
    }

    /// The portal that an Execute is about. Its limit of rows is not kept: a table is small.
    pub(super) fn execute(&self, body: &[u8]) -> Result<Portal, ErrorMessage> {
        self.portal(decode::execute(body).map_err(malformed)?.portal).cloned()
    }

    /// Close. What does not exist may be closed.
    pub(super) fn close(&mut self, body: &[u8]) -> Result<(), ErrorMessage> {
        let message = decode::describe_or_close(body).map_err(malformed)?;
        match message.kind {
            Target::Statement => drop(self.statements.remove(message.name)),
            Target::Portal => drop(self.portals.remove(message.name)),
        }
        Ok(())
    }

    /// The end of the transaction that every Sync and every Query is here.
    pub(super) fn drop_portals(&mut self) {
        self.portals.clear();
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, ErrorMessage> {
        self.statements.get(name).ok_or_else(|| {
            let text =
                format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
            ErrorMessage::error(SqlState::INVALID_SQL_STATEMENT_NAME, text)
        })
    }

    fn portal(&self, name: &[u8]) -> Result<&Portal, ErrorMessage> {
        self.portals.get(name).ok_or_else(|| {
            let text = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
            ErrorMessage::error(SqlState::INVALID_CURSOR_NAME, text)
        })
    }
}

fn insert<T>(table: &mut HashMap<Vec<u8>, T>, name: &[u8], entry: T) -> Result<(), ErrorMessage> {
    if table.len() >= NAMES_MAX && !table.contains_key(name) {
        let text = format!("the console keeps at most {NAMES_MAX} names");
        return Err(ErrorMessage::error(SqlState::PROGRAM_LIMIT_EXCEEDED, text));
    }
    table.insert(name.to_vec(), entry);
    Ok(())
}

/// The number of parameters and the formats of the result, from what follows the names of a Bind.
fn formats(mut rest: &[u8]) -> Option<(usize, Vec<Format>)> {
    let parameter_formats = take_count(&mut rest)?;
    rest = rest.get(parameter_formats * 2..)?;
    let parameters = take_count(&mut rest)?;
    if parameters > 0 {
        return Some((parameters, Vec::new()));
    }
    let mut formats = Vec::new();
    for _ in 0..take_count(&mut rest)? {
        formats.push(match take_count(&mut rest)? {
            0 => Format::Text,
            1 => Format::Binary,
            _ => return None,
        });
    }
    rest.is_empty().then_some((0, formats))
}

fn take_count(rest: &mut &[u8]) -> Option<usize> {
    let (count, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(usize::from(u16::from_be_bytes(*count)))
}

fn malformed(error: DecodeError) -> ErrorMessage {
    ErrorMessage::error(error.sqlstate(), error.to_string())
}

fn protocol_violation(text: &str) -> ErrorMessage {
    ErrorMessage::error(SqlState::PROTOCOL_VIOLATION, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_body(name: &str, sql: &str) -> Vec<u8> {
        [name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat()
    }

    fn bind_body(portal: &str, statement: &str, rest: &[u8]) -> Vec<u8> {
        [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", rest].concat()
    }

    #[test]
    fn statements_and_portals_are_kept_by_name() {
        let mut prepared = Prepared::default();
        prepared.parse(&parse_body("s", "SHOW STATE")).unwrap();
        prepared.parse(&parse_body("", "RELOAD")).unwrap();
        prepared.parse(&parse_body("", "PAUSE")).unwrap();
        let again = prepared.parse(&parse_body("s", "RELOAD")).unwrap_err();
        assert_eq!(again.code, SqlState::DUPLICATE_PREPARED_STATEMENT);
        prepared.bind(&bind_body("p", "s", b"\0\0\0\0\0\x01\0\x01")).unwrap();
        prepared.bind(&bind_body("", "", b"\0\0\0\0\0\0")).unwrap();
        let portal = prepared.execute(b"p\0\0\0\0\0").unwrap();
        assert_eq!((portal.command.tag(), &portal.formats[..]), ("SHOW", &[Format::Binary][..]));
        assert_eq!(prepared.execute(b"\0\0\0\0\0").unwrap().command, Command::Pause(None));
        prepared.close(b"Ss\0").unwrap();
        prepared.close(b"Ss\0").unwrap();
        let gone = prepared.bind(&bind_body("", "s", b"\0\0\0\0\0\0")).unwrap_err();
        assert_eq!(gone.code, SqlState::INVALID_SQL_STATEMENT_NAME);
        assert_eq!(prepared.describe(b"Pp\0").unwrap().0, Target::Portal);
        prepared.drop_portals();
        let gone = prepared.execute(b"p\0\0\0\0\0").unwrap_err();
        assert_eq!(gone.code, SqlState::INVALID_CURSOR_NAME);
    }

    #[test]
    fn names_are_bounded_and_can_be_used_again() {
        let mut prepared = Prepared::default();
        for n in 0..NAMES_MAX {
            prepared.parse(&parse_body(&n.to_string(), "RELOAD")).unwrap();
        }
        let error = prepared.parse(&parse_body("one more", "RELOAD")).unwrap_err();
        assert_eq!(error.code, SqlState::PROGRAM_LIMIT_EXCEEDED);
        prepared.close(b"S7\0").unwrap();
        prepared.parse(&parse_body("one more", "RELOAD")).unwrap();
    }

    #[test]
    fn a_bind_with_parameters_or_cut_anywhere_is_refused() {
        let mut prepared = Prepared::default();
        prepared.parse(&parse_body("", "RELOAD")).unwrap();
        let whole = bind_body("", "", b"\0\x01\0\x01\0\0\0\x02\0\0\0\x01");
        prepared.bind(&whole).unwrap();
        for end in 0..whole.len() {
            assert!(prepared.bind(&whole[..end]).is_err(), "{end}");
        }
        for rest in [
            &b"\0\0\0\0\0\x01\0\x02"[..],
            b"\0\0\0\x01\0\0\0\x01x\0\0",
            b"\xff\xff\0\0\0\0",
            b"\0\0\0\0\0\0\0",
        ] {
            assert!(prepared.bind(&bind_body("", "", rest)).is_err(), "{rest:?}");
        }
    }
}
