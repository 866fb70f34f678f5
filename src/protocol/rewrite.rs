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
use super::tag::frontend;

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
