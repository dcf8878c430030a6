//! Pure: when a pod is tried. Three places, as in kube-scheduler: *active* (now, by priority, then
//! first come first served), *back-off* (after 1 s doubling to 10 s), *parked* (nothing that could
//! help has happened; tried again when it does, or after 5 minutes).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::object::Pool;
use crate::reconcile::scheduler::demand::Demand;

/// The first back-off (kube-scheduler `podInitialBackoffSeconds`).
const FIRST_BACK_OFF: SignedDuration = SignedDuration::from_secs(1);
/// The longest (`podMaxBackoffSeconds`).
const LONGEST_BACK_OFF: SignedDuration = SignedDuration::from_secs(10);
/// A parked pod is tried again after this, whatever happens (`podMaxInUnschedulablePodsDuration`).
const LONGEST_PARKED: SignedDuration = SignedDuration::from_secs(300);

/// What a parked pod waits for; ordered, so that who needs room stands behind who needs nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// A node that comes or changes.
    Nodes,
    /// That, or a pod that leaves.
    Room,
}

/// What happened in the cluster that may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    NodeChanged,
    PodLeft,
    /// A claim, a volume or a storage class: for pods that use claims.
    StorageChanged,
}

/// The highest priority first, then who came first.
type Order = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active {
        order: Order,
    },
    BackOff {
        until: Timestamp,
    },
    Parked {
        until: Timestamp,
        needs: Needs,
    },
    /// Being placed or bound.
    Taken,
}

#[derive(Clone, Debug)]
struct Waiting {
    demand: Arc<Demand>,
    place: Place,
    attempts: u32,
    tried_at: Timestamp,
    /// The message that was last reported for this pod.
    reported: Option<Arc<str>>,
}

/// Every pod without a node.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: HashMap<Arc<str>, Waiting>,
    active: BTreeSet<(Order, Arc<str>)>,
    /// Back-off and parked together, by when they are due.
    later: BTreeSet<(Timestamp, Arc<str>)>,
    /// The parked ones, by what they need.
    parked: BTreeSet<(Needs, Arc<str>)>,
    /// Those of the parked ones that use claims.
    claimants: BTreeSet<Arc<str>>,
    arrivals: u64,
    /// Pods that fit nowhere do so for the same reason, mostly.
    messages: Pool<str>,
}

impl Queue {
    /// A pod waits. One that waits already keeps its place and its back-off, unless what it asks
    /// has changed: then it is tried at once. `reported` is the message its condition carries.
    pub fn add(&mut self, demand: Arc<Demand>, reported: Option<&str>, now: Timestamp) {
        let uid = demand.uid.clone();
        if let Some(waiting) = self.waiting.get_mut(&uid) {
            if *waiting.demand != *demand {
                waiting.demand = demand;
                if waiting.place != Place::Taken {
                    self.activate(&uid);
                }
            }
            return;
        }
        let reported = reported.map(|message| self.messages.share_ref(message));
        let waiting = Waiting { demand, place: Place::Taken, attempts: 0, tried_at: now, reported };
        self.waiting.insert(uid.clone(), waiting);
        self.activate(&uid);
    }

    /// The pod waits no more: bound, gone, or not ours. `false` when it did not wait.
    pub fn remove(&mut self, uid: &str) -> bool {
        self.leave_place(uid);
        self.waiting.remove(uid).is_some()
    }

    /// The next pod to try; it stays *taken* until [`Queue::park`], [`Queue::back_off`] or
    /// [`Queue::remove`].
    pub fn take(&mut self, now: Timestamp) -> Option<Arc<Demand>> {
        while let Some((due, uid)) = self.later.first().cloned() {
            if due > now {
                break;
            }
            self.activate(&uid);
        }
        let (_, uid) = self.active.first().cloned()?;
        self.leave_place(&uid);
        let waiting = self.waiting.get_mut(&uid).expect("what is active waits");
        waiting.attempts = waiting.attempts.saturating_add(1);
        waiting.tried_at = now;
        Some(waiting.demand.clone())
    }

    /// No node can take it.
    pub fn park(&mut self, uid: &str, needs: Needs, now: Timestamp) {
        if self.waiting.contains_key(uid) {
            self.settle(uid, Place::Parked { until: later(now, LONGEST_PARKED), needs });
        }
    }

    /// Its binding failed: try again after its back-off.
    pub fn back_off(&mut self, uid: &str) {
        if let Some(until) = self.waiting.get(uid).map(end_of_back_off) {
            self.settle(uid, Place::BackOff { until });
        }
    }

