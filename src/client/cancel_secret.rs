//! The secret by which whoever sends a cancel request proves that it is the client's.
//!
//! Must not know whose it is. Invariant: only what the client was told is right, whole, and the
//! comparison takes the same time wherever a wrong one differs.

use subtle::ConstantTimeEq;

/// Bytes for clients from protocol 3.2 on.
const BYTES: usize = 16;
/// Bytes for older ones, which know keys of one length only.
const SHORT_BYTES: usize = 4;

/// A client's cancel secret.
pub struct CancelSecret {
    bytes: [u8; BYTES],
    len: usize,
}

impl CancelSecret {
    /// A new one, as long as a client of this protocol minor version is told. `None` if the system
    /// has no random bytes.
    #[must_use]
    pub fn random(minor: u16) -> Option<Self> {
        let mut bytes = [0_u8; BYTES];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self { bytes, len: if minor >= 2 { BYTES } else { SHORT_BYTES } })
    }

    /// What the client is told.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether `secret` is what the client was told.
    #[must_use]
    pub fn is(&self, secret: &[u8]) -> bool {
        secret.ct_eq(self.as_bytes()).into()
    }
}

impl std::fmt::Debug for CancelSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_told_is_right() {
        for (minor, len) in [(0, 4), (2, 16), (3, 16)] {
            let secret = CancelSecret::random(minor).unwrap();
            assert_eq!(secret.as_bytes().len(), len);
            assert!(secret.is(secret.as_bytes()));
            for len in (0..=BYTES).filter(|other| *other != len) {
                assert!(!secret.is(&secret.bytes[..len]), "{len} bytes of it");
            }
            assert!(!secret.is(&secret.as_bytes().repeat(2)));
            for bit in 0..len * 8 {
                let mut wrong = secret.as_bytes().to_vec();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(!secret.is(&wrong));
            }
            assert!(!CancelSecret::random(minor).unwrap().is(secret.as_bytes()));
        }
    }
}
