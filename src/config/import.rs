//! From PgBouncer's `pgbouncer.ini` to a configuration of pgbaton's, with every key accounted for.
//!
//! Each key of the file ends in the new file, or in a comment there with the sentence that says why not;
//! the report lists them all. Must not write files. Invariant: nothing is dropped silently, and what
//! PgBouncer does by default and pgbaton does otherwise is written out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::error::Diagnostic;
use super::keys::Section;
use super::pgbouncer::{Answer, PEERS, Setting, settings};
use super::{Problem, parse};

mod environment;
mod ini;

pub use environment::from_environment;
pub use ini::{Ini, IniError};

/// What has become of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there under the same name.
    Same,
    /// Something else does it.
    Mapped(String),
    /// It is not there, and its value is PgBouncer's default: nothing is lost.
    Default,
    /// It is not there.
    Refused(String),
}

/// One key of the file, and what has become of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stood, as `[section] key`, with the name of an entry.
    pub key: String,
    /// What has become of it.
    pub outcome: Outcome,
}

/// A converted file.
#[derive(Debug)]
pub struct Imported {
    /// The configuration, in TOML.
    pub toml: String,
    /// Every key, in the order of the file.
    pub entries: Vec<Entry>,
    /// What an operator should know besides.
    pub notes: Vec<String>,
}

impl Imported {
    /// Whether anything is not there any more.
    #[must_use]
    pub fn has_refusals(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.outcome, Outcome::Refused(_)))
    }

    /// The report, a line for each key.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for Entry { key, outcome } in &self.entries {
            let said = match outcome {
                Outcome::Same => "same".to_owned(),
                Outcome::Mapped(how) => format!("mapped: {how}"),
                Outcome::Default => "default, not needed".to_owned(),
                Outcome::Refused(why) => format!("REFUSED: {why}"),
            };
            let _ = writeln!(text, "{key}: {said}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        text
    }
}

/// Converts a file that was read.
#[must_use]
pub fn convert(ini: &Ini) -> Imported {
    let mut imported = Imported { toml: String::new(), entries: Vec::new(), notes: Vec::new() };
    let _ = writeln!(imported.toml, "# Converted from {} by pgbaton import.\n", ini.name);
    imported.general(ini);
    imported.databases(ini);
    imported.users(ini);
    for (key, _) in ini.section("peers") {
        let key = format!("[peers] {key}");
        imported.entries.push(Entry { key, outcome: Outcome::Refused(PEERS.to_owned()) });
    }
    for section in ini.unknown_sections() {
        let why = "PgBouncer has no such section, and ignores it.".to_owned();
        imported
            .entries
            .push(Entry { key: format!("[{section}]"), outcome: Outcome::Refused(why) });
    }
    imported
}

impl Imported {
    fn general(&mut self, ini: &Ini) {
        self.toml.push_str("[general]\n");
        let given = ini.section("pgbouncer");
        if !given.iter().any(|(key, _)| key == "listen_addr") {
            // PgBouncer listens on no address unless it is told to.
            self.toml.push_str(
                "# PgBouncer's default; pgbaton's own is 127.0.0.1.\nlisten_addr = \"\"\n",
            );
        }
        for (key, value) in &given {
            let value = aliased(key, value);
            let outcome = outcome_of(Section::General, key, &value);
            self.line(&format!("[pgbouncer] {key}"), key, &value, outcome);
            let is_path = matches!(
                key.as_str(),
                "auth_file" | "auth_hba_file" | "auth_ident_file" | "logfile" | "pidfile"
            ) || key.ends_with("_file");
            if is_path && !value.is_empty() && !Path::new(&*value).is_absolute() {
                self.notes.push(format!(
                    "{key} = {value} counted from the folder that PgBouncer was started in; here it \
                     counts from the folder of the configuration file"
                ));
            }
        }
    }

    fn databases(&mut self, ini: &Ini) {
        self.toml.push_str("\n[databases]\n");
        for (name, text) in ini.section("databases") {
            let pairs = match super::conninfo::split(&text) {
                Ok(pairs) => pairs,
                Err(reason) => {
                    let key = format!("[databases] {name}");
                    self.entries.push(Entry { key, outcome: Outcome::Refused(reason.to_owned()) });
                    let _ = writeln!(self.toml, "# {} could not be read: {reason}", quoted(&name));
                    continue;
                }
            };
            let mut lines = String::new();
            std::mem::swap(&mut lines, &mut self.toml);
            let mut kept = Vec::new();
            for (key, value) in &pairs {
                let key = if key == "reserve_pool" { "reserve_pool_size" } else { key };
                let outcome = outcome_of(Section::Databases, key, value);
                if matches!(outcome, Outcome::Same) {
                    kept.push(format!("{key} = {}", quoted(value)));
                }
                let label = format!("[databases] {name} {key}");
                self.line(&label, key, value, outcome);
            }
            // Refused keys stay as comments; the others make one table.
            let comments: String = self
                .toml
                .lines()
                .filter(|line| line.starts_with('#'))
                .fold(String::new(), |all, line| all + line + "\n");
            std::mem::swap(&mut lines, &mut self.toml);
            self.toml.push_str(&comments);
            let _ = writeln!(self.toml, "{} = {{ {} }}", quoted(&name), kept.join(", "));
        }
    }

