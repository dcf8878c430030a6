//! Pure: which devices of a node a container gets: GPUs and what else the engine gives by a device
//! request.
//!
//! The node chooses them one by one, as the kubelet's device manager does, and the container's label
//! keeps which: no two containers that run, or may be started, have the same one. Ids are taken in
//! their order, so that the same choice is made of the same state. What people give to containers of
//! their own (`docker run --gpus`) is not seen.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Container;

use crate::node::instance::Instance;
use crate::object::extended::{DeviceClass, NVIDIA, NVIDIA_GPU};
use crate::object::quantity::Quantity;

/// By the name of the resource: ids.
pub type Devices = BTreeMap<String, Vec<String>>;

/// What is asked of the engine for one resource of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRequest {
    pub resource: String,
    pub driver: String,
    pub capabilities: Vec<String>,
    pub ids: Vec<String>,
}

/// What the node has: what its operator says, and the GPUs that were found where he says nothing of
/// them.
pub fn offered(
    configured: &BTreeMap<String, DeviceClass>,
    gpus: &[String],
) -> BTreeMap<String, DeviceClass> {
    let mut all = configured.clone();
    if !gpus.is_empty() {
        let found = || DeviceClass { ids: gpus.to_vec(), ..DeviceClass::default() };
        all.entry(NVIDIA_GPU.to_owned()).or_insert_with(|| found().filled(NVIDIA_GPU));
    }
    all
}

/// The node's countable resources: what was declared, and one for each device.
pub fn counted(
    declared: &BTreeMap<String, i64>,
    offered: &BTreeMap<String, DeviceClass>,
) -> BTreeMap<String, i64> {
    let mut all = declared.clone();
    let count = |class: &DeviceClass| i64::try_from(class.ids.len()).unwrap_or(i64::MAX);
    all.extend(offered.iter().map(|(name, class)| (name.clone(), count(class))));
    all
}

/// How many of which devices a container's limits name.
pub fn asked(
    container: &Container,
    offered: &BTreeMap<String, DeviceClass>,
) -> BTreeMap<String, usize> {
    let limits = container.resources.iter().flat_map(|own| own.limits.iter().flatten());
    let is_device = |name: &str| offered.contains_key(name) || name.starts_with(NVIDIA);
    let count = |written: &str| {
        let units = Quantity::parse(written).map_or(0, Quantity::units);
        usize::try_from(units).unwrap_or(0)
    };
    let devices = limits.filter(|(name, _)| is_device(name));
    let counted = devices.map(|(name, written)| (name.clone(), count(&written.0)));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// What is not to be given again: the devices of all that runs or may be started.
pub fn held<'a>(instances: impl Iterator<Item = &'a Instance>) -> Vec<&'a Devices> {
    let alive = instances.filter(|one| one.ended().is_none() && !one.devices.is_empty());
    alive.map(|one| &one.devices).collect()
}

/// Chooses devices that nobody has.
///
/// # Errors
/// The kubelet's sentence where there are too few.
pub fn allocate(
    asked: &BTreeMap<String, usize>,
    offered: &BTreeMap<String, DeviceClass>,
    held: &[&Devices],
) -> Result<Devices, String> {
    let mut given = Devices::new();
    for (resource, count) in asked {
        let taken: BTreeSet<&String> =
            held.iter().filter_map(|one| one.get(resource)).flatten().collect();
        let all = offered.get(resource).map(|class| &class.ids);
        let free: Vec<&String> =
            all.into_iter().flatten().filter(|id| !taken.contains(id)).collect();
        if free.len() < *count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {}",
                free.len()
            ));
        }
        given.insert(resource.clone(), free.into_iter().take(*count).cloned().collect());
    }
    Ok(given)
}

