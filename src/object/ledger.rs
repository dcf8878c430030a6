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
//! - What is being put right at this moment ([`Difference::under_way`]) keeps an open Drift open and
//!   opens none before its deadline: the second half of a heal is neither healed nor a new Drift.
//! - The same field healed [`FIGHT_HEALS`] times within [`FIGHT_SECONDS`] and different again is a
//!   *fight*: the ledger says so, and [`Ledger::may_heal`] slows healing down to [`fight_pause`].
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

/// The pause between two heals of a field that is fought over.
///
/// An object or a container is healed again when the window has drained: the other writer's value
/// works, only not as committed, and healing it in a loop would restart containers. Rules are healed
/// on, every 30 s (the network's full comparison): a Service without its rules is down, which harms
/// more than the fight, and one restore of some chains in 30 s costs nothing. Rejected: no pause at
/// all, because two programs that both correct each other at once would keep the kernel's lock.
pub fn fight_pause(layer: Layer) -> SignedDuration {
    SignedDuration::from_secs(match layer {
        Layer::Network => 30,
        Layer::Object | Layer::Container => FIGHT_SECONDS,
    })
}

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
    /// See [`DriftSpec::wanted_by`].
    pub wanted_by: Option<String>,
    pub wanted: Option<String>,
    pub actual: Option<String>,
    pub origin: Option<Origin>,
    /// When it began, where that is known (a container's FinishedAt); else the ledger's first sight.
    pub since: Option<Timestamp>,
    pub cause: Option<String>,
    /// After this time the difference is a Drift although it never converged. `None`: it waits.
    pub deadline: Option<Timestamp>,
    /// It is on its way (a container that is being replaced, or has just started): this keeps an
    /// open Drift open, and opens one only after the deadline.
    pub under_way: bool,
    pub response: Response,
}

