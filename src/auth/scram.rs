//! SCRAM-SHA-256 secrets: the verifier that a server stores, and the keys that a client proves.
//!
//! Source: RFC 5802 and RFC 7677; the stored form is that of `pg_authid`. It knows no exchange, see
//! [`super::scram_server`] and [`super::scram_client`]. Invariant: a verifier of an unknown user
//! behaves like any other in every step, except that its last answer is always no.

use pbkdf2::pbkdf2_hmac;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::scram_error::ScramError;
use super::scram_message::{decode_base64, decode_key, encode_base64, hmac, sha256};

/// The mechanism without channel binding.
pub const MECHANISM: &[u8] = b"SCRAM-SHA-256";

/// The mechanism with it, on offer only under TLS.
pub const MECHANISM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// The rounds that Postgres uses unless told otherwise.
pub const ITERATIONS_DEFAULT: u32 = 4096;

/// The most rounds that a server may ask of us, as each costs CPU time.
pub const ITERATIONS_MAX: u32 = 100_000;

/// The longest message that is accepted from either peer, in bytes.
pub const MESSAGE_LEN_MAX: usize = 1024;

/// The length of the salts that we make, in bytes.
pub const SALT_LEN: usize = 16;

/// The longest salt that is accepted, in bytes.
pub const SALT_LEN_MAX: usize = 256;

/// The length of all keys, in bytes.
pub const KEY_LEN: usize = 32;

/// A key, wiped when dropped.
pub type Key = Zeroizing<[u8; KEY_LEN]>;

/// A fresh salt for [`Verifier::from_password`].
///
/// # Errors
///
/// [`ScramError::Random`].
pub fn random_salt() -> Result<[u8; SALT_LEN], ScramError> {
    let mut salt = [0; SALT_LEN];
    getrandom::fill(&mut salt).map_err(|_| ScramError::Random)?;
    Ok(salt)
}

/// What a server knows of a password: enough to check a proof, not enough to make one.
#[derive(Clone)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
    /// Made up for a user that does not exist: whatever the proof, the answer is no.
    doomed: bool,
}

impl Verifier {
    /// The verifier in its stored form, `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    ///
    /// `None` if it is not one.
    pub fn parse(stored: &[u8]) -> Option<Self> {
        let fields = stored.strip_prefix(MECHANISM)?.strip_prefix(b"$")?;
        let (parameters, keys) = split_at_byte(fields, b'$')?;
        let (iterations, salt) = split_at_byte(parameters, b':')?;
        let (stored_key, server_key) = split_at_byte(keys, b':')?;
        let salt = decode_base64(salt)?;
        if salt.is_empty() || salt.len() > SALT_LEN_MAX {
            return None;
        }
        Some(Self {
            iterations: parse_iterations(iterations).filter(|count| *count > 0)?,
            salt,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
            doomed: false,
        })
    }

    /// The verifier of a password. Costly: see [`ClientKeys::derive`].
    ///
    /// # Panics
    ///
    /// As [`ClientKeys::derive`].
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let keys = ClientKeys::derive(password, salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(keys.client_key.as_slice()),
            server_key: keys.server_key,
            doomed: false,
        }
    }

    /// A verifier for a user that does not exist, so that the exchange can be played to its end.
    ///
    /// Salt and count are the same each time for one user and one `process_seed`, as they are for
    /// a user that exists; the count should be the one that those have. `process_seed` must be random
    /// and kept secret.
    pub fn mock(user: &[u8], process_seed: &[u8; 32], iterations: u32) -> Self {
        let derived = |purpose: &[u8]| hmac(process_seed, &[purpose, user]);
        let salt = derived(b"salt:").iter().copied().take(SALT_LEN).collect();
        Self {
            iterations,
            salt,
            stored_key: derived(b"stored:"),
            server_key: derived(b"server:"),
            doomed: true,
        }
    }

    /// Makes a good verifier one that refuses all, to show that this does not rest on its keys.
    #[cfg(test)]
    pub(super) fn doom(&mut self) {
        self.doomed = true;
    }

    /// The stored form. It is a secret.
    pub fn encoded(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            encode_base64(&self.salt),
            encode_base64(self.stored_key.as_slice()),
            encode_base64(self.server_key.as_slice()),
        ))
    }

    /// The rounds.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Whether `password` is the one; in constant time. Costly: see [`ClientKeys::derive`].
    #[must_use]
    pub fn verify_password(&self, password: &[u8]) -> bool {
        let keys = ClientKeys::derive(password, &self.salt, self.iterations);
        self.accepts(&keys.client_key)
    }

    /// Whether `client_key` is the one; in constant time.
    #[must_use]
    pub(super) fn accepts(&self, client_key: &Key) -> bool {
        let right = sha256(client_key.as_slice()).as_slice().ct_eq(self.stored_key.as_slice());
        bool::from(right) & !self.doomed
    }

    pub(super) fn stored_key(&self) -> &Key {
        &self.stored_key
    }

    pub(super) fn server_key(&self) -> &Key {
        &self.server_key
    }
}

