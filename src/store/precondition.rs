//! Pure: whether a transaction may happen, and what each of its writes then does.
//!
//! Decides from the latest state and the transaction alone: expectations in the order of the writes,
//! each seeing the ones before it, and claims, which at most one object holds at the end. The first
//! write that fails refuses the whole transaction.

use std::collections::HashMap;

use super::transaction::{Expect, StoreError, Write};
use crate::object::{Key, Kind};

/// The latest state as far as preconditions ask.
pub(super) trait State {
    /// The revision of a stored object.
    fn revision(&self, kind: Kind, key: &Key) -> Option<u64>;
    /// Who holds a claim.
    fn holder(&self, claim: &str) -> Option<(Kind, &Key)>;
}

/// What a write does once the whole transaction is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Create,
    Update,
    Delete,
    /// A check: no revision.
    Nothing,
}

/// One effect a write, in order.
///
/// # Errors
/// The first write whose expectation fails, else the first whose claim does. Deleting what [`Expect::Absent`] expects to be
/// absent is [`StoreError::Missing`]: there is nothing to delete.
pub(super) fn plan(
    writes: &[Write],
    state: &impl State,
    next_revision: u64,
) -> Result<Vec<Effect>, StoreError> {
    let mut overlay = Overlay { state, objects: HashMap::new() };
    let mut revision = next_revision;
    let mut effects = Vec::with_capacity(writes.len());
    for (write, asked) in writes.iter().enumerate() {
        let (kind, key, expect) = match asked {
            Write::Put { kind, key, expect, .. }
            | Write::Delete { kind, key, expect }
            | Write::Check { kind, key, expect } => (*kind, key, *expect),
        };
        let current = overlay.revision(kind, key);
        meets(expect, current, write, kind, key)?;
        let effect = match (asked, current) {
            (Write::Check { .. }, _) => Effect::Nothing,
            (Write::Delete { .. }, None) => {
                return Err(StoreError::Missing { write, kind, key: key.clone() });
            }
            (Write::Delete { .. }, Some(_)) => Effect::Delete,
            (Write::Put { .. }, None) => Effect::Create,
            (Write::Put { .. }, Some(_)) => Effect::Update,
        };
        // The last write has no successor that could see it.
        if effect != Effect::Nothing && write + 1 < writes.len() {
            overlay.objects.insert((kind, key), (effect != Effect::Delete).then_some(revision));
        }
        revision += u64::from(effect != Effect::Nothing);
        effects.push(effect);
    }
    check_claims(writes, state)?;
    Ok(effects)
}

/// At most one object holds a claim when the transaction is over. Within it two may, whatever the
/// order: only so can two Services swap their ports, and nobody sees it half done. Of two that end
/// with the same claim, the one that is written first is told so.
fn check_claims(writes: &[Write], state: &impl State) -> Result<(), StoreError> {
    if writes.iter().all(|write| claims_of(write).is_empty()) {
        return Ok(());
    }
    let mut last: HashMap<(Kind, &Key), usize> = HashMap::new();
    for (write, asked) in writes.iter().enumerate() {
        if let Write::Put { kind, key, .. } | Write::Delete { kind, key, .. } = asked {
            last.insert((*kind, key), write);
        }
    }
    let mut holders: HashMap<&str, Vec<(Kind, &Key)>> = HashMap::new();
    for (write, asked) in writes.iter().enumerate() {
        if let Write::Put { kind, key, .. } = asked
            && last[&(*kind, key)] == write
        {
            for claim in claims_of(asked) {
                holders.entry(claim).or_default().push((*kind, key));
            }
        }
    }
    for (write, asked) in writes.iter().enumerate() {
        let Write::Put { kind, key, .. } = asked else { continue };
        let own = (*kind, key);
        for claim in claims_of(&writes[last[&own]]) {
            let untouched = state.holder(claim).filter(|holder| !last.contains_key(holder));
            let mut all = holders[claim.as_str()].iter().copied().chain(untouched);
            if let Some((holder_kind, holder)) = all.find(|holder| *holder != own) {
                let (claim, holder) = (claim.clone(), holder.clone());
                return Err(StoreError::Claimed { write, claim, holder_kind, holder });
            }
        }
    }
    Ok(())
}

fn claims_of(write: &Write) -> &[String] {
    match write {
        Write::Put { header, .. } => &header.claims,
        Write::Delete { .. } | Write::Check { .. } => &[],
    }
}

fn meets(
    expect: Expect,
    current: Option<u64>,
    write: usize,
    kind: Kind,
    key: &Key,
) -> Result<(), StoreError> {
    match (expect, current) {
        (Expect::Absent, None) | (Expect::Present, Some(_)) => Ok(()),
        (Expect::Revision(wanted), Some(current)) if wanted == current => Ok(()),
        (Expect::Absent, Some(_)) => Err(StoreError::Exists { write, kind, key: key.clone() }),
        (Expect::Present | Expect::Revision(_), None) => {
            Err(StoreError::Missing { write, kind, key: key.clone() })
        }
        (Expect::Revision(_), Some(current)) => {
            Err(StoreError::Stale { write, kind, key: key.clone(), current })
        }
    }
}

