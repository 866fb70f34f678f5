//! Walking over a server's replies: what goes on to the client, what is swallowed, what is learnt.
//!
//! Only message heads are read, but for the few messages that change the server's or the client's
//! state. Rows are never decoded. The walk keeps the ledger, so that after it
//! [`Server::is_free`](super::Server::is_free) tells whether the server may be given away.

use super::connection::{INSPECT_BYTES_MAX, Server};
use super::error::error_message;
use super::settings::is_tracked;
use super::statements::{ServerStatements, server_name};
use crate::protocol::decode::{self, ErrorFields};
use crate::protocol::encode;
use crate::protocol::error::{ErrorMessage, Severity};
use crate::protocol::frame::{self, FrameError, HEADER_LEN};
use crate::protocol::ledger::{Audience, Desync, Expects, Fate, Owed, Slot};
use crate::protocol::splice::Splice;
use crate::protocol::{SqlState, TransactionStatus, rewrite};

/// What the client's side wants to know of its server's replies.
pub trait ReplyObserver {
    /// The server has parsed a statement.
    fn parsed(&mut self, statement_id: u64);
    /// The message of the client's oldest pending change of names was carried out, or was not.
    fn renamed(&mut self, outcome: Result<(), Fate>);
    /// A Query of the client was carried out to its end.
    fn query_completed(&mut self);
    /// What the client calls the statement of this number, by the hash of the name.
    fn name_of(&self, statement_id: u64, name_hash: u32) -> Option<&[u8]>;
    /// The server reported a parameter; `shown` if it did so for the client.
    fn parameter_reported(&mut self, name: &[u8], value: &[u8], shown: bool);
    /// DEALLOCATE ALL (false) or DISCARD ALL (true) was carried out.
    fn all_discarded(&mut self, settings_too: bool);
}

/// An observer for replies that nobody waits for any more: what a server reports of its settings
/// is kept, since the next client's are compared with them.
#[derive(Debug, Default)]
pub struct Aftermath {
    reported: Vec<(String, Vec<u8>)>,
}

impl Aftermath {
    /// Enters what was reported into the server's settings.
    pub fn apply(self, server: &mut Server) {
        for (name, value) in self.reported {
            server.settings = server.settings.with(&name, Some(&value));
        }
    }
}

impl ReplyObserver for Aftermath {
    fn parsed(&mut self, _: u64) {}
    fn renamed(&mut self, _: Result<(), Fate>) {}
    fn query_completed(&mut self) {}

    fn name_of(&self, _: u64, _: u32) -> Option<&[u8]> {
        None
    }

    fn parameter_reported(&mut self, name: &[u8], value: &[u8], _: bool) {
        if let Ok(name) = std::str::from_utf8(name)
            && is_tracked(name.as_bytes())
        {
            self.reported.push((name.to_owned(), value.to_vec()));
        }
    }

    fn all_discarded(&mut self, _: bool) {}
}

/// A walk's result.
#[derive(Debug)]
pub struct Walked<'a> {
    /// What the client gets.
    pub bytes: &'a [u8],
    /// How much of the input has been dealt with; the rest is the head of a message.
    pub consumed: usize,
}

