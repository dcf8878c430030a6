//! Pure: when a difference becomes a Drift, when it closes, and when healing it becomes a fight.
//!
//! Each comparing room (`sync`, `node`, `network`) keeps one ledger for its layer. Every pass it
//! tells the ledger what it examined and what differed; the ledger answers with the writes that
//! make the stored Drifts true again. Rules, with their numbers:
//!
//! - A difference is *progress* until its wanted value has converged once, or its own deadline has
//!   passed; only then it is a Drift. A rollout, an image pull and a first start are not drifts.
//! - A Drift is written on opening, on a change of class, action or cause, and on closing;
//!   `lastSeen` at most every [`SEEN_SECONDS`].
//! - Closed Drifts are kept [`KEEP_CLOSED_SECONDS`] and at most [`KEEP_CLOSED`] a layer.
//! - The same field healed [`FIGHT_HEALS`] times within [`FIGHT_SECONDS`] and different again is a
//!   *fight*: the ledger says so, and [`Ledger::may_heal`] refuses until the window has drained.
//!
//! Known limit: what converged before a restart of the daemon is known only where the caller can
//! tell (`Examined::converged_before`); otherwise a difference that opened while the daemon was
//! away is progress until its deadline.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use sha2::{Digest, Sha256};

use crate::object::drift::{
    Action, Class, Drift, DriftObject, DriftSpec, DriftStatus, Layer, Origin, Phase,
};
use crate::object::{DriftWord, Key, OwnVersion};

/// Seconds between two writes that only confirm an open Drift.
pub const SEEN_SECONDS: i64 = 10;
/// 24 h.
pub const KEEP_CLOSED_SECONDS: i64 = 24 * 3600;
pub const KEEP_CLOSED: usize = 1000;
/// Heals of one field within the window that make the next difference a fight.
pub const FIGHT_HEALS: usize = 3;
/// 10 min.
pub const FIGHT_SECONDS: i64 = 600;

/// One object as one pass saw it: every field that differs, none if it matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    pub object: DriftObject,
    /// Identifies the wanted state (a spec hash, a revision): when it changes, what differs is
    /// progress again.
    pub wanted_id: String,
    /// The caller knows that this wanted state had converged before (a pod that was Ready).
    pub converged_before: bool,
    pub differences: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    pub class: Class,
    pub field: String,
    pub wanted: Option<String>,
    pub actual: Option<String>,
    pub origin: Option<Origin>,
    /// When it began, where that is known (a container's FinishedAt); else the ledger's first sight.
    pub since: Option<Timestamp>,
    pub cause: Option<String>,
    /// After this time the difference is a Drift although it never converged. `None`: it waits.
    pub deadline: Option<Timestamp>,
    pub response: Response,
}

/// What the room is going to do about a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Heal,
    /// Shown only, with the reason (`ballast.dev/heal: "false"`, no permission).
    Report(String),
}

/// One write that makes the stored Drifts true. The doer has no choice left.
#[derive(Clone, Debug, PartialEq)]
pub enum LedgerWrite {
    /// Create, or overwrite what an earlier run left under the stable name.
    Put(Box<Drift>),
    Remove(Key),
}

type FieldId = (DriftObject, String);

#[derive(Clone, Debug)]
struct Entry {
    drift: Drift,
    seen_written: Timestamp,
}

/// The memory of one layer's comparisons.
#[derive(Debug)]
pub struct Ledger {
    layer: Layer,
    open: BTreeMap<FieldId, Entry>,
    closed: BTreeMap<FieldId, Entry>,
    converged: HashMap<DriftObject, String>,
    heals: HashMap<FieldId, VecDeque<Timestamp>>,
}

impl Ledger {
    pub fn new(layer: Layer) -> Self {
        Self {
            layer,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
            converged: HashMap::new(),
            heals: HashMap::new(),
        }
    }

