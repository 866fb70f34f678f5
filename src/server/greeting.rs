//! What a pool's clients are greeted with: the parameters that a server has reported at its login.
//!
//! Each is kept as the message that a client gets, so that a login copies bytes and encodes only what
//! the client has chosen for itself.

use super::settings::Settings;
use crate::protocol::encode::{self, EncodeError};

/// The parameters a server reported at login, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    reported: Vec<Reported>,
}

#[derive(Debug, PartialEq, Eq)]
struct Reported {
    name: Box<[u8]>,
    value: Box<[u8]>,
    /// The two as a ParameterStatus.
    message: Box<[u8]>,
}

impl Greeting {
    /// Notes a value, in the place of an earlier one of this name.
    ///
    /// # Errors
    /// If the two make no ParameterStatus; nothing is changed then.
    pub fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
        let mut message = Vec::new();
        encode::parameter_status(&mut message, name, value)?;
        let noted = Reported { name: name.into(), value: value.into(), message: message.into() };
        match self.place_of(name) {
            Some(place) => self.reported[place] = noted,
            None => self.reported.push(noted),
        }
        Ok(())
    }

    /// A parameter's value, by its name in any case.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        Some(&self.reported[self.place_of(name)?].value)
    }

    fn place_of(&self, name: &[u8]) -> Option<usize> {
        self.reported.iter().position(|r| r.name.eq_ignore_ascii_case(name))
    }

    /// Appends a ParameterStatus for each parameter, with the client's own values where it has some.
    ///
    /// # Errors
    /// If one of the client's values makes no ParameterStatus.
    pub fn write(&self, out: &mut Vec<u8>, own: &Settings) -> Result<(), EncodeError> {
        // Most clients have three settings at most: a scan for each of them is the cheapest map.
        const OWN_USUAL: usize = 4;
        let places =
            own.iter().filter_map(|(name, value)| Some((self.place_of(name.as_bytes())?, value)));
        let mut few: [(usize, &[u8]); OWN_USUAL] = [(usize::MAX, &[]); OWN_USUAL];
        let mut more = Vec::new();
        for (count, place) in places.enumerate() {
            match few.get_mut(count) {
                Some(free) => *free = place,
                None => more.push(place),
            }
        }
        for (place, reported) in self.reported.iter().enumerate() {
            match few.iter().chain(&more).find(|(own, _)| *own == place) {
                Some((_, value)) => encode::parameter_status(out, &reported.name, value)?,
                None => out.extend_from_slice(&reported.message),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(parameters: &[(&str, &str)]) -> Greeting {
        let mut greeting = Greeting::default();
        for (name, value) in parameters {
            greeting.note(name.as_bytes(), value.as_bytes()).unwrap();
        }
        greeting
    }

    fn written(greeting: &Greeting, own: &[(&str, &str)]) -> Vec<u8> {
        let own = Settings::new(own.iter().map(|(name, value)| (*name, value.as_bytes())));
        let mut bytes = Vec::new();
        greeting.write(&mut bytes, &own).unwrap();
        bytes
    }

    fn expected(parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in parameters {
            encode::parameter_status(&mut bytes, name.as_bytes(), value.as_bytes()).unwrap();
        }
        bytes
    }

    #[test]
    fn a_clients_own_values_take_the_place_of_the_servers() {
        let greeting = greeting(&[("TimeZone", "UTC"), ("server_version", "15"), ("a", "1")]);
        let own = [("timezone", "Asia/Tokyo"), ("work_mem", "1MB")];
        let told = [("TimeZone", "Asia/Tokyo"), ("server_version", "15"), ("a", "1")];
        assert_eq!(written(&greeting, &own), expected(&told));
        assert_eq!(
            written(&greeting, &[]),
            expected(&[("TimeZone", "UTC"), ("server_version", "15"), ("a", "1")])
        );
    }

    #[test]
    fn a_client_may_have_a_value_of_its_own_for_each_parameter() {
        let names: Vec<String> = (0..12).map(|n| format!("p{n:02}")).collect();
        let servers: Vec<_> = names.iter().map(|name| (name.as_str(), "server's")).collect();
        let clients: Vec<_> = names.iter().map(|name| (name.as_str(), "client's")).collect();
        assert_eq!(written(&greeting(&servers), &clients), expected(&clients));
    }

    #[test]
    fn a_later_value_is_told_in_the_place_of_the_earlier() {
        let mut greeting = greeting(&[("a", "1"), ("b", "2")]);
        greeting.note(b"A", b"3").unwrap();
        assert_eq!(greeting.value(b"a"), Some(&b"3"[..]));
        assert_eq!(written(&greeting, &[]), expected(&[("A", "3"), ("b", "2")]));
        assert!(greeting.note(b"c", b"with a \0 in it").is_err());
        assert_eq!(greeting.value(b"c"), None);
    }
}
