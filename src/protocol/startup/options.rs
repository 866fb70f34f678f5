//! The `options` startup parameter: a command line in which only settings are allowed.
//!
//! Words are parted by white space, and a backslash takes the next character literally, as in
//! Postgres. It knows two forms, `-c name=value` and `--name=value`, and refuses all others, since
//! a pooled server cannot be given a switch after its start.

use super::{Parameter, StartupError};

/// The settings in `raw`, in order.
///
/// # Errors
///
/// [`StartupError::Option`] with the first word that is not a setting.
pub(crate) fn parse(raw: &[u8]) -> Result<Vec<Parameter>, StartupError> {
    let mut words = Words { rest: raw };
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.as_slice() {
            b"-c" => words.next().and_then(|word| split_setting(&word)),
            [b'-', b'c', setting @ ..] => split_setting(setting),
            [b'-', b'-', setting @ ..] => split_setting(setting),
            _ => None,
        };
        settings.push(setting.ok_or(StartupError::Option(word.into()))?);
    }
    Ok(settings)
}

/// `name=value`; in the name a dash stands for an underscore, as on the command line of Postgres.
fn split_setting(setting: &[u8]) -> Option<Parameter> {
    let (name, value) = setting.split_at_checked(memchr::memchr(b'=', setting)?)?;
    if name.is_empty() {
        return None;
    }
    let name = name.iter().map(|&byte| if byte == b'-' { b'_' } else { byte }).collect();
    Some((name, value.get(1..)?.into()))
}

struct Words<'a> {
    rest: &'a [u8],
}

impl Iterator for Words<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        while let [first, rest @ ..] = self.rest
            && is_space(*first)
        {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let mut word = Vec::new();
        let mut escaped = false;
        while let [byte, rest @ ..] = self.rest {
            if is_space(*byte) && !escaped {
                break;
            }
            escaped = *byte == b'\\' && !escaped;
            if !escaped {
                word.push(*byte);
            }
            self.rest = rest;
        }
        Some(word)
    }
}

/// White space in the C locale, vertical tab included.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
