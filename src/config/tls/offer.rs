//! From the names that settings pick to what the TLS library takes: versions, cipher suites, groups.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::version::{TLS12, TLS13};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use super::super::kinds::tls::Picked;

/// A provider that has what was picked and nothing else, in the order of the picks.
pub(super) fn provider(
    ciphers: &Picked,
    ciphers_13: &Picked,
    curves: Option<&Picked>,
) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let names = ciphers_13.names().iter().chain(ciphers.names());
    provider.cipher_suites = names.map(|name| cipher_suite(name)).collect();
    if let Some(curves) = curves {
        provider.kx_groups = curves.names().iter().map(|name| group(name)).collect();
    }
    Arc::new(provider)
}

/// The versions that were picked.
pub(super) fn versions(picked: &Picked) -> Vec<&'static SupportedProtocolVersion> {
    let version = |name: &&str| if *name == "tlsv1.3" { &TLS13 } else { &TLS12 };
    picked.names().iter().map(version).collect()
}

fn cipher_suite(name: &str) -> SupportedCipherSuite {
    match name {
        "TLS_AES_256_GCM_SHA384" => suite::TLS13_AES_256_GCM_SHA384,
        "TLS_AES_128_GCM_SHA256" => suite::TLS13_AES_128_GCM_SHA256,
        "TLS_CHACHA20_POLY1305_SHA256" => suite::TLS13_CHACHA20_POLY1305_SHA256,
        "ECDHE-ECDSA-AES256-GCM-SHA384" => suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-AES128-GCM-SHA256" => suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-CHACHA20-POLY1305" => suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-AES256-GCM-SHA384" => suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-AES128-GCM-SHA256" => suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-CHACHA20-POLY1305" => suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        _ => unreachable!("BUG: a cipher suite that can be picked is not there"),
    }
}

fn group(name: &str) -> &'static dyn SupportedKxGroup {
    match name {
        "X25519MLKEM768" => kx_group::X25519MLKEM768,
        "X25519" => kx_group::X25519,
        "prime256v1" => kx_group::SECP256R1,
        "secp384r1" => kx_group::SECP384R1,
        _ => unreachable!("BUG: a curve that can be picked is not there"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::kinds::tls::{CIPHERS, CIPHERS_13, CURVES, VERSIONS};
    use super::super::super::value::{Kind, Value};
    use super::*;

    #[test]
    fn everything_that_can_be_picked_is_there() {
        let all = |pick: &super::super::super::kinds::tls::Pick| {
            pick.read(&Value::text("default")).ok().unwrap()
        };
        let provider = provider(&all(&CIPHERS), &all(&CIPHERS_13), Some(&all(&CURVES)));
        let by_default = aws_lc_rs::default_provider();
        assert_eq!(provider.cipher_suites, by_default.cipher_suites);
        let groups = |provider: &CryptoProvider| {
            provider.kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>()
        };
        assert_eq!(groups(&provider), groups(&by_default));
        assert_eq!(versions(&all(&VERSIONS)), [&TLS13, &TLS12]);
    }
}
