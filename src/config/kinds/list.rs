//! Lists: a TOML array of strings, or PgBouncer's comma-separated string.
//!
//! It knows no keys. Order is kept and repeated entries are kept once.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::value::{Kind, Refusal, Value};

/// A list of names.
pub(in crate::config) struct NameList;

impl Kind<Vec<String>> for NameList {
    fn read(&self, value: &Value) -> Result<Vec<String>, Refusal> {
        items(value).ok_or_else(|| {
            Refusal::expected("an array of non-empty strings, or one string with commas")
        })
    }

    fn show(&self, value: &Vec<String>) -> String {
        value.join(", ")
    }

    fn range(&self) -> Cow<'static, str> {
        "a list of names, may be empty".into()
    }
}

/// The entries of a list, trimmed; `None` if it is none or holds an entry that is no name.
pub(super) fn items(value: &Value) -> Option<Vec<String>> {
    let mut items: Vec<String> = Vec::new();
    let mut add = |item: &str| {
        if !items.iter().any(|known| known == item) {
            items.push(item.to_owned());
        }
    };
    match value {
        Value::Text(text) if !text.contains('\0') => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).for_each(&mut add);
        }
        Value::List(values) => {
            for value in values {
                let Value::Text(text) = value else {
                    return None;
                };
                let item = text.trim();
                if item.is_empty() || item.contains('\0') {
                    return None;
                }
                add(item);
            }
        }
        _ => return None,
    }
    Some(items)
}

/// A list of networks, each an address or one with the length of its prefix.
pub(in crate::config) struct Networks;

impl Kind<Vec<IpNet>> for Networks {
    fn read(&self, value: &Value) -> Result<Vec<IpNet>, Refusal> {
        let form = "networks such as 10.0.0.0/8, as an array or one string with commas";
        let items = items(value).ok_or_else(|| Refusal::expected(form))?;
        let network = |item: &String| {
            let net = item.parse::<IpNet>().ok();
            net.or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
        };
        let networks: Option<Vec<_>> = items.iter().map(network).collect();
        networks.ok_or_else(|| Refusal::expected(form))
    }

    fn show(&self, value: &Vec<IpNet>) -> String {
        value.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
    }

    fn range(&self) -> Cow<'static, str> {
        "a list of networks such as 10.0.0.0/8, may be empty".into()
    }
}
