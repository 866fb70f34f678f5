//! Lines of `pg_hba.conf` into rules.

use super::address::Address;
use super::pattern::Pattern;
use super::rules::{CertName, Connection, Databases, Method, Rule, Rules, Users};
use super::{Fault, Line, Word};

impl Rules {
    /// Reads the rules; includes and lists in files are resolved already.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn parse(lines: &[Line]) -> Result<Self, Vec<Fault>> {
        let (mut rules, mut faults) = (Vec::with_capacity(lines.len()), Vec::new());
        for line in lines {
            match rule(line) {
                Ok(rule) => rules.push(rule),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Self { rules }) } else { Err(faults) }
    }
}

fn rule(line: &Line) -> Result<Rule, Fault> {
    let fault = |reason: String| line.fault(reason);
    let connection = connection(line.single(0, "the kind of connection")?).map_err(fault)?;
    let list = |index: usize, what: &str| {
        line.fields.get(index).ok_or_else(|| line.fault(format!("{what} is missing")))
    };
    let databases = list(1, "the database")?.iter().map(databases).collect::<Result<_, _>>();
    let users = list(2, "the user")?.iter().map(users).collect::<Result<_, _>>();
    let (address, taken) = match connection {
        Connection::Local => (Address::All, 0),
        _ => Address::read(line, 3).map_err(fault)?,
    };
    let place = 3 + taken;
    let method = method(line.single(place, "the method")?).map_err(fault)?;
    let mut rule = Rule {
        file: line.file.clone(),
        line: line.number,
        connection,
        databases: databases.map_err(fault)?,
        users: users.map_err(fault)?,
        address,
        method,
        map: None,
        cert_name: CertName::default(),
        needs_certificate: method == Method::Cert,
        certificate_is_users: method == Method::Cert,
    };
    for index in place + 1..line.fields.len() {
        let word = line.single(index, "an option")?;
        option(&mut rule, word).map_err(fault)?;
    }
    match (method, connection) {
        (Method::Peer, Connection::Local) => Ok(rule),
        (Method::Peer, _) => Err(line.fault("peer is for local connections only")),
        (Method::Cert, Connection::HostSsl) => Ok(rule),
        (Method::Cert, _) => Err(line.fault("cert is for hostssl connections only")),
        _ => Ok(rule),
    }
}

fn connection(word: &Word) -> Result<Connection, String> {
    Ok(match word.text.as_str() {
        "local" => Connection::Local,
        "host" | "hostnogssenc" => Connection::Host,
        "hostssl" => Connection::HostSsl,
        "hostnossl" => Connection::HostNoSsl,
        "hostgssenc" => Connection::Never,
        other => {
            return Err(format!(
                "expected local, host, hostssl, hostnossl or hostnogssenc, found {other:?}"
            ));
        }
    })
}

fn databases(word: &Word) -> Result<Databases, String> {
    Ok(match word {
        word if word.is("all") => Databases::All,
        word if word.is("sameuser") => Databases::SameUser,
        word if word.is("samerole") || word.is("samegroup") => Databases::SameRole,
        word if word.is("replication") => Databases::Replication,
        word => Databases::These(Pattern::read(word)?),
    })
}

fn users(word: &Word) -> Result<Users, String> {
    if word.is("all") {
        return Ok(Users::All);
    }
    match word.behind('+') {
        Some(role) => Ok(Users::Members(role.to_owned())),
        None => Ok(Users::These(Pattern::read(word)?)),
    }
}

fn method(word: &Word) -> Result<Method, String> {
    Ok(match word.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        // PgBouncer's word for it.
        "password" | "plain" => Method::Password,
        "md5" => Method::Md5,
        "scram-sha-256" => Method::ScramSha256,
        "cert" => Method::Cert,
        "peer" => Method::Peer,
        "ldap" | "pam" => {
            return Err(format!(
                "{} is not supported by this version: use scram-sha-256, cert or auth_query",
                word.text
            ));
        }
        "gss" | "sspi" | "ident" | "radius" | "bsd" | "oauth" => {
            return Err(format!("{} is not supported: use scram-sha-256 or cert", word.text));
        }
        // What is behind an equals sign may be a secret in a wrong place.
        other => {
            let name = other.split('=').next().unwrap_or_default();
            return Err(format!("unknown method {name:?}"));
        }
    })
}

fn option(rule: &mut Rule, word: &Word) -> Result<(), String> {
    let Some((name, value)) = word.text.split_once('=') else {
        return Err(format!("expected an option of the form name=value, found {:?}", word.text));
    };
    let is_ssl = rule.connection == Connection::HostSsl;
    match (name, value) {
        ("map", map) if matches!(rule.method, Method::Cert | Method::Peer) => {
            rule.map = Some(map.to_owned());
        }
        ("map", _) => return Err("map is for the methods cert and peer".to_owned()),
        ("clientcert" | "clientname", _) if !is_ssl => {
            return Err(format!("{name} is for hostssl connections only"));
        }
        // It has the stronger of the two anyway.
        ("clientcert", "verify-full") => {
            rule.needs_certificate = true;
            rule.certificate_is_users = true;
        }
        ("clientcert", "verify-ca") if rule.method == Method::Cert => {
            return Err("clientcert=verify-ca contradicts the method cert".to_owned());
        }
        ("clientcert", "verify-ca") => rule.needs_certificate = true,
        ("clientcert", _) => {
            return Err("clientcert is verify-ca or verify-full".to_owned());
        }
        ("clientname", "CN") => rule.cert_name = CertName::Common,
        ("clientname", "DN") => rule.cert_name = CertName::Distinguished,
        ("clientname", "SAN") => rule.cert_name = CertName::Alternative,
        ("clientname", _) => return Err("clientname is CN, DN or SAN".to_owned()),
        (name, _) => {
            return Err(format!(
                "option {name:?} is not supported; map, clientcert and clientname are"
            ));
        }
    }
    Ok(())
}
