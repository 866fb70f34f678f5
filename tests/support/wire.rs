//! A raw, blocking PostgreSQL client that hides nothing: bytes out, messages in, with timeouts.
//!
//! It speaks protocol 3.0 and every login of the tests. It never sends anything by itself after
//! the login, so a test decides each byte, also wrong ones.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use rustix::net::sockopt::set_socket_linger;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::messages::{int32, int32_bytes, push_text, terminated, text};

pub use super::messages::{
    ErrorFields, Message, bind, boundaries, close, column_names, columns, describe, execute, flush,
    message, parse, query, sync, tags, terminate, with_length,
};

/// How long a read or write may take before the test fails.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Protocol 3.0.
pub const PROTOCOL_3_0: i32 = 3 << 16;
/// The request code of a CancelRequest.
const CANCEL_REQUEST: i32 = 80_877_102;
/// The code of an SSLRequest.
pub const SSL_REQUEST: i32 = 80_877_103;

/// Where a client connects to.
#[derive(Debug, Clone)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

/// Who logs in to what.
#[derive(Debug, Clone)]
pub struct Login {
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// Sent if it is asked for.
    pub password: String,
    /// Further startup parameters.
    pub parameters: Vec<(String, String)>,
}

impl Login {
    /// Without parameters.
    pub fn new(user: &str, database: &str, password: &str) -> Self {
        let [user, database, password] = [user, database, password].map(str::to_owned);
        Self { user, database, password, parameters: Vec::new() }
    }

    /// With one more startup parameter.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What a connection can end in.
#[derive(Debug)]
pub enum WireError {
    /// The server said no.
    Server(ErrorFields),
    /// The connection was closed between two messages.
    Closed,
    /// The connection broke, was cut inside a message, or nothing came in time.
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What one query brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Every row's columns as text; NULL is `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// The CommandComplete tags.
    pub tags: Vec<String>,
    /// The error, if there was one.
    pub error: Option<ErrorFields>,
    /// NoticeResponses.
    pub notices: Vec<ErrorFields>,
    /// The status of the ReadyForQuery: b'I', b'T' or b'E'.
    pub status: u8,
}

impl Reply {
    /// The first column of the first row; fails the test with the whole reply if there is none.
    pub fn value(&self) -> &str {
        let cell = self.rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        cell.unwrap_or_else(|| panic!("no value in {self:?}"))
    }
}

enum Stream {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path)?)),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_write_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Tls(stream) => stream.sock.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// The sending half of a connection, for a thread of its own.
pub struct Sender(Stream);

impl Sender {
    /// Sends bytes as they are.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}

/// One connection.
pub struct Wire {
    stream: Stream,
    received: Vec<u8>,
    /// ParameterStatus messages so far, later values replacing earlier ones.
    pub parameters: Vec<(String, String)>,
    /// The process id of BackendKeyData; 0 before the login.
    pub pid: i32,
    /// The secret of BackendKeyData, of any length.
    pub secret: Vec<u8>,
    /// Whether login asked for: b'R' sub-codes in order, e.g. [10, 11, 12, 0] for SCRAM.
    pub authentication: Vec<i32>,
}

impl Wire {
    /// Connects and sends nothing.
    pub fn connect(address: impl Into<Address>) -> Self {
        let address = address.into();
        let stream = Stream::connect(&address);
        let stream = stream.unwrap_or_else(|e| panic!("cannot connect to {address:?}: {e}"));
        stream.set_read_timeout(TIMEOUT).unwrap();
        stream.set_write_timeout(TIMEOUT).unwrap();
        Self {
            stream,
            received: Vec::new(),
            parameters: Vec::new(),
            pid: 0,
            secret: Vec::new(),
            authentication: Vec::new(),
        }
    }

    /// Connects and logs in up to the first ReadyForQuery; fails the test if that fails.
    pub fn login(address: impl Into<Address>, login: &Login) -> Self {
        let tried = Self::try_login(address, login);
        tried.unwrap_or_else(|e| panic!("cannot log in as {login:?}: {e:?}"))
    }

