//! Messages to a server, with pgbaton in the part of the client.
//!
//! It must not know connections; it writes what it is told, also for cancel requests and for the
//! statements that pgbaton runs on its own account.

use super::super::decode::Target;
use super::super::startup::{
    CANCEL_REQUEST_CODE, GSSENC_REQUEST_CODE, PACKET_LEN_MAX, SECRET_LEN, SSL_REQUEST_CODE,
};
use super::super::tag::frontend;
use super::{EncodeError, bare, counted, frontend_message, list_item, string};

/// StartupMessage of version 3.`minor`; `user` and `database` are parameters like all others.
///
/// # Errors
///
/// [`EncodeError::EmptyName`], [`EncodeError::EmbeddedNul`], and [`EncodeError::TooLong`] beyond
/// what a server accepts as a first packet.
pub fn startup<'a>(
    out: &mut Vec<u8>,
    parameters: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    minor: u16,
) -> Result<(), EncodeError> {
    counted(out, PACKET_LEN_MAX as u32, |out| {
        out.extend_from_slice(&(3 << 16 | u32::from(minor)).to_be_bytes());
        for (name, value) in parameters {
            list_item(out, name)?;
            string(out, value)?;
        }
        out.push(0);
        Ok(())
    })
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    request(out, SSL_REQUEST_CODE);
}

/// GSSENCRequest.
pub fn gssenc_request(out: &mut Vec<u8>) {
    request(out, GSSENC_REQUEST_CODE);
}

fn request(out: &mut Vec<u8>, code: u32) {
    out.extend_from_slice(&8_u32.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
}

/// CancelRequest.
///
/// # Errors
///
/// [`EncodeError::SecretLength`].
pub fn cancel_request(out: &mut Vec<u8>, pid: i32, secret: &[u8]) -> Result<(), EncodeError> {
    if !SECRET_LEN.contains(&secret.len()) {
        return Err(EncodeError::SecretLength);
    }
    counted(out, PACKET_LEN_MAX as u32, |out| {
        out.extend_from_slice(&CANCEL_REQUEST_CODE.to_be_bytes());
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
        Ok(())
    })
}

/// PasswordMessage: a password in clear text or an MD5 response.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn password(out: &mut Vec<u8>, password: &[u8]) -> Result<(), EncodeError> {
    frontend_message(out, frontend::PASSWORD, |out| string(out, password))
}

/// SASLInitialResponse; `None` is a response without data, which is not the same as empty data.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn sasl_initial_response(
    out: &mut Vec<u8>,
    mechanism: &[u8],
    data: Option<&[u8]>,
) -> Result<(), EncodeError> {
    frontend_message(out, frontend::PASSWORD, |out| {
        string(out, mechanism)?;
        let len = data.map_or(Ok(-1), |data| i32::try_from(data.len()));
        out.extend_from_slice(&len.map_err(|_| EncodeError::TooLong)?.to_be_bytes());
        out.extend_from_slice(data.unwrap_or_default());
        Ok(())
    })
}

/// SASLResponse.
///
/// # Errors
///
/// [`EncodeError::TooLong`].
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) -> Result<(), EncodeError> {
    frontend_message(out, frontend::PASSWORD, |out| {
        out.extend_from_slice(data);
        Ok(())
    })
}

/// Query.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn query(out: &mut Vec<u8>, text: &[u8]) -> Result<(), EncodeError> {
    frontend_message(out, frontend::QUERY, |out| string(out, text))
}

/// Parse; `parameter_types` are type OIDs as on the wire, four bytes each.
///
/// # Errors
///
/// [`EncodeError::ParameterTypes`], [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn parse(
    out: &mut Vec<u8>,
    name: &[u8],
    query: &[u8],
    parameter_types: &[u8],
) -> Result<(), EncodeError> {
    let (types, []) = parameter_types.as_chunks::<4>() else {
        return Err(EncodeError::ParameterTypes);
    };
    let count = u16::try_from(types.len()).map_err(|_| EncodeError::ParameterTypes)?;
    frontend_message(out, frontend::PARSE, |out| {
        string(out, name)?;
        string(out, query)?;
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(parameter_types);
        Ok(())
    })
}

/// CopyFail.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn copy_fail(out: &mut Vec<u8>, reason: &[u8]) -> Result<(), EncodeError> {
    frontend_message(out, frontend::COPY_FAIL, |out| string(out, reason))
}

/// Bind of a statement that takes no parameters to the unnamed portal, all results as text.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn bind_no_parameters(out: &mut Vec<u8>, statement: &[u8]) -> Result<(), EncodeError> {
    frontend_message(out, frontend::BIND, |out| {
        string(out, b"")?;
        string(out, statement)?;
        // No parameter formats, no parameters, no result formats.
        out.extend_from_slice(&[0; 6]);
        Ok(())
    })
}

/// Close of the unnamed portal.
pub fn close_unnamed_portal(out: &mut Vec<u8>) {
    out.extend_from_slice(&[frontend::CLOSE, 0, 0, 0, 6, b'P', 0]);
}

/// Describe of a prepared statement.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) -> Result<(), EncodeError> {
    describe_or_close(out, frontend::DESCRIBE, Target::Statement, name)
}

/// Describe of a portal.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn describe_portal(out: &mut Vec<u8>, name: &[u8]) -> Result<(), EncodeError> {
    describe_or_close(out, frontend::DESCRIBE, Target::Portal, name)
}

/// Execute of a portal; 0 rows means all.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn execute(out: &mut Vec<u8>, portal: &[u8], max_rows: i32) -> Result<(), EncodeError> {
    frontend_message(out, frontend::EXECUTE, |out| {
        string(out, portal)?;
        out.extend_from_slice(&max_rows.to_be_bytes());
        Ok(())
    })
}

/// Close of a prepared statement.
///
/// # Errors
///
/// [`EncodeError::EmbeddedNul`], [`EncodeError::TooLong`].
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) -> Result<(), EncodeError> {
    describe_or_close(out, frontend::CLOSE, Target::Statement, name)
}

pub(in crate::protocol) fn describe_or_close(
    out: &mut Vec<u8>,
    tag: u8,
    target: Target,
    name: &[u8],
) -> Result<(), EncodeError> {
    frontend_message(out, tag, |out| {
        out.push(target.as_byte());
        string(out, name)
    })
}

/// Sync.
#[inline]
pub fn sync(out: &mut Vec<u8>) {
    bare(out, frontend::SYNC);
}

/// Flush.
#[inline]
pub fn flush(out: &mut Vec<u8>) {
    bare(out, frontend::FLUSH);
}

/// Terminate.
#[inline]
pub fn terminate(out: &mut Vec<u8>) {
    bare(out, frontend::TERMINATE);
}
