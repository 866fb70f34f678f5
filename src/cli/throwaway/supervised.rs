//! A child process that cannot outlive its parent, without unsafe code.
//!
//! The child runs under a small shell. The shell's standard input is a pipe whose other end is held
//! here; when it closes (an orderly end, a panic, or `kill -9` of this process) the shell signals
//! the child, waits for it and, if asked, removes a folder. The child leads no terminal and is in a
//! process group of its own, so a Ctrl-C reaches this process alone, which then ends things in
//! order.
//!
//! It must not know what it runs. Children start with SIGINT and SIGQUIT ignored, as a shell's
//! background jobs do; the programs run here install handlers of their own.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Unprivileged;

/// How long a child may take to end before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at a child that is ending.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The watchdog. `$1` is the signal that ends the child, `$2` a folder to remove if the end was
/// asked for (or empty), the rest is the command. Its first line of output is the child's pid.
/// The reader ends with status 0 only if the pipe closed; if the child ended first, the reader is
/// killed, and the folder stays, because it holds the log that tells why.
const WATCHDOG: &str = r#"
signal=$1 folder=$2; shift 2
exec 3<&0
"$@" </dev/null >&2 3<&- & child=$!
echo "$child"; exec >&-
{ read -r _; kill -s "$signal" "$child"; } <&3 2>/dev/null & reader=$!
exec 3<&-
wait "$child"; status=$?
kill "$reader" 2>/dev/null
if wait "$reader" 2>/dev/null && [ -n "$folder" ]; then cd / && rm -rf -- "$folder"; fi
exit "$status"
"#;

/// The signal that asks a child to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// SIGINT: PostgreSQL's fast shutdown, which does not wait for its clients.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGKILL, for programs that have nothing to put in order.
    Kill,
}

impl Ending {
    const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
            Self::Kill => "KILL",
        }
    }
}

/// What to run, and how.
#[derive(Debug, Clone)]
pub struct Job {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Additional environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The working folder; the user below must be able to enter it.
    pub folder: PathBuf,
    /// Where standard output and standard error go; appended to.
    pub log: PathBuf,
    /// Whom to run it as; `None` is the current user.
    pub user: Option<Unprivileged>,
    /// How it is asked to end.
    pub ending: Ending,
    /// Removed by the watchdog once the child was ended on request.
    pub remove: Option<PathBuf>,
}

/// A running child. Dropping it ends the child and waits until it is gone.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
    /// The pipe whose closing ends the child; `None` once closed.
    lifeline: Option<ChildStdin>,
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Supervised {
    /// Starts `job`.
    ///
    /// # Errors
    /// If the log cannot be opened or the shell cannot be started. A program that cannot be
    /// executed shows as a child that ended with status 126 or 127, with the reason in the log.
    pub fn start(job: &Job) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&job.log)?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WATCHDOG, "sh", job.ending.name()])
            .arg(job.remove.as_deref().unwrap_or_else(|| "".as_ref()))
            .arg(&job.program)
            .args(&job.arguments)
            .envs(job.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&job.folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(user) = job.user {
            // The standard library drops root's supplementary groups along with the user id.
            command.uid(user.uid).gid(user.gid);
        }
        let mut shell = command.spawn()?;
        let lifeline = shell.stdin.take();
        match read_pid(&mut shell) {
            Ok(pid) => Ok(Self { shell, lifeline, pid, status: None }),
            Err(error) => {
                drop(lifeline);
                shell.wait()?;
                Err(error)
            }
        }
    }

    /// The process id of the child itself, not of the shell around it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to the child. Nothing happens if it has ended.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Looking first keeps a recycled pid safe: the shell reaps the child and then ends itself.
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        Ok(kill_process(self.pid, signal)?)
    }

    /// The exit status, once the child has ended.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.shell.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits until the child has ended by itself, or `give_up` says so (asked every few
    /// milliseconds); `None` is the latter.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn wait(&mut self, mut give_up: impl FnMut() -> bool) -> io::Result<Option<ExitStatus>> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if give_up() {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Asks the child to end, waits for it, and kills it if it takes too long; the job's folder is
    /// removed. The status of a child that died of signal N is that of its shell: 128 + N.
    ///
    /// # Errors
    /// If the system refuses to kill or to tell.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        drop(self.lifeline.take());
        self.wait_or_kill()
    }

    /// Like [`end`](Self::end) with a signal of the caller's choice, but keeps the job's folder.
    ///
    /// # Errors
    /// If the system refuses to signal or to tell.
    pub fn stop(&mut self, signal: Signal) -> io::Result<ExitStatus> {
        self.signal(signal)?;
        self.wait_or_kill()
    }

    fn wait_or_kill(&mut self) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + END_TIMEOUT;
        if let Some(status) = self.wait(|| Instant::now() > deadline)? {
            return Ok(status);
        }
        self.signal(Signal::KILL)?;
        let status = self.shell.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Nobody is left to tell of an error here, and the closed pipe has ended the child.
        let _ = self.end();
    }
}

