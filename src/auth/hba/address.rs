//! Addresses that a rule is about.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Line, Word};

/// Where a client may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    All,
    Net(IpNet),
}

impl Address {
    /// Reads the address of a rule, and tells how many fields it takes: a mask may stand in one of its
    /// own.
    pub(super) fn read(line: &Line, index: usize) -> Result<(Self, usize), String> {
        let word = line.single(index, "the address").map_err(|fault| fault.reason)?;
        if word.is("all") {
            return Ok((Self::All, 1));
        }
        if word.is("samehost") || word.is("samenet") {
            return Err(format!(
                "{} is not supported: name the addresses of this machine's networks",
                word.text
            ));
        }
        if let Ok(net) = word.text.parse::<IpNet>() {
            return Ok((Self::Net(net.trunc()), 1));
        }
        if word.text.contains('/') {
            return Err(format!("{:?} is no address with the length of its prefix", word.text));
        }
        match word.text.parse::<IpAddr>() {
            Ok(address) => {
                let mask = line.single(index + 1, "the mask").map_err(|fault| fault.reason)?;
                Ok((Self::Net(with_mask(address, mask)?), 2))
            }
            Err(_) => Err(format!(
                "host names are not supported, as DNS would say who comes in: name the addresses \
                 of {:?}",
                word.text
            )),
        }
    }

    /// Whether a client's address is meant. An IPv4 client that came by way of an IPv6 socket is one of
    /// IPv4, and of nothing else: which rule serves must not depend on the socket.
    pub(super) fn contains(&self, client: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Net(net) => net.contains(&client.to_canonical()),
        }
    }
}

fn with_mask(address: IpAddr, mask: &Word) -> Result<IpNet, String> {
    // A mask of the other family is none, whatever prefix its bits would make.
    let read = mask.text.parse::<IpAddr>().ok();
    let read = read.filter(|mask| mask.is_ipv4() == address.is_ipv4());
    let net = read.and_then(|mask| IpNet::with_netmask(address, mask).ok());
    net.map(|net| net.trunc()).ok_or_else(|| {
        format!(
            "{:?} is no mask for {address}: give the prefix's length, as in {address}/32",
            mask.text
        )
    })
}
