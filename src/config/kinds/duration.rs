//! Durations: "250ms", "5s", "2min", "1h", "1d", or a bare number in the key's own unit.
//!
//! It knows no keys. Invariant: a duration that is not zero is at least a millisecond, so that
//! rounding can never turn a short limit into "off"; and none exceeds [`DURATION_MAX`], so that
//! adding one to an instant cannot overflow.

use std::borrow::Cow;
use std::time::Duration;

use super::super::value::{Kind, Refusal, Value};

/// Longest duration that any key takes: 365 days.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Shortest duration other than zero.
const DURATION_MIN: Duration = Duration::from_millis(1);

/// Suffixes and their length in seconds. Longer ones first where one ends another.
const SUFFIXES: [(&str, f64); 5] =
    [("ms", 0.001), ("min", 60.0), ("s", 1.0), ("h", 3600.0), ("d", 86_400.0)];

/// A duration; a number without suffix counts `bare` units.
pub(in crate::config) struct Time {
    /// What a bare number counts.
    pub(in crate::config) bare: Bare,
    /// Largest value accepted.
    pub(in crate::config) max: Duration,
    /// Whether only whole seconds make sense, as for the kernel's keepalive settings.
    pub(in crate::config) whole_seconds: bool,
}

/// The unit of a number without a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Bare {
    /// Seconds, as nearly everywhere.
    Seconds,
    /// Milliseconds, where PgBouncer (and the kernel) count them.
    Millis,
}

impl Bare {
    fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Millis => 0.001,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Millis => "milliseconds",
        }
    }
}

impl Time {
    /// A time in seconds of any length and precision.
    pub(in crate::config) const SECONDS: Self =
        Self { bare: Bare::Seconds, max: DURATION_MAX, whole_seconds: false };

    fn parse(&self, value: &Value) -> Option<Duration> {
        let seconds = match value {
            Value::Integer { value, .. } => *value as f64 * self.bare.seconds(),
            Value::Float(number) => number * self.bare.seconds(),
            Value::Text(text) => parse_text(text.trim(), self.bare)?,
            _ => return None,
        };
        let exact = Duration::try_from_secs_f64(seconds).ok()?;
        let whole = exact.subsec_nanos() == 0 || !self.whole_seconds;
        let tiny = !exact.is_zero() && exact < DURATION_MIN;
        // Binary fractions are rounded to microseconds: 0.1 s is 100 ms and nothing more.
        let micros = u64::try_from((exact.as_nanos() + 500) / 1000).ok()?;
        (whole && !tiny && exact <= self.max).then(|| Duration::from_micros(micros))
    }
}

impl Kind<Duration> for Time {
    fn read(&self, value: &Value) -> Result<Duration, Refusal> {
        self.parse(value).ok_or_else(|| {
            let whole = if self.whole_seconds { " in whole seconds" } else { "" };
            Refusal::expected(format!(
                "a time{whole} such as \"5s\", \"2min\" or a number of {}, at most {}",
                self.bare.plural(),
                compact(self.max),
            ))
        })
    }

    fn show(&self, value: &Duration) -> String {
        let unit_nanos = match self.bare {
            Bare::Seconds => 1_000_000_000,
            Bare::Millis => 1_000_000,
        };
        decimal(value.as_nanos(), unit_nanos)
    }

    fn range(&self) -> Cow<'static, str> {
        let whole = if self.whole_seconds { "whole " } else { "" };
        format!("0 to {}, in {whole}{}", compact(self.max), self.bare.plural()).into()
    }
}

fn parse_text(text: &str, bare: Bare) -> Option<f64> {
    let (number, unit) = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), *unit)))
        .unwrap_or((text, bare.seconds()));
    // Digits and one point only: Rust would also read "inf", "nan", "1e9" and "+1".
    let plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: f64 = plain.then(|| number.parse().ok()).flatten()?;
    Some(number * unit)
}

/// `nanos / unit` without trailing zeros.
fn decimal(nanos: u128, unit: u128) -> String {
    let (whole, rest) = (nanos / unit, nanos % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{rest:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// The longest suffix that needs no fraction.
fn compact(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        format!("{}ms", duration.as_millis())
    } else if seconds > 0 && seconds.is_multiple_of(86_400) {
        format!("{}d", seconds / 86_400)
    } else {
        format!("{seconds}s")
    }
}