    /// Takes up what an earlier run of the daemon stored; Drifts of other layers are not ours.
    pub fn restore<'a>(layer: Layer, stored: impl IntoIterator<Item = &'a Drift>) -> Self {
        let mut ledger = Self::new(layer);
        for drift in stored.into_iter().filter(|drift| drift.spec.layer == layer) {
            let Some(status) = &drift.status else { continue };
            let id = (drift.spec.object.clone(), drift.spec.field.clone());
            let entry = Entry { drift: drift.clone(), seen_written: status.last_seen.0 };
            match status.phase {
                Phase::Open => ledger.open.insert(id, entry),
                Phase::Closed => ledger.closed.insert(id, entry),
            };
        }
        ledger
    }

    /// The Drifts that are open now, in order of object and field.
    pub fn open(&self) -> impl Iterator<Item = &Drift> {
        self.open.values().map(|entry| &entry.drift)
    }

    /// Whether healing this field now would only feed a fight.
    pub fn may_heal(&self, object: &DriftObject, field: &str, now: Timestamp) -> bool {
        let id = (object.clone(), field.to_owned());
        self.heals.get(&id).is_none_or(|times| recent(times, now) < FIGHT_HEALS)
    }

    /// One pass: everything the room examined. An open Drift of an object that is not among
    /// `examined` stays as it is when `complete` is false (the room could not look: unknown is not
    /// gone) and closes as resolved when it is true (the object exists no more).
    pub fn observe(
        &mut self,
        examined: &[Examined],
        complete: bool,
        now: Timestamp,
    ) -> Vec<LedgerWrite> {
        let mut writes = Vec::new();
        let mut covered: BTreeSet<&DriftObject> = BTreeSet::new();
        for pass in examined {
            covered.insert(&pass.object);
            if pass.differences.is_empty() {
                self.converged.insert(pass.object.clone(), pass.wanted_id.clone());
            }
            let converged_once =
                pass.converged_before || self.converged.get(&pass.object) == Some(&pass.wanted_id);
            let mut present: BTreeSet<&str> = BTreeSet::new();
            for difference in &pass.differences {
                let id = (pass.object.clone(), difference.field.clone());
                let overdue = difference.deadline.is_some_and(|deadline| now >= deadline);
                if converged_once || overdue || self.open.contains_key(&id) {
                    present.insert(&difference.field);
                    writes.extend(self.see(id, difference, now));
                }
            }
            let gone: Vec<FieldId> = self
                .open
                .range((pass.object.clone(), String::new())..)
                .map(|(id, _)| id.clone())
                .take_while(|(object, _)| *object == pass.object)
                .filter(|(_, field)| !present.contains(field.as_str()))
                .collect();
            for id in gone {
                writes.extend(self.close(id, now));
            }
        }
        if complete {
            let vanished: Vec<FieldId> =
                self.open.keys().filter(|(object, _)| !covered.contains(object)).cloned().collect();
            for id in vanished {
                writes.extend(self.close(id, now));
            }
            self.converged.retain(|object, _| covered.contains(object));
        }
        writes.extend(self.forget(now));
        writes
    }

    fn see(&mut self, id: FieldId, difference: &Difference, now: Timestamp) -> Option<LedgerWrite> {
        let fighting = !self.may_heal(&id.0, &id.1, now);
        let (action, message) = match &difference.response {
            Response::Report(why) => (Action::Reported, Some(why.clone())),
            Response::Heal if fighting => (
                Action::Fighting,
                Some(format!(
                    "healed {FIGHT_HEALS} times in 10 minutes and changed back each time: find the other writer; healing resumes when 10 minutes have passed"
                )),
            ),
            Response::Heal => (Action::Healing, None),
        };
        let spec = DriftSpec {
            object: id.0.clone(),
            layer: self.layer,
            class: difference.class,
            field: id.1.clone(),
            wanted: difference.wanted.clone(),
            actual: difference.actual.clone(),
            origin: difference.origin.clone(),
        };
        if let Some(entry) = self.open.get_mut(&id) {
            let status = entry.drift.status.as_mut().expect("every entry was made with a status");
            let same = entry.drift.spec == spec
                && status.action == action
                && (difference.cause.is_none() || status.cause == difference.cause);
            if same
                && now.duration_since(entry.seen_written) < SignedDuration::from_secs(SEEN_SECONDS)
            {
                return None;
            }
            status.action = action;
            status.message = message;
            status.last_seen = Time(now);
            if difference.cause.is_some() {
                status.cause.clone_from(&difference.cause);
            }
            entry.drift.spec = spec;
            entry.seen_written = now;
            return Some(LedgerWrite::Put(Box::new(entry.drift.clone())));
        }
        let earlier = self
            .closed
            .remove(&id)
            .and_then(|entry| entry.drift.status)
            .map_or(0, |status| status.count);
        let status = DriftStatus {
            phase: Phase::Open,
            since: Time(difference.since.unwrap_or(now)),
            last_seen: Time(now),
            count: earlier + 1,
            cause: difference.cause.clone(),
            action,
            message,
            closed_at: None,
        };
        let drift = Drift {
            api_version: OwnVersion,
            kind: DriftWord,
            metadata: metadata(&id, self.layer),
            spec,
            status: Some(status),
        };
        self.open.insert(id, Entry { drift: drift.clone(), seen_written: now });
        Some(LedgerWrite::Put(Box::new(drift)))
    }

    fn close(&mut self, id: FieldId, now: Timestamp) -> Option<LedgerWrite> {
        let mut entry = self.open.remove(&id)?;
        let status = entry.drift.status.as_mut().expect("every entry was made with a status");
        status.action =
            if status.action == Action::Healing { Action::Healed } else { Action::Resolved };
        if status.action == Action::Healed {
            let times = self.heals.entry(id.clone()).or_default();
            times.push_back(now);
            if times.len() > FIGHT_HEALS {
                times.pop_front();
            }
        }
        status.phase = Phase::Closed;
        status.closed_at = Some(Time(now));
        status.last_seen = Time(now);
        let write = LedgerWrite::Put(Box::new(entry.drift.clone()));
        self.closed.insert(id, entry);
        Some(write)
    }

    /// Removes closed Drifts past their time or number, oldest first.
    fn forget(&mut self, now: Timestamp) -> Vec<LedgerWrite> {
        self.heals.retain(|_, times| recent(times, now) > 0);
        let closed_at = |entry: &Entry| {
            entry
                .drift
                .status
                .as_ref()
                .and_then(|status| status.closed_at.as_ref())
                .map_or(Timestamp::MIN, |time| time.0)
        };
        let mut by_age: Vec<(Timestamp, FieldId)> =
            self.closed.iter().map(|(id, entry)| (closed_at(entry), id.clone())).collect();
        by_age.sort();
        let surplus = by_age.len().saturating_sub(KEEP_CLOSED);
        let expired = |at: Timestamp| {
            now.duration_since(at) >= SignedDuration::from_secs(KEEP_CLOSED_SECONDS)
        };
        let leaving = by_age
            .into_iter()
            .enumerate()
            .filter(|(index, (at, _))| *index < surplus || expired(*at));
        leaving
            .filter_map(|(_, (_, id))| self.closed.remove(&id))
            .map(|entry| {
                let meta = entry.drift.metadata;
                LedgerWrite::Remove(Key::new(
                    meta.namespace.unwrap_or_default(),
                    meta.name.unwrap_or_default(),
                ))
            })
            .collect()
    }
}

