//! Walking over a server's replies: what goes on to the client, what is swallowed, what is learnt.
//!
//! Only message heads are read, but for the few messages that change the server's or the client's
//! state. Rows are never decoded. The walk keeps the ledger, so that after it
//! [`Server::is_free`](super::Server::is_free) tells whether the server may be given away.

use super::connection::{INSPECT_BYTES_MAX, Server};
use super::error::error_message;
use super::settings::is_tracked;
use crate::protocol::decode::{self, ErrorFields};
use crate::protocol::encode;
use crate::protocol::error::{ErrorMessage, Severity};
use crate::protocol::frame::{self, FrameError, HEADER_LEN};
use crate::protocol::ledger::{Audience, Desync, Expects, Owed};
use crate::protocol::splice::Splice;

/// What the client's side wants to know of its server's replies.
pub trait ReplyObserver {
    /// A statement was prepared, here or on the server.
    fn parse_completed(&mut self, statement_id: u64);
    /// A statement will not be prepared: an error came first.
    fn parse_dropped(&mut self, statement_id: u64);
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
    fn parse_completed(&mut self, _: u64) {}
    fn parse_dropped(&mut self, _: u64) {}

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
        server.streaming.visible = matches!(action, Action::Show);
        server.streaming.left_bytes = header.len - taken;
        match action {
            Action::Show => {}
            Action::Hide => splice.skip(at, at + taken),
            Action::Replace(message) => {
                encode::error_response(splice.replace(at, at + taken), &message);
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
    if owed.expects == Expects::LocalParse {
        observer.parse_completed(owed.key);
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
    let reply = server.ledger.receive(tag)?;
    let shown = reply.audience == Audience::Client;
    match tag {
        b'Z' => server.tx = decode::ready_for_query(body)?,
        b'C' if shown => match decode::command_complete(body) {
            Ok(b"DISCARD ALL") => {
                server.statements.clear();
                server.settings = std::sync::Arc::default();
                observer.all_discarded(true);
            }
            Ok(b"DEALLOCATE ALL") => {
                server.statements.clear();
                observer.all_discarded(false);
            }
            _ => {}
        },
        b'S' if is_whole => {
            let parameter = decode::parameter_status(body)?;
            observer.parameter_reported(parameter.name, parameter.value, shown);
        }
        b'1' => {
            if let Some(owed) = reply.completed.filter(|o| shown && o.key != 0) {
                observer.parse_completed(owed.key);
            }
        }
        _ => {}
    }
    Ok(if shown { Action::Show } else { Action::Hide })
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
    let Server { ledger, statements, refusals, unnamed_of, .. } = server;
    let mut replacement = None;
    let mut is_first = true;
    let reply = ledger.receive_error(|owed| {
        match (owed.expects, owed.audience) {
            // Whether it failed or was skipped, the unnamed statement there is not this client's.
            (Expects::Parse, Audience::Client) if owed.key == 0 => *unnamed_of = 0,
            (Expects::Parse, Audience::Client) => {
                statements.remove(owed.key);
                observer.parse_dropped(owed.key);
            }
            (Expects::Parse, Audience::Pooler) => statements.remove(owed.key),
            (Expects::Close, Audience::Pooler) => statements.not_closed(owed.key),
            (Expects::LocalParse, _) => observer.parse_dropped(owed.key),
            (Expects::Refused, _) => {
                let message = refusals.pop_front();
                if is_first {
                    replacement = message;
                }
            }
            _ => {}
        }
        is_first = false;
    });
    if reply.audience == Audience::Pooler {
        let message = fields.map_or_else(String::new, |f| error_message(&f).to_string());
        return Err(ReplyFault::OwnQuery { message });
    }
    Ok(match replacement {
        Some(message) if !server.doomed => Action::Replace(message),
        _ => Action::Show,
    })
}
