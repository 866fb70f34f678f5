//! Writes what the key table says into config.toml and docs/CONFIG.md, when asked to:
//! `PGBATON_BLESS=1 cargo test --lib config::tests::bless`. Prose that explains no key, and the order
//! of chapters, stay; a key that is new gets its place behind the one before it.

use std::fs;
use std::path::Path;

use super::super::keys::keys_of;
use super::super::{KeyDefault, KeyInfo, Section, keys};
use super::docs::{answer_row, row};

/// Columns that prose in config.toml takes.
const WIDTH: usize = 100;

#[test]
fn the_files_follow_the_table_when_asked_to() {
    if std::env::var_os("PGBATON_BLESS").is_none() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, blessed) in [
        ("docs/CONFIG.md", blessed_manual as fn(&str) -> String),
        ("config.toml", blessed_sample),
        ("docs/PGBOUNCER.md", blessed_answers),
    ] {
        let path = root.join(file);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, blessed(&text)).unwrap();
    }
}

fn blessed_manual(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut section = None;
    let mut is_done = false;
    for line in text.lines() {
        if line.starts_with("## ") {
            section = Section::ALL
                .into_iter()
                .find(|section| line == format!("## `{}`", section.header()));
            is_done = false;
        }
        match section {
            Some(section) if line.starts_with("| `") => {
                if !std::mem::replace(&mut is_done, true) {
                    lines.extend(keys_of(section).map(row));
                }
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

fn blessed_answers(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if !line.starts_with("| [") {
            lines.push(line.to_owned());
        }
        if line.starts_with("| ---") {
            lines.extend(super::super::pgbouncer::settings().map(|s| answer_row(&s)));
        }
    }
    lines.join("\n") + "\n"
}

fn blessed_sample(text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut at = 0;
    for key in keys() {
        let is_setting = |line: &String| line.starts_with(&format!("#{} = ", key.name));
        let found = lines[at..].iter().position(is_setting).map(|found| at + found);
        let place = match found {
            Some(setting) => {
                let prose = lines[..setting].iter().rev();
                let prose = prose.take_while(|line| line.starts_with("# ")).count();
                lines.splice(setting - prose..setting, explained(key));
                lines[at..].iter().position(is_setting).map(|found| at + found).unwrap()
            }
            None => {
                let mut block = vec![String::new()];
                block.extend(explained(key));
                block.push(format!("#{} = {}", key.name, shown(key)));
                let last = at + block.len() - 1;
                lines.splice(at..at, block);
                last
            }
        };
        at = place + 1;
    }
    lines.join("\n") + "\n"
}

fn explained(key: &KeyInfo) -> Vec<String> {
    let reload = if key.reloadable { "Reload." } else { "Restart." };
    let absent = match key.default {
        KeyDefault::Value(_) => String::new(),
        KeyDefault::Absent(text) => format!(" Left out: {text}."),
    };
    let mut lines = wrapped(key.doc);
    lines.extend(wrapped(&format!("Values: {}. {reload}{absent}", key.range)));
    lines
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec!["#".to_owned()];
    for word in text.split(' ') {
        let last = lines.last_mut().unwrap();
        if last.len() + 1 + word.len() > WIDTH {
            lines.push(format!("# {word}"));
        } else {
            last.push(' ');
            last.push_str(word);
        }
    }
    lines
}

fn shown(key: &KeyInfo) -> String {
    match key.default {
        KeyDefault::Value(text) if text.parse::<f64>().is_ok() => text.to_owned(),
        KeyDefault::Value("") if key.range.contains("list of names") => "[]".to_owned(),
        KeyDefault::Value(text) => format!("{text:?}"),
        KeyDefault::Absent(_) => "\"AN EXAMPLE\"".to_owned(),
    }
}
