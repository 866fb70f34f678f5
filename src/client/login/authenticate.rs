//! Who a client is: which method it has to prove itself by, and with what.
//!
//! How a password is proved is in `exchange`; here are the methods that look at the connection instead:
//! the client's certificate, and the system's word on who is at the other end of a Unix socket.

use std::net::IpAddr;
use std::sync::Arc;

use nix::unistd::{Uid, User};

use super::exchange::{self, Claim, internal};
use super::secrets;
use crate::auth::Secret;
use crate::auth::certificate::CertificateNames;
use crate::auth::hba::{CertName, Method, Visitor};
use crate::client::end::LoginError;
use crate::client::hub::Hub;
use crate::config::{AuthType, ClientTls, Config};
use crate::net::{PeerAddr, Transport};
use crate::protocol::sqlstate::SqlState;
use crate::server::credentials::Learnt;
use crate::server::framed::Framed;
use crate::tasks;

/// What a login wants, and over what connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    /// The console has no pools and no lookups of its own.
    pub(super) is_console: bool,
    pub(super) is_physical_replication: bool,
    pub(super) peer: PeerAddr,
    /// What the handshake was made with, if the connection is under TLS.
    pub(super) tls: Option<&'a ClientTls>,
}

impl Asked<'_> {
    /// The database whose settings say how users are looked up.
    fn home(&self) -> Option<&str> {
        (!self.is_console).then_some(self.database)
    }

    fn address(&self) -> Option<IpAddr> {
        match self.peer {
            PeerAddr::Tcp(address, _) => Some(address),
            PeerAddr::Unix => None,
        }
    }
}

/// How a certificate or a system's user is compared with the user.
#[derive(Debug, Clone, Default)]
struct Mapped<'a> {
    map: Option<&'a str>,
    cert_name: CertName,
    roles: Arc<[String]>,
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
    let method = match config.general.auth_type {
        AuthType::Trust | AuthType::Any => Method::Trust,
        AuthType::Plain => Method::Password,
        AuthType::Md5 => Method::Md5,
        AuthType::ScramSha256 => Method::ScramSha256,
        AuthType::Cert => Method::Cert,
        AuthType::Hba => return Box::pin(by_rule(hub, config, framed, asked)).await,
    };
    by_method(hub, config, framed, asked, method, &Mapped::default()).await
}

/// By the first rule that fits.
async fn by_rule(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
) -> Result<Option<Learnt>, LoginError> {
    let auth = &config.auth_rules;
    let roles = if auth.rules.ask_for_roles() || auth.maps.ask_for_roles() {
        secrets::roles(hub, config, asked.home(), asked.user).await?
    } else {
        Arc::default()
    };
    let visitor = Visitor {
        address: asked.address(),
        is_tls: asked.tls.is_some(),
        database: asked.database,
        user: asked.user,
        is_physical_replication: asked.is_physical_replication,
        roles: &roles,
    };
    let Some(rule) = auth.rules.find(&visitor) else {
        return Err(turned_away("no pg_hba.conf entry for", &asked));
    };
    tracing::debug!(user = asked.user, database = asked.database, "rule {rule} applies");
    if rule.method == Method::Reject {
        return Err(turned_away("pg_hba.conf rejects connection for", &asked));
    }
    let mapped =
        Mapped { map: rule.map.as_deref(), cert_name: rule.cert_name, roles: roles.clone() };
    // In PostgreSQL's order: a certificate at all, the method, whose certificate it is.
    if rule.needs_certificate {
        trusted_certificate(framed, asked)?;
    }
    let learnt = by_method(hub, config, framed, asked, rule.method, &mapped).await?;
    if rule.certificate_is_users && rule.method != Method::Cert {
        by_certificate(config, framed, asked, rule.method, &mapped)?;
    }
    Ok(learnt)
}

/// PostgreSQL's words for whom no rule lets in.
fn turned_away(what: &str, asked: &Asked<'_>) -> LoginError {
    let host = asked.address().map_or_else(|| "[local]".to_owned(), |address| address.to_string());
    let encryption = if asked.tls.is_some() { "SSL encryption" } else { "no encryption" };
    LoginError::refused(
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!(
            "{what} host \"{host}\", user \"{}\", database \"{}\", {encryption}",
            asked.user, asked.database
        ),
    )
}

