//! The console's commands, from their text.

use crate::protocol::error::ErrorMessage;
use crate::protocol::sqlstate::SqlState;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but space and semicolons.
    Empty,
    /// SHOW.
    Show(Show),
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Clients,
    Help,
    Pools,
    Servers,
    Version,
}

/// The names of what can be shown, as SHOW HELP lists them.
pub(super) const SHOWN: [(&str, Show, &str); 5] = [
    ("CLIENTS", Show::Clients, "clients, their state and their server"),
    ("HELP", Show::Help, "this list"),
    ("POOLS", Show::Pools, "pools, their clients and servers by state"),
    ("SERVERS", Show::Servers, "server connections and their client"),
    ("VERSION", Show::Version, "the version of pgbaton"),
];

impl Command {
    /// Reads one command; a closing semicolon may follow it.
    pub(super) fn parse(text: &str) -> Result<Self, ErrorMessage> {
        let text = text.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace());
        let mut words = text.split_whitespace();
        let Some(verb) = words.next() else {
            return Ok(Self::Empty);
        };
        if !verb.eq_ignore_ascii_case("SHOW") {
            return Err(invalid(text));
        }
        let (noun, rest) = (words.next().unwrap_or("HELP"), words.next());
        let found = SHOWN.iter().find(|(name, ..)| name.eq_ignore_ascii_case(noun));
        match (found, rest) {
            (Some((_, what, _)), None) => Ok(Self::Show(*what)),
            _ => Err(invalid(text)),
        }
    }
}

fn invalid(text: &str) -> ErrorMessage {
    let shown: String = text.chars().take(60).collect();
    ErrorMessage::error(
        SqlState::SYNTAX_ERROR,
        format!("invalid command '{shown}', use SHOW HELP;"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_and_spacing() {
        for text in ["show pools", "SHOW POOLS;", "  Show\n pools ; ;"] {
            assert_eq!(Command::parse(text), Ok(Command::Show(Show::Pools)));
        }
        assert_eq!(Command::parse(" ; "), Ok(Command::Empty));
        assert_eq!(Command::parse("SHOW"), Ok(Command::Show(Show::Help)));
    }

    #[test]
    fn what_is_no_command_is_refused_with_its_text() {
        for text in ["SHOW ELEPHANTS", "SHOW POOLS NOW", "SELECT 1", "\u{e9}"] {
            let error = Command::parse(text).unwrap_err();
            assert_eq!(error.message, format!("invalid command '{text}', use SHOW HELP;"));
        }
    }
}
