//! Whole messages from a socket, for the cold paths: logins and the console.

use std::io;

use crate::net::Transport;
use crate::protocol::frame::{FrameError, HEADER_LEN, Header};

/// Room for one read.
const FILL_BYTES: usize = 512;

/// A socket and the bytes read from it ahead of what has been asked for.
#[derive(Debug)]
pub struct Framed {
    /// The socket.
    pub transport: Transport,
    /// Bytes read and not yet taken.
    pub buffer: Vec<u8>,
}

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer closed the connection.
    #[error("connection closed")]
    Closed,
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer's bytes are no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Its tag.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Framed {
    /// A socket from which nothing has been read.
    #[must_use]
    pub const fn new(transport: Transport) -> Self {
        Self { transport, buffer: Vec::new() }
    }

    /// Reads more into the buffer. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError::Closed`] at the end of the stream, or the socket's error.
    pub async fn fill(&mut self) -> Result<(), ReadError> {
        // Most first packets fit, and are read at once.
        self.buffer.reserve(FILL_BYTES);
        match self.transport.read_some(&mut self.buffer).await? {
            0 => Err(ReadError::Closed),
            _ => Ok(()),
        }
    }

    /// The next message, its head checked by `header`. Cancel-safe: it stays in the buffer until
    /// it is whole.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn message(
        &mut self,
        header: impl Fn(&[u8]) -> Result<Option<Header>, FrameError>,
    ) -> Result<Message, ReadError> {
        loop {
            if let Some(header) = header(&self.buffer)?
                && self.buffer.len() >= header.len
            {
                let rest = self.buffer.split_off(header.len);
                let mut body = std::mem::replace(&mut self.buffer, rest);
                body.drain(..HEADER_LEN);
                return Ok(Message { tag: header.tag, body });
            }
            self.fill().await?;
        }
    }

    /// Sends all of `bytes`. Not cancel-safe: a dropped call ends the connection's usefulness.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transport.write_all(bytes).await
    }
}
