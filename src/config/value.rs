//! A value as it was written, before anybody knows what it should mean.
//!
//! TOML, connection strings, environment variables and built-in defaults all arrive here, so
//! each kind of setting has one reader and "6432" is as good as 6432. It must not know keys.
//! Text may be a secret: it is wiped on drop and `Value` has no `Debug` on purpose.

use std::borrow::Cow;

use zeroize::Zeroizing;

/// Longest piece of a wrong value that an error message repeats, in characters.
const FOUND_CHARS_MAX: usize = 60;

/// One value, from any source.
#[derive(Clone)]
pub(super) enum Value {
    /// A TOML string, or any value of an environment variable or connection string.
    Text(Zeroizing<String>),
    /// A whole number; `decimal` tells 777 from 0o777, which matters for file modes.
    Integer { value: i64, decimal: bool },
    /// A number with a fraction.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// An array.
    List(Vec<Value>),
    /// What no setting can be; the text names it for error messages.
    Other(&'static str),
}

impl Value {
    /// Wraps text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(Zeroizing::new(text.into()))
    }

    /// What was written, for an error message: text in quotes and cut short.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) if text.chars().count() > FOUND_CHARS_MAX => {
                let head: String = text.chars().take(FOUND_CHARS_MAX).collect();
                format!("{head:?} and more")
            }
            Self::Text(text) => format!("{:?}", text.as_str()),
            Self::Integer { value, .. } => value.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::List(_) | Self::Other(_) => self.describe_type().to_owned(),
        }
    }

    /// What was written without showing it: for keys that hold secrets.
    pub(super) fn describe_type(&self) -> &'static str {
        match self {
            Self::Text(text) if text.is_empty() => "an empty string",
            Self::Text(_) => "a string that does not fit",
            Self::Integer { .. } | Self::Float(_) => "a number",
            Self::Bool(_) => "a boolean",
            Self::List(_) => "an array",
            Self::Other(name) => name,
        }
    }
}

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is not what the key takes; the text completes "expected ...".
    Expected(Cow<'static, str>),
    /// It is a word of PgBouncer's that means something pgbaton cannot do yet.
    Unsupported,
    /// It is well-formed and wrong for a reason worth a sentence of its own.
    Because(&'static str),
}

impl Refusal {
    /// Completes "expected ...".
    pub(super) fn expected(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Expected(what.into())
    }
}

/// How one kind of setting is read and printed.
///
/// Invariant: `read(text(show(v))) == v` for every `v` that `read` can return, except secrets.
pub(super) trait Kind<T> {
    /// Reads a value, checking its range.
    fn read(&self, value: &Value) -> Result<T, Refusal>;

    /// Prints a value in its shortest canonical form, as `SHOW CONFIG` and diffs show it.
    fn show(&self, value: &T) -> String;

    /// The accepted values, for people.
    fn range(&self) -> Cow<'static, str>;

    /// Whether the value must never be shown.
    fn is_secret(&self) -> bool {
        false
    }
}

/// A setting that may be left out, which is then `None`.
pub(super) struct Maybe<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for Maybe<K> {
    fn read(&self, value: &Value) -> Result<Option<T>, Refusal> {
        self.0.read(value).map(Some)
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(String::new, |v| self.0.show(v))
    }

    fn range(&self) -> Cow<'static, str> {
        self.0.range()
    }

    fn is_secret(&self) -> bool {
        self.0.is_secret()
    }
}

/// A setting whose zero means "off", "no limit" or "the system's choice": zero becomes `None`.
pub(super) struct OffAtZero<K>(pub(super) K);

impl<T: Default + PartialEq, K: Kind<T>> Kind<Option<T>> for OffAtZero<K> {
    fn read(&self, value: &Value) -> Result<Option<T>, Refusal> {
        let read = self.0.read(value)?;
        Ok((read != T::default()).then_some(read))
    }

    fn show(&self, value: &Option<T>) -> String {
        value.as_ref().map_or_else(|| "0".to_owned(), |v| self.0.show(v))
    }

    fn range(&self) -> Cow<'static, str> {
        self.0.range()
    }
}

/// Free text, such as a query. NUL is refused: it would end a string in the protocol.
pub(super) struct AnyText;

impl Kind<String> for AnyText {
    fn read(&self, value: &Value) -> Result<String, Refusal> {
        match value {
            Value::Text(text) if !text.contains('\0') => Ok(text.as_str().to_owned()),
            _ => Err(Refusal::expected("a string without NUL")),
        }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn range(&self) -> Cow<'static, str> {
        "any text".into()
    }
}

/// The name of a database or role: neither empty nor holding NUL.
pub(super) struct Name;

impl Kind<String> for Name {
    fn read(&self, value: &Value) -> Result<String, Refusal> {
        match value {
            Value::Text(text) if !text.is_empty() && !text.contains('\0') => {
                Ok(text.as_str().to_owned())
            }
            _ => Err(Refusal::expected("a non-empty string without NUL")),
        }
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }

    fn range(&self) -> Cow<'static, str> {
        "a non-empty name".into()
    }
}

/// A [`Name`]; empty text is `None`.
pub(super) struct OptionalName;

impl Kind<Option<String>> for OptionalName {
    fn read(&self, value: &Value) -> Result<Option<String>, Refusal> {
        match value {
            Value::Text(text) if text.is_empty() => Ok(None),
            _ => Name.read(value).map(Some),
        }
    }

    fn show(&self, value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }

    fn range(&self) -> Cow<'static, str> {
        "a name; empty for none".into()
    }
}
