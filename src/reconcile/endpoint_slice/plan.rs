//! Pure: which slices of a Service have to be written so that they say what its pods are.
//!
//! An endpoint stays in the slice it is in. New ones first fill slices that change anyway, then one
//! that has room for all of them, and only then make new slices. A slice that would be emptied takes
//! the place of one that would be created: one write in place of two, and no moment without either.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::{Key, Object};
use crate::reconcile::endpoint_slice::endpoint::{endpoint_of, ports_of};
use crate::reconcile::owner::{controller_of, controller_reference, is_deleting};
use crate::reconcile::pod_outline::PodOutline;

/// Endpoints of one slice (`maxEndpointsPerSlice` of Kubernetes).
pub const MOST: usize = 100;

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const IPV4: &str = "IPv4";

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Named by the API: `<service>-` and five characters.
    Create {
        slice: Box<EndpointSlice>,
        reason: String,
    },
    /// The whole slice, at the resourceVersion it was planned on.
    Update {
        slice: Box<EndpointSlice>,
        reason: String,
    },
    Delete {
        key: Key,
        uid: String,
        resource_version: String,
        reason: String,
    },
}

/// `pods` are those the Service selects, `existing` the slices labelled with its name.
pub fn plan(
    service: &Service,
    pods: &[Arc<PodOutline>],
    existing: &[Arc<EndpointSlice>],
) -> Vec<Step> {
    let ours: Vec<&EndpointSlice> =
        existing.iter().map(|slice| &**slice).filter(|slice| is_ours(service, slice)).collect();
    let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    if external == Some("ExternalName") {
        let reason = "the Service is an ExternalName";
        return ours.into_iter().map(|slice| removal(slice, reason)).collect();
    }
    let mut wanted = wanted(service, pods);
    if wanted.is_empty() {
        // One empty slice says that somebody has looked.
        wanted.insert(String::new(), Group { ports: Vec::new(), endpoints: BTreeMap::new() });
    }
    let mut steps = Steps::new(service);
    let mut by_ports: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in ours {
        by_ports
            .entry(port_key(slice.ports.as_deref().unwrap_or_default()))
            .or_default()
            .push(slice);
    }
    for (key, group) in wanted {
        steps.fill(by_ports.remove(&key).unwrap_or_default(), group);
    }
    for slice in by_ports.into_values().flatten() {
        steps.surplus(slice);
    }
    steps.done()
}

/// The endpoints that have the same ports, by the uid of their pod.
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<String, Endpoint>,
}

fn wanted(service: &Service, pods: &[Arc<PodOutline>]) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in pods {
        let Some(endpoint) = endpoint_of(service, pod) else { continue };
        let ports = ports_of(service, pod);
        let key = port_key(&ports);
        let group =
            groups.entry(key).or_insert_with(|| Group { ports, endpoints: BTreeMap::new() });
        group.endpoints.insert(pod.uid.to_string(), endpoint);
    }
    groups
}

/// The same for the same ports in any order.
fn port_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports.iter().map(|port| format!("{port:?}")).collect();
    keys.sort();
    keys.concat()
}

/// Ours by label, and of this incarnation of the Service.
fn is_ours(service: &Service, slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let manager = labels.and_then(|labels| labels.get(MANAGED_BY));
    let owner = controller_of(&slice.metadata);
    manager.is_some_and(|manager| manager == MANAGER)
        && !is_deleting(&slice.metadata)
        && slice.address_type == IPV4
        && owner.is_none_or(|owner| owner.uid == service.uid())
}

fn target(endpoint: &Endpoint) -> &str {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    uid.unwrap_or_default()
}

fn removal(slice: &EndpointSlice, reason: &str) -> Step {
    Step::Delete {
        key: slice.key(),
        uid: slice.uid().to_owned(),
        resource_version: slice.metadata.resource_version.clone().unwrap_or_default(),
        reason: reason.to_owned(),
    }
}

/// A slice of the new state; without a predecessor it is to be created.
struct Filled<'a> {
    slice: Option<&'a EndpointSlice>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

