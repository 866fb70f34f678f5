//! Changing one setting of a running pgbaton, as `SET key = value` on the console does.
//!
//! Must not apply anything: it makes a configuration like the one in force but for one key. What
//! a file may say the console may say too, and no more.

use std::path::Path;
use std::sync::Arc;

use super::auth_file;
use super::check::hba_needs_file;
use super::error::{ConfigError, Problem};
use super::faults::{Faults, Origin};
use super::hba;
use super::keys::{Section, SectionKeys, keys_of};
use super::kinds::word::AuthType;
use super::raw::RawTable;
use super::resolved::Config;
use super::schema::General;
use super::tls;
use super::value::Value;

/// Why a setting was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such key.
    #[error("{0}")]
    Unknown(Problem),
    /// The value does not fit the key.
    #[error("{0}")]
    Refused(Problem),
    /// The key takes a restart.
    #[error("{0} cannot be changed while pgbaton runs: set it in the file and restart")]
    Restart(&'static str),
    /// The `auth_file` that it names is no good.
    #[error("{0}")]
    AuthFile(ConfigError),
    /// The rules or maps that it names are no good.
    #[error("{0}")]
    AuthRules(ConfigError),
    /// A certificate or key that it asks for is no good.
    #[error("{0}")]
    Tls(ConfigError),
}

impl Config {
    /// This configuration with the certificates and keys that the files hold now; `None` if they are the
    /// same as before.
    ///
    /// # Errors
    /// One of the files is no good: what is in force should stay.
    pub fn with_files_of_now(&self, folder: &Path) -> Result<Option<Self>, ConfigError> {
        if !tls::names_files(&self.general) {
            return Ok(None);
        }
        let read = tls::load(&self.general, folder, &mut Vec::new())
            .map_err(|diagnostics| ConfigError { diagnostics })?;
        if read == self.tls {
            return Ok(None);
        }
        Ok(Some(Self { tls: read.kept_of(&self.tls), ..self.clone() }))
    }

    /// This configuration with one key of `[general]` changed. `folder` is that of the
    /// configuration file, from which the paths of files count.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn with_setting(&self, key: &str, value: &str, folder: &Path) -> Result<Self, SetError> {
        let mut table = RawTable::new(Section::General, None, Origin::File);
        let key = table.known(key).map_err(SetError::Unknown)?;
        if keys_of(Section::General).any(|known| known.name == key && !known.reloadable) {
            return Err(SetError::Restart(key));
        }
        table.set(key, Value::text(value), Origin::File, false);
        let mut faults = Faults::default();
        let general = General::read(&table, &mut faults);
        if let Some(problem) = faults.into_first() {
            return Err(SetError::Refused(problem));
        }
        let mut changed = self.clone();
        changed.general.take_key(key, &general);
        if key == "auth_file" {
            changed.users.in_file = match &changed.general.auth_file {
                Some(path) => auth_file::load(&folder.join(path), &mut Vec::new())
                    .map_err(|diagnostics| SetError::AuthFile(ConfigError { diagnostics }))?,
                None => auth_file::FileUsers::new(),
            };
        }
        if key == "auth_hba_file" || key == "auth_ident_file" {
            let read = hba::load(&changed.general, folder)
                .map_err(|diagnostics| SetError::AuthRules(ConfigError { diagnostics }))?;
            changed.auth_rules = Arc::new(read);
        }
        if changed.general.auth_type == AuthType::Hba && changed.general.auth_hba_file.is_none() {
            return Err(SetError::Refused(hba_needs_file()));
        }
        if key.starts_with("client_tls_") || key.starts_with("server_tls_") {
            if let Some((_, problem)) = tls::lacks(&changed.general) {
                return Err(SetError::Refused(problem));
            }
            let read = tls::load(&changed.general, folder, &mut Vec::new())
                .map_err(|diagnostics| SetError::Tls(ConfigError { diagnostics }))?;
            changed.tls = read.kept_of(&self.tls);
        }
        Ok(changed)
    }
}
