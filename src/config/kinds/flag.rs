//! Booleans as TOML, PgBouncer and people write them. It knows no keys.

use std::borrow::Cow;

use super::super::value::{Kind, Refusal, Value};

/// Every accepted word, in pairs of the same meaning.
const WORDS: [(&str, bool); 8] = [
    ("1", true),
    ("0", false),
    ("true", true),
    ("false", false),
    ("yes", true),
    ("no", false),
    ("on", true),
    ("off", false),
];

/// On or off. Printed as 1 or 0, PgBouncer's way.
pub(in crate::config) struct Flag;

impl Kind<bool> for Flag {
    fn read(&self, value: &Value) -> Result<bool, Refusal> {
        let flag = match value {
            Value::Bool(flag) => Some(*flag),
            Value::Integer { value: 0, .. } => Some(false),
            Value::Integer { value: 1, .. } => Some(true),
            Value::Text(text) => {
                let text = text.trim();
                WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, f)| *f)
            }
            _ => None,
        };
        flag.ok_or_else(|| Refusal::expected("true or false (also 1, 0, yes, no, on, off)"))
    }

    fn show(&self, value: &bool) -> String {
        u8::from(*value).to_string()
    }

    fn range(&self) -> Cow<'static, str> {
        "0 or 1".into()
    }
}
