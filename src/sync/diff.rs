//! Pure: from what a commit wants, what the last one put in, and what is there, to the plan: which
//! objects enter, which leave, and whether somebody must confirm it first.
//!
//! Only what this source owns is ever removed: its inventory says that it put an object of that name
//! in, and the live one must name this source, in the annotation that every object of a commit
//! carries (also one that was put back, under another uid). Where somebody took the annotation away,
//! the uid decides instead. What is left alone is left with the reason.
//!
//! The guard: a commit that leaves nothing of the inventory, or that removes more than half of more
//! than [`GUARD_ABOVE`] objects, or that removes a namespace in which others live, is held until
//! `.ballast.yaml` confirms this one step by naming the commit that is applied now. Namespaces count
//! with everything that goes with them.

use std::collections::{BTreeMap, BTreeSet};

use crate::object::inventory::InventoryEntry;
use crate::object::source::Problem;
use crate::object::{Key, Kind};
use crate::sync::manifest::Manifest;
use crate::sync::order;
use crate::sync::render::ObjectSet;

/// Up to ten objects, removing most of them is a normal change.
pub const GUARD_ABOVE: usize = 10;
/// Names shown for a held commit.
pub const SHOWN_REMOVALS: usize = 100;

/// What is there, as far as the plan depends on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The full id of the commit that the store holds.
    pub applied: Option<String>,
    /// Earlier sources that this one took over.
    pub formerly: Vec<String>,
    pub inventory: Vec<InventoryEntry>,
    /// The live objects behind the inventory and the wanted ones; absent is gone.
    pub live: BTreeMap<(Kind, Key), Live>,
    /// For each namespace of the inventory: what lives in it and is not in the inventory.
    pub guests: BTreeMap<String, Vec<String>>,
}

/// Who an object is and whom it names as its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub uid: String,
    /// The annotation `ballast.dev/source`.
    pub source: Option<String>,
    /// Being deleted already.
    pub deleting: bool,
}

/// What one commit is going to change. The doer has no choice left.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SyncPlan {
    /// Entering objects first, in order; then the leaving ones.
    pub steps: Vec<Step>,
    /// Inventory that is given up without touching an object, with the reason.
    pub left_alone: Vec<String>,
    pub problems: Vec<Problem>,
    /// Nothing happens until somebody confirms.
    pub hold: Option<Hold>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Apply {
        manifest: Manifest,
        previous_labels: Vec<String>,
        previous_annotations: Vec<String>,
        adopt: bool,
        reason: &'static str,
    },
    Prune {
        entry: InventoryEntry,
        /// The incarnation that is removed.
        uid: String,
        reason: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reason: String,
    pub removes: Vec<String>,
}

/// Decides what the commit changes.
pub fn plan(source: &str, wanted: &ObjectSet, observed: &Observed) -> SyncPlan {
    let wanted_ids: BTreeSet<(Kind, Key)> =
        wanted.objects.iter().map(|manifest| (manifest.kind, manifest.key.clone())).collect();
    let known: BTreeMap<(Kind, Key), &InventoryEntry> =
        observed.inventory.iter().map(|entry| ((entry.kind, entry.key()), entry)).collect();

    let mut plan = SyncPlan::default();
    for manifest in &wanted.objects {
        plan.steps.push(enter(manifest, &known, observed));
    }
    let mut leaving: Vec<&InventoryEntry> = observed
        .inventory
        .iter()
        .filter(|entry| !wanted_ids.contains(&(entry.kind, entry.key())))
        .collect();
    order::sort_for_prune(&mut leaving, |entry| (entry.kind, entry.key()));
    for entry in leaving {
        match leave(source, entry, observed) {
            Ok(step) => plan.steps.push(step),
            Err(reason) => plan.left_alone.push(reason),
        }
    }
    homeless(wanted, &mut plan);
    plan.hold = hold(wanted, observed, &plan.steps);
    plan
}

