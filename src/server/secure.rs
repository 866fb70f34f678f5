//! TLS towards a server: asking for it, and what its answer comes to by `server_tls_sslmode`.
//!
//! It knows no certificates: what makes one good is in the configuration's verifier. Unix sockets have
//! no TLS.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{IpAddr, ServerName};

use super::connect;
use super::endpoint::Endpoint;
use super::error::ConnectError;
use super::framed::{Framed, ReadError};
use crate::config::{ServerSslMode, ServerTls};
use crate::net::{HandshakeError, Transport};
use crate::protocol::encode;

/// Has a connection that is fresh go on under TLS, if that is wanted and the server has it. Dropping
/// the future leaves a connection that can only be closed.
///
/// # Errors
/// [`ConnectError`]; the connection can only be closed.
pub(super) async fn secure(
    framed: &mut Framed,
    endpoint: &Endpoint,
    tls: &ServerTls,
) -> Result<(), ConnectError> {
    let Some(config) = &tls.config else { return Ok(()) };
    let (Endpoint::Tcp { host, .. }, Transport::Tcp(_)) = (endpoint, &framed.transport) else {
        return Ok(());
    };
    let name = server_name(host, tls.mode)?;
    let mut request = Vec::new();
    encode::ssl_request(&mut request);
    framed.send(&request).await.map_err(ConnectError::Lost)?;
    match answer(framed).await? {
        b'S' => shake(&mut framed.transport, config, name).await,
        b'N' if tls.mode.insists() => Err(ConnectError::NoTls(tls.mode)),
        b'N' => Ok(()),
        tag => Err(ConnectError::Unexpected(tag)),
    }
}

/// The one byte that answers an SSLRequest.
async fn answer(framed: &mut Framed) -> Result<u8, ConnectError> {
    while framed.buffer.is_empty() {
        framed.fill().await.map_err(|e| match e {
            ReadError::Io(e) => ConnectError::Lost(e),
            ReadError::Closed | ReadError::Frame(_) => {
                ConnectError::Lost(std::io::ErrorKind::UnexpectedEof.into())
            }
        })?;
    }
    match framed.buffer[0] {
        // Before it knows who asks, a server that is in need says so in the oldest form of the message:
        // text without a length.
        b'E' => match connect::next(framed).await {
            Err(refused @ (ConnectError::Refused(_) | ConnectError::Lost(_))) => Err(refused),
            _ => Err(ConnectError::Lost(std::io::Error::other(
                "the server answered SSLRequest with an error of its own",
            ))),
        },
        tag if framed.buffer.len() > 1 => {
            // Whoever put them there hopes that they are taken for the server's.
            tracing::debug!("{} bytes came behind the answer to SSLRequest", framed.buffer.len());
            Err(if matches!(tag, b'S' | b'N') {
                ConnectError::Injected
            } else {
                ConnectError::Unexpected(tag)
            })
        }
        tag => {
            framed.buffer = Vec::new();
            Ok(tag)
        }
    }
}

async fn shake(
    transport: &mut Transport,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(), ConnectError> {
    transport.connect_tls(config, name).await.map_err(|error| match error {
        HandshakeError::Io(e) => ConnectError::Lost(e),
        other => ConnectError::Tls(other),
    })
}

/// The name that the certificate must have, and that the server is told. A host that cannot be one has
/// to be one only if it is looked at.
fn server_name(host: &str, mode: ServerSslMode) -> Result<ServerName<'static>, ConnectError> {
    match ServerName::try_from(host.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) if mode == ServerSslMode::VerifyFull => {
            Err(ConnectError::NoTlsName(host.to_owned()))
        }
        Err(_) => {
            Ok(ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED))))
        }
    }
}
