//! Tests of SCRAM: vectors, both ends against each other and against other implementations, and
//! one test per hostile row (A for clients, A13 for servers).

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::scram::{
    ClientKeys, ITERATIONS_DEFAULT, ITERATIONS_MAX, SALT_LEN, Verifier, random_salt,
};
use super::scram_binding::{ClientBinding, Offer};
use super::scram_client::{ClientChallenge, ClientFirst};
use super::scram_server::{Done, ServerFinal, ServerFirst};
use super::{Malformed, ScramError};
use crate::protocol::SqlState;

/// The example of RFC 7677, section 3.
mod rfc7677 {
    pub(super) const SALT: &[u8] =
        b"\x5b\x6d\x99\x68\x9d\x12\x35\x8e\xec\xa0\x4b\x14\x12\x36\xfa\x81";
    pub(super) const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    pub(super) const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    pub(super) const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    pub(super) const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
          s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    pub(super) const CLIENT_FINAL: &[u8] =
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
          p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    pub(super) const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
}

/// Few rounds: the count changes no property, and tests must be quick.
const ROUNDS: u32 = 3;

fn verifier(password: &[u8]) -> Verifier {
    Verifier::from_password(password, b"sixteen byte salt", ROUNDS)
}

fn challenged(verifier: Verifier) -> (ClientChallenge, ServerFinal) {
    let client = ClientFirst::new(ClientBinding::Nothing).unwrap();
    let server =
        ServerFirst::parse(client.message(), Offer::Nothing).unwrap().challenge(verifier).unwrap();
    (client.challenge(server.message()).unwrap(), server)
}

/// A whole login; what the server says of the client's proof.
fn login(verifier: Verifier, password: &[u8]) -> Result<Done, ScramError> {
    let (client, server) = challenged(verifier);
    let keys = ClientKeys::derive(password, client.salt(), client.iterations());
    let client = client.respond(&keys).unwrap();
    let done = server.verify(client.message())?;
    client.verify(done.message()).expect("a server that knows the secret proves it");
    Ok(done)
}

#[test]
fn rfc7677_server_side() {
    let verifier = Verifier::from_password(b"pencil", rfc7677::SALT, 4096);
    let server = ServerFirst::parse(rfc7677::CLIENT_FIRST, Offer::Nothing)
        .unwrap()
        .challenge_with_nonce(verifier, rfc7677::SERVER_NONCE);
    assert_eq!(server.message(), rfc7677::SERVER_FIRST);
    let done = server.verify(rfc7677::CLIENT_FINAL).unwrap();
    assert_eq!(done.message(), rfc7677::SERVER_FINAL);
}

#[test]
fn rfc7677_client_side() {
    let client =
        ClientFirst::with_nonce(ClientBinding::Nothing, "user", rfc7677::CLIENT_NONCE.to_owned());
    assert_eq!(client.message(), rfc7677::CLIENT_FIRST);
    let challenge = client.challenge(rfc7677::SERVER_FIRST).unwrap();
    assert_eq!((challenge.salt(), challenge.iterations()), (rfc7677::SALT, 4096));
    let keys = ClientKeys::derive(b"pencil", challenge.salt(), challenge.iterations());
    let client = challenge.respond(&keys).unwrap();
    assert_eq!(client.message(), rfc7677::CLIENT_FINAL);
    assert_eq!(client.verify(rfc7677::SERVER_FINAL), Ok(()));
}

#[test]
fn the_stored_form_is_that_of_postgres() {
    let stored = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let parsed = Verifier::parse(stored.as_bytes()).unwrap();
    assert_eq!(parsed.encoded().as_str(), stored);
    assert_eq!(parsed, Verifier::from_password(b"pencil", rfc7677::SALT, 4096));
    assert_ne!(parsed, Verifier::from_password(b"pencils", rfc7677::SALT, 4096));
    for (from, to) in [
        ("SCRAM-SHA-256$", "SCRAM-SHA-1$"),
        ("$4096:", "$0:"),
        ("$4096:", "$-1:"),
        ("$4096:", "$+1:"),
        ("$4096:", "$:"),
        ("$4096:", "$2147483648:"),
        ("$4096:", "$99999999999:"),
        (":W22ZaJ0SNY7soEsUEjb6gQ==", ":"),
        (":W22ZaJ0SNY7soEsUEjb6gQ==", ":W22"),
        ("$WG5d", "$"),
        (":wfPL", "$wfPL"),
        ("l2dU=", "l2dU=\n"),
        ("l2dU=", "l2dU=:x"),
    ] {
        let bad = stored.replacen(from, to, 1);
        assert_ne!(bad, stored);
        assert_eq!(Verifier::parse(bad.as_bytes()), None, "{bad}");
    }
    for cut in 0..stored.len() {
        assert_eq!(Verifier::parse(&stored.as_bytes()[..cut]), None, "{cut}");
    }
}