    /// Something happened that may help parked pods: they are tried after their back-off.
    pub fn wake(&mut self, cause: Cause, now: Timestamp) {
        let needing = |first: Needs| {
            let from = (first, Arc::default());
            self.parked.range(from..).map(|(_, uid)| uid.clone()).collect()
        };
        let helped: Vec<Arc<str>> = match cause {
            Cause::NodeChanged => needing(Needs::Nodes),
            Cause::PodLeft => needing(Needs::Room),
            Cause::StorageChanged => self.claimants.iter().cloned().collect(),
        };
        for uid in helped {
            let until = end_of_back_off(&self.waiting[&uid]);
            if until <= now {
                self.activate(&uid);
            } else {
                self.settle(&uid, Place::BackOff { until });
            }
        }
    }

    /// Remembers what is now reported, and answers it. `None` when the same was reported before.
    pub fn report(&mut self, uid: &str, message: &str) -> Option<Arc<str>> {
        let waiting = self.waiting.get_mut(uid)?;
        if waiting.reported.as_deref() == Some(message) {
            return None;
        }
        let message = self.messages.share_ref(message);
        waiting.reported = Some(message.clone());
        Some(message)
    }

    /// The report did not arrive: the next one is new again, and comes after the pod's back-off.
    pub fn forget_report(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        waiting.reported = None;
        if matches!(waiting.place, Place::Parked { .. }) {
            self.back_off(uid);
        }
    }

    pub fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// How many pods are tried next.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// When the next pod that waits for time is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.later.first().map(|(due, _)| *due)
    }

    /// How many pods wait, wherever.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The uids of all that wait, in no order.
    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.waiting.keys()
    }

    fn activate(&mut self, uid: &str) {
        self.arrivals += 1;
        let priority = self.waiting[uid].demand.template.priority;
        self.settle(uid, Place::Active { order: (Reverse(priority), self.arrivals) });
    }

    fn settle(&mut self, uid: &str, place: Place) {
        self.leave_place(uid);
        let waiting = self.waiting.get_mut(uid).expect("the caller looked");
        waiting.place = place;
        let name = waiting.demand.uid.clone();
        match place {
            Place::Active { order } => {
                self.active.insert((order, name));
            }
            Place::BackOff { until } => {
                self.later.insert((until, name));
            }
            Place::Parked { until, needs } => {
                self.later.insert((until, name.clone()));
                if !waiting.demand.template.footprint.claims.is_empty() {
                    self.claimants.insert(name.clone());
                }
                self.parked.insert((needs, name));
            }
            Place::Taken => {}
        }
    }

    fn leave_place(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        let name = waiting.demand.uid.clone();
        match std::mem::replace(&mut waiting.place, Place::Taken) {
            Place::Active { order } => {
                self.active.remove(&(order, name));
            }
            Place::BackOff { until } => {
                self.later.remove(&(until, name));
            }
            Place::Parked { until, needs } => {
                self.later.remove(&(until, name.clone()));
                self.claimants.remove(&name);
                self.parked.remove(&(needs, name));
            }
            Place::Taken => {}
        }
    }
}

fn end_of_back_off(waiting: &Waiting) -> Timestamp {
    // From the fifth failure on it is the longest anyway.
    let doublings = waiting.attempts.saturating_sub(1).min(4);
    later(waiting.tried_at, (FIRST_BACK_OFF * 2_i32.pow(doublings)).min(LONGEST_BACK_OFF))
}

