//! What becomes of the messages that concern prepared statements, where those are the client's own
//! on whichever server it has: they are renamed to the server's name for the statement, and a Parse
//! is put in front where the server does not know it.
//!
//! Requests are sent on before earlier ones are answered. Where the meaning of a message depends
//! on an answer that has not come, it waits: [`Entered::Stall`]. Invariant: a message that stalls
//! has left no trace in the ledger, the splice, the server or the client's names.
//!
//! An error that PostgreSQL would give comes from PostgreSQL, so that it fails the transaction too:
//! a message that must fail takes the place of the one that would have, and the error's text is
//! replaced (a [`Refusal`]).

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::requests::{Naming, RequestFault, Requests, Seen};
use super::statements::{Change, ClientStatements, Found, kept_name, name_hash};
use crate::protocol::decode::{self, Bind, Parse, Target};
use crate::protocol::error::ErrorMessage;
use crate::protocol::ledger::{Expects, Owed, Slot};
use crate::protocol::splice::Splice;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::{TransactionStatus, encode, rewrite, sql};
use crate::server::{Presence, Refusal, SERVER_NAME_PREFIX, Server, Statement, server_name};

/// What has become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    /// It is in the ledger.
    Done,
    /// It must wait for answers.
    Stall,
}

/// A name that no server's statement has.
const REFUSED_NAME: &[u8] = b"pgbaton_refused";

