//! The handshake, at either end, in place: it works on the socket that its caller keeps, so that a
//! handshake which is dropped or fails leaves the socket with its owner.
//!
//! A cold path with buffers of its own. It has no deadline: that is its caller's.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{End, Outcome, RECORD_MAX, Taker, TlsSession};
use crate::config::ALPN;

/// Ciphertext of a handshake that is kept until it makes sense. A message may have 64 KiB.
const HANDSHAKE_MAX: usize = 64 * 1024 + RECORD_MAX;
/// Read at once.
const READ_BYTES: usize = 4096;

/// Why no TLS connection came about. The socket is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer's messages made no sense, its certificate is not trusted, or nothing could be agreed
    /// on.
    #[error("TLS handshake failed: {0}")]
    Tls(#[from] rustls::Error),
    /// The socket failed, or the peer left.
    #[error("connection lost during TLS handshake: {0}")]
    Io(#[from] io::Error),
    /// The peer sends and sends.
    #[error("TLS handshake failed: too much data")]
    TooLong,
    /// A client that began with TLS must say what for.
    #[error("direct TLS connection without ALPN protocol \"postgresql\"")]
    NoAlpn,
}

/// Is the server of a handshake. `received` is what was read of it already. With `needs_alpn` the
/// client must ask for PostgreSQL.
pub(in crate::net) async fn accept(
    socket: &mut TcpStream,
    config: &Arc<ServerConfig>,
    received: Vec<u8>,
    needs_alpn: bool,
) -> Result<Box<TlsSession>, HandshakeError> {
    let end = UnbufferedServerConnection::new(config.clone())?;
    let session = shake(socket, End::Server(end), received).await?;
    match &session.end {
        End::Server(end) if needs_alpn && end.alpn_protocol() != Some(ALPN) => {
            Err(HandshakeError::NoAlpn)
        }
        _ => Ok(session),
    }
}

/// Is the client of a handshake with the server of that name.
pub(in crate::net) async fn connect(
    socket: &mut TcpStream,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Box<TlsSession>, HandshakeError> {
    let end = UnbufferedClientConnection::new(config.clone(), name)?;
    shake(socket, End::Client(end), Vec::new()).await
}

/// Dropping it leaves the socket in the middle of a handshake: its owner can only close it.
async fn shake(
    socket: &mut TcpStream,
    mut end: End,
    received: Vec<u8>,
) -> Result<Box<TlsSession>, HandshakeError> {
    let (mut incoming, mut plain, mut out) = (received, Vec::new(), Vec::new());
    loop {
        let mut taker = Taker { buf: &mut [], filled: 0, rest: &mut plain };
        let (consumed, outcome) = end.process(&mut incoming, &mut taker, &mut out);
        incoming.drain(..consumed);
        // An alert too; whether it arrives changes nothing.
        let sent = socket.write_all(&out).await;
        out.clear();
        let outcome = outcome?;
        sent?;
        if outcome != Outcome::Handshaking {
            break;
        }
        if incoming.len() > HANDSHAKE_MAX {
            return Err(HandshakeError::TooLong);
        }
        let len = incoming.len();
        incoming.resize(len + READ_BYTES, 0);
        let count = socket.read(&mut incoming[len..]).await?;
        incoming.truncate(len + count);
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    incoming.shrink_to_fit();
    plain.shrink_to_fit();
    Ok(Box::new(TlsSession {
        end,
        carry: incoming,
        plain,
        plain_taken: 0,
        unsent: Vec::new(),
        write_failure: None,
        is_ended: false,
        fault: None,
    }))
}
