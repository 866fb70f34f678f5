//! What can go wrong with a throw-away cluster. Every message says what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a throw-away PostgreSQL could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThrowawayError {
    /// No folder with `initdb` and `postgres` in it.
    #[error(
        "no PostgreSQL server programs found (looked in PATH, pg_config and the usual folders); \
         install the package `postgresql`, or name the folder with --pg-bin"
    )]
    NoServer,
    /// The folder lacks one program.
    #[error(
        "{} has no `{program}`; install the matching package (on Debian: postgresql and \
         postgresql-contrib), or name another folder with --pg-bin",
        folder.display()
    )]
    NoProgram {
        /// Where it was looked for.
        folder: PathBuf,
        /// What was looked for.
        program: &'static str,
    },
    /// Root needs somebody else to run PostgreSQL as.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a user `postgres` nor \
         `nobody`; run this as an ordinary user"
    )]
    NoUnprivilegedUser,
    /// No temporary folder can be used.
    #[error(
        "no usable temporary folder (it must be writable, be open to the user that runs \
         PostgreSQL, and have a path short enough for a socket); set TMPDIR to one"
    )]
    NoTemporaryFolder(#[source] Option<io::Error>),
    /// A file or a socket of the cluster.
    #[error("cannot prepare {}: {source}; check the space and rights there", path.display())]
    Prepare {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program did not even start.
    #[error("cannot start {}: {source}; check that it can be executed", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program started and failed.
    #[error("{program} failed with status {status:?}; it said:\n{output}")]
    Failed {
        /// The program's name.
        program: &'static str,
        /// Its exit status, if it had one.
        status: Option<i32>,
        /// The end of its output.
        output: String,
    },
    /// A server started and never answered.
    #[error("{program} did not answer within {waited:?}: {said}\nthe end of its log:\n{log}")]
    NoAnswer {
        /// The server's name.
        program: &'static str,
        /// How long it had.
        waited: Duration,
        /// What the last attempt was told.
        said: String,
        /// The end of its log.
        log: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}
