//! Certificates and keys: bad ones are named, equal ones are kept, and nothing of a key is told.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::super::{Config, ConfigError, ServerSslMode, diff, load};
use super::no_env;

const BOTH: &str = "client_tls_sslmode = \"require\"\nclient_tls_cert_file = \"c.pem\"\n\
                    client_tls_key_file = \"k.pem\"\n";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.make("c.pem", "k.pem");
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// A certificate and its key, fresh.
    fn make(&self, cert: &str, key: &str) {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        self.write(cert, &params.self_signed(&pair).unwrap().pem());
        self.write(key, &pair.serialize_pem());
    }

    fn load(&self, general: &str) -> Result<Config, ConfigError> {
        self.write("config.toml", &format!("[general]\n{general}"));
        let loaded = load(&self.path().join("config.toml"), &no_env)?;
        Ok(Arc::unwrap_or_clone(loaded.config))
    }

    /// The error of a bad one, without the folder's name.
    fn error(&self, general: &str) -> String {
        let error = self.load(general).expect_err(general).to_string();
        error.replace(&format!("{}/", self.path().display()), "")
    }
}

#[test]
fn what_is_missing_is_named_at_its_place() {
    let folder = Folder::new();
    let files = "client_tls_sslmode: client_tls_cert_file and client_tls_key_file are needed";
    for mode in ["allow", "prefer", "require"] {
        let text = format!("client_tls_sslmode = \"{mode}\"\nclient_tls_cert_file = \"c.pem\"\n");
        assert_eq!(folder.error(&text), format!("config.toml:2:22: {files}"));
    }
    for mode in ["verify-ca", "verify-full"] {
        let said = folder.error(&format!("server_tls_sslmode = \"{mode}\"\n"));
        assert_eq!(said, "config.toml:2:22: server_tls_sslmode: server_tls_ca_file is needed");
    }
    for mode in ["verify-ca", "verify-full"] {
        let said = folder.error(&format!("client_tls_sslmode = \"{mode}\"\n"));
        assert_eq!(said, format!("config.toml:2:22: {files}"));
        let said = folder.error(&BOTH.replace("require", mode));
        assert!(said.ends_with("client_tls_sslmode: client_tls_ca_file is needed"), "{said}");
    }
    for key in ["cert", "key"] {
        let said = folder.error(&format!("server_tls_{key}_file = \"x\"\n"));
        assert!(
            said.ends_with("server_tls_cert_file and server_tls_key_file go together"),
            "{said}"
        );
    }
    // Nothing is read that is not used.
    let off = "client_tls_cert_file = \"none\"\nclient_tls_key_file = \"none\"\n\
               server_tls_ca_file = \"none\"\n";
    assert!(folder.load(off).unwrap().tls.clients.is_none());
}

#[test]
fn a_bad_file_is_named_and_its_key_is_not_told() {
    let folder = Folder::new();
    assert!(folder.load(BOTH).unwrap().tls.clients.is_some());
    let key = fs::read_to_string(folder.path().join("k.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap().to_owned();
    let check = |file: &str, text: &str, expected: &str| {
        let good = fs::read(folder.path().join(file)).unwrap();
        folder.write(file, text);
        let said = folder.error(BOTH);
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains(&secret[..20]), "{said}");
        fs::write(folder.path().join(file), good).unwrap();
    };
    check("c.pem", "", "c.pem: no certificate in PEM form in it");
    check("c.pem", &key, "c.pem: no certificate in PEM form in it");
    check("c.pem", "-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n", "c.pem: bad");
    check("k.pem", "junk", "k.pem: no private key in PEM form in it");
    check("k.pem", &key.replace("PRIVATE", "ENCRYPTED PRIVATE"), "k.pem: no private key");
    folder.make("other.pem", "k2.pem");
    let other = fs::read_to_string(folder.path().join("k2.pem")).unwrap();
    check("k.pem", &other, "c.pem: cannot be used with the key in k.pem: ");
    fs::remove_file(folder.path().join("k.pem")).unwrap();
    assert!(
        folder.error(BOTH).starts_with("k.pem: cannot read the file"),
        "{}",
        folder.error(BOTH)
    );
    let verifying = "server_tls_sslmode = \"verify-ca\"\nserver_tls_ca_file = \"ca.pem\"\n";
    folder.write("ca.pem", "nothing");
    assert_eq!(folder.error(verifying), "ca.pem: no certificate in PEM form in it");
}

#[test]
fn a_reload_keeps_what_is_the_same_and_tells_what_is_not() {
    let folder = Folder::new();
    let text =
        format!("{BOTH}server_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"c.pem\"\n");
    let running = folder.load(&text).unwrap();
    let in_force = running.tls.clients.clone().unwrap().config;
    let again = folder.load(&text).unwrap();
    assert!(diff(&running, &again).is_empty());
    let again = again.reloaded_over(&running);
    assert!(Arc::ptr_eq(&again.tls.clients.unwrap().config, &in_force));
    folder.make("c.pem", "k.pem");
    let fresh = folder.load(&text).unwrap();
    assert_eq!(
        diff(&running, &fresh).to_string(),
        "changed: what client_tls_cert_file and client_tls_key_file hold\n\
         changed: what server_tls_ca_file holds\n"
    );
    assert_ne!(fresh.tls.servers, running.tls.servers);
    let fresh = fresh.reloaded_over(&running);
    assert!(!Arc::ptr_eq(&fresh.tls.clients.unwrap().config, &in_force));
}

#[test]
fn set_reads_the_files_too() {
    let folder = Folder::new();
    let running = folder.load(&BOTH.replace("require", "disable")).unwrap();
    let set = |key, value| running.with_setting(key, value, folder.path());
    assert!(set("client_tls_sslmode", "require").unwrap().tls.clients.is_some());
    let error = set("server_tls_sslmode", "verify-full").unwrap_err().to_string();
    assert_eq!(error, "server_tls_sslmode: server_tls_ca_file is needed");
    let off = set("server_tls_sslmode", "disable").unwrap();
    assert_eq!(
        (off.tls.servers.mode, off.tls.servers.config.is_none()),
        (ServerSslMode::Disable, true)
    );
    folder.write("k.pem", "");
    let error = set("client_tls_sslmode", "require").unwrap_err().to_string();
    assert!(error.contains("k.pem: no private key"), "{error}");
}
