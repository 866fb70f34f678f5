//! Walking over a client's requests: what goes to the server, under which names, and what it will
//! owe for it.
//!
//! Only message heads are read, but for the few messages that carry a prepared statement's name.
//! Those are renamed to the server's name for the statement, and a Parse is put in front where the
//! server does not know it. Everything else passes as it is.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::statements::ClientStatements;
use crate::protocol::decode::{self, DecodeError, Target};
use crate::protocol::encode::{self, EncodeError};
use crate::protocol::error::ErrorMessage;
use crate::protocol::frame::{self, FrameError, HEADER_LEN, Header};
use crate::protocol::ledger::{Expects, Owed};
use crate::protocol::rewrite;
use crate::protocol::splice::Splice;
use crate::protocol::sqlstate::SqlState;
use crate::server::{INSPECT_BYTES_MAX, Server, Statement, StatementStore, server_name};

/// A Parse message longer than this is refused: it has to be held in memory as a whole.
pub const PARSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The client's side of a walk.
#[derive(Debug)]
pub struct Requests<'a> {
    /// The shared store.
    pub store: &'a StatementStore,
    /// `max_prepared_statements`; `None` leaves names alone.
    pub statements_max: Option<NonZeroUsize>,
    /// Who asks.
    pub client_id: u64,
    /// The client's names, made when needed.
    pub names: &'a mut Option<Box<ClientStatements>>,
    /// Bytes still to come of a message that is passing through in pieces.
    pub streaming_left: &'a mut usize,
}

/// A walk's result.
#[derive(Debug)]
pub struct Walked<'a> {
    /// What the server gets.
    pub bytes: &'a [u8],
    /// How much of the input has been dealt with; the rest is the head of a message.
    pub consumed: usize,
    /// Why the walk ended early, if it did.
    pub stop: Option<Stop>,
}

/// The end of a client's requests.
#[derive(Debug)]
pub enum Stop {
    /// Terminate.
    Terminate,
    /// The client's bytes make no sense; what came before them is good.
    Fault(RequestFault),
}

/// Why a client's bytes make no sense. The client is told and disconnected.
#[derive(Debug, thiserror::Error)]
pub enum RequestFault {
    /// A malformed head.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A malformed body.
    #[error(transparent)]
    Body(#[from] DecodeError),
    /// A message that would be too long under its new name.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A Parse beyond [`PARSE_BYTES_MAX`].
    #[error("prepared statement is longer than {PARSE_BYTES_MAX} bytes")]
    ParseTooLong,
}

/// What an idle client's first bytes are.
#[derive(Debug)]
pub enum First {
    /// Not a whole head, or a short message that is not whole.
    Incomplete,
    /// Something for a server.
    Request,
    /// COPY data that comes after its COPY has failed, or a Flush: ignored, as by PostgreSQL.
    Stray(Header),
    /// Terminate.
    Terminate,
    /// Nonsense.
    Fault(RequestFault),
}

/// Looks at the first message without a server.
pub fn first(input: &[u8]) -> First {
    match frame::frontend_header(input) {
        Ok(None) => First::Incomplete,
        Ok(Some(Header { tag: b'X', .. })) => First::Terminate,
        Ok(Some(header @ Header { tag: b'd' | b'c' | b'f' | b'H', .. })) => First::Stray(header),
        Ok(Some(header)) if input.len() < header.len && must_be_whole(header) => {
            if header.tag == b'P' && header.len > PARSE_BYTES_MAX {
                return First::Fault(RequestFault::ParseTooLong);
            }
            First::Incomplete
        }
        Ok(Some(_)) => First::Request,
        Err(e) => First::Fault(e.into()),
    }
}

/// Whether `input`, which begins at a message, ends with a whole Terminate.
pub fn ends_with_terminate(mut input: &[u8]) -> bool {
    while let Ok(Some(header)) = frame::frontend_header(input) {
        let Some(rest) = input.get(header.len..) else { return false };
        if header.tag == b'X' {
            return true;
        }
        input = rest;
    }
    false
}

/// Whether a message is held back until it is whole: short ones, so that a slow client does not
/// keep a server waiting, and every Parse, since its text is the statement's identity.
const fn must_be_whole(header: Header) -> bool {
    header.len <= INSPECT_BYTES_MAX || header.tag == b'P'
}

/// Walks over `input`, which begins at a message or inside the one that is streaming, entering
/// into the server's ledger what it will owe.
pub fn walk<'a>(
    requests: &mut Requests<'_>,
    server: &mut Server,
    splice: Splice<'a>,
    input: &'a [u8],
) -> Walked<'a> {
    let mut splice = splice;
    let mut at = 0;
    let stop = loop {
        if *requests.streaming_left > 0 {
            let taken = (*requests.streaming_left).min(input.len() - at);
            *requests.streaming_left -= taken;
            at += taken;
            if *requests.streaming_left > 0 {
                break None;
            }
        }
        let rest = &input[at..];
        let header = match frame::frontend_header(rest) {
            Ok(Some(header)) => header,
            Ok(None) => break None,
            Err(e) => break Some(Stop::Fault(e.into())),
        };
        if header.tag == b'X' {
            break Some(Stop::Terminate);
        }
        if rest.len() < header.len && must_be_whole(header) {
            if header.tag == b'P' && header.len > PARSE_BYTES_MAX {
                break Some(Stop::Fault(RequestFault::ParseTooLong));
            }
            break None;
        }
        let taken = header.len.min(rest.len());
        if let Err(fault) = requests.enter(server, &mut splice, at, header, &rest[..taken]) {
            break Some(Stop::Fault(fault));
        }
        *requests.streaming_left = header.len - taken;
        at += taken;
    };
    Walked { bytes: splice.finish(at), consumed: at, stop }
}

