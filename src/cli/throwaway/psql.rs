//! One SQL command through psql: the simplest client that is certainly PostgreSQL's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::{Supervised, ThrowawayError, code, log_tail};

/// Put into the environment of libpq's programs, so that the caller's own does not reach them.
pub const CLIENT_ENVIRONMENT: [(&str, &str); 5] = [
    ("PGCONNECT_TIMEOUT", "5"),
    ("PGGSSENCMODE", "disable"),
    ("PGOPTIONS", ""),
    ("PGSSLMODE", "disable"),
    ("PGTARGETSESSIONATTRS", "any"),
];
/// How long one command may take.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How long a server may take from its start to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const ANSWER_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Where and as whom psql connects.
#[derive(Debug, Clone)]
pub struct Psql {
    /// The program.
    pub program: PathBuf,
    /// A host, or the folder of a unix socket.
    pub host: OsString,
    /// The port, also part of the socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
}

impl Psql {
    /// Runs `sql`. Rows come back as lines, columns separated by `|`. The answer must be short (a
    /// pipe's buffer, 64 KiB).
    ///
    /// # Errors
    /// If psql cannot be run, takes longer than 20 seconds, or says no, with what it said.
    pub fn run(&self, database: &str, sql: &str) -> Result<String, ThrowawayError> {
        let output = self.output(database, sql);
        let output = output
            .map_err(|source| ThrowawayError::Start { program: self.program.clone(), source })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        Err(ThrowawayError::Failed {
            program: "psql",
            status: output.status.code(),
            output: text(&output.stderr),
        })
    }

    /// Waits until `server`, just started, answers in `database`. `name` and `log` go into errors;
    /// `give_up` is asked often, and ends the wait if it says so.
    ///
    /// # Errors
    /// If the server ends, does not answer within a minute, or `give_up` said so.
    pub fn wait_for_answer(
        &self,
        database: &str,
        server: &mut Supervised,
        name: &'static str,
        log: &Path,
        give_up: &mut dyn FnMut() -> bool,
    ) -> Result<(), ThrowawayError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let ended = server.try_wait();
            let ended =
                ended.map_err(|source| ThrowawayError::Prepare { path: log.to_owned(), source })?;
            if let Some(status) = ended {
                return Err(ThrowawayError::Failed {
                    program: name,
                    status: code(status),
                    output: log_tail(log),
                });
            }
            if give_up() {
                return Err(ThrowawayError::Interrupted);
            }
            match self.run(database, "select 1") {
                Ok(_) => return Ok(()),
                Err(ThrowawayError::Failed { .. }) if Instant::now() < deadline => {}
                Err(ThrowawayError::Failed { output, .. }) => {
                    return Err(ThrowawayError::NoAnswer {
                        program: name,
                        waited: START_TIMEOUT,
                        said: output,
                        log: log_tail(log),
                    });
                }
                Err(error) => return Err(error),
            }
            thread::sleep(ANSWER_POLL_INTERVAL);
        }
    }

    fn output(&self, database: &str, sql: &str) -> io::Result<Output> {
        let mut child = Command::new(&self.program)
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
            .arg("-h")
            .arg(&self.host)
            .args(["-p", &self.port.to_string(), "-U", &self.user])
            .args(["-d", database, "-c", sql])
            .envs(CLIENT_ENVIRONMENT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        end_in_time(&mut child)?;
        child.wait_with_output()
    }
}

fn end_in_time(child: &mut Child) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return child.kill();
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
