//! Certificates and keys: the files that `client_tls_*` and `server_tls_*` name, read and checked with
//! the configuration, so that a bad one is a mistake of the configuration like any other.
//!
//! Must not know connections. Invariants: two of a kind are equal exactly if they were made of the same
//! settings and the same bytes, so that a reload that finds nothing new keeps what is in force, with
//! the tickets of its clients; no error quotes a key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::error::{Diagnostic, Place, Problem, Warning, WarningKind};
use super::keys::{KeyInfo, Section, SectionPath, keys_of};
use super::kinds::word::{ClientSslMode, ServerSslMode};
use super::load::read as read_file;
use super::schema::General;
use crate::auth::certificate;
use verify_client::Trust;
use verify_server::Verifier;

mod offer;
mod verify_client;
mod verify_server;

/// The ALPN name of the PostgreSQL protocol.
pub const ALPN: &[u8] = b"postgresql";

/// What was read of a file.
type FileBytes = Zeroizing<Vec<u8>>;
/// The same of all files and settings, in short.
type Print = [u8; 32];

/// TLS towards both sides.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tls {
    /// Towards clients; `None` if it is off.
    pub clients: Option<ClientTls>,
    /// Towards servers.
    pub servers: ServerTls,
}

/// What clients are shown: a certificate and its key.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// What SCRAM binds to, if that can be done with this certificate.
    pub end_point: Option<Box<[u8]>>,
    /// Who vouches for clients; `None`: they are not asked for certificates.
    pub trust: Option<Trust>,
    print: Print,
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

/// What is asked of servers.
#[derive(Debug, Clone, Default)]
pub struct ServerTls {
    /// `server_tls_sslmode`.
    pub mode: ServerSslMode,
    /// For handshakes; `None` if it is off.
    pub config: Option<Arc<ClientConfig>>,
    print: Print,
}

impl PartialEq for ServerTls {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.print == other.print
    }
}

impl ServerTls {
    /// No TLS.
    #[must_use]
    pub fn off() -> Self {
        Self { mode: ServerSslMode::Disable, config: None, print: Print::default() }
    }

    /// The same, but for a server that is known to have TLS.
    #[must_use]
    pub fn insisting(mut self) -> Self {
        if !self.mode.insists() {
            self.mode = ServerSslMode::Require;
        }
        self
    }

    pub(super) fn files_differ(&self, other: &Self) -> bool {
        self.print != other.print
    }
}

impl Tls {
    /// What of `running` is the same goes on being used.
    pub(super) fn kept_of(mut self, running: &Self) -> Self {
        if self.clients == running.clients {
            self.clients.clone_from(&running.clients);
        }
        if self.servers == running.servers {
            self.servers = running.servers.clone();
        }
        self
    }
}

/// Whether the settings name any file.
pub(super) fn names_files(general: &General) -> bool {
    [
        &general.client_tls_cert_file,
        &general.client_tls_key_file,
        &general.client_tls_ca_file,
        &general.server_tls_cert_file,
        &general.server_tls_key_file,
        &general.server_tls_ca_file,
    ]
    .into_iter()
    .any(Option::is_some)
}

/// What the settings lack, and the key that needs it.
pub(super) fn lacks(general: &General) -> Option<(&'static str, Problem)> {
    let no_files = general.client_tls_cert_file.is_none() || general.client_tls_key_file.is_none();
    let (key, reason) = if general.client_tls_sslmode != ClientSslMode::Disable && no_files {
        ("client_tls_sslmode", "client_tls_cert_file and client_tls_key_file are needed")
    } else if general.server_tls_sslmode.verifies() && general.server_tls_ca_file.is_none() {
        ("server_tls_sslmode", "server_tls_ca_file is needed")
    } else if general.client_tls_sslmode.verifies() && general.client_tls_ca_file.is_none() {
        ("client_tls_sslmode", "client_tls_ca_file is needed")
    } else if general.server_tls_cert_file.is_some() != general.server_tls_key_file.is_some() {
        let key = if general.server_tls_key_file.is_none() {
            "server_tls_cert_file"
        } else {
            "server_tls_key_file"
        };
        (key, "server_tls_cert_file and server_tls_key_file go together")
    } else {
        return None;
    };
    let path = SectionPath { section: Section::General, name: None };
    Some((key, Problem::RefusedValue { key, path, reason }))
}

