//! The bodies of the few messages that a pooler must read.
//!
//! Each function takes exactly one body, the bytes behind a frame's header, and borrows from it. It
//! must not know what is done with a message. Invariants: nothing is read outside of the body, a
//! body with anything left over is refused, counts are checked against the bytes that are there
//! before they are used, and no byte of a peer can cause a panic.
//!
//! The texts of the errors are those of Postgres, as clients see them.

use thiserror::Error;

use super::error::ErrorMessage;
use super::sqlstate::SqlState;

mod backend;
mod frontend;

pub use backend::{
    Authentication, BackendKeyData, ErrorFields, NegotiateProtocolVersion, NotificationResponse,
    ParameterStatus, Strings, authentication, backend_key_data, command_complete, error_fields,
    negotiate_protocol_version, notification_response, parameter_status, ready_for_query,
};
pub use frontend::{
    Bind, DescribeOrClose, Execute, Parse, SaslInitialResponse, Target, bind, describe_or_close,
    execute, parse, password, query, sasl_initial_response,
};

/// Why a body is not the message that its tag says.
///
/// Framing is intact: an extended query may go on after Sync, as Postgres does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A field reaches beyond the body, or a count or a length inside lies.
    #[error("insufficient data left in message")]
    Truncated,
    /// A string has no end.
    #[error("invalid string in message")]
    Unterminated,
    /// The message ends before its body does.
    #[error("invalid message format")]
    TrailingBytes,
    /// Describe or Close of neither a statement nor a portal.
    #[error("invalid message subtype {0}")]
    Subtype(u8),
    /// A password with a NUL inside, or without one at its end.
    #[error("invalid password packet size")]
    PasswordSize,
    /// A password of no characters.
    #[error("empty password returned by client")]
    EmptyPassword,
    /// ReadyForQuery with a status that does not exist.
    #[error("invalid transaction status {0}")]
    TransactionStatus(u8),
    /// BackendKeyData whose secret is not of 4 to 256 bytes.
    #[error("invalid length of cancel key")]
    SecretLength,
}

impl DecodeError {
    /// The code for the client.
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::EmptyPassword => SqlState::INVALID_PASSWORD,
            _ => SqlState::PROTOCOL_VIOLATION,
        }
    }

    /// What to tell a client that sent the body: an ERROR, after which the session goes on.
    ///
    /// During login the caller raises the severity to FATAL.
    pub fn to_message(&self) -> ErrorMessage {
        ErrorMessage::error(self.sqlstate(), self.to_string())
    }
}

#[cfg(test)]
mod tests;
