//! What a pool logs in with that no configuration says: keys derived from its password, and what its
//! clients have proved or a look-up has told.
//!
//! A client's SCRAM proof reveals keys that log in to every server with the same verifier, so that no
//! password needs to be stored anywhere. Invariants: held for the pool of the very user who proved it
//! and for no other; never shown; wiped when dropped.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::auth::Secret;
use crate::auth::scram::ClientKeys;

/// What a login of a client has told of its user's secret.
#[derive(Debug, Clone)]
pub enum Learnt {
    /// A password that was right, or what a look-up has found.
    Secret(Secret),
    /// The keys that a SCRAM proof has revealed.
    Keys(Arc<ClientKeys>),
}

impl Learnt {
    /// Whether a server would be told the same.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Secret(a), Self::Secret(b)) => a == b,
            (Self::Keys(a), Self::Keys(b)) => a == b,
            (Self::Secret(_), Self::Keys(_)) | (Self::Keys(_), Self::Secret(_)) => false,
        }
    }
}

/// Of one pool.
#[derive(Debug, Default)]
pub struct Credentials(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Derived from a password, so that PBKDF2 runs once per password, salt and count.
    derived: Option<Arc<ClientKeys>>,
    secret: Option<Secret>,
    keys: Option<Arc<ClientKeys>>,
    /// Counts what was learnt: an attempt that began with less says nothing of what is known now.
    version: u64,
}

impl Credentials {
    /// The keys for this salt and count, if they are known.
    #[must_use]
    pub fn keys(&self, salt: &[u8], iterations: u32) -> Option<Arc<ClientKeys>> {
        let held = self.0.lock();
        let fits = |keys: &&Arc<ClientKeys>| keys.fit(salt, iterations);
        held.derived.as_ref().filter(fits).or(held.keys.as_ref().filter(fits)).cloned()
    }

    /// The secret that was learnt.
    #[must_use]
    pub fn secret(&self) -> Option<Secret> {
        self.0.lock().secret.clone()
    }

    /// Remembers keys just derived from a password.
    pub fn remember(&self, keys: ClientKeys) -> Arc<ClientKeys> {
        let keys = Arc::new(keys);
        self.0.lock().derived = Some(keys.clone());
        keys
    }

    /// Takes in what a client's login has told. True if it is news.
    #[must_use]
    pub fn learn(&self, learnt: Learnt) -> bool {
        let mut held = self.0.lock();
        let known = match &learnt {
            Learnt::Secret(_) => held.secret.clone().map(Learnt::Secret),
            Learnt::Keys(_) => held.keys.clone().map(Learnt::Keys),
        };
        if known.is_some_and(|known| known.is(&learnt)) {
            return false;
        }
        match learnt {
            Learnt::Secret(secret) => {
                held.secret = Some(secret);
                // They may be of an older password, for a salt that is the same.
                held.derived = None;
            }
            Learnt::Keys(keys) => held.keys = Some(keys),
        }
        held.version += 1;
        true
    }

    /// How much is known, for [`refused`](Self::refused).
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.lock().version
    }

    /// A server has refused what was known at `version`. False if more is known since then: the refusal
    /// is of no interest any more. What was learnt stays, so that to hear it once more is no news: a
    /// login is no reason to ask the server again for what it has just refused.
    #[must_use]
    pub fn refused(&self, version: u64) -> bool {
        let mut held = self.0.lock();
        held.derived = None;
        held.version == version
    }

    /// The configured secret may be another: what was derived of it is forgotten.
    pub fn reconfigured(&self) {
        self.0.lock().derived = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(password: &[u8], salt: &[u8]) -> Arc<ClientKeys> {
        Arc::new(ClientKeys::derive(password, salt, 1))
    }

    #[test]
    fn what_is_learnt_is_found_and_news_once() {
        let credentials = Credentials::default();
        assert!(credentials.keys(b"s", 1).is_none());
        assert!(credentials.learn(Learnt::Keys(keys(b"a", b"s"))));
        assert!(!credentials.learn(Learnt::Keys(keys(b"a", b"s"))));
        assert!(credentials.keys(b"s", 1).is_some());
        assert!(credentials.keys(b"s", 2).is_none());
        assert!(credentials.keys(b"t", 1).is_none());
        // Another password for the same salt, as a server that restores a verifier may have it.
        assert!(credentials.learn(Learnt::Keys(keys(b"b", b"s"))));
        let plain = || Learnt::Secret(Secret::parse(b"pencil"));
        assert!(credentials.learn(plain()));
        assert!(!credentials.learn(plain()));
        assert!(matches!(credentials.secret(), Some(Secret::Plain(_))));
    }

    #[test]
    fn a_refusal_counts_unless_more_was_learnt_since() {
        let credentials = Credentials::default();
        assert!(credentials.learn(Learnt::Keys(keys(b"old", b"s"))));
        let version = credentials.version();
        assert!(credentials.learn(Learnt::Keys(keys(b"new", b"t"))));
        assert!(!credentials.refused(version));
        assert!(credentials.keys(b"t", 1).is_some());
        assert!(credentials.refused(credentials.version()));
        assert!(!credentials.learn(Learnt::Keys(keys(b"new", b"t"))));
    }

    #[test]
    fn a_reload_keeps_what_clients_have_proved() {
        let credentials = Credentials::default();
        let _ = credentials.remember(ClientKeys::derive(b"configured", b"c", 1));
        assert!(credentials.learn(Learnt::Keys(keys(b"proved", b"p"))));
        credentials.reconfigured();
        assert!(credentials.keys(b"c", 1).is_none());
        assert!(credentials.keys(b"p", 1).is_some());
    }
}
