//! The controllers over the real API and store in process, with a dull node: it binds every pod,
//! runs it at once, and makes it ready unless its image says otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use ballast::api::{Identity, Local};
use ballast::clock::Clock;
use ballast::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Object, Patch, Propagation, Scope,
};
use ballast::reconcile::engine::{Engine, Failed, Next, Reconcile};
use ballast::reconcile::watches::Watches;
use ballast::reconcile::{self, Vitals};
use ballast::store::Sqlite;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::cursed::figures;
use crate::fixture::{Fixture, PATIENCE, object};

type Home = Local<Sqlite>;

struct World {
    fixture: Fixture,
    cluster: Home,
}

impl World {
    /// The API and a node, without controllers.
    async fn new() -> Self {
        let fixture = Fixture::new();
        fixture.namespaces(&["default", "a"]).await;
        let cluster = fixture.admin();
        let node: Node = object(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        }));
        cluster.create(&node).await.expect("a node");
        let ready = Patch::Merge(json!({"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "Dull", "message": "", "lastHeartbeatTime": Timestamp::now(),
            "lastTransitionTime": Timestamp::now(),
        }]}}));
        cluster.patch_status::<Node>(&Key::cluster("n1"), &ready).await.expect("ready");
        Self { fixture, cluster }
    }

    /// With the controllers and the dull node.
    async fn running() -> Self {
        let world = Self::new().await;
        let tasks = &world.fixture.tasks;
        reconcile::run(world.fixture.local(Identity::Controllers), Clock::wall(), tasks);
        let (cluster, stop) = (world.cluster.clone(), tasks.stop().clone());
        tasks.spawn("dull node", async move {
            tokio::select! {
                // Cancel safe: the test ends here.
                () = stop.cancelled() => {}
                () = dull_node(cluster) => {}
            }
        });
        world
    }

    async fn end(self) {
        drop(self.cluster);
        self.fixture.end().await;
    }

    /// Waits until an object of the namespace `a` is as it should be.
    async fn until<K: Object>(&self, name: &str, what: &str, is: impl Fn(&K) -> bool) -> Arc<K> {
        let mut last = None;
        let wait = async {
            let mut changes = std::pin::pin!(self.cluster.watch::<K>(Scope::namespace("a")));
            while let Some(change) = changes.next().await {
                let states = match change {
                    Change::Reset(all) => all,
                    Change::Applied(object) => vec![object],
                    Change::Deleted(_) => Vec::new(),
                };
                for state in states.into_iter().filter(|state| state.key().name == name) {
                    if is(&state) {
                        return state;
                    }
                    last = Some(state);
                }
            }
            panic!("the watch ended")
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("{name} never {what}: {last:#?}"))
    }

    /// Waits until the namespace `a` holds as many of a kind.
    async fn until_count<K: Object>(&self, count: usize) {
        let wait = async {
            let mut changes = std::pin::pin!(self.cluster.watch::<K>(Scope::namespace("a")));
            while changes.next().await.is_some() {
                if self.all::<K>().await.len() == count {
                    return;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{} never {count}: {:#?}", K::OBJECT_KIND, self.all::<K>().await);
    }

    async fn all<K: Object>(&self) -> Vec<Arc<K>> {
        self.cluster.list::<K>(&Scope::namespace("a")).await.expect("a list").items
    }

    /// The Deployment when its status is of the latest spec and all its pods are new and available.
    async fn rolled(&self, replicas: i32) -> Arc<Deployment> {
        self.until("web", "rolled out", |deployment: &Deployment| {
            let Some(status) = &deployment.status else { return false };
            let all = [status.replicas, status.updated_replicas, status.available_replicas];
            status.observed_generation == deployment.metadata.generation
                && all.iter().all(|count| count.unwrap_or_default() == replicas)
        })
        .await
    }

    async fn change(&self, spec: Value) {
        self.cluster
            .patch::<Deployment>(&Key::new("a", "web"), &Patch::Strategic(json!({"spec": spec})))
            .await
            .expect("the Deployment changes");
    }

    async fn image(&self, image: &str) {
        let containers = json!([{"name": "web", "image": image}]);
        self.change(json!({"template": {"spec": {"containers": containers}}})).await;
    }

    /// Image, size and revision of every ReplicaSet, by image.
    async fn sets(&self) -> BTreeMap<String, (i32, String)> {
        let of = |set: Arc<ReplicaSet>| {
            let value = serde_json::to_value(&*set).expect("a ReplicaSet");
            let image = &value["spec"]["template"]["spec"]["containers"][0]["image"];
            let revision = &value["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            let size = set.spec.as_ref().and_then(|spec| spec.replicas).expect("defaulted");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(image), (size, text(revision)))
        };
        self.all::<ReplicaSet>().await.into_iter().map(of).collect()
    }
}

fn deployment(replicas: i32) -> Deployment {
    object(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "a", "annotations": {"team": "x"}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1", "ports": [{"name": "http", "containerPort": 8080}]}]},
            },
        },
    }))
}

