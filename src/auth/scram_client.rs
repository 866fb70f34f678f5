//! SCRAM-SHA-256 in the part of the client: we prove to a server that we know a password.
//!
//! [`ClientFirst`] -> [`ClientChallenge`] -> [`ClientFinal`], each consumed by the next. It must
//! not know where keys come from: with salt and count in hand the caller finds kept ones or derives
//! them. The server is not trusted: its message, nonce, salt and count are bounded, and it must
//! prove in turn that it knows the secret. A caller must take AuthenticationOk for a breach of
//! protocol unless [`ClientFinal::verify`] has succeeded before it.

use subtle::ConstantTimeEq;

use super::scram::{ClientKeys, ITERATIONS_MAX, Key, SALT_LEN_MAX, parse_iterations};
use super::scram_binding::ClientBinding;
use super::scram_error::{Malformed, ScramError};
use super::scram_message::{
    Attributes, check, check_nonce, decode_base64, decode_key, encode_base64, hmac, random_nonce,
    sha256, xor,
};

/// The exchange before its first message was answered. No user name is sent in it, since the startup
/// packet has named it.
#[derive(Debug)]
pub struct ClientFirst<'a> {
    binding: ClientBinding<'a>,
    message: String,
    nonce: String,
}

impl<'a> ClientFirst<'a> {
    /// Begins an exchange with a fresh nonce.
    ///
    /// # Errors
    ///
    /// [`ScramError::Random`].
    pub fn new(binding: ClientBinding<'a>) -> Result<Self, ScramError> {
        Ok(Self::with_nonce(binding, "", random_nonce()?))
    }

    pub(super) fn with_nonce(binding: ClientBinding<'a>, user: &str, nonce: String) -> Self {
        let header = binding.gs2_header();
        Self { binding, message: format!("{header}n={user},r={nonce}"), nonce }
    }

    /// client-first-message, the data of the SASLInitialResponse.
    pub fn message(&self) -> &[u8] {
        self.message.as_bytes()
    }

    /// Reads server-first-message, the data of AuthenticationSASLContinue.
    ///
    /// # Errors
    ///
    /// [`ScramError::Malformed`], [`ScramError::ServerNonce`], [`ScramError::NoncePrintable`],
    /// [`ScramError::Iterations`], [`ScramError::Extension`].
    pub fn challenge(self, server_first: &[u8]) -> Result<ClientChallenge, ScramError> {
        check(server_first)?;
        let mut attributes = Attributes::new(server_first);
        let nonce = attributes.expect(b'r')?;
        check_nonce(nonce)?;
        match nonce.strip_prefix(self.nonce.as_bytes()) {
            None | Some([]) => return Err(ScramError::ServerNonce),
            Some(_) => {}
        }
        let salt = decode_base64(attributes.expect(b's')?)
            .filter(|salt| (1..=SALT_LEN_MAX).contains(&salt.len()))
            .ok_or(Malformed::Salt)?;
        let iterations = parse_iterations(attributes.expect(b'i')?).ok_or(Malformed::Iterations)?;
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ScramError::Iterations);
        }
        if !attributes.rest().is_empty() {
            return Err(Malformed::Garbage.into());
        }
        let client_first_bare = self.message.strip_prefix(self.binding.gs2_header());
        let client_first_bare = client_first_bare.expect("BUG: we wrote the header");
        let auth_prefix = [client_first_bare.as_bytes(), b",", server_first, b","].concat();
        let without_proof = [b"c=", self.binding.attribute().as_bytes(), b",r=", nonce].concat();
        Ok(ClientChallenge { without_proof, salt, iterations, auth_prefix })
    }
}

/// The server's challenge, waiting for keys.
#[derive(Debug)]
pub struct ClientChallenge {
    /// The client's last message but for the proof.
    without_proof: Vec<u8>,
    salt: Vec<u8>,
    iterations: u32,
    auth_prefix: Vec<u8>,
}

impl ClientChallenge {
    /// The salt for [`ClientKeys::derive`].
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The count for [`ClientKeys::derive`]: 1 to [`ITERATIONS_MAX`].
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// Makes the proof.
    ///
    /// # Errors
    ///
    /// [`ScramError::ForeignKeys`] if the keys do not fit this salt and count: the password has
    /// changed since they were kept, or the server holds another verifier than the client proved.
    pub fn respond(self, keys: &ClientKeys) -> Result<ClientFinal, ScramError> {
        if !keys.fit(&self.salt, self.iterations) {
            return Err(ScramError::ForeignKeys);
        }
        let without_proof = self.without_proof;
        let auth_message: [&[u8]; 2] = [&self.auth_prefix, &without_proof];
        let stored_key = sha256(keys.client_key().as_slice());
        let client_signature = hmac(stored_key.as_slice(), &auth_message);
        let proof = xor(keys.client_key(), &client_signature);
        let server_signature = hmac(keys.server_key().as_slice(), &auth_message);
        let proof = encode_base64(proof.as_slice());
        let message = [without_proof.as_slice(), b",p=", proof.as_bytes()].concat();
        Ok(ClientFinal { message, server_signature })
    }
}

/// The proof, sent and waiting for the server's own.
pub struct ClientFinal {
    message: Vec<u8>,
    server_signature: Key,
}

impl ClientFinal {
    /// client-final-message, the data of the SASLResponse.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Checks server-final-message, the data of AuthenticationSASLFinal.
    ///
    /// # Errors
    ///
    /// [`ScramError::ServerSignature`] if the server does not know the secret,
    /// [`ScramError::ServerRefused`], [`ScramError::Malformed`].
    pub fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        check(server_final)?;
        let mut attributes = Attributes::new(server_final);
        let signature = match attributes.any()? {
            (b'v', signature) => decode_key(signature).ok_or(Malformed::Signature)?,
            (b'e', _) => return Err(ScramError::ServerRefused),
            _ => return Err(Malformed::Attribute.into()),
        };
        if !attributes.rest().is_empty() {
            return Err(Malformed::Garbage.into());
        }
        let same = signature.as_slice().ct_eq(self.server_signature.as_slice());
        if same.into() { Ok(()) } else { Err(ScramError::ServerSignature) }
    }
}

impl std::fmt::Debug for ClientFinal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientFinal(..)")
    }
}
