//! The ledger of replies that a server owes: what has been asked, in order, and for whom.
//!
//! Every message sent to a server that will be answered adds an entry; every reply that ends an
//! answer takes one away. The ledger alone decides when a server is free, which replies the
//! client sees and which are swallowed, and where an answer made up locally belongs. It follows
//! the rules of the protocol chapter: after an ErrorResponse in the extended protocol everything
//! up to the next Sync is skipped, and during COPY IN a Sync is ignored by the server.
//!
//! Messages fall into groups: a group ends with the message that brings a ReadyForQuery. Within a
//! group an error takes all that follows with it, so whoever reads a request may count on what
//! stands before it in its own group, but not on earlier groups that are still unanswered.
//!
//! It knows no sockets, statements or sessions. A reply that fits nothing owed is a [`Desync`]:
//! the server must not be used again.

use std::collections::VecDeque;

/// What an entry waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expects {
    /// Query: anything up to ReadyForQuery.
    Query,
    /// FunctionCall: FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
    /// Parse: ParseComplete.
    Parse,
    /// Bind: BindComplete.
    Bind,
    /// Describe: RowDescription or NoData (after ParameterDescription for a statement).
    Describe,
    /// Execute: CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// Close: CloseComplete.
    Close,
    /// Sync: ReadyForQuery.
    Sync,
    /// A Sync sent in the place of a Query that is answered here: ReadyForQuery ends it, and
    /// tells what the Query's answer would have been.
    Deallocate,
    /// CopyDone or CopyFail was sent; the server answers nothing to it as such.
    CopyEnd,
    /// A Parse answered here: ParseComplete is made up when its turn comes.
    LocalParse,
    /// A Close answered here: CloseComplete is made up when its turn comes.
    LocalClose,
    /// A message sent in order to fail: the server's error is replaced by one of ours.
    Refused,
}

impl Expects {
    /// Whether the client sent a Query.
    const fn is_query(self) -> bool {
        matches!(self, Self::Query | Self::Deallocate)
    }

    /// Whether the server gets a Sync for it.
    const fn is_sync(self) -> bool {
        matches!(self, Self::Sync | Self::Deallocate)
    }

    /// Whether a ReadyForQuery ends it, so that a new group begins behind it.
    const fn ends_group(self) -> bool {
        matches!(self, Self::Query | Self::FunctionCall | Self::Sync | Self::Deallocate)
    }
}

/// Who sees the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The client asked.
    Client,
    /// The pooler asked on its own behalf; nobody else sees the answer.
    Pooler,
}

/// What a message does to the prepared statements of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Nothing.
    None,
    /// It parses or closes the statement of this number.
    Named(u64),
    /// It makes the statement of this number the unnamed one; 0 leaves none.
    Unnamed(u64),
    /// It needs the statement of this number, which the client calls by a name with this hash.
    Uses(u64, u32),
}

/// One reply owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// What completes it.
    pub expects: Expects,
    /// Who sees it.
    pub audience: Audience,
    /// Whether the client's oldest pending change of names stands or falls with it.
    pub renames: bool,
    /// What it does to the server's statements.
    pub slot: Slot,
    /// A Sync behind CopyData: see [`Ledger::is_in_doubt`].
    behind_data: bool,
}

impl Owed {
    /// A reply that the client sees.
    #[must_use]
    pub const fn client(expects: Expects) -> Self {
        let (audience, slot) = (Audience::Client, Slot::None);
        Self { expects, audience, renames: false, slot, behind_data: false }
    }

    /// A reply that is swallowed.
    #[must_use]
    pub const fn pooler(expects: Expects) -> Self {
        Self { audience: Audience::Pooler, ..Self::client(expects) }
    }

    /// The same with what it does to the server's statements.
    #[must_use]
    pub const fn slot(self, slot: Slot) -> Self {
        Self { slot, ..self }
    }

    /// The same with a change of the client's names that depends on it.
    #[must_use]
    pub const fn renaming(self) -> Self {
        Self { renames: true, ..self }
    }
}

