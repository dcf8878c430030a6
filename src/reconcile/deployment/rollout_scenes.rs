//! Scenes of rollouts, pass by pass, and the two promises as a property: against a dull model of
//! ReplicaSets and pods, in any order of passes and with any readiness, the pods never exceed wanted
//! plus surge and the available never fall below wanted minus unavailable.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentStatus, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::{Value, json};

use super::*;
use crate::reconcile::deployment::status::{Occurred, report};

/// A cluster of one Deployment. A pod is whether it is available.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    pods: BTreeMap<String, Vec<bool>>,
    seconds: i64,
    /// When the last pass asked for another look.
    look_at: Option<Timestamp>,
}

impl World {
    fn new(replicas: i32, strategy: Value) -> Self {
        let deployment: Deployment = serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
                "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600, "template": {},
            },
        }))
        .expect("a Deployment");
        let mut world = Self {
            deployment,
            sets: Vec::new(),
            pods: BTreeMap::new(),
            seconds: 1_800_000_000,
            look_at: None,
        };
        world.roll_to("web:1");
        world
    }

    /// Rolled out, everything available.
    fn converged(replicas: i32, strategy: Value) -> Self {
        let mut world = Self::new(replicas, strategy);
        world.settle();
        assert_eq!(world.sizes(), [("web:1", replicas)]);
        world
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.seconds).expect("in range")
    }

    fn change(&mut self, change: Value) {
        let mut spec = serde_json::to_value(&self.deployment.spec).expect("a spec");
        json_patch::merge(&mut spec, &change);
        self.deployment.spec = serde_json::from_value(spec).expect("a spec");
        *self.deployment.metadata.generation.get_or_insert_default() += 1;
    }

    fn roll_to(&mut self, image: &str) {
        self.change(json!({"template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]},
        }}));
    }

    fn planned(&self) -> RolloutPlan {
        let running = self
            .pods
            .iter()
            .map(|(uid, pods)| (uid.clone(), pods.len()))
            .collect::<BTreeMap<String, usize>>();
        plan(&View { deployment: &self.deployment, replica_sets: &self.sets, running: &running })
    }

    /// One pass of the Deployment's controller.
    fn pass(&mut self) -> RolloutPlan {
        self.seconds += 1;
        let plan = self.planned();
        let mut occurred = Occurred::Nothing;
        for step in &plan.steps {
            match step {
                Step::Create { replica_set, .. } => {
                    let mut set = (**replica_set).clone();
                    let uid = format!("uid-{}", set.key().name);
                    set.metadata.uid = Some(uid.clone());
                    set.metadata.generation = Some(1);
                    set.metadata.resource_version = Some("1".into());
                    set.metadata.creation_timestamp = Some(Time(self.now()));
                    occurred = Occurred::Created(set.key().name);
                    assert!(self.pods.insert(uid, Vec::new()).is_none(), "the name is free");
                    self.sets.push(Arc::new(set));
                }
                Step::Adjust(adjustment) => self.adjust(adjustment),
                Step::Remove { uid, .. } => {
                    assert!(self.pods.remove(uid).is_some_and(|pods| pods.is_empty()));
                    self.sets.retain(|set| set.uid() != uid);
                }
                Step::SetRevision { revision } => {
                    let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(REVISION.to_owned(), revision.clone());
                }
            }
        }
        let sets = Sets::of(&self.deployment, &self.sets);
        let all: Vec<&ReplicaSet> = sets.all().collect();
        let status =
            report(&self.deployment, &all, sets.new, &occurred, plan.judges_progress, self.now());
        self.deployment.status = Some(status.status);
        self.look_at = status.look_at;
        plan
    }

    fn adjust(&mut self, adjustment: &Adjustment) {
        let at = self.sets.iter().position(|set| set.uid() == adjustment.uid).expect("it exists");
        let mut set = (*self.sets[at]).clone();
        assert_eq!(set.metadata.resource_version.as_deref(), Some(&*adjustment.resource_version));
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.extend(adjustment.annotations.clone());
        if let Some(Scale { from, to }) = adjustment.scale {
            assert_eq!(replicas_of(&set), from);
            set.spec.as_mut().expect("a spec").replicas = Some(to);
            *set.metadata.generation.get_or_insert_default() += 1;
        }
        let version: u64 = adjustment.resource_version.parse().expect("a number");
        set.metadata.resource_version = Some((version + 1).to_string());
        self.sets[at] = Arc::new(set);
    }

    /// One pass of the ReplicaSet controller: deletes the unavailable first, counts, and then creates,
    /// so that its status is as old as it can be.
    fn replica_set_pass(&mut self, at: usize) {
        let mut set = (*self.sets[at]).clone();
        let pods = self.pods.get_mut(set.uid()).expect("it exists");
        let wanted = usize::try_from(replicas_of(&set)).expect("not negative");
        pods.sort_by_key(|available| !available);
        pods.truncate(wanted);
        let available = i32::try_from(pods.iter().filter(|available| **available).count());
        let available = available.expect("small");
        set.status = Some(ReplicaSetStatus {
            replicas: i32::try_from(pods.len()).expect("small"),
            ready_replicas: Some(available),
            available_replicas: Some(available),
            observed_generation: set.metadata.generation,
            ..ReplicaSetStatus::default()
        });
        pods.resize(wanted, false);
        self.sets[at] = Arc::new(set);
    }

    fn replica_set_passes(&mut self) {
        for at in 0..self.sets.len() {
            self.replica_set_pass(at);
        }
    }

    /// Twice: the pods that the first made are counted by the second.
    fn observe(&mut self) {
        self.replica_set_passes();
        self.replica_set_passes();
    }

    fn all_become_available(&mut self) {
        self.observe();
        self.pods.values_mut().flatten().for_each(|available| *available = true);
        self.observe();
    }

    /// Until nothing changes, with every pod becoming available.
    fn settle(&mut self) {
        for _ in 0..500 {
            let plan = self.pass();
            self.all_become_available();
            if plan.steps.is_empty() && plan.waits_for.is_none() {
                self.pass();
                return;
            }
        }
        panic!("never settles: {:?}", self.planned());
    }

    fn image(set: &ReplicaSet) -> String {
        let value = serde_json::to_value(set).expect("a ReplicaSet");
        value["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("text").into()
    }

    /// Image and size of every ReplicaSet, oldest first.
    fn all_sizes(&self) -> Vec<(String, i32)> {
        self.sets.iter().map(|set| (Self::image(set), replicas_of(set))).collect()
    }

    /// As [`World::all_sizes`], of those with replicas.
    fn sizes(&self) -> Vec<(&'static str, i32)> {
        let name = |image: String| match image.as_str() {
            "web:1" => "web:1",
            "web:2" => "web:2",
            "web:3" => "web:3",
            other => panic!("unexpected {other}"),
        };
        let all = self.all_sizes().into_iter().map(|(image, size)| (name(image), size));
        all.filter(|(_, size)| *size > 0).collect()
    }

    fn pods(&self) -> i32 {
        i32::try_from(self.pods.values().map(Vec::len).sum::<usize>()).expect("small")
    }

    fn available(&self) -> i32 {
        let all = self.pods.values().flatten();
        i32::try_from(all.filter(|available| **available).count()).expect("small")
    }
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

#[test]
fn ten_replicas_by_quarters() {
    let mut world = World::converged(10, rolling(json!("25%"), json!("25%")));
    world.roll_to("web:2");
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 10), ("web:2", 3)], "up by the surge of 3");
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 10), ("web:2", 3)], "waits for the new status");
    world.observe();
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 8), ("web:2", 3)], "13 - 8 - 3 = 2 down");
    world.observe();
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 8), ("web:2", 5)], "room for two more");
    world.observe();
    let plan = world.pass();
    assert_eq!(world.sizes(), [("web:1", 8), ("web:2", 5)], "nothing until one is available");
    assert!(plan.waits_for.is_some());
    world.all_become_available();
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 3), ("web:2", 5)], "13 available, 8 needed");
    world.settle();
    assert_eq!(world.sizes(), [("web:2", 10)]);
    assert_eq!((world.pods(), world.available()), (10, 10));
}

