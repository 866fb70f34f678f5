//! The way from a file (or text) and the environment to a [`Config`].
//!
//! It owns the order of the steps and nothing else. Invariant: either the whole configuration is
//! good, or every mistake in it is reported and nothing is returned.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::auth_file;
use super::check;
use super::env::{self, Env};
use super::error::{ConfigError, Diagnostic, Place, Problem, Warning, WarningKind};
use super::faults::{Faults, Origin, SourceFile};
use super::hba;
use super::keys::SectionKeys;
use super::raw::{RawConfig, RawTable};
use super::resolved::{Config, Databases, FALLBACK_DATABASE, Users};
use super::schema::{Database, General, User};
use super::tls::{self, Tls};

/// Largest file that is read, in bytes. A guard against a path that never ends.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A good configuration and what is unwise about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Arc<Config>,
    /// To be logged; they stop nothing.
    pub warnings: Vec<Warning>,
}

/// Reads a file. `env` looks an environment variable up; see docs/CONFIG.md for their names.
///
/// # Errors
/// The file cannot be read, is not UTF-8, is larger than [`FILE_BYTES_MAX`], or [`parse`] fails.
pub fn load(path: &Path, env: Env<'_>) -> Result<Loaded, ConfigError> {
    let name = path.display().to_string();
    let (bytes, mode) = read(path).map_err(|problem| whole_file(&name, problem))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| not_utf8(&name, &bytes, error))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut loaded, file_has_secrets) = parse_text(text, &name, env, Some(folder))?;
    if let Some(mode) = mode.filter(|mode| file_has_secrets && mode & 0o004 != 0) {
        let place = Place::File(Arc::from(name.as_str()));
        loaded.warnings.push(Warning { place, kind: WarningKind::ReadableSecrets(mode) });
    }
    Ok(loaded)
}

/// Reads text as if it stood in the file `file_name`.
///
/// # Errors
/// All mistakes in the text and the environment; a syntax error alone, as nothing can be said
/// about the rest.
///
/// A text has no folder, so the files that it names are not looked at.
pub fn parse(text: &str, file_name: &str, env: Env<'_>) -> Result<Loaded, ConfigError> {
    parse_text(text, file_name, env, None).map(|(loaded, _)| loaded)
}

/// [`parse`], which also tells whether the text itself holds a password, and reads the files that it
/// names if it is told the folder from which relative ones count.
fn parse_text(
    text: &str,
    name: &str,
    env: Env<'_>,
    folder: Option<&Path>,
) -> Result<(Loaded, bool), ConfigError> {
    let source = SourceFile::new(name, text);
    let document = DeTable::parse(text).map_err(|error| {
        let origin = error.span().map_or(Origin::File, |span| Origin::Offset(span.start));
        let problem = Problem::Syntax(error.message().to_owned());
        ConfigError { diagnostics: vec![Diagnostic { place: source.place(origin), problem }] }
    })?;
    let mut faults = Faults::default();
    let mut raw = RawConfig::from_toml(document.get_ref(), &mut faults);
    env::apply(&mut raw, env, &mut faults);
    let mut config = resolve(&raw, &mut faults);
    check::refuse(&raw, &config, &mut faults);
    if let Some((key, problem)) = folder.and_then(|_| tls::lacks(&config.general)) {
        faults.add(raw.general.origin_of(key), problem);
    }
    let mut diagnostics = faults.into_diagnostics(&source);
    let mut in_files = Vec::new();
    if let (Some(folder), Some(path)) = (folder, &config.general.auth_file) {
        match auth_file::load(&folder.join(path), &mut in_files) {
            Ok(users) => config.users.in_file = users,
            Err(found) => diagnostics.extend(found),
        }
    }
    if let Some(folder) = folder {
        match hba::load(&config.general, folder) {
            Ok(rules) => config.auth_rules = Arc::new(rules),
            Err(found) => diagnostics.extend(found),
        }
    }
    if let Some(folder) = folder.filter(|_| diagnostics.is_empty()) {
        match tls::load(&config.general, folder, &mut in_files) {
            Ok(tls) => config.tls = tls,
            Err(found) => diagnostics.extend(found),
        }
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError { diagnostics });
    }
    let mut warnings: Vec<Warning> = check::warnings(&raw, &config)
        .into_iter()
        .map(|(origin, kind)| Warning { place: source.place(origin), kind })
        .collect();
    warnings.extend(in_files);
    let has_secret =
        |entries: &BTreeMap<String, RawTable>| entries.values().any(RawTable::has_secret_in_file);
    let file_has_secrets = has_secret(&raw.databases) || has_secret(&raw.users);
    Ok((Loaded { config: Arc::new(config), warnings }, file_has_secrets))
}

/// Types every value. Bad ones are in `faults` and stand as defaults in the result.
fn resolve(raw: &RawConfig, faults: &mut Faults) -> Config {
    let general = General::read(&raw.general, faults);
    let mut databases = Databases::default();
    for (name, table) in &raw.databases {
        let database = Database::read(table, faults);
        if name == FALLBACK_DATABASE {
            databases.fallback = Some(database);
        } else {
            databases.named.insert(name.clone(), database);
        }
    }
    let users = raw.users.iter().map(|(name, table)| (name.clone(), User::read(table, faults)));
    let users = Users { named: users.collect(), ..Users::default() };
    let (auth_rules, tls) = (Arc::default(), Tls::default());
    Config { general, databases, users, auth_rules, tls }
}

/// The bytes of a file and, on unix, its permission bits if it is a regular file.
pub(super) fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Option<u32>), Problem> {
    let failed = |error: io::Error| Problem::Read(error.kind());
    let file = File::open(path).map_err(failed)?;
    let mode = mode_of(&file);
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= FILE_BYTES_MAX => Ok((bytes, mode)),
        _ => Err(Problem::TooLarge),
    }
}

/// The permission bits of a regular file.
pub(super) fn mode_of(file: &File) -> Option<u32> {
    file.metadata().ok().filter(|meta| meta.is_file()).and_then(|meta| mode(&meta))
}

#[cfg(unix)]
fn mode(metadata: &std::fs::Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}

fn whole_file(name: &str, problem: Problem) -> ConfigError {
    let place = Place::File(Arc::from(name));
    ConfigError { diagnostics: vec![Diagnostic { place, problem }] }
}

fn not_utf8(name: &str, bytes: &[u8], error: std::str::Utf8Error) -> ConfigError {
    let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
    let good = String::from_utf8_lossy(good);
    let place = SourceFile::new(name, &good).place(Origin::Offset(good.len()));
    ConfigError { diagnostics: vec![Diagnostic { place, problem: Problem::NotUtf8 }] }
}