/// What the room is going to do about a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Heal,
    /// Put right however often, with a back-off of its own (a crash loop's): never a fight.
    Restart,
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
    /// Its heal counts towards a fight.
    counts: bool,
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
            let seen_written = status.last_seen.0;
            let entry = Entry { drift: drift.clone(), seen_written, counts: true };
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

    /// Whether this field may be healed now: it is not fought over, or its pause is over.
    pub fn may_heal(&self, object: &DriftObject, field: &str, now: Timestamp) -> bool {
        let id = (object.clone(), field.to_owned());
        let pause = fight_pause(self.layer);
        !self.is_fought_over(&id, now)
            || self.heals[&id].back().is_none_or(|last| now.duration_since(*last) >= pause)
    }

    fn is_fought_over(&self, id: &FieldId, now: Timestamp) -> bool {
        self.heals.get(id).is_some_and(|times| recent(times, now) >= FIGHT_HEALS)
    }

    /// The object is gone, and nobody will examine it again: what is open of it closes.
    pub fn forget_object(&mut self, object: &DriftObject, now: Timestamp) -> Vec<LedgerWrite> {
        self.converged.remove(object);
        let fields: Vec<FieldId> = self.open_of(object).cloned().collect();
        fields.into_iter().filter_map(|id| self.close(id, now)).collect()
    }

    fn open_of(&self, object: &DriftObject) -> impl Iterator<Item = &FieldId> {
        let from = (object.clone(), String::new());
        self.open.range(from..).map(|(id, _)| id).take_while(move |(one, _)| one == object)
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
                let is_news = converged_once && !difference.under_way;
                let is_open = self.open.contains_key(&id);
                if is_open || is_news || overdue {
                    present.insert(&difference.field);
                }
                if is_open && difference.under_way && !overdue {
                    // What opened it stays on record until it is healed.
                    writes.extend(self.hold(&id, now));
                } else if is_open || is_news || overdue {
                    writes.extend(self.see(id, difference, now));
                }
            }
            let gone: Vec<FieldId> = self
                .open_of(&pass.object)
                .filter(|(_, field)| !present.contains(field.as_str()))
                .cloned()
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
        let fighting = self.is_fought_over(&id, now);
        let counts = difference.response == Response::Heal;
        let (action, message) = match &difference.response {
            Response::Report(why) => (Action::Reported, Some(why.clone())),
            Response::Heal if fighting => (
                Action::Fighting,
                Some(format!(
                    "healed {FIGHT_HEALS} times in 10 minutes and changed back each time: find the other writer; meanwhile it is healed every {} s at most",
                    fight_pause(self.layer).as_secs()
                )),
            ),
            Response::Heal | Response::Restart => (Action::Healing, None),
        };
        let spec = DriftSpec {
            object: id.0.clone(),
            layer: self.layer,
            class: difference.class,
            field: id.1.clone(),
            wanted_by: difference.wanted_by.clone(),
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
            entry.counts = counts;
            entry.seen_written = now;
            return Some(LedgerWrite::Put(Box::new(entry.drift.clone())));
        }
        let earlier = self
            .closed
            .remove(&id)
            .and_then(|entry| entry.drift.status)
            .map_or(0, |status| status.count);
        self.forget_namesakes(&id);
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
        self.open.insert(id, Entry { drift: drift.clone(), seen_written: now, counts });
        Some(LedgerWrite::Put(Box::new(drift)))
    }

    /// An earlier incarnation's Drift of the field has the same name, and the one that opens is
    /// written over it: remembered on, its end would be written over, or remove, the new one.
    fn forget_namesakes(&mut self, (object, field): &FieldId) {
        let stays = |id: &FieldId| {
            let (other, other_field) = id;
            let same_name = other_field == field
                && (other.kind, &other.namespace, &other.name)
                    == (object.kind, &object.namespace, &object.name);
            !same_name || other == object
        };
        self.open.retain(|id, _| stays(id));
        self.closed.retain(|id, _| stays(id));
    }

    /// Confirms what is open as it is.
    fn hold(&mut self, id: &FieldId, now: Timestamp) -> Option<LedgerWrite> {
        let entry = self.open.get_mut(id)?;
        if now.duration_since(entry.seen_written) < SignedDuration::from_secs(SEEN_SECONDS) {
            return None;
        }
        let status = entry.drift.status.as_mut().expect("every entry was made with a status");
        status.last_seen = Time(now);
        entry.seen_written = now;
        Some(LedgerWrite::Put(Box::new(entry.drift.clone())))
    }

    fn close(&mut self, id: FieldId, now: Timestamp) -> Option<LedgerWrite> {
        let may_heal = self.may_heal(&id.0, &id.1, now);
        let mut entry = self.open.remove(&id)?;
        let status = entry.drift.status.as_mut().expect("every entry was made with a status");
        // A fight that ends while its pause lasts was ended by the other side.
        let by_us = match status.action {
            Action::Healing => true,
            Action::Fighting => may_heal,
            _ => false,
        };
        status.action = if by_us { Action::Healed } else { Action::Resolved };
        if by_us && entry.counts {
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
            wanted_by: None,
            wanted: Some("running".into()),
            actual: Some("exited (137)".into()),
            origin: None,
            since: None,
            cause: None,
            deadline: None,
            under_way: false,
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
    fn rules_that_are_fought_over_are_healed_on_at_a_slower_pace() {
        let mut ledger = Ledger::new(Layer::Network);
        ledger.observe(&pass(vec![]), true, at(0));
        for round in 0..3 {
            ledger.observe(&pass(vec![stopped()]), true, at(round * 2 + 1));
            ledger.observe(&pass(vec![]), true, at(round * 2 + 2));
        }
        let opened = ledger.observe(&pass(vec![stopped()]), true, at(8));
        assert_eq!(actions(&opened), vec![(Phase::Open, Action::Fighting, 4)]);
        assert!(!ledger.may_heal(&pod(), "containers[web]", at(35)));
        assert!(ledger.may_heal(&pod(), "containers[web]", at(36)), "30 s after the last heal");
        // Healed in the fight: it counts, so that the next one waits for its pause too.
        let closed = ledger.observe(&pass(vec![]), true, at(36));
        assert_eq!(actions(&closed), vec![(Phase::Closed, Action::Healed, 4)]);
        let opened = ledger.observe(&pass(vec![stopped()]), true, at(38));
        assert_eq!(actions(&opened), vec![(Phase::Open, Action::Fighting, 5)]);
        assert!(!ledger.may_heal(&pod(), "containers[web]", at(65)));
        // The other side put it right itself.
        let closed = ledger.observe(&pass(vec![]), true, at(40));
        assert_eq!(actions(&closed), vec![(Phase::Closed, Action::Resolved, 5)]);
    }

    #[test]
    fn restarts_are_never_a_fight() {
        let mut ledger = Ledger::new(Layer::Container);
        let restarted = Difference { response: Response::Restart, ..stopped() };
        ledger.observe(&pass(vec![]), true, at(0));
        for round in 0..5 {
            let opened = ledger.observe(&pass(vec![restarted.clone()]), true, at(round * 10 + 1));
            assert!(matches!(actions(&opened)[..], [(Phase::Open, Action::Healing, _)]));
            ledger.observe(&pass(vec![]), true, at(round * 10 + 2));
        }
    }

    #[test]
    fn what_is_under_way_holds_an_open_drift_and_opens_none() {
        let mut ledger = Ledger::new(Layer::Container);
        ledger.observe(&pass(vec![]), true, at(0));
        let not_ready = Difference {
            class: Class::NotReady,
            under_way: true,
            deadline: Some(at(600)),
            ..stopped()
        };
        assert_eq!(ledger.observe(&pass(vec![not_ready.clone()]), true, at(1)), vec![]);
        ledger.observe(&pass(vec![stopped()]), true, at(2));
        assert_eq!(ledger.observe(&pass(vec![not_ready.clone()]), true, at(3)), vec![]);
        let held = ledger.observe(&pass(vec![not_ready.clone()]), true, at(12));
        assert!(
            matches!(&held[..], [LedgerWrite::Put(drift)] if drift.spec.class == Class::Stopped),
            "what opened it stays on record: {held:?}"
        );
        let closed = ledger.observe(&pass(vec![]), true, at(13));
        assert_eq!(actions(&closed), vec![(Phase::Closed, Action::Healed, 1)]);
        let late = ledger.observe(&pass(vec![not_ready]), true, at(600));
        assert_eq!(actions(&late), vec![(Phase::Open, Action::Healing, 2)]);
    }

    #[test]
    fn a_gone_object_leaves_nothing_open() {
        let mut ledger = Ledger::new(Layer::Container);
        ledger.observe(&pass(vec![]), false, at(0));
        ledger.observe(&pass(vec![stopped()]), false, at(1));
        let closed = ledger.forget_object(&pod(), at(2));
        assert_eq!(actions(&closed), vec![(Phase::Closed, Action::Healed, 1)]);
        assert_eq!(ledger.open().count(), 0);
        // Another one of its name and uid would be progress first.
        assert_eq!(ledger.observe(&pass(vec![stopped()]), false, at(3)), vec![]);
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
    fn what_became_of_an_earlier_incarnation_leaves_the_new_ones_drift_alone() {
        let later = || DriftObject { uid: "v".into(), ..pod() };
        let of_later = |differences: Vec<Difference>| {
            let examined = pass(differences).into_iter();
            examined.map(|pass| Examined { object: later(), ..pass }).collect::<Vec<_>>()
        };
        for closes_first in [true, false] {
            let mut ledger = Ledger::new(Layer::Container);
            ledger.observe(&pass(vec![]), false, at(0));
            ledger.observe(&pass(vec![stopped()]), false, at(1));
            if closes_first {
                ledger.observe(&pass(vec![]), false, at(2));
            }
            ledger.observe(&of_later(vec![]), false, at(3));
            let opened = ledger.observe(&of_later(vec![stopped()]), false, at(4));
            assert_eq!(actions(&opened), vec![(Phase::Open, Action::Healing, 1)]);
            // The earlier one ends for good, and its day is over: the name is the new one's.
            let day = at(4 + KEEP_CLOSED_SECONDS);
            let writes = ledger.observe(&of_later(vec![stopped()]), true, day);
            assert_eq!(actions(&writes), vec![(Phase::Open, Action::Healing, 1)]);
        }
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
