//! The messages that pgbaton writes itself, appended to a buffer that the caller owns and reuses.
//!
//! It must not know who reads them. Invariants: a function that fails leaves the buffer as it was;
//! no string with a NUL inside is ever written, as what follows it would be read as another field;
//! no message longer than its type allows is written, so that no length can wrap.

use thiserror::Error;

use super::frame;

mod backend;
mod frontend;

pub use backend::{
    authentication_cleartext_password, authentication_md5_password, authentication_ok,
    authentication_sasl, authentication_sasl_continue, authentication_sasl_final, backend_key_data,
    bind_complete, close_complete, command_complete, empty_query_response, error_response,
    negotiate_protocol_version, no_data, notice_response, notification_response, parameter_status,
    parse_complete, ready_for_query,
};
pub(super) use frontend::describe_or_close;
pub use frontend::{
    bind_no_parameters, cancel_request, close_statement, close_unnamed_portal, copy_fail,
    describe_portal, describe_statement, execute, flush, gssenc_request, parse, password, query,
    sasl_initial_response, sasl_response, ssl_request, startup, sync, terminate,
};

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The message would be longer than its type allows.
    #[error("message is too long")]
    TooLong,
    /// A string holds a NUL.
    #[error("string contains a zero byte")]
    EmbeddedNul,
    /// A name that ends a list when it is empty.
    #[error("empty name in a list")]
    EmptyName,
    /// A cancel key's secret is not of 4 to 256 bytes.
    #[error("cancel key secret must have 4 to 256 bytes")]
    SecretLength,
    /// Parameter types are not a multiple of four bytes, or more than 65,535.
    #[error("invalid list of parameter types")]
    ParameterTypes,
}

/// Appends one message: tag, length, and what `body` writes; nothing if that fails.
fn message(
    out: &mut Vec<u8>,
    tag: u8,
    length_max: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.push(tag);
    let result = counted(out, length_max, body);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn backend_message(
    out: &mut Vec<u8>,
    tag: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    message(out, tag, frame::backend_length_max(tag), body)
}

fn frontend_message(
    out: &mut Vec<u8>,
    tag: u8,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    message(out, tag, frame::frontend_length_max(tag), body)
}

/// Appends a length word, which counts itself, and what `body` writes; nothing if that fails.
fn counted(
    out: &mut Vec<u8>,
    length_max: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let result = body(out).and_then(|()| {
        let length = u32::try_from(out.len() - start).map_err(|_| EncodeError::TooLong)?;
        if length > length_max {
            return Err(EncodeError::TooLong);
        }
        let word = out.get_mut(start..start + 4).expect("BUG: the length word was written above");
        word.copy_from_slice(&length.to_be_bytes());
        Ok(())
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// A message that has no body.
fn bare(out: &mut Vec<u8>, tag: u8) {
    out.extend_from_slice(&[tag, 0, 0, 0, 4]);
}

pub(super) fn string(out: &mut Vec<u8>, string: &[u8]) -> Result<(), EncodeError> {
    if memchr::memchr(0, string).is_some() {
        return Err(EncodeError::EmbeddedNul);
    }
    out.extend_from_slice(string);
    out.push(0);
    Ok(())
}

/// A string in a list that an empty one ends.
fn list_item(out: &mut Vec<u8>, item: &[u8]) -> Result<(), EncodeError> {
    if item.is_empty() { Err(EncodeError::EmptyName) } else { string(out, item) }
}

#[cfg(test)]
mod tests;
