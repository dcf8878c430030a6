//! Pure: on which lines a manifest writes what is later compared with containers and rules.
//!
//! The layers `container` and `network` see pods and rules, never a manifest. The inventory carries
//! these lines along, so that a Drift of theirs names the line to edit, on any node and without the
//! repository. Only fields that those layers can name are kept: a Deployment of one container adds
//! some two hundred bytes to its source's status.

use serde_json::Value;

use crate::object::Kind;
use crate::object::inventory::InventoryEntry;
use crate::sync::manifest::Manifest;

/// Of a container; a field after the one that it is in.
const OF_CONTAINER: [&str; 10] = [
    "image",
    "resources",
    "resources.limits",
    "resources.limits.cpu",
    "resources.limits.memory",
    "resources.requests",
    "resources.requests.cpu",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
];

/// Fills in the lines of an entry, see [`InventoryEntry::lines`].
pub fn fill(entry: &mut InventoryEntry, manifest: &Manifest) {
    let mut lines = Lines { entry, manifest };
    match manifest.kind {
        Kind::Service => lines.service(),
        Kind::Pod => lines.pod("spec", &manifest.value["spec"]),
        Kind::Deployment | Kind::ReplicaSet => {
            lines.pod("spec.template.spec", &manifest.value["spec"]["template"]["spec"]);
        }
        _ => {}
    }
}

struct Lines<'a> {
    entry: &'a mut InventoryEntry,
    manifest: &'a Manifest,
}

impl Lines<'_> {
    /// `at` is the pod's spec in the manifest.
    fn pod(&mut self, at: &str, spec: &Value) {
        self.note("spec", at);
        for list in ["initContainers", "containers"] {
            for (index, container) in items(&spec[list]) {
                let Some(name) = container["name"].as_str() else { continue };
                let (field, at) = (format!("spec.{list}[{name}]"), format!("{at}.{list}[{index}]"));
                self.note(&field, &at);
                for part in OF_CONTAINER {
                    self.note(&format!("{field}.{part}"), &format!("{at}.{part}"));
                }
                for (index, variable) in items(&container["env"]) {
                    let Some(name) = variable["name"].as_str() else { continue };
                    let (field, at) =
                        (format!("{field}.env[{name}]"), format!("{at}.env[{index}]"));
                    let value = format!("{at}.value");
                    let written = self.manifest.positions.written(&value).is_some();
                    self.note(&field, if written { &value } else { &at });
                }
            }
        }
    }

    fn service(&mut self) {
        let manifest = self.manifest;
        self.note("spec", "spec");
        self.note("spec.ports", "spec.ports");
        for (index, port) in items(&manifest.value["spec"]["ports"]) {
            // The only port of a Service may have no name.
            let name = port["name"].as_str().map(str::to_owned);
            let name = name.unwrap_or_else(|| port["port"].to_string());
            let (field, at) = (format!("spec.ports[{name}]"), format!("spec.ports[{index}]"));
            self.note(&field, &at);
            self.note(&format!("{field}.nodePort"), &format!("{at}.nodePort"));
        }
    }

    /// `field` as the layers name it, `at` as the manifest has it. A mapping stands where its key
    /// is, a value where it is itself.
    fn note(&mut self, field: &str, at: &str) {
        let Some((key, value)) = self.manifest.positions.written(at) else { return };
        let line = if self.is_leaf(at) { value.line } else { key.line };
        if self.entry.line_of(field) != line {
            self.entry.lines.insert(field.to_owned(), line);
        }
    }

    /// Every other field that is noted has fields of its own.
    fn is_leaf(&self, at: &str) -> bool {
        [".image", ".cpu", ".memory", ".value", ".nodePort"].iter().any(|leaf| at.ends_with(leaf))
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sync::inventory::entries;
    use crate::sync::manifest::parse;
    use crate::sync::source::SourceFile;

    fn entry(text: &str) -> InventoryEntry {
        let file = SourceFile {
            path: "a.yaml".into(),
            blob: String::new(),
            bytes: text.as_bytes().into(),
        };
        let parsed = parse(&file);
        assert_eq!(parsed.problems, []);
        entries(&parsed.manifests, &BTreeMap::new()).remove(0)
    }

    #[test]
    fn a_field_of_a_container_has_its_own_line_or_that_of_the_one_around_it() {
        let entry = entry(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {}\n  template:\n    spec:\n      initContainers:\n      - name: first\n        image: i\n      containers:\n      - name: web\n        image: b\n        env:\n        - name: A.B\n          value: one\n        - {name: C, value: two}\n        resources:\n          limits:\n            memory: 64Mi\n        readinessProbe:\n          tcpSocket: {port: 1}\n      - {name: side, image: c}\n",
        );
        let line = |field: &str| entry.line_of(field);
        assert_eq!(line("spec.containers[web]"), 12);
        assert_eq!(line("spec.containers[web].image"), 13);
        assert_eq!(line("spec.containers[web].env[A.B]"), 16);
        assert_eq!(line("spec.containers[web].env[C]"), 17);
        assert_eq!(line("spec.containers[web].env[D]"), 12, "written nowhere");
        assert_eq!(line("spec.containers[web].resources.limits.memory"), 20);
        assert_eq!(line("spec.containers[web].resources.limits.cpu"), 19);
        assert_eq!(line("spec.containers[web].resources.requests.cpu"), 18);
        assert_eq!(line("spec.containers[web].readinessProbe"), 21);
        assert_eq!(line("spec.containers[side].image"), 23);
        assert_eq!(line("spec.initContainers[first].image"), 10);
        assert_eq!(line("spec"), 7);
        assert_eq!(line("spec.containers[gone].image"), 7);
        assert_eq!(line("."), 1);
        assert!(!entry.lines.contains_key("spec.containers[side].image"), "{:?}", entry.lines);
    }

    #[test]
    fn a_port_of_a_service_is_found_by_its_name_or_number() {
        let named = entry(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: NodePort\n  ports:\n  - name: http\n    port: 80\n    nodePort: 30080\n  - {name: dns, port: 53, protocol: UDP}\n",
        );
        assert_eq!(named.line_of("spec.ports[http]"), 7);
        assert_eq!(named.line_of("spec.ports[http].nodePort"), 9);
        assert_eq!(named.line_of("spec.ports[dns].nodePort"), 10);
        assert_eq!(named.line_of("spec.ports"), 6);
        let only = entry(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports:\n  - port: 80\n",
        );
        assert_eq!(only.line_of("spec.ports[80]"), 6);
    }

    #[test]
    fn what_no_other_layer_compares_has_no_lines() {
        let entry = entry("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: b\n");
        assert!(entry.lines.is_empty());
    }
}
