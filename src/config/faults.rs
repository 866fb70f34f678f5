//! Collecting mistakes while a file is read, and turning byte offsets into lines and columns.
//!
//! Places stay byte offsets until the end, because finding a column takes a walk along its
//! line. It must not know what the mistakes are.

use std::sync::Arc;

use super::error::{Diagnostic, Place, Problem};

/// The mistakes found so far.
#[derive(Default)]
pub(super) struct Faults(Vec<(Origin, Problem)>);

impl Faults {
    /// Adds one.
    pub(super) fn add(&mut self, origin: Origin, problem: Problem) {
        self.0.push((origin, problem));
    }

    /// The first one found.
    pub(super) fn into_first(self) -> Option<Problem> {
        self.0.into_iter().map(|(_, problem)| problem).next()
    }

    /// All of them, in the order of the file.
    pub(super) fn into_diagnostics(self, source: &SourceFile<'_>) -> Vec<Diagnostic> {
        let mut faults = self.0;
        faults.sort_by_key(|(origin, _)| *origin);
        let placed = faults.into_iter();
        placed
            .map(|(origin, problem)| Diagnostic { place: source.place(origin), problem })
            .collect()
    }
}

/// Where a value came from, cheap to carry. The order is that of the error list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// The file as a whole.
    File,
    /// A byte offset in the file.
    Offset(usize),
    /// An environment variable.
    Env(&'static str),
}

/// A file's name and text, for turning offsets into places.
pub(super) struct SourceFile<'a> {
    name: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> SourceFile<'a> {
    /// Notes where the lines start.
    pub(super) fn new(name: &str, text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { name: Arc::from(name), text, line_starts }
    }

    /// The place of an origin. An offset beyond the text counts as its end.
    pub(super) fn place(&self, origin: Origin) -> Place {
        let offset = match origin {
            Origin::File => return Place::File(Arc::clone(&self.name)),
            Origin::Env(variable) => return Place::Env(variable),
            Origin::Offset(offset) => offset.min(self.text.len()),
        };
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        // Characters that begin before the offset: right even if it splits one. A byte order
        // mark is invisible in editors and takes no column.
        let line_text = self.text.get(start..).unwrap_or_default();
        let before = line_text.char_indices().take_while(|(at, _)| start + at < offset);
        let column = before.filter(|(_, c)| *c != '\u{feff}').count() + 1;
        Place::At { file: Arc::clone(&self.name), line, column }
    }
}
