//! Names of what TLS may use: versions, cipher suites and curves, as OpenSSL and PgBouncer spell them.
//!
//! It knows the names and what of them pgbaton's TLS library has; it makes nothing of them.

use std::borrow::Cow;

use super::super::value::{Kind, Refusal, Value};

/// What was picked, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picked {
    text: String,
    names: Vec<&'static str>,
}

impl Picked {
    /// The names, in pgbaton's own spelling. Never empty.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A list that picks from a table.
pub(in crate::config) struct Pick {
    /// What there is: pgbaton's spelling, in its own order of preference, and words that mean it.
    table: &'static [(&'static str, &'static [&'static str])],
    /// Words that mean all of it.
    all: &'static [&'static str],
    /// Words that may be excluded and that nothing here is among.
    absent: &'static [&'static str],
    /// Words of OpenSSL's that are refused, and why.
    refused: &'static [&'static str],
    because: &'static str,
    expected: &'static str,
}

/// Versions of TLS.
pub(in crate::config) const VERSIONS: Pick = Pick {
    table: &[("tlsv1.3", &[]), ("tlsv1.2", &[])],
    all: &["secure", "all", "default", "legacy"],
    absent: &["tlsv1.0", "tlsv1.1", "tlsv1"],
    refused: &["tlsv1.0", "tlsv1.1", "tlsv1"],
    because: "TLS 1.0 and 1.1 are broken and are not offered: name tlsv1.2, tlsv1.3 or secure",
    expected: "tlsv1.2, tlsv1.3, secure or all",
};

/// Cipher suites of TLS 1.2.
pub(in crate::config) const CIPHERS: Pick = Pick {
    table: &[
        ("ECDHE-ECDSA-AES256-GCM-SHA384", &["AESGCM", "AES256", "ECDSA", "ECDHE+AESGCM"]),
        ("ECDHE-ECDSA-AES128-GCM-SHA256", &["AESGCM", "AES128", "ECDSA", "ECDHE+AESGCM"]),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", &["CHACHA20", "ECDSA", "ECDHE+CHACHA20"]),
        ("ECDHE-RSA-AES256-GCM-SHA384", &["AESGCM", "AES256", "aRSA", "ECDHE+AESGCM"]),
        ("ECDHE-RSA-AES128-GCM-SHA256", &["AESGCM", "AES128", "aRSA", "ECDHE+AESGCM"]),
        ("ECDHE-RSA-CHACHA20-POLY1305", &["CHACHA20", "aRSA", "ECDHE+CHACHA20"]),
    ],
    all: &[
        "default", "secure", "fast", "normal", "all", "legacy", "compat", "insecure", "HIGH",
        "ECDHE", "EECDH", "kEECDH", "TLSv1.2",
    ],
    absent: &[
        "aNULL", "eNULL", "NULL", "ADH", "AECDH", "MD5", "DES", "3DES", "RC4", "RC2", "EXPORT",
        "EXP", "PSK", "SRP", "DSS", "LOW", "MEDIUM", "SSLv2", "SSLv3", "CAMELLIA", "SEED", "IDEA",
        "ARIA", "kRSA", "RSA", "DH", "DHE", "EDH", "kDHE", "kEDH", "SHA1", "SHA", "CBC",
    ],
    refused: &[],
    because: "",
    expected: "names of TLS 1.2 cipher suites in OpenSSL's spelling that pgbaton has (ECDHE with \
               AES-GCM or ChaCha20-Poly1305), or default",
};

/// Cipher suites of TLS 1.3.
pub(in crate::config) const CIPHERS_13: Pick = Pick {
    table: &[
        ("TLS_AES_256_GCM_SHA384", &[]),
        ("TLS_AES_128_GCM_SHA256", &[]),
        ("TLS_CHACHA20_POLY1305_SHA256", &[]),
    ],
    all: &["", "default"],
    absent: &[],
    refused: &["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"],
    because: "CCM cipher suites are not offered: name those with GCM or ChaCha20",
    expected: "TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256 or TLS_CHACHA20_POLY1305_SHA256",
};

/// Curves and other groups for exchanging keys.
pub(in crate::config) const CURVES: Pick = Pick {
    table: &[
        ("X25519MLKEM768", &[]),
        ("X25519", &[]),
        ("prime256v1", &["secp256r1", "P-256"]),
        ("secp384r1", &["P-384"]),
    ],
    all: &["auto", "default"],
    absent: &[],
    refused: &["none", "secp521r1", "P-521"],
    because: "that curve is not offered: name X25519MLKEM768, X25519, prime256v1 or secp384r1, or auto",
    expected: "auto, or a list of X25519MLKEM768, X25519, prime256v1 and secp384r1",
};

