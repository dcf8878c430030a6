//! Pure: differences in the kernel's rules become what the ledger knows: one field a chain, of the
//! Service it belongs to, or of the Node where all services share it.
//!
//! Somebody who flushes everything touches every Service at once. The first
//! [`MOST_SERVICES`] are named each, the others are counted in a sentence on the Node: 5,000 Drifts
//! would say no more and cost as many writes.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::object::drift::{Class, DriftObject};
use crate::object::ledger::{Difference as Seen, Examined, Ledger, Response};
use crate::object::{Key, Kind};

use super::book::{Book, Owner};
use super::rule::ChainId;
use super::ruleset_check::Difference;

/// Services that one pass names.
pub const MOST_SERVICES: usize = 50;
/// Rules that one Drift shows.
const MOST_RULES: usize = 8;

/// What one full comparison found, ready for the ledger and for the healing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    pub examined: Vec<Examined>,
    /// Chains that must stay as they are: their Service is report-only, or they are fought over.
    pub leave: BTreeSet<ChainId>,
}

/// The node as Drifts name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName {
    pub name: String,
    pub uid: String,
}

#[derive(Default)]
struct Field {
    missing: Vec<String>,
    extra: Vec<String>,
    whole: Option<Class>,
    /// Paths in the Service's manifest.
    wanted_by: BTreeSet<String>,
}

/// Sorts differences by object and chain. `verified` is when the rules were last known to be right.
/// Objects of open Drifts that match again are among the examined, without differences, so that the
/// ledger closes them.
pub fn findings(
    differences: &[Difference],
    book: &Book,
    node: &NodeName,
    ledger: &Ledger,
    verified: Timestamp,
    now: Timestamp,
) -> Findings {
    let mut fields: BTreeMap<(Owner, ChainId), Field> = BTreeMap::new();
    for difference in differences {
        let field =
            fields.entry((owner(difference, book), difference.chain().clone())).or_default();
        note(difference, field);
        field.wanted_by.extend(book.wanted_by(difference.chain(), difference.rule()));
    }
    let cause =
        format!("changed by another program between {} and {}", clock(verified), clock(now));
    let mut by_object: BTreeMap<DriftObject, Examined> = BTreeMap::new();
    for drift in ledger.open() {
        let object = drift.spec.object.clone();
        by_object.insert(object.clone(), examined(object));
    }
    let mut healable: BTreeMap<&ChainId, bool> = BTreeMap::new();
    let mut unnamed = BTreeSet::new();
    let mut named = BTreeSet::new();
    for ((owner, chain), field) in &fields {
        let (object, heal) = object_of(owner, book, node);
        let name = chain.to_string();
        let may = heal && ledger.may_heal(&object, &name, now);
        *healable.entry(chain).or_default() |= may;
        if let Owner::Service(key) = owner {
            if named.len() >= MOST_SERVICES && !named.contains(key) {
                unnamed.insert(key);
                continue;
            }
            named.insert(key);
        }
        let response = if heal {
            Response::Heal
        } else {
            Response::Report("the Service has ballast.dev/heal: \"false\"".to_owned())
        };
        let entry = by_object.entry(object.clone()).or_insert_with(|| examined(object));
        entry.differences.push(seen(name, field, cause.clone(), response));
    }
    if !unnamed.is_empty() {
        let (object, _) = object_of(&Owner::Node, book, node);
        let field = Field {
            missing: vec![format!("the rules of {} more Services", unnamed.len())],
            ..Field::default()
        };
        let entry = by_object.entry(object.clone()).or_insert_with(|| examined(object));
        entry.differences.push(seen("services".to_owned(), &field, cause, Response::Heal));
    }
    let leave = healable.into_iter().filter(|(_, heal)| !heal).map(|(chain, _)| chain.clone());
    Findings { leave: leave.collect(), examined: by_object.into_values().collect() }
}

fn owner(difference: &Difference, book: &Book) -> Owner {
    match difference {
        Difference::RuleMissing { chain, rule } => book.rule_owner(chain, rule),
        other => book.owner(other.chain()),
    }
}

fn note(difference: &Difference, field: &mut Field) {
    match difference {
        Difference::ChainMissing { .. } => field.whole = Some(Class::Missing),
        Difference::ChainExtra { .. } => field.whole = Some(Class::Extra),
        Difference::RuleMissing { rule, .. } => field.missing.push(rule.to_string()),
        Difference::RuleExtra { rule, .. } => field.extra.push(rule.to_string()),
        Difference::RuleMoved { rule, .. } => {
            field.missing.push(rule.to_string());
            field.extra.push("the same rules in another order".to_owned());
        }
        Difference::JumpMissing { jump } => field.missing.push(jump.rule.to_string()),
        Difference::JumpNotFirst { jump } => {
            field.missing.push(format!("{} in front", jump.rule));
            field.extra.push("behind another rule, or twice".to_owned());
        }
        Difference::JumpExtra { jump } => field.extra.push(jump.rule.to_string()),
    }
}

fn object_of(owner: &Owner, book: &Book, node: &NodeName) -> (DriftObject, bool) {
    match owner {
        Owner::Service(key) => {
            let facts = book.service(key);
            let Key { namespace, name } = key.clone();
            let uid = facts.map(|facts| facts.uid.clone()).unwrap_or_default();
            let heal = facts.is_none_or(|facts| facts.heal);
            (DriftObject { kind: Kind::Service, namespace, name, uid }, heal)
        }
        Owner::Node => {
            let NodeName { name, uid } = node.clone();
            (DriftObject { kind: Kind::Node, namespace: String::new(), name, uid }, true)
        }
    }
}

