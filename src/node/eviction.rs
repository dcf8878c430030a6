//! Pure: whether the node runs out of something, and which pod goes then.
//!
//! The kubelet's hard eviction (`eviction/eviction_manager.go`, `helpers.go`): signals every 10 s against
//! thresholds; a condition stays for 5 min after its threshold was last met; on a full disk images go
//! before pods; one pod a pass, memory before disks. Of the pods those that use more than they asked for
//! go first, then by priority, then by how far they are above what they asked for. Critical pods stay.
//!
//! Soft thresholds, minimum reclaims and the separate file system for a container's own layers are not
//! there: nothing sets them by default.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::object::quantity::Quantity;

/// `evictionPressureTransitionPeriod`
pub const TRANSITION: SignedDuration = SignedDuration::from_mins(5);
/// `system-critical` and above are never evicted.
const CRITICAL: i32 = 2_000_000_000;

/// What is looked at, in the order in which it is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

/// What a node says of itself when a threshold is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Signal {
    pub const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    /// As `evictionHard` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    pub fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable => Pressure::Memory,
            Self::PidAvailable => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }

    /// The resource that is low, as a pod's message names it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }
}

/// How much there is: bytes, inodes or processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub available: u64,
    pub capacity: u64,
}

/// What could be read; what is absent is under no pressure.
pub type Readings = BTreeMap<Signal, Reading>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    Percent(f64),
    Amount(u64),
}

impl Threshold {
    /// `10%`, `100Mi`.
    ///
    /// # Errors
    /// What it should be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "must be a quantity or a percentage from 0% to below 100%";
        if let Some(number) = text.strip_suffix('%') {
            let percent: f64 = number.parse().map_err(|_| EXPECTED)?;
            return if (0.0..100.0).contains(&percent) {
                Ok(Self::Percent(percent))
            } else {
                Err(EXPECTED)
            };
        }
        let amount = Quantity::parse(text).map_err(|_| EXPECTED)?;
        u64::try_from(amount.units()).map(Self::Amount).map_err(|_| EXPECTED)
    }

    pub fn amount(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => (capacity as f64 * percent / 100.0) as u64,
        }
    }
}

/// `evictionHard`
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds(pub BTreeMap<Signal, Threshold>);

impl Default for Thresholds {
    /// The kubelet's on Linux. Processes have none.
    fn default() -> Self {
        Self(BTreeMap::from([
            (Signal::MemoryAvailable, Threshold::Amount(100 << 20)),
            (Signal::NodefsAvailable, Threshold::Percent(10.0)),
            (Signal::NodefsInodesFree, Threshold::Percent(5.0)),
            (Signal::ImagefsAvailable, Threshold::Percent(15.0)),
            (Signal::ImagefsInodesFree, Threshold::Percent(5.0)),
        ]))
    }
}

impl Thresholds {
    /// The signals below their thresholds, in the order in which they are reclaimed.
    pub fn met(&self, readings: &Readings) -> Vec<Signal> {
        let low = |signal: &Signal| {
            let (Some(reading), Some(threshold)) = (readings.get(signal), self.0.get(signal))
            else {
                return false;
            };
            reading.available < threshold.amount(reading.capacity)
        };
        Signal::ALL.into_iter().filter(low).collect()
    }
}

/// When each pressure was last there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressures {
    last_met: BTreeMap<Pressure, Timestamp>,
}

impl Pressures {
    /// Takes up what is met now; answers what the node says it is under.
    pub fn take(&mut self, met: &[Signal], now: Timestamp) -> BTreeSet<Pressure> {
        for at in self.last_met.values_mut() {
            // The clock stepped back.
            *at = (*at).min(now);
        }
        self.last_met.extend(met.iter().map(|signal| (signal.pressure(), now)));
        self.last_met.retain(|_, at| now.duration_since(*at) < TRANSITION);
        self.last_met.keys().copied().collect()
    }
}

/// A pod that could go.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub pod: std::sync::Arc<Pod>,
    /// By container: bytes of memory, or of disk, or processes. `None`: it could not be measured.
    pub usage: BTreeMap<String, Option<u64>>,
    /// Of the pod and no container of it: its volumes.
    pub shared: u64,
}

impl Candidate {
    fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
    }

    /// `None`: something of it could not be measured.
    fn used(&self) -> Option<u64> {
        let containers: Option<Vec<u64>> = self.usage.values().copied().collect();
        Some(containers?.iter().sum::<u64>() + self.shared)
    }

    fn requested(&self, resource: &str) -> u64 {
        let spec = self.pod.spec.iter();
        let containers = spec.flat_map(|spec| &spec.containers);
        containers.map(|container| request(container, resource)).sum()
    }
}

