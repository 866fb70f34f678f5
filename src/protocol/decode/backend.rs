//! Bodies of server messages: those of the login, and those that decide when a server is free.
//!
//! The server is not trusted either: a field may be missing, doubled or cut. Invariant: whatever a
//! server sends, the worst that comes of it is an error, upon which that server is closed.

use super::super::TransactionStatus;
use super::super::cursor::Cursor;
use super::super::error::Severity;
use super::super::sqlstate::SqlState;
use super::super::startup::SECRET_LEN;
use super::DecodeError;

/// The fields of an ErrorResponse or a NoticeResponse that are looked at.
///
/// Of a field that is sent twice the first counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// Field V, the untranslated severity, or S if the server is older than 9.6.
    pub severity: Option<&'a [u8]>,
    /// Field C.
    pub code: Option<&'a [u8]>,
    /// Field M.
    pub message: Option<&'a [u8]>,
    /// Field D.
    pub detail: Option<&'a [u8]>,
    /// Field H.
    pub hint: Option<&'a [u8]>,
}

impl ErrorFields<'_> {
    /// The code, if it is there and has the form of one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.code.and_then(SqlState::from_bytes)
    }

    /// The severity, if it is there and not translated.
    pub fn severity_known(&self) -> Option<Severity> {
        self.severity.and_then(Severity::from_bytes)
    }
}

/// Reads the body of an ErrorResponse or a NoticeResponse.
///
/// # Errors
///
/// [`DecodeError::Truncated`] if the last terminator is missing, [`DecodeError::Unterminated`],
/// [`DecodeError::TrailingBytes`]. A field that is missing is none.
pub fn error_fields(body: &[u8]) -> Result<ErrorFields<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let mut fields = ErrorFields::default();
    let mut severity_localised = None;
    loop {
        let code = cursor.byte()?;
        if code == 0 {
            break;
        }
        let value = cursor.string()?;
        let field = match code {
            b'V' => &mut fields.severity,
            b'S' => &mut severity_localised,
            b'C' => &mut fields.code,
            b'M' => &mut fields.message,
            b'D' => &mut fields.detail,
            b'H' => &mut fields.hint,
            _ => continue,
        };
        field.get_or_insert(value);
    }
    cursor.end()?;
    fields.severity = fields.severity.or(severity_localised);
    Ok(fields)
}

/// A ParameterStatus message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The setting.
    pub name: &'a [u8],
    /// Its new value.
    pub value: &'a [u8],
}

/// Reads the body of a ParameterStatus.
///
/// # Errors
///
/// [`DecodeError::Unterminated`], [`DecodeError::TrailingBytes`].
pub fn parameter_status(body: &[u8]) -> Result<ParameterStatus<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let name = cursor.string()?;
    let value = cursor.string()?;
    cursor.end()?;
    Ok(ParameterStatus { name, value })
}

/// A BackendKeyData message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BackendKeyData<'a> {
    /// The process id of the backend.
    pub pid: i32,
    /// The secret, 4 to 256 bytes.
    pub secret: &'a [u8],
}

/// Whoever has the secret can cancel the session's queries, so that it is not shown.
impl std::fmt::Debug for BackendKeyData<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackendKeyData").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// Reads the body of a BackendKeyData.
///
/// # Errors
///
/// [`DecodeError::Truncated`], [`DecodeError::SecretLength`].
pub fn backend_key_data(body: &[u8]) -> Result<BackendKeyData<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let pid = cursor.int32()?;
    let secret = cursor.rest();
    if !SECRET_LEN.contains(&secret.len()) {
        return Err(DecodeError::SecretLength);
    }
    Ok(BackendKeyData { pid, secret })
}

