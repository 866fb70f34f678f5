//! A stored secret in any of the three forms that Postgres and its poolers store.
//!
//! It must not know files or queries, from which secrets come, nor which method a rule demands.
//! Invariant: a stored text that has the exact form of a verifier or an MD5 secret is one, and can
//! never be used as a password; everything else is a password.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::md5::{Md5Secret, md5_secret};
use super::scram::Verifier;
use super::scram_message::sha256;

/// What is known of a user's password. `Debug` shows the form only.
#[derive(Clone)]
pub enum Secret {
    /// The password itself.
    Plain(Zeroizing<Vec<u8>>),
    /// `md5` and 32 digits, bound to a user name.
    Md5(Md5Secret),
    /// A SCRAM-SHA-256 verifier.
    Scram(Verifier),
}

impl Secret {
    /// Recognises the form of a stored secret.
    pub fn parse(stored: &[u8]) -> Self {
        if let Some(verifier) = Verifier::parse(stored) {
            Self::Scram(verifier)
        } else if let Some(secret) = Md5Secret::parse(stored) {
            Self::Md5(secret)
        } else {
            Self::Plain(Zeroizing::new(stored.to_vec()))
        }
    }

    /// Whether `password` is the one; in constant time.
    ///
    /// Costly for [`Secret::Scram`], see [`ClientKeys::derive`](super::scram::ClientKeys::derive).
    #[must_use]
    pub fn verify_plain(&self, user: &[u8], password: &[u8]) -> bool {
        match self {
            // Digests are compared, so that time does not even tell the length.
            Self::Plain(known) => {
                sha256(known).as_slice().ct_eq(sha256(password).as_slice()).into()
            }
            Self::Md5(secret) => {
                md5_secret(user, password).encoded().ct_eq(&secret.encoded()).into()
            }
            Self::Scram(verifier) => verifier.verify_password(password),
        }
    }

    /// The secret for an MD5 exchange; `None` for a verifier, from which none can be made.
    pub fn to_md5(&self, user: &[u8]) -> Option<Md5Secret> {
        match self {
            Self::Plain(password) => Some(md5_secret(user, password)),
            Self::Md5(secret) => Some(secret.clone()),
            Self::Scram(_) => None,
        }
    }
}

/// In constant time, as far as the form allows.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(a), Self::Plain(b)) => {
                sha256(a).as_slice().ct_eq(sha256(b).as_slice()).into()
            }
            (Self::Md5(a), Self::Md5(b)) => a.encoded().ct_eq(&b.encoded()).into(),
            (Self::Scram(a), Self::Scram(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Secret {}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &[u8] = b"SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn each_form_is_recognised_and_nothing_else_is() {
        assert!(matches!(Secret::parse(VERIFIER), Secret::Scram(_)));
        let md5 = md5_secret(b"u", b"pencil").encoded();
        assert!(matches!(Secret::parse(&md5), Secret::Md5(_)));
        for plain in [&b""[..], b"pencil", b"md5", b"SCRAM-SHA-256$", b"\xff\x00", &VERIFIER[1..]] {
            assert!(matches!(Secret::parse(plain), Secret::Plain(_)));
        }
    }

    #[test]
    fn every_form_verifies_the_password_and_refuses_another() {
        let forms =
            [b"pencil".to_vec(), md5_secret(b"u", b"pencil").encoded().to_vec(), VERIFIER.to_vec()];
        for form in forms {
            let secret = Secret::parse(&form);
            assert!(secret.verify_plain(b"u", b"pencil"), "{secret:?}");
            for wrong in [&b""[..], b"pencils", b"penci", &form[1..]] {
                assert!(!secret.verify_plain(b"u", wrong), "{secret:?}");
            }
            let is_md5 = matches!(secret, Secret::Md5(_));
            assert_eq!(secret.verify_plain(b"v", b"pencil"), !is_md5);
            assert_eq!(secret.to_md5(b"u").is_none(), matches!(secret, Secret::Scram(_)));
        }
    }

    #[test]
    fn a_stored_secret_is_not_a_password() {
        let md5 = md5_secret(b"u", b"pencil").encoded();
        assert!(!Secret::parse(&md5).verify_plain(b"u", &md5));
        assert!(!Secret::parse(VERIFIER).verify_plain(b"u", VERIFIER));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", Secret::parse(b"pencil")), "Plain(..)");
        let shown = format!("{:?}", Verifier::parse(VERIFIER).unwrap());
        assert_eq!(shown, "Verifier { iterations: 4096, .. }");
    }
}
