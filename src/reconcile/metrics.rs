//! What the controllers and the scheduler tell about themselves on `/metrics`, as
//! `ballast_reconcile…` and `ballast_scheduler_…`. A controller is a label, an object never is.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::measure::{Counters, Gauges, Label, Timers, at_zero, label, quick_timers};
use crate::reconcile::engine::Beat;

/// How one look at one object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// The API refused a step, and it is not a stale view.
    Failed,
    /// Somebody else wrote first: looked at again, nothing is wrong.
    Conflict,
    Panicked,
}

impl Ended {
    const ALL: [Self; 4] = [Self::Done, Self::Failed, Self::Conflict, Self::Panicked];

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Conflict => "conflict",
            Self::Panicked => "panicked",
        }
    }
}

/// Counted whether or not anybody registered them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Counters<2>,
    seconds: Timers<1>,
    quarantined: Gauges<1>,
    queued: Gauges<1>,
    attempts: Counters<1>,
    pending: Gauges<1>,
}

impl Default for Metrics {
    fn default() -> Self {
        let attempts = Counters::default();
        at_zero(&attempts, "result", &["scheduled", "unschedulable", "error"]);
        Self {
            reconciles: Counters::default(),
            seconds: quick_timers(),
            quarantined: Gauges::default(),
            queued: Gauges::default(),
            attempts,
            pending: Gauges::default(),
        }
    }
}

impl Metrics {
    /// Begins a controller's series at zero.
    pub fn follow(&self, controller: &'static str) {
        for ended in Ended::ALL {
            let labels = [of(controller), label("result", ended.as_str())];
            drop(self.reconciles.get_or_create(&labels));
        }
        drop(self.seconds.get_or_create(&[of(controller)]));
        drop(self.quarantined.get_or_create(&[of(controller)]));
    }

    /// One look at one object is over.
    pub fn reconciled(&self, controller: &'static str, ended: Ended, took: Duration) {
        let labels = [of(controller), label("result", ended.as_str())];
        self.reconciles.get_or_create(&labels).inc();
        self.seconds.get_or_create(&[of(controller)]).observe(took.as_secs_f64());
    }

    /// So many objects are set aside now.
    pub fn quarantined(&self, controller: &'static str, objects: usize) {
        set(&self.quarantined, of(controller), objects);
    }

    /// So many objects wait for a look. kube-runtime does not tell how long its queues are, so this is
    /// for the loops that have one of their own.
    pub fn queued(&self, controller: &'static str, objects: usize) {
        set(&self.queued, of(controller), objects);
    }

    /// The scheduler tried one pod: `scheduled`, `unschedulable` or `error`.
    pub fn attempted(&self, result: &'static str) {
        self.attempts.get_or_create(&[label("result", result)]).inc();
    }

    /// So many pods are tried next, so many wait for time or for room.
    pub fn pending(&self, active: usize, waiting: usize) {
        set(&self.pending, label("queue", "active"), active);
        set(&self.pending, label("queue", "waiting"), waiting);
    }

    /// Puts them under their names.
    pub fn register(&self, registry: &mut Registry) {
        let reconcile = registry.sub_registry_with_prefix("ballast");
        reconcile.register(
            "reconciles",
            "Looks at one object (of the node lifecycle: at all nodes): done, failed, conflict (somebody else wrote first) or panicked",
            self.reconciles.clone(),
        );
        reconcile.register("reconcile_seconds", "Time one look took", self.seconds.clone());
        reconcile.register(
            "reconcile_quarantined_objects",
            "Objects that made a controller panic and are set aside",
            self.quarantined.clone(),
        );
        reconcile.register(
            "reconcile_queued_objects",
            "Objects that wait for a look, where the loop has a queue of its own",
            self.queued.clone(),
        );
        let scheduler = registry.sub_registry_with_prefix("ballast_scheduler");
        scheduler.register(
            "attempts",
            "Tries to place a pod: scheduled (its binding is stored), unschedulable, or error",
            self.attempts.clone(),
        );
        scheduler.register(
            "pending_pods",
            "Pods without a node: active ones are tried next, waiting ones after their back-off or when something changed",
            self.pending.clone(),
        );
    }
}

/// What a loop tells of itself: that it lives, and what it did.
#[derive(Clone)]
pub struct Vitals {
    pub beat: Beat,
    pub metrics: Metrics,
}

impl Default for Vitals {
    /// Told to nobody.
    fn default() -> Self {
        Self { beat: Arc::new(|_| {}), metrics: Metrics::default() }
    }
}

impl Vitals {
    /// "I completed a pass."
    pub fn beat(&self, name: &'static str) {
        (self.beat)(name);
    }
}

fn of(controller: &'static str) -> Label {
    label("controller", controller)
}

fn set(gauges: &Gauges<1>, of: Label, value: usize) {
    gauges.get_or_create(&[of]).set(i64::try_from(value).unwrap_or(i64::MAX));
}