async fn by_method(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
    method: Method,
    mapped: &Mapped<'_>,
) -> Result<Option<Learnt>, LoginError> {
    match method {
        // PostgreSQL decides whether there is such a role, when its pool logs in.
        Method::Trust => {}
        Method::Reject => return Err(turned_away("pg_hba.conf rejects connection for", &asked)),
        Method::Cert => by_certificate(config, framed, asked, method, mapped)?,
        Method::Peer => by_system(config, framed, asked, mapped).await?,
        Method::Password | Method::Md5 | Method::ScramSha256 => {
            return by_password(hub, config, framed, asked, method).await.map(Some);
        }
    }
    if !secrets::are_looked_up(config, asked.home(), asked.user) {
        return Ok(None);
    }
    Ok(Box::pin(secrets::for_servers(hub, config, asked.home(), asked.user)).await)
}

async fn by_password(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    asked: Asked<'_>,
    method: Method,
) -> Result<Learnt, LoginError> {
    let user = asked.user;
    let known = Box::pin(secrets::find(hub, config, asked.home(), user)).await?;
    let claim = Claim { user, secret: known.secret.as_ref() };
    let iterations = config.general.scram_iterations;
    let method = match (method, &known.secret) {
        // As in PgBouncer, a SCRAM verifier upgrades md5: there is no md5 hash to compare with.
        (Method::Md5, Some(Secret::Scram(_))) => Method::ScramSha256,
        // Whom nobody knows is asked as most are who are known.
        (Method::Md5, None) if known.are_verifiers => Method::ScramSha256,
        (method, _) => method,
    };
    let learnt = match method {
        Method::Password => Box::pin(exchange::plain(hub, framed, claim, iterations)).await,
        Method::Md5 => Box::pin(exchange::md5(framed, claim)).await,
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

/// The client's certificate must be of an authority that is trusted, and made out to the user. A
/// refusal is that of the method.
fn by_certificate(
    config: &Config,
    framed: &Framed,
    asked: Asked<'_>,
    method: Method,
    mapped: &Mapped<'_>,
) -> Result<(), LoginError> {
    let names = trusted_certificate(framed, asked)?;
    let found = match mapped.cert_name {
        CertName::Common => names.common_name.into_iter().collect(),
        CertName::Distinguished => names.distinguished_name.into_iter().collect(),
        CertName::Alternative => names.alternative_names,
    };
    let maps = &config.auth_rules.maps;
    if found.iter().any(|name| maps.allow(mapped.map, name, asked.user, &mapped.roles)) {
        return Ok(());
    }
    tracing::info!(
        user = asked.user,
        certificate = found.join(", "),
        "the client's certificate is not that user's"
    );
    let what = match method {
        Method::Password | Method::Md5 | Method::ScramSha256 => {
            return Err(exchange::wrong_password(asked.user));
        }
        Method::Trust => "\"trust\"",
        Method::Cert | Method::Peer | Method::Reject => "certificate",
    };
    Err(LoginError::refused(
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!("{what} authentication failed for user \"{}\"", asked.user),
    ))
}

/// The names of the client's certificate, if it has shown one and it is trusted.
fn trusted_certificate(framed: &Framed, asked: Asked<'_>) -> Result<CertificateNames, LoginError> {
    let shown = framed.transport.peer_certificates();
    let trust = asked.tls.and_then(|tls| tls.trust.as_ref());
    match (shown.first(), trust) {
        (Some(leaf), Some(trust)) if trust.vouches(shown) => Ok(CertificateNames::read(leaf)),
        _ => Err(LoginError::refused(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "connection requires a valid client certificate",
        )),
    }
}

/// The system's user at the other end of the Unix socket must be the user, or mapped to it.
async fn by_system(
    config: &Config,
    framed: &Framed,
    asked: Asked<'_>,
    mapped: &Mapped<'_>,
) -> Result<(), LoginError> {
    let uid = peer_uid(framed).ok_or_else(|| internal("no word on who is at the other end"))?;
    // The system may ask a directory server.
    let name = tasks::blocking(move || {
        User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
    })
    .await;
    let maps = &config.auth_rules.maps;
    let is_user = |name: &String| maps.allow(mapped.map, name, asked.user, &mapped.roles);
    if name.as_ref().is_some_and(is_user) {
        return Ok(());
    }
    tracing::info!(user = asked.user, uid, "the system's user is not that user");
    Err(LoginError::refused(
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!("Peer authentication failed for user \"{}\"", asked.user),
    ))
}

/// The user id of the process at the other end of a Unix socket.
pub(super) fn peer_uid(framed: &Framed) -> Option<u32> {
    match &framed.transport {
        Transport::Unix(socket) => socket.peer_cred().ok().map(|cred| cred.uid()),
        Transport::Tcp(_) | Transport::Tls(..) | Transport::Closed => None,
    }
}