#[test]
fn one_replica_starts_the_new_before_it_stops_the_old() {
    let mut world = World::converged(1, rolling(json!("25%"), json!("25%")));
    world.roll_to("web:2");
    world.pass();
    world.observe();
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 1), ("web:2", 1)]);
    world.all_become_available();
    world.pass();
    assert_eq!(world.sizes(), [("web:2", 1)]);
}

#[test]
fn without_surge_one_old_pod_goes_first() {
    // 10 % of 3 is 0, both would be 0: one may be unavailable.
    let mut world = World::converged(3, rolling(json!(0), json!("10%")));
    world.roll_to("web:2");
    let mut seen = Vec::new();
    for _ in 0..12 {
        world.pass();
        let of =
            |image| world.sizes().iter().find(|(name, _)| *name == image).map_or(0, |(_, n)| *n);
        seen.push((of("web:2"), of("web:1")));
        world.all_become_available();
    }
    seen.dedup();
    assert_eq!(seen, [(0, 3), (0, 2), (1, 2), (1, 1), (2, 1), (2, 0), (3, 0)]);
}

#[test]
fn unavailable_old_pods_go_first_and_do_not_block() {
    let mut world = World::converged(10, rolling(json!(0), json!(2)));
    world.roll_to("web:2");
    // Six of the old pods fail: what is left cannot serve, and must not hold up the fix.
    let pods = world.pods.values_mut().next().expect("one set");
    pods[..6].fill(false);
    world.observe();
    world.pass();
    world.observe();
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 8)], "10 - 8 = 2 unavailable ones");
    world.observe();
    world.pass();
    assert_eq!(world.sizes(), [("web:1", 8), ("web:2", 2)]);
    world.settle();
    assert_eq!(world.sizes(), [("web:2", 10)]);
}

