//! What the store tells about itself on `/metrics`.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counted whether or not anybody registered them.
#[derive(Debug)]
pub(super) struct Metrics {
    writes: Counter,
    failed_batches: Counter,
    batch_writes: Histogram,
    commit: Histogram,
    pub watches: Gauge,
    pub lost_watches: Counter,
    pub disk_reads: Counter,
    revision: Gauge,
    floor: Gauge,
    compactions: Counter,
    compacted: Counter,
    pub quarantined: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            writes: Counter::default(),
            failed_batches: Counter::default(),
            // 1 to 512, the most that one batch takes.
            batch_writes: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            // 0.1 ms, a fast disk's fsync, to 1.6 s.
            commit: Histogram::new(exponential_buckets(0.0001, 4.0, 8)),
            watches: Gauge::default(),
            lost_watches: Counter::default(),
            disk_reads: Counter::default(),
            revision: Gauge::default(),
            floor: Gauge::default(),
            compactions: Counter::default(),
            compacted: Counter::default(),
            quarantined: Gauge::default(),
        }
    }

    /// A batch of so many writes is durable.
    pub fn committed(&self, writes: usize, took: Duration) {
        self.writes.inc_by(writes as u64);
        self.batch_writes.observe(writes as f64);
        self.commit.observe(took.as_secs_f64());
    }

    /// The floor went up by so many revisions.
    pub fn compacted(&self, revisions: u64) {
        self.compactions.inc();
        self.compacted.inc_by(revisions);
    }

    pub fn failed(&self) {
        self.failed_batches.inc();
    }

    /// What readers see from now on.
    pub fn published(&self, revision: u64, floor: u64) {
        self.revision.set(revision.cast_signed());
        self.floor.set(floor.cast_signed());
    }

    pub fn register(&self, registry: &mut Registry) {
        let store = registry.sub_registry_with_prefix("ballast_store");
        store.register("writes", "Durable writes of objects", self.writes.clone());
        store.register(
            "failed_batches",
            "Batches of writes that SQLite or the disk refused",
            self.failed_batches.clone(),
        );
        store.register("batch_writes", "Writes that share one fsync", self.batch_writes.clone());
        store.register_with_unit(
            "commit",
            "Time until a batch of writes is durable",
            Unit::Seconds,
            self.commit.clone(),
        );
        store.register("watches", "Open watches", self.watches.clone());
        store.register(
            "lost_watches",
            "Watches that fell behind the compaction floor",
            self.lost_watches.clone(),
        );
        store.register(
            "watch_disk_reads",
            "Pages of old changes that watches read from disk",
            self.disk_reads.clone(),
        );
        store.register("revision", "The latest revision", self.revision.clone());
        store.register(
            "floor_revision",
            "The revision below which watches cannot resume",
            self.floor.clone(),
        );
        store.register(
            "compactions",
            "Steps in which old changes were forgotten",
            self.compactions.clone(),
        );
        store.register(
            "compacted_revisions",
            "Revisions that the floor has passed since the start",
            self.compacted.clone(),
        );
        store.register(
            "quarantined_objects",
            "Stored objects that could not be read when the store was opened",
            self.quarantined.clone(),
        );
    }
}