/// The exit code of a child, with a signal shown as a shell shows it.
#[must_use]
pub fn code(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

fn read_pid(shell: &mut Child) -> io::Result<Pid> {
    let output = shell.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let pid = line.trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the shell told no pid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn job(folder: &Path, script: &str, ending: Ending) -> Job {
        Job {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GREETING".into(), "hello".into())],
            folder: folder.to_owned(),
            log: folder.join("log"),
            user: None,
            ending,
            remove: None,
        }
    }

    fn is_alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_child_that_ends_by_itself_tells_its_status_and_output() {
        let folder = tempfile::tempdir().unwrap();
        let mut job = job(folder.path(), "echo $GREETING; echo bad >&2; exit 7", Ending::Kill);
        job.remove = Some(folder.path().to_owned());
        let mut child = Supervised::start(&job).unwrap();
        let status = child.wait(|| false).unwrap().unwrap();
        assert_eq!(code(status), Some(7));
        // The folder stays, although it was to be removed: its end was not asked for.
        assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap(), "hello\nbad\n");
    }

    #[test]
    fn a_program_that_is_not_there_shows_as_status_127() {
        let folder = tempfile::tempdir().unwrap();
        let mut job = job(folder.path(), "", Ending::Kill);
        job.program = "/nonexistent/program".into();
        let mut child = Supervised::start(&job).unwrap();
        assert_eq!(code(child.wait(|| false).unwrap().unwrap()), Some(127));
        assert!(fs::read_to_string(folder.path().join("log")).unwrap().contains("not found"));
    }

    #[test]
    fn dropping_ends_the_child_with_its_signal() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap 'echo got TERM; exit 0' TERM; echo up; while :; do sleep 0.02; done";
        let child = Supervised::start(&job(folder.path(), script, Ending::Terminate)).unwrap();
        let pid = child.pid();
        let log = || fs::read_to_string(folder.path().join("log")).unwrap();
        while !log().contains("up") {
            thread::sleep(POLL_INTERVAL);
        }
        assert!(is_alive(pid));
        drop(child);
        assert!(!is_alive(pid));
        assert!(log().contains("got TERM"));
    }

    #[test]
    fn the_closing_of_the_pipe_alone_ends_the_child_and_removes_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let mut job = job(folder.path(), "exec sleep 1000", Ending::Kill);
        job.remove = Some(folder.path().to_owned());
        let mut child = Supervised::start(&job).unwrap();
        // What the kernel does when this process dies.
        drop(child.lifeline.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        let status = child.wait(|| Instant::now() > deadline).unwrap().expect("it ends");
        assert_eq!(code(status), Some(128 + 9));
        assert!(!is_alive(child.pid()));
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_signal_reaches_the_child_and_not_the_shell() {
        let folder = tempfile::tempdir().unwrap();
        let mut child =
            Supervised::start(&job(folder.path(), "exec sleep 1000", Ending::Kill)).unwrap();
        assert_eq!(code(child.stop(Signal::TERM).unwrap()), Some(128 + 15));
        child.signal(Signal::TERM).unwrap();
        assert!(folder.path().exists());
    }
}
