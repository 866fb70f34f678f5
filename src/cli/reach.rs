//! `pgbaton check --connect`: is a PostgreSQL where the configuration says?

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, ServerHost};
use crate::protocol::encode;

/// How long each host may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks every host of every database for TLS, which each PostgreSQL answers, and prints what came of it.
/// Nothing is logged in to. False if any did not answer.
pub(super) fn all(config: &Config) -> bool {
    let mut is_good = true;
    for name in config.databases.named.keys() {
        let Some(route) = config.database(name) else { continue };
        for host in route.host.each() {
            match ask(host, route.port) {
                Ok(says) => println!("{name}: {host}:{} {says}", route.port),
                Err(error) => {
                    is_good = false;
                    println!("{name}: {host}:{} cannot be reached: {error}", route.port);
                }
            }
        }
    }
    is_good
}

fn ask(host: &ServerHost, port: u16) -> io::Result<&'static str> {
    match host {
        ServerHost::Ip(ip) => over_tcp(&ip.to_string(), port),
        ServerHost::Name(name) => over_tcp(name, port),
        ServerHost::SocketDir(folder) => over_unix(&folder.join(format!(".s.PGSQL.{port}"))),
        ServerHost::Several(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn over_tcp(host: &str, port: u16) -> io::Result<&'static str> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => {
                socket.set_read_timeout(Some(PATIENCE))?;
                return talk(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn over_unix(path: &Path) -> io::Result<&'static str> {
    let socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    talk(socket)
}

fn talk(mut socket: impl Read + Write) -> io::Result<&'static str> {
    let mut request = Vec::new();
    encode::ssl_request(&mut request);
    socket.write_all(&request)?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    match &answer {
        b"S" => Ok("answers, with TLS"),
        b"N" => Ok("answers, without TLS"),
        b"E" => Ok("answers with an error"),
        _ => Err(io::Error::other("what answers is no PostgreSQL")),
    }
}