    /// Connects and logs in up to the first ReadyForQuery.
    pub fn try_login(address: impl Into<Address>, login: &Login) -> Result<Self, WireError> {
        let mut wire = Self::connect(address);
        wire.send_startup(login)?;
        wire.authenticate(login)?;
        Ok(wire)
    }

    /// Connects, asks for TLS and has it as a client of `config`; fails the test if that fails.
    pub fn connect_tls(address: SocketAddr, config: &ClientConfig) -> Self {
        let mut wire = Self::connect(address);
        wire.send(&with_length(&SSL_REQUEST.to_be_bytes()));
        assert_eq!(wire.receive_byte().unwrap(), b'S');
        let encrypted = wire.encrypt(config);
        encrypted.unwrap_or_else(|e| panic!("no TLS connection: {e}"))
    }

    /// Has the connection go on under TLS from here.
    pub fn encrypt(self, config: &ClientConfig) -> io::Result<Self> {
        assert!(self.received.is_empty(), "bytes left: {}", self.received.escape_ascii());
        let Stream::Tcp(mut socket) = self.stream else { panic!("TLS over TCP only") };
        let name = ServerName::try_from("localhost").unwrap();
        let config = Arc::new(config.clone());
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self { stream: Stream::Tls(Box::new(StreamOwned::new(connection, socket))), ..self })
    }

    /// Connects by TLS and logs in; fails the test if that fails.
    pub fn login_tls(address: SocketAddr, config: &ClientConfig, login: &Login) -> Self {
        let mut wire = Self::connect_tls(address, config);
        wire.send_startup(login).unwrap();
        let done = wire.authenticate(login);
        done.unwrap_or_else(|e| panic!("cannot log in as {login:?}: {e:?}"));
        wire
    }

    /// What the TLS connection has agreed on.
    pub fn tls(&self) -> &ClientConnection {
        match &self.stream {
            Stream::Tls(stream) => &stream.conn,
            _ => panic!("no TLS"),
        }
    }

