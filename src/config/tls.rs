//! Certificates and keys: the files that `client_tls_*` and `server_tls_*` name, read and checked with
//! the configuration, so that a bad one is a mistake of the configuration like any other.
//!
//! Must not know connections. Invariants: two of a kind are equal exactly if they were made of the same
//! settings and the same bytes, so that a reload that finds nothing new keeps what is in force, with
//! the tickets of its clients; no error quotes a key.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use super::error::{Diagnostic, Place, Problem, Warning, WarningKind};
use super::keys::{Section, SectionPath};
use super::kinds::word::{ClientSslMode, ServerSslMode};
use super::load::read as read_file;
use super::schema::General;
use verify::Verifier;

mod verify;

/// The ALPN name of the PostgreSQL protocol.
pub const ALPN: &[u8] = b"postgresql";

/// What was read of files.
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

/// What the settings lack, and the key that needs it.
pub(super) fn lacks(general: &General) -> Option<(&'static str, Problem)> {
    let no_files = general.client_tls_cert_file.is_none() || general.client_tls_key_file.is_none();
    let (key, reason) = if general.client_tls_sslmode != ClientSslMode::Disable && no_files {
        ("client_tls_sslmode", "client_tls_cert_file and client_tls_key_file are needed")
    } else if general.server_tls_sslmode.verifies() && general.server_tls_ca_file.is_none() {
        ("server_tls_sslmode", "server_tls_ca_file is needed")
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
    let servers = server_tls(general, folder);
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
    let files = (&general.client_tls_cert_file, &general.client_tls_key_file);
    let (
        ClientSslMode::Allow | ClientSslMode::Prefer | ClientSslMode::Require,
        (Some(cert), Some(key)),
    ) = (general.client_tls_sslmode, files)
    else {
        return Ok(None);
    };
    let (cert, key) = (folder.join(cert), folder.join(key));
    let (cert_bytes, _) = read_file(&cert).map_err(|problem| at(&cert, problem))?;
    let (key_bytes, mode) = read_file(&key).map_err(|problem| at(&key, problem))?;
    if let Some(mode) = mode.filter(|mode| mode & 0o004 != 0) {
        let place = Place::File(key.display().to_string().into());
        warnings.push(Warning { place, kind: WarningKind::ReadableKey(mode) });
    }
    let chain = certificates(&cert, &cert_bytes)?;
    let private_key = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|_| {
        tls_file(&key, "no private key in PEM form in it that could be read without a passphrase")
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |error: rustls::Error| {
        let text = format!("cannot be used with the key in {}: {error}", key.display());
        tls_file(&cert, &text)
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(unusable)?;
    // Tickets that nothing has to be remembered for. Early data stays off: it can be replayed.
    config.ticketer = Ticketer::new().map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let print = print(&[&cert_bytes, &key_bytes]);
    Ok(Some(ClientTls { config: Arc::new(config), print }))
}

fn server_tls(general: &General, folder: &Path) -> Result<ServerTls, Box<Diagnostic>> {
    let mode = general.server_tls_sslmode;
    if mode == ServerSslMode::Disable {
        return Ok(ServerTls::off());
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (verifier, print) = match &general.server_tls_ca_file {
        Some(file) if mode.verifies() => {
            let file = folder.join(file);
            let (bytes, _) = read_file(&file).map_err(|problem| at(&file, problem))?;
            let trusted = certificates(&file, &bytes)?;
            let mut roots = RootCertStore::empty();
            let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
            if usable == 0 {
                return Err(tls_file(&file, "no certificate in it can be used"));
            }
            let checks_name = mode == ServerSslMode::VerifyFull;
            (Verifier::trusting(&provider, roots, trusted, checks_name), print(&[&bytes]))
        }
        _ => (Verifier::trusting_all(&provider), Print::default()),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_file(Path::new("server_tls_sslmode"), &error.to_string()))?;
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(ServerTls { mode, config: Some(Arc::new(config)), print })
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

fn print(files: &[&[u8]]) -> Print {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(Sha256::digest(file));
    }
    hash.finalize().into()
}
