//! `auth_hba_file` and `auth_ident_file`: the files, with those that they include, as rules and maps.
//!
//! What a rule means is `auth::hba`'s affair. Invariants: a file that includes itself, by whatever way,
//! is a mistake and no endless loop; all mistakes of all files are told.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Diagnostic, Place, Problem};
use super::load::read as read_file;
use super::schema::General;
use crate::auth::hba::{Fault, IdentMaps, Line, Rules, Word, lines};

/// How deep files may include each other.
const DEPTH_MAX: usize = 10;
/// Lines in all; a guard against files that include each other many times.
const LINES_MAX: usize = 100_000;

/// What the two files say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuthRules {
    /// Those of `auth_hba_file`.
    pub rules: Rules,
    /// Those of `auth_ident_file`.
    pub maps: IdentMaps,
}

/// Reads the files that the settings name; relative ones count from `folder`.
pub(super) fn load(general: &General, folder: &Path) -> Result<AuthRules, Vec<Diagnostic>> {
    let mut loaded = AuthRules::default();
    let mut mistakes = Vec::new();
    if let Some(file) = &general.auth_hba_file {
        let files = Files::read(&folder.join(file), true);
        match files.finish(Rules::parse) {
            Ok(rules) => loaded.rules = rules,
            Err(found) => mistakes.extend(found),
        }
    }
    if let Some(file) = &general.auth_ident_file {
        let files = Files::read(&folder.join(file), false);
        match files.finish(IdentMaps::parse) {
            Ok(maps) => loaded.maps = maps,
            Err(found) => mistakes.extend(found),
        }
    }
    let asks = loaded.rules.ask_for_roles() || loaded.maps.ask_for_roles();
    if asks && general.auth_user.is_none() {
        let file = general.auth_hba_file.as_deref().unwrap_or(Path::new("auth_hba_file"));
        let reason = "+role and samerole need auth_user, who looks roles up";
        mistakes.push(Diagnostic {
            place: Place::File(folder.join(file).display().to_string().into()),
            problem: Problem::AuthRule(reason.to_owned()),
        });
    }
    for rule in loaded.rules.iter() {
        if let Some(map) = rule.map.as_deref().filter(|map| !loaded.maps.has(map)) {
            mistakes.push(Diagnostic {
                place: Place::File(rule.to_string().into()),
                problem: Problem::AuthRule(format!("map {map:?} is not in auth_ident_file")),
            });
        }
    }
    if mistakes.is_empty() { Ok(loaded) } else { Err(mistakes) }
}

/// The lines of a file and of all that it includes.
struct Files {
    /// In lists of databases and users a word may name a file of words.
    has_lists: bool,
    lines: Vec<Line>,
    mistakes: Vec<Diagnostic>,
}

impl Files {
    fn read(file: &Path, has_lists: bool) -> Self {
        let mut files = Self { has_lists, lines: Vec::new(), mistakes: Vec::new() };
        files.add(file, 0, false);
        files
    }

    fn finish<T>(
        mut self,
        parse: impl FnOnce(&[Line]) -> Result<T, Vec<Fault>>,
    ) -> Result<T, Vec<Diagnostic>> {
        let parsed = parse(&self.lines);
        if let Err(faults) = &parsed {
            self.mistakes.extend(faults.iter().map(|fault| Diagnostic {
                place: line_of(&fault.file, fault.line),
                problem: Problem::AuthRule(fault.reason.clone()),
            }));
        }
        parsed.ok().filter(|_| self.mistakes.is_empty()).ok_or(self.mistakes)
    }

    fn mistake(&mut self, place: Place, reason: impl Into<String>) {
        self.mistakes.push(Diagnostic { place, problem: Problem::AuthRule(reason.into()) });
    }

    /// Adds a file's lines. `may_lack`: it need not be there.
    fn add(&mut self, file: &Path, depth: usize, may_lack: bool) {
        let name: Arc<str> = file.display().to_string().into();
        if depth > DEPTH_MAX {
            return self.mistake(Place::File(name), "files include each other too deeply");
        }
        let Some(text) = self.text(file, &name, may_lack) else { return };
        for (number, fields) in lines(&text) {
            if self.lines.len() >= LINES_MAX {
                return self.mistake(Place::File(name), "more than 100000 lines");
            }
            match fields {
                Ok(fields) => self.add_line(file, &name, number, fields, depth),
                Err(reason) => self.mistake(line_of(&name, number), reason),
            }
        }
    }

    fn text(&mut self, file: &Path, name: &Arc<str>, may_lack: bool) -> Option<String> {
        let place = Place::File(name.clone());
        match read_file(file) {
            Ok((bytes, _)) => match std::str::from_utf8(&bytes) {
                Ok(text) => Some(text.to_owned()),
                Err(_) => {
                    self.mistakes.push(Diagnostic { place, problem: Problem::NotUtf8 });
                    None
                }
            },
            Err(Problem::Read(std::io::ErrorKind::NotFound)) if may_lack => None,
            Err(problem) => {
                self.mistakes.push(Diagnostic { place, problem });
                None
            }
        }
    }