/// The rules had been verified, so what differs now was changed: never progress.
fn examined(object: DriftObject) -> Examined {
    Examined { object, wanted_id: String::new(), converged_before: true, differences: Vec::new() }
}

fn seen(name: String, field: &Field, cause: String, response: Response) -> Seen {
    let class = field.whole.unwrap_or(match (field.missing.is_empty(), field.extra.is_empty()) {
        (false, true) => Class::Missing,
        (true, false) => Class::Extra,
        _ => Class::Changed,
    });
    let (wanted, actual) = match field.whole {
        Some(Class::Missing) => (Some("the chain".to_owned()), None),
        Some(_) => (None, Some("a chain that nothing wants".to_owned())),
        None => (text(&field.missing), text(&field.extra)),
    };
    Seen {
        class,
        field: name,
        wanted_by: wanted_by(&field.wanted_by),
        wanted,
        actual,
        origin: None,
        since: None,
        cause: Some(cause),
        deadline: None,
        under_way: false,
        response,
    }
}

/// Several ports at once are the list of them.
fn wanted_by(fields: &BTreeSet<String>) -> Option<String> {
    let first = fields.first()?;
    Some(if fields.len() == 1 { first.clone() } else { "spec.ports".to_owned() })
}

fn text(rules: &[String]) -> Option<String> {
    let more = rules.len().saturating_sub(MOST_RULES);
    let mut shown = rules[..rules.len() - more].to_vec();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    (!shown.is_empty()).then(|| shown.join("\n"))
}

/// `12:00:01Z`
fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::network::rule::Table;
    use crate::network::ruleset_check::check;
    use crate::network::scene;
    use crate::network::tables::Tables;
    use crate::object::drift::{Action, Layer};
    use crate::object::ledger::LedgerWrite;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("in range")
    }

    fn node() -> NodeName {
        NodeName { name: "n1".into(), uid: "nu".into() }
    }

    fn flushed(heal: bool) -> Findings {
        let mut book = scene::book(&[("web", &["10.42.0.4:8080"]), ("api", &["10.42.0.5:8080"])]);
        let key = Key::new("default", "web");
        let mut facts = book.service(&key).expect("it is in the scene").clone();
        facts.heal = heal;
        book.set_service(key, Some(facts));
        let wanted = book.ruleset().clone();
        let mut actual = Tables::of_ruleset(&wanted);
        let web = wanted
            .chains
            .keys()
            .find(|id| book.owner(id) == Owner::Service(Key::new("default", "web")));
        actual.chains.insert(web.expect("web has a chain").clone(), Arc::default());
        let differences = check(book.names(), &wanted, &actual);
        let ledger = Ledger::new(Layer::Network);
        findings(&differences, &book, &node(), &ledger, at(0), at(2))
    }

    #[test]
    fn a_flushed_chain_is_its_services_drift() {
        let found = flushed(true);
        let [examined] = found.examined.as_slice() else { panic!("one service: {found:?}") };
        assert_eq!((examined.object.kind, examined.object.name.as_str()), (Kind::Service, "web"));
        let [difference] = examined.differences.as_slice() else { panic!("one chain") };
        assert_eq!(difference.class, Class::Missing);
        assert!(difference.field.starts_with("nat/BALLAST-SVC-"));
        assert_eq!(difference.wanted_by.as_deref(), Some("spec.ports[80]"));
        assert_eq!(
            difference.wanted.as_deref(),
            Some("-p tcp -j DNAT --to-destination 10.42.0.4:8080")
        );
        assert!(difference.cause.as_deref().is_some_and(|cause| cause.contains("another program")));
        assert!(found.leave.is_empty());
        let mut ledger = Ledger::new(Layer::Network);
        let writes = ledger.observe(&found.examined, false, at(2));
        assert!(matches!(writes.as_slice(), [LedgerWrite::Put(drift)]
            if drift.status.as_ref().is_some_and(|status| status.action == Action::Healing)));
    }

    #[test]
    fn a_report_only_service_is_left_as_it_is() {
        let found = flushed(false);
        assert_eq!(found.leave.len(), 1);
        assert!(matches!(found.examined[0].differences[0].response, Response::Report(_)));
    }

    #[test]
    fn a_flush_of_everything_names_fifty_and_counts_the_rest() {
        let names: Vec<String> = (0..60).map(|number| format!("s{number}")).collect();
        let services: Vec<(&str, &[&str])> =
            names.iter().map(|name| (name.as_str(), &["10.42.0.4:8080"][..])).collect();
        let mut book = scene::book(&services);
        let wanted = book.ruleset().clone();
        let differences = check(book.names(), &wanted, &Tables::default());
        let ledger = Ledger::new(Layer::Network);
        let found = findings(&differences, &book, &node(), &ledger, at(0), at(2));
        let services = found.examined.iter().filter(|one| one.object.kind == Kind::Service).count();
        assert_eq!(services, MOST_SERVICES);
        let nodes = found.examined.iter().find(|one| one.object.kind == Kind::Node);
        let counted =
            nodes.expect("shared chains").differences.iter().find(|one| one.field == "services");
        assert_eq!(
            counted.and_then(|one| one.wanted.as_deref()),
            Some("the rules of 10 more Services")
        );
        assert!(wanted.chains.contains_key(&ChainId::new(Table::Nat, "BALLAST-SERVICES")));
    }
}