fn enter(
    manifest: &Manifest,
    known: &BTreeMap<(Kind, Key), &InventoryEntry>,
    observed: &Observed,
) -> Step {
    let id = (manifest.kind, manifest.key.clone());
    let live = observed.live.get(&id);
    let before = known.get(&id);
    // We made this incarnation, and somebody took our annotation away: it is still ours. And a
    // namespace that names no source (`default` is there before any commit) can be declared.
    let same = before.zip(live).is_some_and(|(entry, live)| entry.uid == live.uid);
    let free = manifest.kind == Kind::Namespace && live.is_some_and(|live| live.source.is_none());
    Step::Apply {
        manifest: manifest.clone(),
        previous_labels: before.map(|entry| entry.labels.clone()).unwrap_or_default(),
        previous_annotations: before.map(|entry| entry.annotations.clone()).unwrap_or_default(),
        adopt: same || free,
        reason: match (before, live) {
            (_, None) => "in the commit, not in the store",
            (Some(_), Some(_)) => "in the commit and in the last one",
            (None, Some(_)) => "in the commit, and in the store already",
        },
    }
}

fn leave(source: &str, entry: &InventoryEntry, observed: &Observed) -> Result<Step, String> {
    let title = format!("{} {}", entry.kind, entry.key());
    let Some(live) = observed.live.get(&(entry.kind, entry.key())) else {
        return Err(format!("{title} left the commit and is gone already"));
    };
    if live.deleting {
        return Err(format!("{title} left the commit and is being deleted already"));
    }
    match &live.source {
        Some(owner) if owner == source || observed.formerly.contains(owner) => Ok(Step::Prune {
            entry: entry.clone(),
            uid: live.uid.clone(),
            reason: format!("left the commit (was {}:{})", entry.file, entry.line),
        }),
        Some(owner) => Err(format!("{title} left the commit, but belongs to source {owner} now")),
        None if entry.uid == live.uid => Ok(Step::Prune {
            entry: entry.clone(),
            uid: live.uid.clone(),
            reason: format!("left the commit (was {}:{})", entry.file, entry.line),
        }),
        None => Err(format!(
            "{title} left the commit, but another object has its name now, and names no source"
        )),
    }
}

fn pruned_namespaces(steps: &[Step]) -> BTreeSet<&str> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::Prune { entry, .. } if entry.kind == Kind::Namespace => Some(entry.name.as_str()),
            _ => None,
        })
        .collect()
}

/// A namespace takes everything in it along: an object that the same commit wants in it would be
/// created and torn down for ever.
fn homeless(wanted: &ObjectSet, plan: &mut SyncPlan) {
    let leaving = pruned_namespaces(&plan.steps);
    let problems = wanted
        .objects
        .iter()
        .filter(|manifest| leaving.contains(manifest.key.namespace.as_str()))
        .map(|manifest| {
            let mut problem = manifest.problem(
                "metadata.namespace",
                format!(
                    "Namespace {} left the commit, and this object is still in it",
                    manifest.key.namespace
                ),
            );
            "keep the Namespace's manifest, or move the object".clone_into(&mut problem.hint);
            problem
        })
        .collect();
    plan.problems = problems;
}

