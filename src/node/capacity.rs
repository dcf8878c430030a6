//! Pure: what an engine's host offers to pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use crate::node::care::CareSettings;
use crate::node::eviction::Signal;
use crate::object::quantity::Quantity;

/// The kubelet's default `maxPods`.
pub const MAX_PODS: i64 = 110;

/// What an engine says of itself and its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Engine {
    /// `20.10.24`
    pub version: String,
    /// `1.41`
    pub api_version: String,
    pub cpus: i64,
    /// Bytes.
    pub memory: i64,
    pub kernel: String,
    pub os_image: String,
    /// As Kubernetes names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Which limits the host's control groups can hold; a setting beyond them is dropped by the
    /// engine, and so is not compared.
    pub limits: Limits,
    /// Containers run on while it is stopped.
    pub live_restore: bool,
    /// The directory that holds images and containers, on the engine's host.
    pub data_root: String,
    /// The host's kernel has AppArmor, and the engine uses it.
    pub app_armor: bool,
    /// NVIDIA's GPUs, by their ids; none where the engine has not the runtime for them.
    pub gpus: Vec<String>,
}

impl Engine {
    /// Docker 25.0 is the first that can be made to (API 1.44).
    pub fn makes_recursive_read_only(&self) -> bool {
        let number = |text: &str| text.parse::<u32>().ok();
        let parts = self.api_version.split_once('.');
        let version = parts.and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        version.is_some_and(|version| version >= (1, 44))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory: bool,
    pub swap: bool,
    pub cpu_quota: bool,
    pub cpu_shares: bool,
}

/// A node's `capacity`. `resources` are what the operator says it has besides; the scheduler counts them.
pub fn capacity(
    engine: &Engine,
    disk_bytes: Option<u64>,
    resources: &BTreeMap<String, i64>,
) -> BTreeMap<String, Written> {
    let mut offered = BTreeMap::from([
        ("cpu".to_owned(), Quantity::from_units(engine.cpus)),
        ("memory".to_owned(), Quantity::from_bytes(engine.memory)),
        ("pods".to_owned(), Quantity::from_units(MAX_PODS)),
    ]);
    if let Some(bytes) = disk_bytes.and_then(|bytes| i64::try_from(bytes).ok()) {
        offered.insert("ephemeral-storage".to_owned(), Quantity::from_bytes(bytes));
    }
    let declared = |(name, count): (&String, &i64)| (name.clone(), Quantity::from_units(*count));
    offered.extend(resources.iter().map(declared));
    offered.into_iter().map(|(name, amount)| (name, Written(amount.to_string()))).collect()
}

/// What pods may ask for: the kubelet's arithmetic, capacity less what is reserved and less what must
/// stay free before pods are evicted.
pub fn allocatable(
    capacity: &BTreeMap<String, Written>,
    settings: &CareSettings,
) -> BTreeMap<String, Written> {
    let kept_free = |name: &str, whole: Quantity| {
        let signal = match name {
            "memory" => Signal::MemoryAvailable,
            "ephemeral-storage" => Signal::NodefsAvailable,
            _ => return Quantity::ZERO,
        };
        let threshold = settings.eviction.0.get(&signal);
        let whole = u64::try_from(whole.units()).unwrap_or(0);
        let bytes = threshold.map_or(0, |threshold| threshold.amount(whole));
        Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
    };
    let left = |(name, written): (&String, &Written)| {
        let whole = Quantity::parse(&written.0).unwrap_or(Quantity::ZERO);
        let reserved = settings.reserved.get(name).copied().unwrap_or(Quantity::ZERO);
        let left = whole - reserved - kept_free(name, whole);
        let left = if left.is_negative() { Quantity::ZERO } else { left };
        (name.clone(), Written(left.to_string()))
    };
    capacity.iter().map(left).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_offers_its_cores_memory_and_110_pods() {
        let engine = Engine { cpus: 2, memory: 8 << 30, ..Engine::default() };
        let more = BTreeMap::from([("example.com/fpga".to_owned(), 2)]);
        let offered = capacity(&engine, Some(10 << 30), &more);
        let words: Vec<_> = offered.iter().map(|(n, q)| format!("{n}={}", q.0)).collect();
        let wanted =
            ["cpu=2", "ephemeral-storage=10Gi", "example.com/fpga=2", "memory=8Gi", "pods=110"];
        assert_eq!(words, wanted);

        let mut settings = CareSettings::default();
        settings.reserved.insert("cpu".into(), Quantity::from_millis(100));
        settings.reserved.insert("memory".into(), Quantity::from_bytes(1 << 30));
        let words = |settings: &CareSettings| -> Vec<String> {
            let left = allocatable(&offered, settings);
            left.iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect()
        };
        assert_eq!(
            words(&settings),
            [
                "cpu=1900m",
                "ephemeral-storage=9Gi",
                "example.com/fpga=2",
                "memory=7068Mi",
                "pods=110"
            ]
        );
        settings.reserved.insert("memory".into(), Quantity::from_bytes(9 << 30));
        assert_eq!(words(&settings)[3], "memory=0");
    }
}
