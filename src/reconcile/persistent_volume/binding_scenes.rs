//! The two plans together, over a small world: late views, lost races, crashes after every write, in
//! any order. No two claims ever have one volume, and when everybody has looked often enough nothing
//! is left to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use proptest::prelude::*;
use serde_json::json;

use crate::object::storage::{is_bound, volume_of};
use crate::object::{Key, Object};
use crate::reconcile::indexed::key_of;
use crate::reconcile::persistent_volume::matching::tests::{claim, volume};
use crate::reconcile::persistent_volume::{claim_plan, matching, volume_plan};

/// More passes than any of these worlds needs.
const ENOUGH: usize = 40;

#[derive(Clone, Debug, Default)]
struct World {
    claims: BTreeMap<Key, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    revision: u64,
    uids: u64,
}

/// What happens next; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Act {
    MakeClaim {
        name: usize,
        size: u32,
        volume: Option<usize>,
    },
    DeleteClaim(usize),
    MakeVolume {
        name: usize,
        size: u32,
        kept_for: Option<usize>,
    },
    DeleteVolume(usize),
    /// A pass over one claim, on views of claims and of volumes that are so many acts old.
    PassClaim {
        which: usize,
        late: (usize, usize),
    },
    PassVolume {
        which: usize,
        late: (usize, usize),
    },
}

fn act() -> impl Strategy<Value = Act> {
    let name = 0_usize..4;
    prop_oneof![
        2 => (name.clone(), 1_u32..4, prop::option::weighted(0.2, 0_usize..4))
            .prop_map(|(name, size, volume)| Act::MakeClaim { name, size, volume }),
        1 => name.clone().prop_map(Act::DeleteClaim),
        2 => (name.clone(), 1_u32..4, prop::option::weighted(0.3, 0_usize..4))
            .prop_map(|(name, size, kept_for)| Act::MakeVolume { name, size, kept_for }),
        1 => name.prop_map(Act::DeleteVolume),
        6 => (0_usize..4, (0_usize..6, 0_usize..6)).prop_map(|(which, late)| Act::PassClaim { which, late }),
        6 => (0_usize..4, (0_usize..6, 0_usize..6)).prop_map(|(which, late)| Act::PassVolume { which, late }),
    ]
}

fn nth<K: Ord + Clone, V>(map: &BTreeMap<K, V>, which: usize) -> Option<K> {
    (!map.is_empty()).then(|| map.keys().nth(which % map.len()).cloned()).flatten()
}

impl World {
    fn next(&mut self) -> String {
        self.revision += 1;
        self.revision.to_string()
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("u{}", self.uids)
    }

    fn act(&mut self, act: &Act, history: &[World]) {
        let seen = |late: &(usize, usize)| {
            let at = |late: usize| history[history.len().saturating_sub(late + 1)].clone();
            World { claims: at(late.0).claims, ..at(late.1) }
        };
        match act {
            Act::MakeClaim { name, size, volume } => {
                let (uid, name) = (self.uid(), format!("c{name}"));
                let key = Key::new("a", name.as_str());
                if self.claims.contains_key(&key) {
                    return;
                }
                let named = volume.map(|number| format!("v{number}"));
                let made = claim(
                    &name,
                    json!({"metadata": {"uid": uid, "resourceVersion": self.next()},
                    "spec": {"volumeName": named,
                        "resources": {"requests": {"storage": format!("{size}Gi")}}}}),
                );
                self.claims.insert(key, Arc::new(made));
            }
            Act::MakeVolume { name, size, kept_for } => {
                let (uid, name) = (self.uid(), format!("v{name}"));
                if self.volumes.contains_key(&name) {
                    return;
                }
                let kept =
                    kept_for.map(|number| json!({"namespace": "a", "name": format!("c{number}")}));
                let made = volume(
                    &name,
                    &format!("{size}Gi"),
                    json!({
                    "metadata": {"uid": uid, "resourceVersion": self.next()},
                    "spec": {"claimRef": kept}, "status": {"phase": "Pending"}}),
                );
                self.volumes.insert(name, made);
            }
            Act::DeleteClaim(which) => {
                let Some(key) = nth(&self.claims, *which) else { return };
                let mut going = (*self.claims[&key]).clone();
                going.metadata.deletion_timestamp =
                    serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
                going.metadata.resource_version = Some(self.next());
                self.claims.insert(key, Arc::new(going));
            }
            Act::DeleteVolume(which) => {
                let Some(name) = nth(&self.volumes, *which) else { return };
                let mut going = (*self.volumes[&name]).clone();
                going.metadata.deletion_timestamp =
                    serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
                going.metadata.resource_version = Some(self.next());
                self.volumes.insert(name, Arc::new(going));
            }
            Act::PassClaim { which, late } => {
                let view = seen(late);
                if let Some(key) = nth(&view.claims, *which) {
                    self.pass_claim(&view, &key);
                }
            }
            Act::PassVolume { which, late } => {
                let view = seen(late);
                if let Some(name) = nth(&view.volumes, *which) {
                    self.pass_volume(&view, &name);
                }
            }
        }
    }

