//! PgBouncer's file format: sections of `key = value`, comments on lines of their own, `%include`.

use std::path::Path;

use super::super::load::read as read_file;
use super::{Keys, Sections, set};

/// How deep files may include each other, as PgBouncer has it.
const DEPTH_MAX: usize = 10;

/// A file that was read, with what it includes.
#[derive(Debug, Default)]
pub struct Ini {
    /// Its name.
    pub name: String,
    sections: Sections,
    /// Users and secrets that come from elsewhere than a file of users.
    pub(super) secrets: Keys,
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct IniError {
    /// File, and line if there is one.
    place: String,
    reason: String,
}

impl Ini {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It, or a file that it includes, cannot be read, or a line makes no sense.
    pub fn load(path: &Path) -> Result<Self, IniError> {
        let mut ini = Self { name: path.display().to_string(), ..Self::default() };
        let mut section = None;
        ini.add_file(path, &mut section, 0)?;
        Ok(ini)
    }

    /// Reads text without includes.
    ///
    /// # Errors
    /// A line makes no sense.
    pub fn parse(text: &str, name: &str) -> Result<Self, IniError> {
        let mut ini = Self { name: name.to_owned(), ..Self::default() };
        ini.add(text, Path::new(name), &mut None, DEPTH_MAX)?;
        Ok(ini)
    }

    /// The keys of a section, in the order of the file.
    pub(super) fn section(&self, name: &str) -> Keys {
        self.sections.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn unknown_sections(&self) -> impl Iterator<Item = &str> {
        let known = ["pgbouncer", "databases", "users", "peers"];
        self.sections.keys().map(String::as_str).filter(move |name| !known.contains(name))
    }

    /// Sets a key, over what was there.
    pub(super) fn set(&mut self, section: &str, key: &str, value: &str) {
        let keys = self.sections.entry(section.to_owned()).or_default();
        set(keys, key.to_owned(), value.to_owned());
    }

    fn add_file(
        &mut self,
        path: &Path,
        section: &mut Option<String>,
        depth: usize,
    ) -> Result<(), IniError> {
        let place = path.display().to_string();
        let failed = |reason: String| IniError { place: place.clone(), reason };
        let (bytes, _) = read_file(path).map_err(|problem| failed(problem.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| failed("not UTF-8 text".to_owned()))?;
        self.add(text, path, section, depth)
    }

    fn add(
        &mut self,
        text: &str,
        path: &Path,
        section: &mut Option<String>,
        depth: usize,
    ) -> Result<(), IniError> {
        for (index, line) in text.lines().enumerate() {
            let fault = |reason: &str| IniError {
                place: format!("{}:{}", path.display(), index + 1),
                reason: reason.to_owned(),
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(file) = line.strip_prefix("%include") {
                let file = file.trim();
                if file.is_empty() {
                    return Err(fault("%include without a file"));
                }
                if depth >= DEPTH_MAX {
                    return Err(fault("files include each other too deeply"));
                }
                self.add_file(&included(path, file), section, depth + 1)?;
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let name =
                    rest.strip_suffix(']').ok_or_else(|| fault("a section without its ]"))?;
                let name = name.trim().to_owned();
                self.sections.entry(name.clone()).or_default();
                *section = Some(name);
                continue;
            }
            let (key, value) = pair(line).map_err(fault)?;
            let Some(section) = section else { return Err(fault("a key before any section")) };
            let keys = self.sections.entry(section.clone()).or_default();
            set(keys, key, value.trim().to_owned());
        }
        Ok(())
    }
}

/// Relative files count from the folder that PgBouncer runs in; where there is none such, from that of
/// the file.
fn included(path: &Path, file: &str) -> std::path::PathBuf {
    let as_written = Path::new(file);
    if as_written.is_absolute() || as_written.exists() {
        return as_written.to_owned();
    }
    path.parent().unwrap_or(Path::new("")).join(file)
}

/// Key and value of a line. A key in double quotes may hold anything, a quote written twice.
fn pair(line: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = line.strip_prefix('"') else {
        let (key, value) = line.split_once('=').ok_or("expected key = value")?;
        let key = key.trim();
        return if key.is_empty() { Err("a key is missing") } else { Ok((key.to_owned(), value)) };
    };
    let mut key = String::new();
    loop {
        let (piece, after) = rest.split_once('"').ok_or("a double quote is not closed")?;
        key.push_str(piece);
        match after.strip_prefix('"') {
            Some(more) => {
                key.push('"');
                rest = more;
            }
            None => {
                let value = after.trim_start().strip_prefix('=').ok_or("expected key = value")?;
                return Ok((key, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_is_wrong_with_them() {
        let ini = Ini::parse(
            "[a]\n x = 1 ; not a comment\n;x=2\n\"k\"\"=\" = v = w\nx = 3\n[b]\ny=\n",
            "f",
        )
        .unwrap();
        let pairs = |name: &str| ini.section(name);
        assert_eq!(pairs("a"), [("k\"=".into(), "v = w".into()), ("x".into(), "3".into())]);
        assert_eq!(pairs("b"), [("y".into(), String::new())]);
        assert_eq!(ini.unknown_sections().collect::<Vec<_>>(), ["a", "b"]);
        for (text, said) in [
            ("x = 1", "f:1: a key before any section"),
            ("[a\n", "f:1: a section without its ]"),
            ("[a]\nnonsense", "f:2: expected key = value"),
            ("[a]\n= 1", "f:2: a key is missing"),
            ("[a]\n\"x = 1", "f:2: a double quote is not closed"),
            ("%include", "f:1: %include without a file"),
        ] {
            assert_eq!(Ini::parse(text, "f").unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn includes_go_on_in_the_section_they_stand_in_and_circles_end() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("a.ini", "[databases]\n%include b.ini\ny = host=y\n");
        write("b.ini", "x = host=x\n");
        let ini = Ini::load(&folder.path().join("a.ini")).unwrap();
        assert_eq!(ini.section("databases").len(), 2);
        write("b.ini", "%include a.ini\n");
        let error = Ini::load(&folder.path().join("a.ini")).unwrap_err();
        assert!(error.to_string().contains("too deeply"), "{error}");
    }
}