/// Why a server's bytes make no sense. The server must be closed.
#[derive(Debug, thiserror::Error)]
pub enum ReplyFault {
    /// A malformed head.
    #[error("malformed message from the server: {0}")]
    Frame(#[from] FrameError),
    /// A malformed body.
    #[error("malformed message from the server: {0}")]
    Body(#[from] decode::DecodeError),
    /// A reply that was not asked for.
    #[error(transparent)]
    Desync(#[from] Desync),
    /// One of the pooler's own queries failed.
    #[error("server refused a query of the pooler's own: {message}")]
    OwnQuery {
        /// The server's words.
        message: String,
    },
}

/// Walks over `input`, which begins at a message or inside the one that is streaming.
///
/// # Errors
/// [`ReplyFault`]: the server must not be used again.
pub fn walk<'a>(
    server: &mut Server,
    observer: &mut impl ReplyObserver,
    input: &'a [u8],
    output: &'a mut Vec<u8>,
) -> Result<Walked<'a>, ReplyFault> {
    let mut splice = Splice::new(input, output);
    let mut at = 0;
    loop {
        if server.streaming.left_bytes > 0 {
            let taken = server.streaming.left_bytes.min(input.len() - at);
            if !server.streaming.visible {
                splice.skip(at, at + taken);
            }
            server.streaming.left_bytes -= taken;
            at += taken;
            if server.streaming.left_bytes > 0 {
                break;
            }
        }
        insert_local_replies(server, observer, &mut splice, at);
        let rest = &input[at..];
        let Some(header) = frame::backend_header(rest)? else {
            break;
        };
        let whole = rest.get(..header.len);
        if whole.is_none() && is_inspected(header.tag) && header.len <= INSPECT_BYTES_MAX {
            break;
        }
        let body = whole.and_then(|f| f.get(HEADER_LEN..)).unwrap_or_default();
        let taken = header.len.min(rest.len());
        let action = account(server, observer, header.tag, body, whole.is_some())?;
        server.streaming.visible = matches!(action, Action::Show | Action::ShowDeallocated);
        server.streaming.left_bytes = header.len - taken;
        match action {
            Action::Show => {}
            Action::Hide => splice.skip(at, at + taken),
            Action::Replace(message) => {
                encode::error_response(splice.replace(at, at + taken), &message);
            }
            Action::Rewrite(bytes) => splice.replace(at, at + taken).extend_from_slice(&bytes),
            Action::ShowDeallocated => {
                let tag = encode::command_complete(splice.insert(at), b"DEALLOCATE");
                tag.expect("BUG: a tag without a NUL");
            }
        }
        at += taken;
    }
    Ok(Walked { bytes: splice.finish(at), consumed: at })
}

/// Appends the local replies whose turn has come; for use when requests were recorded and the
/// server owes nothing in front of them.
pub fn take_local_replies(
    server: &mut Server,
    observer: &mut impl ReplyObserver,
    output: &mut Vec<u8>,
) {
    while let Some(owed) = server.ledger.take_local() {
        push_local_reply(owed, observer, output);
    }
}

fn insert_local_replies(
    server: &mut Server,
    observer: &mut impl ReplyObserver,
    splice: &mut Splice<'_>,
    at: usize,
) {
    while let Some(owed) = server.ledger.take_local() {
        push_local_reply(owed, observer, splice.insert(at));
    }
}

fn push_local_reply(owed: Owed, observer: &mut impl ReplyObserver, output: &mut Vec<u8>) {
    if owed.renames {
        observer.renamed(Ok(()));
    }
    if owed.expects == Expects::LocalParse {
        encode::parse_complete(output);
    } else {
        encode::close_complete(output);
    }
}

/// Messages whose body matters.
const fn is_inspected(tag: u8) -> bool {
    matches!(tag, b'Z' | b'E' | b'S' | b'C')
}

enum Action {
    Show,
    Hide,
    Replace(ErrorMessage),
    /// Show these bytes in its place.
    Rewrite(Vec<u8>),
    /// Show it behind the answer to a DEALLOCATE that the server never got.
    ShowDeallocated,
}

/// Enters one message into the ledger and draws its consequences. `body` is empty if the message
/// is not whole yet.
fn account(
    server: &mut Server,
    observer: &mut impl ReplyObserver,
    tag: u8,
    body: &[u8],
    is_whole: bool,
) -> Result<Action, ReplyFault> {
    if tag == b'E' {
        return account_error(server, observer, body, is_whole);
    }
    let Server { ledger, statements, refusals, .. } = server;
    let reply = ledger.receive(tag, |owed, fate| {
        drop_owed(statements, observer, owed, fate);
        if owed.expects == Expects::Refused {
            refusals.pop_front();
        }
    })?;
    let shown = reply.audience == Audience::Client;
    match tag {
        b'Z' => {
            server.tx = decode::ready_for_query(body)?;
            server.saw_block |= server.tx != TransactionStatus::Idle;
        }
        b'C' => match decode::command_complete(body) {
            Ok(b"DISCARD ALL") => {
                server.statements.clear();
                server.settings = std::sync::Arc::default();
                if shown {
                    observer.all_discarded(true);
                }
            }
            Ok(b"DEALLOCATE ALL") => {
                server.statements.clear();
                if shown {
                    observer.all_discarded(false);
                }
            }
            _ => {}
        },
        b'S' if is_whole => {
            let parameter = decode::parameter_status(body)?;
            observer.parameter_reported(parameter.name, parameter.value, shown);
        }
        _ => {}
    }
    if let Some(owed) = reply.completed {
        return Ok(complete(server, observer, owed));
    }
    Ok(if shown { Action::Show } else { Action::Hide })
}

/// Draws the consequences of an answer that has come to its end.
fn complete(server: &mut Server, observer: &mut impl ReplyObserver, owed: Owed) -> Action {
    match (owed.expects, owed.slot) {
        (Expects::Parse, Slot::Named(id)) => {
            server.statements.answered(id, true);
            observer.parsed(id);
        }
        (Expects::Close, Slot::Named(id)) => server.statements.answered(id, false),
        (_, Slot::Unnamed(id)) => server.statements.unnamed_set(id),
        (Expects::Query, _) => {
            server.statements.unnamed_lost();
            if owed.audience == Audience::Client {
                observer.query_completed();
            }
        }
        (Expects::Deallocate, _) => observer.query_completed(),
        _ => {}
    }
    if owed.renames {
        observer.renamed(Ok(()));
    }
    match owed.audience {
        Audience::Pooler => Action::Hide,
        Audience::Client if owed.expects == Expects::Deallocate => Action::ShowDeallocated,
        Audience::Client => Action::Show,
    }
}

/// Draws the consequences of a message that will not be answered.
fn drop_owed(
    statements: &mut ServerStatements,
    observer: &mut impl ReplyObserver,
    owed: Owed,
    fate: Fate,
) {
    match (owed.expects, owed.slot, fate) {
        (_, Slot::Named(id), _) => statements.not_done(id),
        (_, Slot::Unnamed(_), Fate::Failed) => statements.unnamed_set(0),
        (_, Slot::Unnamed(_), Fate::Skipped) => statements.unnamed_skipped(),
        _ => {}
    }
    if owed.renames {
        observer.renamed(Err(fate));
    }
}

fn account_error(
    server: &mut Server,
    observer: &mut impl ReplyObserver,
    body: &[u8],
    is_whole: bool,
) -> Result<Action, ReplyFault> {
    let fields = if is_whole { Some(decode::error_fields(body)?) } else { None };
    let severity = fields.as_ref().and_then(ErrorFields::severity_known);
    if severity.is_some_and(Severity::ends_session) {
        server.doomed = true;
    }
    let code = fields.as_ref().and_then(ErrorFields::sqlstate);
    let Server { ledger, statements, refusals, .. } = server;
    let mut refusal = None;
    let reply = ledger.receive_error(|owed, fate| {
        drop_owed(statements, observer, owed, fate);
        if owed.expects == Expects::Refused {
            let front = refusals.pop_front();
            if fate == Fate::Failed {
                refusal = front;
            }
        }
    });
    if reply.audience == Audience::Pooler {
        let message = fields.map_or_else(String::new, |f| error_message(&f).to_string());
        return Err(ReplyFault::OwnQuery { message });
    }
    if let Some(Owed { slot: Slot::Uses(id, hash), .. }) = reply.completed {
        // It was taken from the server by a way that is not seen here, such as a function's body.
        if code == Some(SqlState::INVALID_SQL_STATEMENT_NAME) {
            statements.lost(id);
        }
        if let Some(name) = observer.name_of(id, hash)
            && let Some(renamed) = rewrite::error_naming(body, server_name(id).as_bytes(), name)
        {
            return Ok(Action::Rewrite(renamed));
        }
    }
    Ok(match refusal {
        Some(refusal) if code == Some(refusal.code) => Action::Replace(refusal.message),
        _ => Action::Show,
    })
}
