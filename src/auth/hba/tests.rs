//! Rules and maps as files have them.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Result<Vec<Line>, String> {
    lines(text)
        .map(|(number, fields)| match fields {
            Ok(fields) => Ok(Line { file: Arc::from("hba"), number, fields }),
            Err(reason) => Err(format!("hba:{number}: {reason}")),
        })
        .collect()
}

fn rules(text: &str) -> Rules {
    Rules::parse(&read(text).unwrap()).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn fault(text: &str) -> String {
    match read(text) {
        Err(fault) => fault,
        Ok(lines) => match Rules::parse(&lines) {
            Ok(rules) => panic!("{text} is taken as {rules:?}"),
            Err(faults) => faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"),
        },
    }
}

const NOBODY: Visitor<'_> = Visitor {
    address: None,
    is_tls: false,
    database: "app",
    user: "ann",
    is_physical_replication: false,
    roles: &[],
};

fn from(address: &str) -> Visitor<'static> {
    Visitor { address: Some(address.parse().unwrap()), ..NOBODY }
}

/// The line of the rule that serves, 0 for none.
fn line(text: &str, visitor: &Visitor<'_>) -> usize {
    rules(text).find(visitor).map_or(0, |rule| rule.line)
}

#[test]
fn words_lists_quotes_comments_and_lines_that_go_on() {
    let text = "# comment\r\n\r\n  host  a, \"b c\",d\t\"all\" # more\r\nlocal \\\nx \"\"\"q\"\"\"\\\n y\n";
    let read = read(text).unwrap();
    let texts: Vec<Vec<Vec<&str>>> = read
        .iter()
        .map(|line| {
            line.fields.iter().map(|f| f.iter().map(|w| w.text.as_str()).collect()).collect()
        })
        .collect();
    assert_eq!(
        texts,
        [
            vec![vec!["host"], vec!["a", "b c", "d"], vec!["all"]],
            vec![vec!["local"], vec!["x"], vec!["\"q\""], vec!["y"]],
        ]
    );
    assert_eq!((read[0].number, read[1].number), (3, 4));
    assert!(read[0].fields[2][0].is_quoted && !read[0].fields[0][0].is_quoted);
    for (text, reason) in [
        ("a \"b", "hba:1: a double quote is not closed"),
        ("a b,", "hba:1: a list ends with a comma"),
        ("a ,b", "hba:1: a comma stands where a word is expected"),
    ] {
        assert_eq!(fault(text), reason);
    }
}

#[test]
fn the_kind_of_connection() {
    let text = "hostssl all all all trust\nhostnossl all all 10.0.0.0/8 trust\n\
                local all all peer\nhostgssenc all all all trust\nhost all all all reject\n";
    assert_eq!(line(text, &NOBODY), 3);
    assert_eq!(line(text, &Visitor { is_tls: true, ..from("10.1.1.1") }), 1);
    assert_eq!(line(text, &from("10.1.1.1")), 2);
    assert_eq!(line(text, &from("11.1.1.1")), 5);
    assert_eq!(line("host all all all trust", &NOBODY), 0);
    assert_eq!(line("hostnogssenc all all all trust", &from("::1")), 1);
}

