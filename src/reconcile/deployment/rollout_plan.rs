//! Pure: what one pass does to a Deployment's ReplicaSets.
//!
//! In order: a paused Deployment, or one whose `replicas` changed, is scaled (in mid-rollout
//! proportionally); else its template is rolled out. A pass scales either up or down, and names the
//! resourceVersion of every ReplicaSet that it changes.
//!
//! Two deviations from Kubernetes, both towards its own promise that the pods never exceed wanted
//! plus surge and the available never fall below wanted minus unavailable. Kubernetes counts pods by
//! `spec.replicas` and availability by a status that may be older; here a pass that rolls out waits
//! while any ReplicaSet's status is of an earlier spec, counts the pods that a ReplicaSet still has
//! above its spec, and does not count as available what its spec is about to remove. And a pass that
//! creates the ReplicaSet does nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use crate::object::{Key, Object};
use crate::reconcile::deployment::fenceposts::{Strategy, Wanted};
use crate::reconcile::deployment::new_replica_set::new_replica_set;
use crate::reconcile::deployment::proportional::{Part, spread, total};
use crate::reconcile::deployment::revision::{
    DESIRED, MAX, REVISION, Sets, annotation_changes, beyond_history, count_changes, count_of,
    is_observed, replicas_of, revision_of,
};
use crate::reconcile::deployment::status::is_complete;
use crate::reconcile::owner::is_deleting;

/// What a pass decides on.
#[derive(Clone, Debug)]
pub struct View<'a> {
    pub deployment: &'a Deployment,
    /// All that the Deployment has claimed, in any order.
    pub replica_sets: &'a [Arc<ReplicaSet>],
    /// Pods that have not ended, also those being deleted, by the uid of their ReplicaSet. Only
    /// `Recreate` looks at it.
    pub running: &'a BTreeMap<String, usize>,
}

/// What a pass does, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutPlan {
    pub steps: Vec<Step>,
    /// Whether the status judges progress: not while paused or only scaling.
    pub judges_progress: bool,
    /// Why nothing is scaled although the rollout is not at its end.
    pub waits_for: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Create {
        replica_set: Box<ReplicaSet>,
        reason: String,
    },
    Adjust(Adjustment),
    /// Beyond the history limit.
    Remove {
        key: Key,
        uid: String,
        resource_version: String,
        reason: String,
    },
    /// The annotation of the Deployment itself.
    SetRevision {
        revision: String,
    },
}

/// A change of one ReplicaSet at exactly this resourceVersion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    pub key: Key,
    pub uid: String,
    pub resource_version: String,
    pub scale: Option<Scale>,
    /// Added or overwritten.
    pub annotations: BTreeMap<String, String>,
    pub min_ready_seconds: Option<i32>,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    pub from: i32,
    pub to: i32,
}

/// Decides one pass.
pub fn plan(view: &View<'_>) -> RolloutPlan {
    let deployment = view.deployment;
    let wanted = Wanted::of(deployment);
    let sets = Sets::of(deployment, view.replica_sets);
    let mut pass = Pass { deployment, wanted, sets, drafts: BTreeMap::new(), steps: Vec::new() };
    if is_deleting(&deployment.metadata) {
        return pass.end(false, None);
    }
    if wanted.paused || pass.is_scaling_event() {
        pass.renew_annotations();
        pass.scale();
        if wanted.paused {
            pass.clean_up();
        }
        return pass.end(false, None);
    }
    let waits_for = match wanted.strategy {
        Strategy::RollingUpdate => pass.roll(),
        Strategy::Recreate => pass.recreate(view.running),
    };
    pass.end(true, waits_for)
}

/// A pass in the making.
struct Pass<'a> {
    deployment: &'a Deployment,
    wanted: Wanted,
    sets: Sets<'a>,
    /// By name.
    drafts: BTreeMap<String, Adjustment>,
    steps: Vec<Step>,
}

impl<'a> Pass<'a> {
    fn end(self, judges_progress: bool, waits_for: Option<String>) -> RolloutPlan {
        let Self { drafts, mut steps, .. } = self;
        let at = steps.iter().position(|step| matches!(step, Step::Remove { .. }));
        let at = at.unwrap_or(steps.len());
        steps.splice(at..at, drafts.into_values().map(Step::Adjust));
        RolloutPlan { steps, judges_progress, waits_for }
    }

    /// A ReplicaSet with pods was last scaled for another `replicas`.
    fn is_scaling_event(&self) -> bool {
        self.sets.all().filter(|set| replicas_of(set) > 0).any(|set| {
            count_of(set, DESIRED).is_some_and(|desired| desired != self.wanted.replicas)
        })
    }

