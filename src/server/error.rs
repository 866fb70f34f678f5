//! What can go wrong with a server, and what its client is told.

use std::io;

use super::replies::ReplyFault;
use crate::config::ServerSslMode;
use crate::net::HandshakeError;
use crate::protocol::decode::{DecodeError, ErrorFields};
use crate::protocol::error::{ErrorMessage, Severity};
use crate::protocol::frame::FrameError;
use crate::protocol::sqlstate::SqlState;

/// A server's error in our own form: bytes that are no UTF-8 are replaced, since this is for logs
/// and for clients that have not got the original.
#[must_use]
pub fn error_message(fields: &ErrorFields<'_>) -> ErrorMessage {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ErrorMessage {
        severity: fields.severity_known().unwrap_or(Severity::Error),
        code: fields.sqlstate().unwrap_or(SqlState::INTERNAL_ERROR),
        message: fields.message.map_or_else(|| "unknown error".to_owned(), text),
        detail: fields.detail.map(text),
        hint: fields.hint.map(text),
    }
}

/// A connected server failed. The connection is closed; its client, if it has one, is told.
#[derive(Debug, thiserror::Error)]
pub enum ServerFault {
    /// The server closed the connection without a word.
    #[error("server conn crashed?")]
    Closed,
    /// The socket failed.
    #[error("server conn crashed? ({0})")]
    Io(#[from] io::Error),
    /// The server said FATAL; the client has got its words.
    #[error("server closed the connection with a FATAL error")]
    Fatal,
    /// The server's bytes made no sense.
    #[error(transparent)]
    Reply(#[from] ReplyFault),
}

impl ServerFault {
    /// What the client is told; `None` if the server has told it already.
    #[must_use]
    pub fn client_message(&self) -> Option<ErrorMessage> {
        match self {
            Self::Fatal => None,
            Self::Closed | Self::Io(_) => {
                Some(ErrorMessage::fatal(SqlState::CONNECTION_FAILURE, "server conn crashed?"))
            }
            Self::Reply(fault @ ReplyFault::OwnQuery { .. }) => {
                Some(ErrorMessage::fatal(SqlState::INVALID_PARAMETER_VALUE, fault.to_string()))
            }
            Self::Reply(fault) => {
                Some(ErrorMessage::fatal(SqlState::CONNECTION_FAILURE, fault.to_string()))
            }
        }
    }
}

/// No server connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server could not be reached a moment ago, and the next attempt is not due.
    #[error("{0}")]
    Down(ErrorMessage),
    /// The connection was refused or the name not found.
    #[error("connect failed: {0}")]
    Connect(#[source] io::Error),
    /// Connecting or logging in took longer than `server_connect_timeout`.
    #[error("connect timeout")]
    Timeout,
    /// The connection broke during the login.
    #[error("connection lost during login: {0}")]
    Lost(#[source] io::Error),
    /// PostgreSQL refused the login.
    #[error("{0}")]
    Refused(ErrorMessage),
    /// The server's messages made no sense.
    #[error("malformed message during login: {0}")]
    Frame(#[from] FrameError),
    /// The server's messages made no sense.
    #[error("malformed message during login: {0}")]
    Body(#[from] DecodeError),
    /// User, database or password cannot be put into a message.
    #[error("cannot ask for this login: {0}")]
    Encode(#[from] crate::protocol::encode::EncodeError),
    /// A message that has no place in a login.
    #[error("unexpected message {:?} during login", char::from(*.0))]
    Unexpected(u8),
    /// The server asks for an authentication method that pgbaton does not have.
    #[error("server asks for unsupported authentication method {0}")]
    UnsupportedMethod(i32),
    /// The server asks for a password and none is configured.
    #[error("no password known for user \"{0}\"")]
    NoPassword(String),
    /// `connect_query` left a transaction open: nobody could use the server.
    #[error("connect_query leaves a transaction open")]
    ConnectQuery,
    /// The server has no TLS, and is not to be talked to without.
    #[error("the server does not support TLS, but server_tls_sslmode is {0}")]
    NoTls(ServerSslMode),
    /// The host is no name that a certificate could have.
    #[error("host {0:?} is no name that a certificate can have")]
    NoTlsName(String),
    /// Bytes came behind the answer to SSLRequest: nobody vouches for them.
    #[error("received unencrypted data after SSL response")]
    Injected,
    /// No TLS connection came about.
    #[error(transparent)]
    Tls(HandshakeError),
    /// The SCRAM exchange failed, or the server could not prove itself.
    #[error("SCRAM authentication with the server failed: {0}")]
    Scram(#[from] crate::auth::ScramError),
}

impl ConnectError {
    /// Whether the same attempt may succeed in a while without anybody changing anything: then
    /// those who wait go on waiting. Otherwise they are told.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Down(_) | Self::Connect(_) | Self::Timeout | Self::Lost(_) => true,
            Self::Refused(message) => {
                let is_away = matches!(
                    message.code,
                    SqlState::CANNOT_CONNECT_NOW
                        | SqlState::ADMIN_SHUTDOWN
                        | SqlState::CRASH_SHUTDOWN
                );
                is_away || self.is_shortage()
            }
            _ => false,
        }
    }

    /// Whether the server is short of something: connections, memory, disk.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Refused(message) => {
                message.code.class() == SqlState::TOO_MANY_CONNECTIONS.class()
            }
            _ => false,
        }
    }

    /// Whether no pool can reach the server, as a quick answer tells. What hangs or breaks may be
    /// this pool's affair alone.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Refused(message) => message.code == SqlState::CANNOT_CONNECT_NOW,
            _ => false,
        }
    }

    /// Whether the server answered, and not that it cannot be reached.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        !matches!(self, Self::Down(_) | Self::Timeout | Self::Lost(_)) && !self.is_unreachable()
    }

    /// Whether another host may well do better.
    #[must_use]
    pub fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Down(_) | Self::Timeout | Self::Lost(_)) || self.is_unreachable()
    }

    /// Whether another secret might have been let in.
    #[must_use]
    pub fn is_about_credentials(&self) -> bool {
        match self {
            Self::NoPassword(_) | Self::Scram(_) => true,
            Self::Refused(message) => matches!(
                message.code,
                SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            ),
            _ => false,
        }
    }

    /// What clients are told.
    #[must_use]
    pub fn client_message(&self) -> ErrorMessage {
        match self {
            Self::Down(message) => message.clone(),
            Self::Refused(message) => ErrorMessage::fatal(message.code, message.message.clone()),
            Self::Connect(_) | Self::Timeout | Self::Lost(_) => ErrorMessage::fatal(
                SqlState::CONNECTION_FAILURE,
                format!(
                    "server login has been failing, cached error: {} (server_login_retry)",
                    if matches!(self, Self::Timeout) {
                        "connect timeout"
                    } else {
                        "connect failed"
                    }
                ),
            ),
            other => ErrorMessage::fatal(
                SqlState::CONNECTION_FAILURE,
                format!("server login failed: {other}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_ends_no_wait() {
        let refused = |code: &str| {
            let code = SqlState::from_bytes(code.as_bytes()).unwrap();
            ConnectError::Refused(ErrorMessage::fatal(code, "x")).is_transient()
        };
        for code in ["53000", "53100", "53200", "53300", "57P01", "57P02", "57P03"] {
            assert!(refused(code), "{code}");
        }
        for code in ["28P01", "28000", "3D000", "42501", "57014"] {
            assert!(!refused(code), "{code}");
        }
    }
}
