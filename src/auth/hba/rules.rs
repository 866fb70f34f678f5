//! What a rule says, and which one serves a connection.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::address::Address;
use super::pattern::Pattern;

/// All rules, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    pub(super) rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) connection: Connection,
    pub(super) databases: Vec<Databases>,
    pub(super) users: Vec<Users>,
    pub(super) address: Address,
    /// How the client proves itself.
    pub method: Method,
    /// `map=`: the map from system names to users.
    pub map: Option<String>,
    /// `clientname=`: what of a certificate is the system name.
    pub cert_name: CertName,
    /// `clientcert=`: it must show a trusted certificate besides.
    pub needs_certificate: bool,
    /// And the certificate must be the user's.
    pub certificate_is_users: bool,
}

/// Prints where it stands.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// How a client proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// It need not.
    Trust,
    /// It is turned away.
    Reject,
    /// By its password in clear.
    Password,
    /// By MD5, or SCRAM if its secret is a verifier.
    Md5,
    /// By SCRAM.
    ScramSha256,
    /// By its certificate.
    Cert,
    /// By the system's word on a Unix socket.
    Peer,
}

/// What of a certificate is its owner's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CertName {
    /// The common name.
    #[default]
    Common,
    /// The whole subject, as RFC 2253 writes it.
    Distinguished,
    /// Any of its alternative names.
    Alternative,
}

/// The kind of connection that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
    /// GSS encryption, which there never is.
    Never,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Databases {
    All,
    SameUser,
    SameRole,
    Replication,
    These(Pattern),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Users {
    All,
    Members(String),
    These(Pattern),
}

/// Who wants in, and how that one came.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// The client's address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether the connection is under TLS.
    pub is_tls: bool,
    /// The database that it asks for.
    pub database: &'a str,
    /// Who it says it is.
    pub user: &'a str,
    /// Whether it wants physical replication, which is about no database.
    pub is_physical_replication: bool,
    /// The roles that the user is a member of, if [`Rules::ask_for_roles`] wants them known.
    pub roles: &'a [String],
}

impl Rules {
    /// The first rule that fits.
    #[must_use]
    pub fn find(&self, visitor: &Visitor<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(visitor))
    }

    /// Whether roles must be known, for `+role` or `samerole`.
    #[must_use]
    pub fn ask_for_roles(&self) -> bool {
        self.rules.iter().any(|rule| {
            rule.users.iter().any(|users| matches!(users, Users::Members(_)))
                || rule.databases.contains(&Databases::SameRole)
        })
    }

    /// All rules, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }
}

impl Rule {
    fn fits(&self, visitor: &Visitor<'_>) -> bool {
        self.connection_fits(visitor)
            && self.databases.iter().any(|databases| databases.contain(visitor))
            && self.users.iter().any(|users| users.contain(visitor))
    }

    fn connection_fits(&self, visitor: &Visitor<'_>) -> bool {
        let Some(address) = visitor.address else {
            return self.connection == Connection::Local;
        };
        let fits = match self.connection {
            Connection::Local | Connection::Never => false,
            Connection::Host => true,
            Connection::HostSsl => visitor.is_tls,
            Connection::HostNoSsl => !visitor.is_tls,
        };
        fits && self.address.contains(address)
    }
}

impl Visitor<'_> {
    fn is_member(&self, role: &str) -> bool {
        self.user == role || self.roles.iter().any(|own| own == role)
    }
}

impl Databases {
    fn contain(&self, visitor: &Visitor<'_>) -> bool {
        if visitor.is_physical_replication {
            return *self == Self::Replication;
        }
        match self {
            Self::All => true,
            Self::SameUser => visitor.database == visitor.user,
            Self::SameRole => visitor.is_member(visitor.database),
            Self::Replication => false,
            Self::These(pattern) => pattern.matches(visitor.database),
        }
    }
}

impl Users {
    fn contain(&self, visitor: &Visitor<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Members(role) => visitor.is_member(role),
            Self::These(pattern) => pattern.matches(visitor.user),
        }
    }
}
