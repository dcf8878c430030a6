//! The node agent and its Docker client against an engine over HTTP that fails: for each call and each
//! fault the end is the one of an undisturbed run, and nothing ever runs twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ballast::api::Identity;
use ballast::clock::Clock;
use ballast::node::NodeOptions;
use ballast::object::{Cluster, DeleteOptions, Key};
use ballast::task::Tasks;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::fake_docker::{CALLS, FakeDocker, Fault, Plan, Seen};
use crate::fixture::{Fixture, object};
use crate::node::{NoNetwork, node_options};

/// A start that hangs is given up after a minute, and lost events cost half of one.
const PATIENCE: Duration = Duration::from_secs(240);
/// Worlds at a time: most of them wait.
const AT_A_TIME: usize = 64;

/// Two pods are made, one gets another image, the other is deleted and a third one comes. Answers what
/// runs in the end.
async fn life(plan: Option<Plan>, told: usize) -> Vec<Seen> {
    let fixture = Fixture::new();
    fixture.namespaces(&["default", "kube-node-lease"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let engine = FakeDocker::start(folder.path().to_owned(), plan, told).await;
    let options = NodeOptions { spare_sandboxes: 1, ..node_options(fixture.folder()) };
    let (tasks, done) = Tasks::new();
    let agent = fixture.local(Identity::NodeAgent { node: "n1".to_owned() });
    ballast::node::run(agent, engine.client(), options, Arc::new(NoNetwork), Clock::wall(), &tasks);
    let cluster = fixture.admin();
    let running = |pod: &Pod, image: &str| {
        let status = pod.status.as_ref();
        let all = status.and_then(|status| status.container_statuses.as_ref());
        all.into_iter().flatten().any(|one| {
            one.image == image && one.state.as_ref().is_some_and(|state| state.running.is_some())
        })
    };
    let until = async |name: &str, image: &str| {
        let begun = Instant::now();
        loop {
            let pod = cluster.get::<Pod>(&Key::new("default", name)).await.expect("the pod");
            if running(&pod, image) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{plan:?}: {name} does not run: {:#?}", pod.status);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let make = async |name: &str, inits: Value| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1, "initContainers": inits,
                "containers": [{"name": "web", "image": "app:v1"}]}});
        cluster.create::<Pod>(&object(pod)).await.expect("a pod");
    };
    make("a", json!([])).await;
    make("b", json!([])).await;
    until("a", "app:v1").await;
    until("b", "app:v1").await;
    let (uid, mut changed) = {
        let pod = cluster.get::<Pod>(&Key::new("default", "a")).await.expect("the pod");
        (pod.metadata.uid.clone(), (*pod).clone())
    };
    // The agent writes the status meanwhile: what is old is read again.
    loop {
        let spec = changed.spec.as_mut().expect("a spec");
        spec.containers[0].image = Some("app:v2".to_owned());
        if cluster.update::<Pod>(&changed).await.is_ok() {
            break;
        }
        let pod = cluster.get::<Pod>(&Key::new("default", "a")).await.expect("the pod");
        assert_eq!(pod.metadata.uid, uid);
        changed = (*pod).clone();
    }
    let gone = Key::new("default", "b");
    cluster.delete::<Pod>(&gone, &DeleteOptions::default()).await.expect("deleted");
    make("c", json!([])).await;
    until("a", "app:v2").await;
    until("c", "app:v1").await;
    let begun = Instant::now();
    while cluster.get::<Pod>(&gone).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE, "{plan:?}: the deleted pod stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What an unanswered call left behind is found at the next relist.
    let begun = Instant::now();
    let wanted = wanted();
    while engine.seen() != wanted && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(engine.doubles(), Vec::<String>::new(), "{plan:?}");
    assert!(engine.was_hit(), "{plan:?} came never");
    let seen = engine.seen();
    tasks.stop().cancel();
    drop(tasks);
    done.wait().await;
    drop(cluster);
    fixture.end().await;
    seen
}

/// What the pods' manifests ask for.
fn wanted() -> Vec<Seen> {
    let pause = |seen: &str| seen.to_owned();
    let one = |pod: &str, container: &str, kind: &str, image: &str| {
        (pause(pod), pause(container), pause(kind), pause(image), true)
    };
    let sandbox = format!("sha256:{}", pause_name());
    let mut all = vec![
        one("a", "", "sandbox", &sandbox),
        one("a", "web", "container", "app:v2"),
        one("c", "", "sandbox", &sandbox),
        one("c", "web", "container", "app:v1"),
    ];
    all.sort();
    all
}

fn pause_name() -> &'static str {
    ballast::node::pause_image::pause_image().tag
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_may_fail_in_every_way() {
    assert_eq!(life(None, 1).await, wanted(), "undisturbed");
    let mut plans = Vec::new();
    for call in CALLS {
        for fault in Fault::ALL {
            // Calls that come often enough, a second time: the first is another situation.
            let often = ["inspect", "create", "start", "image"].contains(&call);
            for nth in 0..if often { 3 } else { 1 } {
                plans.push(Plan { call, nth, fault });
            }
        }
    }
    let lives = stream::iter(plans).map(|plan| async move { (plan, life(Some(plan), 1).await) });
    let ends: Vec<_> = lives.buffer_unordered(AT_A_TIME).collect().await;
    for (plan, seen) in ends {
        assert_eq!(seen, wanted(), "{plan:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_events_cost_time_alone() {
    let (none, some) = tokio::join!(life(None, 0), life(None, 3));
    assert_eq!((none, some), (wanted(), wanted()));
}
