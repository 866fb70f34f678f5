//! Connecting to PostgreSQL and logging in, up to the first ReadyForQuery, and `connect_query` behind
//! it.

use std::sync::Arc;
use std::time::Duration;

use super::closing::{CLOSE_LIMIT, Exit};
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error::{ConnectError, error_message};
use super::framed::{Framed, Message, ReadError};
use super::greeting::Greeting;
use super::secure;
use crate::auth::Secret;
use crate::auth::certificate;
use crate::auth::md5::md5_response;
use crate::auth::scram::{ClientKeys, MECHANISM, MECHANISM_PLUS};
use crate::auth::scram_binding::ClientBinding;
use crate::auth::scram_client::ClientFirst;
use crate::config::ServerTls;
use crate::net::{NameTtl, Names, SocketOptions, Transport};
use crate::observe::logs::one_line;
use crate::protocol::TransactionStatus;
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
    /// What names mean, and for how long.
    pub names: (&'a Arc<Names>, NameTtl),
    /// The database's name on the server.
    pub dbname: &'a str,
    /// The role.
    pub user: &'a str,
    /// Its password, if one is known.
    pub secret: Option<&'a Secret>,
    /// What else it may log in with.
    pub credentials: &'a Credentials,
    /// Settings to begin with, unless `parameters` have them.
    pub settings: &'a [Parameter],
    /// Further parameters of the StartupMessage, as (name, value).
    pub parameters: &'a [Parameter],
    /// What is run after the login.
    pub connect_query: Option<&'a str>,
    /// TCP options.
    pub options: &'a SocketOptions,
    /// Whether and how TLS is used.
    pub tls: &'a ServerTls,
    /// Limit for connecting and logging in together.
    pub timeout: Duration,
    /// Where the connection goes if the login fails or is given up.
    pub exit: &'a Exit,
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

/// A connection whose login may fail or be dropped at any point: it leaves in order then.
struct Attempt<'a> {
    /// `None` once it is logged in.
    framed: Option<Framed>,
    exit: &'a Exit,
}

impl Attempt<'_> {
    fn framed(&mut self) -> &mut Framed {
        self.framed.as_mut().expect("BUG: a login goes on after its end")
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(framed) = self.framed.take() {
            self.exit.leave(framed.transport, false);
        }
    }
}

