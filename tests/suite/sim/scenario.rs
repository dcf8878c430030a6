//! The reference run: what Git says, step after step, and what the world must be when each step has
//! converged. Names that the API makes up are left out of the comparison, everything else is in it.

use ballast::object::privilege::{Privileges, Written};
use ballast::object::{ApplySet, Key, Kind, SetWrite};
use serde_json::{Value, json};

/// What one commit of the reference run contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Deploy,
    Scale,
    Roll,
    Delete,
}

pub const STEPS: [Step; 4] = [Step::Deploy, Step::Scale, Step::Roll, Step::Delete];

const NAMESPACE: &str = "sim";

impl Step {
    /// Everything that a registry must have.
    pub const IMAGES: [&str; 2] = ["app:v1", "app:v2"];

    fn replicas(self) -> Option<i32> {
        match self {
            Self::Deploy => Some(2),
            Self::Scale | Self::Roll => Some(3),
            Self::Delete => None,
        }
    }

    fn image(self) -> &'static str {
        if self == Self::Roll { "app:v2" } else { "app:v1" }
    }

    /// The objects of this commit, in the order a sync applies them.
    fn objects(self) -> Vec<(Kind, Key, Value)> {
        let mut all = vec![(
            Kind::Namespace,
            Key::cluster(NAMESPACE),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
        )];
        if let Some(replicas) = self.replicas() {
            all.extend(storage());
            all.push((Kind::ConfigMap, Key::new(NAMESPACE, "app"), json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "app", "namespace": NAMESPACE }, "data": { "GREETING": "hello" } })));
            all.push((Kind::Service, Key::new(NAMESPACE, "app"), json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "app", "namespace": NAMESPACE },
                "spec": { "clusterIP": "10.43.0.77", "selector": { "app": "app" }, "ports": [{ "port": 80, "targetPort": 8080 }] } })));
            all.push((
                Kind::Deployment,
                Key::new(NAMESPACE, "app"),
                deployment(replicas, self.image()),
            ));
        }
        all
    }

    /// Everything earlier commits had and this one has not.
    fn removed(self) -> Vec<(Kind, Key)> {
        let now = self.objects();
        let before = Step::Roll.objects();
        before
            .into_iter()
            .filter(|(kind, key, _)| !now.iter().any(|(other, at, _)| other == kind && at == key))
            .map(|(kind, key, _)| (kind, key))
            .collect()
    }

    /// The commit as the sync would apply it; `uid_of` tells which removed objects are still there.
    pub fn commit(self, uid_of: impl Fn(Kind, &Key) -> Option<String>) -> ApplySet {
        let mut writes: Vec<SetWrite> = self
            .objects()
            .into_iter()
            .map(|(kind, key, manifest)| SetWrite::Apply {
                kind,
                key,
                manifest,
                previous_labels: Vec::new(),
                previous_annotations: Vec::new(),
                adopt: false,
            })
            .collect();
        writes.extend(self.removed().into_iter().filter_map(|(kind, key)| {
            let uid = uid_of(kind, &key)?;
            Some(SetWrite::Delete { kind, key, uid })
        }));
        ApplySet { source: "sim".to_owned(), writes, ..ApplySet::default() }
    }

    /// What must be true in the end, as one comparable text.
    pub fn expected_pods(self) -> usize {
        self.replicas().map_or(0, |replicas| usize::try_from(replicas).expect("small"))
    }

    pub fn expected_image(self) -> &'static str {
        self.image()
    }
}

/// A folder of the host, and a claim that it is kept for.
fn storage() -> Vec<(Kind, Key, Value)> {
    let (modes, amount) = (json!(["ReadWriteOnce"]), json!({ "storage": "1Gi" }));
    vec![
        (
            Kind::StorageClass,
            Key::cluster("by-hand"),
            json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "by-hand" },
                "provisioner": "kubernetes.io/no-provisioner" }),
        ),
        (
            Kind::PersistentVolume,
            Key::cluster("files"),
            json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "files" }, "spec": {
                "accessModes": modes, "capacity": amount, "storageClassName": "by-hand", "local": { "path": "/srv/sim/files" },
                "claimRef": { "namespace": NAMESPACE, "name": "files" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                    { "key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"] }] }] } } } }),
        ),
        (
            Kind::PersistentVolumeClaim,
            Key::new(NAMESPACE, "files"),
            json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "files", "namespace": NAMESPACE },
                "spec": { "accessModes": modes, "storageClassName": "by-hand", "resources": { "requests": amount } } }),
        ),
    ]
}

/// What the daemon's operator allows: the folder.
pub fn privileges() -> Privileges {
    let files = Written { host_paths: vec!["/srv/sim".to_owned()], ..Written::default() };
    Privileges::read([(NAMESPACE.to_owned(), files)].into(), Vec::new(), &mut Vec::new())
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "app", "namespace": NAMESPACE },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "app" } },
            "template": {
                "metadata": { "labels": { "app": "app" } },
                "spec": { "terminationGracePeriodSeconds": 2, "containers": [{
                    "name": "app", "image": image, "imagePullPolicy": "IfNotPresent", "ports": [{ "containerPort": 8080 }],
                    "envFrom": [{ "configMapRef": { "name": "app" } }],
                    "lifecycle": { "postStart": { "sleep": { "seconds": 1 } }, "preStop": { "sleep": { "seconds": 1 } } },
                }] },
            },
        },
    })
}
