//! Connecting to PostgreSQL and logging in, up to the first ReadyForQuery.

use std::time::Duration;

use super::connection::Greeting;
use super::endpoint::Endpoint;
use super::error::{ConnectError, error_message};
use super::framed::{Framed, Message, ReadError};
use super::pools::ServerKeys;
use crate::auth::Secret;
use crate::auth::md5::md5_response;
use crate::auth::scram::{ClientKeys, MECHANISM};
use crate::auth::scram_client::ClientFirst;
use crate::net::{SocketOptions, Transport};
use crate::protocol::decode::{self, Authentication};
use crate::protocol::encode;
use crate::protocol::frame;
use crate::protocol::startup::Parameter;
use crate::tasks;

/// Whom to log in as, and where.
#[derive(Debug)]
pub struct Target<'a> {
    /// Where the server listens.
    pub endpoint: &'a Endpoint,
    /// The database's name on the server.
    pub dbname: &'a str,
    /// The role.
    pub user: &'a str,
    /// Its password, if one is known.
    pub secret: Option<&'a Secret>,
    /// SCRAM keys derived before.
    pub keys: &'a ServerKeys,
    /// Further parameters of the StartupMessage, as (name, value).
    pub parameters: &'a [Parameter],
    /// TCP options.
    pub options: &'a SocketOptions,
    /// Limit for connecting and logging in together.
    pub timeout: Duration,
}

/// What a login gives.
#[derive(Debug)]
pub struct LoggedIn {
    /// The socket, at a message boundary with nothing read ahead.
    pub transport: Transport,
    /// The backend's process id.
    pub backend_pid: i32,
    /// Its cancel secret.
    pub secret: Box<[u8]>,
    /// What it reported.
    pub greeting: Greeting,
}

/// Connects and logs in. Dropping the future closes the connection.
///
/// # Errors
/// [`ConnectError`]; the connection is closed.
pub async fn connect(target: &Target<'_>) -> Result<LoggedIn, ConnectError> {
    let attempt = async {
        let transport =
            target.endpoint.connect(target.options).await.map_err(ConnectError::Connect)?;
        let mut framed = Framed::new(transport);
        let mut startup = Vec::new();
        let (user, dbname) = (target.user.as_bytes(), target.dbname.as_bytes());
        let own = [(&b"user"[..], user), (&b"database"[..], dbname)];
        let further = target.parameters.iter().map(|(name, value)| (&**name, &**value));
        encode::startup(&mut startup, own.into_iter().chain(further), 0)?;
        framed.send(&startup).await.map_err(ConnectError::Lost)?;
        authenticate(&mut framed, target).await?;
        finish(framed).await
    };
    tokio::time::timeout(target.timeout, attempt).await.unwrap_or(Err(ConnectError::Timeout))
}

async fn authenticate(framed: &mut Framed, target: &Target<'_>) -> Result<(), ConnectError> {
    loop {
        let message = next(framed).await?;
        if message.tag != b'R' {
            return Err(ConnectError::Unexpected(message.tag));
        }
        let mut reply = Vec::new();
        match decode::authentication(&message.body)? {
            Authentication::Ok => return Ok(()),
            Authentication::CleartextPassword => match target.secret {
                Some(Secret::Plain(password)) => {
                    encode::password(&mut reply, password)?;
                }
                _ => return Err(no_password(target)),
            },
            Authentication::Md5 { salt } => {
                let stored = target.secret.and_then(|s| s.to_md5(target.user.as_bytes()));
                let stored = stored.ok_or_else(|| no_password(target))?;
                encode::password(&mut reply, &md5_response(&stored, salt))?;
            }
            Authentication::Sasl { mechanisms } => {
                if !mechanisms.into_iter().any(|m| m == MECHANISM) {
                    return Err(ConnectError::UnsupportedMethod(10));
                }
                return scram(framed, target).await;
            }
            Authentication::Unsupported(code) => {
                return Err(ConnectError::UnsupportedMethod(code));
            }
            _ => return Err(ConnectError::Unexpected(message.tag)),
        }
        framed.send(&reply).await.map_err(ConnectError::Lost)?;
    }
}