impl Requests<'_> {
    /// Enters a message whose statement or text matters. `None`: nothing about it does.
    pub(super) fn enter_named(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Option<Entered>, RequestFault> {
        match seen.header.tag {
            b'Q' => self.query(server, splice, seen),
            b'P' => self.parse(server, splice, seen).map(Some),
            b'B' | b'D' => self.concern(server, splice, seen),
            b'C' => self.close(server, splice, seen),
            b'E' => self.execute(server, splice, seen),
            _ => Ok(None),
        }
    }

    const fn named_max(&self) -> Option<NonZeroUsize> {
        match self.naming {
            Naming::Untouched => None,
            Naming::Virtual { named_max, .. } => named_max,
        }
    }

    /// Bound for the texts of all clients, and for their names.
    const fn bytes_max(&self) -> usize {
        match self.naming {
            Naming::Untouched => usize::MAX,
            Naming::Virtual { bytes_max, .. } => bytes_max,
        }
    }

    fn is_over_budget(&self) -> bool {
        self.store.bytes_alive() > self.bytes_max() || self.has_too_many_names()
    }

    fn has_too_many_names(&self) -> bool {
        self.store.name_bytes_alive() > self.bytes_max()
    }

    /// Whether there is no memory for one more text, even after this server has given up what only
    /// servers keep.
    fn is_full(&self, server: &mut Server) -> bool {
        if self.is_over_budget() {
            server.statements.shed();
        }
        self.is_over_budget()
    }

    fn find(&self, name: &[u8], group: u64) -> Found<'_> {
        self.names.as_ref().map_or(Found::Nothing, |names| names.find(name, group))
    }

    /// The statement of this text as it is read under the client's settings.
    fn read_named(&self, query: &[u8], types: &[u8]) -> Arc<Statement> {
        self.store.intern(query, types, self.reading)
    }

    fn read_unnamed(&self, query: &[u8], types: &[u8]) -> Arc<Statement> {
        self.store.unnamed(self.recent, query, types, self.reading)
    }

    fn names(&mut self) -> &mut ClientStatements {
        self.names.get_or_insert_default()
    }

    /// A Query matters if it may take statements away.
    fn query(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Option<Entered>, RequestFault> {
        let group = server.ledger.group();
        let may_forget = match seen.is_whole() {
            true => sql::may_forget_statements(seen.body()),
            // Only its beginning has come.
            false => self.names.is_some(),
        };
        if !may_forget {
            return Ok(None);
        }
        if self.named_max().is_some()
            && seen.is_whole()
            && let Some(name) = sql::deallocated_name(decode::query(seen.body())?)
        {
            match self.find(&name, group) {
                Found::Unclear => return Ok(Some(Entered::Stall)),
                Found::Statement(_) => return Ok(self.deallocate(server, splice, seen, &name)),
                Found::Nothing if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) => {
                    // Those are not the client's to take away.
                    let text = [b"DEALLOCATE ", REFUSED_NAME].concat();
                    encode::query(splice.replace(seen.at, seen.end()), &text)?;
                }
                Found::Nothing => {}
            }
        }
        self.names().expect(Change::Open, group);
        server.ledger.push(Owed::client(Expects::Query).renaming());
        Ok(Some(Entered::Done))
    }

    /// DEALLOCATE of a name that the client has given by the protocol. The server does not know it
    /// and gets a Sync in its place, or in a failed transaction the Query itself, to refuse it.
    fn deallocate(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
        name: &[u8],
    ) -> Option<Entered> {
        // Behind an error the server would skip a Query, but it takes up a Sync.
        let may_skip = server.ledger.needs_sync() && !server.ledger.is_empty();
        if may_skip || !server.ledger.is_in_first_group() {
            return Some(Entered::Stall);
        }
        if server.tx == TransactionStatus::Failed {
            return None;
        }
        let group = server.ledger.group();
        let out = splice.replace(seen.at, seen.end());
        // A Query ends the unnamed portal.
        encode::close_unnamed_portal(out);
        server.ledger.push(Owed::pooler(Expects::Close));
        encode::sync(out);
        self.names().expect(Change::Release(kept_name(name)), group);
        server.ledger.push(Owed::client(Expects::Deallocate).renaming());
        Some(Entered::Done)
    }

    fn parse(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Entered, RequestFault> {
        if !seen.is_whole() && self.named_max().is_none() && seen.body().first() != Some(&0) {
            server.ledger.push(Owed::client(Expects::Parse));
            return Ok(Entered::Done);
        }
        if !seen.is_whole() {
            let statement = self.store.unkept();
            self.take_unnamed(server, statement);
            return Ok(Entered::Done);
        }
        let parse = decode::parse(seen.body())?;
        if parse.name.is_empty() {
            self.parse_unnamed(server, parse);
            Ok(Entered::Done)
        } else {
            self.parse_named(server, splice, seen, parse)
        }
    }

    fn parse_unnamed(&mut self, server: &mut Server, parse: Parse<'_>) {
        let statement = match self.is_over_budget() {
            true => self.store.unkept(),
            false => self.read_unnamed(parse.query, parse.parameter_types),
        };
        self.take_unnamed(server, statement);
    }

    fn take_unnamed(&mut self, server: &mut Server, statement: Arc<Statement>) {
        let (id, group) = (statement.id(), server.ledger.group());
        self.names().expect(Change::Take(Box::default(), statement), group);
        server.statements.unnamed_asked(id, group);
        server.ledger.push(Owed::client(Expects::Parse).slot(Slot::Unnamed(id)).renaming());
    }

    fn parse_named(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
        parse: Parse<'_>,
    ) -> Result<Entered, RequestFault> {
        let Some(limit) = self.named_max() else {
            server.ledger.push(Owed::client(Expects::Parse));
            return Ok(Entered::Done);
        };
        let group = server.ledger.group();
        match self.find(parse.name, group) {
            Found::Unclear => return Ok(Entered::Stall),
            Found::Statement(_) => return self.parse_taken(server, splice, seen, parse, limit),
            Found::Nothing => {}
        }
        let types = parse.parameter_types;
        if self.is_full(server)
            && (self.has_too_many_names()
                || self.store.find(parse.query, types, self.reading).is_none())
        {
            let text = "too many prepared statements (max_prepared_statement_bytes)";
            refuse(server, splice, seen, ErrorMessage::error(SqlState::OUT_OF_MEMORY, text))?;
            return Ok(Entered::Done);
        }
        let statement = self.read_named(parse.query, types);
        let entered = send_parse(server, splice, seen, &statement, limit)?;
        if entered == Entered::Done {
            self.names().expect(Change::Take(kept_name(parse.name), statement), group);
        }
        Ok(entered)
    }

    /// A Parse of a name in use: the server is given it under a name that it has in use as well.
    fn parse_taken(
        &self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
        parse: Parse<'_>,
        limit: NonZeroUsize,
    ) -> Result<Entered, RequestFault> {
        let taken = self.store.empty();
        if server.statements.presence(taken.id(), server.ledger.group()) == Presence::Unclear {
            return Ok(Entered::Stall);
        }
        let out = splice.replace(seen.at, seen.end());
        teach(server, taken, limit, out)?;
        let name = server_name(taken.id());
        encode::parse(out, name.as_bytes(), parse.query, parse.parameter_types)?;
        let name = String::from_utf8_lossy(parse.name);
        server.refusals.push_back(Refusal {
            code: SqlState::DUPLICATE_PREPARED_STATEMENT,
            message: ErrorMessage::error(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ),
        });
        server.ledger.push(Owed::client(Expects::Refused));
        Ok(Entered::Done)
    }

    /// Enters a Bind or Describe of a statement under the server's name for it.
    fn concern(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Option<Entered>, RequestFault> {
        let Some(concerned) = Concerned::read(seen)? else { return Ok(None) };
        let meaning = match self.resolve(server, splice, seen, concerned)? {
            Resolved::AsItIs => return Ok(None),
            Resolved::Stall => return Ok(Some(Entered::Stall)),
            Resolved::Meaning(meaning) => meaning,
        };
        let owed = Owed::client(concerned.expects());
        match meaning {
            Meaning::Unnamed => {
                server.ledger.push(owed);
            }
            Meaning::Named(id) => {
                concerned.rename(splice, seen, server_name(id).as_bytes())?;
                let slot = Slot::Uses(id, name_hash(concerned.name()));
                server.ledger.push(owed.slot(slot));
            }
            Meaning::Refused(message) => {
                concerned.rename(splice, seen, REFUSED_NAME)?;
                push_refusal(server, message);
            }
        }
        Ok(Some(Entered::Done))
    }

    fn close(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Option<Entered>, RequestFault> {
        let target = decode::describe_or_close(seen.body())?;
        let is_named = !target.name.is_empty();
        if target.kind == Target::Portal || (is_named && self.named_max().is_none()) {
            return Ok(None);
        }
        let group = server.ledger.group();
        self.names().expect(Change::Release(kept_name(target.name)), group);
        if is_named {
            // The server keeps its copy for others.
            splice.skip(seen.at, seen.end());
            server.ledger.push(Owed::client(Expects::LocalClose).renaming());
        } else {
            server.statements.unnamed_asked(0, group);
            server.ledger.push(Owed::client(Expects::Close).slot(Slot::Unnamed(0)).renaming());
        }
        Ok(Some(Entered::Done))
    }

    /// An Execute matters if it may run what takes statements away.
    fn execute(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
    ) -> Result<Option<Entered>, RequestFault> {
        let Some(names) = self.names.as_mut().filter(|names| names.executes_may_forget) else {
            return Ok(None);
        };
        let group = server.ledger.group();
        let releasing = names.releasing(decode::execute(seen.body())?.portal).cloned();
        let change = match releasing.as_ref().and_then(|s| Some((s, s.releases()?))) {
            None => Change::Open,
            Some((statement, name)) => match names.find(name, group) {
                Found::Unclear => return Ok(Some(Entered::Stall)),
                Found::Statement(_) => Change::Release(kept_name(name)),
                Found::Nothing => {
                    // It is free already. So that the server sees it too, its stand-in goes.
                    let out = splice.insert(seen.at);
                    encode::close_statement(out, statement.stand_in().as_bytes())?;
                    server.ledger.push(Owed::pooler(Expects::Close));
                    push_refusal(server, missing(name));
                    return Ok(Some(Entered::Done));
                }
            },
        };
        names.expect(change, group);
        server.ledger.push(Owed::client(Expects::Execute).renaming());
        Ok(Some(Entered::Done))
    }

    /// What is bound in the place of a DEALLOCATE of a name that the client has given by the
    /// protocol, and of one of the server's own.
    fn as_run_now(
        &self,
        server: &Server,
        statement: &Statement,
    ) -> Result<Option<Arc<Statement>>, Resolved> {
        // There it is refused whatever it names.
        let is_refused = server.tx == TransactionStatus::Failed && server.ledger.is_empty();
        let name = match self.named_max() {
            Some(_) if statement.may_forget() && !is_refused => {
                sql::deallocated_name(statement.query())
            }
            _ => None,
        };
        let Some(name) = name else { return Ok(None) };
        let is_servers = name.starts_with(SERVER_NAME_PREFIX.as_bytes());
        match self.find(&name, server.ledger.group()) {
            Found::Unclear => Err(Resolved::Stall),
            Found::Nothing if !is_servers => Ok(None),
            Found::Nothing | Found::Statement(_) => {
                Ok(Some(self.store.deallocating(&kept_name(&name), statement.parameter_types())))
            }
        }
    }

    /// The statement itself if the server has it. Else the server will parse its text now, under
    /// the client's present settings, and must not have it taken for what others mean by it.
    fn as_read_now(
        &self,
        server: &mut Server,
        statement: Arc<Statement>,
        is_named: bool,
    ) -> Arc<Statement> {
        if statement.is_read_under(self.reading) || !statement.is_kept() {
            return statement;
        }
        let (id, group) = (statement.id(), server.ledger.group());
        let (query, types) = (statement.query(), statement.parameter_types());
        match is_named {
            true if server.statements.presence(id, group) != Presence::Absent => statement,
            true => self.read_named(query, types),
            false if server.statements.is_unnamed(id, group) => statement,
            false => self.read_unnamed(query, types),
        }
    }

    /// Finds what a Bind or Describe is about and sees to it that the server has it, by a Parse in
    /// front if need be. Nothing is done if it stalls.
    fn resolve(
        &mut self,
        server: &mut Server,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
        concerned: Concerned<'_>,
    ) -> Result<Resolved, RequestFault> {
        let (name, bind) = (concerned.name(), concerned.bind());
        let group = server.ledger.group();
        let limit = match (name.is_empty(), self.named_max()) {
            // A Query that is under way drops the unnamed statement.
            (true, _) if server.ledger.queries_owed() > 0 => return Ok(Resolved::Stall),
            (true, _) => None,
            (false, Some(limit)) => Some(limit),
            (false, None) => return Ok(Resolved::AsItIs),
        };
        let statement = match self.find(name, group) {
            Found::Unclear => return Ok(Resolved::Stall),
            Found::Statement(statement) => statement.clone(),
            Found::Nothing if name.is_empty() => return Ok(Resolved::missing(name)),
            // The server's own error names it; but the server's names are not the client's.
            Found::Nothing if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) => {
                return Ok(Resolved::missing(name));
            }
            Found::Nothing => return Ok(Resolved::AsItIs),
        };
        let statement = match (bind, self.as_run_now(server, &statement)) {
            (Some(_), Err(entered)) => return Ok(entered),
            (Some(_), Ok(Some(deallocating))) => deallocating,
            _ => self.as_read_now(server, statement, limit.is_some()),
        };
        let id = statement.id();
        let meaning = match limit {
            Some(limit) => match server.statements.presence(id, group) {
                Presence::Unclear => return Ok(Resolved::Stall),
                Presence::There => Meaning::Named(id),
                Presence::Absent => {
                    teach(server, &statement, limit, splice.insert(seen.at))?;
                    Meaning::Named(id)
                }
            },
            None if server.statements.is_unnamed(id, group) => Meaning::Unnamed,
            None if !statement.is_kept() => return Ok(Resolved::missing(name)),
            None => {
                let (query, types) = (statement.query(), statement.parameter_types());
                encode::parse(splice.insert(seen.at), b"", query, types)?;
                server.statements.unnamed_asked(id, group);
                server.ledger.push(Owed::pooler(Expects::Parse).slot(Slot::Unnamed(id)));
                Meaning::Unnamed
            }
        };
        if let Some(bind) = bind {
            if statement.releases().is_some() {
                // What it takes away must be there, and may be left from the last time.
                let (name, out) = (statement.stand_in(), splice.insert(seen.at));
                encode::close_statement(out, name.as_bytes())?;
                server.ledger.push(Owed::pooler(Expects::Close));
                encode::parse(out, name.as_bytes(), b"", b"")?;
                server.ledger.push(Owed::pooler(Expects::Parse));
            }
            let names = self.names();
            names.executes_may_forget |= statement.may_forget();
            if names.executes_may_forget {
                names.bound(bind.portal, &statement);
            }
        }
        Ok(Resolved::Meaning(meaning))
    }
}

/// A message that is about a statement by its name.
#[derive(Clone, Copy)]
enum Concerned<'f> {
    Bind(Bind<'f>),
    Describe(&'f [u8]),
}

impl<'f> Concerned<'f> {
    /// `None` if it is about a portal.
    fn read(seen: Seen<'f>) -> Result<Option<Self>, RequestFault> {
        if seen.header.tag == b'B' {
            let bind = decode::bind(seen.body(), seen.header.body_len())?;
            return Ok(Some(Self::Bind(bind.ok_or(RequestFault::NamesTooLong)?)));
        }
        let target = decode::describe_or_close(seen.body())?;
        Ok((target.kind == Target::Statement).then_some(Self::Describe(target.name)))
    }

    const fn name(&self) -> &'f [u8] {
        match self {
            Self::Bind(bind) => bind.statement,
            Self::Describe(name) => name,
        }
    }

    const fn bind(&self) -> Option<&Bind<'f>> {
        match self {
            Self::Bind(bind) => Some(bind),
            Self::Describe(_) => None,
        }
    }

    const fn expects(&self) -> Expects {
        match self {
            Self::Bind(_) => Expects::Bind,
            Self::Describe(_) => Expects::Describe,
        }
    }

    /// Puts the message under another name in its place. What follows the names of a Bind stays
    /// where it lies.
    fn rename(
        &self,
        splice: &mut Splice<'_>,
        seen: Seen<'_>,
        name: &[u8],
    ) -> Result<(), RequestFault> {
        match self {
            Self::Bind(bind) => {
                let rest = rewrite::bind(splice.insert(seen.at), seen.header, bind, name)?;
                splice.skip(seen.at, seen.at + rest);
            }
            Self::Describe(_) => {
                encode::describe_statement(splice.replace(seen.at, seen.end()), name)?;
            }
        }
        Ok(())
    }
}

