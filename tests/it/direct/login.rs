//! What a client learns at its login, compared with PostgreSQL's own greeting.

use super::Ways;
use crate::support::wire::Login;

/// The greeting's parameters, sorted: their order has no meaning.
fn greetings(adapt: impl Fn(Login) -> Login) -> Vec<Vec<(String, String)>> {
    let ways = Ways::open_with(adapt);
    let sorted = ways.clients.iter().map(|(_, wire)| {
        let mut parameters = wire.parameters.clone();
        parameters.sort();
        parameters
    });
    sorted.collect()
}

#[test]
fn the_greeting_reports_the_same_parameters() {
    let greetings = greetings(|login| login);
    assert!(greetings[0].iter().any(|(name, _)| name == "server_version"));
    assert_eq!(greetings[0], greetings[1], "transaction mode");
    assert_eq!(greetings[0], greetings[2], "session mode");
    assert_eq!(greetings[0], greetings[3], "under TLS");
}

#[test]
fn the_greeting_reports_what_the_client_asked_for() {
    let greetings = greetings(|login| {
        login
            .parameter("application_name", "it's me \\ \"quoted\"")
            .parameter("TimeZone", "Asia/Tokyo")
            .parameter("datestyle", "German")
            .parameter("options", "-c intervalstyle=iso_8601")
    });
    let asked = |name: &str| greetings[0].iter().find(|(known, _)| known == name).unwrap();
    assert_eq!(asked("TimeZone").1, "Asia/Tokyo");
    assert_eq!(asked("IntervalStyle").1, "iso_8601");
    assert_eq!(greetings[0], greetings[1], "transaction mode");
    assert_eq!(greetings[0], greetings[2], "session mode");
}

#[test]
fn keys_are_fresh_for_every_client() {
    let ways = [Ways::open(), Ways::open()];
    let mut keys: Vec<_> = ways
        .iter()
        .flat_map(|ways| &ways.clients)
        .map(|(_, wire)| (wire.pid, wire.secret.clone()))
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 8);
    assert!(keys.iter().all(|(pid, secret)| *pid > 0 && secret.len() >= 4));
}