struct Steps<'a> {
    service: &'a Service,
    filled: Vec<Filled<'a>>,
    surplus: Vec<&'a EndpointSlice>,
}

impl<'a> Steps<'a> {
    fn new(service: &'a Service) -> Self {
        Self { service, filled: Vec::new(), surplus: Vec::new() }
    }

    fn surplus(&mut self, slice: &'a EndpointSlice) {
        self.surplus.push(slice);
    }

    /// Distributes one group over the slices that have its ports.
    fn fill(&mut self, slices: Vec<&'a EndpointSlice>, group: Group) {
        let Group { ports, endpoints: mut left } = group;
        let is_empty = left.is_empty();
        let mut filled: Vec<Filled<'a>> = Vec::new();
        for slice in slices {
            let before = slice.endpoints.as_deref().unwrap_or_default();
            let kept: Vec<Endpoint> =
                before.iter().filter_map(|endpoint| left.remove(target(endpoint))).collect();
            let changed = kept != before;
            filled.push(Filled {
                slice: Some(slice),
                ports: ports.clone(),
                endpoints: kept,
                changed,
            });
        }
        let mut new: Vec<Endpoint> = left.into_values().collect();
        let name = |endpoint: &Endpoint| endpoint.target_ref.as_ref().and_then(|t| t.name.clone());
        new.sort_by_key(name);
        let mut new = new.into_iter();
        for slice in filled.iter_mut().filter(|slice| slice.changed) {
            let room = MOST.saturating_sub(slice.endpoints.len());
            slice.endpoints.extend(new.by_ref().take(room));
        }
        let fits = filled
            .iter_mut()
            .filter(|slice| !slice.changed && slice.endpoints.len() + new.len() <= MOST)
            .max_by_key(|slice| slice.endpoints.len());
        if let Some(slice) = fits.filter(|_| new.len() > 0) {
            slice.changed = true;
            slice.endpoints.extend(new.by_ref());
        }
        while new.len() > 0 {
            let endpoints = new.by_ref().take(MOST).collect();
            filled.push(Filled { slice: None, ports: ports.clone(), endpoints, changed: true });
        }
        if is_empty && filled.is_empty() {
            filled.push(Filled { slice: None, ports, endpoints: Vec::new(), changed: true });
        }
        // An emptied slice goes, but not the last placeholder.
        for slice in filled {
            let is_placeholder = is_empty && !self.filled.iter().any(|other| other.slice.is_some());
            match slice.slice {
                Some(emptied) if slice.endpoints.is_empty() && !is_placeholder => {
                    self.surplus.push(emptied);
                }
                _ => self.filled.push(slice),
            }
        }
    }

    fn done(self) -> Vec<Step> {
        let Self { service, filled, surplus } = self;
        let mut surplus = surplus.into_iter();
        let mut steps = Vec::new();
        for Filled { slice, ports, endpoints, changed } in filled {
            let recycled = if slice.is_none() { surplus.next() } else { None };
            let predecessor = slice.or(recycled);
            let made = Box::new(made(service, predecessor, ports, endpoints));
            match predecessor {
                None => steps.push(Step::Create { slice: made, reason: counted(service) }),
                Some(before) => {
                    let relabelled = made.metadata != before.metadata;
                    if changed || recycled.is_some() || relabelled {
                        let reason = difference(before, &made);
                        steps.push(Step::Update { slice: made, reason });
                    }
                }
            }
        }
        steps.extend(surplus.map(|slice| removal(slice, "no endpoint of the Service is in it")));
        steps
    }
}

fn counted(service: &Service) -> String {
    format!("endpoints of {} are in no slice", service.key())
}

fn difference(before: &EndpointSlice, after: &EndpointSlice) -> String {
    let count = |slice: &EndpointSlice| {
        let all = slice.endpoints.as_deref().unwrap_or_default();
        let ready = all.iter().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)
        });
        (all.len(), ready.count())
    };
    let ((had, had_ready), (has, has_ready)) = (count(before), count(after));
    format!("{had} endpoints ({had_ready} ready) become {has} ({has_ready} ready)")
}

