//! MD5 password authentication: the stored form of a password, and the response to a salt.
//!
//! It exists for old clients and servers; Postgres 18 calls it deprecated. It knows no message.
//! Source: chapter "Start-up", AuthenticationMD5Password. Invariant: a stored secret is always
//! `md5` and 32 lower-case hexadecimal digits, and it is as good as the password, so that it is
//! wiped.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &[u8; 3] = b"md5";

/// The length of a stored secret and of a response, in bytes.
pub const ENCODED_LEN: usize = 35;

/// A stored secret: `md5` and the digest of password and user name.
#[derive(Clone)]
pub struct Md5Secret {
    hex: Zeroizing<[u8; 32]>,
}

impl Md5Secret {
    /// The secret in its stored form, or `None` if `stored` is not one.
    pub fn parse(stored: &[u8]) -> Option<Self> {
        let hex: [u8; 32] = stored.strip_prefix(PREFIX)?.try_into().ok()?;
        let lower_hex = hex.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        lower_hex.then(|| Self { hex: Zeroizing::new(hex) })
    }

    /// The stored form. It is a secret.
    pub fn encoded(&self) -> [u8; ENCODED_LEN] {
        encode(&self.hex)
    }
}

impl std::fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

/// The secret that Postgres stores for this user and password.
pub fn md5_secret(user: &[u8], password: &[u8]) -> Md5Secret {
    Md5Secret { hex: Zeroizing::new(hex_digest(password, user)) }
}

/// What a client that knows the secret answers to `salt`, without the terminator.
pub fn md5_response(secret: &Md5Secret, salt: [u8; 4]) -> [u8; ENCODED_LEN] {
    encode(&hex_digest(secret.hex.as_slice(), &salt))
}

/// Whether `response` is the answer of a client that knows the secret; in constant time.
#[must_use]
pub fn md5_verify(secret: &Md5Secret, salt: [u8; 4], response: &[u8]) -> bool {
    md5_response(secret, salt).ct_eq(response).into()
}

fn hex_digest(first: &[u8], second: &[u8]) -> [u8; 32] {
    let digest = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut hex = [0; 32];
    for (pair, byte) in hex.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
        *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
    }
    hex
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

fn encode(hex: &[u8; 32]) -> [u8; ENCODED_LEN] {
    let mut encoded = [0; ENCODED_LEN];
    let (prefix, digits) = encoded.split_at_mut(PREFIX.len());
    prefix.copy_from_slice(PREFIX);
    digits.copy_from_slice(hex);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_and_response_are_those_of_another_implementation() {
        for (user, password, salt) in [
            ("md5_user", "password", *b"\x2a\x3d\x8f\xe0"),
            ("", "", [0; 4]),
            ("é", "ü\u{7f}", [255; 4]),
        ] {
            let secret = md5_secret(user.as_bytes(), password.as_bytes());
            let theirs = postgres_protocol::authentication::md5_hash(
                user.as_bytes(),
                password.as_bytes(),
                salt,
            );
            assert_eq!(md5_response(&secret, salt), theirs.as_bytes());
            assert!(md5_verify(&secret, salt, theirs.as_bytes()));
        }
    }

    #[test]
    fn a_known_response() {
        let secret = md5_secret(b"md5_user", b"password");
        let response = md5_response(&secret, [0x2a, 0x3d, 0x8f, 0xe0]);
        assert_eq!(&response, b"md562af4dd09bbb41884907a838a3233294");
    }

    #[test]
    fn a_wrong_response_is_refused() {
        let secret = md5_secret(b"u", b"p");
        let good = md5_response(&secret, [1, 2, 3, 4]);
        assert!(!md5_verify(&secret, [1, 2, 3, 5], &good));
        for bad in [&b""[..], b"md5", &good[..34], &good.to_ascii_uppercase()] {
            assert!(!md5_verify(&secret, [1, 2, 3, 4], bad));
        }
        for at in 0..ENCODED_LEN {
            let mut bad = good;
            bad[at] ^= 1;
            assert!(!md5_verify(&secret, [1, 2, 3, 4], &bad));
        }
    }

    #[test]
    fn the_stored_form_is_read_and_written() {
        let secret = md5_secret(b"u", b"p");
        let encoded = secret.encoded();
        assert_eq!(Md5Secret::parse(&encoded).unwrap().encoded(), encoded);
        for bad in [
            &b""[..],
            b"md5",
            &encoded[..34],
            &encoded.to_ascii_uppercase(),
            b"md5zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
            &[&encoded[..], b"0"].concat(),
        ] {
            assert!(Md5Secret::parse(bad).is_none());
        }
        assert_eq!(format!("{secret:?}"), "Md5Secret(..)");
    }
}
