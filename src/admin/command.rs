//! The console's commands, from their text, and who may give them.
//!
//! Pure. Words are read in any case; names of databases as they are written, in double quotes if
//! they hold spaces or semicolons.

use crate::client::orders::Shutdown;
use crate::protocol::error::ErrorMessage;
use crate::protocol::sqlstate::SqlState;

/// A database's name, or all of them.
pub(super) type Target = Option<String>;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing but space and semicolons.
    Empty,
    /// SHOW.
    Show(Show),
    /// SHOW of a setting that drivers ask for: its name and value.
    ShowOfDriver(&'static str, &'static str),
    /// SET of such a setting: accepted, of no effect.
    SetOfDriver,
    Set {
        key: String,
        value: String,
    },
    Reload,
    Pause(Target),
    Resume(Target),
    Disable(String),
    Enable(String),
    Reconnect(Target),
    Kill(Target),
    KillClient(u64),
    WaitClose(Target),
    Shutdown(Shutdown),
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Clients,
    Config,
    Databases,
    Help,
    Lists,
    Pools,
    Servers,
    State,
    Users,
    Version,
}

/// The names of what can be shown, as SHOW HELP lists them.
pub(super) const SHOWN: [(&str, Show, &str); 10] = [
    ("CLIENTS", Show::Clients, "clients, their state and their server"),
    ("CONFIG", Show::Config, "settings in force, their defaults, and whether SET can change them"),
    ("DATABASES", Show::Databases, "databases, where they lead, their limits and use"),
    ("HELP", Show::Help, "this list"),
    ("LISTS", Show::Lists, "how much there is of everything"),
    ("POOLS", Show::Pools, "pools, their clients and servers by state"),
    ("SERVERS", Show::Servers, "server connections and their client"),
    ("STATE", Show::State, "whether all is paused"),
    ("USERS", Show::Users, "users, their limits and use"),
    ("VERSION", Show::Version, "the version of pgbaton"),
];

/// The other commands, as SHOW HELP lists them. All of them take an admin.
pub(super) const COMMANDS: [(&str, &str); 13] = [
    ("PAUSE [database]", "hold clients; returns when all servers are closed"),
    ("RESUME [database]", "let them go on"),
    ("DISABLE database", "take no new clients"),
    ("ENABLE database", "take them again"),
    ("RECONNECT [database]", "close each server when it is next free"),
    ("WAIT_CLOSE [database]", "returns when all servers that RECONNECT meant are closed"),
    ("KILL [database]", "drop clients and servers now, and pause"),
    ("KILL_CLIENT id", "drop one client, by its id in SHOW CLIENTS"),
    ("SET key = value", "change a setting until the next RELOAD"),
    ("RELOAD", "read the configuration file again"),
    ("SHUTDOWN", "stop now"),
    ("SHUTDOWN WAIT_FOR_SERVERS", "hold clients, and stop when all servers are closed"),
    ("SHUTDOWN WAIT_FOR_CLIENTS", "take no new clients, and stop when all have left"),
];

/// Settings of PostgreSQL that drivers set or ask for when they connect, whatever they talk to.
const OF_DRIVERS: [(&str, &str); 9] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("extra_float_digits", "1"),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
];

