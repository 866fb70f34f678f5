//! The pid file: written at the start, removed at the end.
//!
//! Invariants: a file that names another process which is alive is left alone, and so is one that
//! somebody has written over meanwhile.

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, getpid, test_kill_process};

/// A pid file of ours; removed when dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process is alive under the pid that it names.
    #[error("pidfile {} names process {pid}, which is running", .path.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// The other process.
        pid: i32,
    },
    /// It cannot be read or written.
    #[error("pidfile {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl PidFile {
    /// Writes our process id.
    ///
    /// # Errors
    /// If another pgbaton seems to run, or the file cannot be written.
    pub fn write(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Io { path: path.to_owned(), source };
        match read(path) {
            Ok(Some(pid)) if pid != getpid() && is_alive(pid) => {
                let pid = pid.as_raw_nonzero().get();
                return Err(PidFileError::Taken { path: path.to_owned(), pid });
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        std::fs::write(path, format!("{}\n", getpid().as_raw_nonzero())).map_err(failed)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if matches!(read(&self.0), Ok(Some(pid)) if pid == getpid()) {
            // What cannot be removed names a process that is no more: the next start sees that.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

fn read(path: &Path) -> io::Result<Option<Pid>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.trim().parse().ok().and_then(Pid::from_raw))
}

/// A process of somebody else's is alive too.
fn is_alive(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_names_us_and_goes_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        // Our own pid from before, as in a container that was restarted.
        let again = PidFile::write(&path).unwrap();
        drop(file);
        assert!(!path.exists());
        drop(again);
    }

    #[test]
    fn that_of_a_living_process_is_left_alone_and_any_other_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let parent = std::os::unix::process::parent_id();
        fs::write(&path, format!("{parent}\n")).unwrap();
        let error = PidFile::write(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("names process {parent}, which is running")), "{error}");
        // Above the largest pid that there can be; and what is no pid.
        for text in ["4194999", "", "nonsense", "0"] {
            fs::write(&path, text).unwrap();
            drop(PidFile::write(&path).unwrap());
            assert!(!path.exists());
        }
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1").unwrap();
        drop(file);
        assert!(path.exists(), "it is somebody else's by now");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let error = PidFile::write(Path::new("/nonexistent/pid")).unwrap_err();
        assert!(matches!(error, PidFileError::Io { .. }), "{error}");
    }
}
