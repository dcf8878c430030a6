//! Pure: which containers of a list the engine is asked about one by one.
//!
//! A list tells a container's life, name and address; its settings, exit and times take an inspect.
//! With two containers a pod that is 200 questions for 100 pods every 30 s, and events tell a change at
//! once. So a container of which the list says what is known already is looked at with every
//! tenth list only: what an event that was lost would have told is seen within five minutes.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::node::instance::{Instance, Life};

/// Lists until every container was looked at; each has its own turn among them.
const ROUNDS: u64 = 10;

/// Whether nothing more is asked about `seen`, which is as much as the list tells.
pub fn is_known(known: Option<&Instance>, seen: &Instance, round: u64) -> bool {
    known.is_some_and(|known| agrees(known, seen)) && !is_its_turn(&seen.id, round)
}

fn agrees(known: &Instance, seen: &Instance) -> bool {
    let same_end = known.life != Life::Exited || known.exit_code == seen.exit_code;
    known.life == seen.life
        && same_end
        && known.name == seen.name
        && known.identity == seen.identity
        && known.ip == seen.ip
        && known.joined == seen.joined
        // Its return to the network is waited for.
        && !known.is_detached
}

fn is_its_turn(id: &str, round: u64) -> bool {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish() % ROUNDS == round % ROUNDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::instance::Role;
    use crate::node::pod_plan::tests::{instance, pod};

    #[test]
    fn each_has_its_turn_once_in_ten_lists() {
        let pod = pod(serde_json::json!({}));
        let one = instance(&pod, Role::Sandbox, "", 0);
        let asked = |begin: u64| {
            (begin..begin + ROUNDS).filter(|round| !is_known(Some(&one), &one, *round)).count()
        };
        assert_eq!([asked(1), asked(7), asked(u64::MAX - ROUNDS)], [1, 1, 1]);
        assert!((0..ROUNDS).all(|round| !is_known(None, &one, round)), "not known at all");
    }

    #[test]
    fn whatever_a_list_tells_otherwise_is_looked_at() {
        let pod = pod(serde_json::json!({}));
        let known = instance(&pod, Role::Sandbox, "", 0);
        let changes: [fn(&mut Instance); 7] = [
            |one| one.life = Life::Paused,
            |one| one.life = Life::Exited,
            |one| one.name = "other".to_owned(),
            |one| one.ip = None,
            |one| one.joined = Some("other".to_owned()),
            |one| one.identity.attempt = 7,
            |one| one.identity.role = Role::Spare,
        ];
        for (place, change) in changes.iter().enumerate() {
            let mut seen = known.clone();
            change(&mut seen);
            assert!(!agrees(&known, &seen), "{place}");
        }
        assert!(agrees(&known, &known));
        let detached = Instance { is_detached: true, ..known.clone() };
        assert!(!agrees(&detached, &known));
        let ended = |code| Instance { life: Life::Exited, exit_code: code, ..known.clone() };
        assert!(agrees(&ended(3), &ended(3)) && !agrees(&ended(3), &ended(4)));
    }
}