/// The state as the earlier writes of the transaction leave it.
struct Overlay<'a, S> {
    state: &'a S,
    /// The revision; `None`: deleted.
    objects: HashMap<(Kind, &'a Key), Option<u64>>,
}

impl<'a, S: State> Overlay<'a, S> {
    fn revision(&self, kind: Kind, key: &'a Key) -> Option<u64> {
        match self.objects.get(&(kind, key)) {
            Some(entered) => *entered,
            None => self.state.revision(kind, key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::{Draft, Header};
    use super::*;

    #[derive(Default)]
    struct Dull(Vec<(Kind, Key, u64, Vec<String>)>);

    impl State for Dull {
        fn revision(&self, kind: Kind, key: &Key) -> Option<u64> {
            self.0.iter().find(|(k, name, ..)| *k == kind && name == key).map(|found| found.2)
        }

        fn holder(&self, claim: &str) -> Option<(Kind, &Key)> {
            let found = self.0.iter().find(|(.., claims)| claims.iter().any(|c| c == claim))?;
            Some((found.0, &found.1))
        }
    }

    fn put(name: &str, expect: Expect, claims: &[&str]) -> Write {
        let claims = claims.iter().map(|&claim| claim.to_owned()).collect();
        Write::Put {
            kind: Kind::Service,
            key: Key::new("default", name),
            expect,
            draft: Draft { json: Vec::new(), revision_at: 0 },
            header: Header { claims, ..Header::default() },
        }
    }

    fn delete(name: &str, expect: Expect) -> Write {
        Write::Delete { kind: Kind::Service, key: Key::new("default", name), expect }
    }

    fn check(name: &str, expect: Expect) -> Write {
        Write::Check { kind: Kind::Service, key: Key::new("default", name), expect }
    }

    fn stored() -> Dull {
        let claims = vec!["clusterip/10.43.0.5".to_owned()];
        Dull(vec![(Kind::Service, Key::new("default", "web"), 7, claims)])
    }

    #[test]
    fn each_expectation_has_its_refusal() {
        let refusal = |write| plan(&[write], &stored(), 8).map_err(|error| error.to_string());
        assert_eq!(refusal(put("web", Expect::Revision(7), &[])), Ok(vec![Effect::Update]));
        assert_eq!(refusal(put("new", Expect::Absent, &[])), Ok(vec![Effect::Create]));
        assert_eq!(refusal(delete("web", Expect::Present)), Ok(vec![Effect::Delete]));
        assert_eq!(refusal(check("web", Expect::Present)), Ok(vec![Effect::Nothing]));
        let cases = [
            (put("web", Expect::Absent, &[]), "Service default/web exists already"),
            (put("web", Expect::Revision(6), &[]), "Service default/web is at revision 7"),
            (put("new", Expect::Revision(6), &[]), "Service default/new does not exist"),
            (delete("new", Expect::Absent), "Service default/new does not exist"),
            (check("new", Expect::Present), "Service default/new does not exist"),
        ];
        for (write, sentence) in cases {
            assert_eq!(refusal(write), Err(sentence.to_owned()));
        }
    }

    #[test]
    fn later_writes_see_earlier_ones() {
        let writes = [
            put("a", Expect::Absent, &[]),
            put("a", Expect::Revision(8), &[]),
            delete("a", Expect::Revision(9)),
            put("a", Expect::Absent, &[]),
            check("a", Expect::Revision(11)),
        ];
        let effects = plan(&writes, &stored(), 8).expect("allowed");
        let wanted =
            [Effect::Create, Effect::Update, Effect::Delete, Effect::Create, Effect::Nothing];
        assert_eq!(effects, wanted);
    }

    #[test]
    fn a_claim_has_one_holder_at_the_end() {
        let address = "clusterip/10.43.0.5";
        let refused = plan(&[put("b", Expect::Absent, &[address])], &stored(), 8);
        assert!(
            matches!(refused, Err(StoreError::Claimed { write: 0, holder, .. }) if holder.name == "web")
        );
        let handed_over = [
            put("b", Expect::Absent, &[address]),
            put("web", Expect::Present, &[]),
            put("c", Expect::Absent, &[address]),
        ];
        assert!(plan(&handed_over[..2], &stored(), 8).is_ok(), "whatever the order");
        let twice = plan(&handed_over, &stored(), 8);
        assert!(
            matches!(twice, Err(StoreError::Claimed { write: 0, holder, .. }) if holder.name == "c")
        );
        let keeps = [put("web", Expect::Present, &[address]), delete("web", Expect::Present)];
        assert!(plan(&keeps, &stored(), 8).is_ok());
        let kept = [put("b", Expect::Absent, &[address]), put("web", Expect::Present, &[address])];
        assert!(matches!(plan(&kept, &stored(), 8), Err(StoreError::Claimed { write: 0, .. })));
        let swapped = [
            put("web", Expect::Present, &["nodeport/tcp/30080"]),
            put("b", Expect::Absent, &["nodeport/tcp/30080"]),
            put("b", Expect::Present, &[address]),
        ];
        assert!(plan(&swapped, &stored(), 8).is_ok());
    }
}