/// What the name in a Bind or Describe comes to.
enum Resolved {
    /// It goes to the server as it is.
    AsItIs,
    /// That is open.
    Stall,
    Meaning(Meaning),
}

enum Meaning {
    /// The server's unnamed statement is the client's.
    Unnamed,
    /// The server has it under this number.
    Named(u64),
    /// There is no such statement: the client is told so.
    Refused(ErrorMessage),
}

impl Resolved {
    fn missing(name: &[u8]) -> Self {
        Self::Meaning(Meaning::Refused(missing(name)))
    }
}

/// PostgreSQL's error for a statement that is not there.
fn missing(name: &[u8]) -> ErrorMessage {
    let text = match name {
        [] => "unnamed prepared statement does not exist".to_owned(),
        name => {
            format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name))
        }
    };
    ErrorMessage::error(SqlState::INVALID_SQL_STATEMENT_NAME, text)
}

/// Puts a message that cannot succeed in the place of one that is refused.
fn refuse(
    server: &mut Server,
    splice: &mut Splice<'_>,
    seen: Seen<'_>,
    message: ErrorMessage,
) -> Result<(), RequestFault> {
    encode::bind_no_parameters(splice.replace(seen.at, seen.end()), REFUSED_NAME)?;
    push_refusal(server, message);
    Ok(())
}

