//! What a TLS connection has agreed on, in OpenSSL's names, which are those that PgBouncer shows.

use std::fmt;

use rustls::{CipherSuite, CommonState, NamedGroup, ProtocolVersion};

/// Version, cipher suite and key exchange of a connection. Prints as PgBouncer's column `tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsKind {
    version: ProtocolVersion,
    suite: CipherSuite,
    group: Option<NamedGroup>,
}

impl TlsKind {
    pub(super) fn of(state: &CommonState) -> Self {
        Self {
            version: state.protocol_version().unwrap_or(ProtocolVersion::Unknown(0)),
            suite: state
                .negotiated_cipher_suite()
                .map_or(CipherSuite::Unknown(0), |suite| suite.suite()),
            group: state.negotiated_key_exchange_group().map(|group| group.name()),
        }
    }
}

impl fmt::Display for TlsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            ProtocolVersion::TLSv1_3 => {
                let suite = self.suite.as_str().unwrap_or("unknown");
                write!(f, "TLSv1.3/{}", suite.replacen("TLS13_", "TLS_", 1))
            }
            ProtocolVersion::TLSv1_2 => {
                write!(f, "TLSv1.2/{}", openssl_name(self.suite.as_str().unwrap_or("unknown")))?;
                match self.group {
                    Some(group) => write!(f, "/ECDH={}", curve(group)),
                    None => Ok(()),
                }
            }
            _ => f.write_str("unknown"),
        }
    }
}

/// `TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384` is `ECDHE-RSA-AES256-GCM-SHA384` there.
fn openssl_name(suite: &str) -> String {
    let name = suite.strip_prefix("TLS_").unwrap_or(suite).replace("_WITH_", "_");
    let name = name.replace("AES_", "AES").replace("POLY1305_SHA256", "POLY1305");
    name.replace('_', "-")
}

fn curve(group: NamedGroup) -> String {
    match group {
        NamedGroup::X25519 => "X25519".to_owned(),
        NamedGroup::secp256r1 => "prime256v1".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_openssls() {
        let shown = |version, suite, group| TlsKind { version, suite, group }.to_string();
        use CipherSuite as C;
        use ProtocolVersion::{TLSv1_2, TLSv1_3};
        let x25519 = Some(NamedGroup::X25519);
        assert_eq!(
            shown(TLSv1_3, C::TLS13_AES_256_GCM_SHA384, x25519),
            "TLSv1.3/TLS_AES_256_GCM_SHA384"
        );
        assert_eq!(
            shown(TLSv1_3, C::TLS13_CHACHA20_POLY1305_SHA256, x25519),
            "TLSv1.3/TLS_CHACHA20_POLY1305_SHA256"
        );
        assert_eq!(
            shown(TLSv1_2, C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, Some(NamedGroup::secp256r1)),
            "TLSv1.2/ECDHE-RSA-AES128-GCM-SHA256/ECDH=prime256v1"
        );
        assert_eq!(
            shown(TLSv1_2, C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, x25519),
            "TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305/ECDH=X25519"
        );
    }
}