/// Connects and logs in, when those have left that were on their way out before: the server is not to
/// have more connections than there are slots. Dropping the future closes the connection.
///
/// # Errors
/// [`ConnectError`]; the connection is closed.
pub async fn connect(target: &Target<'_>) -> Result<LoggedIn, ConnectError> {
    // Each takes no longer than the limit; with it, and the way to its worker, this ends anyway. It says
    // nothing of the server, so that it does not count against the time that the server has.
    let earlier = target.exit.node.earlier_have_left();
    let _ = tokio::time::timeout(CLOSE_LIMIT * 2, earlier).await;
    let attempt = async {
        let (names, ttl) = target.names;
        let connected = target.endpoint.connect(names, ttl, target.options, target.timeout);
        let transport = connected.await.map_err(ConnectError::Connect)?;
        let mut attempt = Attempt { framed: Some(Framed::new(transport)), exit: target.exit };
        let framed = attempt.framed();
        secure::secure(framed, target.endpoint, target.tls).await?;
        let mut startup = Vec::new();
        let (user, dbname) = (target.user.as_bytes(), target.dbname.as_bytes());
        let own = [(&b"user"[..], user), (&b"database"[..], dbname)];
        let is_given = |name: &[u8]| {
            target.parameters.iter().any(|(given, _)| given.eq_ignore_ascii_case(name))
        };
        let further = target.settings.iter().filter(|(name, _)| !is_given(name));
        let further = further.chain(target.parameters);
        let further = further.map(|(name, value)| (&**name, &**value));
        encode::startup(&mut startup, own.into_iter().chain(further), 0)?;
        framed.send(&startup).await.map_err(ConnectError::Lost)?;
        authenticate(framed, target).await?;
        let (mut greeting, key) = finish(framed).await?;
        if let Some(query) = target.connect_query {
            run_connect_query(framed, query, &mut greeting).await?;
        }
        let framed = attempt.framed.take().expect("BUG: a login ends once");
        let (backend_pid, secret) = key;
        Ok(LoggedIn { transport: framed.transport, backend_pid, secret, greeting })
    };
    tokio::time::timeout(target.timeout, attempt).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Runs `connect_query`. Its errors are logged; what it sets and the server reports is what clients
/// are greeted with.
async fn run_connect_query(
    framed: &mut Framed,
    query: &str,
    greeting: &mut Greeting,
) -> Result<(), ConnectError> {
    let mut bytes = Vec::new();
    encode::query(&mut bytes, query.as_bytes())?;
    framed.send(&bytes).await.map_err(ConnectError::Lost)?;
    let mut status = None;
    // What has come behind its end is read, too.
    while status.is_none() || !framed.buffer.is_empty() {
        let message = next_of_any_kind(framed).await?;
        match message.tag {
            b'E' => {
                let error = error_message(&decode::error_fields(&message.body)?);
                if error.severity.ends_session() {
                    return Err(ConnectError::Refused(error));
                }
                tracing::warn!("connect_query failed: {}", one_line(&error));
            }
            b'S' => {
                let reported = decode::parameter_status(&message.body)?;
                greeting.note(reported.name, reported.value)?;
            }
            // It has nothing to copy from.
            b'G' | b'W' if status.is_none() => {
                bytes.clear();
                encode::copy_fail(&mut bytes, b"connect_query cannot copy from a client")?;
                framed.send(&bytes).await.map_err(ConnectError::Lost)?;
            }
            b'Z' if status.is_none() => status = Some(decode::ready_for_query(&message.body)?),
            b'N' | b'A' => {}
            tag if status.is_some() => return Err(ConnectError::Unexpected(tag)),
            _ => {}
        }
    }
    match status {
        Some(TransactionStatus::Idle) => Ok(()),
        _ => Err(ConnectError::ConnectQuery),
    }
}

async fn authenticate(framed: &mut Framed, target: &Target<'_>) -> Result<(), ConnectError> {
    let learnt = target.credentials.secret();
    // A hash or verifier logs in to few servers; what a client has proved may do for more.
    let secret = match target.secret {
        Some(Secret::Plain(_)) => target.secret,
        configured => learnt.as_ref().or(configured),
    };
    loop {
        let message = next(framed).await?;
        if message.tag != b'R' {
            return Err(ConnectError::Unexpected(message.tag));
        }
        let mut reply = Vec::new();
        match decode::authentication(&message.body)? {
            Authentication::Ok => return Ok(()),
            Authentication::CleartextPassword => match secret {
                Some(Secret::Plain(password)) => {
                    encode::password(&mut reply, password)?;
                }
                _ => return Err(no_password(target)),
            },
            Authentication::Md5 { salt } => {
                let stored = secret.and_then(|s| s.to_md5(target.user.as_bytes()));
                let stored = stored.ok_or_else(|| no_password(target))?;
                encode::password(&mut reply, &md5_response(&stored, salt))?;
            }
            Authentication::Sasl { mechanisms } => {
                let (mut has_plain, mut has_plus) = (false, false);
                for mechanism in mechanisms {
                    has_plain |= mechanism == MECHANISM;
                    has_plus |= mechanism == MECHANISM_PLUS;
                }
                // Bound to the server's certificate wherever there is one that can be bound to.
                let shown = framed.transport.peer_certificates().first();
                let end_point = shown.and_then(|shown| certificate::end_point(shown));
                let binding = match &end_point {
                    Some(end_point) if has_plus => ClientBinding::Bound(end_point),
                    _ if !has_plain => return Err(ConnectError::UnsupportedMethod(10)),
                    Some(_) => ClientBinding::NotOffered,
                    None => ClientBinding::Nothing,
                };
                return scram(framed, target, secret, binding).await;
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
async fn scram(
    framed: &mut Framed,
    target: &Target<'_>,
    secret: Option<&Secret>,
    binding: ClientBinding<'_>,
) -> Result<(), ConnectError> {
    let exchange = ClientFirst::new(binding)?;
    let mut out = Vec::new();
    encode::sasl_initial_response(&mut out, binding.mechanism(), Some(exchange.message()))?;
    framed.send(&out).await.map_err(ConnectError::Lost)?;

    let challenge = match decode::authentication(&sasl_message(framed).await?.body)? {
        Authentication::SaslContinue(data) => exchange.challenge(data)?,
        _ => return Err(ConnectError::Unexpected(b'R')),
    };
    let known = target.credentials.keys(challenge.salt(), challenge.iterations());
    let keys = match (known, secret) {
        (Some(keys), _) => keys,
        (None, Some(Secret::Plain(password))) => {
            let (password, salt) = (password.clone(), challenge.salt().to_vec());
            let iterations = challenge.iterations();
            let keys =
                tasks::calculate(move || ClientKeys::derive(&password, &salt, iterations)).await;
            target.credentials.remember(keys)
        }
        (None, _) => return Err(no_password(target)),
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

/// The backend's process id and its cancel secret.
type Key = (i32, Box<[u8]>);

/// After AuthenticationOk: parameters and the cancel key, up to ReadyForQuery and what has come with it:
/// a parameter that has just changed, or that the server is about to go.
async fn finish(framed: &mut Framed) -> Result<(Greeting, Key), ConnectError> {
    let mut greeting = Greeting::default();
    let mut key = (0, Box::default());
    let mut is_ready = false;
    while !is_ready || !framed.buffer.is_empty() {
        let message = next(framed).await?;
        match message.tag {
            b'S' => {
                let parameter = decode::parameter_status(&message.body)?;
                greeting.note(parameter.name, parameter.value)?;
            }
            b'K' if !is_ready => {
                let data = decode::backend_key_data(&message.body)?;
                key = (data.pid, data.secret.into());
            }
            b'Z' if !is_ready => {
                decode::ready_for_query(&message.body)?;
                is_ready = true;
            }
            tag => return Err(ConnectError::Unexpected(tag)),
        }
    }
    Ok((greeting, key))
}

/// The next message that is neither a notice nor an error.
pub(super) async fn next(framed: &mut Framed) -> Result<Message, ConnectError> {
    loop {
        let message = next_of_any_kind(framed).await?;
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

async fn next_of_any_kind(framed: &mut Framed) -> Result<Message, ConnectError> {
    framed.message(frame::backend_header).await.map_err(|e| match e {
        ReadError::Closed => ConnectError::Lost(std::io::ErrorKind::UnexpectedEof.into()),
        ReadError::Io(e) => ConnectError::Lost(e),
        ReadError::Frame(e) => ConnectError::Frame(e),
    })
}

fn no_password(target: &Target<'_>) -> ConnectError {
    ConnectError::NoPassword(target.user.to_owned())
}