    fn users(&mut self, ini: &Ini) {
        for (name, text) in ini.section("users") {
            let pairs = super::conninfo::split(&text).unwrap_or_default();
            let _ = writeln!(self.toml, "\n[users.{}]", quoted(&name));
            for (key, value) in &pairs {
                let outcome = outcome_of(Section::Users, key, value);
                self.line(&format!("[users] {name} {key}"), key, value, outcome);
            }
        }
        for (name, secret) in &ini.secrets {
            let _ =
                writeln!(self.toml, "\n[users.{}]\npassword = {}", quoted(name), quoted(secret));
        }
    }

    /// One key, as a line or a comment, and in the report.
    fn line(&mut self, label: &str, key: &str, value: &str, outcome: Outcome) {
        match &outcome {
            Outcome::Same => {
                let _ = writeln!(self.toml, "{key} = {}", quoted(value));
            }
            Outcome::Mapped(how) => {
                if let Some(line) = replacement(key, value) {
                    let _ = writeln!(self.toml, "# {key} = {}\n{line}", shown(key, value));
                } else {
                    let _ = writeln!(self.toml, "# {key} = {}: {how}", shown(key, value));
                }
            }
            Outcome::Default => {}
            Outcome::Refused(why) => {
                let _ = writeln!(self.toml, "# {key} = {}: {why}", shown(key, value));
            }
        }
        self.entries.push(Entry { key: label.to_owned(), outcome });
    }
}

/// What becomes of a key and its value.
fn outcome_of(section: Section, key: &str, value: &str) -> Outcome {
    let setting = settings().find(|setting| setting.section == section && setting.name == key);
    let Some(setting) = setting else {
        return Outcome::Refused("PgBouncer 1.25 has no such setting.".to_owned());
    };
    match setting.answer {
        Answer::Same => match refused_value(&setting, value) {
            None => Outcome::Same,
            Some(why) => Outcome::Refused(why),
        },
        _ if is_default(&setting, value) => Outcome::Default,
        Answer::Mapped(_, how) => Outcome::Mapped(how.to_owned()),
        Answer::Refused(why) => Outcome::Refused(why.to_owned()),
    }
}

/// Other words of PgBouncer's for a value.
fn aliased<'a>(key: &str, value: &'a str) -> std::borrow::Cow<'a, str> {
    match (key, value) {
        // An OS user that PgBouncer was told to become is as good here.
        ("server_check_query", "select 1" | "select 1;") => value.into(),
        ("auth_type", "crypt") => "md5".into(),
        _ => value.into(),
    }
}

fn is_default(setting: &Setting, value: &str) -> bool {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let is_same_number = number(value).is_some() && number(value) == number(setting.default);
    value.trim().eq_ignore_ascii_case(setting.default) || is_same_number
}

/// The lines that a mapped key becomes.
fn replacement(key: &str, value: &str) -> Option<String> {
    match key {
        "verbose" => Some("log_level = \"debug\"".to_owned()),
        "so_reuseport" => {
            let _ = value;
            Some("workers = 0".to_owned())
        }
        _ => None,
    }
}

/// Why the value alone would be refused, whatever the other keys say.
fn refused_value(setting: &Setting, value: &str) -> Option<String> {
    let header = match setting.section {
        Section::General => "[general]",
        Section::Databases => "[databases.x]",
        Section::Users => "[users.x]",
    };
    let text = format!("{header}\n{} = {}\n", setting.name, quoted(value));
    let error = parse(&text, "", &|_| None).err()?;
    let is_about_value = |diagnostic: &&Diagnostic| {
        matches!(diagnostic.problem, Problem::BadValue { .. } | Problem::UnsupportedValue { .. })
    };
    error.diagnostics.iter().find(is_about_value).map(|diagnostic| diagnostic.problem.to_string())
}

/// A value for a comment: secrets are not repeated.
fn shown(key: &str, value: &str) -> String {
    if key == "password" { "***".to_owned() } else { value.replace('\n', " ") }
}

