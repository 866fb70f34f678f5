//! Certificates made by the tests: an authority, what it signs, and clients that trust it or do not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};

use super::postgres::Postgres;

/// A certificate authority of a test's own.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key, in PEM form.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A fresh one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server's certificate for these names or addresses.
    pub fn identity(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(names).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { cert, key: key.serialize_pem() }
    }

    /// A certificate for a user, whose name is its common name.
    pub fn client_identity(&self, user: &str) -> Identity {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { cert, key: key.serialize_pem() }
    }

    /// A client that trusts it and speaks PostgreSQL, as the newest libpq does.
    pub fn client(&self) -> ClientConfig {
        self.client_of(&[&TLS13, &TLS12])
    }

    /// The same, for some versions of TLS.
    pub fn client_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        config
    }
}

/// A certificate that vouches for itself and calls itself an authority, as `openssl req -x509` makes it.
pub fn self_signed(names: &[&str]) -> Identity {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let cert = params.self_signed(&key).unwrap().pem();
    Identity { cert, key: key.serialize_pem() }
}

impl Identity {
    /// Writes both into a folder, the key for its owner alone. Gives their paths.
    pub fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (folder.join("server.crt"), folder.join("server.key"));
        fs::write(&cert, &self.cert).unwrap();
        fs::write(&key, &self.key).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        (cert, key)
    }

    /// Has a running PostgreSQL serve with it.
    pub fn install(&self, postgres: &Postgres) {
        for (file, text) in [("server.crt", &self.cert), ("server.key", &self.key)] {
            postgres.sql(
                "postgres",
                &format!(
                    "copy (select unnest(string_to_array('{text}', E'\\n'))) \
                     to program 'umask 077; cat > {file}'"
                ),
            );
        }
        postgres.sql("postgres", "alter system set ssl = on");
        postgres.sql("postgres", "select pg_reload_conf()");
        let is_on = || postgres.sql("postgres", "show ssl") == "on";
        assert!(super::pgbaton::eventually(super::pgbaton::PATIENCE, is_on), "{}", postgres.log());
    }
}
