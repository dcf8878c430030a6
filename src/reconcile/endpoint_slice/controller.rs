//! Observes the caches and performs the plan for one Service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tracing::info;

use crate::clock::Clock;
use crate::object::selector::Selector;
use crate::object::{Cluster, DeleteOptions, Key, Object};
use crate::reconcile::endpoint_slice::plan::{SERVICE_NAME, Step, plan};
use crate::reconcile::engine::{Engine, Failed, Next, Reconcile};
use crate::reconcile::expectation::Expectation;
use crate::reconcile::indexed::{labelled, selecting};
use crate::reconcile::kept::revision_of;
use crate::reconcile::metrics::Vitals;
use crate::reconcile::owner::is_deleting;
use crate::reconcile::pod_outline::PodOutline;
use crate::reconcile::watches::Watches;
use crate::task::Tasks;

/// Starts the controller, until the stop signal.
pub fn run<C: Cluster>(cluster: C, watches: &Watches, vitals: Vitals, clock: Clock, tasks: &Tasks) {
    let services = watches.services.clone();
    let by_pod = watches.pods.waking(move |pod: &PodOutline| {
        let labels = pod.labels.iter();
        labels
            .flat_map(|(label, value)| services.under(&selecting(&pod.namespace, label, value)))
            .filter(|service| {
                selector_of(service).is_some_and(|selector| selector.matches(&pod.labels))
            })
            .map(|service| service.key())
            .collect::<Vec<Key>>()
    });
    let by_slice = watches.endpoint_slices.waking(|slice: &EndpointSlice| {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        service.map(|name| Key::new(slice.metadata.namespace.clone().unwrap_or_default(), name))
    });
    let reconciler = Slices {
        cluster: cluster.clone(),
        watches: watches.clone(),
        clock,
        expectations: Mutex::default(),
    };
    Engine::new(&watches.services, vitals)
        .needs(&watches.pods)
        .needs(&watches.endpoint_slices)
        .wake(by_pod)
        .wake(by_slice)
        .run(cluster, tasks, reconciler);
}

/// `None` for a Service without a selector: its endpoints are written by others.
fn selector_of(service: &Service) -> Option<Selector> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    (!selector.is_empty()).then(|| Selector::of_map(selector))
}

struct Slices<C> {
    cluster: C,
    watches: Watches,
    clock: Clock,
    expectations: Mutex<HashMap<Key, Expectation>>,
}

impl<C: Cluster> Reconcile for Slices<C> {
    type Object = Service;

    const NAME: &'static str = "endpointslice-controller";

    async fn reconcile(&self, service: Arc<Service>) -> Result<Next, Failed> {
        let now = self.clock.now();
        let key = service.key();
        let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
        let selector = selector_of(&service);
        if is_deleting(&service.metadata)
            || (selector.is_none() && external != Some("ExternalName"))
        {
            return Ok(Next::OnChange);
        }
        if let Some(expires) = self.waiting(&key, now) {
            return Ok(Next::at(expires, now));
        }
        let pods = match &selector {
            Some(selector) => self.watches.pods.selected(&key.namespace, selector),
            None => Vec::new(),
        };
        let existing =
            self.watches.endpoint_slices.under(&labelled(&key.namespace, SERVICE_NAME, &key.name));
        let steps = plan(&service, &pods, &existing);
        let mut expected = Expectation::new(now);
        let performed = self.perform(&key, steps, &mut expected).await;
        if !expected.is_empty() {
            self.expectations().insert(key, expected);
        }
        performed.map(|()| Next::OnChange)
    }

    fn forget(&self, key: &Key) {
        self.expectations().remove(key);
    }
}

impl<C: Cluster> Slices<C> {
    fn waiting(&self, key: &Key, now: Timestamp) -> Option<Timestamp> {
        let mut expectations = self.expectations();
        let expected = expectations.get(key)?;
        let slices = &self.watches.endpoint_slices;
        let is_leaving =
            |key: &Key, uid: &str| slices.get(key).is_none_or(|slice| slice.uid() != uid);
        if expected.is_met(|revision| slices.has_seen(revision), is_leaving, now) {
            expectations.remove(key);
            return None;
        }
        Some(expected.expires())
    }

    async fn perform(
        &self,
        service: &Key,
        steps: Vec<Step>,
        expected: &mut Expectation,
    ) -> Result<(), Failed> {
        for step in steps {
            let (stored, reason) = match step {
                Step::Create { slice, reason } => {
                    let created = self.cluster.create(&*slice).await;
                    (created.map_err(Failed::at("create endpoint slice"))?, reason)
                }
                Step::Update { slice, reason } => {
                    let updated = self.cluster.update(&*slice).await;
                    (updated.map_err(Failed::at("update endpoint slice"))?, reason)
                }
                Step::Delete { key, uid, resource_version, reason } => {
                    let options = DeleteOptions {
                        uid: Some(uid.clone()),
                        resource_version: Some(resource_version),
                        ..DeleteOptions::default()
                    };
                    match self.cluster.delete::<EndpointSlice>(&key, &options).await {
                        Ok(()) => {
                            info!(%service, slice = key.name, reason, "endpoint slice deleted")
                        }
                        Err(error) if error.is_not_found() => {}
                        Err(source) => {
                            return Err(Failed { step: "delete endpoint slice", source });
                        }
                    }
                    expected.deleted.insert(uid, key);
                    continue;
                }
            };
            expected.written = expected.written.max(revision_of(&*stored));
            info!(%service, slice = stored.key().name, reason, "endpoint slice written");
        }
        Ok(())
    }

    fn expectations(&self) -> MutexGuard<'_, HashMap<Key, Expectation>> {
        self.expectations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
