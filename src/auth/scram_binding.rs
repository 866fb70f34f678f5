//! Channel binding: tying a SCRAM exchange to the TLS connection that it runs in, so that nobody in
//! the middle can pass it on (RFC 5802 section 6, RFC 5929 section 4).
//!
//! Knows no TLS: the data comes from whoever made the connection.

use super::scram::{MECHANISM, MECHANISM_PLUS};
use super::scram_error::{Malformed, ScramError};
use super::scram_message::encode_base64;

/// The hash of the server's certificate that `tls-server-end-point` means.
pub type EndPoint = [u8];

/// The only binding type of PostgreSQL's.
const TYPE: &[u8] = b"tls-server-end-point";

/// What the server of an exchange offers, and what the client has made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer<'a> {
    /// No TLS, or nothing of it that could be bound to.
    Nothing,
    /// Binding was on offer, and the client chose the mechanism without it.
    Declined,
    /// The client chose the mechanism with it.
    Chosen(&'a EndPoint),
}

impl<'a> Offer<'a> {
    /// What the client's choice of a mechanism comes to.
    ///
    /// # Errors
    ///
    /// [`ScramError::Mechanism`] if it was not on offer.
    pub fn by_mechanism(
        mechanism: &[u8],
        end_point: Option<&'a EndPoint>,
    ) -> Result<Self, ScramError> {
        match end_point {
            Some(_) if mechanism == MECHANISM => Ok(Self::Declined),
            Some(end_point) if mechanism == MECHANISM_PLUS => Ok(Self::Chosen(end_point)),
            None if mechanism == MECHANISM => Ok(Self::Nothing),
            _ => Err(ScramError::Mechanism),
        }
    }

    /// Reads the flag of a client's first message: gives what `c=` of its last one must be, and what
    /// is behind the flag.
    pub(super) fn read(self, message: &[u8]) -> Result<(String, &[u8]), ScramError> {
        let (flag, rest) = match message {
            [b'p', b'=', rest @ ..] => {
                let end = memchr::memchr(b',', rest).unwrap_or(rest.len());
                (b'p', rest.split_at(end))
            }
            [b'p', ..] => return Err(Malformed::Equals.into()),
            [flag @ (b'n' | b'y'), rest @ ..] => (*flag, (&[][..], rest)),
            _ => return Err(Malformed::ChannelBindingFlag.into()),
        };
        let (kind, rest) = rest;
        match (flag, self) {
            (b'n', Self::Nothing | Self::Declined) => Ok((header(b"n,,", &[]), rest)),
            (b'y', Self::Nothing) => Ok((header(b"y,,", &[]), rest)),
            // It believes that we have none: somebody between has taken it off the list.
            (b'y', Self::Declined) => Err(ScramError::Downgrade),
            (b'n' | b'y', Self::Chosen(_)) => Err(Malformed::NoChannelBindingData.into()),
            (_, Self::Chosen(end_point)) if kind == TYPE => {
                Ok((header(&[b"p=", TYPE, b",,"].concat(), end_point), rest))
            }
            (_, Self::Chosen(_)) => Err(ScramError::BindingType),
            (_, Self::Nothing | Self::Declined) => Err(Malformed::ChannelBindingData.into()),
        }
    }
}

/// What the client of an exchange knows of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientBinding<'a> {
    /// No TLS, or nothing of it that could be bound to.
    #[default]
    Nothing,
    /// It could be bound to, but the server has not offered that.
    NotOffered,
    /// The exchange is bound to this connection.
    Bound(&'a EndPoint),
}

impl ClientBinding<'_> {
    /// The mechanism that goes with it.
    #[must_use]
    pub fn mechanism(self) -> &'static [u8] {
        match self {
            Self::Nothing | Self::NotOffered => MECHANISM,
            Self::Bound(_) => MECHANISM_PLUS,
        }
    }

    /// The beginning of the client's first message.
    pub(super) fn gs2_header(self) -> &'static str {
        match self {
            Self::Nothing => "n,,",
            Self::NotOffered => "y,,",
            Self::Bound(_) => "p=tls-server-end-point,,",
        }
    }

    /// `c=` of the client's last message.
    pub(super) fn attribute(self) -> String {
        let end_point = match self {
            Self::Bound(end_point) => end_point,
            Self::Nothing | Self::NotOffered => &[],
        };
        header(self.gs2_header().as_bytes(), end_point)
    }
}

fn header(gs2: &[u8], end_point: &EndPoint) -> String {
    encode_base64(&[gs2, end_point].concat())
}
