//! The part of the start that comes before any thread: limits, sockets, who we are, logs.
//!
//! Order: root's part first (sockets on low ports, in folders of root's), then the change of user,
//! then what is to belong to that user: the log file, the pid file, everything that follows.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use super::StartError;
use crate::config::{Config, ListenAddr};
use crate::net::{Bound, SocketOwner, bind_tcp, bind_unix};
use crate::observe::logs;
use crate::process::{self, Descriptors, Identity, PidFile};

/// What the serving part takes over.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Bound and listening sockets.
    pub(super) sockets: Vec<Bound>,
    /// Removed when dropped, at the end.
    pub(super) pid_file: Option<PidFile>,
}

/// Prepares the process. `folder` is that of the configuration file.
pub(super) fn prepare(config: &Config, folder: &Path) -> Result<Prepared, StartError> {
    let general = &config.general;
    let limit = process::raise_limit();
    let identity = Identity::resolve(general.user.as_deref())?;
    let sockets = bind(config, &identity)?;
    identity.assume()?;
    let in_folder = |path: &PathBuf| folder.join(path);
    let log_file = general.logfile.as_ref().map(in_folder);
    logs::init(general.log_format, general.log_level, log_file.as_deref())?;
    let pid_file = general.pidfile.as_ref().map(in_folder);
    let pid_file = pid_file.map(|path| PidFile::write(&path)).transpose()?;
    match &identity {
        Identity::Other { name, .. } => tracing::info!("started as root, now user {name}"),
        Identity::Own { ignored: Some(name) } => {
            tracing::info!("not started as root: user = {name:?} has no effect");
        }
        Identity::Own { ignored: None } => {}
    }
    report_descriptors(&limit, config);
    Ok(Prepared { sockets, pid_file })
}

/// Warns if even the hard limit of open files is too low for what the configuration lets in.
fn report_descriptors(limit: &io::Result<Option<u64>>, config: &Config) {
    let limit = match limit {
        Ok(limit) => *limit,
        Err(e) => return tracing::warn!("cannot raise the limit of open files: {e}"),
    };
    let need = Descriptors::of(config);
    let is_too_low = |limit: &u64| usize::try_from(*limit).is_ok_and(|limit| limit < need.needed);
    if let Some(limit) = limit.filter(is_too_low) {
        tracing::warn!(
            limit,
            needed = need.needed,
            clients = need.clients,
            servers = need.servers,
            "the limit of open files is too low for max_client_conn clients and the servers of \
             all pools"
        );
    }
}

fn bind(config: &Config, identity: &Identity) -> Result<Vec<Bound>, StartError> {
    let general = &config.general;
    let mut sockets = Vec::new();
    for addr in listen_addrs(config)? {
        let socket = bind_tcp(addr, general.listen_backlog)
            .map_err(|source| StartError::Listen { place: addr.to_string(), source })?;
        sockets.push(socket);
    }
    if let Some(dir) = &general.unix_socket_dir {
        let group = general.unix_socket_group.as_deref().map(process::group_id).transpose()?;
        let (uid, gid) = identity.owner().unzip();
        let owner = SocketOwner { uid, gid: group.or(gid) };
        let socket = bind_unix(dir, general.listen_port, general.unix_socket_mode, owner)
            .map_err(|source| StartError::Listen { place: dir.display().to_string(), source })?;
        sockets.push(socket);
    }
    if sockets.is_empty() { Err(StartError::NoListener) } else { Ok(sockets) }
}

fn listen_addrs(config: &Config) -> Result<Vec<SocketAddr>, StartError> {
    let port = config.general.listen_port;
    let mut addrs = Vec::new();
    for addr in &config.general.listen_addr {
        match addr {
            ListenAddr::Any => {
                addrs.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
                if Path::new("/proc/net/if_inet6").exists() {
                    addrs.push(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
                }
            }
            ListenAddr::Ip(ip) => addrs.push(SocketAddr::new(*ip, port)),
            ListenAddr::Name(name) => {
                let resolved = (name.as_str(), port)
                    .to_socket_addrs()
                    .map_err(|source| StartError::Listen { place: name.clone(), source })?;
                addrs.extend(resolved);
            }
        }
    }
    Ok(addrs)
}
