//! SCRAM-SHA-256 in the part of the server: a client proves that it knows a password.
//!
//! [`ServerFirst`] -> [`ServerFinal`] -> [`Done`], each consumed by the next. It must not know
//! where verifiers come from: between the first two steps the caller looks one up, or makes a mock.
//! Channel binding is not on offer, so that flag `p` is refused while `n` and `y` are accepted.
//! The user name inside the message is ignored, like in Postgres: the startup packet has named it.
//!
//! Invariant: a client key leaves this module only when its proof was right.

use super::scram::{ClientKeys, Verifier};
use super::scram_binding::Offer;
use super::scram_error::{Malformed, ScramError};
use super::scram_message::{
    Attributes, check, check_nonce, decode_key, encode_base64, hmac, random_nonce, xor,
};

/// The client's first message, understood.
#[derive(Debug)]
pub struct ServerFirst {
    /// What `c=` must be in the client's last message.
    channel_binding: String,
    is_bound: bool,
    client_first_bare: Vec<u8>,
    client_nonce: Vec<u8>,
}

impl ServerFirst {
    /// Reads client-first-message, the data of the SASLInitialResponse.
    ///
    /// # Errors
    ///
    /// [`ScramError::Malformed`], [`ScramError::AuthorizationIdentity`],
    /// [`ScramError::Extension`], [`ScramError::NoncePrintable`], [`ScramError::Downgrade`],
    /// [`ScramError::BindingType`].
    pub fn parse(client_first: &[u8], offer: Offer<'_>) -> Result<Self, ScramError> {
        check(client_first)?;
        let (channel_binding, rest) = offer.read(client_first)?;
        let client_first_bare = match rest {
            [b',', b',', bare @ ..] => bare,
            [b',', b'a', ..] => return Err(ScramError::AuthorizationIdentity),
            [b',', ..] => return Err(Malformed::Attribute.into()),
            _ => return Err(Malformed::Comma.into()),
        };
        let mut attributes = Attributes::new(client_first_bare);
        attributes.expect(b'n')?;
        let client_nonce = attributes.expect(b'r')?;
        check_nonce(client_nonce)?;
        while !attributes.rest().is_empty() {
            // Optional extensions are allowed and mean nothing to us.
            attributes.any()?;
        }
        Ok(Self {
            channel_binding,
            is_bound: matches!(offer, Offer::Chosen(_)),
            client_first_bare: client_first_bare.to_vec(),
            client_nonce: client_nonce.to_vec(),
        })
    }

    /// Makes the challenge.
    ///
    /// # Errors
    ///
    /// [`ScramError::Random`].
    pub fn challenge(self, verifier: Verifier) -> Result<ServerFinal, ScramError> {
        let server_nonce = random_nonce()?;
        Ok(self.challenge_with_nonce(verifier, &server_nonce))
    }

    pub(super) fn challenge_with_nonce(
        self,
        verifier: Verifier,
        server_nonce: &str,
    ) -> ServerFinal {
        let nonce = [&self.client_nonce, server_nonce.as_bytes()].concat();
        let parameters =
            format!(",s={},i={}", encode_base64(verifier.salt()), verifier.iterations());
        let server_first = [b"r=", nonce.as_slice(), parameters.as_bytes()].concat();
        ServerFinal {
            channel_binding: self.channel_binding,
            is_bound: self.is_bound,
            client_first_bare: self.client_first_bare,
            nonce,
            server_first,
            verifier,
        }
    }
}

/// The challenge, sent and waiting for its answer.
#[derive(Debug)]
pub struct ServerFinal {
    channel_binding: String,
    is_bound: bool,
    client_first_bare: Vec<u8>,
    nonce: Vec<u8>,
    server_first: Vec<u8>,
    verifier: Verifier,
}

impl ServerFinal {
    /// server-first-message, the data of AuthenticationSASLContinue.
    pub fn message(&self) -> &[u8] {
        &self.server_first
    }

    /// Checks client-final-message, the data of the SASLResponse.
    ///
    /// # Errors
    ///
    /// [`ScramError::Proof`] if the password is wrong or the verifier a mock;
    /// [`ScramError::Nonce`], [`ScramError::ChannelBinding`],
    /// [`ScramError::BindingMismatch`], [`ScramError::Malformed`],
    /// [`ScramError::Extension`].
    pub fn verify(self, client_final: &[u8]) -> Result<Done, ScramError> {
        check(client_final)?;
        let mut attributes = Attributes::new(client_final);
        if attributes.expect(b'c')? != self.channel_binding.as_bytes() {
            return Err(if self.is_bound {
                ScramError::BindingMismatch
            } else {
                ScramError::ChannelBinding
            });
        }
        let nonce = attributes.expect(b'r')?;
        let (without_proof, proof) = loop {
            let proof_len = attributes.rest().len();
            if let (b'p', proof) = attributes.any()? {
                break (client_final.get(..client_final.len() - proof_len - 1), proof);
            }
        };
        let without_proof = without_proof.expect("BUG: a comma stands before the proof");
        let proof = decode_key(proof).ok_or(Malformed::Proof)?;
        if !attributes.rest().is_empty() {
            return Err(Malformed::Garbage.into());
        }
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let auth_message: [&[u8]; 5] =
            [&self.client_first_bare, b",", &self.server_first, b",", without_proof];
        let client_signature = hmac(self.verifier.stored_key().as_slice(), &auth_message);
        let client_key = xor(&proof, &client_signature);
        // Both are computed whether the proof is right or not, so that time tells nothing.
        let server_signature = hmac(self.verifier.server_key().as_slice(), &auth_message);
        if !self.verifier.accepts(&client_key) {
            return Err(ScramError::Proof);
        }
        Ok(Done {
            keys: ClientKeys::learnt(client_key, &self.verifier),
            message: format!("v={}", encode_base64(server_signature.as_slice())).into_bytes(),
        })
    }
}

/// The client has proved that it knows the password.
#[derive(Debug)]
pub struct Done {
    /// The keys that the proof has revealed: they log in to any server with the same verifier.
    pub keys: ClientKeys,
    message: Vec<u8>,
}

impl Done {
    /// server-final-message, the data of AuthenticationSASLFinal.
    pub fn message(&self) -> &[u8] {
        &self.message
    }
}