/// Records that the client is told `message` when the server misses [`REFUSED_NAME`].
fn push_refusal(server: &mut Server, message: ErrorMessage) {
    server.refusals.push_back(Refusal { code: SqlState::INVALID_SQL_STATEMENT_NAME, message });
    server.ledger.push(Owed::client(Expects::Refused));
}

/// Sends a client's Parse under the server's name for the statement, or answers it here if the server
/// has it.
fn send_parse(
    server: &mut Server,
    splice: &mut Splice<'_>,
    seen: Seen<'_>,
    statement: &Arc<Statement>,
    limit: NonZeroUsize,
) -> Result<Entered, RequestFault> {
    let (id, group) = (statement.id(), server.ledger.group());
    let presence = server.statements.presence(id, group);
    // Not in a failed transaction: there PostgreSQL would refuse the Parse.
    let may_succeed = server.ledger.is_in_first_group() && server.tx != TransactionStatus::Failed;
    match presence {
        Presence::Unclear => return Ok(Entered::Stall),
        Presence::There if may_succeed => {
            splice.skip(seen.at, seen.end());
            server.ledger.push(Owed::client(Expects::LocalParse).renaming());
            return Ok(Entered::Done);
        }
        Presence::There | Presence::Absent => {}
    }
    let out = splice.replace(seen.at, seen.end());
    let name = server_name(id);
    if presence == Presence::There {
        send_close(server, id, out)?;
        server.statements.parse_sent(statement, group);
    } else {
        make_room(server, statement, limit, out)?;
    }
    encode::parse(out, name.as_bytes(), statement.query(), statement.parameter_types())?;
    server.ledger.push(Owed::client(Expects::Parse).slot(Slot::Named(id)).renaming());
    Ok(Entered::Done)
}