#[test]
fn recreate_waits_until_the_last_old_pod_has_ended() {
    let mut world = World::converged(3, json!({"type": "Recreate"}));
    world.roll_to("web:2");
    world.pass();
    assert_eq!(world.sizes(), []);
    assert_eq!(world.all_sizes().len(), 1, "the new one is not even made");
    let plan = world.pass();
    assert_eq!(plan.waits_for.as_deref(), Some("the old pods to end"));
    world.observe();
    // The status says none, but one is still terminating.
    let uid = world.sets[0].uid().to_owned();
    world.pods.insert(uid.clone(), vec![false]);
    assert_eq!(world.pass().waits_for.as_deref(), Some("the old pods to end"));
    world.pods.insert(uid, Vec::new());
    world.pass();
    assert_eq!(world.sizes(), [("web:2", 3)]);
    world.settle();
    assert_eq!(world.available(), 3);
}

#[test]
fn a_revert_uses_the_old_replica_set_again() {
    let mut world = World::converged(3, rolling(json!(1), json!(0)));
    world.roll_to("web:2");
    world.settle();
    assert_eq!(world.deployment.metadata.annotations.as_ref().expect("set")[REVISION], "2");
    world.roll_to("web:1");
    world.settle();
    assert_eq!(world.all_sizes(), [("web:1".to_owned(), 3), ("web:2".to_owned(), 0)]);
    assert_eq!(revision_of(&world.sets[0]), 3);
    let history = &world.sets[0].metadata.annotations.as_ref().expect("set")["deployment.kubernetes.io/revision-history"];
    assert_eq!(history, "1");
    assert_eq!(world.deployment.metadata.annotations.as_ref().expect("set")[REVISION], "3");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::converged(3, rolling(json!(1), json!(0)));
    world.change(json!({"paused": true}));
    world.roll_to("web:2");
    world.change(json!({"replicas": 5}));
    let plan = world.pass();
    assert!(!plan.judges_progress);
    world.all_become_available();
    world.pass();
    assert_eq!(world.all_sizes(), [("web:1".to_owned(), 5)]);
    world.change(json!({"paused": false}));
    world.settle();
    assert_eq!(world.sizes(), [("web:2", 5)]);
}

#[test]
fn a_change_of_replicas_in_mid_rollout_is_shared() {
    let mut world = World::converged(10, rolling(json!("25%"), json!("25%")));
    world.roll_to("web:2");
    for _ in 0..4 {
        world.pass();
        world.observe();
    }
    assert_eq!(world.sizes(), [("web:1", 8), ("web:2", 5)]);
    world.change(json!({"replicas": 20}));
    let plan = world.pass();
    assert_eq!(world.sizes(), [("web:1", 15), ("web:2", 10)]);
    assert!(!plan.judges_progress, "scaling is no progress of the rollout");
    world.settle();
    assert_eq!(world.sizes(), [("web:2", 20)]);
    world.change(json!({"replicas": 0}));
    world.settle();
    assert_eq!(world.sizes(), []);
}

#[test]
fn old_replica_sets_beyond_the_limit_go_when_the_rollout_is_complete() {
    let mut world = World::converged(1, rolling(json!(1), json!(0)));
    for image in ["web:2", "web:3", "web:4", "web:5"] {
        world.roll_to(image);
        world.settle();
        world.settle();
    }
    let images: Vec<String> = world.all_sizes().into_iter().map(|(image, _)| image).collect();
    assert_eq!(images, ["web:3", "web:4", "web:5"]);
}

#[test]
fn steps_carry_their_reason_and_precondition() {
    let mut world = World::converged(2, rolling(json!(1), json!(0)));
    world.roll_to("web:2");
    let plan = world.planned();
    let [Step::Create { replica_set, reason }, Step::SetRevision { revision }] = &plan.steps[..]
    else {
        panic!("create, then the revision: {plan:?}")
    };
    assert_eq!(reason, "no ReplicaSet has this template");
    assert_eq!(revision, "2");
    let hash = replica_set.key().name.strip_prefix("web-").expect("named after it").to_owned();
    let spec = replica_set.spec.as_ref().expect("a spec");
    let labels = spec.selector.match_labels.as_ref().expect("labels");
    assert_eq!(labels["pod-template-hash"], hash);
    assert_eq!(spec.replicas, Some(1));
}