/// Why an entry will never be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The server tried it and reported an error.
    Failed,
    /// The server passed over it because of an error in front of it.
    Skipped,
}

/// What a reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Who sees this message.
    pub audience: Audience,
    /// The entry that it completed, if it did.
    pub completed: Option<Owed>,
}

/// A server's reply that answers nothing that was asked. The connection is out of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("server sent message {:?} where none such was owed", char::from(*tag))]
pub struct Desync {
    /// The message's tag.
    pub tag: u8,
}

/// The replies owed by one server, oldest first.
#[derive(Debug, Default)]
pub struct Ledger {
    owed: VecDeque<Owed>,
    /// The number of the group that the next message belongs to.
    group: u64,
    /// Entries of the client that a ReadyForQuery ends.
    groups_owed: usize,
    /// Those of them that are for a Query, sent or answered here.
    queries_owed: usize,
    /// An error was reported and no Sync has been sent since: the server skips what it is sent.
    skipping: bool,
    /// The server has asked for COPY data and neither CopyDone nor CopyFail has been sent.
    copy_in: bool,
    /// Extended-protocol messages were sent since the last Sync.
    unsynced: bool,
    /// A Flush was sent behind all of them.
    flushed: bool,
    /// CopyData was sent, and nothing behind it but Sync.
    data_sent: bool,
    /// Syncs sent behind CopyData and ignored, if the COPY has got as far as them.
    ignored: usize,
    /// ReadyForQuery messages that may come for those, since the COPY has failed.
    doubt: usize,
    /// The oldest entry has had a part of its answer.
    is_begun: bool,
}