fn request(container: &k8s_openapi::api::core::v1::Container, resource: &str) -> u64 {
    let requests = container.resources.as_ref().and_then(|all| all.requests.as_ref());
    let written = requests.and_then(|requests| requests.get(resource));
    let amount = written.and_then(|written| Quantity::parse(&written.0).ok());
    amount.map_or(0, |amount| u64::try_from(amount.units()).unwrap_or(0))
}

/// Who goes first, for this signal. Critical pods are left out. Of equals the younger goes.
pub fn rank(signal: Signal, candidates: Vec<Candidate>) -> Vec<Candidate> {
    let resource = signal.resource();
    let mut candidates: Vec<Candidate> =
        candidates.into_iter().filter(|one| one.priority() < CRITICAL).collect();
    let excess = |one: &Candidate| {
        let used = one.used().map(i128::from);
        used.map(|used| used - i128::from(one.requested(resource)))
    };
    let exceeds = |one: &Candidate| excess(one).is_none_or(|excess| excess > 0);
    // What could not be measured goes before what was.
    let more = |one: Option<i128>, other: Option<i128>| match (one, other) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(one), Some(other)) => other.cmp(&one),
    };
    let made = |one: &Candidate| one.pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
    candidates.sort_by(|one, other| {
        let by_request = if signal == Signal::PidAvailable {
            Ordering::Equal
        } else {
            exceeds(other).cmp(&exceeds(one))
        };
        by_request
            .then_with(|| one.priority().cmp(&other.priority()))
            .then_with(|| more(excess(one), excess(other)))
            .then_with(|| made(other).cmp(&made(one)))
            .then_with(|| one.pod.metadata.uid.cmp(&other.pod.metadata.uid))
    });
    candidates
}

