//! Frame headers: where a message begins, what it is, and where it ends.
//!
//! This is the hot path: it runs once per message and once per DataRow. It must not know what is
//! in a message. Invariant: this is the only place where the length of a frame is read, and no
//! length leaves it unbounded, so that a peer can neither wrap it nor claim what it may not send.
//!
//! The bounds are one table per direction: the length word of an unknown type can satisfy no entry,
//! so that the good case is one load and two comparisons.

use thiserror::Error;

use super::error::ErrorMessage;
use super::sqlstate::SqlState;
use super::tag::{backend, frontend};

/// The type byte and the length word.
pub const HEADER_LEN: usize = 5;

/// The greatest length word of a frontend message that has no business being long.
///
/// Postgres: `PQ_SMALL_MESSAGE_LIMIT`, in bytes, the length word included, the type byte not.
pub const SMALL_LENGTH_MAX: u32 = 10_000;

/// The greatest length word of a frontend message, just below 1 GiB.
///
/// Postgres: `PQ_LARGE_MESSAGE_LIMIT`, counted as [`SMALL_LENGTH_MAX`].
pub const LARGE_LENGTH_MAX: u32 = 0x3fff_fffe;

/// The greatest length word of a backend message.
///
/// Postgres builds a body in a buffer that holds just less than 1 GiB, to which the length word
/// adds itself.
pub const BACKEND_LARGE_LENGTH_MAX: u32 = LARGE_LENGTH_MAX + 4;

/// The greatest length word of a frontend message before login is done.
///
/// Postgres: `PG_MAX_AUTH_TOKEN_LENGTH`.
pub const LOGIN_LENGTH_MAX: u32 = 65_535;

/// The greatest length word of a backend message that is not one of the long ones.
///
/// It is what libpq accepts, so that no server that libpq can talk to is refused.
pub const BACKEND_SMALL_LENGTH_MAX: u32 = 30_000;

/// The first five bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type byte; see [`super::tag`].
    pub tag: u8,
    /// Bytes of the whole frame, the type byte and the length word included: at least
    /// [`HEADER_LEN`].
    pub len: usize,
}

impl Header {
    /// Bytes behind the header.
    #[inline]
    pub const fn body_len(self) -> usize {
        self.len - HEADER_LEN
    }
}

/// Why the bytes cannot be a message. Framing is lost: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A type byte that the protocol does not know in this direction and phase.
    #[error("invalid frontend message type {0}")]
    UnknownTag(u8),
    /// Before login is done, something other than an answer to the authentication request.
    #[error("expected password response, got message type {0}")]
    NotPassword(u8),
    /// A type byte that no server sends.
    #[error("invalid backend message type {0}")]
    UnknownBackendTag(u8),
    /// A length below the least, or above the greatest, that a message of this type can have.
    #[error("invalid message length")]
    Length {
        /// The type byte.
        tag: u8,
        /// The length word as the peer wrote it.
        length: i32,
    },
}

impl FrameError {
    /// The code for the client: always a protocol violation.
    pub const fn sqlstate(&self) -> SqlState {
        SqlState::PROTOCOL_VIOLATION
    }

    /// What to tell a client that sent the bytes.
    pub fn to_message(&self) -> ErrorMessage {
        ErrorMessage::fatal(self.sqlstate(), self.to_string())
    }
}

/// The header of a frontend message after login.
///
/// `Ok(None)` means that fewer than five bytes are there. The body need not be there.
///
/// # Errors
///
/// [`FrameError::UnknownTag`], [`FrameError::Length`].
#[inline]
pub fn frontend_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    header(bytes, &FRONTEND, FrameError::UnknownTag)
}

/// The header of a frontend message before login is done: an answer to an authentication request.
///
/// # Errors
///
/// [`FrameError::NotPassword`] for everything but `p`, [`FrameError::Length`].
#[inline]
pub fn login_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    header(bytes, &FRONTEND_LOGIN, FrameError::NotPassword)
}

/// The header of a backend message in any phase.
///
/// # Errors
///
/// [`FrameError::UnknownBackendTag`], [`FrameError::Length`].
#[inline]
pub fn backend_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    header(bytes, &BACKEND, FrameError::UnknownBackendTag)
}

