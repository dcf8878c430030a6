//! A watch that is late, kind by kind. What is decided on a stale cache is refused or waits: nothing
//! is made twice, and nothing for an owner that is gone.

use std::collections::BTreeMap;

use ballast::object::Kind;

use super::crashes::{disturbed, reference};
use super::effects::Effects;
use super::fault::Schedule;

/// How many objects of each kind were created, as a log tells; Drifts aside, which tell of delays.
fn creations(log: &[String]) -> BTreeMap<String, usize> {
    let mut creations = BTreeMap::new();
    for line in log {
        let created = line.split("create ").nth(1).filter(|_| line.contains(" store: "));
        let kind = created.and_then(|what| what.split(' ').next());
        if let Some(kind) = kind.filter(|kind| *kind != Kind::Drift.row().name) {
            *creations.entry(kind.to_owned()).or_default() += 1;
        }
    }
    creations
}

fn with_late(kind: Kind) -> Result<(), String> {
    let reference = reference();
    let effects = Effects::with_faults(u64::MAX, Schedule::late(kind));
    disturbed(0, std::slice::from_ref(&effects), reference)
        .map_err(|why| format!("{kind} late: {why}"))?;
    let log = effects.log();
    let (is, wanted) = (creations(&log), creations(&reference.log));
    if is != wanted {
        let log = log.join("\n");
        return Err(format!("{kind} late: created {is:?}, wanted {wanted:?}\n{log}"));
    }
    Ok(())
}

#[test]
fn whatever_kind_is_seen_late_nothing_is_made_twice() {
    let failures: Vec<String> = Kind::all().filter_map(|kind| with_late(kind).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
