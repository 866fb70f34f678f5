//! `pgbaton healthcheck`: does it answer? For container health checks.
//!
//! It asks for TLS, which is answered by one byte before any login, and leaves no line in the log.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::protocol::encode;

/// Arguments of `pgbaton healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Where pgbaton listens.
    #[arg(long, default_value = "127.0.0.1:6432")]
    addr: String,
    /// Seconds to wait.
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

/// Exit status 0 if pgbaton answers.
#[must_use]
pub fn run(args: &HealthcheckArgs) -> ExitCode {
    match ask(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgbaton healthcheck: {}: {error}", args.addr);
            ExitCode::FAILURE
        }
    }
}

fn ask(args: &HealthcheckArgs) -> io::Result<()> {
    let limit = Duration::from_secs(args.timeout.max(1));
    let addr = args
        .addr
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such address"))?;
    let mut stream = TcpStream::connect_timeout(&addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut request = Vec::new();
    encode::ssl_request(&mut request);
    stream.write_all(&request)?;
    let mut answer = [0_u8];
    stream.read_exact(&mut answer)?;
    if matches!(answer[0], b'N' | b'S') {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a PostgreSQL server"))
    }
}
