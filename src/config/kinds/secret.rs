//! Secrets: a password, an MD5 hash or a SCRAM verifier, kept as text and never shown.
//!
//! It knows no keys and does no cryptography. Invariants: no `Display`; `Debug` prints no
//! character and no length of the secret; the memory is wiped on drop.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use zeroize::Zeroizing;

use super::super::value::{Kind, Refusal, Value};

const SCRAM_PREFIX: &str = "SCRAM-SHA-256$";

/// A stored secret of a user, in any of the forms that PostgreSQL stores.
///
/// Equality is for comparing configurations and takes no constant time: never check a client's
/// password with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

/// What a [`Password`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PasswordKind {
    /// The password itself.
    Plain,
    /// `md5` and 32 hexadecimal digits.
    Md5,
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    ScramSha256,
}

impl Password {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The secret in clear. The only way to it, so that uses can be found by name.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Which of PostgreSQL's stored forms the secret has.
    pub fn kind(&self) -> PasswordKind {
        if self.0.starts_with(SCRAM_PREFIX) {
            PasswordKind::ScramSha256
        } else if is_md5(&self.0) {
            PasswordKind::Md5
        } else {
            PasswordKind::Plain
        }
    }
}

impl Hash for Password {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

fn is_md5(text: &str) -> bool {
    text.strip_prefix("md5")
        .is_some_and(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a text with the SCRAM prefix has the four parts of a verifier. Only the shape is
/// looked at; the base64 is decoded where it is used.
fn is_scram_verifier(text: &str) -> bool {
    let base64 = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    let parts = || {
        let (head, keys) = text.strip_prefix(SCRAM_PREFIX)?.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations: u32 = iterations.parse().ok()?;
        Some(iterations > 0 && base64(salt) && base64(stored_key) && base64(server_key))
    };
    parts().unwrap_or(false)
}

/// A [`Password`].
pub(in crate::config) struct Secret;

impl Kind<Password> for Secret {
    fn read(&self, value: &Value) -> Result<Password, Refusal> {
        let Value::Text(text) = value else {
            return Err(Refusal::expected("a string"));
        };
        if text.is_empty() || text.contains('\0') {
            return Err(Refusal::expected("a non-empty string without NUL"));
        }
        if text.starts_with(SCRAM_PREFIX) && !is_scram_verifier(text) {
            let form = "a whole verifier SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey";
            return Err(Refusal::expected(form));
        }
        Ok(Password(text.clone()))
    }

    fn show(&self, _: &Password) -> String {
        "***".to_owned()
    }

    fn range(&self) -> Cow<'static, str> {
        "plain text, md5 hash or SCRAM-SHA-256 verifier".into()
    }

    fn is_secret(&self) -> bool {
        true
    }
}
