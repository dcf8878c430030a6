//! Pure: what a host has besides cores, memory and disk, as its operator declares it, by the names that
//! pods ask for: what is only counted (licences), which nobody looks after, and devices that the engine
//! gives to containers one by one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::object::name;

/// Its resources are devices, which containers have to be given.
pub const NVIDIA: &str = "nvidia.com/";
/// Found by itself where the driver is loaded and the engine has the runtime.
pub const NVIDIA_GPU: &str = "nvidia.com/gpu";
/// Whose devices the engine gives to nobody by a request of its API 1.41.
const FILES: [&str; 2] = ["amd.com/gpu", "gpu.intel.com/"];

/// The devices of one resource, and how the engine is asked for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceClass {
    /// The engine's own word: `nvidia`.
    #[serde(default)]
    pub driver: String,
    /// `[gpu]`: all of them.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// As the driver knows them: `0`, `GPU-3faa8…`.
    pub ids: Vec<String>,
}

impl DeviceClass {
    /// With what is meant where a resource of NVIDIA's leaves it out.
    pub fn filled(mut self, resource: &str) -> Self {
        if resource.starts_with(NVIDIA) {
            if self.driver.is_empty() {
                "nvidia".clone_into(&mut self.driver);
            }
            if self.capabilities.is_empty() {
                self.capabilities.push("gpu".to_owned());
            }
        }
        self
    }
}

/// What a file says of devices, checked. One device is one resource's: two would give it twice.
pub fn read_devices(
    written: BTreeMap<String, DeviceClass>,
    faults: &mut Vec<String>,
) -> BTreeMap<String, DeviceClass> {
    let mut known = BTreeSet::new();
    let mut all = BTreeMap::new();
    for (name, class) in written {
        let at = format!("devices[{name}]");
        faults.extend(name_fault(&name, &at));
        let class = class.filled(&name);
        if class.driver.is_empty() || class.capabilities.is_empty() {
            faults.push(format!("{at}: name the engine's driver and its capabilities"));
        }
        if class.driver == "cdi" {
            faults.push(format!(
                "{at}: devices by CDI names are not given; the engine's API 1.41 has none"
            ));
        }
        if class.ids.is_empty() {
            faults.push(format!("{at}: name the ids of its devices"));
        }
        for id in &class.ids {
            if id.is_empty() || !known.insert((class.driver.clone(), id.clone())) {
                faults.push(format!("{at}: the id {id:?} is empty or named twice"));
            }
        }
        all.insert(name, class);
    }
    all
}

/// `domain/name`, and none of Kubernetes' own.
fn name_fault(name: &str, at: &str) -> Option<String> {
    let (domain, of_domain) = name.split_once('/').unwrap_or(("", name));
    let native = domain.is_empty() || domain.ends_with("kubernetes.io");
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let shaped = name::subdomain_faults(domain).is_empty()
        && (1..=63).contains(&of_domain.len())
        && of_domain.chars().all(is_word);
    (native || !shaped).then(|| {
        format!("{at}: a resource of your own is named domain/name, such as example.com/fpga")
    })
}

/// What a file and flags (`NAME=COUNT`) declare, checked; a flag wins over the file.
pub fn read(
    mut all: BTreeMap<String, i64>,
    flags: Vec<String>,
    faults: &mut Vec<String>,
) -> BTreeMap<String, i64> {
    for text in flags {
        match text.split_once('=').and_then(|(name, count)| Some((name, count.parse().ok()?))) {
            Some((name, count)) => _ = all.insert(name.to_owned(), count),
            None => faults.push(format!("--resource: {text:?} is not NAME=COUNT")),
        }
    }
    for (name, count) in &all {
        let at = format!("resources[{name}]");
        if *count < 0 {
            faults.push(format!("{at}: {count} is less than nothing"));
        }
        faults.extend(name_fault(name, &at));
        if name.starts_with(NVIDIA) {
            faults.push(format!(
                "{at}: a count alone would be an empty promise; say devices: with the ids of the GPUs, or nothing: they are found by themselves"
            ));
        }
        if FILES.iter().any(|own| name.starts_with(own)) {
            faults.push(format!(
                "{at}: a count alone would be an empty promise, and this version gives containers no devices by files of /dev or CDI names"
            ));
        }
    }
    all
}
