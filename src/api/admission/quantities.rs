//! Pure: where quantities stand in an object: one walk for reading them strictly and for bringing
//! them into canonical form.

use std::any::Any;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec,
    ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::admit::Admit;
use crate::object::quantity::{GRAMMAR, Quantity};

type Visit<'v> = &'v mut dyn FnMut(&mut Text);

/// # Errors
/// The reference server's sentence if any quantity of the object is none.
pub fn check<K: Admit>(object: &mut K) -> Result<(), &'static str> {
    let mut good = true;
    each(object, &mut |text| good &= Quantity::parse(&text.0).is_ok());
    if good { Ok(()) } else { Err(GRAMMAR) }
}

/// Calls `visit` with every quantity of an object, its status included.
pub fn each<K: Admit>(object: &mut K, visit: Visit<'_>) {
    let object = object as &mut dyn Any;
    if let Some(pod) = object.downcast_mut::<Pod>() {
        if let Some(spec) = &mut pod.spec {
            each_of_pod_spec(spec, visit);
        }
    } else if let Some(set) = object.downcast_mut::<ReplicaSet>() {
        if let Some(spec) =
            set.spec.as_mut().and_then(|spec| spec.template.as_mut()).and_then(|t| t.spec.as_mut())
        {
            each_of_pod_spec(spec, visit);
        }
    } else if let Some(deployment) = object.downcast_mut::<Deployment>() {
        if let Some(spec) = deployment.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()) {
            each_of_pod_spec(spec, visit);
        }
    } else if let Some(claim) = object.downcast_mut::<PersistentVolumeClaim>() {
        if let Some(asked) = claim.spec.as_mut().and_then(|spec| spec.resources.as_mut()) {
            each_of_list(&mut asked.limits, visit);
            each_of_list(&mut asked.requests, visit);
        }
    } else if let Some(volume) = object.downcast_mut::<PersistentVolume>() {
        if let Some(spec) = &mut volume.spec {
            each_of_list(&mut spec.capacity, visit);
        }
    } else if let Some(node) = object.downcast_mut::<Node>()
        && let Some(status) = &mut node.status
    {
        each_of_list(&mut status.capacity, visit);
        each_of_list(&mut status.allocatable, visit);
    }
}

pub fn each_of_pod_spec(spec: &mut PodSpec, visit: Visit<'_>) {
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        each_of_container(container, visit);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        each_of_resources(&mut container.resources, visit);
    }
    each_of_resources(&mut spec.resources, visit);
    each_of_list(&mut spec.overhead, visit);
    for volume in spec.volumes.iter_mut().flatten() {
        each_of_volume(volume, visit);
    }
}

fn each_of_container(container: &mut Container, visit: Visit<'_>) {
    each_of_resources(&mut container.resources, visit);
    for variable in container.env.iter_mut().flatten() {
        let reference =
            variable.value_from.as_mut().and_then(|from| from.resource_field_ref.as_mut());
        if let Some(divisor) = reference.and_then(|reference| reference.divisor.as_mut()) {
            visit(divisor);
        }
    }
}

fn each_of_resources(resources: &mut Option<ResourceRequirements>, visit: Visit<'_>) {
    if let Some(resources) = resources {
        each_of_list(&mut resources.limits, visit);
        each_of_list(&mut resources.requests, visit);
    }
}

fn each_of_list(list: &mut Option<BTreeMap<String, Text>>, visit: Visit<'_>) {
    list.iter_mut().flat_map(BTreeMap::values_mut).for_each(visit);
}

fn each_of_volume(volume: &mut Volume, visit: Visit<'_>) {
    if let Some(limit) = volume.empty_dir.as_mut().and_then(|dir| dir.size_limit.as_mut()) {
        visit(limit);
    }
    let divisors = |files: &mut Option<Vec<DownwardAPIVolumeFile>>, visit: Visit<'_>| {
        for file in files.iter_mut().flatten() {
            let reference = file.resource_field_ref.as_mut();
            if let Some(divisor) = reference.and_then(|reference| reference.divisor.as_mut()) {
                visit(divisor);
            }
        }
    };
    if let Some(source) = &mut volume.downward_api {
        divisors(&mut source.items, visit);
    }
    for source in volume.projected.iter_mut().filter_map(|all| all.sources.as_mut()).flatten() {
        if let Some(files) = &mut source.downward_api {
            divisors(&mut files.items, visit);
        }
    }
}

/// `0.5Gi` becomes `512Mi`. What is no quantity stays: decoding refuses it with its own words.
pub fn canonical(text: &mut Text) {
    if let Ok(amount) = Quantity::parse(&text.0) {
        text.0 = amount.to_string();
    }
}