fn recent(times: &VecDeque<Timestamp>, now: Timestamp) -> usize {
    times
        .iter()
        .filter(|time| now.duration_since(**time) < SignedDuration::from_secs(FIGHT_SECONDS))
        .count()
}

/// The stable name: readable head, and a hash that tells fields of long names apart.
fn metadata((object, field): &FieldId, layer: Layer) -> ObjectMeta {
    let digest = Sha256::digest(format!(
        "{layer:?}\n{}\n{}\n{}\n{field}",
        object.kind, object.namespace, object.name
    ));
    let head: String =
        format!("{}-{}", object.kind, object.name).to_lowercase().chars().take(200).collect();
    ObjectMeta {
        name: Some(format!("{}-{}", head.trim_end_matches(['.', '-']), hex::encode(&digest[..4]))),
        namespace: Some(if object.namespace.is_empty() {
            "default".to_owned()
        } else {
            object.namespace.clone()
        }),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn pod() -> DriftObject {
        DriftObject {
            kind: crate::object::Kind::Pod,
            namespace: "web".into(),
            name: "web-1".into(),
            uid: "u".into(),
        }
    }

    fn stopped() -> Difference {
        Difference {
            class: Class::Stopped,
            field: "containers[web]".into(),
            wanted: Some("running".into()),
            actual: Some("exited (137)".into()),
            origin: None,
            since: None,
            cause: None,
            deadline: None,
            response: Response::Heal,
        }
    }

    fn pass(differences: Vec<Difference>) -> Vec<Examined> {
        vec![Examined {
            object: pod(),
            wanted_id: "h1".into(),
            converged_before: false,
            differences,
        }]
    }

    fn actions(writes: &[LedgerWrite]) -> Vec<(Phase, Action, u32)> {
        writes
            .iter()
            .map(|write| match write {
                LedgerWrite::Put(drift) => drift
                    .status
                    .as_ref()
                    .map(|status| (status.phase, status.action, status.count))
                    .expect("status"),
                LedgerWrite::Remove(_) => panic!("nothing is removed here"),
            })
            .collect()
    }

    #[test]
    fn what_never_converged_is_progress() {
        let mut ledger = Ledger::new(Layer::Container);
        assert_eq!(ledger.observe(&pass(vec![stopped()]), true, at(0)), vec![]);
        let overdue = Difference { deadline: Some(at(5)), ..stopped() };
        assert_eq!(ledger.observe(&pass(vec![overdue.clone()]), true, at(4)), vec![]);
        assert_eq!(
            actions(&ledger.observe(&pass(vec![overdue]), true, at(5))),
            vec![(Phase::Open, Action::Healing, 1)]
        );
    }

    #[test]
    fn a_killed_container_opens_and_heals() {
        let mut ledger = Ledger::new(Layer::Container);
        ledger.observe(&pass(vec![]), true, at(0));
        assert_eq!(
            actions(&ledger.observe(&pass(vec![stopped()]), true, at(1))),
            vec![(Phase::Open, Action::Healing, 1)]
        );
        assert_eq!(
            ledger.observe(&pass(vec![stopped()]), true, at(2)),
            vec![],
            "confirmations are rate limited"
        );
        assert_eq!(ledger.observe(&pass(vec![stopped()]), true, at(11)).len(), 1);
        assert_eq!(
            actions(&ledger.observe(&pass(vec![]), true, at(12))),
            vec![(Phase::Closed, Action::Healed, 1)]
        );
        assert_eq!(
            actions(&ledger.observe(&pass(vec![stopped()]), true, at(13))),
            vec![(Phase::Open, Action::Healing, 2)]
        );
    }

    #[test]
    fn the_third_heal_in_ten_minutes_makes_a_fight() {
        let mut ledger = Ledger::new(Layer::Container);
        ledger.observe(&pass(vec![]), true, at(0));
        for round in 0..3 {
            assert!(ledger.may_heal(&pod(), "containers[web]", at(round * 10)));
            ledger.observe(&pass(vec![stopped()]), true, at(round * 10 + 1));
            ledger.observe(&pass(vec![]), true, at(round * 10 + 2));
        }
        assert_eq!(
            actions(&ledger.observe(&pass(vec![stopped()]), true, at(40))),
            vec![(Phase::Open, Action::Fighting, 4)]
        );
        assert!(!ledger.may_heal(&pod(), "containers[web]", at(40)));
        assert!(ledger.may_heal(&pod(), "containers[web]", at(700)));
    }

    #[test]
    fn unknown_is_not_gone() {
        let mut ledger = Ledger::new(Layer::Container);
        ledger.observe(&pass(vec![]), true, at(0));
        ledger.observe(&pass(vec![stopped()]), true, at(1));
        assert_eq!(ledger.observe(&[], false, at(2)), vec![]);
        assert_eq!(
            actions(&ledger.observe(&[], true, at(3))),
            vec![(Phase::Closed, Action::Healed, 1)]
        );
    }

    #[test]
    fn closed_drifts_are_forgotten_after_a_day() {
        let mut ledger = Ledger::new(Layer::Container);
        ledger.observe(&pass(vec![]), true, at(0));
        ledger.observe(&pass(vec![stopped()]), true, at(1));
        ledger.observe(&pass(vec![]), true, at(2));
        let writes = ledger.observe(&pass(vec![]), true, at(2 + KEEP_CLOSED_SECONDS));
        assert!(matches!(writes.as_slice(), [LedgerWrite::Remove(_)]));
    }
}