impl Pick {
    fn pick(&self, text: &str) -> Result<Vec<&'static str>, Refusal> {
        let mut picked: Vec<&'static str> = Vec::new();
        let mut excluded: Vec<&'static str> = Vec::new();
        let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let words = text.split([',', ':', ' ', '\t']).map(str::trim);
        let words = words.filter(|word| !word.is_empty() || text.trim().is_empty());
        // `@STRENGTH` and its like sort, and the suites that there are are in order.
        for word in words.filter(|word| !word.starts_with('@')) {
            let (is_excluded, word) = match word.strip_prefix(['!', '-']) {
                Some(word) => (true, word),
                // An order of preference is what `+` asks for; what is here has one already.
                None => (false, word.strip_prefix('+').unwrap_or(word)),
            };
            let means = |(name, others): &&(&'static str, &'static [&'static str])| {
                is(name, word) || others.iter().any(|other| is(other, word))
            };
            let meant: Vec<_> = if self.all.iter().any(|all| is(all, word)) {
                self.table.iter().map(|(name, _)| *name).collect()
            } else {
                self.table.iter().filter(means).map(|(name, _)| *name).collect()
            };
            if is_excluded {
                if meant.is_empty() && !self.absent.iter().any(|absent| is(absent, word)) {
                    return Err(Refusal::expected(self.expected));
                }
                excluded.extend(meant);
            } else if meant.is_empty() && self.refused.iter().any(|refused| is(refused, word)) {
                return Err(Refusal::Because(self.because));
            } else if meant.is_empty() {
                // Weak words among strong ones pick nothing.
                if !matches!(word, "MEDIUM" | "3DES") || self.absent.is_empty() {
                    return Err(Refusal::expected(self.expected));
                }
            } else {
                picked.extend(
                    meant.into_iter().filter(|name| !picked.contains(name)).collect::<Vec<_>>(),
                );
            }
        }
        picked.retain(|name| !excluded.contains(name));
        if picked.is_empty() { Err(Refusal::expected(self.expected)) } else { Ok(picked) }
    }
}

impl Kind<Picked> for Pick {
    fn read(&self, value: &Value) -> Result<Picked, Refusal> {
        let text = match value {
            Value::Text(text) => text.trim().to_owned(),
            Value::List(items) => {
                let words = items.iter().map(|item| match item {
                    Value::Text(text) => Ok(text.as_str().to_owned()),
                    _ => Err(Refusal::expected(self.expected)),
                });
                words.collect::<Result<Vec<_>, _>>()?.join(",")
            }
            _ => return Err(Refusal::expected(self.expected)),
        };
        let names = self.pick(&text)?;
        Ok(Picked { text, names })
    }

    fn show(&self, value: &Picked) -> String {
        value.text.clone()
    }

    fn range(&self) -> Cow<'static, str> {
        self.expected.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(pick: &Pick, text: &str) -> Result<Vec<&'static str>, Refusal> {
        pick.read(&Value::text(text)).map(|picked| picked.names().to_vec())
    }

    #[test]
    fn versions() {
        for all in
            ["secure", "all", "default", "tlsv1.2,tlsv1.3", "tlsv1.2:tlsv1.3", "TLSv1.3 tlsv1.2"]
        {
            assert_eq!(picked(&VERSIONS, all).unwrap().len(), 2, "{all}");
        }
        assert_eq!(picked(&VERSIONS, "tlsv1.3"), Ok(vec!["tlsv1.3"]));
        assert_eq!(picked(&VERSIONS, "all,!tlsv1.0,!tlsv1.1,!tlsv1.2"), Ok(vec!["tlsv1.3"]));
        assert!(matches!(picked(&VERSIONS, "tlsv1.0,tlsv1.2"), Err(Refusal::Because(_))));
        for bad in ["", "tlsv1.4", "tlsv1.3,!tlsv1.3", "sslv3"] {
            assert!(matches!(picked(&VERSIONS, bad), Err(Refusal::Expected(_))), "{bad}");
        }
    }

    #[test]
    fn cipher_lists_as_they_are_found_in_the_wild() {
        for all in [
            "default",
            "secure",
            "fast",
            "HIGH:!aNULL:!MD5",
            "HIGH:MEDIUM:+3DES:!aNULL",
            "ECDHE:!RC4",
            "HIGH+kEECDH",
        ] {
            let found = picked(&CIPHERS, all);
            if all.contains("HIGH+") {
                assert!(found.is_err());
            } else {
                assert_eq!(found.unwrap().len(), 6, "{all}");
            }
        }
        let one = picked(&CIPHERS, "ECDHE-RSA-AES128-GCM-SHA256");
        assert_eq!(one, Ok(vec!["ECDHE-RSA-AES128-GCM-SHA256"]));
        assert_eq!(picked(&CIPHERS, "HIGH:!CHACHA20").unwrap().len(), 4);
        assert_eq!(picked(&CIPHERS, "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL").unwrap().len(), 6);
        for bad in ["RC4", "AES128-SHA", "", "HIGH:@STRENGTH:!ECDHE", "!HIGH"] {
            assert!(picked(&CIPHERS, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn suites_of_13_and_curves() {
        assert_eq!(picked(&CIPHERS_13, "").unwrap().len(), 3);
        let one = picked(&CIPHERS_13, "TLS_AES_128_GCM_SHA256");
        assert_eq!(one, Ok(vec!["TLS_AES_128_GCM_SHA256"]));
        assert!(picked(&CIPHERS_13, "TLS_AES_128_CCM_SHA256").is_err());
        assert_eq!(picked(&CURVES, "auto").unwrap().len(), 4);
        assert_eq!(picked(&CURVES, "P-256:X25519"), Ok(vec!["prime256v1", "X25519"]));
        assert!(matches!(picked(&CURVES, "secp521r1"), Err(Refusal::Because(_))));
    }

    #[test]
    fn what_is_shown_reads_the_same() {
        for (pick, text) in [(&CIPHERS, "HIGH:!aNULL"), (&VERSIONS, "secure"), (&CURVES, "auto")] {
            let read = pick.read(&Value::text(text)).unwrap();
            assert_eq!(pick.read(&Value::text(pick.show(&read))).unwrap(), read);
        }
    }
}