    /// Whether something was written.
    fn pass_claim(&mut self, view: &World, key: &Key) -> bool {
        use claim_plan::Step;
        let class: StorageClass = serde_json::from_value(json!({"metadata": {"name": "s"},
            "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "Immediate"}))
        .expect("a class");
        let volumes: Vec<_> = view.volumes.values().cloned().collect();
        let plan = claim_plan::plan(&claim_plan::View {
            claim: &view.claims[key],
            volumes: &volumes,
            class: Some(&class),
            default_class: None,
            is_used: false,
            waiting_pod: None,
        });
        match plan.step {
            None => false,
            Some(Step::HoldVolume { volume, .. }) => self.put_volume(*volume),
            Some(
                Step::Update { claim, .. } | Step::Status { claim, .. } | Step::Unprotect { claim },
            ) => self.put_claim(*claim),
        }
    }

    fn pass_volume(&mut self, view: &World, name: &str) -> bool {
        use volume_plan::Step;
        let own = &view.volumes[name];
        let key = own.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).map(key_of);
        let claim = |world: &World| key.as_ref().and_then(|key| world.claims.get(key).cloned());
        let step = volume_plan::plan(own, claim(view).as_deref(), Timestamp::UNIX_EPOCH);
        let is_claimed = volume_plan::is_claimed(own, claim(self).as_deref());
        match step {
            None => false,
            // As the controller does: the store itself is asked.
            Some(Step::Unprotect { .. }) if is_claimed => false,
            Some(Step::Status { volume, .. })
                if is_claimed
                    && volume
                        .status
                        .as_ref()
                        .is_some_and(|own| own.phase.as_deref() == Some("Released")) =>
            {
                false
            }
            Some(
                Step::Update { volume, .. }
                | Step::Status { volume, .. }
                | Step::Unprotect { volume },
            ) => self.put_volume(*volume),
        }
    }

    /// As the store does it: nothing happens when somebody was faster.
    fn put_claim(&mut self, mut claim: PersistentVolumeClaim) -> bool {
        let key = claim.key();
        let Some(stored) = self.claims.get(&key) else { return false };
        if stored.metadata.resource_version != claim.metadata.resource_version {
            return false;
        }
        if claim.metadata.deletion_timestamp.is_some() && claim.metadata.finalizers.is_none() {
            self.claims.remove(&key);
            self.revision += 1;
            return true;
        }
        claim.metadata.resource_version = Some(self.next());
        self.claims.insert(key, Arc::new(claim));
        true
    }

    fn put_volume(&mut self, mut volume: PersistentVolume) -> bool {
        let name = volume.key().name;
        let Some(stored) = self.volumes.get(&name) else { return false };
        if stored.metadata.resource_version != volume.metadata.resource_version {
            return false;
        }
        if volume.metadata.deletion_timestamp.is_some() && volume.metadata.finalizers.is_none() {
            self.volumes.remove(&name);
            self.revision += 1;
            return true;
        }
        volume.metadata.resource_version = Some(self.next());
        self.volumes.insert(name, Arc::new(volume));
        true
    }

    fn phase(claim: &PersistentVolumeClaim) -> &str {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
    }

    /// The claims that have their volume, both halves.
    fn bound(&self) -> Vec<(Key, String)> {
        let volume = |claim: &PersistentVolumeClaim| self.volumes.get(volume_of(claim)?).cloned();
        let all = self.claims.values().filter_map(|claim| {
            let volume = volume(claim).filter(|volume| is_bound(claim, volume))?;
            Some((claim.key(), volume.key().name))
        });
        all.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn one_volume_one_claim_and_an_end(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::default();
        let mut history = vec![world.clone()];
        for act in &acts {
            world.act(act, &history);
            let mut volumes: Vec<String> = world.bound().into_iter().map(|(_, name)| name).collect();
            let count = volumes.len();
            volumes.sort();
            volumes.dedup();
            prop_assert_eq!(count, volumes.len(), "a volume has two claims after {:?}", act);
            history.push(world.clone());
        }
        let mut passes = 0;
        loop {
            let mut is_written = false;
            for key in world.claims.keys().cloned().collect::<Vec<_>>() {
                let view = world.clone();
                is_written |= view.claims.contains_key(&key) && world.pass_claim(&view, &key);
            }
            for name in world.volumes.keys().cloned().collect::<Vec<_>>() {
                let view = world.clone();
                is_written |= view.volumes.contains_key(&name) && world.pass_volume(&view, &name);
            }
            if !is_written {
                break;
            }
            passes += 1;
            prop_assert!(passes < ENOUGH, "it does not come to an end");
        }
        let bound: BTreeMap<Key, String> = world.bound().into_iter().collect();
        let free: Vec<_> = world.volumes.values().cloned().collect();
        for (key, claim) in &world.claims {
            match World::phase(claim) {
                "Bound" => prop_assert!(bound.contains_key(key), "{} is bound to nothing", key),
                "Lost" => prop_assert!(!bound.contains_key(key)),
                _ => {
                    prop_assert!(!bound.contains_key(key), "{} does not say that it is bound", key);
                    let none = volume_of(claim).is_some()
                        || matching::best(claim, &free, false, None).is_none();
                    prop_assert!(none, "{} waits beside a volume for it", key);
                }
            }
            prop_assert!(claim.metadata.deletion_timestamp.is_none(), "{} stays", key);
        }
        for (name, volume) in &world.volumes {
            let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
            let is_held = bound.values().any(|held| held == name);
            prop_assert_eq!(phase == Some("Bound"), is_held, "{}", name);
        }
    }
}
