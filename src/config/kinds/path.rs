//! Paths of files. Nothing is opened here.

use std::borrow::Cow;
use std::path::PathBuf;

use super::super::value::{Kind, Refusal, Value};

/// The path of a file; empty text is `None`.
pub(in crate::config) struct FilePath;

impl Kind<Option<PathBuf>> for FilePath {
    fn read(&self, value: &Value) -> Result<Option<PathBuf>, Refusal> {
        match value {
            Value::Text(text) if text.is_empty() => Ok(None),
            Value::Text(text) if !text.contains('\0') => Ok(Some(PathBuf::from(text.as_str()))),
            _ => Err(Refusal::expected("the path of a file")),
        }
    }

    fn show(&self, value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }

    fn range(&self) -> Cow<'static, str> {
        "the path of a file; empty for none".into()
    }
}
