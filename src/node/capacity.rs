//! Pure: what an engine's host offers to pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

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
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub memory: bool,
    pub swap: bool,
    pub cpu_quota: bool,
    pub cpu_shares: bool,
}

/// A node's `capacity`. Allocatable is the same: the daemon itself uses tens of megabytes, and a
/// reserve nobody asked for would only hide resources of a small host.
pub fn capacity(engine: &Engine, disk_bytes: Option<u64>) -> BTreeMap<String, Written> {
    let mut offered = BTreeMap::from([
        ("cpu".to_owned(), Quantity::from_units(engine.cpus)),
        ("memory".to_owned(), Quantity::from_bytes(engine.memory)),
        ("pods".to_owned(), Quantity::from_units(MAX_PODS)),
    ]);
    if let Some(bytes) = disk_bytes.and_then(|bytes| i64::try_from(bytes).ok()) {
        offered.insert("ephemeral-storage".to_owned(), Quantity::from_bytes(bytes));
    }
    offered.into_iter().map(|(name, amount)| (name, Written(amount.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_offers_its_cores_memory_and_110_pods() {
        let engine = Engine { cpus: 2, memory: 8 << 30, ..Engine::default() };
        let offered = capacity(&engine, Some(10 << 30));
        let words: Vec<_> = offered.iter().map(|(n, q)| format!("{n}={}", q.0)).collect();
        assert_eq!(words, ["cpu=2", "ephemeral-storage=10Gi", "memory=8Gi", "pods=110"]);
    }
}