/// A string of TOML, or a quoted key.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(character);
            }
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Keys by section, in the order of the file; the last value of a key wins.
type Keys = Vec<(String, String)>;

fn set(keys: &mut Keys, key: String, value: String) {
    keys.retain(|(known, _)| *known != key);
    keys.push((key, value));
}

/// All sections.
type Sections = BTreeMap<String, Keys>;

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(text: &str) -> Imported {
        convert(&Ini::parse(text, "pgbouncer.ini").unwrap())
    }

    fn loaded(imported: &Imported) -> super::super::Config {
        let parsed = parse(&imported.toml, "config.toml", &|_| None);
        parsed.unwrap_or_else(|error| panic!("{error}\n{}", imported.toml)).config.as_ref().clone()
    }

    #[test]
    fn a_usual_file() {
        let imported = converted(
            ";; a comment\n[databases]\n# another\napp = host=10.0.0.1 port=5433 dbname=prod \
             password='it''s \"x\"' user=bob pool_size=7 reserve_pool=2\n* = host=/run\n\
             \"my db\" = \n[pgbouncer]\nlisten_addr = *\nlisten_port=6543\nauth_type = scram-sha-256\n\
             pool_mode = transaction\nserver_idle_timeout = 12.5\nignore_startup_parameters = \
             extra_float_digits, options\nadmin_users = root,  postgres\nmax_client_conn=50\n\
             pkt_buf = 4096\nsbuf_loopcnt = 0\nverbose = 2\nso_reuseport=1\nstats_period = 60\n\
             max_client_conn = 500\nnonsense = 1\n[users]\nbob = pool_mode=session \
             max_user_connections=3\n[peers]\n1 = host=x\n",
        );
        let config = loaded(&imported);
        assert_eq!(config.general.listen_port, 6543);
        assert_eq!(config.general.max_client_conn, 500);
        assert_eq!(config.general.ignore_startup_parameters, ["extra_float_digits", "options"]);
        assert_eq!(config.general.admin_users, ["root", "postgres"]);
        let app = &config.databases.named["app"];
        assert_eq!((app.port, app.dbname.as_deref()), (5433, Some("prod")));
        assert_eq!(app.password.as_ref().unwrap().expose(), "it's \"x\"");
        assert_eq!(app.reserve_pool_size, Some(2));
        assert!(
            config.databases.fallback.is_some() && config.databases.named.contains_key("my db")
        );
        assert!(config.users.named["bob"].max_user_connections.unwrap().get() == Some(3));
        let refused: Vec<_> = imported
            .entries
            .iter()
            .filter(|entry| matches!(entry.outcome, Outcome::Refused(_)))
            .map(|entry| entry.key.as_str())
            .collect();
        assert_eq!(refused, ["[pgbouncer] sbuf_loopcnt", "[pgbouncer] nonsense", "[peers] 1"]);
        let report = imported.report();
        assert!(report.contains("[pgbouncer] pkt_buf: default, not needed"), "{report}");
        assert!(report.contains("[pgbouncer] verbose: mapped: "), "{report}");
        assert!(!report.contains("it's") && imported.toml.contains("log_level = \"debug\""));
    }

    #[test]
    fn what_pgbouncer_does_by_default_is_written_out() {
        let config = loaded(&converted("[databases]\na = host=b\n[pgbouncer]\n"));
        assert!(config.general.listen_addr.is_empty());
    }

    #[test]
    fn values_that_cannot_be_taken_are_refused_with_their_reason() {
        let imported = converted(
            "[pgbouncer]\nauth_type = pam\npool_mode = sessions\n\
                                  client_tls_protocols = tlsv1.0\nauth_ldap_options = x\n",
        );
        assert_eq!(imported.entries.len(), 4);
        for entry in &imported.entries[..2] {
            assert!(matches!(&entry.outcome, Outcome::Refused(_)), "{entry:?}");
        }
        assert!(imported.report().contains("LDAP is not supported"));
    }

    #[test]
    fn every_setting_of_pgbouncer_at_its_default_converts_without_a_refusal() {
        let mut text = "[databases]\n* = host=127.0.0.1\n[pgbouncer]\n".to_owned();
        for setting in settings().filter(|setting| setting.section == Section::General) {
            let _ = writeln!(text, "{} = {}", setting.name, setting.default);
        }
        let imported = converted(&text);
        assert!(!imported.has_refusals(), "{}", imported.report());
        let config = loaded(&imported);
        let standard = parse("[general]\nlisten_addr = \"\"\n", "", &|_| None).unwrap();
        assert_eq!(config.general, standard.config.general);
    }
}
