//! What the scheduler's watch keeps of a pod: enough for the loop to know what it is to it. The pod
//! itself is let go of, for ten thousand of them decoded are 320 MB.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::object::{Key, Object, Pool, condition, reference};
use crate::reconcile::scheduler::demand::{Demand, Footprint, Shared, Standing};
use crate::task::caught;

/// A pod as its watch last showed it.
#[derive(Debug)]
pub struct Sighting {
    pub uid: Arc<str>,
    pub is: Is,
}

/// A [`Standing`] with what follows from it.
#[derive(Debug)]
pub enum Is {
    Waits {
        demand: Read<Arc<Demand>>,
        /// The message that its condition carries: not written again.
        reported: Option<Arc<str>>,
    },
    Bound {
        node: Arc<str>,
        footprint: Read<Arc<Footprint>>,
    },
    Over,
    Aside,
}

/// What a pod asks, unless reading that panicked. The watch must go on, and whether it matters only
/// the loop knows: a pod that is charged already needs no reading.
pub type Read<T> = Result<T, Box<Cursed>>;

/// A pod that made us panic.
#[derive(Debug)]
pub struct Cursed {
    pub key: Key,
    pub about: ObjectReference,
    pub panic: String,
}

/// Makes sightings, in which what pods have in common is one.
#[derive(Debug, Default)]
pub struct Observer {
    shared: Shared,
    nodes: Pool<str>,
    messages: Pool<str>,
}

impl Observer {
    /// Cheap beside decoding the pod: of a bound one, which changes most often, the footprint alone
    /// is worked out.
    pub fn see(&mut self, pod: &Pod) -> Sighting {
        let is = match Standing::of(pod) {
            Standing::Waits => Is::Waits {
                demand: read(pod, || Arc::new(Demand::of(pod, &mut self.shared))),
                reported: reported(pod).map(|message| self.messages.share_ref(message)),
            },
            Standing::Bound(node) => Is::Bound {
                node: self.nodes.share_ref(node),
                footprint: read(pod, || Footprint::of(pod, &mut self.shared)),
            },
            Standing::Over => Is::Over,
            Standing::Aside => Is::Aside,
        };
        let uid = match &is {
            Is::Waits { demand: Ok(demand), .. } => demand.uid.clone(),
            _ => pod.uid().into(),
        };
        Sighting { uid, is }
    }
}

fn read<T>(pod: &Pod, work: impl FnOnce() -> T) -> Read<T> {
    caught(work).map_err(|panic| Box::new(Cursed { key: pod.key(), about: reference(pod), panic }))
}

fn reported(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = condition::find(conditions, "PodScheduled")?;
    scheduled.message.as_deref().filter(|_| scheduled.status == "False")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": format!("{name}-uid")},
            "spec": spec, "status": status,
        }))
        .expect("a pod")
    }

    #[test]
    fn what_waits_carries_its_demand_and_what_was_said_of_it() {
        let mut observer = Observer::default();
        let spec = json!({"containers": [{"name": "c", "image": "web"}]});
        let status = |status: &str| json!({"conditions": [{"type": "PodScheduled", "status": status, "message": "full"}]});
        let mut see = |name: &str, said: &str| {
            let Sighting { uid, is } = observer.see(&pod(name, &spec, &status(said)));
            let Is::Waits { demand, reported } = is else { panic!("it waits") };
            let demand = demand.expect("it can be read");
            assert!(Arc::ptr_eq(&uid, &demand.uid));
            (demand, reported)
        };
        let ((one, said), (two, same)) = (see("a", "False"), see("b", "False"));
        assert!(Arc::ptr_eq(&one.template, &two.template));
        assert!(Arc::ptr_eq(&said.expect("a message"), &same.expect("a message")));
        assert_eq!(see("c", "True").1, None);
    }

    #[test]
    fn what_is_bound_carries_its_node_and_footprint_and_the_rest_nothing() {
        let mut observer = Observer::default();
        let spec = json!({"nodeName": "a", "containers": [{"name": "c", "image": "web"}]});
        let mut see = |name: &str| match observer.see(&pod(name, &spec, &json!({}))).is {
            Is::Bound { node, footprint } => (node, footprint.expect("it can be read")),
            other => panic!("{other:?}"),
        };
        let ((node, footprint), (same_node, same)) = (see("p"), see("q"));
        assert!(Arc::ptr_eq(&node, &same_node) && Arc::ptr_eq(&footprint, &same));
        assert_eq!((&*node, footprint.scored_cpu_millis), ("a", 100));
        let over = observer.see(&pod("o", &spec, &json!({"phase": "Failed"})));
        assert!(matches!(over.is, Is::Over) && &*over.uid == "o-uid");
        let gated = json!({"containers": [], "schedulingGates": [{"name": "g"}]});
        assert!(matches!(observer.see(&pod("g", &gated, &json!({}))).is, Is::Aside));
    }

    #[test]
    fn a_panic_is_the_pods_alone() {
        let cursed = pod("p", &json!({"containers": []}), &json!({}));
        let told = read(&cursed, || panic!("no way")).map(|(): ()| ()).expect_err("it panics");
        assert_eq!((told.about.name.as_deref(), &*told.panic), (Some("p"), "no way"));
    }
}
