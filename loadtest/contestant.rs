//! A contestant: PostgreSQL itself, the bare relay, or a pooler with an adapter; started and ended.
//!
//! It must not know what is measured. Contestants that need a server connection for each client say
//! so, and are spared the cells with more clients than PostgreSQL lets in.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pgbaton::cli::throwaway::{Ending, Job, Supervised, Unprivileged, free_port, log_tail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::adapter::{Adapter, Capability, Values};
use crate::stage::{DATABASE, Stage, USER};
use crate::wire::Client;
use crate::{Fallible, RELAY};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Who is measured.
#[derive(Debug, Clone)]
pub enum Kind {
    /// No pooler: the clients talk to PostgreSQL.
    Direct,
    /// Our own relay, run from this same binary.
    Relay,
    /// A pooler.
    Pooler {
        adapter: Adapter,
        /// Of the adapter's programs, the one that is there.
        program: PathBuf,
    },
}

/// A contestant that can be started.
#[derive(Debug, Clone)]
pub struct Contestant {
    pub name: String,
    pub kind: Kind,
}

/// What a start is asked for.
#[derive(Debug, Clone)]
pub struct Size {
    pub pool: u32,
    pub clients_max: u32,
}

/// What fills the placeholders.
#[derive(Debug, Clone)]
pub struct Start {
    pub listen_port: u16,
    pub server_port: u16,
    pub size: Size,
    pub folder: PathBuf,
}

#[cfg(test)]
impl Start {
    /// One that never happens.
    pub fn example() -> Self {
        let size = Size { pool: 16, clients_max: 100 };
        Self { listen_port: 1, server_port: 2, size, folder: "/nowhere".into() }
    }
}

/// The certificate that a contestant shows to its clients, in its folder.
const TLS_CERT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";

/// The placeholders that an adapter may use in its arguments and files.
pub fn values(start: &Start) -> Values {
    Values(vec![
        ("listen_port", start.listen_port.to_string()),
        ("server_port", start.server_port.to_string()),
        ("pool_size", start.size.pool.to_string()),
        ("max_clients", start.size.clients_max.to_string()),
        ("user", USER.to_owned()),
        ("dbname", DATABASE.to_owned()),
        ("folder", start.folder.display().to_string()),
        ("tls_cert", start.folder.join(TLS_CERT).display().to_string()),
        ("tls_key", start.folder.join(TLS_KEY).display().to_string()),
    ])
}

/// A started contestant, ended on drop.
pub struct Running {
    /// Where the clients connect to, on 127.0.0.1.
    pub port: u16,
    /// The root of the process tree whose cost counts; none if there is nobody in the middle.
    pub pid: Option<u32>,
    process: Option<Supervised>,
    log: PathBuf,
}

impl Contestant {
    pub fn direct() -> Self {
        Self { name: crate::DIRECT.to_owned(), kind: Kind::Direct }
    }

    pub fn relay() -> Self {
        Self { name: RELAY.to_owned(), kind: Kind::Relay }
    }

    /// None if none of the adapter's programs is there.
    pub fn pooler(adapter: Adapter, pgbaton: &Path) -> Fallible<Option<Self>> {
        let own = Values(vec![("pgbaton", pgbaton.display().to_string())]);
        for program in &adapter.programs {
            if let Some(program) = in_path(&own.fill(program)?) {
                let name = adapter.name.clone();
                return Ok(Some(Self { name, kind: Kind::Pooler { adapter, program } }));
            }
        }
        Ok(None)
    }

    /// Whether each client has a server connection of its own.
    pub const fn is_unpooled(&self) -> bool {
        matches!(self.kind, Kind::Direct | Kind::Relay)
    }

    pub fn supports(&self, capability: Capability) -> bool {
        match &self.kind {
            // What passes bytes on, passes on all that PostgreSQL can; the throw-away one has no TLS.
            Kind::Direct | Kind::Relay => capability == Capability::Prepared,
            Kind::Pooler { adapter, .. } => adapter.supports(capability),
        }
    }

    /// What its program says of itself, in one line.
    pub fn version(&self) -> String {
        let Kind::Pooler { adapter, program } = &self.kind else {
            return "-".to_owned();
        };
        // Without arguments it would be started, not asked.
        if adapter.version_arguments.is_empty() {
            return "version unknown".to_owned();
        }
        let mut command = Command::new(program);
        command.args(&adapter.version_arguments).stdin(Stdio::null());
        let output = command.output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or("unknown").trim().to_owned()
    }

    pub fn note(&self) -> &str {
        match &self.kind {
            Kind::Direct => "no pooler; a server connection for each client",
            Kind::Relay => "bytes passed on by one thread; a server connection for each client",
            Kind::Pooler { adapter, .. } => &adapter.note,
        }
    }

    /// Starts it in front of `stage`, and waits until it answers.
    pub fn start(&self, stage: &Stage, size: &Size) -> Fallible<Running> {
        let server_port = stage.cluster.port();
        let folder = stage.new_folder(&self.name)?;
        let log = folder.join("output.log");
        let start = Start { listen_port: free_port()?, server_port, size: size.clone(), folder };
        let job = match &self.kind {
            Kind::Direct => {
                return Ok(Running { port: server_port, pid: None, process: None, log });
            }
            Kind::Relay => relay_job(&start, &log)?,
            Kind::Pooler { adapter, program } => pooler_job(adapter, program, &start, &log)?,
        };
        let process = Supervised::start(&job)?;
        let mut running = Running {
            port: start.listen_port,
            pid: Some(process.pid()),
            process: Some(process),
            log,
        };
        running.wait_for_answer(&self.name)?;
        Ok(running)
    }
}