/// Looks at every pod whenever one changes, at many at the same time: each write waits for the disk.
async fn dull_node(cluster: Home) {
    let addresses = AtomicU32::new(0);
    let pods = cluster.watch::<Pod>(Scope::all()).flat_map(|change| {
        futures::stream::iter(match change {
            Change::Reset(pods) => pods,
            Change::Applied(pod) => vec![pod],
            Change::Deleted(_) => Vec::new(),
        })
    });
    let (cluster, addresses) = (&cluster, &addresses);
    let looks = pods.for_each_concurrent(64, |pod| async move {
        let address = addresses.fetch_add(1, Ordering::Relaxed) + 1;
        match live(cluster, &pod, address).await {
            Ok(()) => {}
            // Somebody was faster; the next change tells.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => panic!("the dull node is refused: {error}"),
        }
    });
    looks.await;
}

async fn live(cluster: &Home, pod: &Pod, address: u32) -> Result<(), ApiError> {
    let spec = pod.spec.as_ref().expect("a spec");
    if pod.metadata.deletion_timestamp.is_some() {
        let options = DeleteOptions {
            uid: pod.metadata.uid.clone(),
            grace_seconds: Some(0),
            ..DeleteOptions::default()
        };
        return cluster.delete::<Pod>(&pod.key(), &options).await;
    }
    if spec.node_name.is_none() {
        return cluster.bind(&pod.key(), pod.uid(), "n1").await;
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if phase == Some("Running") {
        return Ok(());
    }
    let healthy = spec.containers[0].image.as_deref() != Some("web:broken");
    let ip = format!("10.42.{}.{}", address / 250, address % 250 + 1);
    let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": if healthy { "True" } else { "False" },
            "lastTransitionTime": Timestamp::now()}],
    }});
    cluster.patch_status::<Pod>(&pod.key(), &Patch::Merge(status)).await.map(drop)
}