fn made(
    service: &Service,
    predecessor: Option<&EndpointSlice>,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut metadata = predecessor.map_or_else(
        || ObjectMeta {
            generate_name: Some(format!("{}-", service.key().name)),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |slice| slice.metadata.clone(),
    );
    metadata.labels = Some(labels(service));
    metadata.owner_references = Some(vec![controller_reference(service)]);
    EndpointSlice {
        metadata,
        address_type: IPV4.to_owned(),
        ports: (!ports.is_empty()).then_some(ports),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
    }
}

/// The Service's own labels, and ours over them.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.key().name);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    if address == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::reconcile::pod_outline::outline;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "a", "uid": "s", "labels": {"team": "x"}},
            "spec": spec,
        }))
        .expect("a Service")
    }

    fn plain() -> Service {
        service(json!({"clusterIP": "10.43.0.1", "ports": [{"port": 80, "targetPort": "http"}]}))
    }

    fn pod(number: usize, ready: bool, port: i32) -> Arc<PodOutline> {
        let name = format!("p{number:04}");
        outline(
            &serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "a", "uid": name},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
                "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", number / 250, number % 250 + 1),
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .expect("a Pod"),
        )
    }

    /// Performs the steps on the slices, as the API would.
    fn perform(steps: Vec<Step>, slices: &mut Vec<Arc<EndpointSlice>>, next: &mut usize) {
        for step in steps {
            *next += 1;
            match step {
                Step::Create { slice, .. } => {
                    let mut slice = *slice;
                    slice.metadata.name = Some(format!("web-{next}"));
                    slice.metadata.uid = Some(format!("slice-{next}"));
                    slice.metadata.resource_version = Some(next.to_string());
                    slices.push(Arc::new(slice));
                }
                Step::Update { slice, .. } => {
                    let at = slices.iter().position(|old| old.uid() == slice.uid()).expect("there");
                    assert_eq!(
                        slices[at].metadata.resource_version,
                        slice.metadata.resource_version
                    );
                    let mut slice = *slice;
                    slice.metadata.resource_version = Some(next.to_string());
                    slices[at] = Arc::new(slice);
                }
                Step::Delete { uid, .. } => slices.retain(|slice| slice.uid() != uid),
            }
        }
    }

    /// (pod, ready, port) of every endpoint.
    fn told(slices: &[Arc<EndpointSlice>]) -> BTreeSet<(String, bool, Option<i32>)> {
        let mut told = BTreeSet::new();
        for slice in slices {
            let port = slice.ports.as_ref().and_then(|ports| ports[0].port);
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true);
                assert!(told.insert((target(endpoint).to_owned(), ready, port)), "told once");
            }
        }
        told
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let steps = plan(&plain(), &[], &[]);
        let [Step::Create { slice, .. }] = &steps[..] else { panic!("one slice: {steps:?}") };
        assert_eq!((&slice.endpoints, &slice.ports), (&None, &None));
        assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(
            slice.metadata.labels,
            Some(BTreeMap::from([
                ("team".into(), "x".into()),
                (SERVICE_NAME.into(), "web".into()),
                (MANAGED_BY.into(), MANAGER.into()),
            ]))
        );
        let mut slices = Vec::new();
        perform(steps, &mut slices, &mut 0);
        assert_eq!(plan(&plain(), &[], &slices), []);
        // The first pod takes the placeholder's place.
        let steps = plan(&plain(), &[pod(1, true, 80)], &slices);
        assert!(matches!(&steps[..], [Step::Update { .. }]), "{steps:?}");
    }

    #[test]
    fn a_changed_pod_writes_one_slice_of_many() {
        let mut pods: Vec<_> = (0..250).map(|number| pod(number, true, 80)).collect();
        let (mut slices, mut next) = (Vec::new(), 0);
        perform(plan(&plain(), &pods, &slices), &mut slices, &mut next);
        assert_eq!(
            slices.iter().map(|s| s.endpoints.iter().flatten().count()).collect::<Vec<_>>(),
            [100, 100, 50]
        );
        pods[120] = pod(120, false, 80);
        let steps = plan(&plain(), &pods, &slices);
        let [Step::Update { slice, reason }] = &steps[..] else { panic!("one write: {steps:?}") };
        assert_eq!(slice.key().name, slices[1].key().name);
        assert_eq!(reason, "100 endpoints (100 ready) become 100 (99 ready)");
        // A new pod goes where there is room.
        perform(steps, &mut slices, &mut next);
        pods.push(pod(250, true, 80));
        let steps = plan(&plain(), &pods, &slices);
        let [Step::Update { slice, .. }] = &steps[..] else { panic!("one write: {steps:?}") };
        assert_eq!(slice.key().name, slices[2].key().name);
    }

    #[test]
    fn pods_with_other_ports_have_slices_of_their_own() {
        let pods = [pod(0, true, 80), pod(1, true, 8080), pod(2, true, 80)];
        let mut slices = Vec::new();
        perform(plan(&plain(), &pods, &slices), &mut slices, &mut 0);
        assert_eq!(slices.len(), 2);
        assert_eq!(told(&slices).len(), 3);
    }

    #[test]
    fn changed_ports_change_the_slice_in_one_write() {
        let (mut slices, mut next) = (Vec::new(), 0);
        perform(plan(&plain(), &[pod(0, true, 80)], &slices), &mut slices, &mut next);
        let steps = plan(&plain(), &[pod(0, true, 81)], &slices);
        assert!(matches!(&steps[..], [Step::Update { .. }]), "{steps:?}");
    }

    #[test]
    fn slices_of_others_and_of_an_earlier_service_stay() {
        let (mut slices, mut next) = (Vec::new(), 0);
        perform(plan(&plain(), &[], &slices), &mut slices, &mut next);
        let mut earlier = (*slices[0]).clone();
        earlier.metadata.owner_references.as_mut().expect("owned")[0].uid = "s0".into();
        let mut foreign = (*slices[0]).clone();
        foreign.metadata.labels.as_mut().expect("labelled").remove(MANAGED_BY);
        let steps = plan(&plain(), &[], &[Arc::new(earlier), Arc::new(foreign)]);
        assert!(matches!(&steps[..], [Step::Create { .. }]), "{steps:?}");
    }

    #[test]
    fn an_external_name_has_none_and_headless_says_so() {
        let mut slices = Vec::new();
        perform(plan(&plain(), &[], &slices), &mut slices, &mut 0);
        let external = service(json!({"type": "ExternalName", "externalName": "x.example"}));
        assert!(matches!(&plan(&external, &[], &slices)[..], [Step::Delete { .. }]));
        let headless = service(json!({"clusterIP": "None"}));
        let steps = plan(&headless, &[], &slices);
        let [Step::Update { slice, .. }] = &steps[..] else { panic!("relabelled: {steps:?}") };
        assert!(slice.metadata.labels.as_ref().expect("labels").contains_key(HEADLESS));
    }

    proptest! {
        /// Through any history, the slices say exactly what the pods are, none is above the limit, a
        /// second pass has nothing to do, and unchanged slices are not written.
        #[test]
        fn the_slices_say_what_the_pods_are(
            history in proptest::collection::vec(
                proptest::collection::btree_map(0_usize..260, (any::<bool>(), 80_i32..82), 0..260), 1..5),
        ) {
            let service = plain();
            let (mut slices, mut next) = (Vec::new(), 0);
            for pods in history {
                let made: Vec<_> = pods.iter().map(|(n, (ready, port))| pod(*n, *ready, *port)).collect();
                perform(plan(&service, &made, &slices), &mut slices, &mut next);
                let expected: BTreeSet<_> = pods
                    .iter()
                    .map(|(n, (ready, port))| (format!("p{n:04}"), *ready, Some(*port)))
                    .collect();
                prop_assert_eq!(told(&slices), expected);
                prop_assert!(slices.iter().all(|s| s.endpoints.iter().flatten().count() <= MOST));
                prop_assert!(!slices.is_empty());
                prop_assert_eq!(plan(&service, &made, &slices), []);
            }
        }
    }
}