    fn draft(&mut self, set: &ReplicaSet) -> &mut Adjustment {
        self.drafts.entry(set.key().name).or_insert_with(|| Adjustment {
            key: set.key(),
            uid: set.uid().to_owned(),
            resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
            scale: None,
            annotations: BTreeMap::new(),
            min_ready_seconds: None,
            reason: String::new(),
        })
    }

    /// Size and counts together: the counts say what the size was made for.
    fn resize(&mut self, set: &ReplicaSet, to: i32, reason: &str) {
        let from = replicas_of(set);
        let counts = count_changes(set, &self.wanted);
        if from == to && counts.is_empty() {
            return;
        }
        let draft = self.draft(set);
        draft.scale = (from != to).then_some(Scale { from, to });
        draft.annotations.extend(counts);
        reason.clone_into(&mut draft.reason);
    }

    /// The new ReplicaSet carries the Deployment's annotations, the highest revision and its
    /// minReadySeconds; the Deployment carries the same revision.
    fn renew_annotations(&mut self) {
        let Some(new) = self.sets.new else { return };
        let changes = annotation_changes(self.deployment, Some(new), self.sets.next_revision());
        let revision = revision_of(new).max(self.sets.next_revision());
        let seconds = new.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
        let wanted_seconds = self.wanted.min_ready_seconds;
        if !changes.is_empty() || seconds != wanted_seconds {
            let draft = self.draft(new);
            draft.annotations.extend(changes);
            draft.min_ready_seconds = (seconds != wanted_seconds).then_some(wanted_seconds);
            "the Deployment's revision, annotations and minReadySeconds"
                .clone_into(&mut draft.reason);
        }
        self.set_revision(revision);
    }

    fn set_revision(&mut self, revision: i64) {
        let annotations = self.deployment.metadata.annotations.as_ref();
        let current = annotations.and_then(|annotations| annotations.get(REVISION));
        let revision = revision.to_string();
        if current != Some(&revision) {
            self.steps.push(Step::SetRevision { revision });
        }
    }

    /// `replicas` changed, or the Deployment is paused: bring the sizes to it without moving the
    /// rollout on.
    fn scale(&mut self) {
        let wanted = self.wanted;
        let active: Vec<&ReplicaSet> = self.sets.all().filter(|set| replicas_of(set) > 0).collect();
        let only = match active.as_slice() {
            // The newest.
            [] => self.sets.new.or(self.sets.old.last().copied()),
            [only] => Some(*only),
            _ => None,
        };
        if let Some(only) = only {
            self.resize(only, wanted.replicas, "the only one with pods gets all replicas");
        } else if self.sets.new.is_some_and(|new| is_saturated(new, &wanted)) {
            let new_uid = self.sets.new.map(|new| new.uid());
            for old in active.into_iter().filter(|set| Some(set.uid()) != new_uid) {
                self.resize(old, 0, "the new one has all replicas available");
            }
        } else if wanted.strategy == Strategy::RollingUpdate {
            let parts: Vec<Part<&ReplicaSet>> = active
                .into_iter()
                .enumerate()
                .map(|(age_order, set)| Part {
                    name: set,
                    replicas: replicas_of(set),
                    most_before: count_of(set, MAX),
                    age_order,
                })
                .collect();
            let status = self.deployment.status.as_ref();
            let status_replicas = status.and_then(|status| status.replicas).unwrap_or_default();
            for (set, size) in spread(&parts, wanted.replicas, wanted.most(), status_replicas) {
                self.resize(set, size, "its share of the changed replicas");
            }
        }
    }

    fn roll(&mut self) -> Option<String> {
        let Some(new) = self.sets.new else {
            // Without a settled view nobody knows what room there is: it comes with the next pass.
            let replicas = if self.stale().is_none() { self.room_above(0) } else { 0 };
            self.create(replicas, "no ReplicaSet has this template");
            return None;
        };
        self.renew_annotations();
        let (wanted, have) = (self.wanted.replicas, replicas_of(new));
        let old_left = total(self.sets.old.iter().map(|set| replicas_of(set)));
        if have == wanted && old_left == 0 {
            if is_complete(&self.wanted, self.deployment.status.as_ref(), self.deployment) {
                self.clean_up();
            }
            return None;
        }
        if let Some(stale) = self.stale() {
            return Some(format!("the status of {} to follow its spec", stale.key().name));
        }
        if have > wanted {
            self.resize(new, wanted, "more than wanted");
            return None;
        }
        let size = have + self.room_above(have);
        if size > have {
            let reason = format!("at most {} pods", self.wanted.most());
            self.resize(new, size, &reason);
            return None;
        }
        self.scale_down_old(new)
    }

