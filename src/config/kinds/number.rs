//! Whole numbers with a stated range, limits where 0 means none, and file modes.
//!
//! Numbers may be quoted. Invariant: a [`Limit::AtMost`] is never zero.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use super::super::value::{Kind, Refusal, Value};

/// A whole number in a closed range.
pub(in crate::config) struct Int {
    pub(in crate::config) min: u32,
    pub(in crate::config) max: u32,
}

impl Int {
    fn read_u32(&self, value: &Value) -> Result<u32, Refusal> {
        let number = match value {
            Value::Integer { value, .. } => u32::try_from(*value).ok(),
            Value::Text(text) => parse_digits(text, 10),
            _ => None,
        };
        number
            .filter(|n| (self.min..=self.max).contains(n))
            .ok_or_else(|| Refusal::expected(format!("a whole number from {}", self.span())))
    }

    fn span(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }
}

/// Plain digits only: `str::parse` would also take a plus sign.
fn parse_digits(text: &str, radix: u32) -> Option<u32> {
    let text = text.trim();
    let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    plain.then(|| u32::from_str_radix(text, radix).ok()).flatten()
}

/// Implements `Kind` of [`Int`] for number types; the range of each key fits its type.
macro_rules! int_kind {
    ($($number:ty),+) => {$(
        impl Kind<$number> for Int {
            fn read(&self, value: &Value) -> Result<$number, Refusal> {
                let number = self.read_u32(value)?;
                Ok(<$number>::try_from(number).expect("BUG: a key's range exceeds its type"))
            }

            fn show(&self, value: &$number) -> String {
                value.to_string()
            }

            fn range(&self) -> Cow<'static, str> {
                self.span().into()
            }
        }
    )+};
}

int_kind!(u16, u32, usize);

/// A cap on a count. PgBouncer writes "no limit" as 0; here it cannot be taken for a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Limit {
    /// No cap; 0 in the file.
    #[default]
    Unlimited,
    /// At most this many.
    AtMost(NonZeroUsize),
}

impl Limit {
    /// The cap, `None` when there is none. Never `Some(0)`.
    pub fn get(self) -> Option<usize> {
        match self {
            Self::Unlimited => None,
            Self::AtMost(max) => Some(max.get()),
        }
    }

    /// The cap as a plain count, [`usize::MAX`] when there is none.
    pub fn or_max(self) -> usize {
        self.get().unwrap_or(usize::MAX)
    }
}

impl From<usize> for Limit {
    fn from(count: usize) -> Self {
        NonZeroUsize::new(count).map_or(Self::Unlimited, Self::AtMost)
    }
}

impl fmt::Display for Limit {
    /// As in the file: 0 for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get().unwrap_or(0))
    }
}

/// A [`Limit`] of at most this many.
pub(in crate::config) struct LimitUpTo(pub(in crate::config) u32);

impl Kind<Limit> for LimitUpTo {
    fn read(&self, value: &Value) -> Result<Limit, Refusal> {
        let count: usize = Int { min: 0, max: self.0 }.read(value)?;
        Ok(Limit::from(count))
    }

    fn show(&self, value: &Limit) -> String {
        value.to_string()
    }

    fn range(&self) -> Cow<'static, str> {
        format!("0 (no limit) to {}", self.0).into()
    }
}

/// The permission bits of a socket file. `"0777"`, `0o777` and `777` all mean the same, because
/// nobody writes a mode in decimal.
pub(in crate::config) struct FileMode;

impl Kind<u32> for FileMode {
    fn read(&self, value: &Value) -> Result<u32, Refusal> {
        let mode = match value {
            Value::Integer { value, decimal: true } => parse_digits(&value.to_string(), 8),
            Value::Integer { value, decimal: false } => u32::try_from(*value).ok(),
            Value::Text(text) => parse_digits(text.trim().trim_start_matches("0o"), 8),
            _ => None,
        };
        mode.filter(|m| *m <= 0o777)
            .ok_or_else(|| Refusal::expected("an octal file mode from \"0000\" to \"0777\""))
    }

    fn show(&self, value: &u32) -> String {
        format!("{value:04o}")
    }

    fn range(&self) -> Cow<'static, str> {
        "0000 to 0777, octal".into()
    }
}