    fn add_line(
        &mut self,
        file: &Path,
        name: &Arc<str>,
        number: usize,
        mut fields: Vec<Vec<Word>>,
        depth: usize,
    ) {
        let folder = file.parent().unwrap_or(Path::new(""));
        let directive = match fields.as_slice() {
            [what, of] if what.len() == 1 && of.len() == 1 && !what[0].is_quoted => {
                Some((what[0].text.as_str(), folder.join(&of[0].text)))
            }
            _ => None,
        };
        match directive {
            Some(("include", path)) => return self.add(&path, depth + 1, false),
            Some(("include_if_exists", path)) => return self.add(&path, depth + 1, true),
            Some(("include_dir", path)) => return self.add_folder(&path, depth, name, number),
            _ => {}
        }
        for list in fields.iter_mut().skip(1).take(if self.has_lists { 2 } else { 0 }) {
            let mut words = Vec::with_capacity(list.len());
            for word in std::mem::take(list) {
                match word.text.strip_prefix('@').filter(|path| !word.is_quoted && !path.is_empty())
                {
                    Some(path) => self.add_list(&folder.join(path), depth + 1, &mut words),
                    None => words.push(word),
                }
            }
            *list = words;
        }
        self.lines.push(Line { file: name.clone(), number, fields });
    }

    /// All words of a file, and of those that it names.
    fn add_list(&mut self, file: &Path, depth: usize, words: &mut Vec<Word>) {
        let name: Arc<str> = file.display().to_string().into();
        if depth > DEPTH_MAX || words.len() > LINES_MAX {
            return self.mistake(Place::File(name), "files include each other too deeply");
        }
        let Some(text) = self.text(file, &name, false) else { return };
        let folder = file.parent().unwrap_or(Path::new(""));
        for (number, fields) in lines(&text) {
            let fields = match fields {
                Ok(fields) => fields,
                Err(reason) => {
                    self.mistake(line_of(&name, number), reason);
                    continue;
                }
            };
            for word in fields.into_iter().flatten() {
                match word.text.strip_prefix('@').filter(|path| !word.is_quoted && !path.is_empty())
                {
                    Some(path) => self.add_list(&folder.join(path), depth + 1, words),
                    None => words.push(word),
                }
            }
        }
    }

    /// The files of a folder that end in `.conf`, in order.
    fn add_folder(&mut self, folder: &Path, depth: usize, name: &Arc<str>, number: usize) {
        let listed = match std::fs::read_dir(folder) {
            Ok(listed) => listed,
            Err(error) => {
                let reason = format!("cannot read the folder: {error}");
                return self.mistake(line_of(name, number), reason);
            }
        };
        let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            name.ends_with(".conf") && !name.starts_with('.') && path.is_file()
        });
        files.sort();
        for file in files {
            self.add(&file, depth + 1, false);
        }
    }
}

fn line_of(file: &Arc<str>, line: usize) -> Place {
    Place::At { file: file.clone(), line, column: 1 }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::schema::General;
    use super::*;
    use crate::auth::hba::Visitor;

    fn general(hba: &str, ident: &str) -> General {
        let text = format!("[general]\nauth_hba_file = {hba:?}\nauth_ident_file = {ident:?}\n");
        super::super::parse(&text, "config.toml", &|_| None).unwrap().config.general.clone()
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn faults(files: &[(&str, &str)]) -> String {
        let folder = folder(files);
        let faults = load(&general("hba", ""), folder.path()).unwrap_err();
        let shown: Vec<_> = faults.iter().map(Diagnostic::to_string).collect();
        shown.join("\n").replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn files_include_each_other_in_place() {
        let folder = folder(&[
            (
                "hba",
                "include more/a\ninclude_if_exists none\ninclude_dir more/d\nlocal all @users/u peer map=m\n",
            ),
            ("more/a", "local a all trust\ninclude b\n"),
            ("more/b", "local b all reject\n"),
            ("more/d/2.conf", "local two all trust\n"),
            ("more/d/1.conf", "local one all trust\n"),
            ("more/d/.x.conf", "nonsense"),
            ("more/d/x.bak", "nonsense"),
            ("users/u", "ann, \"@bob\"\n@more\n"),
            ("users/more", "carl"),
            ("ident", "m root all\n"),
        ]);
        let loaded = load(&general("hba", "ident"), folder.path()).unwrap();
        let at: Vec<_> = loaded.rules.iter().map(ToString::to_string).collect();
        let at: Vec<_> = at.iter().map(|at| at.rsplit('/').next().unwrap()).collect();
        assert_eq!(at, ["a:1", "b:1", "1.conf:1", "2.conf:1", "hba:4"]);
        for (user, found) in [("ann", true), ("@bob", true), ("carl", true), ("dora", false)] {
            let visitor = Visitor {
                address: None,
                is_tls: false,
                database: "x",
                user,
                is_physical_replication: false,
                roles: &[],
            };
            assert_eq!(loaded.rules.find(&visitor).is_some(), found, "{user}");
        }
        assert_eq!(load(&general("hba", "ident"), folder.path()).unwrap(), loaded);
    }

    #[test]
    fn mistakes_of_all_files_are_told_and_circles_end() {
        let said = faults(&[
            ("hba", "local\ninclude a\nlocal all all peer map=m\ninclude none\ninclude_dir none\n"),
            ("a", "local all all gss\n\"x\n"),
        ]);
        let expected = [
            "a:2:1: a double quote is not closed",
            "none: cannot read the file: entity not found",
            "hba:5:1: cannot read the folder",
            "hba:1:1: the database is missing",
            "a:1:1: gss is not supported",
        ];
        for part in expected {
            assert!(said.contains(part), "{part} in {said}");
        }
        for files in [
            &[("hba", "include hba\n")][..],
            &[("hba", "include a\n"), ("a", "include hba\n")],
            &[("hba", "local all @hba trust\n")],
        ] {
            assert!(faults(files).contains("too deeply"), "{files:?}");
        }
        assert!(faults(&[("hba", "local all all peer map=m\n")]).contains("map \"m\" is not in"));
    }
}
