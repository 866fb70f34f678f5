//! Who a client is: which method it has to prove itself by, and with what.
//!
//! How a password is proved is in `exchange`; here are the methods that look at the connection instead:
//! the client's certificate, and the system's word on who is at the other end of a Unix socket.

use std::sync::Arc;

use super::exchange::{self, Claim};
use super::secrets;
use crate::auth::Secret;
use crate::auth::certificate::CertificateNames;
use crate::client::end::LoginError;
use crate::client::hub::Hub;
use crate::config::{AuthType, ClientTls, Config};
use crate::net::Transport;
use crate::protocol::sqlstate::SqlState;
use crate::server::credentials::Learnt;
use crate::server::framed::Framed;

/// What a login wants, and over what connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) user: &'a str,
    /// `None`: the console.
    pub(super) database: Option<&'a str>,
    /// What the handshake was made with, if the connection is under TLS.
    pub(super) tls: Option<&'a ClientTls>,
}

/// Authenticates a client, saying nothing of success yet. Gives what was learnt of the user's secret.
///
/// # Errors
/// [`LoginError`]: 28P01 for a wrong password and an unknown user alike.
pub(super) async fn authenticate(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
) -> Result<Option<Learnt>, LoginError> {
    match config.general.auth_type {
        // PostgreSQL decides whether there is such a role, when its pool logs in.
        AuthType::Trust | AuthType::Any => {}
        AuthType::Cert => by_certificate(framed, asked)?,
        method @ (AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256) => {
            return by_password(hub, config, framed, asked, method).await.map(Some);
        }
    }
    Ok(Box::pin(secrets::for_servers(hub, config, asked.database, asked.user)).await)
}

async fn by_password(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
    method: AuthType,
) -> Result<Learnt, LoginError> {
    let user = asked.user;
    let known = Box::pin(secrets::find(hub, config, asked.database, user)).await?;
    let claim = Claim { user, secret: known.secret.as_ref() };
    let iterations = config.general.scram_iterations;
    let method = match (method, &known.secret) {
        // As in PgBouncer, a SCRAM verifier upgrades md5: there is no md5 hash to compare with.
        (AuthType::Md5, Some(Secret::Scram(_))) => AuthType::ScramSha256,
        // Whom nobody knows is asked as most are who are known.
        (AuthType::Md5, None) if known.are_verifiers => AuthType::ScramSha256,
        (method, _) => method,
    };
    let learnt = match method {
        AuthType::Plain => Box::pin(exchange::plain(hub, framed, claim, iterations)).await,
        AuthType::Md5 => Box::pin(exchange::md5(framed, claim)).await,
        _ => {
            let end_point = asked.tls.and_then(|tls| tls.end_point.as_deref());
            Box::pin(exchange::scram(hub, framed, claim, end_point, iterations)).await
        }
    };
    if known.is_looked_up && learnt.is_err() {
        // It may have been changed since: the next login is not to fail by what is kept.
        hub.directory.forget(user);
    }
    learnt
}

/// The client's certificate must be of an authority that is trusted, and made out to the user.
fn by_certificate(framed: &Framed, asked: Asked<'_>) -> Result<(), LoginError> {
    let refused =
        |text: &str| Err(LoginError::refused(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, text));
    let Some(tls) = asked.tls else {
        return refused("certificate authentication needs a TLS connection");
    };
    let shown = framed.transport.peer_certificates();
    let Some(leaf) = shown.first() else {
        return refused("connection requires a valid client certificate");
    };
    if !tls.trust.as_ref().is_some_and(|trust| trust.vouches(shown)) {
        return refused("connection requires a valid client certificate");
    }
    let names = CertificateNames::read(leaf);
    if names.common_name.as_deref() == Some(asked.user) {
        return Ok(());
    }
    tracing::info!(
        user = asked.user,
        common_name = names.common_name.unwrap_or_default(),
        "the client's certificate is another user's"
    );
    Err(certificate_refused(asked.user))
}

fn certificate_refused(user: &str) -> LoginError {
    LoginError::refused(
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!("certificate authentication failed for user \"{user}\""),
    )
}

/// The user id of the process at the other end of a Unix socket.
pub(super) fn peer_uid(framed: &Framed) -> Option<u32> {
    match &framed.transport {
        Transport::Unix(socket) => socket.peer_cred().ok().map(|cred| cred.uid()),
        Transport::Tcp(_) | Transport::Tls(..) | Transport::Closed => None,
    }
}
