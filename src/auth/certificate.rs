//! What logins need of an X.509 certificate: the names of its owner, and the hash that SCRAM binds to.
//!
//! Whether a certificate is to be trusted is not looked at here.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// Who a certificate was made out to. Texts that are not UTF-8, or hold NUL, are left out: they could be
/// read one way by who signed them and another way here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The last common name of its subject; PostgreSQL looks at one only.
    pub common_name: Option<String>,
    /// Its subject in the form of RFC 2253, most specific part first.
    pub distinguished_name: Option<String>,
    /// The DNS names, mail addresses and URIs among its alternative names.
    pub alternative_names: Vec<String>,
}

impl CertificateNames {
    /// Reads the names of a certificate in DER form; none if it cannot be read.
    #[must_use]
    pub fn read(der: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Self::default();
        };
        let subject = certificate.subject();
        let common_name = subject.iter_common_name().last().and_then(|name| name.as_str().ok());
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let alternative = alternative.map(|found| found.value.general_names.as_slice());
        Self {
            common_name: common_name.and_then(clean),
            distinguished_name: distinguished_name(subject),
            alternative_names: alternative
                .unwrap_or_default()
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(text)
                    | GeneralName::RFC822Name(text)
                    | GeneralName::URI(text) => clean(text),
                    _ => None,
                })
                .collect(),
        }
    }
}

fn clean(text: &str) -> Option<String> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned())
}

/// RFC 2253, as OpenSSL prints it for PostgreSQL: the last part first, commas between.
fn distinguished_name(subject: &x509_parser::x509::X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for part in subject.iter() {
        let mut values = Vec::new();
        for value in part.iter() {
            let kind = x509_parser::objects::oid2abbrev(
                value.attr_type(),
                x509_parser::objects::oid_registry(),
            );
            let kind =
                kind.map_or_else(|_| value.attr_type().to_id_string(), |kind| kind.to_owned());
            values.push(format!("{kind}={}", escaped(value.as_str().ok()?)));
        }
        parts.push(values.join("+"));
    }
    parts.reverse();
    clean(&parts.join(","))
}

/// A value with what would end it, or be taken for something else, behind a backslash.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        let is_edge_space = character == ' ' && (index == 0 || index == last);
        let is_special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        if is_special || is_edge_space || (character == '#' && index == 0) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// What SCRAM binds a connection to that was made with this certificate: its hash by the hash function
/// of its signature, SHA-256 in the place of weaker ones. `None` if the signature has none, as with
/// Ed25519: such a connection cannot be bound to. Source: RFC 5929 section 4.1.
#[must_use]
pub fn end_point(der: &[u8]) -> Option<Box<[u8]>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let hash = match SignatureAlgorithm::try_from(&certificate.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(params)) => params.hash_algorithm_oid().to_id_string(),
        _ => certificate.signature_algorithm.algorithm.to_id_string(),
    };
    match hash.as_str() {
        // MD5 and SHA-1, alone and with RSA, ECDSA and DSA; SHA-256 likewise.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.3.14.3.2.26"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2"
        | "2.16.840.1.101.3.4.3.2"
        | "2.16.840.1.101.3.4.2.1" => Some(Box::from(&Sha256::digest(der)[..])),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Box::from(&Sha384::digest(der)[..]))
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Box::from(&Sha512::digest(der)[..]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, DnType, DnValue, KeyPair, PKCS_ECDSA_P256_SHA256,
        PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SignatureAlgorithm,
    };

    use super::*;

    fn made(signature: &'static SignatureAlgorithm, params: CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate_for(signature).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let params = || CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let der = made(&PKCS_ECDSA_P256_SHA256, params());
        assert_eq!(end_point(&der).as_deref(), Some(&Sha256::digest(&der)[..]));
        let der = made(&PKCS_ECDSA_P384_SHA384, params());
        assert_eq!(end_point(&der).as_deref(), Some(&Sha384::digest(&der)[..]));
        assert_eq!(end_point(&made(&PKCS_ED25519, params())), None);
        assert_eq!(end_point(b"garbage"), None);
        assert_eq!(end_point(b""), None);
    }

    #[test]
    fn names_are_read() {
        let mut params = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Say, \"hi\"");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names.push(SanType::Rfc822Name("ann@example".try_into().unwrap()));
        let names = CertificateNames::read(&made(&PKCS_ECDSA_P256_SHA256, params));
        assert_eq!(names.common_name.as_deref(), Some("ann"));
        assert_eq!(names.distinguished_name.as_deref(), Some(r#"CN=ann,O=Say\, \"hi\""#));
        assert_eq!(names.alternative_names, ["db.example", "ann@example"]);
        assert_eq!(CertificateNames::read(b"\x30\x03garbage"), CertificateNames::default());
    }

    #[test]
    fn a_name_with_nul_is_none() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let forged = DnValue::Utf8String("postgres\0.example".to_owned());
        params.distinguished_name.push(DnType::CommonName, forged);
        let names = CertificateNames::read(&made(&PKCS_ECDSA_P256_SHA256, params));
        assert_eq!(names, CertificateNames::default());
    }
}