#[tokio::test]
async fn a_deployment_lives_from_the_first_commit_to_its_deletion() {
    let world = World::running().await;
    world.cluster.create(&deployment(3)).await.expect("deployed");
    let first = world.rolled(3).await;
    let revision = |deployment: &Deployment| {
        let annotations = deployment.metadata.annotations.clone().unwrap_or_default();
        annotations.get("deployment.kubernetes.io/revision").cloned()
    };
    assert_eq!(revision(&first).as_deref(), Some("1"));
    assert_eq!(world.sets().await["web:1"], (3, "1".into()));
    let set = &world.all::<ReplicaSet>().await[0];
    assert_eq!(set.metadata.annotations.as_ref().expect("copied")["team"], "x");
    for pod in world.all::<Pod>().await {
        assert!(pod.key().name.starts_with(&format!("{}-", set.key().name)));
        let owners = pod.metadata.owner_references.as_ref().expect("owned");
        assert_eq!((owners.len(), owners[0].uid.as_str()), (1, set.uid()));
        assert_eq!(
            (owners[0].controller, owners[0].block_owner_deletion),
            (Some(true), Some(true))
        );
    }

    // Rolled.
    world.image("web:2").await;
    world.rolled(3).await;
    let sets = world.sets().await;
    assert_eq!((&sets["web:1"], &sets["web:2"]), (&(0, "1".into()), &(3, "2".into())));

    // Reverted: the old ReplicaSet is used again.
    world.image("web:1").await;
    world.rolled(3).await;
    let sets = world.sets().await;
    assert_eq!(sets.len(), 2);
    assert_eq!((&sets["web:1"], &sets["web:2"]), (&(3, "3".into()), &(0, "2".into())));
    let now = world
        .until("web", "carries revision 3", |deployment| {
            revision(deployment).as_deref() == Some("3")
        })
        .await;
    let status = now.status.as_ref().expect("a status");
    let conditions = status.conditions.as_deref().expect("conditions");
    for (condition, reason) in
        [("Available", "MinimumReplicasAvailable"), ("Progressing", "NewReplicaSetAvailable")]
    {
        let told = ballast::object::condition::find(conditions, condition).expect("it is told");
        assert_eq!((told.status.as_str(), told.reason.as_deref()), ("True", Some(reason)));
    }

    // Scaled; paused, where a new template makes nothing but scaling works; resumed.
    world.change(json!({"replicas": 5})).await;
    world.rolled(5).await;
    world.change(json!({"paused": true})).await;
    world.image("web:3").await;
    world.change(json!({"replicas": 2})).await;
    world
        .until("web", "scaled while paused", |deployment: &Deployment| {
            let status = deployment.status.as_ref();
            status.is_some_and(|status| {
                status.replicas == Some(2)
                    && status.observed_generation == deployment.metadata.generation
            })
        })
        .await;
    assert_eq!(world.sets().await.len(), 2, "a paused Deployment makes no ReplicaSet");
    world.change(json!({"paused": false})).await;
    world.rolled(2).await;
    assert_eq!(world.sets().await["web:3"], (2, "4".into()));

    // Deleted: nothing is left.
    let options =
        DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    world.cluster.delete::<Deployment>(&Key::new("a", "web"), &options).await.expect("deleted");
    world.until_count::<ReplicaSet>(0).await;
    world.until_count::<Pod>(0).await;
    world.end().await;
}

