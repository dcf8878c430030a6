//! Pure: what is known of this installation's containers: the last relist, plus what events and our
//! own calls told since.
//!
//! Answers may arrive out of order (an inspect that was slow, a list begun before a create): an
//! instance's life only goes forward, and a list removes only what was known before it began.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::node::instance::{Instance, Life, Listed, Role};

#[derive(Debug, Default)]
pub struct Instances {
    /// By pod uid, then id; each with the number of the change that noted it.
    by_pod: BTreeMap<String, BTreeMap<String, (Instance, u64)>>,
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

    pub fn put(&mut self, mut instance: Instance) {
        self.changes += 1;
        if let Some(known) = self.get(&instance.id) {
            // Looked at before a pod claimed it: a claim is never taken back.
            if instance.identity.role == Role::Spare && known.identity.role != Role::Spare {
                instance.identity = known.identity.clone();
                instance.name = known.name.clone();
            }
            if instance.identity.pod_uid != known.identity.pod_uid {
                let id = instance.id.clone();
                self.remove(&id);
            }
        }
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

    /// Takes a whole list that was begun at `mark`. Answers the pods whose instances differ now. Of
    /// what the list tells vaguely only a life that went on is taken, where more was known before, and
    /// nothing where it was looked at since.
    pub fn replace(&mut self, list: Listed, mark: u64) -> BTreeSet<String> {
        let Listed { instances: mut list, vague } = list;
        for instance in vague {
            list.push(match self.get(&instance.id) {
                Some(known) if self.noted(&instance.id) > Some(mark) => known.clone(),
                Some(known) if rank(instance.life) > rank(known.life) => {
                    let (life, exit_code) = (instance.life, instance.exit_code);
                    Instance { life, exit_code, ip: instance.ip, ..known.clone() }
                }
                Some(known) => known.clone(),
                None => instance,
            });
        }
        let listed: HashSet<String> = list.iter().map(|instance| instance.id.clone()).collect();
        let mut changed = BTreeSet::new();
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

    /// The number of the change that noted it.
    fn noted(&self, id: &str) -> Option<u64> {
        let pod = self.by_pod.get(self.pod_of.get(id)?)?;
        pod.get(id).map(|(_, noted)| *noted)
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
    use crate::node::instance::Settings;
    use crate::node::pod_plan::tests::{at, ended, instance, pod};

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
        let changed = known.replace(Listed::default(), mark);
        assert_eq!(known.of_pod("u"), [younger]);
        assert!(changed.contains("u"));
        assert!(known.replace(Listed::default(), known.mark()).contains("u"));
        assert_eq!(known.iter().count(), 0);
    }

    #[test]
    fn a_claim_moves_a_spare_to_its_pod_and_is_never_taken_back() {
        let pod = pod(serde_json::json!({}));
        let claimed = instance(&pod, Role::Sandbox, "", 0);
        let mut spare = claimed.clone();
        spare.identity.role = Role::Spare;
        spare.identity.pod_uid = String::new();
        let mut known = Instances::default();
        known.put(spare.clone());
        assert_eq!(known.of_pod("").len(), 1);
        known.put(claimed.clone());
        assert_eq!((known.of_pod("").len(), known.of_pod("u").len()), (0, 1));
        // An answer, and a list, from before the claim.
        known.put(spare.clone());
        known.replace(Listed { instances: vec![spare], ..Listed::default() }, known.mark());
        assert_eq!(known.of_pod("u"), [claimed]);
        assert!(known.of_pod("").is_empty());
    }

    #[test]
    fn what_a_list_tells_vaguely_takes_nothing_away() {
        let pod = pod(serde_json::json!({}));
        let whole = instance(&pod, Role::Container, "web", 0);
        let vague = Instance {
            image_id: String::new(),
            started_at: None,
            settings: Settings::default(),
            ..whole.clone()
        };
        let listed = |vague: &Instance| Listed { vague: vec![vague.clone()], ..Listed::default() };
        let mut known = Instances::default();
        known.put(whole.clone());
        let mark = known.mark();
        assert!(known.replace(listed(&vague), mark).is_empty());
        assert_eq!(known.get("web-0"), Some(&whole));
        // It ended, as far as the list tells.
        let mark = known.mark();
        let dead = Instance { life: Life::Exited, exit_code: 137, ..vague.clone() };
        assert!(known.replace(listed(&dead), mark).contains("u"));
        let now = known.get("web-0").expect("still there");
        assert_eq!(
            (now.life, now.exit_code, now.started_at),
            (Life::Exited, 137, whole.started_at)
        );
        // It was started again while the list was made.
        let mark = known.mark();
        let again = Instance { started_at: Some(at(90)), ..whole.clone() };
        known.put(again.clone());
        assert!(known.replace(listed(&dead), mark).is_empty());
        assert_eq!(known.get("web-0"), Some(&again));
        // A daemon that has just started knows nothing better.
        let mut known = Instances::default();
        assert!(known.replace(listed(&vague), 0).contains("u"));
        assert_eq!(known.get("web-0"), Some(&vague));
    }
}