/// One message of the input, or as much of a long one as has come.
#[derive(Clone, Copy)]
struct Seen<'f> {
    /// Its place in the input.
    at: usize,
    header: Header,
    frame: &'f [u8],
    /// Statements that the server may keep.
    limit: NonZeroUsize,
}

impl Seen<'_> {
    fn body(&self) -> &[u8] {
        self.frame.get(HEADER_LEN..).unwrap_or_default()
    }

    const fn end(&self) -> usize {
        self.at + self.frame.len()
    }
}

impl Requests<'_> {
    /// Enters one message into the ledger and renames its statement.
    fn enter(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        at: usize,
        header: Header,
        frame: &[u8],
    ) -> Result<(), RequestFault> {
        let expects = match header.tag {
            b'Q' => Expects::Query,
            b'S' => Expects::Sync,
            b'E' => Expects::Execute,
            b'F' => Expects::FunctionCall,
            b'c' | b'f' => Expects::CopyEnd,
            b'd' | b'H' => return Ok(()),
            b'P' => Expects::Parse,
            b'B' => Expects::Bind,
            b'D' => Expects::Describe,
            b'C' => Expects::Close,
            // PasswordMessage has no place after the login; frontend_header knows all others.
            tag => return Err(FrameError::UnknownTag(tag).into()),
        };
        let may_have_name = matches!(header.tag, b'P' | b'B' | b'D' | b'C');
        let is_dead = server.ledger.is_skipping() || server.ledger.in_copy_in();
        if let Some(limit) = self.statements_max.filter(|_| may_have_name && !is_dead) {
            let seen = Seen { at, header, frame, limit };
            let entered = match header.tag {
                b'P' => self.parse(server, splice, seen),
                b'B' => self.bind(server, splice, seen),
                b'D' => self.describe(server, splice, seen),
                _ => self.close(server, splice, seen),
            };
            match entered {
                // What is malformed goes on as it is: the server's error is the client's.
                Err(RequestFault::Body(_)) if header.len == frame.len() => {}
                other => return other,
            }
        }
        server.ledger.push(Owed::client(expects));
        Ok(())
    }

    fn parse(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<(), RequestFault> {
        let parse = decode::parse(seen.body())?;
        if parse.name.is_empty() {
            server.unnamed_of = self.client_id;
            server.ledger.push(Owed::client(Expects::Parse));
            return Ok(());
        }
        let names = self.names.get_or_insert_default();
        if names.find(parse.name).is_some() {
            // The error must come from the server, so that it fails the transaction too: a Bind
            // that cannot succeed takes the Parse's place, and its error's text is replaced.
            let name = String::from_utf8_lossy(parse.name);
            server.refusals.push_back(ErrorMessage::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
            server.ledger.push(Owed::client(Expects::Refused));
            encode::bind_no_parameters(splice.replace(seen.at, seen.end()), REFUSED_NAME)?;
            return Ok(());
        }
        let statement = self.store.intern(parse.query, parse.parameter_types);
        let id = statement.id();
        names.insert(parse.name, statement.clone());
        if server.statements.touch(id) {
            server.ledger.push(Owed::client(Expects::LocalParse).keyed(id));
            splice.skip(seen.at, seen.end());
            return Ok(());
        }
        let out = splice.replace(seen.at, seen.end());
        make_room(server, statement, seen.limit, out)?;
        let name = server_name(id);
        encode::parse(out, name.as_bytes(), parse.query, parse.parameter_types)?;
        server.ledger.push(Owed::client(Expects::Parse).keyed(id));
        Ok(())
    }

    fn bind(
        &self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<(), RequestFault> {
        let body = seen.body();
        let bind = decode::bind(body, seen.header.body_len())?.ok_or(DecodeError::Truncated)?;
        if self.is_strangers(server, bind.statement) {
            let out = splice.insert(seen.at);
            let rest = rewrite::bind(out, seen.header, &bind, REFUSED_NAME)?;
            splice.skip(seen.at, seen.at + rest);
            refuse_unnamed(server);
            return Ok(());
        }
        if let Some(id) = self.make_known(server, splice, seen, bind.statement)? {
            let out = splice.insert(seen.at);
            let rest = rewrite::bind(out, seen.header, &bind, server_name(id).as_bytes())?;
            splice.skip(seen.at, seen.at + rest);
        }
        server.ledger.push(Owed::client(Expects::Bind));
        Ok(())
    }

    fn describe(
        &self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<(), RequestFault> {
        let target = decode::describe_or_close(seen.body())?;
        if target.kind == Target::Statement && self.is_strangers(server, target.name) {
            encode::describe_statement(splice.replace(seen.at, seen.end()), REFUSED_NAME)?;
            refuse_unnamed(server);
            return Ok(());
        }
        if target.kind == Target::Statement
            && let Some(id) = self.make_known(server, splice, seen, target.name)?
        {
            let out = splice.replace(seen.at, seen.end());
            encode::describe_statement(out, server_name(id).as_bytes())?;
        }
        server.ledger.push(Owed::client(Expects::Describe));
        Ok(())
    }

    fn close(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<(), RequestFault> {
        let target = decode::describe_or_close(seen.body())?;
        if target.kind == Target::Portal || target.name.is_empty() {
            server.ledger.push(Owed::client(Expects::Close));
            return Ok(());
        }
        // The server keeps its copy for others; this client's name is gone.
        if let Some(names) = self.names.as_mut() {
            names.remove(target.name);
        }
        server.ledger.push(Owed::client(Expects::LocalClose));
        splice.skip(seen.at, seen.end());
        Ok(())
    }

    /// Whether this is the unnamed statement, and another client's Parse made the server's.
    const fn is_strangers(&self, server: &Server, name: &[u8]) -> bool {
        name.is_empty() && server.unnamed_of != self.client_id
    }

    /// Sees to it that the server knows the client's statement of this name, by a Parse in front,
    /// and gives its number. None if there is no such statement: then the name goes to the server
    /// as it is, whose error names it. No server has a statement of a client's own naming.
    fn make_known(
        &self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
        name: &[u8],
    ) -> Result<Option<u64>, RequestFault> {
        if name.is_empty() {
            return Ok(None);
        }
        let Some(statement) = self.names.as_ref().and_then(|n| n.find(name)) else {
            return Ok(None);
        };
        let id = statement.id();
        if !server.statements.touch(id) {
            let out = splice.insert(seen.at);
            make_room(server, statement.clone(), seen.limit, out)?;
            let (query, types) = (statement.query(), statement.parameter_types());
            encode::parse(out, server_name(id).as_bytes(), query, types)?;
            server.ledger.push(Owed::pooler(Expects::Parse).keyed(id));
        }
        Ok(Some(id))
    }
}

/// A name that no server's statement has.
const REFUSED_NAME: &[u8] = b"pgbaton_refused";

/// A client never runs another's unnamed statement: it is told what it would be told if there were
/// none, by an error that comes from the server and so fails the transaction too.
fn refuse_unnamed(server: &mut Server) {
    server.refusals.push_back(ErrorMessage::error(
        SqlState::INVALID_SQL_STATEMENT_NAME,
        "unnamed prepared statement does not exist",
    ));
    server.ledger.push(Owed::client(Expects::Refused));
}

/// Enters a statement that is about to be parsed among those the server knows, and closes those
/// that it has no more room for.
fn make_room(
    server: &mut Server,
    statement: Arc<Statement>,
    limit: NonZeroUsize,
    out: &mut Vec<u8>,
) -> Result<(), RequestFault> {
    for id in server.statements.insert(statement, limit) {
        encode::close_statement(out, server_name(id).as_bytes())?;
        server.ledger.push(Owed::pooler(Expects::Close).keyed(id));
    }
    server.shared.statement_count.store(server.statements.len() as u64, Ordering::Relaxed);
    Ok(())
}