    /// The socket under TLS, for bytes that are none of TLS's.
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Unix(_) => panic!("no TCP"),
        }
    }

    /// Says in TLS's words that no more will come, and nothing else.
    pub fn close_notify(&mut self) {
        let Stream::Tls(stream) = &mut self.stream else { panic!("no TLS") };
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }

    /// Sends the StartupMessage alone.
    pub fn send_startup(&mut self, login: &Login) -> Result<(), WireError> {
        let own = [("user", login.user.as_str()), ("database", login.database.as_str())];
        let more = login.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
        for (name, value) in own.into_iter().chain(more) {
            push_text(&mut body, name);
            push_text(&mut body, value);
        }
        body.push(0);
        self.try_send(&with_length(&body))
    }

    /// Answers what the server asks for, until ReadyForQuery.
    pub fn authenticate(&mut self, login: &Login) -> Result<(), WireError> {
        let mut scram = None;
        loop {
            let message = self.receive()?;
            match message.tag {
                b'R' => self.answer(&message.body, login, &mut scram)?,
                b'K' => {
                    self.pid = int32(&message.body[..4]);
                    self.secret = message.body[4..].to_vec();
                }
                b'E' => return Err(WireError::Server(ErrorFields::parse(&message.body))),
                b'S' | b'N' | b'v' => {}
                b'Z' => return Ok(()),
                _ => panic!("{message:?} in a login"),
            }
        }
    }

    fn answer(
        &mut self,
        body: &[u8],
        login: &Login,
        scram: &mut Option<ScramSha256>,
    ) -> Result<(), WireError> {
        let (code, data) = (int32(&body[..4]), &body[4..]);
        self.authentication.push(code);
        let password = login.password.as_bytes();
        match code {
            0 => Ok(()),
            3 => self.send_password(&terminated(password)),
            5 => {
                let salt = data.try_into().expect("a salt of four bytes");
                let hash = md5_hash(login.user.as_bytes(), password, salt);
                self.send_password(&terminated(hash.as_bytes()))
            }
            10 => {
                assert!(data.starts_with(b"SCRAM-SHA-256"), "offered {}", data.escape_ascii());
                let exchange = ScramSha256::new(password, ChannelBinding::unsupported());
                let mut first = terminated(b"SCRAM-SHA-256");
                first.extend(int32_bytes(exchange.message().len()));
                first.extend(exchange.message());
                *scram = Some(exchange);
                self.send_password(&first)
            }
            11 => {
                let exchange = scram.as_mut().expect("a SCRAM exchange");
                exchange.update(data)?;
                let reply = exchange.message().to_vec();
                self.send_password(&reply)
            }
            12 => Ok(scram.as_mut().expect("a SCRAM exchange").finish(data)?),
            _ => panic!("authentication request {code}"),
        }
    }

    fn send_password(&mut self, body: &[u8]) -> Result<(), WireError> {
        self.try_send(&message(b'p', body))
    }

    /// Sends bytes as they are.
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends bytes as they are; fails the test if that fails.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("cannot send: {e:?}"));
    }

    /// The sending half again: one thread sends, another reads.
    pub fn sender(&self) -> Sender {
        Sender(match &self.stream {
            Stream::Tcp(stream) => Stream::Tcp(stream.try_clone().unwrap()),
            Stream::Tls(_) => panic!("a TLS connection has no halves"),
            Stream::Unix(stream) => Stream::Unix(stream.try_clone().unwrap()),
        })
    }

    /// The next message, whatever it is. ParameterStatus is noted on the way.
    pub fn receive(&mut self) -> Result<Message, WireError> {
        while self.received.len() < 5 || self.received.len() < self.first_length() {
            self.read_more()?;
        }
        let length = self.first_length();
        let rest = self.received.split_off(length);
        let frame = std::mem::replace(&mut self.received, rest);
        let message = Message { tag: frame[0], body: frame[5..].to_vec() };
        if message.tag == b'S' {
            self.note_parameter(&message.body);
        }
        Ok(message)
    }

    fn first_length(&self) -> usize {
        let length = usize::try_from(int32(&self.received[1..5])).expect("a positive length");
        assert!(length >= 4, "a message of length {length}");
        1 + length
    }

    fn read_more(&mut self) -> Result<(), WireError> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 && self.received.is_empty() {
            return Err(WireError::Closed);
        }
        if count == 0 {
            return Err(WireError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.received.extend_from_slice(&chunk[..count]);
        Ok(())
    }

    fn note_parameter(&mut self, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0).map(|t| String::from_utf8_lossy(t).into());
        let pair: Option<(String, String)> = texts.next().zip(texts.next());
        let (name, value) = pair.expect("a name and a value");
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value));
    }

    /// The value that the server last reported for a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// One byte that is not a message: the answer to SSLRequest or GSSENCRequest.
    pub fn receive_byte(&mut self) -> Result<u8, WireError> {
        while self.received.is_empty() {
            self.read_more()?;
        }
        Ok(self.received.remove(0))
    }

    /// The next message, which must have this tag; returns its body.
    pub fn expect(&mut self, tag: u8) -> Vec<u8> {
        let message = self.receive();
        let message = message.unwrap_or_else(|e| panic!("no {} but {e:?}", char::from(tag)));
        assert_eq!(char::from(message.tag), char::from(tag), "{message:?}");
        message.body
    }

    /// The next message, which must be ReadyForQuery; returns its status.
    pub fn expect_ready(&mut self) -> u8 {
        let body = self.expect(b'Z');
        assert_eq!(body.len(), 1, "{body:?}");
        body[0]
    }

    /// The next message, which must be ErrorResponse.
    pub fn expect_error(&mut self) -> ErrorFields {
        ErrorFields::parse(&self.expect(b'E'))
    }

    /// Nothing must come any more: the peer has closed, in order or by a reset.
    pub fn expect_closed(&mut self) {
        match self.receive() {
            Err(WireError::Closed) => {}
            Err(WireError::Io(e)) if e.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("not closed but {other:?}"),
        }
    }

    /// Nothing must come for `time`, and the connection must stay open.
    pub fn expect_silence(&mut self, time: Duration) {
        assert!(self.received.is_empty(), "bytes left: {}", self.received.escape_ascii());
        self.set_timeout(time);
        let outcome = self.receive();
        self.set_timeout(TIMEOUT);
        match outcome {
            Err(WireError::Io(e)) if is_timeout(&e) && self.received.is_empty() => {}
            other => panic!("not silent but {other:?}"),
        }
    }

    /// How long reads may take from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.stream.set_read_timeout(timeout).unwrap();
    }

    /// All messages up to and with the next ReadyForQuery.
    pub fn receive_until_ready(&mut self) -> Result<Vec<Message>, WireError> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.receive()?);
            if messages.last().is_some_and(|message| message.tag == b'Z') {
                return Ok(messages);
            }
        }
    }

    /// Sends a Query and reads its reply. An ErrorResponse is part of the reply.
    pub fn try_query(&mut self, sql: &str) -> Result<Reply, WireError> {
        self.try_send(&query(sql))?;
        self.receive_reply()
    }

    /// Sends a Query; fails the test if the connection breaks or the server reports an error.
    pub fn query(&mut self, sql: &str) -> Reply {
        let reply = self.try_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        assert!(reply.error.is_none(), "{sql}: {reply:?}");
        reply
    }

    /// Sends a Query that must fail; returns the error.
    pub fn query_error(&mut self, sql: &str) -> ErrorFields {
        let reply = self.try_query(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        reply.error.clone().unwrap_or_else(|| panic!("{sql}: no error in {reply:?}"))
    }

    /// Reads up to the next ReadyForQuery and sorts what came. An ErrorResponse after which the
    /// connection closes (FATAL) is [`WireError::Server`].
    pub fn receive_reply(&mut self) -> Result<Reply, WireError> {
        let mut reply = Reply::default();
        loop {
            let message = match (self.receive(), reply.error.take()) {
                (Err(WireError::Closed), Some(error)) => return Err(WireError::Server(error)),
                (message, error) => {
                    reply.error = error;
                    message?
                }
            };
            match message.tag {
                b'D' => reply.rows.push(columns(&message.body)),
                b'C' => reply.tags.push(String::from_utf8_lossy(text(&message.body)).into()),
                b'E' => reply.error = Some(ErrorFields::parse(&message.body)),
                b'N' => reply.notices.push(ErrorFields::parse(&message.body)),
                b'Z' => {
                    reply.status = message.body[0];
                    return Ok(reply);
                }
                _ => {}
            }
        }
    }

    /// Closes with a TCP reset, as the kernel of a client that was killed with unread data does.
    pub fn reset(self) {
        match &self.stream {
            // A linger time of zero makes the close a reset.
            Stream::Tcp(stream) => set_socket_linger(stream, Some(Duration::ZERO)).unwrap(),
            Stream::Tls(tls) => set_socket_linger(&tls.sock, Some(Duration::ZERO)).unwrap(),
            Stream::Unix(_) => panic!("a unix socket has no reset"),
        }
    }

    /// Closes one direction.
    pub fn shutdown(&self, how: Shutdown) {
        self.stream.shutdown(how).unwrap();
    }
}

/// Sends a CancelRequest on a connection of its own and waits for the server to close it.
pub fn cancel(address: impl Into<Address>, pid: i32, secret: &[u8]) {
    let mut body = CANCEL_REQUEST.to_be_bytes().to_vec();
    body.extend(pid.to_be_bytes());
    body.extend(secret);
    let mut wire = Wire::connect(address);
    wire.send(&with_length(&body));
    wire.expect_closed();
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