impl Command {
    /// Reads one command; a closing semicolon may follow it.
    pub(super) fn parse(text: &str) -> Result<Self, ErrorMessage> {
        let text = text.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace());
        let (verb, rest) = text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()));
        let invalid = || invalid(text);
        if verb.is_empty() {
            return Ok(Self::Empty);
        }
        let verb = verb.to_ascii_uppercase();
        if verb == "SET" {
            return set(rest).ok_or_else(invalid);
        }
        let arguments = words(rest).ok_or_else(invalid)?;
        let one = || match &arguments[..] {
            [] => Ok(None),
            [name] => Ok(Some(name.clone())),
            _ => Err(invalid()),
        };
        let database = || {
            let missing = || ErrorMessage::error(SqlState::SYNTAX_ERROR, "a database is required");
            one()?.ok_or_else(missing)
        };
        Ok(match verb.as_str() {
            "SHOW" => return show(&arguments).ok_or_else(invalid),
            "PAUSE" => Self::Pause(one()?),
            "RESUME" => Self::Resume(one()?),
            "DISABLE" => Self::Disable(database()?),
            "ENABLE" => Self::Enable(database()?),
            "RECONNECT" => Self::Reconnect(one()?),
            "KILL" => Self::Kill(one()?),
            "WAIT_CLOSE" => Self::WaitClose(one()?),
            "KILL_CLIENT" => {
                let id = one()?.and_then(|id| id.parse().ok());
                Self::KillClient(id.ok_or_else(|| {
                    let needed = "a client's id is required, as SHOW CLIENTS gives it";
                    ErrorMessage::error(SqlState::SYNTAX_ERROR, needed)
                })?)
            }
            "RELOAD" if arguments.is_empty() => Self::Reload,
            "SHUTDOWN" => {
                let how = one()?.map(|word| word.to_ascii_uppercase());
                Self::Shutdown(match how.as_deref() {
                    None => Shutdown::Now,
                    Some("WAIT_FOR_SERVERS") => Shutdown::WhenServersAreFree,
                    Some("WAIT_FOR_CLIENTS") => Shutdown::WhenClientsLeave,
                    Some(_) => return Err(invalid()),
                })
            }
            _ => return Err(invalid()),
        })
    }

    /// Whether a user who may only look may give it. Whatever is added here is refused to them
    /// unless it is said to be harmless.
    pub(super) const fn is_harmless(&self) -> bool {
        matches!(self, Self::Empty | Self::Show(_) | Self::ShowOfDriver(..) | Self::SetOfDriver)
    }

    /// The tag of its CommandComplete.
    pub(super) const fn tag(&self) -> &'static str {
        match self {
            Self::Empty => "",
            Self::Show(_) | Self::ShowOfDriver(..) => "SHOW",
            Self::SetOfDriver | Self::Set { .. } => "SET",
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Shutdown(_) => "SHUTDOWN",
        }
    }
}

fn show(arguments: &[String]) -> Option<Command> {
    let noun = arguments.join("_").to_ascii_lowercase();
    let noun = if noun.is_empty() { "help" } else { &noun };
    let found =
        SHOWN.iter().find(|(name, ..)| arguments.len() < 2 && name.eq_ignore_ascii_case(noun));
    if let Some((_, what, _)) = found {
        return Some(Command::Show(*what));
    }
    // SHOW TRANSACTION ISOLATION LEVEL is SQL's own way to write it.
    let noun = noun.strip_suffix("_level").unwrap_or(noun);
    let (name, value) = OF_DRIVERS.iter().find(|(name, _)| *name == noun)?;
    Some(Command::ShowOfDriver(name, value))
}

/// `key = value` or `key TO value`. The value is in single quotes, or is what is left.
fn set(text: &str) -> Option<Command> {
    let text = text.trim_start();
    let end = text.find(|c: char| c == '=' || c.is_whitespace())?;
    let (key, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let is_to = rest
        .get(..3)
        .is_some_and(|to| to[..2].eq_ignore_ascii_case("to") && to.ends_with(char::is_whitespace));
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        None if is_to => &rest[2..],
        None => return None,
    };
    let key = key.to_ascii_lowercase();
    let value = match value.trim().strip_prefix('\'') {
        Some(quoted) => match unquote(quoted, '\'')? {
            (value, "") => value,
            _ => return None,
        },
        None => value.trim().to_owned(),
    };
    let is_name = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match OF_DRIVERS.iter().any(|(name, _)| *name == key) {
        _ if !is_name => None,
        true => Some(Command::SetOfDriver),
        false => Some(Command::Set { key, value }),
    }
}

/// Words between white space, or in double quotes with a quote inside written twice.
fn words(mut text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Some(words);
        }
        let (word, rest) = match text.strip_prefix('"') {
            Some(quoted) => unquote(quoted, '"')?,
            None => {
                let end = text.find(char::is_whitespace).unwrap_or(text.len());
                let (word, rest) = text.split_at(end);
                if word.contains(['"', '\'', ';']) {
                    return None;
                }
                (word.to_owned(), rest)
            }
        };
        words.push(word);
        text = rest;
    }
}

