//! Requests that an idle client can be answered without a server.
//!
//! Drivers prepare a statement by Parse and Sync, outside of any transaction. If a server of the
//! pool has parsed the same statement before, there is nothing that another one could add: the
//! names are the client's own, and whichever server gets the Bind is made to know the statement
//! then. So a batch of nothing but such requests takes no server. This is more than thrift: a
//! program that waits for its Parse while its other connections hold every server would wait for
//! ever.

use std::sync::Arc;

use super::statements::{Change, ClientStatements, Found, kept_name};
use crate::protocol::decode::{self, Target};
use crate::protocol::encode;
use crate::protocol::frame::{self, HEADER_LEN};
use crate::protocol::{TransactionStatus, sql};
use crate::server::pools::ServerPool;
use crate::server::{Statement, StatementStore};

/// An idle client has no messages under way, so that none of its names is unclear.
const NO_GROUP: u64 = 0;

/// One step of the answer.
enum Step {
    Prepare(Box<[u8]>, Arc<Statement>),
    Close(Box<[u8]>),
    /// A Query that is a DEALLOCATE.
    Deallocate(Box<[u8]>),
    Sync,
}

/// Appends the answers to `output` if all of `input` can be answered here; else does nothing. Beside
/// the store stands a hash of the settings under which the client's texts are read.
pub(super) fn answer(
    texts: (&StatementStore, u64),
    pool: &ServerPool,
    names: &mut Option<Box<ClientStatements>>,
    input: &[u8],
    output: &mut Vec<u8>,
) -> bool {
    let Some(steps) = plan(texts, pool, names.as_deref(), input) else {
        return false;
    };
    for step in steps {
        match step {
            Step::Prepare(name, statement) => {
                change(names, Change::Take(name, statement));
                encode::parse_complete(output);
            }
            Step::Close(name) => {
                change(names, Change::Release(name));
                encode::close_complete(output);
            }
            Step::Deallocate(name) => {
                change(names, Change::Release(name));
                if let Some(names) = names {
                    names.forget_unnamed();
                }
                let tag = encode::command_complete(output, b"DEALLOCATE");
                tag.expect("BUG: a tag without a NUL");
                encode::ready_for_query(output, TransactionStatus::Idle);
            }
            Step::Sync => encode::ready_for_query(output, TransactionStatus::Idle),
        }
    }
    true
}

fn change(names: &mut Option<Box<ClientStatements>>, change: Change) {
    let names = names.get_or_insert_default();
    names.expect(change, NO_GROUP);
    names.carried_out();
}

/// The steps, if every message is one that needs no server and the last is a Sync or a Query.
fn plan(
    texts: (&StatementStore, u64),
    pool: &ServerPool,
    names: Option<&ClientStatements>,
    input: &[u8],
) -> Option<Vec<Step>> {
    let (store, reading) = texts;
    // The common case is told by one byte.
    match input.first() {
        Some(b'P' | b'C' | b'S') => {}
        Some(b'Q') if names.is_some_and(|names| names.len() > 0) => {}
        _ => return None,
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let header = frame::frontend_header(rest).ok()??;
        let body = rest.get(HEADER_LEN..header.len)?;
        match header.tag {
            b'P' => {
                let parse = decode::parse(body).ok()?;
                let name = kept_name(parse.name);
                let taken = names
                    .is_some_and(|n| !matches!(n.find(&name, NO_GROUP), Found::Nothing))
                    || steps.iter().any(|step| step.concerns(&name));
                // Beyond the memory for names a server has to refuse it.
                if store.name_bytes_alive() > pool.settings.load().statement_bytes_max {
                    return None;
                }
                let statement = store.find(parse.query, parse.parameter_types, reading)?;
                if parse.name.is_empty() || taken || !pool.has_parsed(statement.id()) {
                    return None;
                }
                steps.push(Step::Prepare(name, statement));
            }
            b'C' => {
                let close = decode::describe_or_close(body).ok()?;
                if close.kind != Target::Statement || close.name.is_empty() {
                    return None;
                }
                steps.push(Step::Close(kept_name(close.name)));
            }
            b'Q' => {
                let name = kept_name(&sql::deallocated_name(decode::query(body).ok()?)?);
                // Whether an earlier step takes or frees it is for a server to see.
                if steps.iter().any(|step| step.concerns(&name))
                    || !matches!(names?.find(&name, NO_GROUP), Found::Statement(_))
                {
                    return None;
                }
                steps.push(Step::Deallocate(name));
            }
            b'S' => steps.push(Step::Sync),
            _ => return None,
        }
        rest = rest.get(header.len..)?;
    }
    matches!(steps.last(), Some(Step::Sync | Step::Deallocate(_))).then_some(steps)
}

impl Step {
    fn concerns(&self, name: &[u8]) -> bool {
        match self {
            Self::Prepare(n, _) | Self::Close(n) | Self::Deallocate(n) => **n == *name,
            Self::Sync => false,
        }
    }
}