/// The header of a backend message until the first ReadyForQuery.
///
/// Whole messages are buffered then, so that the long ones are capped like the others; libpq has
/// the same cap for the messages of a login.
///
/// # Errors
///
/// As [`backend_header`].
#[inline]
pub fn backend_login_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    match backend_header(bytes)? {
        Some(Header { tag, len }) if len > BACKEND_SMALL_LENGTH_MAX as usize + 1 => {
            // The table caps the length far below `i32::MAX`, hence the conversion is exact.
            Err(FrameError::Length { tag, length: (len - 1) as i32 })
        }
        header => Ok(header),
    }
}

/// The greatest length word of a frontend message, or 0 for a type that does not exist.
pub(super) const fn frontend_length_max(tag: u8) -> u32 {
    let after_login = FRONTEND[tag as usize].max;
    if after_login == 0 { FRONTEND_LOGIN[tag as usize].max } else { after_login }
}

/// The greatest length word of a backend message, or 0 for a type that does not exist.
pub(super) const fn backend_length_max(tag: u8) -> u32 {
    BACKEND[tag as usize].max
}

#[inline]
fn header(
    bytes: &[u8],
    table: &[Bounds; 256],
    unknown: fn(u8) -> FrameError,
) -> Result<Option<Header>, FrameError> {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    let bounds = table[usize::from(tag)];
    if bounds.min <= length && length <= bounds.max {
        Ok(Some(Header { tag, len: length as usize + 1 }))
    } else {
        Err(refusal(tag, length, bounds, unknown))
    }
}

#[cold]
fn refusal(tag: u8, length: u32, bounds: Bounds, unknown: fn(u8) -> FrameError) -> FrameError {
    if bounds.max == 0 {
        unknown(tag)
    } else {
        FrameError::Length { tag, length: length.cast_signed() }
    }
}

/// Least and greatest length word of one message type, both inclusive.
#[derive(Clone, Copy)]
struct Bounds {
    min: u32,
    max: u32,
}

/// No length satisfies it.
const UNKNOWN: Bounds = Bounds { min: u32::MAX, max: 0 };

const fn table<const N: usize>(entries: [(u8, u32, u32); N]) -> [Bounds; 256] {
    let mut table = [UNKNOWN; 256];
    let mut i = 0;
    while i < N {
        let (tag, min, max) = entries[i];
        table[tag as usize] = Bounds { min, max };
        i += 1;
    }
    table
}

/// Sync and Flush are exact because Postgres insists on it; Terminate and CopyDone are not, as it
/// does not. The contents of the others are judged by their decoders or by the server, which
/// answers with an error that leaves the session usable.
static FRONTEND: [Bounds; 256] = table([
    (frontend::BIND, 4, LARGE_LENGTH_MAX),
    (frontend::CLOSE, 4, SMALL_LENGTH_MAX),
    (frontend::COPY_DATA, 4, LARGE_LENGTH_MAX),
    (frontend::COPY_DONE, 4, SMALL_LENGTH_MAX),
    (frontend::COPY_FAIL, 4, SMALL_LENGTH_MAX),
    (frontend::DESCRIBE, 4, SMALL_LENGTH_MAX),
    (frontend::EXECUTE, 4, SMALL_LENGTH_MAX),
    (frontend::FLUSH, 4, 4),
    (frontend::FUNCTION_CALL, 4, LARGE_LENGTH_MAX),
    (frontend::PARSE, 4, LARGE_LENGTH_MAX),
    (frontend::QUERY, 4, LARGE_LENGTH_MAX),
    (frontend::SYNC, 4, 4),
    (frontend::TERMINATE, 4, SMALL_LENGTH_MAX),
]);

static FRONTEND_LOGIN: [Bounds; 256] = table([(frontend::PASSWORD, 4, LOGIN_LENGTH_MAX)]);

