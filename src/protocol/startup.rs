//! The first packet of a connection: StartupMessage, CancelRequest, SSLRequest or GSSENCRequest.
//!
//! It must not know TLS, users or settings: which parameters are allowed and what they mean is for
//! the layers above. The peer is not authenticated, so the invariants are strict: a length is
//! judged before a byte behind it is awaited, nothing is allocated before the whole packet is
//! there, and all that is kept comes from a packet of at most [`PACKET_LEN_MAX`] bytes.
//!
//! Source: chapters "Start-up" and "Message Formats"; the texts are those of Postgres.

use std::fmt;

use thiserror::Error;

use super::cursor::Cursor;
use super::error::ErrorMessage;
use super::sqlstate::SqlState;

pub(super) use options::parse as parse_options;

mod options;

/// The longest first packet, in bytes, its length word included.
pub const PACKET_LEN_MAX: usize = 10_000;

/// The newest minor version of protocol 3 that is spoken.
pub const MINOR_MAX: u16 = 2;

/// Bytes of the secret in a cancel key, least and most, by protocol 3.2.
pub const SECRET_LEN: std::ops::RangeInclusive<usize> = 4..=256;

pub(super) const CANCEL_REQUEST_CODE: u32 = 1234 << 16 | 5678;
pub(super) const SSL_REQUEST_CODE: u32 = 1234 << 16 | 5679;
pub(super) const GSSENC_REQUEST_CODE: u32 = 1234 << 16 | 5680;

/// The length word and the protocol version or request code.
const FIXED_LEN: usize = 8;

/// What a client may open a connection with.
#[derive(Clone, PartialEq, Eq)]
pub enum Initial {
    /// SSLRequest.
    Ssl,
    /// GSSENCRequest.
    GssEnc,
    /// CancelRequest.
    Cancel {
        /// The process id of the BackendKeyData that the client was given.
        pid: i32,
        /// Its secret, 4 to 256 bytes.
        secret: Vec<u8>,
    },
    /// StartupMessage.
    Startup(Startup),
}

/// Whoever has the secret can cancel the session's queries, so that it is not shown.
impl fmt::Debug for Initial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssl => f.write_str("Ssl"),
            Self::GssEnc => f.write_str("GssEnc"),
            Self::Cancel { pid, .. } => write!(f, "Cancel {{ pid: {pid}, .. }}"),
            Self::Startup(startup) => f.debug_tuple("Startup").field(startup).finish(),
        }
    }
}

/// A StartupMessage, taken apart. All text is in the client's encoding and holds no NUL.
///
/// It is bounded by the packet: no more than 10,000 bytes of text in at most 3,331 parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// The major protocol version: always 3.
    pub major: u16,
    /// The minor protocol version that the client asked for, which may be above [`MINOR_MAX`].
    pub minor: u16,
    /// The user name, never empty.
    pub user: Box<[u8]>,
    /// The database name; the user name if the client gave none.
    pub database: Box<[u8]>,
    /// All other parameters in the order sent, a repeated one repeatedly; without `user`,
    /// `database`, `options`, `replication` and the protocol options.
    pub parameters: Vec<Parameter>,
    /// The settings inside `options`, in order; empty for a replication connection.
    pub options: Vec<Parameter>,
    /// `options` as it was sent, which a replication connection passes on verbatim.
    pub options_raw: Option<Box<[u8]>>,
    /// What `replication` asks for; `None` for an ordinary session.
    pub replication: Option<Replication>,
    /// The names of the protocol options (`_pq_.`) that the client asked for; we know none.
    pub unrecognised: Vec<Box<[u8]>>,
}

/// A setting and its value.
pub type Parameter = (Box<[u8]>, Box<[u8]>);

/// The two kinds of a replication connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// `replication=true`: physical, connected to no database.
    Physical,
    /// `replication=database`: logical.
    Database,
}

impl Startup {
    /// Whether the client must be told, by NegotiateProtocolVersion, that it gets less than it
    /// asked for.
    pub fn needs_negotiation(&self) -> bool {
        self.minor > MINOR_MAX || !self.unrecognised.is_empty()
    }

    /// The minor version that the session will speak.
    pub fn negotiated_minor(&self) -> u16 {
        self.minor.min(MINOR_MAX)
    }
}

/// Why the first packet is refused. The connection must be closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartupError {
    /// The length word is outside of what any first packet can have, or of what this one can.
    #[error("invalid length of startup packet")]
    Length,
    /// Another major version than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{MINOR_MAX}")]
    Version {
        /// The upper half of the version word.
        major: u16,
        /// The lower half of the version word.
        minor: u16,
    },
    /// A name without a value, a string without an end, or bytes behind the last terminator.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// `user` is missing or empty.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// `replication` is no boolean and not `database`.
    #[error("invalid value for parameter \"replication\": \"{}\"", .0.escape_ascii())]
    Replication(Box<[u8]>),
    /// A word in `options` that is not a setting; the words are PgBouncer's.
    #[error(
        "unsupported options startup parameter: \
         only '-c config=val' and '--config=val' are allowed"
    )]
    Option(Box<[u8]>),
}

