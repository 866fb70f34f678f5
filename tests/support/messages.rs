//! The messages of the protocol as the tests send and read them: encoders, and what came apart.
//!
//! It knows no connection. Nothing here checks what a test asks for: wrong messages are wanted too.

use std::fmt;

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The type byte.
    pub tag: u8,
    /// Everything after the length.
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\"{}\"", char::from(self.tag), self.body.escape_ascii())
    }
}

/// The fields of an ErrorResponse or NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields(Vec<(u8, String)>);

impl ErrorFields {
    /// Reads the body of an ErrorResponse or NoticeResponse.
    pub fn parse(body: &[u8]) -> Self {
        let fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
        Self(fields.map(|f| (f[0], String::from_utf8_lossy(&f[1..]).into_owned())).collect())
    }

    /// One field, or "" if it is absent.
    pub fn field(&self, code: u8) -> &str {
        self.0.iter().find(|(known, _)| *known == code).map_or("", |(_, text)| text)
    }

    /// ERROR, FATAL, ...: the field that is never translated.
    pub fn severity(&self) -> &str {
        self.field(b'V')
    }

    /// The SQLSTATE.
    pub fn code(&self) -> &str {
        self.field(b'C')
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        self.field(b'M')
    }
}

/// A message: tag, length, body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(with_length(body));
    bytes
}

/// A message without a tag: StartupMessage, CancelRequest, SSLRequest.
pub fn with_length(body: &[u8]) -> Vec<u8> {
    let mut bytes = int32_bytes(body.len() + 4).to_vec();
    bytes.extend(body);
    bytes
}

/// Query.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &terminated(sql.as_bytes()))
}

/// Parse, without parameter types.
pub fn parse(statement: &str, sql: &str) -> Vec<u8> {
    let mut body = terminated(statement.as_bytes());
    push_text(&mut body, sql);
    body.extend([0, 0]);
    message(b'P', &body)
}

/// Bind, all values and results as text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let mut body = terminated(portal.as_bytes());
    push_text(&mut body, statement);
    body.extend([0, 0]);
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend(int32_bytes(value.len()));
                body.extend(value.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Describe; `kind` is b'S' for a statement, b'P' for a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    kind_and_name(b'D', kind, name)
}

/// Close; `kind` is b'S' for a statement, b'P' for a portal.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    kind_and_name(b'C', kind, name)
}

/// Execute; 0 rows means all.
pub fn execute(portal: &str, rows_max: i32) -> Vec<u8> {
    let mut body = terminated(portal.as_bytes());
    body.extend(rows_max.to_be_bytes());
    message(b'E', &body)
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

/// Flush.
pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

/// The tags of messages as one string, for short comparisons such as "12DCZ".
pub fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// The offsets at which messages begin, and the end.
pub fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    let mut at = 0;
    while at < bytes.len() {
        at += 1 + usize::try_from(int32(&bytes[at + 1..at + 5])).unwrap();
        ends.push(at);
    }
    ends
}

/// The columns of a DataRow as text.
pub fn columns(body: &[u8]) -> Vec<Option<String>> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    let mut next = || {
        let length = int32(&rest[..4]);
        rest = &rest[4..];
        let length = usize::try_from(length).ok()?;
        let value = String::from_utf8_lossy(&rest[..length]).into_owned();
        rest = &rest[length..];
        Some(value)
    };
    (0..count).map(|_| next()).collect()
}

/// The column names of a RowDescription.
pub fn column_names(body: &[u8]) -> Vec<String> {
    /// Table, column, type, its size and modifier, format.
    const AFTER_NAME: usize = 18;
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    let mut next = || {
        let name = text(rest);
        rest = &rest[name.len() + 1 + AFTER_NAME..];
        String::from_utf8_lossy(name).into_owned()
    };
    (0..count).map(|_| next()).collect()
}

fn kind_and_name(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    let mut body = vec![kind];
    push_text(&mut body, name);
    message(tag, &body)
}

pub(super) fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend(terminated(text.as_bytes()));
}

pub(super) fn terminated(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.to_vec();
    bytes.push(0);
    bytes
}

pub(super) fn text(body: &[u8]) -> &[u8] {
    body.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(super) fn int32(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

pub(super) fn int32_bytes(value: usize) -> [u8; 4] {
    i32::try_from(value).expect("a length fits 31 bits").to_be_bytes()
}
