//! Lists: a TOML array of strings, or PgBouncer's comma-separated string.
//!
//! It knows no keys. Order is kept and repeated entries are kept once.

use std::borrow::Cow;

use super::super::value::{Kind, Refusal, Value};

/// A list of names.
pub(in crate::config) struct NameList;

impl Kind<Vec<String>> for NameList {
    fn read(&self, value: &Value) -> Result<Vec<String>, Refusal> {
        items(value).ok_or_else(|| {
            Refusal::expected("an array of non-empty strings, or one string with commas")
        })
    }

    fn show(&self, value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn range(&self) -> Cow<'static, str> {
        "a list of names, may be empty".into()
    }
}

/// The entries of a list, trimmed; `None` if it is none or holds an entry that is no name.
pub(super) fn items(value: &Value) -> Option<Vec<String>> {
    let mut items: Vec<String> = Vec::new();
    let mut add = |item: &str| {
        if !items.iter().any(|known| known == item) {
            items.push(item.to_owned());
        }
    };
    match value {
        Value::Text(text) if !text.contains('\0') => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).for_each(&mut add);
        }
        Value::List(values) => {
            for value in values {
                let Value::Text(text) = value else {
                    return None;
                };
                let item = text.trim();
                if item.is_empty() || item.contains('\0') {
                    return None;
                }
                add(item);
            }
        }
        _ => return None,
    }
    Some(items)
}