fn hold(wanted: &ObjectSet, observed: &Observed, steps: &[Step]) -> Option<Hold> {
    let mut removes: Vec<String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Prune { entry, .. } => Some(format!("{} {}", entry.kind, entry.key())),
            Step::Apply { .. } => None,
        })
        .collect();
    if removes.is_empty() {
        return None;
    }
    let guests: Vec<String> = pruned_namespaces(steps)
        .into_iter()
        .flat_map(|namespace| observed.guests.get(namespace).into_iter().flatten().cloned())
        .collect();
    let (own, before) = (removes.len(), observed.inventory.len());
    let why = if wanted.objects.is_empty() {
        format!("the commit holds no manifest any more: it removes all {own} objects")
    } else if !guests.is_empty() {
        let count = guests.len();
        format!("the commit removes a namespace in which {count} objects live that are not its own")
    } else if before > GUARD_ABOVE && 2 * own > before {
        format!("the commit removes {own} of {before} objects")
    } else {
        return None;
    };
    let applied = observed.applied.as_deref().unwrap_or_default();
    if !applied.is_empty() && wanted.settings.confirm_prune.as_deref() == Some(applied) {
        return None;
    }
    let stale = match &wanted.settings.confirm_prune {
        Some(other) => format!(" (.ballast.yaml confirms for {other}, which is not applied now)"),
        None => String::new(),
    };
    removes.extend(guests);
    removes.truncate(SHOWN_REMOVALS);
    Some(Hold {
        reason: format!(
            "{why}{stale}; to confirm this one step, commit a file .ballast.yaml with confirmPrune: \"{applied}\" into the source's path; to undo it, restore the files"
        ),
        removes,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sync::manifest::parse;
    use crate::sync::render::{Settings, render};
    use crate::sync::source::SourceFile;

    const APPLIED: &str = "1111111111111111111111111111111111111111";

    fn set(names: &[&str]) -> ObjectSet {
        let text: String = names.iter().map(|name| config(name)).collect();
        let file = SourceFile {
            path: "a.yaml".into(),
            blob: String::new(),
            bytes: text.as_bytes().into(),
        };
        let (set, problems) = render(&[Arc::new(parse(&file))], None);
        assert_eq!(problems, vec![]);
        set
    }

    fn config(name: &str) -> String {
        match name.strip_prefix("ns:") {
            Some(name) => {
                format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
            }
            None => {
                let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
                format!(
                    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
                )
            }
        }
    }

    /// As if `names` had been applied from source `s`.
    fn observed(names: &[&str]) -> Observed {
        let mut observed = Observed { applied: Some(APPLIED.into()), ..Observed::default() };
        for manifest in set(names).objects {
            let uid = format!("uid-{}", manifest.key.name);
            observed.inventory.push(InventoryEntry {
                kind: manifest.kind,
                namespace: manifest.key.namespace.clone(),
                name: manifest.key.name.clone(),
                uid: uid.clone(),
                file: "a.yaml".into(),
                line: manifest.line(),
                labels: vec![],
                annotations: vec![],
                lines: BTreeMap::new(),
            });
            let live = Live { uid, source: Some("s".into()), deleting: false };
            observed.live.insert((manifest.kind, manifest.key), live);
        }
        observed
    }

    fn pruned(plan: &SyncPlan) -> Vec<String> {
        plan.steps
            .iter()
            .filter_map(|step| match step {
                Step::Prune { entry, .. } => Some(entry.name.clone()),
                Step::Apply { .. } => None,
            })
            .collect()
    }

    #[test]
    fn what_left_the_commit_is_pruned_and_nothing_else() {
        let plan = plan("s", &set(&["a", "c"]), &observed(&["a", "b"]));
        assert_eq!(pruned(&plan), ["b"]);
        assert_eq!(plan.steps.len(), 3);
        assert_eq!(plan.hold, None);
    }

    #[test]
    fn only_our_incarnation_is_removed() {
        type Case = (&'static str, fn(&mut Observed));
        let cases: [Case; 4] = [
            ("another object has its name now, and names no source", |observed| {
                let stranger = Live { uid: "other".into(), ..Live::default() };
                *live_mut(observed, "b") = stranger;
            }),
            ("belongs to source t now", |observed| {
                live_mut(observed, "b").source = Some("t".into())
            }),
            ("is being deleted already", |observed| live_mut(observed, "b").deleting = true),
            ("is gone already", |observed| {
                observed.live.remove(&(Kind::ConfigMap, Key::new("default", "b")));
            }),
        ];
        for (reason, change) in cases {
            let mut observed = observed(&["a", "b"]);
            change(&mut observed);
            let plan = plan("s", &set(&["a"]), &observed);
            assert_eq!(pruned(&plan), Vec::<String>::new());
            assert!(plan.left_alone[0].contains(reason), "{:?}", plan.left_alone);
        }
    }

    #[test]
    fn an_object_that_was_put_back_is_ours_by_its_annotation_and_one_without_by_its_uid() {
        let changes: [fn(&mut Live); 2] =
            [|live| live.uid = "other".into(), |live| live.source = None];
        for change in changes {
            let mut observed = observed(&["a", "b"]);
            change(live_mut(&mut observed, "b"));
            let plan = plan("s", &set(&["a"]), &observed);
            assert_eq!(pruned(&plan), ["b"]);
            let uid = live_mut(&mut observed, "b").uid.clone();
            assert!(
                plan.steps.iter().any(
                    |step| matches!(step, Step::Prune { uid: removed, .. } if *removed == uid)
                )
            );
        }
    }

    fn live_mut<'a>(observed: &'a mut Observed, name: &str) -> &'a mut Live {
        observed.live.get_mut(&(Kind::ConfigMap, Key::new("default", name))).expect("there")
    }

    const ELEVEN: [&str; 11] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"];

    #[test]
    fn more_than_half_of_more_than_ten_is_held_until_confirmed() {
        let half = plan("s", &set(&ELEVEN[..6]), &observed(&ELEVEN));
        assert_eq!(half.hold, None);
        let mut most = set(&ELEVEN[..5]);
        let hold = plan("s", &most, &observed(&ELEVEN)).hold.expect("6 of 11 leave");
        assert!(hold.reason.starts_with("the commit removes 6 of 11 objects;"), "{}", hold.reason);
        assert!(hold.reason.contains(APPLIED));
        assert_eq!(hold.removes.len(), 6);

        most.settings = Settings { confirm_prune: Some("2".repeat(40)) };
        let stale = plan("s", &most, &observed(&ELEVEN)).hold.expect("stale confirms nothing");
        assert!(stale.reason.contains("which is not applied now"));
        most.settings = Settings { confirm_prune: Some(APPLIED.into()) };
        assert_eq!(plan("s", &most, &observed(&ELEVEN)).hold, None);
        // Ten objects are few: no guard but the emptied repository.
        assert_eq!(plan("s", &set(&ELEVEN[..1]), &observed(&ELEVEN[..10])).hold, None);
    }

    #[test]
    fn an_emptied_repository_is_held_however_small() {
        let hold = plan("s", &set(&[]), &observed(&["a"])).hold.expect("all leave");
        assert_eq!(hold.removes, ["ConfigMap default/a"]);
        assert_eq!(plan("s", &set(&[]), &Observed::default()).hold, None);
    }

    #[test]
    fn a_namespace_counts_with_everything_in_it() {
        let before = ["ns:web", "web/a", "web/b", "z"];
        let gone = plan("s", &set(&["z"]), &observed(&before));
        assert_eq!((pruned(&gone), gone.hold), (vec!["b".into(), "a".into(), "web".into()], None));

        let mut with_guests = observed(&before);
        with_guests.guests.insert("web".into(), vec!["Deployment web/other".into()]);
        let hold = plan("s", &set(&["z"]), &with_guests).hold.expect("somebody else lives there");
        assert!(hold.removes.contains(&"Deployment web/other".to_owned()));

        let homeless = plan("s", &set(&["z", "web/a"]), &observed(&before));
        assert_eq!(
            homeless.problems[0].message,
            "Namespace web left the commit, and this object is still in it"
        );
    }

    #[test]
    fn an_object_that_moves_between_files_is_not_touched() {
        let moved = plan("s", &set(&["b", "a"]), &observed(&["a", "b"]));
        assert_eq!(pruned(&moved), Vec::<String>::new());
    }
}
