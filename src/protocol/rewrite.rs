//! Messages under another statement name, for prepared statements that many clients share.
//!
//! It must not know which name replaces which. Invariants: what is not a name stays byte for byte
//! as the client sent it, a rewritten length is checked against the same cap as a length that comes
//! from outside, and nothing is written on failure.
//!
//! A Bind may be large, so that only its head is rewritten: header and names. The rest is sent from
//! where it lies, from the offset that [`bind`] returns.

use super::decode::{Bind, DescribeOrClose, Parse, Target};
use super::encode::{self, EncodeError};
use super::frame::{self, HEADER_LEN, Header};
use super::tag::{backend, frontend};

/// Appends the head of a Bind to `statement`: header, portal and the new name.
///
/// Returns the offset inside the original frame, its header included, from which its bytes go on
/// unchanged; up to `header.len`, they complete the message.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`] also if `bind` is not of a frame of this
/// length.
pub fn bind(
    out: &mut Vec<u8>,
    header: Header,
    bind: &Bind<'_>,
    statement: &[u8],
) -> Result<usize, EncodeError> {
    let resume = HEADER_LEN + bind.rest_offset;
    let rest = header.len.checked_sub(resume).ok_or(EncodeError::TooLong)?;
    // The length word counts itself and two terminators.
    let length = [4, bind.portal.len(), 1, statement.len(), 1]
        .into_iter()
        .try_fold(rest, usize::checked_add)
        .and_then(|length| u32::try_from(length).ok())
        .filter(|length| *length <= frame::frontend_length_max(frontend::BIND))
        .ok_or(EncodeError::TooLong)?;
    let start = out.len();
    out.push(frontend::BIND);
    out.extend_from_slice(&length.to_be_bytes());
    let names = encode::string(out, bind.portal).and_then(|()| encode::string(out, statement));
    if names.is_err() {
        out.truncate(start);
    }
    names.map(|()| resume)
}

/// Appends a whole Parse of the same text and types under the name `statement`.
///
/// # Errors
///
/// As [`encode::parse`].
pub fn parse(out: &mut Vec<u8>, parse: &Parse<'_>, statement: &[u8]) -> Result<(), EncodeError> {
    encode::parse(out, statement, parse.query, parse.parameter_types)
}

/// Appends a Describe of the statement `statement`, or of the same portal as before.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn describe(
    out: &mut Vec<u8>,
    describe: &DescribeOrClose<'_>,
    statement: &[u8],
) -> Result<(), EncodeError> {
    named(out, frontend::DESCRIBE, describe, statement)
}

/// Appends a Close of the statement `statement`, or of the same portal as before.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn close(
    out: &mut Vec<u8>,
    close: &DescribeOrClose<'_>,
    statement: &[u8],
) -> Result<(), EncodeError> {
    named(out, frontend::CLOSE, close, statement)
}

/// An ErrorResponse that speaks of the statement `statement` as `name`; the frame, or `None` if its
/// message (field M) does not name it. All other fields stay.
#[must_use]
pub fn error_naming(body: &[u8], statement: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let quoted = |name: &[u8]| [b"\"", name, b"\""].concat();
    let (from, to) = (quoted(statement), quoted(name));
    let mut frame = vec![backend::ERROR_RESPONSE, 0, 0, 0, 0];
    let mut is_named = false;
    let mut rest = body;
    while let Some(end) = memchr::memchr(0, rest) {
        let (field, more) = rest.split_at(end + 1);
        match (field.first(), memchr::memmem::find(field, &from)) {
            (Some(b'M'), Some(at)) => {
                let (before, behind) = field.split_at(at);
                frame.extend_from_slice(before);
                frame.extend_from_slice(&to);
                frame.extend_from_slice(behind.get(from.len()..).unwrap_or_default());
                is_named = true;
            }
            _ => frame.extend_from_slice(field),
        }
        rest = more;
    }
    let length = u32::try_from(frame.len() - 1).ok()?;
    frame.get_mut(1..HEADER_LEN)?.copy_from_slice(&length.to_be_bytes());
    is_named.then_some(frame)
}

fn named(
    out: &mut Vec<u8>,
    tag: u8,
    original: &DescribeOrClose<'_>,
    statement: &[u8],
) -> Result<(), EncodeError> {
    // A portal belongs to one transaction on one server, so that its name is never replaced.
    let name = match original.kind {
        Target::Statement => statement,
        Target::Portal => original.name,
    };
    encode::describe_or_close(out, tag, original.kind, name)
}

#[cfg(test)]
mod tests;
