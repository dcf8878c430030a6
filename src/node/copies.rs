//! Pure: which of the containers with a pod's labels are the pod's.
//!
//! Labels can be copied (`docker run --label …`, `docker commit`), and a container can be renamed. An
//! attempt's name is always the same, and the engine gives it to one container only: who has the name
//! is the attempt. Where nobody has it, it was renamed, and the oldest is the attempt. The others are
//! copies: somebody started them, they are told as drift and removed like whatever else is too much.

use std::collections::BTreeMap;

use crate::node::instance::{Instance, Role};
use crate::node::memory::Memory;
use crate::node::pod_plan::{Action, Step};

/// A pod's containers, told apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sorted {
    pub own: Vec<Instance>,
    pub copies: Vec<Instance>,
}

/// Whether it has the name that its labels ask for, whatever the prefix.
pub fn is_named(instance: &Instance) -> bool {
    instance.name.ends_with(&instance.identity.engine_name(""))
}

/// The name that it lost, where it still shows the prefix of its installation's names.
pub fn lost_name(instance: &Instance, prefix: &str) -> Option<String> {
    (!is_named(instance)).then(|| instance.identity.engine_name(prefix))
}

/// Tells the containers of one pod apart.
pub fn sort(instances: Vec<Instance>) -> Sorted {
    let mut by_attempt: BTreeMap<(Role, String, u32), Vec<Instance>> = BTreeMap::new();
    for one in instances {
        let of = &one.identity;
        by_attempt.entry((of.role, of.container.clone(), of.attempt)).or_default().push(one);
    }
    let mut sorted = Sorted::default();
    for (_, mut all) in by_attempt {
        // Of two made at the same time, the same one at every look.
        all.sort_by(|a, b| {
            let key = |one: &Instance| (!is_named(one), one.created_at);
            key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
        });
        let mut all = all.into_iter();
        sorted.own.extend(all.next());
        sorted.copies.extend(all);
    }
    sorted
}

/// What is done about copies and lost names: a copy is removed, a name is given back. Nothing where
/// healing is off.
pub fn heal(own: &[Instance], copies: &[Instance], memory: &Memory, prefix: &str) -> Vec<Action> {
    if memory.report_only {
        return Vec::new();
    }
    let removals = copies.iter().filter(|copy| !memory.removing.contains(&copy.id));
    let removals = removals.map(|copy| Action {
        step: Step::Remove { id: copy.id.clone() },
        reason: "it carries the labels of a container that is another one".to_owned(),
    });
    let renames = own.iter().filter(|one| !memory.renaming.contains(&one.id));
    let renames = renames.filter_map(|one| {
        let name = lost_name(one, prefix)?;
        let reason = format!("it was renamed to {}", one.name);
        Some(Action { step: Step::Rename { id: one.id.clone(), name }, reason })
    });
    removals.chain(renames).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod_plan::tests::{at, instance, pod};
    use proptest::prelude::*;

    fn web(id: &str, named: bool, second: i64) -> Instance {
        let mut one = instance(&pod(serde_json::json!({})), Role::Container, "web", 0);
        let name = if named { one.identity.engine_name("ballast") } else { format!("x-{id}") };
        (one.id, one.name, one.created_at) = (id.into(), name, at(second));
        one
    }

    #[test]
    fn who_has_the_name_is_it_and_else_the_oldest() {
        let told = |all: Vec<Instance>| {
            let sorted = sort(all);
            let ids = |list: &[Instance]| list.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
            (ids(&sorted.own), ids(&sorted.copies))
        };
        let one = |id: &str| vec![id.to_owned()];
        let (own, copy) = (web("own", true, 5), web("copy", false, 9));
        assert_eq!(told(vec![copy.clone(), own.clone()]), (one("own"), one("copy")));
        // A copy that is older than the one that replaced a removed original.
        let old = web("old", false, 1);
        assert_eq!(told(vec![old.clone(), own.clone()]), (one("own"), one("old")));
        // Renamed behind our back: it is still the pod's.
        assert_eq!(told(vec![old.clone()]), (one("old"), vec![]));
        assert_eq!(told(vec![copy, old.clone()]), (one("old"), one("copy")));
        assert_eq!(lost_name(&old, "ballast").as_deref(), Some("ballast_web_p_n_u_0"));
        assert_eq!(lost_name(&own, "ballast"), None);
        // Another attempt and the sandbox are no copies.
        let mut next = web("next", true, 7);
        next.identity.attempt = 1;
        next.name = next.identity.engine_name("ballast");
        let sandbox = instance(&pod(serde_json::json!({})), Role::Sandbox, "", 0);
        assert_eq!(sort(vec![own, next, sandbox]).own.len(), 3);
    }

    #[test]
    fn copies_go_and_names_come_back_unless_healing_is_off() {
        let sorted =
            Sorted { own: vec![web("own", false, 1)], copies: vec![web("copy", false, 2)] };
        let mut memory = Memory::default();
        let steps = |memory: &Memory| {
            let all = heal(&sorted.own, &sorted.copies, memory, "ballast");
            all.into_iter().map(|action| action.step).collect::<Vec<_>>()
        };
        let rename = Step::Rename { id: "own".into(), name: "ballast_web_p_n_u_0".into() };
        assert_eq!(steps(&memory), [Step::Remove { id: "copy".into() }, rename.clone()]);
        memory.removing.insert("copy".into());
        assert_eq!(steps(&memory), [rename]);
        memory.renaming.insert("own".into());
        assert_eq!(steps(&memory), []);
        let off = Memory { report_only: true, ..Memory::default() };
        assert_eq!(steps(&off), []);
    }

    proptest! {
        #[test]
        fn one_an_attempt_and_nobody_is_lost(seed in proptest::collection::vec((0..3_u32, any::<bool>(), 0..4_i64), 0..8)) {
            let all: Vec<Instance> = seed.iter().enumerate().map(|(index, (attempt, named, second))| {
                let mut one = web(&index.to_string(), false, *second);
                one.identity.attempt = *attempt;
                if *named {
                    one.name = one.identity.engine_name("ballast");
                }
                one
            }).collect();
            let attempts: std::collections::BTreeSet<u32> = seed.iter().map(|(attempt, ..)| *attempt).collect();
            let sorted = sort(all.clone());
            prop_assert_eq!(sorted.own.len(), attempts.len());
            prop_assert_eq!(sorted.own.len() + sorted.copies.len(), all.len());
            let mut reversed = all;
            reversed.reverse();
            prop_assert_eq!(sort(reversed), sorted);
        }
    }
}
