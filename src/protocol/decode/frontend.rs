//! Bodies of client messages: Parse, Bind, Describe, Close, Execute, Query and the login answers.
//!
//! It must not know which names exist or what SQL says. Invariant: a [`Bind`] is understood from
//! its two names alone, since its values may be of any size and are streamed past us unread.

use super::super::cursor::Cursor;
use super::DecodeError;

/// A Parse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// The SQL text.
    pub query: &'a [u8],
    /// The type OIDs as they were sent, four bytes each, as many as were announced.
    pub parameter_types: &'a [u8],
}

/// Reads the body of a Parse.
///
/// # Errors
///
/// [`DecodeError::Unterminated`], [`DecodeError::Truncated`], [`DecodeError::TrailingBytes`].
#[inline]
pub fn parse(body: &[u8]) -> Result<Parse<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let name = cursor.string()?;
    let query = cursor.string()?;
    let count = usize::from(cursor.count()?);
    let parameter_types = cursor.bytes(count * 4)?;
    cursor.end()?;
    Ok(Parse { name, query, parameter_types })
}

/// The two names that a Bind begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Where, inside the body, the formats and values begin.
    pub rest_offset: usize,
}

/// Reads the beginning of a Bind.
///
/// `available` is the body, or as much of it as has come; `body_len` is the length of the whole.
/// `Ok(None)` means that the names are not complete yet. What follows them is not judged, as the
/// server does that and answers with an error of its own.
///
/// # Errors
///
/// [`DecodeError::Unterminated`] if the whole body is there and the names do not end in it.
#[inline]
pub fn bind(available: &[u8], body_len: usize) -> Result<Option<Bind<'_>>, DecodeError> {
    // A caller may hold bytes of the next message behind the body.
    let available = available.get(..body_len).unwrap_or(available);
    let mut cursor = Cursor::new(available);
    if let Some(portal) = cursor.string_if_complete()
        && let Some(statement) = cursor.string_if_complete()
    {
        let rest_offset = available.len() - cursor.rest().len();
        return Ok(Some(Bind { portal, statement, rest_offset }));
    }
    if available.len() < body_len { Ok(None) } else { Err(DecodeError::Unterminated) }
}

/// What a Describe or a Close is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `S`, a prepared statement.
    Statement,
    /// `P`, a portal.
    Portal,
}

impl Target {
    /// The byte that stands for it on the wire.
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Statement => b'S',
            Self::Portal => b'P',
        }
    }
}

/// A Describe or a Close message; their bodies are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescribeOrClose<'a> {
    /// Statement or portal.
    pub kind: Target,
    /// Its name; empty for the unnamed one.
    pub name: &'a [u8],
}

/// Reads the body of a Describe or a Close.
///
/// # Errors
///
/// [`DecodeError::Truncated`], [`DecodeError::Subtype`], [`DecodeError::Unterminated`],
/// [`DecodeError::TrailingBytes`].
#[inline]
pub fn describe_or_close(body: &[u8]) -> Result<DescribeOrClose<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let subtype = cursor.byte()?;
    let name = cursor.string()?;
    cursor.end()?;
    let kind = match subtype {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        other => return Err(DecodeError::Subtype(other)),
    };
    Ok(DescribeOrClose { kind, name })
}

/// An Execute message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The most rows to return; 0 or less means all.
    pub max_rows: i32,
}

/// Reads the body of an Execute.
///
/// # Errors
///
/// [`DecodeError::Unterminated`], [`DecodeError::Truncated`], [`DecodeError::TrailingBytes`].
#[inline]
pub fn execute(body: &[u8]) -> Result<Execute<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let portal = cursor.string()?;
    let max_rows = cursor.int32()?;
    cursor.end()?;
    Ok(Execute { portal, max_rows })
}

/// The text of a Query, without its terminator.
///
/// # Errors
///
/// [`DecodeError::Unterminated`], and [`DecodeError::TrailingBytes`] for a NUL inside.
#[inline]
pub fn query(body: &[u8]) -> Result<&[u8], DecodeError> {
    let mut cursor = Cursor::new(body);
    let text = cursor.string()?;
    cursor.end()?;
    Ok(text)
}

/// The password of a PasswordMessage (clear text or an MD5 response), without its terminator.
///
/// # Errors
///
/// [`DecodeError::PasswordSize`] unless there is one NUL and it is the last byte, and
/// [`DecodeError::EmptyPassword`].
pub fn password(body: &[u8]) -> Result<&[u8], DecodeError> {
    match query(body) {
        Ok([]) => Err(DecodeError::EmptyPassword),
        Ok(password) => Ok(password),
        Err(_) => Err(DecodeError::PasswordSize),
    }
}

/// A SASLInitialResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism that the client chose.
    pub mechanism: &'a [u8],
    /// The first message of the exchange, if the client sent one.
    pub data: Option<&'a [u8]>,
}

/// Reads the body of a SASLInitialResponse. A SASLResponse needs no reading: its body is the data.
///
/// # Errors
///
/// [`DecodeError::Unterminated`], [`DecodeError::TrailingBytes`], and [`DecodeError::Truncated`]
/// for a length that is negative (but not -1) or longer than the body.
pub fn sasl_initial_response(body: &[u8]) -> Result<SaslInitialResponse<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let mechanism = cursor.string()?;
    let data = match cursor.int32()? {
        -1 => None,
        len => {
            let len = usize::try_from(len).map_err(|_| DecodeError::Truncated)?;
            Some(cursor.bytes(len)?)
        }
    };
    cursor.end()?;
    Ok(SaslInitialResponse { mechanism, data })
}
