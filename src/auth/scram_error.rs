//! Why a SCRAM exchange ends, with whose fault it is and what the client is told.
//!
//! The texts and details are those of Postgres. Invariant: no variant tells a peer whether the user
//! or the password was wrong.

use thiserror::Error;

use crate::protocol::{ErrorMessage, SqlState};

/// Why an exchange failed. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ScramError {
    /// The client chose a mechanism that was not on offer.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// A message does not have the form that RFC 5802 gives it.
    #[error("malformed SCRAM message")]
    Malformed(#[source] Malformed),
    /// The client wants to act as another user (`a=`).
    #[error("client uses authorization identity, but it is not supported")]
    AuthorizationIdentity,
    /// The peer insists on an extension (`m=`); none exists.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// A nonce with other than printable ASCII characters.
    #[error("non-printable characters in SCRAM nonce")]
    NoncePrintable,
    /// `c=` does not repeat the channel-binding choice of the client's first message.
    #[error("unexpected SCRAM channel-binding attribute in client-final-message")]
    ChannelBinding,
    /// The client believes that channel binding is not on offer, though it is.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// A kind of channel binding that PostgreSQL does not have.
    #[error("unsupported SCRAM channel-binding type")]
    BindingType,
    /// The client is bound to another TLS connection than this one.
    #[error("SCRAM channel binding check failed")]
    BindingMismatch,
    /// The client's final message is not of this exchange: wrong, or replayed.
    #[error("invalid SCRAM response")]
    Nonce,
    /// The proof is wrong, or there is no such user.
    #[error("password authentication failed")]
    Proof,
    /// The server did not extend our nonce.
    #[error("invalid SCRAM response (nonce mismatch)")]
    ServerNonce,
    /// The server asks for no rounds, or for more than
    /// [`ITERATIONS_MAX`](super::scram::ITERATIONS_MAX).
    #[error("SCRAM iteration count is out of range")]
    Iterations,
    /// The server does not know the secret that it claims to check.
    #[error("incorrect server signature")]
    ServerSignature,
    /// The server ended the exchange with `e=`.
    #[error("server refused the SCRAM exchange")]
    ServerRefused,
    /// The keys were derived with another salt or count than the server asks for.
    #[error("SCRAM keys do not fit the server's salt and iteration count")]
    ForeignKeys,
    /// The operating system gave no random bytes.
    #[error("could not generate random nonce")]
    Random,
}

impl ScramError {
    /// The code for the client.
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Mechanism
            | Self::Malformed(_)
            | Self::AuthorizationIdentity
            | Self::Extension
            | Self::NoncePrintable
            | Self::BindingType
            | Self::ChannelBinding => SqlState::PROTOCOL_VIOLATION,
            Self::Downgrade | Self::BindingMismatch => {
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION
            }
            Self::Nonce | Self::Proof => SqlState::INVALID_PASSWORD,
            Self::ServerNonce
            | Self::Iterations
            | Self::ServerSignature
            | Self::ServerRefused
            | Self::ForeignKeys => SqlState::CONNECTION_FAILURE,
            Self::Random => SqlState::INTERNAL_ERROR,
        }
    }

    /// What to tell a client whose exchange this was.
    ///
    /// For [`ScramError::Proof`] the caller puts the user's name into the text, as Postgres does.
    pub fn to_message(&self) -> ErrorMessage {
        let message = ErrorMessage::fatal(self.sqlstate(), self.to_string());
        match self {
            Self::Malformed(malformed) => message.with_detail(malformed.to_string()),
            Self::Nonce => message.with_detail("Nonce does not match."),
            Self::Downgrade => message.with_detail(
                "The client supports SCRAM channel binding but thinks the server does not.  \
                 However, this server does support channel binding.",
            ),
            _ => message,
        }
    }
}

impl From<Malformed> for ScramError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// What is wrong with the form of a message. The texts become the detail of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// No bytes at all.
    #[error("The message is empty.")]
    Empty,
    /// A NUL inside.
    #[error("Message length does not match input length.")]
    EmbeddedNul,
    /// More than [`MESSAGE_LEN_MAX`](super::scram::MESSAGE_LEN_MAX) bytes.
    #[error("The message is too long.")]
    TooLong,
    /// A first byte that is none of `n`, `y`, `p`.
    #[error("Unexpected channel-binding flag.")]
    ChannelBindingFlag,
    /// `p`, though channel binding was not on offer.
    #[error(
        "The client selected SCRAM-SHA-256 without channel binding, \
         but the SCRAM message includes channel binding data."
    )]
    ChannelBindingData,
    /// No data of channel binding, though its mechanism was chosen.
    #[error(
        "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel \
         binding data."
    )]
    NoChannelBindingData,
    /// No comma where one must be.
    #[error("Comma expected, but found another character.")]
    Comma,
    /// An attribute at a place where another one must be.
    #[error("Unexpected attribute.")]
    Attribute,
    /// The message ends where an attribute must be.
    #[error("Attribute expected, but found end of string.")]
    End,
    /// An attribute that is not a letter followed by an equals sign.
    #[error("Expected character \"=\" for an attribute.")]
    Equals,
    /// A nonce of no characters.
    #[error("The nonce is empty.")]
    EmptyNonce,
    /// A salt that is empty, too long or not in base64.
    #[error("Malformed salt.")]
    Salt,
    /// An iteration count that is not a decimal number.
    #[error("Malformed iteration count.")]
    Iterations,
    /// A proof that is not 32 bytes in base64.
    #[error("Malformed proof in client-final-message.")]
    Proof,
    /// A server signature that is not 32 bytes in base64.
    #[error("Malformed server signature.")]
    Signature,
    /// Something behind the last attribute.
    #[error("Garbage found at the end of the message.")]
    Garbage,
}
