//! An error or a notice that pgbaton itself speaks to a client.
//!
//! It knows the fields that we ever write (S, V, C, M, D, H) and nothing about who caused the
//! error or what becomes of a connection; that is for the layers above. Messages of servers are
//! passed on as bytes and never become an [`ErrorMessage`], unless their text is cached on purpose.

use std::fmt;

use super::sqlstate::SqlState;

/// The severity of an ErrorResponse or a NoticeResponse.
///
/// Source: chapter "Error and Notice Message Fields", fields S and V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// The whole server ends.
    Panic,
    /// A warning.
    Warning,
    /// A notice.
    Notice,
    /// A debugging message.
    Debug,
    /// Information that was asked for.
    Info,
    /// A message of the server's log.
    Log,
}

impl Severity {
    /// The untranslated word, as in field V.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Log => "LOG",
        }
    }

    /// The severity that an untranslated word names; `None` for a translated or unknown one.
    pub fn from_bytes(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"ERROR" => Self::Error,
            b"FATAL" => Self::Fatal,
            b"PANIC" => Self::Panic,
            b"WARNING" => Self::Warning,
            b"NOTICE" => Self::Notice,
            b"DEBUG" => Self::Debug,
            b"INFO" => Self::Info,
            b"LOG" => Self::Log,
            _ => return None,
        })
    }

    /// Whether the sender closes the connection after a message of this severity.
    pub const fn ends_session(self) -> bool {
        matches!(self, Self::Fatal | Self::Panic)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an ErrorResponse or a NoticeResponse of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    /// Whether the session goes on.
    pub severity: Severity,
    /// The code that applications act on.
    pub code: SqlState,
    /// The one-line text.
    pub message: String,
    /// A second line with particulars.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ErrorMessage {
    /// A message of any severity, without detail and hint.
    pub fn new(severity: Severity, code: SqlState, message: impl Into<String>) -> Self {
        Self { severity, code, message: message.into(), detail: None, hint: None }
    }

    /// An ERROR: the session goes on.
    pub fn error(code: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// A FATAL: the caller closes the connection after it.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, code, message)
    }

    /// A NOTICE.
    pub fn notice(message: impl Into<String>) -> Self {
        Self::new(Severity::Notice, SqlState::SUCCESSFUL_COMPLETION, message)
    }

    /// A WARNING.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, SqlState::WARNING, message)
    }

    /// The same message with field D.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same message with field H.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ErrorMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.severity, self.message, self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_read_as_they_are_written() {
        use Severity::*;
        for severity in [Error, Fatal, Panic, Warning, Notice, Debug, Info, Log] {
            assert_eq!(Severity::from_bytes(severity.as_str().as_bytes()), Some(severity));
            assert_eq!(severity.ends_session(), matches!(severity, Fatal | Panic));
        }
        assert_eq!(Severity::from_bytes("FEHLER".as_bytes()), None);
    }

    #[test]
    fn builders_fill_what_they_name() {
        let message = ErrorMessage::fatal(SqlState::TOO_MANY_CONNECTIONS, "no more")
            .with_detail("d")
            .with_hint("h");
        assert_eq!(message.to_string(), "FATAL: no more (53300)");
        assert_eq!((message.detail.as_deref(), message.hint.as_deref()), (Some("d"), Some("h")));
        assert_eq!(ErrorMessage::warning("w").code, SqlState::WARNING);
        assert_eq!(ErrorMessage::notice("n").severity, Severity::Notice);
        assert!(!ErrorMessage::error(SqlState::INTERNAL_ERROR, "x").severity.ends_session());
    }
}