/// Has the server parse a statement that it does not know; nothing if it does.
fn teach(
    server: &mut Server,
    statement: &Arc<Statement>,
    limit: NonZeroUsize,
    out: &mut Vec<u8>,
) -> Result<(), RequestFault> {
    let (id, group) = (statement.id(), server.ledger.group());
    if server.statements.presence(id, group) == Presence::Absent {
        make_room(server, statement, limit, out)?;
        let (query, types) = (statement.query(), statement.parameter_types());
        encode::parse(out, server_name(id).as_bytes(), query, types)?;
        server.ledger.push(Owed::pooler(Expects::Parse).slot(Slot::Named(id)));
    }
    Ok(())
}

/// Closes those statements that the server has no more room for when it gets one more, and records
/// that one.
fn make_room(
    server: &mut Server,
    statement: &Arc<Statement>,
    limit: NonZeroUsize,
    out: &mut Vec<u8>,
) -> Result<(), RequestFault> {
    for id in server.statements.surplus(limit) {
        send_close(server, id, out)?;
    }
    server.statements.parse_sent(statement, server.ledger.group());
    server.shared.statement_count.store(server.statements.len() as u64, Ordering::Relaxed);
    Ok(())
}

fn send_close(server: &mut Server, id: u64, out: &mut Vec<u8>) -> Result<(), RequestFault> {
    encode::close_statement(out, server_name(id).as_bytes())?;
    server.statements.close_sent(id, server.ledger.group());
    server.ledger.push(Owed::pooler(Expects::Close).slot(Slot::Named(id)));
    Ok(())
}
