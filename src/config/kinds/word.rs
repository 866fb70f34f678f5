//! Settings that are one word of a few: pool modes, authentication methods, log choices.
//!
//! Words are compared without regard to ASCII case, as PgBouncer does. The first line of each
//! type's word list is the spelling that is printed.

use std::borrow::Cow;
use std::fmt;

use super::super::value::{Kind, Refusal, Value};

/// When a server connection goes back to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PoolMode {
    /// When the client disconnects.
    #[default]
    Session,
    /// When the transaction ends.
    Transaction,
    /// When the statement ends; transaction blocks are not allowed.
    Statement,
}

/// Which of several hosts is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LoadBalance {
    /// The next one in turn.
    #[default]
    RoundRobin,
    /// That which was reached last.
    Disable,
}

/// How clients prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AuthType {
    /// No proof is asked for. Any user name is let in.
    Trust,
    /// The password travels in clear text.
    Plain,
    /// MD5, or SCRAM-SHA-256 for users whose stored secret is a SCRAM verifier.
    #[default]
    Md5,
    /// SCRAM-SHA-256 (RFC 5802, RFC 7677).
    ScramSha256,
    /// The client's certificate is made out to the user.
    Cert,
    /// As the first rule of `auth_hba_file` says that fits.
    Hba,
    /// Like trust, and the user's name means nothing: databases force theirs.
    Any,
}

/// Whether clients get TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientSslMode {
    /// They are told that there is none.
    #[default]
    Disable,
    /// If they ask for it.
    Allow,
    /// The same.
    Prefer,
    /// Over TCP they must.
    Require,
    /// And with a certificate of a CA that is trusted.
    VerifyCa,
    /// The same.
    VerifyFull,
}

impl ClientSslMode {
    /// Whether a client without TLS is refused.
    #[must_use]
    pub const fn insists(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// Whether a client without a trusted certificate is refused.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// Whether TLS is used towards servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ServerSslMode {
    /// It is not asked for.
    Disable,
    /// If the server has it. No certificate is looked at.
    Allow,
    /// The same.
    #[default]
    Prefer,
    /// Or not at all. No certificate is looked at.
    Require,
    /// The certificate must be of a CA that is trusted.
    VerifyCa,
    /// And it must be of the host that was asked for.
    VerifyFull,
}

impl ServerSslMode {
    /// Whether certificates are looked at.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }

    /// Whether a server without TLS is refused.
    #[must_use]
    pub const fn insists(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The least important lines that are still logged. `Error < Warn < Info < Debug`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what should be looked at.
    Warn,
    /// And what happens in normal running.
    #[default]
    Info,
    /// And details for finding faults.
    Debug,
}

/// A type with a closed list of words.
pub(in crate::config) trait Words: Copy + PartialEq + 'static {
    /// Spellings and meanings, in the order in which an error lists them.
    const WORDS: &'static [(&'static str, Self)];
    /// PgBouncer's words for what pgbaton cannot do yet.
    const UNSUPPORTED: &'static [&'static str] = &[];

    /// The printed spelling.
    fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, meaning)| *meaning == self);
        found.map(|(word, _)| *word).expect("BUG: every variant has a word")
    }
}

impl Words for PoolMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("session", Self::Session),
        ("transaction", Self::Transaction),
        ("statement", Self::Statement),
    ];
}

impl Words for LoadBalance {
    const WORDS: &'static [(&'static str, Self)] =
        &[("round-robin", Self::RoundRobin), ("disable", Self::Disable)];
}

impl Words for AuthType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("trust", Self::Trust),
        ("plain", Self::Plain),
        ("md5", Self::Md5),
        ("scram-sha-256", Self::ScramSha256),
        ("cert", Self::Cert),
        ("any", Self::Any),
        ("hba", Self::Hba),
    ];
    const UNSUPPORTED: &'static [&'static str] = &["ldap", "pam"];
}

impl Words for ClientSslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Words for ServerSslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Words for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Words for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];
}

/// Prints a word type as the file spells it.
macro_rules! display_word {
    ($($name:ty),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    )+};
}

display_word!(LoadBalance, PoolMode, AuthType, ClientSslMode, ServerSslMode, LogFormat, LogLevel);

/// One word of a type's list.
pub(in crate::config) struct Word;

impl<T: Words> Kind<T> for Word {
    fn read(&self, value: &Value) -> Result<T, Refusal> {
        let Value::Text(text) = value else {
            return Err(Refusal::expected(alternatives::<T>("\"")));
        };
        let text = text.trim();
        if let Some((_, meaning)) = T::WORDS.iter().find(|(w, _)| w.eq_ignore_ascii_case(text)) {
            return Ok(*meaning);
        }
        if T::UNSUPPORTED.iter().any(|word| word.eq_ignore_ascii_case(text)) {
            return Err(Refusal::Unsupported);
        }
        Err(Refusal::expected(alternatives::<T>("\"")))
    }

    fn show(&self, value: &T) -> String {
        value.word().to_owned()
    }

    fn range(&self) -> Cow<'static, str> {
        // `Kind<T>` fixes T at the call; the words themselves come from `alternatives`.
        alternatives::<T>("").into()
    }
}

/// "a, b or c", each between `quote`s.
fn alternatives<T: Words>(quote: &str) -> String {
    let mut text = String::new();
    let last = T::WORDS.len().saturating_sub(1);
    for (index, (word, _)) in T::WORDS.iter().enumerate() {
        let joint = match index {
            0 => "",
            i if i == last => " or ",
            _ => ", ",
        };
        text.push_str(joint);
        text.push_str(quote);
        text.push_str(word);
        text.push_str(quote);
    }
    text
}