#[test]
fn a_login_succeeds_with_the_password_and_with_no_other() {
    assert!(login(verifier(b"pencil"), b"pencil").is_ok());
    for wrong in [&b""[..], b"penci", b"pencils", b"Pencil"] {
        assert_eq!(login(verifier(b"pencil"), wrong).unwrap_err(), ScramError::Proof);
    }
    assert!(verifier(b"pencil").verify_password(b"pencil"));
    assert!(!verifier(b"pencil").verify_password(b"pencils"));
}

#[test]
fn keys_learnt_from_a_proof_log_in_to_a_server_with_the_same_verifier() {
    let learnt = login(verifier(b"pencil"), b"pencil").unwrap().keys;
    let (client, server) = challenged(verifier(b"pencil"));
    assert!(learnt.fit(client.salt(), client.iterations()));
    let client = client.respond(&learnt).unwrap();
    let done = server.verify(client.message()).unwrap();
    assert_eq!(client.verify(done.message()), Ok(()));
}

#[test]
fn keys_of_another_salt_or_count_are_not_used() {
    let learnt = login(verifier(b"pencil"), b"pencil").unwrap().keys;
    for changed in [
        Verifier::from_password(b"pencil", b"another salt", ROUNDS),
        Verifier::from_password(b"pencil", b"sixteen byte salt", ROUNDS + 1),
    ] {
        let (client, _) = challenged(changed);
        assert_eq!(client.respond(&learnt).unwrap_err(), ScramError::ForeignKeys);
    }
}

#[test]
fn another_implementation_logs_in_to_our_server() {
    for (password, binding) in [
        ("pencil", ChannelBinding::unsupported()),
        ("Ⅸ ª\u{ad}", ChannelBinding::unsupported()),
        // Its flag is `y`: it could bind the channel, but we did not offer it.
        ("pencil", ChannelBinding::unrequested()),
    ] {
        let mut client = ScramSha256::new(password.as_bytes(), binding);
        let server = ServerFirst::parse(client.message(), Offer::Nothing).unwrap();
        let server = server.challenge(verifier(password.as_bytes())).unwrap();
        client.update(server.message()).unwrap();
        let done = server.verify(client.message()).unwrap();
        client.finish(done.message()).unwrap();
    }
}

#[test]
fn passwords_are_normalised_where_they_can_be() {
    let same = |left: &[u8], right: &[u8]| verifier(left) == verifier(right);
    // The examples of RFC 4013, section 3.
    assert!(same("I\u{ad}X".as_bytes(), b"IX"));
    assert!(!same(b"USER", b"user"));
    assert!(same("\u{aa}".as_bytes(), b"a"));
    assert!(same("\u{2168}".as_bytes(), b"IX"));
    // Prohibited, bidirectional, not UTF-8, and nothing left: taken as they are.
    for raw in [&b"\x07"[..], "\u{627}1".as_bytes(), b"\xff\xfe", "\u{ad}".as_bytes()] {
        assert!(login(verifier(raw), raw).is_ok());
        assert!(!same(raw, b""));
    }
    assert!(!same("\u{ad}".as_bytes(), "\u{ad}\u{ad}".as_bytes()));
}

#[test]
fn a02_an_unknown_user_is_played_to_the_end_with_a_stable_salt() {
    let seed = [7; 32];
    let mock = Verifier::mock(b"nobody", &seed, ITERATIONS_DEFAULT);
    assert_eq!(mock.salt().len(), SALT_LEN);
    assert_eq!(mock.iterations(), ITERATIONS_DEFAULT);
    assert_eq!(mock, Verifier::mock(b"nobody", &seed, ITERATIONS_DEFAULT));
    assert_ne!(mock.salt(), Verifier::mock(b"nobody2", &seed, ITERATIONS_DEFAULT).salt());
    assert_ne!(mock.salt(), Verifier::mock(b"nobody", &[8; 32], ITERATIONS_DEFAULT).salt());
    assert_eq!(login(mock, b"pencil").unwrap_err(), ScramError::Proof);
    // The error is the one of a wrong password.
    let wrong = login(verifier(b"pencil"), b"x").unwrap_err().to_message();
    assert_eq!(wrong, ScramError::Proof.to_message());
}