#[tokio::test]
async fn a_rollout_that_never_becomes_ready_stops_and_is_told() {
    let world = World::running().await;
    world.cluster.create(&deployment(3)).await.expect("deployed");
    world.rolled(3).await;
    world.change(json!({"progressDeadlineSeconds": 1})).await;
    world.image("web:broken").await;
    let stuck = world
        .until("web", "exceeded its deadline", |deployment: &Deployment| {
            let status = deployment.status.as_ref();
            let conditions = status.and_then(|status| status.conditions.as_deref());
            let progressing = conditions
                .and_then(|conditions| ballast::object::condition::find(conditions, "Progressing"));
            progressing.is_some_and(|it| it.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        })
        .await;
    // A quarter of three may be missing: none. The old pods serve on.
    assert_eq!(stuck.status.as_ref().and_then(|status| status.available_replicas), Some(3));
    assert_eq!(world.sets().await["web:1"].0, 3);
    // The next commit repairs it.
    world.image("web:2").await;
    world.rolled(3).await;
    world.end().await;
}

#[tokio::test]
async fn recreate_has_never_both_versions() {
    let world = World::running().await;
    let mut made = deployment(2);
    let spec = made.spec.as_mut().expect("a spec");
    spec.strategy = Some(object(json!({"type": "Recreate"})));
    world.cluster.create(&made).await.expect("deployed");
    world.rolled(2).await;
    // Every change of a pod, in order: the first new one comes after the last old one has gone.
    let mut changes = Box::pin(world.cluster.watch::<Pod>(Scope::namespace("a")));
    let Some(Change::Reset(pods)) = changes.next().await else { panic!("a watch begins whole") };
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
    let mut alive: BTreeMap<Key, Option<String>> =
        pods.iter().map(|pod| (pod.key(), image(pod))).collect();
    assert_eq!(alive.len(), 2);
    world.image("web:2").await;
    let rolls = async {
        while alive.len() < 2 || alive.values().any(|image| image.as_deref() != Some("web:2")) {
            match changes.next().await.expect("a watch does not end") {
                Change::Reset(_) => panic!("so few changes are not lost"),
                Change::Applied(pod) => drop(alive.insert(pod.key(), image(&pod))),
                Change::Deleted(pod) => drop(alive.remove(&pod.key())),
            }
            let versions: BTreeSet<_> = alive.values().collect();
            assert!(versions.len() <= 1, "both versions at once: {alive:?}");
        }
    };
    tokio::time::timeout(PATIENCE, rolls).await.expect("two new pods");
    drop(changes);
    world.rolled(2).await;
    world.end().await;
}

#[tokio::test]
async fn a_killed_pod_is_replaced_and_leaves_the_slice() {
    let world = World::running().await;
    world.cluster.create(&deployment(3)).await.expect("deployed");
    let service: Service = object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "a"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    }));
    world.cluster.create(&service).await.expect("a Service");
    world.rolled(3).await;
    let ready = |slices: &[Arc<EndpointSlice>]| -> Vec<String> {
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .filter(|e| e.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true))
            .filter_map(|e| e.target_ref.as_ref().and_then(|target| target.uid.clone()))
            .collect()
    };
    let until_ready = async |without: &str| {
        let mut changes =
            std::pin::pin!(world.cluster.watch::<EndpointSlice>(Scope::namespace("a")));
        while changes.next().await.is_some() {
            let slices = world.all::<EndpointSlice>().await;
            let told = ready(&slices);
            if told.len() == 3 && !told.iter().any(|uid| uid == without) {
                return slices;
            }
        }
        panic!("the watch ended")
    };
    let slices =
        tokio::time::timeout(PATIENCE, until_ready("")).await.expect("three ready endpoints");
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].ports.as_ref().expect("ports")[0].port, Some(8080));
    assert_eq!(slices[0].metadata.owner_references.as_ref().expect("owned")[0].name, "web");
    let victim = world.all::<Pod>().await.remove(0);
    let options = DeleteOptions { uid: victim.metadata.uid.clone(), ..DeleteOptions::default() };
    world.cluster.delete::<Pod>(&victim.key(), &options).await.expect("killed");
    let slices = tokio::time::timeout(PATIENCE, until_ready(victim.uid()))
        .await
        .expect("three ready endpoints again");
    assert_eq!(slices.len(), 1, "the same slice");
    world.end().await;
}

#[tokio::test]
async fn a_large_replica_set_is_made_exactly_once() {
    let world = World::running().await;
    let set: ReplicaSet = object(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "many", "namespace": "a"},
        "spec": {
            "replicas": 600, "selector": {"matchLabels": {"app": "many"}},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}},
        },
    }));
    // An orphan that the selector selects is adopted, not doubled.
    let mut orphan = json!({"apiVersion": "v1", "kind": "Pod"});
    orphan["metadata"] = json!({"name": "orphan", "namespace": "a", "labels": {"app": "many"}});
    orphan["spec"] = json!({"containers": [{"name": "c", "image": "web:1"}]});
    let orphan = world.cluster.create::<Pod>(&object(orphan)).await.expect("an orphan");
    world.cluster.create(&set).await.expect("created");
    let ready = |set: &ReplicaSet| {
        set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default()
    };
    let set = world.until("many", "has 600 ready pods", |set: &ReplicaSet| ready(set) == 600).await;
    let pods = world.all::<Pod>().await;
    assert_eq!(pods.len(), 600, "not one too many was ever made");
    let adopted = pods.iter().find(|pod| pod.uid() == orphan.uid()).expect("still there");
    assert_eq!(adopted.metadata.owner_references.as_ref().expect("adopted")[0].uid, set.uid());
    // Relabelled, it is released and replaced.
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"app": "free"}}}));
    world.cluster.patch::<Pod>(&orphan.key(), &relabel).await.expect("relabelled");
    world
        .until("orphan", "released", |pod: &Pod| {
            pod.metadata.owner_references.iter().flatten().next().is_none()
        })
        .await;
    world.until_count::<Pod>(601).await;
    world.cluster.scale::<ReplicaSet>(&set.key(), 0, None).await.expect("scaled");
    world.until_count::<Pod>(1).await;
    world.end().await;
}

