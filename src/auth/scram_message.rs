//! The form that all SCRAM messages share: attributes, base64, nonces, and the common hashes.
//!
//! It knows no exchange. Source: RFC 5802, section 5. Invariant: a message is bounded, and free of
//! NULs, before anything in it is looked at.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::scram::{KEY_LEN, Key, MESSAGE_LEN_MAX};
use super::scram_error::{Malformed, ScramError};

/// Random bytes in a nonce; base64 makes 24 characters of them.
const NONCE_RAW_LEN: usize = 18;

/// Reads `x=value` parts, separated by commas.
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next attribute, whatever it is.
    pub(super) fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (name, value) = match self.rest {
            [] => return Err(Malformed::End),
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() => (*name, value),
            _ => return Err(Malformed::Equals),
        };
        let (value, rest) = match memchr::memchr(b',', value).map(|at| value.split_at(at)) {
            Some((value, [_comma, rest @ ..])) => (value, rest),
            _ => (value, &[][..]),
        };
        self.rest = rest;
        Ok((name, value))
    }

    /// The value of the next attribute, which must be `name`.
    pub(super) fn expect(&mut self, name: u8) -> Result<&'a [u8], ScramError> {
        match self.any()? {
            (found, value) if found == name => Ok(value),
            // Mandatory extensions may stand first in any message.
            (b'm', _) => Err(ScramError::Extension),
            _ => Err(Malformed::Attribute.into()),
        }
    }
}

/// Refuses a message that no attribute could make good.
pub(super) fn check(message: &[u8]) -> Result<(), Malformed> {
    if message.is_empty() {
        Err(Malformed::Empty)
    } else if message.len() > MESSAGE_LEN_MAX {
        Err(Malformed::TooLong)
    } else if memchr::memchr(0, message).is_some() {
        Err(Malformed::EmbeddedNul)
    } else {
        Ok(())
    }
}

/// A nonce must be there and printable; it cannot hold a comma, which would have ended it.
pub(super) fn check_nonce(nonce: &[u8]) -> Result<(), ScramError> {
    if nonce.is_empty() {
        return Err(Malformed::EmptyNonce.into());
    }
    if nonce.iter().all(u8::is_ascii_graphic) { Ok(()) } else { Err(ScramError::NoncePrintable) }
}

/// A fresh nonce, in base64.
pub(super) fn random_nonce() -> Result<String, ScramError> {
    let mut raw = [0; NONCE_RAW_LEN];
    getrandom::fill(&mut raw).map_err(|_| ScramError::Random)?;
    Ok(encode_base64(&raw))
}

pub(super) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A key, proof or signature in base64; `None` unless it has the length of one.
pub(super) fn decode_key(text: &[u8]) -> Option<Key> {
    let bytes = Zeroizing::new(decode_base64(text)?);
    let key: [u8; KEY_LEN] = bytes.as_slice().try_into().ok()?;
    Some(Zeroizing::new(key))
}

pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("BUG: HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

pub(super) fn sha256(bytes: &[u8]) -> Key {
    Zeroizing::new(Sha256::digest(bytes).into())
}

pub(super) fn xor(left: &Key, right: &Key) -> Key {
    let mut result = left.clone();
    for (byte, other) in result.iter_mut().zip(right.iter()) {
        *byte ^= other;
    }
    result
}
