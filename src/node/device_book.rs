//! Who has which device of this node. What was made says so in its label; what is being made stands in
//! a book until it is known as a container, so that two pods that are made at a time share none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Container;

use crate::node::agent::{Agent, lock};
use crate::node::capacity::Engine;
use crate::node::container_spec::ContainerSpec;
use crate::node::devices::{self, Devices};
use crate::node::docker::Docker;
use crate::node::hijack::EngineAddress;
use crate::node::runtime::Runtime;
use crate::object::Cluster;

/// Where the driver tells of itself.
const DRIVER: &str = "/proc/driver/nvidia";

/// By the engine's name of a container: its pod and its devices.
pub type DeviceBook = Mutex<BTreeMap<String, (String, Devices)>>;

impl<C: Cluster, R: Runtime> Agent<C, R> {
    /// Gives a container that is going to be made its devices.
    ///
    /// # Errors
    /// The kubelet's sentence where there are too few.
    pub(super) fn give_devices(
        &self,
        engine: &Engine,
        container: &Container,
        spec: &mut ContainerSpec,
    ) -> Result<(), String> {
        let offered = devices::offered(&self.options.devices, &engine.gpus);
        let asked = devices::asked(container, &offered);
        if asked.is_empty() {
            return Ok(());
        }
        let pods: Vec<String> = self.cells().iter().map(|cell| cell.uid.clone()).collect();
        // The book before the containers: who leaves the one stands in the other already.
        let mut book = lock(&self.device_book);
        let instances = lock(&self.instances);
        book.retain(|name, (pod, _)| *name != spec.name && pods.contains(pod));
        let mut held = devices::held(instances.iter());
        held.extend(book.values().map(|(_, given)| given));
        let given = devices::allocate(&asked, &offered, &held)?;
        drop(instances);
        spec.devices = devices::requests(&given, &offered);
        book.insert(spec.name.clone(), (spec.identity.pod_uid.clone(), given));
        Ok(())
    }

    /// It is known as a container now, or will never be one.
    pub(super) fn close_device_entry(&self, spec: &ContainerSpec) {
        if !spec.devices.is_empty() {
            lock(&self.device_book).remove(&spec.name);
        }
    }
}

impl Docker {
    /// Of an engine of this host that has the runtime for them.
    pub(super) fn gpus(&self, has_runtime: bool) -> Vec<String> {
        let is_here = matches!(EngineAddress::of(&self.host), Some(EngineAddress::Unix(_)));
        if has_runtime && is_here { found_gpus(Path::new(DRIVER)) } else { Vec::new() }
    }
}

/// The GPUs of this host, by the ids that the engine knows them by. The driver has a folder for each;
/// none where there is no driver.
pub fn found_gpus(driver: &Path) -> Vec<String> {
    let folders = fs::read_dir(driver.join("gpus")).into_iter().flatten().flatten();
    let mut all: Vec<String> = folders
        .filter_map(|folder| {
            let told = fs::read_to_string(folder.path().join("information")).ok()?;
            let line = told.lines().find_map(|line| line.strip_prefix("GPU UUID:"))?;
            Some(line.trim().to_owned()).filter(|id| id.starts_with("GPU-"))
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_found_by_what_their_driver_says() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(found_gpus(folder.path()).is_empty());
        for (place, id) in [("0000:65:00.0", "GPU-b"), ("0000:17:00.0", "GPU-a")] {
            let one = folder.path().join("gpus").join(place);
            fs::create_dir_all(&one).expect("a folder");
            let text = format!(
                "Model: \t\t NVIDIA A100\nIRQ:   \t\t 158\nGPU UUID: \t {id}\nBus Type: \t PCIe\n"
            );
            fs::write(one.join("information"), text).expect("written");
        }
        let broken = folder.path().join("gpus/0000:99:00.0");
        fs::create_dir_all(&broken).expect("a folder");
        fs::write(broken.join("information"), "GPU UUID: \t ??\n").expect("written");
        assert_eq!(found_gpus(folder.path()), ["GPU-a", "GPU-b"]);
    }
}
