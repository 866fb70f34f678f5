//! The exchanges by which a client proves a password: in the clear, MD5 and SCRAM.
//!
//! An unknown user goes through the same messages as a known one with a wrong password, and takes the
//! same time. Each gives what the proof has told of the secret, for logging in to servers with it.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::auth::md5::md5_verify;
use crate::auth::scram::{self, MECHANISM, MECHANISM_PLUS, Verifier};
use crate::auth::scram_binding::{EndPoint, Offer};
use crate::auth::scram_server::ServerFirst;
use crate::auth::{ScramError, Secret};
use crate::client::end::LoginError;
use crate::client::hub::Hub;
use crate::protocol::decode;
use crate::protocol::encode;
use crate::protocol::frame;
use crate::protocol::sqlstate::SqlState;
use crate::server::credentials::Learnt;
use crate::server::framed::{Framed, Message};
use crate::tasks;

/// Who wants to log in, and what is known of that user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The user's name.
    pub(super) user: &'a str,
    /// `None`: there is no such user, or none with a password.
    pub(super) secret: Option<&'a Secret>,
}

/// The refusal of a password, whatever was wrong.
pub(super) fn wrong_password(user: &str) -> LoginError {
    LoginError::refused(
        SqlState::INVALID_PASSWORD,
        format!("password authentication failed for user \"{user}\""),
    )
}

/// Asks for the password itself.
pub(super) async fn cleartext(framed: &mut Framed) -> Result<Zeroizing<Vec<u8>>, LoginError> {
    let mut request = Vec::new();
    encode::authentication_cleartext_password(&mut request);
    framed.send(&request).await?;
    let message = password_message(framed).await?;
    let body = Zeroizing::new(message.body);
    let password = decode::password(&body).map_err(|_| malformed())?;
    Ok(Zeroizing::new(password.to_vec()))
}

/// AuthenticationCleartextPassword against any form of a secret.
pub(super) async fn plain(
    hub: &Hub,
    framed: &mut Framed,
    claim: Claim<'_>,
    iterations: u32,
) -> Result<Learnt, LoginError> {
    let password = cleartext(framed).await?;
    let (secret, user) = (claim.secret.cloned(), claim.user.to_owned());
    let mock = Verifier::mock(user.as_bytes(), &hub.mock_seed, iterations);
    let (given, known) = (password.clone(), user.clone());
    let is_right = tasks::calculate(move || {
        // Each form, and none, costs one PBKDF2: time is not to tell which it was.
        match secret {
            Some(secret @ Secret::Scram(_)) => secret.verify_plain(known.as_bytes(), &given),
            secret => {
                let refused = mock.verify_password(&given);
                let is_right =
                    secret.is_some_and(|secret| secret.verify_plain(known.as_bytes(), &given));
                is_right | refused
            }
        }
    });
    if is_right.await {
        Ok(Learnt::Secret(Secret::Plain(password)))
    } else {
        Err(wrong_password(claim.user))
    }
}

/// AuthenticationMD5Password.
pub(super) async fn md5(framed: &mut Framed, claim: Claim<'_>) -> Result<Learnt, LoginError> {
    let mut salt = [0_u8; 4];
    getrandom::fill(&mut salt).map_err(|_| internal("no random bytes"))?;
    let mut request = Vec::new();
    encode::authentication_md5_password(&mut request, salt);
    framed.send(&request).await?;
    let message = password_message(framed).await?;
    let answer = decode::password(&message.body).map_err(|_| malformed())?;
    match claim.secret.and_then(|secret| secret.to_md5(claim.user.as_bytes())) {
        Some(stored) if md5_verify(&stored, salt, answer) => {
            Ok(Learnt::Secret(claim.secret.cloned().unwrap_or(Secret::Md5(stored))))
        }
        _ => Err(wrong_password(claim.user)),
    }
}

/// SCRAM-SHA-256, bound to the TLS connection if there is an `end_point` and the client can.
pub(super) async fn scram(
    hub: &Arc<Hub>,
    framed: &mut Framed,
    claim: Claim<'_>,
    end_point: Option<&EndPoint>,
    iterations: u32,
) -> Result<Learnt, LoginError> {
    let refusal = |e: ScramError| scram_refusal(&e, claim.user);
    let verifier = verifier(hub, claim, iterations).await?;
    let mut out = Vec::new();
    let mechanisms: &[&[u8]] =
        if end_point.is_some() { &[MECHANISM_PLUS, MECHANISM] } else { &[MECHANISM] };
    encode::authentication_sasl(&mut out, mechanisms).map_err(|_| internal("SASL"))?;
    framed.send(&out).await?;

    let message = password_message(framed).await?;
    let initial = decode::sasl_initial_response(&message.body).map_err(|_| malformed())?;
    let offer = Offer::by_mechanism(initial.mechanism, end_point).map_err(refusal)?;
    let data = initial.data.ok_or_else(malformed)?;
    let exchange = ServerFirst::parse(data, offer)
        .and_then(|first| first.challenge(Verifier::clone(&verifier)))
        .map_err(refusal)?;
    out.clear();
    encode::authentication_sasl_continue(&mut out, exchange.message())
        .map_err(|_| internal("SASL"))?;
    framed.send(&out).await?;

    let message = password_message(framed).await?;
    let done = exchange.verify(&message.body).map_err(refusal)?;
    out.clear();
    encode::authentication_sasl_final(&mut out, done.message()).map_err(|_| internal("SASL"))?;
    framed.send(&out).await?;
    // A password tells more than the keys made of a verifier of our own.
    Ok(match claim.secret {
        Some(secret @ Secret::Plain(_)) => Learnt::Secret(secret.clone()),
        _ => Learnt::Keys(Arc::new(done.keys)),
    })
}

/// What a SCRAM exchange checks against. Made from a plain password it costs a PBKDF2, done once
/// per user and configuration.
async fn verifier(
    hub: &Arc<Hub>,
    claim: Claim<'_>,
    iterations: u32,
) -> Result<Arc<Verifier>, LoginError> {
    let user = claim.user;
    match claim.secret {
        Some(Secret::Scram(verifier)) => Ok(Arc::new(verifier.clone())),
        Some(Secret::Plain(password)) => {
            if let Some(known) = hub.verifiers.find(user, password, iterations) {
                return Ok(known);
            }
            let salt = scram::random_salt().map_err(|e| scram_refusal(&e, user))?;
            let clear = password.clone();
            let made =
                tasks::calculate(move || Verifier::from_password(&clear, &salt, iterations)).await;
            Ok(hub.verifiers.remember(user, password, made))
        }
        // An md5 hash cannot be checked by SCRAM; like an unknown user, it never matches.
        Some(Secret::Md5(_)) | None => {
            Ok(Arc::new(Verifier::mock(user.as_bytes(), &hub.mock_seed, iterations)))
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
    if error.sqlstate() == SqlState::INVALID_PASSWORD {
        return wrong_password(user);
    }
    LoginError::Refused(error.to_message())
}

fn malformed() -> LoginError {
    LoginError::refused(SqlState::PROTOCOL_VIOLATION, "malformed password message")
}

pub(super) fn internal(what: &str) -> LoginError {
    LoginError::refused(SqlState::INTERNAL_ERROR, what)
}
