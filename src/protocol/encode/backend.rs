//! Messages to a client, with pgbaton in the part of the server.
//!
//! It must not know sessions; it writes what it is told. Messages whose content has a bounded
//! length by nature cannot fail.

use super::super::TransactionStatus;
use super::super::error::ErrorMessage;
use super::super::startup::SECRET_LEN;
use super::super::tag::backend;
use super::{EncodeError, backend_message, bare, list_item, string};

/// The longest text of one field of our own errors, in bytes; the rest is cut off.
const FIELD_LEN_MAX: usize = 8 * 1024;

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, |_| Ok(())).expect("BUG: a bounded message fits");
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext_password(out: &mut Vec<u8>) {
    authentication(out, 3, |_| Ok(())).expect("BUG: a bounded message fits");
}

/// AuthenticationMD5Password.
pub fn authentication_md5_password(out: &mut Vec<u8>, salt: [u8; 4]) {
    let body = |out: &mut Vec<u8>| {
        out.extend_from_slice(&salt);
        Ok(())
    };
    authentication(out, 5, body).expect("BUG: a bounded message fits");
}

/// AuthenticationSASL, with mechanisms in the order of preference.
///
/// # Errors
///
/// [`EncodeError::EmptyName`], [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&[u8]]) -> Result<(), EncodeError> {
    authentication(out, 10, |out| {
        mechanisms.iter().try_for_each(|mechanism| list_item(out, mechanism))?;
        out.push(0);
        Ok(())
    })
}

/// AuthenticationSASLContinue.
///
/// # Errors
///
/// [`EncodeError::TooLong`].
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) -> Result<(), EncodeError> {
    authentication(out, 11, |out| {
        out.extend_from_slice(data);
        Ok(())
    })
}

/// AuthenticationSASLFinal.
///
/// # Errors
///
/// [`EncodeError::TooLong`].
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) -> Result<(), EncodeError> {
    authentication(out, 12, |out| {
        out.extend_from_slice(data);
        Ok(())
    })
}

fn authentication(
    out: &mut Vec<u8>,
    method: i32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    backend_message(out, backend::AUTHENTICATION, |out| {
        out.extend_from_slice(&method.to_be_bytes());
        body(out)
    })
}

/// ParameterStatus.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
    backend_message(out, backend::PARAMETER_STATUS, |out| {
        string(out, name)?;
        string(out, value)
    })
}

/// BackendKeyData. A client of protocol 3.0 expects a secret of exactly 4 bytes.
///
/// # Errors
///
/// [`EncodeError::SecretLength`].
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) -> Result<(), EncodeError> {
    if !SECRET_LEN.contains(&secret.len()) {
        return Err(EncodeError::SecretLength);
    }
    backend_message(out, backend::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
        Ok(())
    })
}

/// ReadyForQuery.
#[inline]
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    out.extend_from_slice(&[backend::READY_FOR_QUERY, 0, 0, 0, 5, status.as_byte()]);
}

/// ErrorResponse.
///
/// It cannot fail, as it is the last resort of the layers above: what may not stand in a field is
/// replaced, and what is too long is cut.
pub fn error_response(out: &mut Vec<u8>, message: &ErrorMessage) {
    report(out, backend::ERROR_RESPONSE, message);
}

/// NoticeResponse; as [`error_response`], it cannot fail.
pub fn notice_response(out: &mut Vec<u8>, message: &ErrorMessage) {
    report(out, backend::NOTICE_RESPONSE, message);
}

fn report(out: &mut Vec<u8>, tag: u8, message: &ErrorMessage) {
    let severity = message.severity.as_str();
    let body = |out: &mut Vec<u8>| {
        field(out, b'S', severity);
        field(out, b'V', severity);
        field(out, b'C', message.code.as_str());
        field(out, b'M', &message.message);
        if let Some(detail) = &message.detail {
            field(out, b'D', detail);
        }
        if let Some(hint) = &message.hint {
            field(out, b'H', hint);
        }
        out.push(0);
        Ok(())
    };
    backend_message(out, tag, body).expect("BUG: six bounded fields fit");
}

fn field(out: &mut Vec<u8>, code: u8, text: &str) {
    let text = &text[..text.floor_char_boundary(FIELD_LEN_MAX)];
    out.push(code);
    out.extend(text.bytes().map(|byte| if byte == 0 { b'?' } else { byte }));
    out.push(0);
}

/// NegotiateProtocolVersion: the minor version that will be spoken, and the names of the protocol
/// options that the client asked for in vain.
///
/// The version is written whole, with the major one in the upper half, as Postgres does.
///
/// # Errors
///
/// [`EncodeError::EmptyName`], [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn negotiate_protocol_version(
    out: &mut Vec<u8>,
    minor: u16,
    unrecognised: &[impl AsRef<[u8]>],
) -> Result<(), EncodeError> {
    let count = u32::try_from(unrecognised.len()).map_err(|_| EncodeError::TooLong)?;
    backend_message(out, backend::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.extend_from_slice(&(3 << 16 | u32::from(minor)).to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
        unrecognised.iter().try_for_each(|name| list_item(out, name.as_ref()))
    })
}

/// ParseComplete.
#[inline]
pub fn parse_complete(out: &mut Vec<u8>) {
    bare(out, backend::PARSE_COMPLETE);
}

/// BindComplete.
#[inline]
pub fn bind_complete(out: &mut Vec<u8>) {
    bare(out, backend::BIND_COMPLETE);
}

/// CloseComplete.
#[inline]
pub fn close_complete(out: &mut Vec<u8>) {
    bare(out, backend::CLOSE_COMPLETE);
}

/// NoData.
#[inline]
pub fn no_data(out: &mut Vec<u8>) {
    bare(out, backend::NO_DATA);
}

/// EmptyQueryResponse.
#[inline]
pub fn empty_query_response(out: &mut Vec<u8>) {
    bare(out, backend::EMPTY_QUERY_RESPONSE);
}

/// CommandComplete.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn command_complete(out: &mut Vec<u8>, tag: &[u8]) -> Result<(), EncodeError> {
    backend_message(out, backend::COMMAND_COMPLETE, |out| string(out, tag))
}

/// NotificationResponse.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn notification_response(
    out: &mut Vec<u8>,
    pid: i32,
    channel: &[u8],
    payload: &[u8],
) -> Result<(), EncodeError> {
    backend_message(out, backend::NOTIFICATION_RESPONSE, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        string(out, channel)?;
        string(out, payload)
    })
}