impl Running {
    /// How a client trusts the certificate that this one shows, and no other.
    pub fn trusting(&self) -> Fallible<Arc<ClientConfig>> {
        let folder = self.log.parent().ok_or("a log without a folder")?;
        let certificate = CertificateDer::from_pem_file(folder.join(TLS_CERT))?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// For tests: one that somebody else started.
    #[cfg(test)]
    pub fn elsewhere(port: u16, pid: u32) -> Self {
        Self { port, pid: Some(pid), process: None, log: PathBuf::new() }
    }

    /// Waits until it lets a client in.
    pub fn wait_for_answer(&mut self, name: &str) -> Fallible<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let answer = Client::connect(self.port, USER, DATABASE, None)
                .and_then(|mut client| client.query("select 1").and_then(|_| client.close()));
            let Err(error) = answer else { return Ok(()) };
            self.check_alive(name)?;
            if Instant::now() > deadline {
                let log = log_tail(&self.log);
                return Err(format!("{name} does not answer: {error}; its output: {log}").into());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// An error if it has ended.
    pub fn check_alive(&mut self, name: &str) -> Fallible<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match process.try_wait()? {
            None => Ok(()),
            Some(_) => Err(format!("{name} ended: {}", log_tail(&self.log)).into()),
        }
    }
}

fn relay_job(start: &Start, log: &Path) -> Fallible<Job> {
    let ports = [start.listen_port, start.server_port].map(|port| port.to_string().into());
    let mut arguments: Vec<OsString> = vec![crate::RELAY_COMMAND.into()];
    arguments.extend(ports);
    Ok(Job {
        program: std::env::current_exe()?,
        arguments,
        environment: Vec::new(),
        folder: start.folder.clone(),
        log: log.to_owned(),
        user: None,
        ending: Ending::Kill,
        remove: None,
    })
}

/// As root, poolers run as the user that PostgreSQL runs as: some refuse to be root.
fn pooler_job(adapter: &Adapter, program: &Path, start: &Start, log: &Path) -> Fallible<Job> {
    let user = Unprivileged::needed()?;
    let values = values(start);
    if adapter.supports(Capability::Tls) {
        write_identity(&start.folder, user.as_ref())?;
    }
    for file in &adapter.files {
        let path = start.folder.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, values.fill(&file.text)?)?;
    }
    let program =
        if user.is_some() { reachable(program, &start.folder)? } else { program.to_owned() };
    if let Some(user) = user {
        chown(&start.folder, Some(user.uid), Some(user.gid))?;
    }
    let arguments: Fallible<Vec<OsString>> =
        adapter.arguments.iter().map(|argument| Ok(values.fill(argument)?.into())).collect();
    Ok(Job {
        program,
        arguments: arguments?,
        environment: Vec::new(),
        folder: start.folder.clone(),
        log: log.to_owned(),
        user,
        ending: Ending::Kill,
        remove: None,
    })
}

/// A certificate for this run, of the kind that costs least, and its key.
fn write_identity(folder: &Path, user: Option<&Unprivileged>) -> Fallible<()> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    let path = folder.join(TLS_KEY);
    fs::write(folder.join(TLS_CERT), params.self_signed(&key)?.pem())?;
    fs::write(&path, key.serialize_pem())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    if let Some(user) = user {
        chown(&path, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

/// The program, or a copy of it in `folder` if it lies where other users may not look.
fn reachable(program: &Path, folder: &Path) -> Fallible<PathBuf> {
    const OTHERS_MAY_PASS: u32 = 0o001;
    let program = fs::canonicalize(program)?;
    let is_public = |part: &Path| {
        part.metadata().is_ok_and(|meta| meta.permissions().mode() & OTHERS_MAY_PASS != 0)
    };
    if program.ancestors().all(is_public) {
        return Ok(program);
    }
    let copy = folder.join("program");
    fs::copy(&program, &copy)?;
    Ok(copy)
}

/// A path as it is if it has a slash, else the first such program in PATH; none if it is not there.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let folders = if program.contains('/') {
        vec![PathBuf::new()]
    } else {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).collect()
    };
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(program: &str) -> Adapter {
        Adapter {
            name: "x".to_owned(),
            programs: vec!["/nonexistent/x".to_owned(), program.to_owned()],
            ..Adapter::default()
        }
    }

    #[test]
    fn a_pooler_is_the_first_of_its_programs_that_is_there() {
        let own = std::env::current_exe().unwrap();
        let pooler = |program| Contestant::pooler(adapter(program), &own).unwrap();
        assert!(pooler("no-such-program-anywhere").is_none());
        assert!(
            matches!(pooler("sh").unwrap().kind, Kind::Pooler { program, .. } if program.ends_with("sh"))
        );
        assert!(
            matches!(pooler("{pgbaton}").unwrap().kind, Kind::Pooler { program, .. } if program == own)
        );
    }

    #[test]
    fn what_is_unpooled_does_not_do_tls() {
        for contestant in [Contestant::direct(), Contestant::relay()] {
            assert!(contestant.is_unpooled());
            assert!(contestant.supports(Capability::Prepared));
            assert!(!contestant.supports(Capability::Tls));
        }
    }
}
