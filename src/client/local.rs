//! Requests that an idle client can be answered without a server.
//!
//! Drivers prepare a statement by Parse and Sync, outside of any transaction. If a server of the
//! pool has parsed the same statement before, there is nothing that another one could add: the
//! names are the client's own, and whichever server gets the Bind is made to know the statement
//! then. So a batch of nothing but such requests takes no server. This is more than thrift: a
//! program that waits for its Parse while its other connections hold every server would wait for
//! ever.

use std::sync::Arc;

use super::statements::ClientStatements;
use crate::protocol::TransactionStatus;
use crate::protocol::decode::{self, Target};
use crate::protocol::encode;
use crate::protocol::frame::{self, HEADER_LEN};
use crate::server::pools::ServerPool;
use crate::server::{Statement, StatementStore};

/// One step of the answer.
enum Step {
    Prepare(Box<[u8]>, Arc<Statement>),
    Close(Box<[u8]>),
    Sync,
}

/// Appends the answers to `output` if all of `input` can be answered here; else does nothing.
pub(super) fn answer(
    store: &StatementStore,
    pool: &ServerPool,
    names: &mut Option<Box<ClientStatements>>,
    input: &[u8],
    output: &mut Vec<u8>,
) -> bool {
    let Some(steps) = plan(store, pool, names.as_deref(), input) else {
        return false;
    };
    for step in steps {
        match step {
            Step::Prepare(name, statement) => {
                let id = statement.id();
                let names = names.get_or_insert_default();
                names.insert(&name, statement);
                names.answered(id);
                encode::parse_complete(output);
            }
            Step::Close(name) => {
                if let Some(names) = names {
                    names.remove(&name);
                }
                encode::close_complete(output);
            }
            Step::Sync => encode::ready_for_query(output, TransactionStatus::Idle),
        }
    }
    true
}

/// The steps, if every message is one that needs no server and the last is a Sync.
fn plan(
    store: &StatementStore,
    pool: &ServerPool,
    names: Option<&ClientStatements>,
    input: &[u8],
) -> Option<Vec<Step>> {
    // The common case is told by one byte.
    if !matches!(input.first(), Some(b'P' | b'C' | b'S')) {
        return None;
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let header = frame::frontend_header(rest).ok()??;
        let body = rest.get(HEADER_LEN..header.len)?;
        match header.tag {
            b'P' => {
                let parse = decode::parse(body).ok()?;
                let taken = names.is_some_and(|n| n.find(parse.name).is_some())
                    || steps.iter().any(|s| matches!(s, Step::Prepare(n, _) if **n == *parse.name));
                let statement = store.find(parse.query, parse.parameter_types)?;
                if parse.name.is_empty() || taken || !pool.has_parsed(statement.id()) {
                    return None;
                }
                steps.push(Step::Prepare(parse.name.into(), statement));
            }
            b'C' => {
                let close = decode::describe_or_close(body).ok()?;
                if close.kind != Target::Statement || close.name.is_empty() {
                    return None;
                }
                steps.push(Step::Close(close.name.into()));
            }
            b'S' => steps.push(Step::Sync),
            _ => return None,
        }
        rest = rest.get(header.len..)?;
    }
    matches!(steps.last(), Some(Step::Sync)).then_some(steps)
}
