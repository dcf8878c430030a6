//! What the sync tells about itself on `/metrics`, as `ballast_sync_…`. A source is a label: there
//! are as many as the configuration has.

use std::future::Future;

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::measure::{Counters, Label, Timers, label, result, slow_timers};
use crate::sync::apply::Counts;

/// Counted whether or not anybody registered them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    fetches: Counters<2>,
    fetch_seconds: Timers<1>,
    applies: Counters<2>,
    apply_seconds: Timers<1>,
    problems: Counters<1>,
    objects: Counters<2>,
}

/// How a commit's entering ends.
const APPLY_RESULTS: [&str; 4] = ["applied", "refused", "held", "delayed"];
const ACTIONS: [&str; 3] = ["created", "updated", "pruned"];

impl Default for Metrics {
    fn default() -> Self {
        Self {
            fetches: Counters::default(),
            fetch_seconds: slow_timers(),
            applies: Counters::default(),
            apply_seconds: slow_timers(),
            problems: Counters::default(),
            objects: Counters::default(),
        }
    }
}

impl Metrics {
    /// Begins a source's series at zero.
    pub(super) fn follow(&self, source: &str) {
        for result in ["ok", "failed"] {
            drop(self.fetches.get_or_create(&[of(source), label("result", result)]));
        }
        for result in APPLY_RESULTS {
            drop(self.applies.get_or_create(&[of(source), label("result", result)]));
        }
        for action in ACTIONS {
            drop(self.objects.get_or_create(&[of(source), label("action", action)]));
        }
        drop(self.problems.get_or_create(&[of(source)]));
        drop(self.fetch_seconds.get_or_create(&[of(source)]));
        drop(self.apply_seconds.get_or_create(&[of(source)]));
    }

    /// Measures a fetch.
    pub(super) async fn fetch<T, E>(
        &self,
        source: &str,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let fetched = fetch.await;
        let word = result(&fetched);
        self.fetches.get_or_create(&[of(source), label("result", word)]).inc();
        let seconds = begun.elapsed().as_secs_f64();
        self.fetch_seconds.get_or_create(&[of(source)]).observe(seconds);
        fetched
    }

    /// Measures a commit's transaction.
    pub(super) async fn apply<T>(&self, source: &str, apply: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let applied = apply.await;
        let seconds = begun.elapsed().as_secs_f64();
        self.apply_seconds.get_or_create(&[of(source)]).observe(seconds);
        applied
    }

    pub(super) fn applied(&self, source: &str, counts: &Counts) {
        self.ended(source, "applied");
        let counted = [counts.created, counts.updated, counts.deleted];
        for (action, count) in ACTIONS.into_iter().zip(counted) {
            let labels = [of(source), label("action", action)];
            self.objects.get_or_create(&labels).inc_by(count as u64);
        }
    }

    pub(super) fn refused(&self, source: &str, problems: usize) {
        self.ended(source, "refused");
        self.problems.get_or_create(&[of(source)]).inc_by(problems as u64);
    }

    pub(super) fn held(&self, source: &str) {
        self.ended(source, "held");
    }

    pub(super) fn delayed(&self, source: &str) {
        self.ended(source, "delayed");
    }

    fn ended(&self, source: &str, result: &'static str) {
        self.applies.get_or_create(&[of(source), label("result", result)]).inc();
    }

    /// Puts them under their names.
    pub fn register(&self, registry: &mut Registry) {
        let sync = registry.sub_registry_with_prefix("ballast_sync");
        sync.register(
            "fetches",
            "Fetches of a source's branch, by how they ended",
            self.fetches.clone(),
        );
        sync.register(
            "fetch_seconds",
            "Time a fetch took, failed ones included",
            self.fetch_seconds.clone(),
        );
        sync.register(
            "applies",
            "Tries to enter a commit: applied, refused (it has problems), held (it waits for a confirmation) or delayed (something else must end first)",
            self.applies.clone(),
        );
        sync.register(
            "apply_seconds",
            "Time a commit's transaction took, refused ones included",
            self.apply_seconds.clone(),
        );
        sync.register(
            "problems",
            "Problems found in commits, again at every try",
            self.problems.clone(),
        );
        sync.register(
            "objects",
            "Objects that applied commits created, updated or pruned",
            self.objects.clone(),
        );
    }
}

fn of(source: &str) -> Label {
    label("source", source.to_owned())
}
