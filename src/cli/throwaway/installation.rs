//! Where PostgreSQL's programs are on this machine, and whom to run the server as.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ThrowawayError;

/// Folders that hold one folder per version, with the programs in `bin` below it.
const VERSIONED_FOLDERS: [&str; 4] =
    ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];
/// Where rpm packages put version N: `/usr/pgsql-N/bin`.
const RPM_PREFIX: (&str, &str) = ("/usr", "pgsql-");
/// The programs without which there is no server.
const SERVER_PROGRAMS: [&str; 2] = ["initdb", "postgres"];
/// Who runs PostgreSQL if we are root, in order of preference.
const UNPRIVILEGED_NAMES: [&str; 2] = ["postgres", "nobody"];

/// A folder with PostgreSQL's server programs.
#[derive(Debug, Clone)]
pub struct Installation {
    folder: PathBuf,
}

impl Installation {
    /// Looks in `named` only, if given; else in PATH, where `pg_config` points, and in the usual
    /// folders, newest version first.
    ///
    /// # Errors
    /// If there is no server, or the named folder has none.
    pub fn find(named: Option<&Path>) -> Result<Self, ThrowawayError> {
        if let Some(folder) = named {
            let folder = folder.to_owned();
            return match SERVER_PROGRAMS.into_iter().find(|p| !folder.join(p).is_file()) {
                Some(program) => Err(ThrowawayError::NoProgram { folder, program }),
                None => Ok(Self { folder }),
            };
        }
        let has_server =
            |folder: &PathBuf| SERVER_PROGRAMS.iter().all(|program| folder.join(program).is_file());
        path_folders()
            .into_iter()
            .chain(pg_config_folder())
            .chain(usual_folders())
            .find(has_server)
            .map(|folder| Self { folder: real_folder(folder) })
            .ok_or(ThrowawayError::NoServer)
    }

    /// The path of one program: beside the server's, else in PATH (client programs may come in a
    /// package of their own).
    ///
    /// # Errors
    /// If it is in neither.
    pub fn program(&self, program: &'static str) -> Result<PathBuf, ThrowawayError> {
        std::iter::once(self.folder.clone())
            .chain(path_folders())
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())
            .ok_or_else(|| ThrowawayError::NoProgram { folder: self.folder.clone(), program })
    }

    /// The folder of the server's programs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A user that PostgreSQL agrees to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unprivileged {
    /// Its name.
    pub name: &'static str,
    /// User id.
    pub uid: u32,
    /// The user's primary group id.
    pub gid: u32,
}

impl Unprivileged {
    /// Whom to run PostgreSQL as: `None` (ourselves) unless we are root.
    ///
    /// # Errors
    /// If we are root and know nobody else.
    pub fn needed() -> Result<Option<Self>, ThrowawayError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        UNPRIVILEGED_NAMES
            .into_iter()
            .find_map(|name| account(&accounts, name))
            .map(Some)
            .ok_or(ThrowawayError::NoUnprivilegedUser)
    }
}

/// The ids of `name` in the text of a passwd file; never root's.
fn account(accounts: &str, name: &'static str) -> Option<Unprivileged> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok().filter(|uid| *uid != 0)?;
        let gid = fields.next()?.parse().ok()?;
        Some(Unprivileged { name, uid, gid })
    })
}

/// Where the programs really are: a link in PATH has none of its neighbours beside it, and
/// Debian's wrappers in /usr/bin cost a Perl start each.
fn real_folder(folder: PathBuf) -> PathBuf {
    let initdb = fs::canonicalize(folder.join("initdb"));
    initdb.ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or(folder)
}

fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn pg_config_folder() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(PathBuf::from(text.trim())).filter(|folder| folder.is_absolute())
}

fn usual_folders() -> Vec<PathBuf> {
    let below = |parent: &str| -> Vec<PathBuf> {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let mut found: Vec<PathBuf> = VERSIONED_FOLDERS.into_iter().flat_map(below).collect();
    found.extend(below(RPM_PREFIX.0).into_iter().filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RPM_PREFIX.1))
    }));
    newest_first(&mut found);
    found.into_iter().map(|folder| folder.join("bin")).collect()
}

/// Sorts by the version number in the last part of the path, so that 15 comes before 9.6.
fn newest_first(folders: &mut [PathBuf]) {
    folders.sort_by_cached_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let version: Vec<u32> = digits.split('.').map_while(|part| part.parse().ok()).collect();
        std::cmp::Reverse(version)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first() {
        let mut folders: Vec<PathBuf> =
            ["/a/9.6", "/a/15", "/usr/pgsql-17", "/b/postgresql@16", "/b/openssl", "/a/9.10"]
                .map(PathBuf::from)
                .to_vec();
        newest_first(&mut folders);
        let expected =
            ["/usr/pgsql-17", "/b/postgresql@16", "/a/15", "/a/9.10", "/a/9.6", "/b/openssl"];
        assert_eq!(folders, expected.map(PathBuf::from));
    }

    #[test]
    fn an_account_is_found_by_its_whole_name_and_is_never_root() {
        let accounts = "root:x:0:0::/:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:P,,:/:/x\n";
        assert_eq!(
            account(accounts, "postgres"),
            Some(Unprivileged { name: "postgres", uid: 101, gid: 104 })
        );
        assert_eq!(account(accounts, "root"), None);
        assert_eq!(account(accounts, "nobody"), None);
        assert_eq!(account("postgres:x:", "postgres"), None);
    }

    #[test]
    fn a_named_folder_without_a_server_is_refused_by_the_program_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("initdb"), "").unwrap();
        let error = Installation::find(Some(folder.path())).unwrap_err();
        assert!(matches!(error, ThrowawayError::NoProgram { program: "postgres", .. }), "{error}");
        fs::write(folder.path().join("postgres"), "").unwrap();
        assert_eq!(Installation::find(Some(folder.path())).unwrap().folder(), folder.path());
    }
}
