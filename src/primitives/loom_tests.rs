//! What the loom tests of other rooms share: how far they explore, and what they have seen.
//!
//! Must not know what is explored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// How often each outcome was seen in an exploration.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<[AtomicUsize; 4]>);

impl Seen {
    /// One exploration ended so.
    pub(crate) fn note(&self, outcome: usize) {
        self.0[outcome].fetch_add(1, SeqCst);
    }

    /// At the end: each of the first so many outcomes was seen, or the model proves nothing.
    pub(crate) fn all(&self, outcomes: usize) {
        let seen = self.0.each_ref().map(|count| count.load(SeqCst));
        println!("outcomes seen: {seen:?}");
        assert!(seen[..outcomes].iter().all(|count| *count > 0), "vacuous: {seen:?}");
    }

    /// How often one outcome was seen.
    pub(crate) fn count(&self, outcome: usize) -> usize {
        self.0[outcome].load(SeqCst)
    }
}

/// Explores all interleavings with three preemptions at most.
pub(crate) fn model(body: impl Fn() + Sync + Send + 'static) {
    model_within(3, body);
}

/// With so many preemptions at most, unless the environment says otherwise.
pub(crate) fn model_within(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 20_000;
    builder.check(body);
}
