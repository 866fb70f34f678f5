//! A PostgreSQL client that costs nearly nothing: blocking, trusting, and blind to what it is sent.
//!
//! It exists for what pgbench cannot do: thousands of idle clients in one thread, and large results
//! at a speed where a client that decodes them would be what is measured.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::Fallible;

const TIMEOUT: Duration = Duration::from_secs(60);
const PROTOCOL_3_0: i32 = 196_608;
const SMALL_BUFFER_BYTES: usize = 1024;
const LARGE_BUFFER_BYTES: usize = 256 * 1024;
const HEAD_BYTES: usize = 5;
/// As psql sends them.
const COPY_DATA_BYTES: usize = 8192;
/// CopyData messages written at once.
const COPY_BATCH: usize = 16;

/// For the certificate's only name.
const TLS_NAME: &str = "localhost";
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A logged-in client.
pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to 127.0.0.1, under TLS if it is told how, and logs in without a password.
    pub fn connect(
        port: u16,
        user: &str,
        database: &str,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Fallible<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(config) => Box::new(encrypt(socket, config)?),
        };
        let mut client = Self { stream, buffer: vec![0; SMALL_BUFFER_BYTES] };
        let parameters = format!("user\0{user}\0database\0{database}\0\0");
        let mut packet = Vec::new();
        packet.extend((i32::try_from(parameters.len())? + 8).to_be_bytes());
        packet.extend(PROTOCOL_3_0.to_be_bytes());
        packet.extend(parameters.as_bytes());
        client.stream.write_all(&packet)?;
        client.read_until(b'Z')?;
        Ok(client)
    }

    /// Makes room for large results.
    pub fn with_large_buffer(mut self) -> Self {
        self.buffer = vec![0; LARGE_BUFFER_BYTES];
        self
    }

    /// Runs `sql`: how many bytes came back.
    pub fn query(&mut self, sql: &str) -> Fallible<u64> {
        self.send_query(sql)?;
        self.read_answer()
    }

    /// Only the sending half of [`query`](Self::query).
    pub fn send_query(&mut self, sql: &str) -> Fallible<()> {
        self.stream.write_all(&message(b'Q', &[sql.as_bytes(), b"\0"].concat())?)?;
        Ok(())
    }

    /// Only the receiving half of [`query`](Self::query).
    pub fn read_answer(&mut self) -> Fallible<u64> {
        self.read_until(b'Z')
    }

    /// Runs `sql`, a COPY FROM STDIN, with at least `bytes` of `line`: how many bytes were sent.
    pub fn copy_in(&mut self, sql: &str, line: &str, bytes: u64) -> Fallible<u64> {
        self.send_query(sql)?;
        self.read_until(b'G')?;
        let payload = line.repeat((COPY_DATA_BYTES / line.len()).max(1));
        let batch = message(b'd', payload.as_bytes())?.repeat(COPY_BATCH);
        let mut sent = 0;
        while sent < bytes {
            self.stream.write_all(&batch)?;
            sent += batch.len() as u64;
        }
        self.stream.write_all(&message(b'c', b"")?)?;
        self.read_until(b'Z')?;
        Ok(sent)
    }

    /// Says goodbye, so that the server's end is not an error.
    pub fn close(mut self) -> Fallible<()> {
        self.stream.write_all(&message(b'X', b"")?)?;
        Ok(())
    }

    /// Reads up to and with the first message of kind `last`, which must be the last that the server
    /// sends before it waits. An ErrorResponse is an error, once the rest has been read.
    fn read_until(&mut self, last: u8) -> Fallible<u64> {
        let mut walk = Walk::default();
        let mut total = 0;
        loop {
            let count = self.stream.read(&mut self.buffer)?;
            total += count as u64;
            let found = walk.pass(&self.buffer[..count], last)?;
            if count == 0 || (found && walk.error.is_none()) {
                // After an error the server may close instead of getting ready.
                return match walk.error.take() {
                    Some(error) => Err(error_text(&error).into()),
                    None if count == 0 => Err("the server closed the connection".into()),
                    None => Ok(total),
                };
            }
            if let Some(error) = walk.error.take_if(|_| found || walk.ready) {
                return Err(error_text(&error).into());
            }
        }
    }
}