/// What stands before the closing quote, and what follows it.
fn unquote(mut text: &str, quote: char) -> Option<(String, &str)> {
    let mut read = String::new();
    loop {
        let (piece, rest) = text.split_once(quote)?;
        read.push_str(piece);
        match rest.strip_prefix(quote) {
            Some(more) => {
                read.push(quote);
                text = more;
            }
            None => return Some((read, rest)),
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

    fn some(name: &str) -> Target {
        Some(name.to_owned())
    }

    fn set_to(key: &str, value: &str) -> Command {
        Command::Set { key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn commands_are_read_in_any_case_and_spacing() {
        for text in ["show pools", "SHOW POOLS;", "  Show\n pools ; ;"] {
            assert_eq!(Command::parse(text), Ok(Command::Show(Show::Pools)));
        }
        assert_eq!(Command::parse(" ; "), Ok(Command::Empty));
        assert_eq!(Command::parse("SHOW"), Ok(Command::Show(Show::Help)));
        assert_eq!(Command::parse("reload ;"), Ok(Command::Reload));
        assert_eq!(Command::parse("Kill_Client\t17"), Ok(Command::KillClient(17)));
        assert_eq!(
            Command::parse("shutdown wait_for_Servers"),
            Ok(Command::Shutdown(Shutdown::WhenServersAreFree))
        );
    }

    #[test]
    fn names_of_databases_keep_their_case_and_may_be_quoted() {
        for (text, name) in [
            ("pause", None),
            ("PAUSE;", None),
            ("pause App", some("App")),
            ("PAUSE my-app.x ;", some("my-app.x")),
            ("PAUSE \"my app\"", some("my app")),
            ("PAUSE \"say \"\"hi\"\"; now\";", some("say \"hi\"; now")),
            ("PAUSE \u{e9}t\u{e9}", some("\u{e9}t\u{e9}")),
        ] {
            assert_eq!(Command::parse(text), Ok(Command::Pause(name)), "{text}");
        }
        assert_eq!(Command::parse("disable x"), Ok(Command::Disable("x".to_owned())));
    }

    #[test]
    fn set_takes_an_equals_sign_or_to_and_a_value_with_or_without_quotes() {
        for (text, key, value) in [
            ("SET default_pool_size = 7", "default_pool_size", "7"),
            ("set default_pool_size=7;", "default_pool_size", "7"),
            ("SET Pool_Mode TO 'session' ;", "pool_mode", "session"),
            ("SET server_reset_query to DISCARD ALL", "server_reset_query", "DISCARD ALL"),
            ("SET server_reset_query = 'select ''a;b'''", "server_reset_query", "select 'a;b'"),
            ("SET admin_users = a, b", "admin_users", "a, b"),
            ("SET server_reset_query = ''", "server_reset_query", ""),
            ("SET server_reset_query =", "server_reset_query", ""),
        ] {
            assert_eq!(Command::parse(text), Ok(set_to(key, value)), "{text}");
        }
        for text in
            ["SET", "SET x", "SET x 7", "SET = 7", "SET x = 'a", "SET x = 'a' b", "SET x tomato"]
        {
            assert!(Command::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_drivers_say_at_login_is_answered() {
        for text in ["SET client_encoding = 'UTF8'", "SET DateStyle='ISO'", "set timezone to UTC"] {
            assert_eq!(Command::parse(text), Ok(Command::SetOfDriver), "{text}");
        }
        for text in ["SHOW transaction_isolation", "SHOW TRANSACTION ISOLATION LEVEL;"] {
            let shown = Command::ShowOfDriver("transaction_isolation", "read committed");
            assert_eq!(Command::parse(text), Ok(shown), "{text}");
        }
    }

    #[test]
    fn what_is_no_command_is_refused_with_its_text() {
        for text in [
            "SHOW ELEPHANTS",
            "SHOW POOLS NOW",
            "SELECT 1",
            "\u{e9}",
            "PAUSE a b",
            "PAUSE \"a",
            "PAUSE a\"b",
            "PAUSE a; DROP",
            "RELOAD x",
            "SHUTDOWN SOON",
            "PAUSES",
        ] {
            let error = Command::parse(text).unwrap_err();
            assert_eq!(error.message, format!("invalid command '{text}', use SHOW HELP;"));
        }
        for text in ["DISABLE", "ENABLE;"] {
            assert_eq!(Command::parse(text).unwrap_err().message, "a database is required");
        }
        for text in ["KILL_CLIENT", "KILL_CLIENT x", "KILL_CLIENT -1"] {
            assert!(Command::parse(text).unwrap_err().message.starts_with("a client's id"));
        }
    }

    #[test]
    fn every_listed_command_is_one_and_takes_an_admin() {
        for (text, _) in COMMANDS {
            let text = text.replace(['[', ']'], "").replace(" id", " 1");
            let command = Command::parse(&text).unwrap();
            assert!(!command.is_harmless(), "{text}");
            assert!(text.starts_with(command.tag()), "{text}");
        }
        for (name, what, _) in SHOWN {
            let command = Command::parse(&format!("SHOW {name}"));
            assert_eq!(command, Ok(Command::Show(what)));
            assert!(command.is_ok_and(|command| command.is_harmless()));
        }
    }
}
