//! Who a client is: trust, plain, md5 and SCRAM-SHA-256, as PgBouncer's `auth_type` means them.
//!
//! An unknown user goes through the same exchange as a known one with a wrong password.

use std::sync::Arc;

use crate::auth::md5::md5_verify;
use crate::auth::scram::{self, MECHANISM, Verifier};
use crate::auth::scram_server::ServerFirst;
use crate::auth::{ScramError, Secret};
use crate::client::end::LoginError;
use crate::client::hub::Hub;
use crate::client::routes;
use crate::config::{AuthType, Config};
use crate::protocol::decode;
use crate::protocol::encode;
use crate::protocol::frame;
use crate::protocol::sqlstate::SqlState;
use crate::server::framed::{Framed, Message};
use crate::tasks;

/// Iterations of verifiers made here from plain passwords: PostgreSQL's own default.
const SCRAM_ITERATIONS: u32 = 4096;

/// Authenticates `user`, saying nothing of success yet.
///
/// # Errors
/// [`LoginError`]: 28P01 for a wrong password and an unknown user alike.
pub(super) async fn authenticate(
    hub: &Arc<Hub>,
    config: &Config,
    framed: &mut Framed,
    user: &str,
) -> Result<(), LoginError> {
    let secret = config.users.password(user).map(routes::secret);
    let secret = secret.as_ref();
    let method = match (config.general.auth_type, secret) {
        // As in PgBouncer, a SCRAM verifier upgrades md5: there is no md5 hash to compare with.
        (AuthType::Md5, Some(Secret::Scram(_))) => AuthType::ScramSha256,
        (method, _) => method,
    };
    match method {
        // PostgreSQL decides whether there is such a role, when its pool logs in.
        AuthType::Trust => Ok(()),
        AuthType::Plain => Box::pin(plain(framed, user, secret)).await,
        AuthType::Md5 => Box::pin(md5_exchange(framed, user, secret)).await,
        AuthType::ScramSha256 => Box::pin(scram(hub, framed, user, secret)).await,
    }
}

fn wrong_password(user: &str) -> LoginError {
    LoginError::refused(
        SqlState::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
}

async fn plain(framed: &mut Framed, user: &str, secret: Option<&Secret>) -> Result<(), LoginError> {
    let mut request = Vec::new();
    encode::authentication_cleartext_password(&mut request);
    framed.send(&request).await?;
    let message = password_message(framed).await?;
    let password = decode::password(&message.body).map_err(|_| malformed())?;
    let right = match secret {
        // A verifier costs a PBKDF2: not on the worker.
        Some(secret) => {
            let (secret, user, password) = (secret.clone(), user.to_owned(), password.to_vec());
            tasks::blocking(move || secret.verify_plain(user.as_bytes(), &password)).await
        }
        None => false,
    };
    if right { Ok(()) } else { Err(wrong_password(user)) }
}

async fn md5_exchange(
    framed: &mut Framed,
    user: &str,
    secret: Option<&Secret>,
) -> Result<(), LoginError> {
    let mut salt = [0_u8; 4];
    getrandom::fill(&mut salt).map_err(|_| internal("no random bytes"))?;
    let mut request = Vec::new();
    encode::authentication_md5_password(&mut request, salt);
    framed.send(&request).await?;
    let message = password_message(framed).await?;
    let answer = decode::password(&message.body).map_err(|_| malformed())?;
    match secret.and_then(|s| s.to_md5(user.as_bytes())) {
        Some(stored) if md5_verify(&stored, salt, answer) => Ok(()),
        _ => Err(wrong_password(user)),
    }
}

async fn scram(
    hub: &Arc<Hub>,
    framed: &mut Framed,
    user: &str,
    secret: Option<&Secret>,
) -> Result<(), LoginError> {
    let verifier = verifier(hub, user, secret).await?;
    let mut out = Vec::new();
    encode::authentication_sasl(&mut out, &[MECHANISM]).map_err(|_| internal("SASL"))?;
    framed.send(&out).await?;

    let message = password_message(framed).await?;
    let initial = decode::sasl_initial_response(&message.body).map_err(|_| malformed())?;
    scram::check_mechanism(initial.mechanism).map_err(|e| scram_refusal(&e, user))?;
    let data = initial.data.ok_or_else(malformed)?;
    let exchange = ServerFirst::parse(data)
        .and_then(|first| first.challenge(Verifier::clone(&verifier)))
        .map_err(|e| scram_refusal(&e, user))?;
    out.clear();
    encode::authentication_sasl_continue(&mut out, exchange.message())
        .map_err(|_| internal("SASL"))?;
    framed.send(&out).await?;

    let message = password_message(framed).await?;
    let done = exchange.verify(&message.body).map_err(|e| scram_refusal(&e, user))?;
    out.clear();
    encode::authentication_sasl_final(&mut out, done.message()).map_err(|_| internal("SASL"))?;
    framed.send(&out).await?;
    Ok(())
}

/// What a SCRAM exchange checks against. Made from a plain password it costs a PBKDF2, done once
/// per user and configuration.
async fn verifier(
    hub: &Arc<Hub>,
    user: &str,
    secret: Option<&Secret>,
) -> Result<Arc<Verifier>, LoginError> {
    match secret {
        Some(Secret::Scram(verifier)) => Ok(Arc::new(verifier.clone())),
        Some(Secret::Plain(password)) => {
            if let Some(known) = hub.verifiers.find(user, password) {
                return Ok(known);
            }
            let salt = scram::random_salt().map_err(|e| scram_refusal(&e, user))?;
            let clear = password.clone();
            let made =
                tasks::blocking(move || Verifier::from_password(&clear, &salt, SCRAM_ITERATIONS))
                    .await;
            Ok(hub.verifiers.remember(user, password, made))
        }
        // An md5 hash cannot be checked by SCRAM; like an unknown user, it never matches.
        Some(Secret::Md5(_)) | None => {
            Ok(Arc::new(Verifier::mock(user.as_bytes(), &hub.mock_seed)))
        }
    }
}

async fn password_message(framed: &mut Framed) -> Result<Message, LoginError> {
    let message = framed.message(frame::login_header).await?;
    if message.tag == b'p' && message.body == [0] {
        return Err(LoginError::refused(
            SqlState::INVALID_PASSWORD,
            "empty password returned by client",
        ));
    }
    if message.tag == b'p' {
        return Ok(message);
    }
    Err(LoginError::refused(
        SqlState::PROTOCOL_VIOLATION,
        format!("expected password response, got message type {}", message.tag),
    ))
}

fn scram_refusal(error: &ScramError, user: &str) -> LoginError {
    let code = error.sqlstate();
    if code == SqlState::INVALID_PASSWORD {
        return wrong_password(user);
    }
    LoginError::refused(code, error.to_string())
}

fn malformed() -> LoginError {
    LoginError::refused(SqlState::PROTOCOL_VIOLATION, "malformed password message")
}

fn internal(what: &str) -> LoginError {
    LoginError::refused(SqlState::INTERNAL_ERROR, what)
}