fn later(from: Timestamp, by: SignedDuration) -> Timestamp {
    from.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Key;
    use crate::reconcile::scheduler::demand::{Footprint, Template};

    fn demand(uid: &str, priority: i32) -> Arc<Demand> {
        let template = Arc::new(Template { priority, ..Template::default() });
        Arc::new(Demand { uid: uid.into(), template, ..Demand::default() })
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).expect("in range")
    }

    fn taken(queue: &mut Queue, millis: i64) -> Option<String> {
        queue.take(at(millis)).map(|demand| demand.uid.to_string())
    }

    #[test]
    fn priority_goes_first_then_who_came_first() {
        let mut queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 0), ("c", 10)] {
            queue.add(demand(uid, priority), None, at(0));
        }
        let order: Vec<_> = std::iter::from_fn(|| taken(&mut queue, 0)).collect();
        assert_eq!(order, ["c", "a", "b"]);
        assert_eq!(queue.len(), 3);
        assert!(queue.remove("a"));
        assert!(!queue.remove("a"));
    }

    #[test]
    fn a_failed_binding_backs_off_from_one_to_ten_seconds() {
        let mut queue = Queue::default();
        queue.add(demand("a", 0), None, at(0));
        let mut now = 0;
        for seconds in [1, 2, 4, 8, 10, 10] {
            assert_eq!(taken(&mut queue, now).as_deref(), Some("a"));
            queue.back_off("a");
            let due = now + seconds * 1000;
            assert_eq!(queue.next_due(), Some(at(due)));
            assert_eq!(taken(&mut queue, due - 1), None);
            now = due;
        }
    }

    #[test]
    fn a_parked_pod_waits_for_what_helps_or_five_minutes() {
        let mut queue = Queue::default();
        for (uid, needs) in [("room", Needs::Room), ("nodes", Needs::Nodes)] {
            queue.add(demand(uid, 0), None, at(0));
            assert_eq!(taken(&mut queue, 0).as_deref(), Some(uid));
            queue.park(uid, needs, at(0));
        }
        queue.wake(Cause::PodLeft, at(100));
        assert_eq!(taken(&mut queue, 100), None, "its back-off is not over");
        assert_eq!(taken(&mut queue, 1000).as_deref(), Some("room"));
        assert_eq!(taken(&mut queue, 299_999), None);
        assert_eq!(taken(&mut queue, 300_000).as_deref(), Some("nodes"));
        queue.park("nodes", Needs::Nodes, at(300_000));
        queue.wake(Cause::NodeChanged, at(310_000));
        assert!(queue.has_active());
    }

    #[test]
    fn storage_wakes_those_that_use_it() {
        let mut queue = Queue::default();
        let footprint = Footprint { claims: vec![Key::new("a", "c")], ..Footprint::default() };
        let template = Template { footprint: Arc::new(footprint), ..Template::default() };
        let uses = Demand { uid: "uses".into(), template: template.into(), ..Demand::default() };
        for demand in [Arc::new(uses), demand("other", 0)] {
            queue.add(demand.clone(), None, at(0));
            taken(&mut queue, 0);
            queue.park(&demand.uid, Needs::Nodes, at(0));
        }
        queue.wake(Cause::StorageChanged, at(2000));
        assert_eq!(taken(&mut queue, 2000).as_deref(), Some("uses"));
        assert_eq!(taken(&mut queue, 2000), None);
    }

    #[test]
    fn a_pod_keeps_its_place_unless_it_changes() {
        let mut queue = Queue::default();
        queue.add(demand("a", 0), None, at(0));
        taken(&mut queue, 0);
        queue.park("a", Needs::Nodes, at(0));
        queue.add(demand("a", 0), None, at(1));
        assert!(!queue.has_active());
        queue.add(demand("a", 5), None, at(2));
        assert_eq!(taken(&mut queue, 2).as_deref(), Some("a"));
        queue.add(demand("a", 6), None, at(3));
        assert!(!queue.has_active(), "it is taken");
    }

    #[test]
    fn a_message_is_new_once() {
        let mut queue = Queue::default();
        queue.add(demand("a", 0), Some("old"), at(0));
        assert_eq!(queue.report("a", "old"), None);
        let told = queue.report("a", "new").expect("it is new");
        assert_eq!((&*told, queue.report("a", "new")), ("new", None));
        queue.forget_report("a");
        assert_eq!(queue.report("a", "new").as_deref(), Some("new"));
        assert_eq!(queue.report("b", "new"), None);
        queue.add(demand("b", 0), None, at(0));
        let same = queue.report("b", "new").expect("it is new");
        assert!(Arc::ptr_eq(&told, &same), "a message is held once");
    }

    #[test]
    fn a_pod_that_waits_is_held_once() {
        let mut queue = Queue::default();
        let waits = demand("a", 0);
        queue.add(waits.clone(), None, at(0));
        queue.take(at(0));
        queue.park("a", Needs::Room, at(0));
        // Here, as the key, where it waits for time and where it waits for room.
        assert_eq!(Arc::strong_count(&waits.uid), 4);
        queue.add(demand("a", 0), None, at(1));
        assert_eq!(Arc::strong_count(&waits), 2, "the same demand does not take its place");
        assert!(size_of::<Waiting>() <= 80, "{} bytes", size_of::<Waiting>());
    }
}