/// Panics on one object, counts the others.
struct Poisoned {
    good: Arc<AtomicUsize>,
}

impl Reconcile for Poisoned {
    type Object = Deployment;

    const NAME: &'static str = "poisoned-controller";

    async fn reconcile(&self, object: Arc<Deployment>) -> Result<Next, Failed> {
        let labels = object.metadata.labels.clone().unwrap_or_default();
        assert!(!labels.contains_key("poison"), "this object is poison");
        self.good.fetch_add(1, Ordering::Relaxed);
        Ok(Next::OnChange)
    }
}

#[tokio::test]
async fn a_poison_object_is_quarantined_and_stops_nothing_else() {
    let world = World::new().await;
    let watches = Watches::follow(&world.cluster, &world.fixture.tasks);
    let good = Arc::new(AtomicUsize::new(0));
    let beats = Arc::new(AtomicUsize::new(0));
    let counted = beats.clone();
    let beat: reconcile::engine::Beat = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let vitals = Vitals { beat, metrics: reconcile::Metrics::default() };
    Engine::new(&watches.deployments, vitals.clone()).run(
        world.cluster.clone(),
        &world.fixture.tasks,
        Poisoned { good: good.clone() },
    );
    let mut poison = deployment(0);
    poison.metadata.labels = Some(BTreeMap::from([("poison".into(), "yes".into())]));
    let poison = world.cluster.create(&poison).await.expect("created");
    let told = async {
        let mut events = std::pin::pin!(world.cluster.watch::<Event>(Scope::all()));
        while let Some(change) = events.next().await {
            let events = match change {
                Change::Reset(events) => events,
                Change::Applied(event) => vec![event],
                Change::Deleted(_) => Vec::new(),
            };
            let quarantine =
                events.into_iter().find(|event| event.reason.as_deref() == Some("Quarantined"));
            if let Some(event) = quarantine {
                return event;
            }
        }
        panic!("the watch ended")
    };
    let event = tokio::time::timeout(PATIENCE, told).await.expect("an Event tells the quarantine");
    assert_eq!(event.involved_object.uid, poison.metadata.uid);
    assert!(event.message.as_deref().unwrap_or_default().contains("this object is poison"));
    assert_eq!(good.load(Ordering::Relaxed), 0);
    let aside = |count: u32| {
        let line = format!(
            "ballast_reconcile_quarantined_objects{{controller=\"poisoned-controller\"}} {count}"
        );
        let figures = figures(&vitals);
        assert!(figures.lines().any(|found| found == line), "{line} in\n{figures}");
    };
    aside(1);
    // Others go on, and the poison itself once it has changed.
    let mut other = deployment(0);
    other.metadata.name = Some("other".into());
    world.cluster.create(&other).await.expect("created");
    let reaches = async |count| {
        while good.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, reaches(1)).await.expect("another object is reconciled");
    let cured =
        Patch::Merge(json!({"metadata": {"labels": {"poison": null}}, "spec": {"replicas": 1}}));
    world.cluster.patch::<Deployment>(&poison.key(), &cured).await.expect("cured");
    tokio::time::timeout(PATIENCE, reaches(2)).await.expect("the cured object is reconciled");
    aside(0);
    assert!(beats.load(Ordering::Relaxed) > 0);
    world.end().await;
}

#[tokio::test]
async fn kinds_that_no_controller_owns_are_left_alone() {
    let world = World::running().await;
    let map: ConfigMap = object(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "a"},
    }));
    let made = world.cluster.create(&map).await.expect("created");
    let mut bare =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "a"}});
    bare["spec"] = json!({"containers": [{"name": "c", "image": "web:1"}]});
    world.cluster.create::<Pod>(&object(bare)).await.expect("created");
    world.cluster.create(&deployment(1)).await.expect("deployed");
    world.rolled(1).await;
    let bare = world.cluster.get::<Pod>(&Key::new("a", "bare")).await.expect("still there");
    assert_eq!(bare.metadata.owner_references, None);
    let map = world.cluster.get::<ConfigMap>(&made.key()).await.expect("still there");
    assert_eq!(map.metadata.resource_version, made.metadata.resource_version);
    world.end().await;
}
