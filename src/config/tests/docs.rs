//! config.toml, docs/CONFIG.md and the table of keys say the same.

use super::super::keys::keys_of;
use super::super::pgbouncer::{Answer, settings};
use super::super::{KeyDefault, KeyInfo, Section, keys};
use super::{config, loaded};

const CONFIG_TOML: &str = include_str!("../../../config.toml");
const CONFIG_MD: &str = include_str!("../../../docs/CONFIG.md");

/// config.toml with every setting live. Prose stands behind "# ", settings behind "#" alone.
fn uncommented() -> String {
    let live = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    CONFIG_TOML.lines().map(|line| live(line) + "\n").collect()
}

/// A key's row in docs/CONFIG.md.
pub(super) fn row(key: &KeyInfo) -> String {
    let default = match key.default {
        KeyDefault::Value("") => "empty".to_owned(),
        KeyDefault::Value(text) => format!("`{text}`"),
        KeyDefault::Absent(text) => text.to_owned(),
    };
    let reload = if key.reloadable { "yes" } else { "restart" };
    format!("| `{}` | {default} | {} | {reload} | {} |", key.name, key.range, key.doc)
}

/// The lines of docs/CONFIG.md under a section's heading.
fn chapter(section: Section) -> Vec<&'static str> {
    let heading = format!("## `{}`", section.header());
    CONFIG_MD
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .collect()
}

#[test]
fn the_manual_has_exactly_the_rows_of_the_key_table() {
    for section in Section::ALL {
        let rows: Vec<_> =
            chapter(section).into_iter().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<_> = keys_of(section).map(row).collect();
        assert_eq!(rows, expected);
    }
}

#[test]
fn the_sample_file_as_it_stands_is_all_defaults() {
    assert_eq!(config(CONFIG_TOML), config(""));
}

#[test]
fn the_sample_file_with_every_key_live_parses_and_its_defaults_are_the_defaults() {
    let loaded = loaded(&uncommented());
    assert_eq!(loaded.config.general, config("").general);
    assert_eq!(loaded.warnings, []);
    let databases = &loaded.config.databases;
    let given = |settings: Vec<(&str, String)>| {
        settings.into_iter().filter(|(_, value)| !value.is_empty()).count()
    };
    let app = databases.named["app"].settings();
    assert_eq!(given(app), keys_of(Section::Databases).count());
    let user = loaded.config.users.named["app"].settings();
    assert_eq!(given(user), keys_of(Section::Users).count());
    assert!(databases.fallback.is_some() && databases.named.contains_key("reports"));
}

#[test]
fn the_sample_file_explains_every_key_in_order() {
    let mut rest = CONFIG_TOML.lines();
    for key in keys() {
        let mut prose: Vec<&str> = Vec::new();
        let setting = format!("#{} = ", key.name);
        loop {
            let line = rest.next().unwrap_or_else(|| panic!("{} is missing", key.name));
            match line.strip_prefix("# ") {
                Some(text) => prose.push(text),
                None if line.starts_with(&setting) => break,
                None => prose.clear(),
            }
        }
        let reload = if key.reloadable { "Reload." } else { "Restart." };
        let absent = match key.default {
            KeyDefault::Value(_) => String::new(),
            KeyDefault::Absent(text) => format!(" Left out: {text}."),
        };
        let expected = format!("{} Values: {}. {reload}{absent}", key.doc, key.range);
        assert_eq!(prose.join(" "), expected, "{}", key.name);
    }
}

#[test]
fn every_key_is_documented_once_and_well_formed() {
    for section in Section::ALL {
        let mut names: Vec<_> = keys_of(section).map(|key| key.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
    for key in keys() {
        assert!(key.doc.ends_with('.') && key.doc.len() <= 140, "{}", key.name);
        assert!(!key.doc.contains("  ") && !key.range.contains('|'), "{}", key.name);
        assert_eq!(key.secret, key.name == "password");
    }
}

const PGBOUNCER_MD: &str = include_str!("../../../docs/PGBOUNCER.md");

/// The row of a setting of PgBouncer's in docs/PGBOUNCER.md.
pub(super) fn answer_row(setting: &super::super::pgbouncer::Setting) -> String {
    let section = match setting.section {
        Section::General => "[pgbouncer]",
        Section::Databases => "[databases]",
        Section::Users => "[users]",
    };
    let answer = match setting.answer {
        Answer::Same => "same".to_owned(),
        Answer::Mapped("", how) => format!("mapped. {how}"),
        Answer::Mapped(to, how) => format!("mapped to `{to}`. {how}"),
        Answer::Refused(why) => format!("refused. {why}"),
    };
    format!("| {section} | `{}` | {answer} |", setting.name)
}

#[test]
fn every_setting_of_pgbouncer_has_an_answer_and_the_manual_says_it() {
    let rows: Vec<_> = PGBOUNCER_MD.lines().filter(|line| line.starts_with("| [")).collect();
    let expected: Vec<_> = settings().map(|setting| answer_row(&setting)).collect();
    assert_eq!(rows, expected);
    println!("{}", expected.join("\n"));
    let mut counts = [0; 3];
    for setting in settings() {
        match setting.answer {
            Answer::Same => counts[0] += 1,
            Answer::Mapped(to, how) => {
                counts[1] += 1;
                assert!(to.is_empty() || keys_of(setting.section).any(|key| key.name == to));
                assert!(how.ends_with('.'), "{}", setting.name);
            }
            Answer::Refused(why) => {
                counts[2] += 1;
                assert!(why.ends_with('.') && why.len() > 20, "{} has no reason", setting.name);
            }
        }
    }
    // 1.25's documentation has so many in all.
    assert_eq!(counts.iter().sum::<usize>(), 101 + 22 + 10);
    println!("same, mapped, refused: {counts:?}");
}

#[test]
fn the_manual_names_every_variable() {
    use super::super::env::{DATABASE_URL, GENERAL_VARIABLES};
    for (variable, key) in GENERAL_VARIABLES {
        assert!(CONFIG_MD.contains(&format!("| `{variable}` | `{key}` |")), "{variable}");
        assert!(CONFIG_TOML.contains(variable), "{variable}");
    }
    assert!(CONFIG_MD.contains(DATABASE_URL) && CONFIG_TOML.contains(DATABASE_URL));
}

#[test]
fn the_examples_of_the_manual_are_good() {
    let mut blocks = CONFIG_MD.split("```toml\n").skip(1).peekable();
    assert!(blocks.peek().is_some());
    for block in blocks {
        let text = block.split("```").next().unwrap_or_default();
        assert_eq!(loaded(text).warnings, [], "{text}");
    }
}

#[test]
fn the_errors_shown_in_the_manual_are_those_given() {
    let bad = "[databases.x]\nhost = \"::1\"\n[general]\ndefault_pool_sise = 3\n\
               pool_mode = \"transacton\"\npkt_buf = 4096\n\n[databases.app]\nport = 0\n";
    let env = |name: &str| (name == "PGBATON_LISTEN_PORT").then(|| "http".to_owned());
    let error = super::super::parse(bad, "config.toml", &env).expect_err("mistakes");
    assert!(CONFIG_MD.contains(&format!("```text\n{error}\n```")), "{error}");
}