/// The least lengths are those of the shortest possible body, as a server that sends less is broken
/// and no decoder could make sense of it.
static BACKEND: [Bounds; 256] = table([
    (backend::AUTHENTICATION, 8, BACKEND_SMALL_LENGTH_MAX),
    (backend::BACKEND_KEY_DATA, 12, 264),
    (backend::BIND_COMPLETE, 4, 4),
    (backend::CLOSE_COMPLETE, 4, 4),
    (backend::COMMAND_COMPLETE, 5, BACKEND_SMALL_LENGTH_MAX),
    (backend::COPY_BOTH_RESPONSE, 7, BACKEND_LARGE_LENGTH_MAX),
    (backend::COPY_DATA, 4, BACKEND_LARGE_LENGTH_MAX),
    (backend::COPY_DONE, 4, 4),
    (backend::COPY_IN_RESPONSE, 7, BACKEND_LARGE_LENGTH_MAX),
    (backend::COPY_OUT_RESPONSE, 7, BACKEND_LARGE_LENGTH_MAX),
    (backend::DATA_ROW, 6, BACKEND_LARGE_LENGTH_MAX),
    (backend::EMPTY_QUERY_RESPONSE, 4, 4),
    (backend::ERROR_RESPONSE, 5, BACKEND_LARGE_LENGTH_MAX),
    (backend::FUNCTION_CALL_RESPONSE, 8, BACKEND_LARGE_LENGTH_MAX),
    (backend::NEGOTIATE_PROTOCOL_VERSION, 12, BACKEND_SMALL_LENGTH_MAX),
    (backend::NO_DATA, 4, 4),
    (backend::NOTICE_RESPONSE, 5, BACKEND_LARGE_LENGTH_MAX),
    (backend::NOTIFICATION_RESPONSE, 10, BACKEND_LARGE_LENGTH_MAX),
    (backend::PARAMETER_DESCRIPTION, 6, BACKEND_LARGE_LENGTH_MAX),
    (backend::PARAMETER_STATUS, 6, BACKEND_SMALL_LENGTH_MAX),
    (backend::PARSE_COMPLETE, 4, 4),
    (backend::PORTAL_SUSPENDED, 4, 4),
    (backend::READY_FOR_QUERY, 5, 5),
    (backend::ROW_DESCRIPTION, 6, BACKEND_LARGE_LENGTH_MAX),
]);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, length: u32) -> [u8; 5] {
        let [a, b, c, d] = length.to_be_bytes();
        [tag, a, b, c, d]
    }

    #[test]
    fn a_header_needs_five_bytes_and_no_body() {
        let bytes = frame(frontend::QUERY, 100);
        for cut in 0..HEADER_LEN {
            assert_eq!(frontend_header(&bytes[..cut]), Ok(None));
        }
        let header = frontend_header(&bytes).unwrap().unwrap();
        assert_eq!(header, Header { tag: b'Q', len: 101 });
        assert_eq!(header.body_len(), 96);
    }

    #[test]
    fn each_bound_is_inclusive_and_one_beyond_is_refused() {
        type Read = fn(&[u8]) -> Result<Option<Header>, FrameError>;
        let tables: [(&[Bounds; 256], Read); 3] = [
            (&FRONTEND, frontend_header),
            (&FRONTEND_LOGIN, login_header),
            (&BACKEND, backend_header),
        ];
        let mut known = 0;
        for (table, read) in tables {
            for tag in 0..=u8::MAX {
                let Bounds { min, max } = table[usize::from(tag)];
                if max == 0 {
                    for length in [0, 4, 5, 100, u32::MAX] {
                        let error = read(&frame(tag, length)).unwrap_err();
                        assert!(!matches!(error, FrameError::Length { .. }), "{error:?}");
                    }
                    continue;
                }
                known += 1;
                for length in [min, max] {
                    let len = length as usize + 1;
                    assert_eq!(read(&frame(tag, length)), Ok(Some(Header { tag, len })));
                }
                for length in [min - 1, max + 1] {
                    let refused = FrameError::Length { tag, length: length as i32 };
                    assert_eq!(read(&frame(tag, length)), Err(refused));
                }
            }
        }
        assert_eq!(known, 13 + 1 + 24);
    }

    #[test]
    fn a_login_message_of_a_server_is_capped() {
        let at = frame(backend::ERROR_RESPONSE, BACKEND_SMALL_LENGTH_MAX);
        assert!(backend_login_header(&at).unwrap().is_some());
        let beyond = frame(backend::ERROR_RESPONSE, BACKEND_SMALL_LENGTH_MAX + 1);
        assert!(backend_header(&beyond).unwrap().is_some());
        assert_eq!(
            backend_login_header(&beyond),
            Err(FrameError::Length { tag: b'E', length: 30_001 })
        );
    }

    #[test]
    fn the_words_are_those_of_postgres() {
        let message = frontend_header(&frame(0xff, 4)).unwrap_err().to_message();
        assert_eq!(message.to_string(), "FATAL: invalid frontend message type 255 (08P01)");
        let message = login_header(&frame(b'Q', 4)).unwrap_err().to_message();
        assert_eq!(
            message.to_string(),
            "FATAL: expected password response, got message type 81 (08P01)"
        );
    }
}