/// The kubelet's message of an evicted pod.
pub fn message(
    signal: Signal,
    reading: Reading,
    thresholds: &Thresholds,
    candidate: &Candidate,
) -> String {
    let resource = signal.resource();
    let amount = |number: u64| {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        let bytes = matches!(resource, "memory" | "ephemeral-storage");
        if bytes { Quantity::from_bytes(number) } else { Quantity::from_units(number) }.to_string()
    };
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(threshold) = thresholds.0.get(&signal) {
        let (wanted, there) =
            (amount(threshold.amount(reading.capacity)), amount(reading.available));
        text += &format!("Threshold quantity: {wanted}, available: {there}. ");
    }
    if !matches!(resource, "memory" | "ephemeral-storage") {
        return text;
    }
    for container in candidate.pod.spec.iter().flat_map(|spec| &spec.containers) {
        let used = candidate.usage.get(&container.name).copied().flatten();
        let asked = request(container, resource);
        if let Some(used) = used.filter(|used| *used > asked) {
            let (name, used, asked) = (&container.name, amount(used), amount(asked));
            text += &format!(
                "Container {name} was using {used}, request is {asked}, has larger consumption of {resource}. "
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::node::pod_plan::tests::{at, pod};

    /// A pod of one container `web` that asked for so many bytes of memory and disk.
    fn candidate(uid: &str, priority: i32, asked: u64, used: Option<u64>) -> Candidate {
        let asked = asked.to_string();
        let requests = json!({"memory": asked, "ephemeral-storage": asked});
        let pod = pod(json!({"metadata": {"uid": uid}, "spec": {"priority": priority,
            "containers": [{"name": "web", "image": "web:1", "resources": {"requests": requests}}]}}));
        let usage = BTreeMap::from([("web".to_owned(), used)]);
        Candidate { pod: Arc::new(pod), usage, shared: 0 }
    }

    fn order(signal: Signal, candidates: Vec<Candidate>) -> Vec<String> {
        let ranked = rank(signal, candidates);
        ranked.iter().map(|one| one.pod.metadata.uid.clone().expect("a uid")).collect()
    }

    fn reading(available: u64, capacity: u64) -> Reading {
        Reading { available, capacity }
    }

    #[test]
    fn thresholds_are_the_kubelets() {
        let limits = Thresholds::default();
        let met = |signal, available, capacity| {
            !limits.met(&Readings::from([(signal, reading(available, capacity))])).is_empty()
        };
        assert!(met(Signal::MemoryAvailable, (100 << 20) - 1, 1 << 33));
        assert!(!met(Signal::MemoryAvailable, 100 << 20, 1 << 33));
        for (signal, edge) in [
            (Signal::NodefsAvailable, 100),
            (Signal::NodefsInodesFree, 50),
            (Signal::ImagefsAvailable, 150),
            (Signal::ImagefsInodesFree, 50),
        ] {
            assert!(met(signal, edge - 1, 1000) && !met(signal, edge, 1000), "{signal:?}");
        }
        assert!(!met(Signal::PidAvailable, 0, 1000), "processes have no threshold of their own");
        let all = Signal::ALL.map(|signal| (signal, reading(0, 1000)));
        assert_eq!(limits.met(&all.into())[0], Signal::MemoryAvailable, "memory comes first");
    }

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        assert_eq!(Threshold::parse("100Mi"), Ok(Threshold::Amount(100 << 20)));
        assert_eq!(Threshold::parse("7.5%"), Ok(Threshold::Percent(7.5)));
        for wrong in ["", "100%", "-1%", "x%", "-5", "many"] {
            assert!(Threshold::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_condition_stays_for_five_minutes() {
        let mut pressures = Pressures::default();
        let disk = BTreeSet::from([Pressure::Disk]);
        assert_eq!(pressures.take(&[], at(0)), BTreeSet::new());
        assert_eq!(pressures.take(&[Signal::NodefsAvailable], at(10)), disk);
        assert_eq!(pressures.take(&[], at(309)), disk);
        assert_eq!(pressures.take(&[], at(310)), BTreeSet::new());
        pressures.take(&[Signal::NodefsAvailable], at(1000));
        // The clock steps back by 1000 s: it counts from now.
        assert_eq!(pressures.take(&[], at(0)), disk);
        assert_eq!(pressures.take(&[], at(300)), BTreeSet::new());
    }

    #[test]
    fn who_uses_more_than_asked_goes_first_then_the_less_important_then_the_bigger() {
        let candidates = || {
            vec![
                candidate("within", -5, 100, Some(90)),
                candidate("much", 0, 10, Some(100)),
                candidate("more", 0, 0, Some(200)),
                candidate("low", -1, 100, Some(101)),
                candidate("critical", CRITICAL, 0, Some(9999)),
            ]
        };
        for signal in [Signal::MemoryAvailable, Signal::ImagefsAvailable] {
            assert_eq!(order(signal, candidates()), ["low", "more", "much", "within"]);
        }
        // A request is no promise about processes.
        let by_count = order(Signal::PidAvailable, candidates());
        assert_eq!(by_count, ["within", "low", "more", "much"]);
    }

    #[test]
    fn the_message_is_the_kubelets() {
        let of = candidate("u", 0, 10 << 20, Some(30 << 20));
        let limits = Thresholds::default();
        assert_eq!(
            message(Signal::MemoryAvailable, reading(96 << 20, 1 << 33), &limits, &of),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 96Mi. \
             Container web was using 30Mi, request is 10Mi, has larger consumption of memory. "
        );
        let within = candidate("u", 0, 0, None);
        assert_eq!(
            message(Signal::NodefsInodesFree, reading(4, 100), &limits, &within),
            "The node was low on resource: inodes. Threshold quantity: 5, available: 4. "
        );
    }

    proptest! {
        /// The first to go is one that no other beats by the three rules, whatever the order they came in.
        #[test]
        fn nobody_goes_before_one_that_should(
            pods in prop::collection::vec((-2i32..3, 0u64..5, prop::option::of(0u64..10)), 1..8),
        ) {
            let all: Vec<Candidate> = pods
                .iter()
                .enumerate()
                .map(|(number, (priority, asked, used))| {
                    candidate(&number.to_string(), *priority, *asked, *used)
                })
                .collect();
            let key = |(priority, asked, used): &(i32, u64, Option<u64>)| {
                let excess = used.map(|used| used as i64 - *asked as i64);
                (excess.is_some_and(|excess| excess <= 0), *priority, excess.map_or(i64::MIN, |e| -e))
            };
            let ranked = order(Signal::MemoryAvailable, all.clone());
            let keys: Vec<_> = ranked
                .iter()
                .map(|uid| key(&pods[uid.parse::<usize>().expect("a number")]))
                .collect();
            prop_assert!(keys.is_sorted(), "{:?}", keys);
            let mut turned = all;
            turned.reverse();
            prop_assert_eq!(order(Signal::MemoryAvailable, turned), ranked);
        }
    }
}