#[test]
fn a02_a_mock_refuses_even_its_own_client_key() {
    let mut mock = verifier(b"pencil");
    assert!(mock.verify_password(b"pencil"));
    mock.doom();
    assert!(!mock.verify_password(b"pencil"));
    assert_eq!(login(mock, b"pencil").unwrap_err(), ScramError::Proof);
}

#[test]
fn a06_only_a_mechanism_on_offer_is_accepted() {
    let end_point = Some(&[7_u8; 32][..]);
    assert_eq!(Offer::by_mechanism(b"SCRAM-SHA-256", None), Ok(Offer::Nothing));
    assert_eq!(Offer::by_mechanism(b"SCRAM-SHA-256", end_point), Ok(Offer::Declined));
    let chosen = Offer::by_mechanism(b"SCRAM-SHA-256-PLUS", end_point);
    assert_eq!(chosen, Ok(Offer::Chosen(&[7; 32])));
    for other in [&b""[..], b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-1", b"scram-sha-256", b"PLAIN"] {
        let error = Offer::by_mechanism(other, None).unwrap_err();
        assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
        assert_eq!(error.to_string(), "client selected an invalid SASL authentication mechanism");
    }
    assert!(Offer::by_mechanism(b"SCRAM-SHA-256-plus", end_point).is_err());
}

/// A login of ours, bound or not, and what its server makes of it.
fn bound(client: ClientBinding<'_>, offer: Offer<'_>) -> Result<Done, ScramError> {
    let first = ClientFirst::new(client)?;
    let server = ServerFirst::parse(first.message(), offer)?.challenge(verifier(b"pencil"))?;
    let challenge = first.challenge(server.message())?;
    let keys = ClientKeys::derive(b"pencil", challenge.salt(), challenge.iterations());
    let proof = challenge.respond(&keys)?;
    let done = server.verify(proof.message())?;
    proof.verify(done.message())?;
    Ok(done)
}

#[test]
fn binding_holds_only_where_both_ends_see_the_same_certificate() {
    use ClientBinding::{Bound, NotOffered, Nothing};
    let (seen, other) = (&[1_u8; 32][..], &[2_u8; 32][..]);
    for (client, offer) in [
        (Nothing, Offer::Nothing),
        (NotOffered, Offer::Nothing),
        (Nothing, Offer::Declined),
        (Bound(seen), Offer::Chosen(seen)),
        (Bound(&[]), Offer::Chosen(&[])),
    ] {
        assert!(bound(client, offer).is_ok(), "{client:?} {offer:?}");
    }
    for (client, offer, error) in [
        (Bound(seen), Offer::Chosen(other), ScramError::BindingMismatch),
        (Bound(&[]), Offer::Chosen(seen), ScramError::BindingMismatch),
        (NotOffered, Offer::Declined, ScramError::Downgrade),
        (Nothing, Offer::Chosen(seen), Malformed::NoChannelBindingData.into()),
        (NotOffered, Offer::Chosen(seen), Malformed::NoChannelBindingData.into()),
        (Bound(seen), Offer::Declined, Malformed::ChannelBindingData.into()),
        (Bound(seen), Offer::Nothing, Malformed::ChannelBindingData.into()),
    ] {
        assert_eq!(bound(client, offer).unwrap_err(), error, "{client:?} {offer:?}");
    }
    for kind in ["tls-unique", "tls-exporter", "", "tls-server-end-points"] {
        let first = format!("p={kind},,n=,r=abc");
        let error = ServerFirst::parse(first.as_bytes(), Offer::Chosen(seen)).unwrap_err();
        assert_eq!(error, ScramError::BindingType);
    }
    assert!(ServerFirst::parse(b"p", Offer::Chosen(seen)).is_err());
    assert!(ServerFirst::parse(b"p=tls-server-end-point", Offer::Chosen(seen)).is_err());
}

