//! Pure: what is known of this installation's containers: the last relist, plus what events and our
//! own calls told since.
//!
//! Answers may arrive out of order (an inspect that was slow, a list begun before a create): an
//! instance's life only goes forward, and a list removes only what was known before it began.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::node::instance::{Instance, Life};

#[derive(Debug, Default)]
pub struct Instances {
    /// By pod uid, then id; each with the number of the change that noted it.
    by_pod: HashMap<String, BTreeMap<String, (Instance, u64)>>,
    pod_of: HashMap<String, String>,
    changes: u64,
    /// Being started by us: their start events tell nothing new.
    starting: HashSet<String>,
}

fn rank(life: Life) -> u8 {
    match life {
        Life::Created => 0,
        Life::Running | Life::Paused => 1,
        Life::Exited => 2,
    }
}

impl Instances {
    /// Where a list begins: what is noted later survives its [`Instances::replace`].
    pub fn mark(&self) -> u64 {
        self.changes
    }

    pub fn put(&mut self, instance: Instance) {
        self.changes += 1;
        let pod = self.by_pod.entry(instance.identity.pod_uid.clone()).or_default();
        if let Some((old, _)) = pod.get(&instance.id)
            && rank(instance.life) < rank(old.life)
            && instance.started_at <= old.started_at
        {
            return;
        }
        self.pod_of.insert(instance.id.clone(), instance.identity.pod_uid.clone());
        pod.insert(instance.id.clone(), (instance, self.changes));
    }

    pub fn remove(&mut self, id: &str) {
        let Some(pod_uid) = self.pod_of.remove(id) else { return };
        if let Some(pod) = self.by_pod.get_mut(&pod_uid) {
            pod.remove(id);
            if pod.is_empty() {
                self.by_pod.remove(&pod_uid);
            }
        }
    }

    /// Takes a whole list that was begun at `mark`. Answers the pods whose instances differ now.
    pub fn replace(&mut self, list: Vec<Instance>, mark: u64) -> HashSet<String> {
        let listed: HashSet<String> = list.iter().map(|instance| instance.id.clone()).collect();
        let mut changed = HashSet::new();
        let gone: Vec<(String, String)> = self
            .by_pod
            .iter()
            .flat_map(|(uid, pod)| pod.iter().map(move |(id, (_, noted))| (uid, id, noted)))
            .filter(|(_, id, noted)| **noted <= mark && !listed.contains(*id))
            .map(|(uid, id, _)| (uid.clone(), id.clone()))
            .collect();
        for (uid, id) in gone {
            self.remove(&id);
            changed.insert(uid);
        }
        for instance in list {
            let known = self.get(&instance.id);
            if known != Some(&instance) {
                changed.insert(instance.identity.pod_uid.clone());
                self.put(instance);
            }
        }
        changed
    }

    pub fn get(&self, id: &str) -> Option<&Instance> {
        let pod = self.by_pod.get(self.pod_of.get(id)?)?;
        pod.get(id).map(|(instance, _)| instance)
    }

    pub fn of_pod(&self, uid: &str) -> Vec<Instance> {
        let pod = self.by_pod.get(uid);
        pod.into_iter().flatten().map(|(_, (instance, _))| instance.clone()).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.by_pod.values().flat_map(|pod| pod.values().map(|(instance, _)| instance))
    }

    pub fn begin_start(&mut self, id: &str) {
        self.starting.insert(id.to_owned());
    }

    pub fn end_start(&mut self, id: &str) {
        self.starting.remove(id);
    }

    pub fn is_starting(&self, id: &str) -> bool {
        self.starting.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::instance::Role;
    use crate::node::pod_plan::tests::{ended, instance, pod};

    #[test]
    fn late_answers_do_not_turn_time_back() {
        let pod = pod(serde_json::json!({}));
        let running = instance(&pod, Role::Container, "web", 0);
        let dead = ended(running.clone(), 137, 5);
        let mut known = Instances::default();
        known.put(dead.clone());
        known.put(running.clone());
        assert_eq!(known.get("web-0"), Some(&dead));

        let mark = known.mark();
        let younger = instance(&pod, Role::Container, "web", 1);
        known.put(younger.clone());
        let changed = known.replace(vec![], mark);
        assert_eq!(known.of_pod("u"), [younger]);
        assert!(changed.contains("u"));
        assert!(known.replace(vec![], known.mark()).contains("u"));
        assert_eq!(known.iter().count(), 0);
    }
}
