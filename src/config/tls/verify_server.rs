//! What makes a server's certificate good, by `server_tls_sslmode`: nothing, its issuer, or its issuer
//! and its name.
//!
//! rustls itself knows only the last of these.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Looks at a server's certificate.
pub(super) struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    /// `None`: any certificate will do.
    trust: Option<Trust>,
}

struct Trust {
    roots: RootCertStore,
    /// The certificates of the file as they are.
    listed: Vec<CertificateDer<'static>>,
    checks_name: bool,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("trusts_all", &self.trust.is_none())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn trusting_all(provider: &Arc<CryptoProvider>) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, trust: None }
    }

    pub(super) fn trusting(
        provider: &Arc<CryptoProvider>,
        roots: RootCertStore,
        listed: Vec<CertificateDer<'static>>,
        checks_name: bool,
    ) -> Self {
        let trust = Some(Trust { roots, listed, checks_name });
        Self { algorithms: provider.signature_verification_algorithms, trust }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let signed = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &trust.roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match signed {
            Ok(()) => {}
            Err(error) if is_about_time(&error) => return Err(error),
            // A self-signed certificate is often made as one of a CA, which may not serve by itself; if
            // the file lists that very certificate, there is nothing that a chain could add.
            Err(_) if trust.listed.iter().any(|listed| **listed == **end_entity) => {}
            Err(error) => return Err(error),
        }
        if trust.checks_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    // Whoever may show any certificate may as well sign with any key: without trust a signature says
    // nothing, and old certificates that cannot be parsed must not be in the way.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trust {
            Some(_) => verify_tls12_signature(message, certificate, signature, &self.algorithms),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trust {
            Some(_) => verify_tls13_signature(message, certificate, signature, &self.algorithms),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// These are found before anything else is looked at in a certificate.
const fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}
