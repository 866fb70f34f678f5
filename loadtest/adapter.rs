//! An adapter: how one pooler is found, configured and started, read from a TOML file.
//!
//! It knows no pooler by name. Unknown keys, capabilities and placeholders are refused, so that a
//! slip does not measure something else.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::Fallible;

/// What a cell may need and a pooler may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Prepared statements of the protocol, in transaction mode.
    Prepared,
    /// TLS towards clients.
    Tls,
}

impl Capability {
    const ALL: [Self; 2] = [Self::Prepared, Self::Tls];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Tls => "tls",
        }
    }
}

/// What an adapter file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adapter {
    pub name: String,
    /// The first that exists is taken: paths, or names looked up in PATH.
    pub programs: Vec<String>,
    pub arguments: Vec<String>,
    /// What makes the program tell its version.
    pub version_arguments: Vec<String>,
    pub supports: Vec<Capability>,
    /// For the readers of the report.
    pub note: String,
    pub files: Vec<File>,
}

/// A file to write before the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Below the folder of this start.
    pub path: String,
    pub text: String,
}

/// What the placeholders of a template stand for.
#[derive(Debug, Clone)]
pub struct Values(pub Vec<(&'static str, String)>);

impl Values {
    /// Puts the values into `template`. Braces around other than a lower-case word are left alone.
    pub fn fill(&self, template: &str) -> Fallible<String> {
        let mut filled = String::new();
        let mut rest = template;
        while let Some(open) = rest.find('{') {
            filled.push_str(&rest[..open]);
            let inner = &rest[open + 1..];
            let word = &inner[..inner.find('}').unwrap_or(0)];
            if word.is_empty() || !word.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                filled.push('{');
                rest = inner;
                continue;
            }
            let value = self.0.iter().find(|(name, _)| *name == word);
            let known = || self.0.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let (_, value) = value
                .ok_or_else(|| format!("unknown placeholder {{{word}}}; known: {}", known()))?;
            filled.push_str(value);
            rest = &inner[word.len() + 1..];
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

/// All adapters of a folder, PgBouncer first, because the others are compared with it.
pub fn read_folder(folder: &Path) -> Fallible<Vec<Adapter>> {
    let mut adapters = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            let text = std::fs::read_to_string(&path)?;
            let adapter = Adapter::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
            adapters.push(adapter);
        }
    }
    adapters.sort_by_key(|adapter| (adapter.name != crate::REFERENCE, adapter.name.clone()));
    for pair in adapters.windows(2) {
        if pair[0].name == pair[1].name {
            return Err(format!("two adapters are named {}", pair[0].name).into());
        }
    }
    Ok(adapters)
}

impl Adapter {
    /// Reads the text of an adapter file.
    pub fn parse(text: &str) -> Fallible<Self> {
        let document = DeTable::parse(text)?;
        let mut adapter = Self::default();
        for (key, value) in document.get_ref() {
            let (key, value) = (key.get_ref().as_ref(), value.get_ref());
            match key {
                "name" => adapter.name = string(key, value)?,
                "note" => adapter.note = string(key, value)?,
                "programs" => adapter.programs = strings(key, value)?,
                "arguments" => adapter.arguments = strings(key, value)?,
                "version_arguments" => adapter.version_arguments = strings(key, value)?,
                "supports" => adapter.supports = capabilities(&strings(key, value)?)?,
                "files" => adapter.files = files(value)?,
                _ => return Err(format!("unknown key {key}").into()),
            }
        }
        if adapter.name.is_empty() || adapter.programs.is_empty() {
            return Err("`name` and `programs` are needed".into());
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if !adapter.name.chars().all(is_plain) {
            return Err(format!("the name {:?} is to be letters, digits, -._", adapter.name).into());
        }
        Ok(adapter)
    }

    pub fn supports(&self, capability: Capability) -> bool {
        self.supports.contains(&capability)
    }
}

fn string(key: &str, value: &DeValue<'_>) -> Fallible<String> {
    let text = value.as_str().ok_or_else(|| format!("{key} is to be a text"))?;
    Ok(text.to_owned())
}

fn strings(key: &str, value: &DeValue<'_>) -> Fallible<Vec<String>> {
    let array = value.as_array().ok_or_else(|| format!("{key} is to be a list of texts"))?;
    array.iter().map(|item| string(key, item.get_ref())).collect()
}

fn capabilities(names: &[String]) -> Fallible<Vec<Capability>> {
    let parse = |name: &String| {
        let found = Capability::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| {
            let known = Capability::ALL.map(Capability::name).join(", ");
            format!("supports: unknown {name:?}; known: {known}").into()
        })
    };
    names.iter().map(parse).collect()
}

fn files(value: &DeValue<'_>) -> Fallible<Vec<File>> {
    let array = value.as_array().ok_or("files is to be a list of tables")?;
    array.iter().map(|item| file(item.get_ref())).collect()
}

fn file(value: &DeValue<'_>) -> Fallible<File> {
    let table = value.as_table().ok_or("files is to be a list of tables")?;
    let (mut path, mut text) = (None, None);
    for (key, value) in table {
        let key = key.get_ref().as_ref();
        match key {
            "path" => path = Some(string(key, value.get_ref())?),
            "text" => text = Some(string(key, value.get_ref())?),
            _ => return Err(format!("files: unknown key {key}").into()),
        }
    }
    let path = path.ok_or("files: `path` is needed")?;
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("files: {path:?} leaves its folder").into());
    }
    Ok(File { path, text: text.ok_or("files: `text` is needed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "other"
        programs = ["other", "/opt/other"]
        arguments = ["-c", "{folder}/other.conf"]
        supports = ["prepared"]
        [[files]]
        path = "other.conf"
        text = "port {listen_port}"
    "#;

    fn refused(text: &str) -> String {
        Adapter::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_adapter_is_read() {
        let adapter = Adapter::parse(TEXT).unwrap();
        assert_eq!(adapter.name, "other");
        assert_eq!(adapter.programs, ["other", "/opt/other"]);
        assert!(adapter.supports(Capability::Prepared) && !adapter.supports(Capability::Tls));
        assert_eq!(adapter.files[0].path, "other.conf");
        assert!(adapter.version_arguments.is_empty());
    }

    #[test]
    fn slips_are_refused_and_named() {
        assert!(refused("nmae = \"x\"").contains("unknown key nmae"));
        assert!(refused("name = \"x\"").contains("needed"));
        assert!(refused(&TEXT.replace("prepared", "Prepared")).contains("known: prepared, tls"));
        assert!(refused(&TEXT.replace("path =", "file =")).contains("unknown key file"));
        assert!(refused(&TEXT.replace("\"other.conf\"", "\"../x\"")).contains("leaves its folder"));
        assert!(refused(&TEXT.replace("name = \"other\"", "name = \"a b\"")).contains("letters"));
        assert!(refused("name = 1").contains("a text"));
    }

    #[test]
    fn placeholders_are_filled_and_unknown_ones_refused() {
        let values = Values(vec![("user", "bench".to_owned()), ("pool_size", "16".to_owned())]);
        assert_eq!(values.fill("a {user}{pool_size} z").unwrap(), "a bench16 z");
        // Braces of a language of its own.
        assert_eq!(values.fill("{ {user} {} {X} {").unwrap(), "{ bench {} {X} {");
        assert!(values.fill("{usre}").unwrap_err().to_string().contains("known: user, pool_size"));
    }

    #[test]
    fn the_adapters_of_this_repository_are_sound() {
        let adapters = read_folder(&crate::adapters_folder()).unwrap();
        let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
        assert!(names.starts_with(&["pgbouncer", "pgbaton-1", "pgbaton-all"]), "{names:?}");
        let values = crate::contestant::values(&crate::contestant::Start::example());
        for adapter in &adapters {
            for text in adapter.files.iter().map(|file| &file.text).chain(&adapter.arguments) {
                values.fill(text).unwrap();
            }
        }
    }
}
