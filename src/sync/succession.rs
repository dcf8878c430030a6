//! Pure: what becomes of the sources of earlier runs that the configuration names no more.
//!
//! A source of another name with the same address, branch and path is the same source, renamed: the
//! new name takes over what the old one put into the store. Any other can be taken over by name
//! (`formerly`); what its heir's commit does not have then leaves, past the same guard as any other
//! removal. What nobody takes over runs on, and its Source says so: a line that went missing from a
//! configuration file must not end a workload.

use std::collections::BTreeSet;

use crate::object::inventory::InventoryEntry;
use crate::object::source::{Source, SourceStatus};
use crate::object::{Key, Kind};
use crate::sync::source::SourceConfig;

/// The configured source that takes over a stored one. Between two, the one that names it, then the
/// first.
pub fn heir<'a>(stored: &Source, configured: &'a [SourceConfig]) -> Option<&'a SourceConfig> {
    if is_configured(stored, configured) {
        return None;
    }
    let name = stored.metadata.name.as_deref().unwrap_or_default();
    let named = configured.iter().find(|source| source.formerly.iter().any(|old| old == name));
    let same = |source: &&SourceConfig| {
        (source.url.as_text(), &source.branch, &source.path)
            == (stored.spec.url.clone(), &stored.spec.branch, &stored.spec.path)
    };
    named.or_else(|| configured.iter().find(same))
}

/// Whether nobody follows a stored source, and nobody takes it over.
pub fn is_left_behind(stored: &Source, configured: &[SourceConfig]) -> bool {
    !is_configured(stored, configured) && heir(stored, configured).is_none()
}

fn is_configured(stored: &Source, configured: &[SourceConfig]) -> bool {
    configured.iter().any(|source| Some(&source.name) == stored.metadata.name.as_ref())
}

/// The heir's status and inventory with those of an earlier source. Again changes nothing, so that a
/// take-over that was cut short is simply done again.
///
/// Until a commit of the heir has entered, the store holds what the earlier source's last one says.
pub fn inherit(
    status: &mut SourceStatus,
    inventory: &mut Vec<InventoryEntry>,
    earlier: &Source,
    objects: Vec<InventoryEntry>,
) {
    let name = earlier.metadata.name.clone().unwrap_or_default();
    if !status.formerly.contains(&name) {
        status.formerly.push(name);
    }
    if status.applied.is_none() {
        status.applied = earlier.status.as_ref().and_then(|status| status.applied.clone());
    }
    let known: BTreeSet<(Kind, Key)> =
        inventory.iter().map(|entry| (entry.kind, entry.key())).collect();
    let new = objects.into_iter().filter(|entry| !known.contains(&(entry.kind, entry.key())));
    inventory.extend(new);
}

/// What the Source says that nobody follows.
pub fn left_behind(objects: usize) -> String {
    format!(
        "no source of this name is configured any more: its {objects} objects run on, and nothing compares them; to keep or remove them, name it under formerly of the source that takes them over (what that one's commit does not have is removed), or follow it again"
    )
}

#[cfg(test)]
mod tests {
    use crate::object::source::SourceSpec;
    use crate::sync::access::Access;
    use crate::sync::source::SourceUrl;

    use super::*;

    fn stored(name: &str, url: &str) -> Source {
        let spec = SourceSpec {
            url: url.into(),
            branch: "main".into(),
            path: ".".into(),
            poll_seconds: 60,
        };
        let mut source = Source { spec, ..Source::default() };
        source.metadata.name = Some(name.into());
        source
    }

    fn configured(name: &str, url: &str, formerly: &[&str]) -> SourceConfig {
        SourceConfig {
            name: name.into(),
            url: SourceUrl::parse(url).expect("a path"),
            branch: "main".into(),
            path: ".".into(),
            poll_seconds: 60,
            access: Access::default(),
            formerly: formerly.iter().map(|&name| name.into()).collect(),
        }
    }

    #[test]
    fn the_heir_is_who_names_it_or_is_the_same_by_another_name() {
        let all = [
            configured("web", "/srv/web", &[]),
            configured("shop", "/srv/shop", &["old"]),
            configured("copy", "/srv/shop", &["moved"]),
        ];
        let heir_of = |name: &str, url: &str| {
            heir(&stored(name, url), &all).map(|source| source.name.as_str())
        };
        assert_eq!(heir_of("main", "/srv/web"), Some("web"));
        assert_eq!(heir_of("main", "/srv/shop"), Some("shop"));
        assert_eq!(heir_of("moved", "/srv/web"), Some("copy"));
        assert_eq!(heir_of("shop", "/srv/web"), None, "it is configured itself");
        assert_eq!(heir_of("main", "/srv/other"), None);
        assert!(is_left_behind(&stored("main", "/srv/other"), &all));
        assert!(!is_left_behind(&stored("main", "/srv/web"), &all));
        assert!(!is_left_behind(&stored("web", "/srv/else"), &all));
    }

    #[test]
    fn a_take_over_that_is_done_twice_is_one() {
        let entry = |name: &str, uid: &str| InventoryEntry {
            kind: Kind::ConfigMap,
            namespace: "default".into(),
            name: name.into(),
            uid: uid.into(),
            file: "a.yaml".into(),
            line: 1,
            labels: vec![],
            annotations: vec![],
            lines: std::collections::BTreeMap::new(),
        };
        let mut status = SourceStatus::default();
        let mut inventory = vec![entry("a", "own")];
        for _ in 0..2 {
            let objects = vec![entry("a", "theirs"), entry("b", "theirs")];
            inherit(&mut status, &mut inventory, &stored("main", "/srv/web"), objects);
        }
        assert_eq!(status.formerly, ["main"]);
        assert_eq!(inventory, [entry("a", "own"), entry("b", "theirs")]);
    }
}