/// SCRAM-SHA-256 as the client of RFC 5802. The server must prove itself before AuthenticationOk.
async fn scram(framed: &mut Framed, target: &Target<'_>) -> Result<(), ConnectError> {
    let Some(Secret::Plain(password)) = target.secret else {
        return Err(no_password(target));
    };
    let exchange = ClientFirst::new()?;
    let mut out = Vec::new();
    encode::sasl_initial_response(&mut out, MECHANISM, Some(exchange.message()))?;
    framed.send(&out).await.map_err(ConnectError::Lost)?;

    let challenge = match decode::authentication(&sasl_message(framed).await?.body)? {
        Authentication::SaslContinue(data) => exchange.challenge(data)?,
        _ => return Err(ConnectError::Unexpected(b'R')),
    };
    let known = target.keys.find(challenge.salt(), challenge.iterations());
    let keys = match known {
        Some(keys) => keys,
        None => {
            let (password, salt) = (password.clone(), challenge.salt().to_vec());
            let iterations = challenge.iterations();
            let keys =
                tasks::blocking(move || ClientKeys::derive(&password, &salt, iterations)).await;
            target.keys.remember(keys)
        }
    };
    let proof = challenge.respond(&keys)?;
    out.clear();
    encode::sasl_response(&mut out, proof.message())?;
    framed.send(&out).await.map_err(ConnectError::Lost)?;
    match decode::authentication(&sasl_message(framed).await?.body)? {
        Authentication::SaslFinal(data) => proof.verify(data)?,
        _ => return Err(ConnectError::Unexpected(b'R')),
    }
    match decode::authentication(&sasl_message(framed).await?.body)? {
        Authentication::Ok => Ok(()),
        _ => Err(ConnectError::Unexpected(b'R')),
    }
}

async fn sasl_message(framed: &mut Framed) -> Result<Message, ConnectError> {
    let message = next(framed).await?;
    if message.tag == b'R' { Ok(message) } else { Err(ConnectError::Unexpected(message.tag)) }
}

/// After AuthenticationOk: parameters and the cancel key, up to ReadyForQuery.
async fn finish(mut framed: Framed) -> Result<LoggedIn, ConnectError> {
    let mut greeting = Greeting::default();
    let (mut backend_pid, mut secret) = (0, Box::default());
    loop {
        let message = next(&mut framed).await?;
        match message.tag {
            b'S' => {
                let parameter = decode::parameter_status(&message.body)?;
                greeting.parameters.push((parameter.name.into(), parameter.value.into()));
            }
            b'K' => {
                let key = decode::backend_key_data(&message.body)?;
                (backend_pid, secret) = (key.pid, key.secret.into());
            }
            b'Z' if framed.buffer.is_empty() => {
                decode::ready_for_query(&message.body)?;
                let transport = framed.transport;
                return Ok(LoggedIn { transport, backend_pid, secret, greeting });
            }
            tag => return Err(ConnectError::Unexpected(tag)),
        }
    }
}

/// The next message that is neither a notice nor an error.
async fn next(framed: &mut Framed) -> Result<Message, ConnectError> {
    loop {
        let message = framed.message(frame::backend_header).await.map_err(|e| match e {
            ReadError::Closed => ConnectError::Lost(std::io::ErrorKind::UnexpectedEof.into()),
            ReadError::Io(e) => ConnectError::Lost(e),
            ReadError::Frame(e) => ConnectError::Frame(e),
        })?;
        match message.tag {
            b'N' => {}
            b'E' => {
                let fields = decode::error_fields(&message.body)?;
                return Err(ConnectError::Refused(error_message(&fields)));
            }
            _ => return Ok(message),
        }
    }
}

fn no_password(target: &Target<'_>) -> ConnectError {
    ConnectError::NoPassword(target.user.to_owned())
}
