//! The one checked reader that all decoders share.
//!
//! It knows integers, counted bytes and NUL-terminated strings, but no message. Invariant: it never
//! reads outside of the slice that it was given, and a failed read leaves it unusable only to a
//! caller that ignores the error, as every read returns a `Result`.

use super::decode::DecodeError;

/// Reads forward through one body.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    /// The protocol's Int16 counts are read as unsigned, as Postgres reads them.
    #[inline]
    pub(super) fn count(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn int32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A string without its terminator.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a [u8], DecodeError> {
        self.string_if_complete().ok_or(DecodeError::Unterminated)
    }

    /// As `string`, but a missing terminator reads nothing and is no error: it may be on its way.
    #[inline]
    pub(super) fn string_if_complete(&mut self) -> Option<&'a [u8]> {
        let (string, terminated) = self.rest.split_at_checked(memchr::memchr(0, self.rest)?)?;
        self.rest = terminated.get(1..)?;
        Some(string)
    }

    /// Everything must have been read: a body that holds more than its message is malformed.
    #[inline]
    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}