    /// A ReplicaSet whose status was made for an earlier spec.
    fn stale(&self) -> Option<&'a ReplicaSet> {
        self.sets.all().find(|set| !is_observed(set))
    }

    /// How many more than `have` the new ReplicaSet may have.
    fn room_above(&self, have: i32) -> i32 {
        let current = total(self.sets.all().map(pods_of));
        (self.wanted.most() - current).clamp(0, (self.wanted.replicas - have).max(0))
    }

    fn scale_down_old(&mut self, new: &ReplicaSet) -> Option<String> {
        let wanted = self.wanted;
        let fewest = wanted.fewest_available();
        let wanted_of_all = total(self.sets.all().map(replicas_of));
        let new_unavailable = replicas_of(new) - available_of(new);
        let most_down = wanted_of_all - fewest - new_unavailable;
        if most_down <= 0 {
            return Some(format!("pods of {} to become available", new.key().name));
        }
        let old: Vec<&ReplicaSet> =
            self.sets.old.iter().copied().filter(|set| replicas_of(set) > 0).collect();
        let mut sizes: Vec<i32> = old.iter().map(|set| replicas_of(set)).collect();
        let mut reasons = vec![""; old.len()];
        // Unhealthy ones first: they would block the rollout and serve nobody.
        let mut left = most_down;
        for (index, set) in old.iter().enumerate() {
            let down = (sizes[index] - available_of(set)).min(left);
            if down > 0 {
                sizes[index] -= down;
                left -= down;
                reasons[index] = "its unavailable pods go first";
            }
        }
        let available = total(self.sets.all().map(available_of));
        let mut left = available - fewest;
        for index in 0..old.len() {
            let down = sizes[index].min(left);
            if down > 0 {
                sizes[index] -= down;
                left -= down;
                reasons[index] = "enough pods are available without these";
            }
        }
        let mut any = false;
        for ((set, size), reason) in old.into_iter().zip(sizes).zip(reasons) {
            if size != replicas_of(set) {
                any = true;
                self.resize(set, size, reason);
            }
        }
        (!any).then(|| format!("more than {fewest} available pods"))
    }

    fn recreate(&mut self, running: &BTreeMap<String, usize>) -> Option<String> {
        self.renew_annotations();
        let active: Vec<&ReplicaSet> =
            self.sets.old.iter().copied().filter(|set| replicas_of(set) > 0).collect();
        if !active.is_empty() {
            for old in active {
                self.resize(old, 0, "Recreate: the old pods go before the new ones come");
            }
            return None;
        }
        let new_uid = self.sets.new.map(|new| new.uid());
        let by_status = self.sets.old.iter().any(|set| pods_of(set) > 0 || !is_observed(set));
        let by_pods =
            running.iter().any(|(uid, count)| Some(uid.as_str()) != new_uid && *count > 0);
        if by_status || by_pods {
            return Some("the old pods to end".to_owned());
        }
        match self.sets.new {
            None => self.create(self.wanted.replicas, "Recreate: no old pod runs any more"),
            Some(new) if replicas_of(new) != self.wanted.replicas => {
                self.resize(new, self.wanted.replicas, "Recreate: no old pod runs any more");
            }
            Some(_) => {
                if is_complete(&self.wanted, self.deployment.status.as_ref(), self.deployment) {
                    self.clean_up();
                }
            }
        }
        None
    }

    fn create(&mut self, replicas: i32, reason: &str) {
        let revision = self.sets.next_revision();
        let made = new_replica_set(self.deployment, &self.wanted, replicas, revision);
        if let Some(replica_set) = made {
            let replica_set = Box::new(replica_set);
            self.steps.push(Step::Create { replica_set, reason: reason.to_owned() });
            self.set_revision(revision);
        }
    }

    fn clean_up(&mut self) {
        let Some(limit) = self.wanted.history_limit else { return };
        let surplus = beyond_history(&self.sets.old, limit).into_iter().map(|set| Step::Remove {
            key: set.key(),
            uid: set.uid().to_owned(),
            resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
            reason: format!("revisionHistoryLimit is {limit}"),
        });
        self.steps.extend(surplus);
    }
}

/// The pods that a ReplicaSet has or will have.
fn pods_of(set: &ReplicaSet) -> i32 {
    replicas_of(set).max(set.status.as_ref().map_or(0, |status| status.replicas))
}

/// The pods that are available and stay: those above the spec are about to go.
fn available_of(set: &ReplicaSet) -> i32 {
    let status = set.status.as_ref();
    let available = status.and_then(|status| status.available_replicas).unwrap_or_default();
    available.min(replicas_of(set))
}

fn is_saturated(new: &ReplicaSet, wanted: &Wanted) -> bool {
    let available = new.status.as_ref().and_then(|status| status.available_replicas);
    replicas_of(new) == wanted.replicas
        && count_of(new, DESIRED) == Some(wanted.replicas)
        && available.unwrap_or_default() == wanted.replicas
}

#[cfg(test)]
#[path = "rollout_scenes.rs"]
mod tests;
