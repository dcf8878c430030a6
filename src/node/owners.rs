//! What a pod's owners (its ReplicaSet, and that one's Deployment) say to the agent: whether healing is
//! switched off, and how long a Deployment lets its pods take. An owner that cannot be read says nothing.

use std::collections::HashMap;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::node::agent::{Agent, PodCell};
use crate::node::runtime::Runtime;
use crate::object::source::is_report_only;
use crate::object::{Cluster, Key};

/// What the owners of one ReplicaSet's pods say.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    report_only: bool,
    progress_deadline: Option<SignedDuration>,
}

/// What was asked in one pass: replicas have their owners in common.
#[derive(Debug, Default)]
pub struct Asked(HashMap<Key, Said>);

fn owner_of(references: &Option<Vec<OwnerReference>>, kind: &str) -> Option<String> {
    let mut list = references.iter().flatten();
    list.find(|owner| owner.kind == kind).map(|owner| owner.name.clone())
}

/// Asks a pod's owners, and wakes its worker when what they say is new.
pub async fn ask<C: Cluster, R: Runtime>(agent: &Agent<C, R>, cell: &PodCell, asked: &mut Asked) {
    let set = owner_of(&cell.pod().metadata.owner_references, "ReplicaSet");
    let said = match set.map(|name| Key::new(&cell.key.namespace, name)) {
        None => Said::default(),
        Some(set) => match asked.0.get(&set) {
            Some(said) => *said,
            None => {
                let said = said_by(&agent.cluster, &set).await;
                asked.0.insert(set, said);
                said
            }
        },
    };
    let changed = {
        let mut memory = cell.memory();
        let deadline = std::mem::replace(&mut memory.progress_deadline, said.progress_deadline);
        let report_only = std::mem::replace(&mut memory.report_only, said.report_only);
        deadline != said.progress_deadline || report_only != said.report_only
    };
    if changed {
        cell.wake.notify_one();
    }
}

async fn said_by<C: Cluster>(cluster: &C, set: &Key) -> Said {
    let Ok(found) = cluster.get::<ReplicaSet>(set).await else { return Said::default() };
    let mut said = Said { report_only: is_report_only(&found.metadata), progress_deadline: None };
    let Some(name) = owner_of(&found.metadata.owner_references, "Deployment") else { return said };
    let deployment = cluster.get::<Deployment>(&Key::new(&set.namespace, name)).await;
    let Ok(deployment) = deployment else { return said };
    said.report_only |= is_report_only(&deployment.metadata);
    let spec = deployment.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.progress_deadline_seconds);
    said.progress_deadline = seconds.map(|seconds| SignedDuration::from_secs(seconds.into()));
    said
}