#[test]
fn another_implementation_binds_alike() {
    let end_point = [9_u8; 48];
    let binding = ChannelBinding::tls_server_end_point(end_point.to_vec());
    let mut client = ScramSha256::new(b"pencil", binding);
    let offer = Offer::by_mechanism(b"SCRAM-SHA-256-PLUS", Some(&end_point)).unwrap();
    let server = ServerFirst::parse(client.message(), offer).unwrap();
    let server = server.challenge(verifier(b"pencil")).unwrap();
    client.update(server.message()).unwrap();
    let done = server.verify(client.message()).unwrap();
    client.finish(done.message()).unwrap();
}

#[test]
fn a07_client_first_messages_that_are_malformed_are_refused() {
    let long = [b"n,,n=,r=", &[b'x'; 20_000][..]].concat();
    let cases: &[(&[u8], ScramError)] = &[
        (b"", Malformed::Empty.into()),
        (&long, Malformed::TooLong.into()),
        (b"n,,n=,r=ab\0c", Malformed::EmbeddedNul.into()),
        (b"\xff\xff\xff", Malformed::ChannelBindingFlag.into()),
        (b"p=tls-server-end-point,,n=,r=abc", Malformed::ChannelBindingData.into()),
        (b"n", Malformed::Comma.into()),
        (b"nn,,n=,r=abc", Malformed::Comma.into()),
        (b"n,", Malformed::Attribute.into()),
        (b"n,a=admin,n=,r=abc", ScramError::AuthorizationIdentity),
        (b"n,,", Malformed::End.into()),
        (b"n,,m=ext,n=,r=abc", ScramError::Extension),
        (b"n,,n=", Malformed::End.into()),
        (b"n,,n=,", Malformed::End.into()),
        (b"n,,n,r=abc", Malformed::Equals.into()),
        (b"n,,r=abc,n=", Malformed::Attribute.into()),
        (b"n,,n=,r=", Malformed::EmptyNonce.into()),
        (b"n,,n=,r=a b", ScramError::NoncePrintable),
        (b"n,,n=,r=a\xc3\xa9b", ScramError::NoncePrintable),
        (b"n,,n=,r=abc,1=x", Malformed::Equals.into()),
    ];
    for (message, expected) in cases {
        let error = ServerFirst::parse(message, Offer::Nothing).unwrap_err();
        assert_eq!(error, *expected, "{}", message.escape_ascii());
        assert_eq!(error.sqlstate(), SqlState::PROTOCOL_VIOLATION);
    }
    let detail = ScramError::from(Malformed::ChannelBindingData).to_message().detail.unwrap();
    assert!(detail.starts_with("The client selected SCRAM-SHA-256 without channel binding"));
    // Optional extensions are none of our business, and the user name inside is ignored.
    assert!(ServerFirst::parse(b"y,,n=any=2Cone,r=abc,x=1,z=", Offer::Nothing).is_ok());
}

