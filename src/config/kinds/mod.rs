//! The kinds of value that settings have, one file each: type, reader, printer, range.
//!
//! They know no keys and no places in a file; `Kind` in `value` is their common face.

pub(super) mod duration;
pub(super) mod flag;
pub(super) mod host;
pub(super) mod list;
pub(super) mod number;
pub(super) mod path;
pub(super) mod secret;
pub(super) mod tls;
pub(super) mod word;