/// Whether two verifiers are of the same password, salt and count; in constant time.
impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        let same_keys =
            self.stored_key.ct_eq(&*other.stored_key) & self.server_key.ct_eq(&*other.server_key);
        bool::from(same_keys)
            && self.iterations == other.iterations
            && self.salt == other.salt
            && self.doomed == other.doomed
    }
}

impl Eq for Verifier {}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a client needs to log in: derived from a password, or learnt from a client's proof.
///
/// They serve one salt and count only, which they therefore carry.
#[derive(Clone)]
pub struct ClientKeys {
    client_key: Key,
    server_key: Key,
    salt: Vec<u8>,
    iterations: u32,
}

impl ClientKeys {
    /// Derives the keys from a password.
    ///
    /// Costly: one PBKDF2 of `iterations` rounds. Run it off the workers, and keep the result.
    /// The password is normalised by SASLprep if it can be, else taken as it is, like in Postgres.
    ///
    /// # Panics
    ///
    /// If `iterations` is 0, which neither [`Verifier::parse`] nor a server's challenge lets pass.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        assert!(iterations > 0, "BUG: SCRAM without a single round");
        let password = normalise(password);
        let mut salted_password = Key::default();
        pbkdf2_hmac::<Sha256>(&password, salt, iterations, salted_password.as_mut_slice());
        Self {
            client_key: hmac(salted_password.as_slice(), &[b"Client Key"]),
            server_key: hmac(salted_password.as_slice(), &[b"Server Key"]),
            salt: salt.to_vec(),
            iterations,
        }
    }

    /// The keys of a client whose proof `verifier` has accepted.
    pub(super) fn learnt(client_key: Key, verifier: &Verifier) -> Self {
        Self {
            client_key,
            server_key: verifier.server_key.clone(),
            salt: verifier.salt.clone(),
            iterations: verifier.iterations,
        }
    }

    /// Whether they serve a server that asks for this salt and count.
    pub fn fit(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }

    pub(super) fn client_key(&self) -> &Key {
        &self.client_key
    }

    pub(super) fn server_key(&self) -> &Key {
        &self.server_key
    }
}

/// In constant time, but for salt and count.
impl PartialEq for ClientKeys {
    fn eq(&self, other: &Self) -> bool {
        let same_keys =
            self.client_key.ct_eq(&*other.client_key) & self.server_key.ct_eq(&*other.server_key);
        bool::from(same_keys) && self.fit(&other.salt, other.iterations)
    }
}

impl Eq for ClientKeys {}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientKeys").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// A decimal number without a sign, at most as Postgres can store one.
pub(super) fn parse_iterations(digits: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|count| i32::try_from(*count).is_ok())
}

fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let (head, tail) = bytes.split_at_checked(memchr::memchr(byte, bytes)?)?;
    Some((head, tail.get(1..)?))
}

/// SASLprep (RFC 4013) where it applies; raw bytes where it does not, as Postgres does it.
fn normalise(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok())
        .filter(|prepared| !prepared.is_empty());
    Zeroizing::new(match prepared {
        Some(prepared) => prepared.into_owned().into_bytes(),
        None => password.to_vec(),
    })
}
