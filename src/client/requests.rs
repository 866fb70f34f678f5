//! Walking over a client's requests: what goes to the server, under which names, and what it will
//! owe for it.
//!
//! Only message heads are read, but for the few messages that concern prepared statements; what
//! becomes of those is in [`super::naming`]. Everything else passes as it is.

use std::num::NonZeroUsize;

use super::naming::Entered;
use super::statements::ClientStatements;
use crate::protocol::decode::DecodeError;
use crate::protocol::encode::{self, EncodeError};
use crate::protocol::frame::{self, FrameError, HEADER_LEN, Header};
use crate::protocol::ledger::{Expects, Owed};
use crate::protocol::splice::Splice;
use crate::server::{INSPECT_BYTES_MAX, RecentStatements, Server, StatementStore};

/// A Parse message of a named statement longer than this is refused: it has to be held in memory
/// as a whole.
pub const PARSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A Parse message of the unnamed statement longer than this streams through: its text is not
/// kept, so that only the server which got it can run it.
const UNNAMED_BYTES_MAX: usize = 1024 * 1024;

/// How the names of prepared statements are treated.
#[derive(Debug, Clone, Copy)]
pub enum Naming {
    /// They go to the server as they are: it is the client's own for its whole session.
    Untouched,
    /// They are the client's own, whichever server it has at the moment.
    Virtual {
        /// `max_prepared_statements`: named ones that a server may keep; `None` leaves the named
        /// ones alone.
        named_max: Option<NonZeroUsize>,
        /// `max_prepared_statement_bytes`: memory for the texts of all clients.
        bytes_max: usize,
    },
}

/// The client's side of a walk.
#[derive(Debug)]
pub struct Requests<'a> {
    /// The shared store.
    pub store: &'a StatementStore,
    /// Unnamed statements that were seen lately on this worker.
    pub recent: &'a RecentStatements,
    /// The settings under which texts are read: see `Settings::reading`.
    pub reading: u64,
    /// What to do about names.
    pub naming: Naming,
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
    /// How much of the input has been dealt with; the rest is the head of a message, unless the
    /// walk has stopped.
    pub consumed: usize,
    /// Why the walk ended early, if it did.
    pub stop: Option<Stop>,
}

/// The end of a client's requests.
#[derive(Debug)]
pub enum Stop {
    /// Terminate.
    Terminate,
    /// The next message cannot be sent on before earlier ones have been answered.
    Stall,
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
    /// A Parse of a named statement beyond [`PARSE_BYTES_MAX`].
    #[error("prepared statement is longer than {PARSE_BYTES_MAX} bytes")]
    ParseTooLong,
    /// A Bind whose names alone fill [`INSPECT_BYTES_MAX`].
    #[error("portal and statement names are longer than {INSPECT_BYTES_MAX} bytes")]
    NamesTooLong,
}

/// What an idle client's first bytes are.
#[derive(Debug)]
pub enum First {
    /// Too little of a message for a server to be taken.
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
pub fn first(input: &[u8], naming: Naming) -> First {
    match frame::frontend_header(input) {
        Ok(None) => First::Incomplete,
        Ok(Some(Header { tag: b'X', .. })) => First::Terminate,
        Ok(Some(header @ Header { tag: b'd' | b'c' | b'f' | b'H', .. })) => First::Stray(header),
        Ok(Some(header)) => match needed(header, input, naming) {
            Ok(needed) if input.len() < needed => First::Incomplete,
            Ok(_) => First::Request,
            Err(fault) => First::Fault(fault),
        },
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

/// Bytes of a message that must be there before any of it is sent on: all of a short one, so that
/// a slow client does not keep a server waiting and names can be read, and all of a Parse whose
/// text is kept.
fn needed(header: Header, input: &[u8], naming: Naming) -> Result<usize, RequestFault> {
    let start = header.len.min(INSPECT_BYTES_MAX);
    let Naming::Virtual { named_max, .. } = naming else {
        return Ok(start);
    };
    if header.tag != b'P' {
        return Ok(start);
    }
    match input.get(HEADER_LEN) {
        None => Ok(header.len.min(HEADER_LEN + 1)),
        Some(0) if header.len > UNNAMED_BYTES_MAX => Ok(start),
        Some(0) => Ok(header.len),
        Some(_) if named_max.is_none() => Ok(start),
        Some(_) if header.len > PARSE_BYTES_MAX => Err(RequestFault::ParseTooLong),
        Some(_) => Ok(header.len),
    }
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
        match needed(header, rest, requests.naming) {
            Ok(needed) if rest.len() < needed => break None,
            Ok(_) => {}
            Err(fault) => break Some(Stop::Fault(fault)),
        }
        let taken = header.len.min(rest.len());
        let seen = Seen { at, header, frame: &rest[..taken] };
        match requests.enter(server, &mut splice, seen) {
            Ok(Entered::Done) => {}
            Ok(Entered::Stall) => {
                // What it waits for may be an answer that the server keeps back until a Sync.
                if server.ledger.wants_flush() {
                    encode::flush(splice.insert(at));
                    server.ledger.note_flush();
                }
                break Some(Stop::Stall);
            }
            Err(fault) => break Some(Stop::Fault(fault)),
        }
        *requests.streaming_left = header.len - taken;
        at += taken;
    };
    Walked { bytes: splice.finish(at), consumed: at, stop }
}

/// One message of the input, or as much of a long one as has come.
#[derive(Clone, Copy)]
pub(super) struct Seen<'f> {
    /// Its place in the input.
    pub(super) at: usize,
    pub(super) header: Header,
    pub(super) frame: &'f [u8],
}

impl<'f> Seen<'f> {
    pub(super) fn body(&self) -> &'f [u8] {
        self.frame.get(HEADER_LEN..).unwrap_or_default()
    }

    pub(super) const fn end(&self) -> usize {
        self.at + self.frame.len()
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.frame.len() == self.header.len
    }
}

impl Requests<'_> {
    /// Enters one message into the ledger; its statement's name becomes the server's.
    fn enter(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Entered, RequestFault> {
        let expects = match seen.header.tag {
            b'Q' => Expects::Query,
            b'S' => Expects::Sync,
            b'E' => Expects::Execute,
            b'F' => Expects::FunctionCall,
            b'c' | b'f' => Expects::CopyEnd,
            b'd' => {
                server.ledger.note_copy_data();
                return Ok(Entered::Done);
            }
            b'H' => return Ok(Entered::Done),
            b'P' => Expects::Parse,
            b'B' => Expects::Bind,
            b'D' => Expects::Describe,
            b'C' => Expects::Close,
            // PasswordMessage has no place after the login; frontend_header knows all others.
            tag => return Err(FrameError::UnknownTag(tag).into()),
        };
        // What the server skips or a COPY consumes concerns no statement.
        let is_dead = server.ledger.is_skipping() || server.ledger.in_copy_in();
        if let Naming::Virtual { .. } = self.naming
            && !is_dead
        {
            match self.enter_named(server, splice, seen) {
                // What is malformed goes on as it is: the server's error is the client's.
                Err(RequestFault::Body(_)) if seen.is_whole() => {}
                Ok(None) => {}
                Ok(Some(entered)) => return Ok(entered),
                Err(fault) => return Err(fault),
            }
        }
        server.ledger.push(Owed::client(expects));
        Ok(Entered::Done)
    }
}
