//! Maps from the names that a system or a certificate knows to users: `pg_ident.conf`.

use super::pattern::Expression;
use super::{Fault, Line, Word};

/// All maps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct IdentMaps {
    lines: Vec<Mapping>,
}

#[derive(Debug, Clone, PartialEq)]
struct Mapping {
    map: String,
    system: System,
    user: User,
}

#[derive(Debug, Clone, PartialEq)]
enum System {
    Name(String),
    Expression(Expression),
}

#[derive(Debug, Clone, PartialEq)]
enum User {
    All,
    Member(String),
    Expression(Expression),
    /// `\1` in it stands for what the system name's expression has found.
    Name(String),
}

impl IdentMaps {
    /// Reads the maps; includes are resolved already.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn parse(lines: &[Line]) -> Result<Self, Vec<Fault>> {
        let (mut read, mut faults) = (Vec::with_capacity(lines.len()), Vec::new());
        for line in lines {
            match mapping(line) {
                Ok(mapping) => read.push(mapping),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Self { lines: read }) } else { Err(faults) }
    }

    /// Whether a map has any line.
    #[must_use]
    pub fn has(&self, map: &str) -> bool {
        self.lines.iter().any(|line| line.map == map)
    }

    /// Whether whoever the system knows as `system` may be `user`, who is a member of `roles`. Without
    /// a map the names must be the same; a map without lines lets nobody in.
    #[must_use]
    pub fn allow(&self, map: Option<&str>, system: &str, user: &str, roles: &[String]) -> bool {
        match map {
            None => system == user,
            Some(map) => {
                self.lines.iter().any(|line| line.map == map && line.allows(system, user, roles))
            }
        }
    }

    /// Whether roles must be known.
    #[must_use]
    pub fn ask_for_roles(&self) -> bool {
        self.lines.iter().any(|line| matches!(line.user, User::Member(_)))
    }
}

impl Mapping {
    fn allows(&self, system: &str, user: &str, roles: &[String]) -> bool {
        let group = match &self.system {
            System::Name(name) => (name == system).then_some(""),
            System::Expression(expression) => expression.first_group(system),
        };
        let Some(group) = group else { return false };
        match &self.user {
            User::All => true,
            User::Member(role) => user == role || roles.iter().any(|own| own == role),
            User::Expression(expression) => expression.matches(user),
            User::Name(name) if matches!(self.system, System::Expression(_)) => {
                name.replacen("\\1", group, 1) == user
            }
            User::Name(name) => name == user,
        }
    }
}

fn mapping(line: &Line) -> Result<Mapping, Fault> {
    let map = line.single(0, "the map's name")?.text.clone();
    let system = line.single(1, "the system's user")?;
    let user = line.single(2, "the database's user")?;
    if line.fields.len() > 3 {
        return Err(line.fault("more than the three columns map, system user, database user"));
    }
    let fault = |reason: String| line.fault(reason);
    let system = match Expression::read(system) {
        Some(expression) => System::Expression(expression.map_err(fault)?),
        None => System::Name(system.text.clone()),
    };
    let user = read_user(user).map_err(fault)?;
    Ok(Mapping { map, system, user })
}

fn read_user(word: &Word) -> Result<User, String> {
    if word.is("all") {
        return Ok(User::All);
    }
    if let Some(role) = word.behind('+') {
        return Ok(User::Member(role.to_owned()));
    }
    match Expression::read(word) {
        Some(expression) => expression.map(User::Expression),
        None => Ok(User::Name(word.text.clone())),
    }
}