/// Reads the files that the settings name; relative ones count from `folder`. What is unwise goes to
/// `warnings`.
pub(super) fn load(
    general: &General,
    folder: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Tls, Vec<Diagnostic>> {
    let clients = client_tls(general, folder, warnings);
    let servers = server_tls(general, folder, warnings);
    match (clients, servers) {
        (Ok(clients), Ok(servers)) => Ok(Tls { clients, servers }),
        (clients, servers) => {
            Err(clients.err().into_iter().chain(servers.err()).map(|mistake| *mistake).collect())
        }
    }
}

fn client_tls(
    general: &General,
    folder: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Option<ClientTls>, Box<Diagnostic>> {
    let mode = general.client_tls_sslmode;
    let files = (&general.client_tls_cert_file, &general.client_tls_key_file);
    let (true, (Some(cert), Some(key))) = (mode != ClientSslMode::Disable, files) else {
        return Ok(None);
    };
    let identity = Identity::read(&folder.join(cert), &folder.join(key), warnings)?;
    let provider = offer::provider(
        &general.client_tls_ciphers,
        &general.client_tls13_ciphers,
        Some(&general.client_tls_ecdhcurve),
    );
    let (trust, ca_bytes) = match &general.client_tls_ca_file {
        Some(file) => {
            let file = folder.join(file);
            let (roots, _, bytes) = authorities(&file)?;
            let trust =
                Trust::new(roots, provider.clone()).map_err(|reason| tls_file(&file, &reason))?;
            (Some(trust), bytes)
        }
        None => (None, Zeroizing::default()),
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&offer::versions(&general.client_tls_protocols))
        .map_err(|error| identity.unusable(&error))?;
    let builder = match &trust {
        Some(trust) => builder.with_client_cert_verifier(trust.verifier(mode.verifies())),
        None => builder.with_no_client_auth(),
    };
    let end_point = certificate::end_point(&identity.chain[0]);
    let print = print(&[
        &identity.bytes.0,
        &identity.bytes.1,
        &ca_bytes,
        settings_text(general, "client_tls_").as_bytes(),
    ]);
    let mut config = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| identity.unusable(&error))?;
    // Tickets that nothing has to be remembered for. Early data stays off: it can be replayed.
    config.ticketer = Ticketer::new().map_err(|error| identity.unusable(&error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(ClientTls { config: Arc::new(config), end_point, trust, print }))
}

fn server_tls(
    general: &General,
    folder: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<ServerTls, Box<Diagnostic>> {
    let mode = general.server_tls_sslmode;
    if mode == ServerSslMode::Disable {
        return Ok(ServerTls::off());
    }
    let provider =
        offer::provider(&general.server_tls_ciphers, &general.server_tls13_ciphers, None);
    let (verifier, ca_bytes) = match &general.server_tls_ca_file {
        Some(file) if mode.verifies() => {
            let (roots, trusted, bytes) = authorities(&folder.join(file))?;
            let checks_name = mode == ServerSslMode::VerifyFull;
            (Verifier::trusting(&provider, roots, trusted, checks_name), bytes)
        }
        _ => (Verifier::trusting_all(&provider), Zeroizing::default()),
    };
    let identity = match (&general.server_tls_cert_file, &general.server_tls_key_file) {
        (Some(cert), Some(key)) => {
            Some(Identity::read(&folder.join(cert), &folder.join(key), warnings)?)
        }
        _ => None,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&offer::versions(&general.server_tls_protocols))
        .map_err(|error| tls_file(Path::new("server_tls_protocols"), &error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| identity.unusable(&error))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    let (cert, key) = identity.map(|identity| identity.bytes).unwrap_or_default();
    let settings = settings_text(general, "server_tls_");
    let print = print(&[&cert, &key, &ca_bytes, settings.as_bytes()]);
    Ok(ServerTls { mode, config: Some(Arc::new(config)), print })
}

/// A certificate, those between it and its authority, and its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// What was read of either file.
    bytes: (FileBytes, FileBytes),
    files: (PathBuf, PathBuf),
}

impl Identity {
    fn read(cert: &Path, key: &Path, warnings: &mut Vec<Warning>) -> Result<Self, Box<Diagnostic>> {
        let (cert_bytes, _) = read_file(cert).map_err(|problem| at(cert, problem))?;
        let (key_bytes, mode) = read_file(key).map_err(|problem| at(key, problem))?;
        if let Some(mode) = mode.filter(|mode| mode & 0o004 != 0) {
            let place = Place::File(key.display().to_string().into());
            warnings.push(Warning { place, kind: WarningKind::ReadableKey(mode) });
        }
        let chain = certificates(cert, &cert_bytes)?;
        let private_key = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|_| {
            let reason = "no private key in PEM form in it that could be read without a passphrase";
            tls_file(key, reason)
        })?;
        let files = (cert.to_owned(), key.to_owned());
        Ok(Self { chain, key: private_key, bytes: (cert_bytes, key_bytes), files })
    }

    fn unusable(&self, error: &rustls::Error) -> Box<Diagnostic> {
        let (cert, key) = &self.files;
        tls_file(cert, &format!("cannot be used with the key in {}: {error}", key.display()))
    }
}

/// The certificates of a file as authorities, as they are, and the file's bytes.
fn authorities(
    file: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>, FileBytes), Box<Diagnostic>> {
    let (bytes, _) = read_file(file).map_err(|problem| at(file, problem))?;
    let trusted = certificates(file, &bytes)?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        return Err(tls_file(file, "no certificate in it can be used"));
    }
    Ok((roots, trusted, bytes))
}

/// The settings whose names begin so and that are not as they are by default, as text; but for the names
/// of files, of which the bytes count.
fn settings_text(general: &General, prefix: &str) -> String {
    let is_own = |name: &str| name.starts_with(prefix) && !name.ends_with("_file");
    let by_default = |name: &str| {
        let mut keys = keys_of(Section::General);
        keys.find(|key| key.name == name).and_then(KeyInfo::default_text)
    };
    let settings = general.settings().into_iter();
    settings
        .filter(|(name, value)| is_own(name) && by_default(name) != Some(value))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

fn certificates(
    file: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Box<Diagnostic>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) => Err(tls_file(file, "no certificate in PEM form in it")),
        Err(error) => Err(tls_file(file, &format!("bad certificate: {error}"))),
    }
}

fn at(file: &Path, problem: Problem) -> Box<Diagnostic> {
    Box::new(Diagnostic { place: Place::File(file.display().to_string().into()), problem })
}

fn tls_file(file: &Path, reason: &str) -> Box<Diagnostic> {
    at(file, Problem::TlsFile(reason.to_owned()))
}

/// All zero if all are empty.
fn print(files: &[&[u8]]) -> Print {
    if files.iter().all(|bytes| bytes.is_empty()) {
        return Print::default();
    }
    let mut hash = Sha256::new();
    for file in files {
        hash.update(Sha256::digest(file));
    }
    hash.finalize().into()
}
