//! How a session ends: whose doing it is, what the client is told, and what the log says.

use std::io;

use super::requests::RequestFault;
use super::time_limits::TimeLimit;
use crate::net::HandshakeError;
use crate::pool::Refusal;
use crate::protocol::error::ErrorMessage;
use crate::protocol::sqlstate::SqlState;
use crate::protocol::startup::StartupError;
use crate::server::ServerFault;
use crate::server::framed::ReadError;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The client said Terminate.
    #[error("client close request")]
    Terminated,
    /// The client closed its connection.
    #[error("client unexpected eof")]
    ClientClosed,
    /// The client's socket failed.
    #[error("client connection lost: {0}")]
    ClientIo(#[source] io::Error),
    /// The client's bytes made no sense.
    #[error("client protocol violation: {0}")]
    Violation(#[source] RequestFault),
    /// Its server was lost.
    #[error("{0}")]
    Server(#[source] ServerFault),
    /// No server was to be had.
    #[error("no server: {0}")]
    NoServer(ErrorMessage),
    /// It waited longer than `query_wait_timeout`.
    #[error("query_wait_timeout")]
    QueryWaitTimeout,
    /// The pool took no more waiters, or is closed.
    #[error("pool refused: {0}")]
    Refused(Refusal),
    /// It took longer than it may.
    #[error("{}", .0.text())]
    TimeLimit(TimeLimit),
    /// It began a transaction block in statement pooling mode.
    #[error("transaction blocks not allowed in statement pooling mode")]
    TransactionBlock,
    /// pgbaton is stopping, or the console said so.
    #[error("{0}")]
    Stopped(&'static str),
}

impl SessionEnd {
    /// What the client is told, if it is still there to be told.
    #[must_use]
    pub fn client_message(&self) -> Option<ErrorMessage> {
        let (code, text) = match self {
            Self::Terminated | Self::ClientClosed | Self::ClientIo(_) => return None,
            Self::Server(fault) => return fault.client_message(),
            Self::NoServer(message) => return Some(message.clone()),
            Self::Violation(fault) => (SqlState::PROTOCOL_VIOLATION, fault.to_string()),
            Self::TimeLimit(limit) => (limit.code(), limit.text().to_owned()),
            Self::TransactionBlock => (SqlState::PROTOCOL_VIOLATION, self.to_string()),
            Self::QueryWaitTimeout => {
                (SqlState::TOO_MANY_CONNECTIONS, "query_wait_timeout".to_owned())
            }
            Self::Refused(Refusal::WaitersFull) => {
                (SqlState::TOO_MANY_CONNECTIONS, "too many clients are waiting".to_owned())
            }
            Self::Refused(_) => (SqlState::ADMIN_SHUTDOWN, "database was removed".to_owned()),
            Self::Stopped(_) => (
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command".to_owned(),
            ),
        };
        Some(ErrorMessage::fatal(code, text))
    }
}

impl TimeLimit {
    /// PgBouncer's words.
    const fn text(self) -> &'static str {
        match self {
            Self::Idle => "client_idle_timeout",
            Self::IdleTransaction => "idle transaction timeout",
            Self::Transaction => "transaction timeout",
            Self::Query => "query timeout",
        }
    }

    /// PostgreSQL's code for its own limit of the kind.
    const fn code(self) -> SqlState {
        match self {
            Self::Idle => SqlState::IDLE_SESSION_TIMEOUT,
            Self::IdleTransaction => SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            Self::Transaction => SqlState::TRANSACTION_TIMEOUT,
            Self::Query => SqlState::QUERY_CANCELED,
        }
    }
}

/// Why a login came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The client left, or its socket failed, or its message was malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its first packet was malformed.
    #[error(transparent)]
    Startup(#[from] StartupError),
    /// No TLS connection came about; what it is told is in TLS's own alert.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// It was refused; it gets this message.
    #[error("{0}")]
    Refused(ErrorMessage),
    /// It took longer than `client_login_timeout`.
    #[error("client_login_timeout")]
    TimedOut,
    /// The socket failed while something was sent.
    #[error("client connection lost: {0}")]
    Io(#[from] io::Error),
    /// It was no client but a cancel request, or a connection check.
    #[error("not a session")]
    NoSession,
}

impl LoginError {
    /// A FATAL refusal.
    #[must_use]
    pub fn refused(code: SqlState, text: impl Into<String>) -> Self {
        Self::Refused(ErrorMessage::fatal(code, text))
    }

    /// Whether it is a wrong password, here or at the server.
    #[must_use]
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Refused(message) if message.code == SqlState::INVALID_PASSWORD)
    }

    /// What the client is told.
    #[must_use]
    pub fn client_message(&self) -> Option<ErrorMessage> {
        match self {
            Self::Refused(message) => Some(message.clone()),
            Self::Startup(error) => Some(ErrorMessage::fatal(error.sqlstate(), error.to_string())),
            Self::Read(ReadError::Frame(error)) => {
                Some(ErrorMessage::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()))
            }
            Self::TimedOut => {
                Some(ErrorMessage::fatal(SqlState::PROTOCOL_VIOLATION, "client_login_timeout"))
            }
            Self::Read(_) | Self::Tls(_) | Self::Io(_) | Self::NoSession => None,
        }
    }
}