/// Asks for TLS, as libpq does. The handshake is made with the first bytes that are written.
fn encrypt(
    mut socket: TcpStream,
    config: &Arc<ClientConfig>,
) -> Fallible<StreamOwned<ClientConnection, TcpStream>> {
    let mut answer = [0];
    socket.write_all(&SSL_REQUEST)?;
    socket.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err("no TLS there".into());
    }
    let connection = ClientConnection::new(config.clone(), TLS_NAME.try_into()?)?;
    Ok(StreamOwned::new(connection, socket))
}

/// Walks over messages that arrive in pieces.
#[derive(Default)]
struct Walk {
    head: Vec<u8>,
    /// Of the message whose head is complete.
    body_bytes_left: usize,
    error: Option<Vec<u8>>,
    in_error: bool,
    /// Whether a ReadyForQuery has come.
    ready: bool,
}

impl Walk {
    /// Whether the message of kind `last` has ended within `bytes`.
    fn pass(&mut self, mut bytes: &[u8], last: u8) -> Fallible<bool> {
        let mut found = false;
        while !bytes.is_empty() {
            if self.head.len() < HEAD_BYTES {
                let (part, rest) = bytes.split_at(bytes.len().min(HEAD_BYTES - self.head.len()));
                self.head.extend(part);
                bytes = rest;
                if self.head.len() < HEAD_BYTES {
                    break;
                }
                let length = i32::from_be_bytes([1, 2, 3, 4].map(|index| self.head[index]));
                self.body_bytes_left =
                    usize::try_from(length)?.checked_sub(4).ok_or("a message of no length")?;
                self.in_error = self.head[0] == b'E';
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.body_bytes_left));
            if self.in_error {
                self.error.get_or_insert_default().extend(part);
            }
            self.body_bytes_left -= part.len();
            bytes = rest;
            if self.body_bytes_left == 0 {
                found |= self.head[0] == last;
                self.ready |= self.head[0] == b'Z';
                self.head.clear();
            }
        }
        Ok(found)
    }
}

fn message(kind: u8, body: &[u8]) -> Fallible<Vec<u8>> {
    let length = i32::try_from(body.len() + 4)?.to_be_bytes();
    Ok([&[kind][..], &length, body].concat())
}

/// The field M of an ErrorResponse's body.
fn error_text(body: &[u8]) -> String {
    let text = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"));
    format!("the server says: {}", String::from_utf8_lossy(text.unwrap_or(body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        let error = b"SERROR\0C42601\0Mno such thing\0\0";
        [
            message(b'T', b"row").unwrap(),
            message(b'D', &[b'Z'; 300]).unwrap(),
            message(b'E', error).unwrap(),
            message(b'Z', b"I").unwrap(),
        ]
        .concat()
    }

    #[test]
    fn messages_are_walked_however_they_are_cut() {
        for piece in [1, 2, 3, 7, 64, 1000] {
            let mut walk = Walk::default();
            let mut found_at = Vec::new();
            for (index, part) in bytes().chunks(piece).enumerate() {
                if walk.pass(part, b'Z').unwrap() {
                    found_at.push(index);
                }
            }
            // Only at the very end: the Zs in the row are no message.
            assert_eq!(found_at, [bytes().len().div_ceil(piece) - 1], "pieces of {piece}");
            assert!(walk.ready);
            let text = error_text(&walk.error.unwrap());
            assert_eq!(text, "the server says: no such thing", "pieces of {piece}");
        }
    }

    #[test]
    fn a_senseless_length_is_an_error() {
        assert!(Walk::default().pass(&[b'D', 0, 0, 0, 3], b'Z').is_err());
        assert!(Walk::default().pass(&[b'D', 255, 0, 0, 3], b'Z').is_err());
    }
}