#[test]
fn addresses() {
    for (rule, inside, outside) in [
        ("10.0.0.0/8", &["10.255.0.1", "::ffff:10.0.0.1"][..], &["11.0.0.0", "::1"][..]),
        ("10.0.0.1/8", &["10.9.9.9"], &["9.9.9.9"]),
        ("10.1.2.3/32", &["10.1.2.3"], &["10.1.2.4"]),
        ("10.1.0.0 255.255.0.0", &["10.1.9.9"], &["10.2.0.0"]),
        ("0.0.0.0/0", &["1.2.3.4", "::ffff:1.2.3.4"], &["::1"]),
        ("::/0", &["::1", "2001:db8::1"], &["1.2.3.4"]),
        ("2001:db8::/32", &["2001:db8:ffff::"], &["2001:db9::"]),
        ("all", &["1.2.3.4", "::1"], &[]),
    ] {
        let text = format!("host all all {rule} trust");
        for address in inside {
            assert_eq!(line(&text, &from(address)), 1, "{rule} {address}");
        }
        for address in outside {
            assert_eq!(line(&text, &from(address)), 0, "{rule} {address}");
        }
    }
    for (rule, reason) in [
        ("10.0.0.0/33", "no address with the length"),
        ("10.0.0.0 255.0.255.0", "no mask for 10.0.0.0"),
        ("::1 255.0.0.0", "no mask for ::1"),
        ("10.0.0.0 ff00::", "no mask for 10.0.0.0"),
        ("10.0.0.0 trust", "no mask for 10.0.0.0"),
        ("samenet", "samenet is not supported"),
        ("samehost", "samehost is not supported"),
        ("db.example", "host names are not supported"),
        (".example", "host names are not supported"),
        ("10.0.0.1,10.0.0.2", "must be one word"),
    ] {
        let said = fault(&format!("host all all {rule} trust"));
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn databases_and_users() {
    let roles = ["app".to_owned(), "staff".to_owned()];
    let ann = Visitor { roles: &roles, ..NOBODY };
    for (what, visitor, serves) in [
        ("all all", ann, true),
        ("\"all\" all", ann, false),
        ("app ann", ann, true),
        ("x,app y,ann", ann, true),
        ("App ann", ann, false),
        ("/^a.p$ /^an", ann, true),
        ("/^ap$ all", ann, false),
        ("sameuser all", ann, false),
        ("sameuser all", Visitor { database: "ann", ..ann }, true),
        ("samerole all", ann, true),
        ("samegroup all", NOBODY, false),
        ("all +staff", ann, true),
        ("all \"+staff\"", ann, false),
        ("all +staff", NOBODY, false),
        ("all +ann", NOBODY, true),
        ("replication all", ann, false),
        ("all all", Visitor { is_physical_replication: true, ..ann }, false),
        ("replication all", Visitor { is_physical_replication: true, ..ann }, true),
        ("\"replication\" all", Visitor { database: "replication", ..ann }, true),
    ] {
        let text = format!("local {what} trust");
        assert_eq!(line(&text, &visitor) == 1, serves, "{text}");
        let asks = what.contains('+') && !what.contains('"')
            || what.contains("same") && !what.contains("user");
        assert_eq!(rules(&text).ask_for_roles(), asks, "{text}");
    }
    assert!(fault("local /( all trust").contains("cannot be read"));
    assert!(fault("local /a{9999999} all trust").contains("cannot be read"));
}

#[test]
fn methods_and_options() {
    for (text, method) in [
        ("local a b trust", Method::Trust),
        ("local a b reject", Method::Reject),
        ("local a b password", Method::Password),
        ("local a b plain", Method::Password),
        ("local a b md5", Method::Md5),
        ("local a b scram-sha-256", Method::ScramSha256),
        ("local a b peer map=m", Method::Peer),
        ("hostssl a b all cert clientname=DN \"map=m x\"", Method::Cert),
    ] {
        assert_eq!(rules(text).rules[0].method, method, "{text}");
    }
    let rule = &rules("hostssl a b all cert clientname=SAN \"map=m x\"").rules[0];
    assert_eq!((rule.map.as_deref(), rule.cert_name), (Some("m x"), CertName::Alternative));
    assert!(rule.needs_certificate && rule.certificate_is_users);
    let rule = &rules("hostssl a b all md5 clientcert=verify-ca").rules[0];
    assert!(rule.needs_certificate && !rule.certificate_is_users);
    for (text, reason) in [
        ("", ""),
        ("locale a b trust", "expected local, host"),
        ("local a", "the user is missing"),
        ("local a b", "the method is missing"),
        ("host a b all", "the method is missing"),
        ("local a b ldap", "ldap is not supported by this version"),
        ("local a b gss", "gss is not supported"),
        ("local a b oauth", "oauth is not supported"),
        ("local a b ldapbindpasswd=hunter2", "unknown method \"ldapbindpasswd\""),
        ("local a b any", "unknown method \"any\""),
        ("host a b all peer", "peer is for local"),
        ("host a b all cert", "cert is for hostssl"),
        ("local a b cert", "cert is for hostssl"),
        ("local a b md5 map=x", "map is for the methods"),
        ("local a b md5 clientcert=verify-ca", "hostssl connections only"),
        ("hostssl a b all cert clientcert=verify-ca", "contradicts"),
        ("hostssl a b all md5 clientcert=1", "verify-ca or verify-full"),
        ("local a b md5 extra", "of the form name=value"),
        ("local a b md5 ldapbindpasswd=hunter2", "\"ldapbindpasswd\" is not supported"),
    ] {
        if text.is_empty() {
            assert_eq!(rules(text), Rules::default());
            continue;
        }
        let said = fault(text);
        assert!(said.contains(reason) && said.starts_with("hba:1: "), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
    let all = fault("local a\nlocal a b trust\nhost a b all peer");
    assert_eq!(all.lines().count(), 2);
}

#[test]
fn maps() {
    let text = "m root ann\nm /^(.*)@example\\.org$ \\1\nall /. all\nr bob +staff\nx bob /^b\n";
    let maps = IdentMaps::parse(&read(text).unwrap()).unwrap();
    let roles = ["staff".to_owned()];
    for (map, system, user, allowed) in [
        (None, "ann", "ann", true),
        (None, "root", "ann", false),
        (Some("m"), "root", "ann", true),
        (Some("m"), "root", "root", false),
        (Some("m"), "bob@example.org", "bob", true),
        (Some("m"), "bob@example.org", "ann", false),
        (Some("m"), "bob@example.com", "bob", false),
        (Some("all"), "whoever", "ann", true),
        (Some("r"), "bob", "ann", true),
        (Some("x"), "bob", "bert", true),
        (Some("x"), "bob", "ann", false),
        (Some("none"), "ann", "ann", false),
    ] {
        assert_eq!(maps.allow(map, system, user, &roles), allowed, "{map:?} {system} {user}");
    }
    assert!(!maps.allow(Some("r"), "bob", "ann", &[]));
    assert!(maps.has("m") && !maps.has("none") && maps.ask_for_roles());
    for text in ["m a", "m a b c", "m /( b", "m a,b c"] {
        assert!(IdentMaps::parse(&read(text).unwrap()).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in "[ -~\n\t,\"\\\\#é]{0,200}") {
        if let Ok(lines) = read(&text) {
            if let Ok(rules) = Rules::parse(&lines) {
                let _ = rules.find(&NOBODY);
            }
            if let Ok(maps) = IdentMaps::parse(&lines) {
                let _ = maps.allow(Some("m"), "a", "b", &[]);
            }
        }
    }

    #[test]
    fn any_name_in_quotes_is_that_name(name in "[ -~é]{0,40}") {
        let text = format!("local \"{}\" all trust", name.replace('"', "\"\""));
        let visitor = Visitor { database: &name, ..NOBODY };
        // A backslash at the end of a line would go on; here the line goes on behind it.
        prop_assert_eq!(line(&text, &visitor), 1);
    }
}