impl StartupError {
    /// The code for the client.
    pub const fn sqlstate(&self) -> SqlState {
        match self {
            Self::Length | Self::Layout | Self::Option(_) => SqlState::PROTOCOL_VIOLATION,
            Self::Version { .. } => SqlState::FEATURE_NOT_SUPPORTED,
            Self::NoUser => SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            Self::Replication(_) => SqlState::INVALID_PARAMETER_VALUE,
        }
    }

    /// What to tell the client before closing.
    ///
    /// `None` where the peer does not speak our protocol at all: Postgres, too, just closes then.
    pub fn to_message(&self) -> Option<ErrorMessage> {
        let message = ErrorMessage::fatal(self.sqlstate(), self.to_string());
        match self {
            Self::Length => None,
            Self::Replication(_) => Some(
                message.with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."),
            ),
            Self::Option(word) => {
                Some(message.with_detail(format!("The option is \"{}\".", word.escape_ascii())))
            }
            Self::Version { .. } | Self::Layout | Self::NoUser => Some(message),
        }
    }
}

/// Reads the first packet; also the next ones, until it was a Cancel or a Startup.
///
/// Returns the packet and how many bytes it took. Bytes behind an SSLRequest or a GSSENCRequest
/// must be treated as an attack by the caller: nothing may be sent before the answer. `Ok(None)`
/// means that more bytes are needed; there are never more than [`PACKET_LEN_MAX`] to wait for.
///
/// # Errors
///
/// As soon as the bytes cannot become a good packet, see [`StartupError`].
pub fn initial(bytes: &[u8]) -> Result<Option<(Initial, usize)>, StartupError> {
    let Some(length) = bytes.first_chunk() else {
        return Ok(None);
    };
    // On a machine where this does not fit, it is too long as well.
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if !(FIXED_LEN..=PACKET_LEN_MAX).contains(&length) {
        return Err(StartupError::Length);
    }
    let Some((fixed, available)) = bytes.split_first_chunk::<FIXED_LEN>() else {
        return Ok(None);
    };
    let [_, _, _, _, a, b, c, d] = *fixed;
    let code = u32::from_be_bytes([a, b, c, d]);
    let body_len = length - FIXED_LEN;
    check_code(code, body_len)?;
    let Some(body) = available.get(..body_len) else {
        return Ok(None);
    };
    let initial = match code {
        SSL_REQUEST_CODE => Initial::Ssl,
        GSSENC_REQUEST_CODE => Initial::GssEnc,
        CANCEL_REQUEST_CODE => cancel(body)?,
        _ => Initial::Startup(startup(code as u16, body)?),
    };
    Ok(Some((initial, length)))
}

/// Refuses, before the body is there, what no body could make good.
fn check_code(code: u32, body_len: usize) -> Result<(), StartupError> {
    let fits = match code {
        SSL_REQUEST_CODE | GSSENC_REQUEST_CODE => body_len == 0,
        CANCEL_REQUEST_CODE => {
            body_len.checked_sub(4).is_some_and(|secret_len| SECRET_LEN.contains(&secret_len))
        }
        _ => {
            let (major, minor) = ((code >> 16) as u16, code as u16);
            if major != 3 {
                return Err(StartupError::Version { major, minor });
            }
            true
        }
    };
    if fits { Ok(()) } else { Err(StartupError::Length) }
}

fn cancel(body: &[u8]) -> Result<Initial, StartupError> {
    let (pid, secret) = body.split_first_chunk().ok_or(StartupError::Length)?;
    Ok(Initial::Cancel { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() })
}

fn startup(minor: u16, body: &[u8]) -> Result<Startup, StartupError> {
    let mut startup = Startup { major: 3, minor, ..Startup::default() };
    let mut replication = None;
    let mut cursor = Cursor::new(body);
    loop {
        let name = cursor.string().map_err(|_| StartupError::Layout)?;
        if name.is_empty() {
            break;
        }
        let value = cursor.string().map_err(|_| StartupError::Layout)?;
        match name {
            b"user" => startup.user = value.into(),
            b"database" => startup.database = value.into(),
            b"options" => startup.options_raw = Some(value.into()),
            b"replication" => replication = Some(value),
            _ if name.starts_with(b"_pq_.") => startup.unrecognised.push(name.into()),
            _ => startup.parameters.push((name.into(), value.into())),
        }
    }
    cursor.end().map_err(|_| StartupError::Layout)?;
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if startup.database.is_empty() {
        startup.database = startup.user.clone();
    }
    startup.replication = replication.map(parse_replication).transpose()?.flatten();
    // The options of a replication connection go to its own server as they are.
    if let (Some(raw), None) = (&startup.options_raw, startup.replication) {
        startup.options = parse_options(raw)?;
    }
    Ok(startup)
}

fn parse_replication(value: &[u8]) -> Result<Option<Replication>, StartupError> {
    if value == b"database" {
        return Ok(Some(Replication::Database));
    }
    match parse_bool(value) {
        Some(true) => Ok(Some(Replication::Physical)),
        Some(false) => Ok(None),
        None => Err(StartupError::Replication(value.into())),
    }
}

/// A boolean as Postgres reads one: any unambiguous beginning of a word, in any case.
fn parse_bool(value: &[u8]) -> Option<bool> {
    let begins = |word: &[u8], least: usize| {
        value.len() >= least
            && word.get(..value.len()).is_some_and(|start| start.eq_ignore_ascii_case(value))
    };
    if begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2) || value == b"1" {
        Some(true)
    } else if begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || value == b"0" {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
