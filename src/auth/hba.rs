//! Who may come in from where, and how they prove themselves: the rules of `pg_hba.conf`, and the maps
//! of `pg_ident.conf` from names that a system knows to users of PostgreSQL.
//!
//! Source: PostgreSQL's chapter on client authentication. Pure: files are read by whoever has them, and
//! come as lines of words. What a pooler cannot do is refused with a sentence and never skipped: a rule
//! that has no effect would let in whom the next one lets in. Invariant: the first rule that fits
//! decides.

use std::fmt;
use std::sync::Arc;

mod address;
mod ident;
mod parse;
mod pattern;
mod rules;
#[cfg(test)]
mod tests;
mod words;

pub use ident::IdentMaps;
pub use rules::{CertName, Method, Rule, Rules, Visitor};
pub use words::{Word, lines};

/// A line of a file, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The file.
    pub file: Arc<str>,
    /// Where the line begins, counted from 1.
    pub number: usize,
    /// Its fields, each a list of words.
    pub fields: Vec<Vec<Word>>,
}

/// What is wrong with a line. The reason quotes nothing that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: Arc<str>,
    /// Where the line begins, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

impl Line {
    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault { file: self.file.clone(), line: self.number, reason: reason.into() }
    }

    /// A field that must be a single word.
    fn single(&self, index: usize, what: &str) -> Result<&Word, Fault> {
        match self.fields.get(index).map(Vec::as_slice) {
            Some([word]) => Ok(word),
            Some(_) => Err(self.fault(format!("{what} must be one word, not a list"))),
            None => Err(self.fault(format!("{what} is missing"))),
        }
    }
}