/// What the engine is asked for them.
pub fn requests(given: &Devices, offered: &BTreeMap<String, DeviceClass>) -> Vec<DeviceRequest> {
    let request = |(resource, ids): (&String, &Vec<String>)| {
        let class = offered.get(resource)?;
        Some(DeviceRequest {
            resource: resource.clone(),
            driver: class.driver.clone(),
            capabilities: class.capabilities.clone(),
            ids: ids.clone(),
        })
    };
    given.iter().filter_map(request).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::node::instance::Role;
    use crate::node::pod_plan::tests::{ended, instance, pod};

    fn gpus(count: usize) -> BTreeMap<String, DeviceClass> {
        offered(&BTreeMap::new(), &(0..count).map(|at| format!("GPU-{at}")).collect::<Vec<_>>())
    }

    fn container(limits: serde_json::Value) -> Container {
        let whole = json!({"name": "c", "resources": {"limits": limits}});
        serde_json::from_value(whole).expect("a container")
    }

    #[test]
    fn found_gpus_are_offered_unless_the_operator_says_which() {
        let found = gpus(2);
        let class = &found[NVIDIA_GPU];
        assert_eq!((&*class.driver, &*class.capabilities), ("nvidia", &["gpu".to_owned()][..]));
        assert_eq!(class.ids, ["GPU-0", "GPU-1"]);
        let own = DeviceClass { ids: vec!["7".into()], ..DeviceClass::default() };
        let configured = BTreeMap::from([(NVIDIA_GPU.to_owned(), own.filled(NVIDIA_GPU))]);
        assert_eq!(offered(&configured, &["GPU-0".into()])[NVIDIA_GPU].ids, ["7"]);
        let declared = BTreeMap::from([("example.com/fpga".to_owned(), 3)]);
        let all = counted(&declared, &found);
        assert_eq!((all["example.com/fpga"], all[NVIDIA_GPU]), (3, 2));
    }

    #[test]
    fn limits_ask_and_a_count_of_no_devices_does_not() {
        let one = container(json!({"nvidia.com/gpu": "2", "example.com/fpga": "1", "cpu": "1"}));
        let wanted = BTreeMap::from([(NVIDIA_GPU.to_owned(), 2)]);
        assert_eq!(asked(&one, &gpus(1)), wanted);
        // A node without a GPU is asked all the same, and says so.
        assert_eq!(asked(&one, &BTreeMap::new()), wanted);
        assert!(asked(&container(json!({"nvidia.com/gpu": "0"})), &gpus(1)).is_empty());
    }

    #[test]
    fn what_runs_or_may_run_keeps_its_device_and_what_ended_gives_it_back() {
        let pod = pod(json!({}));
        let mut web = instance(&pod, Role::Container, "web", 0);
        web.devices = BTreeMap::from([(NVIDIA_GPU.to_owned(), vec!["GPU-0".to_owned()])]);
        let (offered, wanted) = (gpus(2), BTreeMap::from([(NVIDIA_GPU.to_owned(), 1)]));
        let next = |one: &Instance| {
            allocate(&wanted, &offered, &held([one].into_iter())).expect("one")[NVIDIA_GPU][0]
                .clone()
        };
        assert_eq!(next(&web), "GPU-1");
        let made = Instance { life: crate::node::instance::Life::Created, ..web.clone() };
        assert_eq!(next(&made), "GPU-1");
        assert_eq!(next(&ended(web.clone(), 1, 1)), "GPU-0");
        let both = BTreeMap::from([(NVIDIA_GPU.to_owned(), 2)]);
        assert_eq!(
            allocate(&both, &offered, &held([&web].into_iter())),
            Err("requested number of devices unavailable for nvidia.com/gpu. Requested: 2, Available: 1".to_owned())
        );
        assert!(allocate(&wanted, &BTreeMap::new(), &[]).is_err());
    }

    proptest! {
        /// Containers come and go; a dull count says whether one may come.
        #[test]
        fn no_two_ever_share_one(
            devices in 0..5_usize,
            steps in prop::collection::vec((any::<bool>(), 0..6_usize, 1..4_usize), 0..40),
        ) {
            let offered = gpus(devices);
            let mut running: Vec<Devices> = Vec::new();
            for (comes, at, count) in steps {
                if !comes {
                    if at < running.len() {
                        running.remove(at);
                    }
                    continue;
                }
                let wanted = BTreeMap::from([(NVIDIA_GPU.to_owned(), count)]);
                let taken: usize = running.iter().map(|one| one[NVIDIA_GPU].len()).sum();
                let given = allocate(&wanted, &offered, &running.iter().collect::<Vec<_>>());
                prop_assert_eq!(given.is_ok(), taken + count <= devices);
                running.extend(given);
                let all: Vec<&String> = running.iter().flat_map(|one| &one[NVIDIA_GPU]).collect();
                let distinct: BTreeSet<&String> = all.iter().copied().collect();
                prop_assert_eq!(distinct.len(), all.len());
            }
        }
    }
}