impl Ledger {
    /// Whether nothing is owed and nothing is half asked: the condition for giving a server away.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty() && !self.skipping && !self.copy_in && !self.unsynced && self.doubt == 0
    }

    /// Whether the server may say ReadyForQuery without more being asked. During COPY IN a Sync is
    /// ignored, and behind one that has failed it is answered; where it stands among the data does
    /// not tell which. The next answer that is something else ends the doubt: see
    /// [`Ledger::wants_question`].
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        self.doubt > 0
    }

    /// Whether only a question of the pooler's own can end the doubt. An empty Query will do.
    #[must_use]
    pub fn wants_question(&self) -> bool {
        self.is_in_doubt() && self.owed.is_empty() && !self.needs_sync() && !self.copy_in
    }

    /// Records that CopyData is sent.
    pub fn note_copy_data(&mut self) {
        self.data_sent = !self.owed.is_empty();
    }

    /// Entries owed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether no reply is owed. The server may still be in the middle of a request: see
    /// [`Ledger::is_settled`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether a message of the server is still to come for what is owed.
    #[must_use]
    pub fn awaits_server(&self) -> bool {
        use Expects::{CopyEnd, LocalClose, LocalParse};
        self.owed.iter().any(|o| !matches!(o.expects, CopyEnd | LocalClose | LocalParse))
    }

    /// Whether the server waits for COPY data.
    #[must_use]
    pub const fn in_copy_in(&self) -> bool {
        self.copy_in
    }

    /// Whether a Sync must be sent before the server says ReadyForQuery again.
    #[must_use]
    pub const fn needs_sync(&self) -> bool {
        self.unsynced || self.skipping
    }

    /// Whether the server skips everything up to a Sync that has not been sent yet.
    #[must_use]
    pub const fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The number of the group that the next message belongs to. Numbers only rise.
    #[must_use]
    pub const fn group(&self) -> u64 {
        self.group
    }

    /// Whether no earlier group of the client is unanswered: the last ReadyForQuery still tells in
    /// which state the present group began. The pooler's own queries change no state.
    #[must_use]
    pub const fn is_in_first_group(&self) -> bool {
        self.groups_owed == 0
    }

    /// Groups of the client that have been sent whole and are not answered to their end.
    #[must_use]
    pub const fn groups_owed(&self) -> usize {
        self.groups_owed
    }

    /// Query messages of the client that have not been answered to their end.
    #[must_use]
    pub const fn queries_owed(&self) -> usize {
        self.queries_owed
    }

    /// Whether the server keeps replies back until it is sent a Flush or a Sync.
    #[must_use]
    pub const fn wants_flush(&self) -> bool {
        self.unsynced && !self.flushed
    }

    /// Records that a Flush is sent.
    pub const fn note_flush(&mut self) {
        self.flushed = true;
    }

    /// Whether the oldest reply owed is the pooler's own.
    #[must_use]
    pub fn head_is_poolers(&self) -> bool {
        matches!(self.owed.front(), Some(o) if o.audience == Audience::Pooler)
    }

    /// Whether the oldest reply owed is a simple query's: no message but ReadyForQuery ends it.
    #[must_use]
    pub fn head_is_query(&self) -> bool {
        matches!(self.owed.front(), Some(o) if o.expects == Expects::Query)
    }

    /// Records a message about to be sent. False: the server will skip or consume it silently,
    /// so no reply is owed (it must be sent all the same, unless it is a local one).
    pub fn push(&mut self, owed: Owed) -> bool {
        use Expects::{CopyEnd, Deallocate, FunctionCall, Query, Sync};
        let behind_data = self.data_sent && owed.expects == Sync;
        self.data_sent = behind_data;
        if self.copy_in {
            // CopyGetData() ignores Flush and Sync; whatever else arrives ends the COPY, by
            // CopyDone or CopyFail or as an error, and is consumed by it.
            if owed.expects != Sync {
                self.copy_in = false;
            }
            self.ignored += usize::from(behind_data);
            return false;
        }
        if self.skipping {
            if owed.expects != Sync {
                return false;
            }
            self.skipping = false;
        }
        match owed.expects {
            Sync | Deallocate => self.unsynced = false,
            Query | FunctionCall => {}
            CopyEnd if self.owed.is_empty() => return false,
            CopyEnd => {}
            _ => self.unsynced = true,
        }
        self.flushed = false;
        if owed.expects.ends_group() {
            self.group += 1;
            if owed.audience == Audience::Client {
                self.groups_owed += 1;
                self.queries_owed += usize::from(owed.expects.is_query());
            }
        }
        self.owed.push_back(Owed { behind_data, ..owed });
        true
    }

    /// Accounts for a backend message other than ErrorResponse. Entries that will never be
    /// answered because a COPY has swallowed their messages go to `dropped`, oldest first.
    ///
    /// # Errors
    /// [`Desync`] when it answers nothing that is owed.
    pub fn receive(&mut self, tag: u8, dropped: impl FnMut(Owed, Fate)) -> Result<Reply, Desync> {
        // NoticeResponse, ParameterStatus and NotificationResponse may come at any time.
        if matches!(tag, b'N' | b'S' | b'A') {
            let audience = self.owed.front().map_or(Audience::Client, |o| o.audience);
            return Ok(Reply { audience, completed: None });
        }
        let head = self.owed.front().copied();
        if tag == b'Z' && self.doubt > 0 && !self.head_may_end() {
            self.doubt -= 1;
            return Ok(Reply { audience: Audience::Client, completed: None });
        }
        let Some(head) = head else {
            return Err(Desync { tag });
        };
        let completes = match (head.expects, tag) {
            (
                Expects::Query | Expects::FunctionCall | Expects::Sync | Expects::Deallocate,
                b'Z',
            )
            | (Expects::Parse, b'1')
            | (Expects::Bind, b'2')
            | (Expects::Close, b'3')
            | (Expects::Describe, b'T' | b'n')
            | (Expects::Execute, b'C' | b'I' | b's') => true,
            (Expects::Query, b'T' | b'D' | b'C' | b'I' | b'H' | b'W' | b'd' | b'c')
            | (Expects::Describe, b't')
            | (Expects::Execute, b'D' | b'H' | b'W' | b'd' | b'c')
            | (Expects::FunctionCall, b'V') => false,
            (Expects::Query | Expects::Execute, b'G') => {
                if !self.enter_copy_in(dropped) {
                    return Err(Desync { tag });
                }
                false
            }
            _ => return Err(Desync { tag }),
        };
        if tag != b'Z' {
            // It answers what stands behind the COPY that failed.
            self.doubt = 0;
        }
        if tag == b'C' {
            self.ignored = 0;
        }
        self.is_begun = true;
        if completes {
            self.take_front();
            if tag == b'Z' && self.owed.is_empty() {
                // A Query ends what stands before it as a Sync does.
                self.unsynced = false;
            }
        }
        Ok(Reply { audience: head.audience, completed: completes.then_some(head) })
    }

    /// Accounts for an ErrorResponse. Every entry that will never be answered because of it goes
    /// to `dropped`, oldest first. The reply's `completed` is the failed entry, if the error ended
    /// one; an error's audience is the client, except for the pooler's own simple queries.
    pub fn receive_error(&mut self, mut dropped: impl FnMut(Owed, Fate)) -> Reply {
        self.copy_in = false;
        self.doubt += std::mem::take(&mut self.ignored);
        let Some(&head) = self.owed.front() else {
            // Between requests, or while skipping: a FATAL one; nothing is owed for it.
            return Reply { audience: Audience::Client, completed: None };
        };
        if head.expects.ends_group() {
            self.is_begun = true;
            return Reply { audience: head.audience, completed: None };
        }
        let mut fate = Fate::Failed;
        while self.owed.front().is_some_and(|o| !o.expects.is_sync()) {
            if let Some(owed) = self.take_front() {
                dropped(owed, fate);
            }
            fate = Fate::Skipped;
        }
        if self.owed.is_empty() {
            self.skipping = true;
            self.unsynced = false;
        }
        Reply { audience: Audience::Client, completed: Some(head) }
    }

    /// Takes the next reply to be made up here, if its turn has come. Call after every reply and
    /// after every push, until it gives nothing.
    pub fn take_local(&mut self) -> Option<Owed> {
        loop {
            match self.owed.front()?.expects {
                Expects::CopyEnd => {
                    self.owed.pop_front();
                }
                Expects::LocalParse | Expects::LocalClose => return self.owed.pop_front(),
                _ => return None,
            }
        }
    }

    /// CopyInResponse: what was already sent behind the COPY is consumed by it, up to and
    /// including CopyDone or CopyFail. False: something stands there that would have ended the
    /// session, but the server has not been sent it.
    fn enter_copy_in(&mut self, mut dropped: impl FnMut(Owed, Fate)) -> bool {
        self.copy_in = true;
        while self.owed.len() > 1 {
            let Some(owed) = self.owed.remove(1) else { break };
            self.uncount(owed);
            self.ignored += usize::from(owed.behind_data);
            dropped(owed, Fate::Skipped);
            if matches!(owed.expects, Expects::LocalParse | Expects::LocalClose) {
                return false;
            }
            if owed.expects != Expects::Sync {
                self.copy_in = false;
                return true;
            }
        }
        // A Sync that was swallowed by the COPY no longer ends the group.
        if matches!(self.owed.front(), Some(o) if o.expects == Expects::Execute) {
            self.unsynced = true;
        }
        true
    }

    /// Whether a ReadyForQuery can be the end of the oldest answer: not of one to a Query of which
    /// nothing else has come.
    fn head_may_end(&self) -> bool {
        self.owed.front().is_some_and(|owed| match owed.expects {
            Expects::Query | Expects::FunctionCall => self.is_begun,
            expects => expects.ends_group(),
        })
    }

    fn take_front(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        self.is_begun = false;
        self.uncount(owed);
        Some(owed)
    }

    fn uncount(&mut self, owed: Owed) {
        if owed.expects.ends_group() && owed.audience == Audience::Client {
            self.groups_owed -= 1;
            self.queries_owed -= usize::from(owed.expects.is_query());
        }
    }
}

#[cfg(test)]
mod tests;