#[test]
fn conditions_tell_the_rollout_and_its_deadline() {
    let condition = |world: &World| {
        let status: &DeploymentStatus = world.deployment.status.as_ref().expect("reported");
        let all = status.conditions.as_deref().expect("conditions");
        let progressing = crate::object::condition::find(all, "Progressing").expect("it is there");
        (progressing.status.clone(), progressing.reason.clone().expect("a reason"))
    };
    let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    world.pass();
    assert_eq!(condition(&world), is("True", "NewReplicaSetCreated"));
    world.observe();
    world.pass();
    assert_eq!(condition(&world), is("True", "ReplicaSetUpdated"));
    world.all_become_available();
    world.pass();
    assert_eq!(condition(&world), is("True", "NewReplicaSetAvailable"));
    // Days later a rollout that never becomes ready: its deadline counts from its own start.
    world.seconds += 1_000_000;
    world.roll_to("web:2");
    world.pass();
    world.observe();
    world.pass();
    assert_eq!(condition(&world), is("True", "ReplicaSetUpdated"));
    world.seconds += 590;
    world.pass();
    assert_eq!(condition(&world), is("True", "ReplicaSetUpdated"));
    world.seconds += 20;
    world.pass();
    assert_eq!(condition(&world), is("False", "ProgressDeadlineExceeded"));
    world.change(json!({"paused": true}));
    world.pass();
    assert_eq!(condition(&world), is("False", "ProgressDeadlineExceeded"));
    // Repaired: progress is told again.
    world.change(json!({"paused": false}));
    world.settle();
    assert_eq!(condition(&world), is("True", "NewReplicaSetAvailable"));
    // A pod lost long after is no rollout: no deadline is left that could be looked at for ever.
    world.seconds += 1_000_000;
    world.pods.values_mut().flatten().for_each(|available| *available = false);
    world.observe();
    world.pass();
    assert_eq!(condition(&world), is("True", "NewReplicaSetAvailable"));
    assert_eq!(world.look_at, None);
    world.settle();
    world.change(json!({"paused": true}));
    world.pass();
    assert_eq!(condition(&world), is("Unknown", "DeploymentPaused"));
    world.change(json!({"paused": false, "progressDeadlineSeconds": i32::MAX}));
    world.pass();
    let status = world.deployment.status.as_ref().expect("reported");
    let all = status.conditions.as_deref().expect("conditions");
    assert!(crate::object::condition::find(all, "Progressing").is_none());
}

#[derive(Clone, Debug)]
enum Event {
    DeploymentPass,
    ReplicaSetPass(usize),
    BecomesAvailable(usize),
    RollTo(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(
        prop_oneof![
            4 => Just(Event::DeploymentPass),
            4 => (0_usize..4).prop_map(Event::ReplicaSetPass),
            3 => (0_usize..30).prop_map(Event::BecomesAvailable),
            1 => (1_usize..4).prop_map(Event::RollTo),
        ],
        1..150,
    )
}

fn bounds() -> impl Strategy<Value = (Value, Value)> {
    let bound = || {
        prop_oneof![
            (0_i32..5).prop_map(|n| json!(n)),
            (0_i32..101).prop_map(|n| json!(format!("{n}%")))
        ]
    };
    (bound(), bound())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_rollout_keeps_its_two_promises_and_ends(
        replicas in 1_i32..13,
        (surge, unavailable) in bounds(),
        events in events(),
    ) {
        let mut world = World::converged(replicas, rolling(surge, unavailable));
        let wanted = Wanted::of(&world.deployment);
        let mut last = "web:1".to_owned();
        for event in events {
            match event {
                Event::DeploymentPass => { world.pass(); }
                Event::ReplicaSetPass(at) => {
                    if at < world.sets.len() {
                        world.replica_set_pass(at);
                    }
                }
                Event::BecomesAvailable(nth) => {
                    if let Some(pod) = world.pods.values_mut().flatten().nth(nth) {
                        *pod = true;
                    }
                }
                Event::RollTo(version) => {
                    last = format!("web:{version}");
                    world.roll_to(&last);
                }
            }
            prop_assert!(world.pods() <= wanted.most(), "{} pods: {:?}", world.pods(), world.all_sizes());
            prop_assert!(
                world.available() >= wanted.fewest_available(),
                "{} available: {:?}", world.available(), world.all_sizes()
            );
        }
        world.settle();
        let sizes = world.all_sizes();
        let ends: Vec<_> = sizes.iter().filter(|(_, size)| *size > 0).collect();
        prop_assert_eq!(ends, [&(last, replicas)]);
        prop_assert_eq!(world.available(), replicas);
    }
}
