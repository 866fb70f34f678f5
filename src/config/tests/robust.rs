//! No text, however odd, makes the reader panic or a diagnostic misprint.

use proptest::prelude::*;

use super::super::keys::keys_of;
use super::super::{Place, Section, diff, keys, parse};
use super::no_env;

/// Values that sit on the edges of every kind of setting.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>()
            .prop_filter("TOML has no such float", |f| f.is_finite())
            .prop_map(|f| format!("{f:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        ".{0,20}".prop_map(|s| format!("{s:?}")),
        "[0-9.]{1,8}(ms|s|min|h|d|)".prop_map(|s| format!("{s:?}")),
        "[a-z ='*,:/@\\[\\]]{0,40}".prop_map(|s| format!("{s:?}")),
        "(host|port|user|password|dbname|pool_mode)='?[a-z0-9 ]{0,9}'?"
            .prop_map(|s| format!("{s:?}")),
        Just("[]".to_owned()),
        Just("[\"a\", 1]".to_owned()),
        Just("{ a = 1 }".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
    ]
}

/// A file whose keys are known and whose values are anything.
fn file() -> impl Strategy<Value = String> {
    let line = (0..keys().len(), value());
    proptest::collection::vec(line, 0..12).prop_map(|lines| {
        let mut text = String::new();
        for section in Section::ALL {
            text.push_str(&section.header().replace("NAME", "x"));
            text.push('\n');
            for (index, value) in &lines {
                let key = &keys()[*index];
                if key.section == section && !text.contains(&format!("\n{} = ", key.name)) {
                    text.push_str(&format!("{} = {value}\n", key.name));
                }
            }
        }
        text
    })
}

/// Checks what must hold of any outcome.
fn check(text: &str, url: &str) {
    let env = |name: &str| (name == "PGBATON_DATABASE_URL").then(|| url.to_owned());
    match parse(text, "config.toml", &env) {
        Ok(loaded) => {
            assert!(diff(&loaded.config, &loaded.config).is_empty());
            for name in loaded.config.databases.named.keys() {
                assert!(loaded.config.pool_settings(name, "user").is_some());
            }
        }
        Err(error) => {
            assert!(!error.diagnostics.is_empty());
            let lines = text.split('\n').count();
            for diagnostic in &error.diagnostics {
                assert!(!diagnostic.to_string().contains('\n'), "{diagnostic}");
                if let Place::At { line, column, .. } = &diagnostic.place {
                    assert!((1..=lines).contains(line) && *column >= 1, "{diagnostic}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text(text in "\\PC{0,200}", url in "\\PC{0,60}") {
        check(&text, &url);
    }

    #[test]
    fn any_lines(text in "([a-z.\"\\[\\]*=']|\\s|\\PC){0,200}") {
        check(&text, "");
    }

    #[test]
    fn any_url(url in "postgres(ql)?://[a-z:@/%0-9\\[\\]?#=*]{0,40}") {
        check("", &url);
    }

    #[test]
    fn known_keys_with_any_value(text in file()) {
        check(&text, "");
    }

    #[test]
    fn any_connection_string(string in "[a-z_=' ]{0,60}") {
        check(&format!("[databases]\nx = {string:?}\n"), "");
    }

    #[test]
    fn what_is_printed_reads_back_as_itself(text in file()) {
        if let Ok(first) = parse(&text, "config.toml", &no_env) {
            let mut again = String::from("[general]\n");
            for (key, value) in first.config.general.settings() {
                let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                let plain = escaped.chars().all(|c| !c.is_control());
                if plain {
                    again.push_str(&format!("{key} = \"{escaped}\"\n"));
                } else {
                    return Ok(());
                }
            }
            let second = parse(&again, "config.toml", &no_env);
            let second = second.unwrap_or_else(|error| panic!("{error}\n{again}"));
            prop_assert_eq!(&first.config.general, &second.config.general);
        }
    }

    #[test]
    fn any_edit_of_a_key_away_is_suggested(index in 0..keys().len(), at in 0usize..40) {
        let key = &keys()[index];
        prop_assume!(key.name.len() >= 6);
        let mut name = key.name.to_owned();
        name.insert(at % (name.len() + 1), 'q');
        let text = format!("{}\n{name} = 1\n", key.section.header().replace("NAME", "x"));
        let error = parse(&text, "config.toml", &no_env).expect_err("an unknown key").to_string();
        let suggested = keys_of(key.section)
            .any(|known| error.ends_with(&format!("did you mean {:?}?", known.name)));
        prop_assert!(suggested, "{}", error);
    }
}

#[test]
fn deep_nesting_is_refused_and_not_followed() {
    let deep = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    check(&deep, "");
    let dotted = format!("[{}x]", "a.".repeat(10_000));
    check(&dotted, "");
}

#[test]
fn many_entries_are_read_in_one_pass() {
    let entry = |n: usize| format!("[users.u{n}]\npassword = \"p{n}\"\npool_size = {n}\n");
    let text: String = (0..20_000).map(entry).collect();
    let loaded = parse(&text, "config.toml", &no_env).expect("good");
    assert_eq!(loaded.config.users.named.len(), 20_000);
    let bad: String = (0..20_000).map(|n| format!("[users.u{n}]\npool_size = -1\n")).collect();
    let error = parse(&bad, "config.toml", &no_env).expect_err("bad");
    assert_eq!(error.diagnostics.len(), 20_000);
}