/// Runs a good exchange, but lets `change` have its way with the client's last message.
fn with_final(change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Result<Done, ScramError> {
    let (client, server) = challenged(verifier(b"pencil"));
    let keys = ClientKeys::derive(b"pencil", client.salt(), client.iterations());
    let client = client.respond(&keys).unwrap();
    server.verify(&change(client.message().to_vec()))
}

fn replaced(from: &str, to: &str) -> Result<Done, ScramError> {
    with_final(|message| {
        let message = String::from_utf8(message).unwrap();
        assert!(message.contains(from));
        message.replacen(from, to, 1).into_bytes()
    })
}

#[test]
fn a08_client_final_messages_that_are_malformed_or_wrong_are_refused() {
    assert!(with_final(|message| message).is_ok());
    let cases: &[(Result<Done, ScramError>, ScramError)] = &[
        (replaced("c=biws,", "c=eSws,"), ScramError::ChannelBinding),
        (replaced("c=biws,", "c=,"), ScramError::ChannelBinding),
        (replaced("c=biws,", ""), Malformed::Attribute.into()),
        (replaced(",r=", ",r=x"), ScramError::Nonce),
        (replaced(",p=", ",x=1,p="), ScramError::Proof),
        (replaced(",p=", ",q="), Malformed::End.into()),
        (replaced(",p=", ",p=AA"), Malformed::Proof.into()),
        (replaced(",p=", ",p=*"), Malformed::Proof.into()),
        (with_final(|message| [&message[..], b",x=1"].concat()), Malformed::Garbage.into()),
        (with_final(|message| [&message[..], b"\0"].concat()), Malformed::EmbeddedNul.into()),
        (with_final(|message| [&message[..], &[b'x'; 9_000]].concat()), Malformed::TooLong.into()),
        (with_final(|_| Vec::new()), Malformed::Empty.into()),
        (with_final(|_| b"c=biws".to_vec()), Malformed::End.into()),
        (with_final(|_| b"m=ext".to_vec()), ScramError::Extension),
    ];
    for (at, (result, expected)) in cases.iter().enumerate() {
        let error = result.as_ref().unwrap_err();
        assert_eq!(error, expected, "case {at}");
        let allowed = [SqlState::PROTOCOL_VIOLATION, SqlState::INVALID_PASSWORD];
        assert!(allowed.contains(&error.sqlstate()));
    }
}

#[test]
fn a09_a_replayed_client_final_is_refused() {
    let verifier = Verifier::from_password(b"pencil", rfc7677::SALT, 4096);
    let mut nonces = Vec::new();
    for _ in 0..50 {
        let server = ServerFirst::parse(rfc7677::CLIENT_FIRST, Offer::Nothing).unwrap();
        let server = server.challenge(verifier.clone()).unwrap();
        nonces.push(server.message().to_vec());
        let error = server.verify(rfc7677::CLIENT_FINAL).unwrap_err();
        assert_eq!(error, ScramError::Nonce);
        assert_eq!(error.sqlstate(), SqlState::INVALID_PASSWORD);
    }
    nonces.sort();
    nonces.dedup();
    assert_eq!(nonces.len(), 50);
    assert_ne!(random_salt().unwrap(), random_salt().unwrap());
    // 18 random bytes are 24 characters behind the client's nonce.
    let nonce_len = nonces[0].iter().position(|byte| *byte == b',').unwrap() - 2;
    assert_eq!(nonce_len, rfc7677::CLIENT_NONCE.len() + 24);
}

/// What our client says to a server's first message; `N` stands for our nonce.
fn server_first(template: &str) -> Result<ClientChallenge, ScramError> {
    let client = ClientFirst::with_nonce(ClientBinding::Nothing, "", "nonce".to_owned());
    client.challenge(template.replace('N', "nonce").as_bytes())
}

#[test]
fn a13_a_hostile_servers_challenge_is_refused() {
    let good = server_first("r=Nabc,s=c2FsdA==,i=4096").unwrap();
    assert_eq!((good.salt(), good.iterations()), (&b"salt"[..], 4096));
    assert!(server_first(&format!("r=Nabc,s=c2FsdA==,i={ITERATIONS_MAX}")).is_ok());
    let huge = |len: usize| format!("r=N{},s=c2FsdA==,i=4096", "x".repeat(len));
    let long_salt = format!("r=Nabc,s={},i=1", "AAAA".repeat(86));
    let cases: &[(&str, ScramError)] = &[
        ("", Malformed::Empty.into()),
        ("r=N,s=c2FsdA==,i=4096", ScramError::ServerNonce),
        ("r=nonc,s=c2FsdA==,i=4096", ScramError::ServerNonce),
        ("r=abc,s=c2FsdA==,i=4096", ScramError::ServerNonce),
        ("r=,s=c2FsdA==,i=4096", Malformed::EmptyNonce.into()),
        ("r=N\x07,s=c2FsdA==,i=4096", ScramError::NoncePrintable),
        ("r=Nabc\0,s=c2FsdA==,i=4096", Malformed::EmbeddedNul.into()),
        ("m=ext,r=Nabc,s=c2FsdA==,i=4096", ScramError::Extension),
        ("r=Nabc,i=4096", Malformed::Attribute.into()),
        ("r=Nabc,s=,i=4096", Malformed::Salt.into()),
        ("r=Nabc,s=*,i=4096", Malformed::Salt.into()),
        (&long_salt, Malformed::Salt.into()),
        ("r=Nabc,s=c2FsdA==", Malformed::End.into()),
        ("r=Nabc,s=c2FsdA==,i=", Malformed::Iterations.into()),
        ("r=Nabc,s=c2FsdA==,i=-1", Malformed::Iterations.into()),
        ("r=Nabc,s=c2FsdA==,i=4096x", Malformed::Iterations.into()),
        ("r=Nabc,s=c2FsdA==,i=2147483648", Malformed::Iterations.into()),
        ("r=Nabc,s=c2FsdA==,i=0", ScramError::Iterations),
        ("r=Nabc,s=c2FsdA==,i=100001", ScramError::Iterations),
        ("r=Nabc,s=c2FsdA==,i=2147483647", ScramError::Iterations),
        ("r=Nabc,s=c2FsdA==,i=4096,x=1", Malformed::Garbage.into()),
        (&huge(1_024), Malformed::TooLong.into()),
        (&huge(65_536), Malformed::TooLong.into()),
    ];
    for (message, expected) in cases {
        let got = server_first(message).map(drop);
        assert_eq!(
            got,
            Err(*expected),
            "{}",
            message.escape_default().take(60).collect::<String>()
        );
    }
}

#[test]
fn a13_a_server_that_does_not_know_the_secret_is_refused() {
    let finals: &[(&[u8], ScramError)] = &[
        (b"", Malformed::Empty.into()),
        (b"v=", Malformed::Signature.into()),
        (b"v=AAAA", Malformed::Signature.into()),
        (b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", ScramError::ServerSignature),
        (b"e=invalid-proof", ScramError::ServerRefused),
        (b"x=1", Malformed::Attribute.into()),
        (b"v", Malformed::Equals.into()),
        (&[b'v'; 2_000], Malformed::TooLong.into()),
    ];
    for (message, expected) in finals {
        let (client, server) = challenged(verifier(b"pencil"));
        let keys = ClientKeys::derive(b"pencil", client.salt(), client.iterations());
        let client = client.respond(&keys).unwrap();
        let done = server.verify(client.message()).unwrap();
        assert_ne!(done.message(), *message);
        assert_eq!(client.verify(message), Err(*expected));
    }
    assert_eq!(ScramError::ServerSignature.sqlstate(), SqlState::CONNECTION_FAILURE);
    let (client, server) = challenged(verifier(b"pencil"));
    let keys = ClientKeys::derive(b"pencil", client.salt(), client.iterations());
    let client = client.respond(&keys).unwrap();
    let longer = [server.verify(client.message()).unwrap().message(), b",x=1"].concat();
    assert_eq!(client.verify(&longer), Err(Malformed::Garbage.into()));
}

#[test]
fn debug_shows_no_key() {
    let (client, server) = challenged(verifier(b"pencil"));
    let keys = ClientKeys::derive(b"pencil", client.salt(), client.iterations());
    let client = client.respond(&keys).unwrap();
    assert_eq!(format!("{client:?}"), "ClientFinal(..)");
    let done = server.verify(client.message()).unwrap();
    assert_eq!(format!("{:?}", done.keys), "ClientKeys { iterations: 3, .. }");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_cause_a_panic_or_a_login(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let attributes = [b"c=biws,r=", &bytes[..]].concat();
        for message in [&bytes, &attributes] {
            let _ = Verifier::parse(message);
            let _ = ServerFirst::parse(message, Offer::Nothing);
            let _ = ServerFirst::parse(&[b"n,,n=,r=", &message[..]].concat(), Offer::Nothing);
            let (client, server) = challenged(Verifier::mock(b"u", &[0; 32], ITERATIONS_DEFAULT));
            prop_assert!(server.verify(message).is_err());
            let keys = ClientKeys::derive(b"", client.salt(), 1);
            prop_assert!(client.respond(&keys).is_err());
            let client = ClientFirst::with_nonce(ClientBinding::Nothing, "", "nonce".to_owned());
            let _ = client.challenge(message);
        }
    }

    #[test]
    fn one_changed_byte_is_enough_to_be_refused(at in any::<u16>(), flip in 1..=255_u8) {
        let changed = with_final(|mut message| {
            let at = usize::from(at) % message.len();
            message[at] ^= flip;
            message
        });
        prop_assert!(changed.is_err());
    }

    #[test]
    fn any_password_logs_in(password in proptest::collection::vec(any::<u8>(), 0..40)) {
        prop_assert!(login(verifier(&password), &password).is_ok());
    }

    #[test]
    fn any_verifier_is_read_back(
        password in any::<[u8; 8]>(),
        salt in proptest::collection::vec(any::<u8>(), 1..=256),
        iterations in 1..5_u32,
    ) {
        let verifier = Verifier::from_password(&password, &salt, iterations);
        prop_assert_eq!(Verifier::parse(verifier.encoded().as_bytes()), Some(verifier));
    }
}