/// An Authentication message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// AuthenticationOk.
    Ok,
    /// AuthenticationCleartextPassword.
    CleartextPassword,
    /// AuthenticationMD5Password.
    Md5 {
        /// To be mixed into the response.
        salt: [u8; 4],
    },
    /// AuthenticationSASL.
    Sasl {
        /// The mechanisms on offer, in the server's order of preference.
        mechanisms: Strings<'a>,
    },
    /// AuthenticationSASLContinue, with the mechanism's data.
    SaslContinue(&'a [u8]),
    /// AuthenticationSASLFinal, with the mechanism's data.
    SaslFinal(&'a [u8]),
    /// A method that we do not have: GSSAPI, SSPI, Kerberos, or one yet to come.
    Unsupported(i32),
}

/// Reads the body of an Authentication message.
///
/// # Errors
///
/// [`DecodeError::Truncated`], [`DecodeError::Unterminated`], [`DecodeError::TrailingBytes`].
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let authentication = match cursor.int32()? {
        0 => Authentication::Ok,
        3 => Authentication::CleartextPassword,
        5 => Authentication::Md5 { salt: cursor.array()? },
        10 => {
            let mechanisms = Strings { rest: cursor.rest() };
            while !cursor.string()?.is_empty() {}
            Authentication::Sasl { mechanisms }
        }
        11 => return Ok(Authentication::SaslContinue(cursor.rest())),
        12 => return Ok(Authentication::SaslFinal(cursor.rest())),
        other => return Ok(Authentication::Unsupported(other)),
    };
    cursor.end()?;
    Ok(authentication)
}

/// Strings one behind the other, up to an empty one or the end of a body that was checked before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mut cursor = Cursor::new(self.rest);
        let string = cursor.string_if_complete().filter(|string| !string.is_empty())?;
        self.rest = cursor.rest();
        Some(string)
    }
}

/// The status in the body of a ReadyForQuery.
///
/// # Errors
///
/// [`DecodeError::Truncated`], [`DecodeError::TransactionStatus`], [`DecodeError::TrailingBytes`].
#[inline]
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, DecodeError> {
    let mut cursor = Cursor::new(body);
    let byte = cursor.byte()?;
    cursor.end()?;
    TransactionStatus::from_byte(byte).ok_or(DecodeError::TransactionStatus(byte))
}

/// The command tag in the body of a CommandComplete, without its terminator.
///
/// # Errors
///
/// [`DecodeError::Unterminated`], [`DecodeError::TrailingBytes`].
#[inline]
pub fn command_complete(body: &[u8]) -> Result<&[u8], DecodeError> {
    let mut cursor = Cursor::new(body);
    let tag = cursor.string()?;
    cursor.end()?;
    Ok(tag)
}

/// A NegotiateProtocolVersion message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateProtocolVersion<'a> {
    /// The major version that the server will speak; 0 from servers that send the minor alone.
    pub major: u16,
    /// The newest minor version that the server will speak.
    pub minor: u16,
    /// The protocol options that it does not know.
    pub unrecognised: Strings<'a>,
}

/// Reads the body of a NegotiateProtocolVersion.
///
/// # Errors
///
/// [`DecodeError::Truncated`] also for a count that the body does not hold,
/// [`DecodeError::Unterminated`], [`DecodeError::TrailingBytes`].
pub fn negotiate_protocol_version(
    body: &[u8],
) -> Result<NegotiateProtocolVersion<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let version = cursor.int32()?.cast_unsigned();
    let count = cursor.int32()?;
    let unrecognised = Strings { rest: cursor.rest() };
    // An empty name would end the iteration early, and names nothing.
    for _ in 0..count {
        if cursor.string()?.is_empty() {
            return Err(DecodeError::Truncated);
        }
    }
    if count < 0 {
        return Err(DecodeError::Truncated);
    }
    cursor.end()?;
    let (major, minor) = ((version >> 16) as u16, version as u16);
    Ok(NegotiateProtocolVersion { major, minor, unrecognised })
}

/// A NotificationResponse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationResponse<'a> {
    /// The process id of the backend that sent the notification.
    pub pid: i32,
    /// The channel.
    pub channel: &'a [u8],
    /// The payload, often empty.
    pub payload: &'a [u8],
}

/// Reads the body of a NotificationResponse.
///
/// # Errors
///
/// [`DecodeError::Truncated`], [`DecodeError::Unterminated`], [`DecodeError::TrailingBytes`].
pub fn notification_response(body: &[u8]) -> Result<NotificationResponse<'_>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let pid = cursor.int32()?;
    let channel = cursor.string()?;
    let payload = cursor.string()?;
    cursor.end()?;
    Ok(NotificationResponse { pid, channel, payload })
}
