//! Pure: whether a transaction may happen, and what each of its writes then does.
//!
//! Decides from the latest state and the transaction alone: expectations in the order of the writes,
//! each seeing the ones before it, and claims, which at most one object holds at any step. The first
//! write that fails refuses the whole transaction.

use std::collections::HashMap;

use super::transaction::{Expect, StoreError, Write};
use crate::object::{Key, Kind};

/// The revision and the claims of an object.
pub(super) type Stored<'a> = (u64, &'a [String]);

/// The latest state as far as preconditions ask.
pub(super) trait State {
    /// A stored object.
    fn stored(&self, kind: Kind, key: &Key) -> Option<Stored<'_>>;
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
/// The first write whose expectation or claim fails. Deleting what [`Expect::Absent`] expects to be
/// absent is [`StoreError::Missing`]: there is nothing to delete.
pub(super) fn plan(
    writes: &[Write],
    state: &impl State,
    next_revision: u64,
) -> Result<Vec<Effect>, StoreError> {
    let mut overlay = Overlay { state, objects: HashMap::new(), claims: HashMap::new() };
    let mut revision = next_revision;
    let mut effects = Vec::with_capacity(writes.len());
    for (write, asked) in writes.iter().enumerate() {
        let (kind, key, expect) = match asked {
            Write::Put { kind, key, expect, .. }
            | Write::Delete { kind, key, expect }
            | Write::Check { kind, key, expect } => (*kind, key, *expect),
        };
        let current = overlay.stored(kind, key);
        meets(expect, current.map(|(revision, _)| revision), write, kind, key)?;
        let effect = match (asked, current) {
            (Write::Check { .. }, _) => Effect::Nothing,
            (Write::Delete { .. }, None) => {
                return Err(StoreError::Missing { write, kind, key: key.clone() });
            }
            (Write::Delete { .. }, Some(_)) => Effect::Delete,
            (Write::Put { .. }, None) => Effect::Create,
            (Write::Put { .. }, Some(_)) => Effect::Update,
        };
        let claims = match asked {
            Write::Put { header, .. } => header.claims.as_slice(),
            Write::Delete { .. } | Write::Check { .. } => &[],
        };
        for claim in claims {
            if let Some((holder_kind, holder)) = overlay.holder(claim)
                && (holder_kind, holder) != (kind, key)
            {
                let holder = holder.clone();
                return Err(StoreError::Claimed {
                    write,
                    claim: claim.clone(),
                    holder_kind,
                    holder,
                });
            }
        }
        // The last write has no successor that could see it.
        if effect != Effect::Nothing && write + 1 < writes.len() {
            overlay.enter(kind, key, (effect != Effect::Delete).then_some((revision, claims)));
        }
        revision += u64::from(effect != Effect::Nothing);
        effects.push(effect);
    }
    Ok(effects)
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
    /// `None`: deleted.
    objects: HashMap<(Kind, &'a Key), Option<Stored<'a>>>,
    /// `None`: given up.
    claims: HashMap<&'a str, Option<(Kind, &'a Key)>>,
}

impl<'a, S: State> Overlay<'a, S> {
    fn stored(&self, kind: Kind, key: &'a Key) -> Option<Stored<'a>> {
        match self.objects.get(&(kind, key)) {
            Some(entered) => *entered,
            None => self.state.stored(kind, key),
        }
    }

    fn holder(&self, claim: &str) -> Option<(Kind, &'a Key)> {
        match self.claims.get(claim) {
            Some(entered) => *entered,
            None => self.state.holder(claim),
        }
    }

    fn enter(&mut self, kind: Kind, key: &'a Key, object: Option<Stored<'a>>) {
        for given_up in self.stored(kind, key).map_or(&[][..], |(_, claims)| claims) {
            self.claims.insert(given_up, None);
        }
        for taken in object.map_or(&[][..], |(_, claims)| claims) {
            self.claims.insert(taken, Some((kind, key)));
        }
        self.objects.insert((kind, key), object);
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::{Draft, Header};
    use super::*;

    #[derive(Default)]
    struct Dull(Vec<(Kind, Key, u64, Vec<String>)>);

    impl State for Dull {
        fn stored(&self, kind: Kind, key: &Key) -> Option<Stored<'_>> {
            let found = self.0.iter().find(|(k, name, ..)| *k == kind && name == key)?;
            Some((found.2, &found.3))
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
    fn a_claim_has_one_holder_at_every_step() {
        let address = "clusterip/10.43.0.5";
        let refused = plan(&[put("b", Expect::Absent, &[address])], &stored(), 8);
        assert!(
            matches!(refused, Err(StoreError::Claimed { write: 0, holder, .. }) if holder.name == "web")
        );
        let handed_over = [
            put("web", Expect::Present, &[]),
            put("b", Expect::Absent, &[address]),
            put("c", Expect::Absent, &[address]),
        ];
        assert!(plan(&handed_over[..2], &stored(), 8).is_ok());
        let twice = plan(&handed_over, &stored(), 8);
        assert!(
            matches!(twice, Err(StoreError::Claimed { write: 2, holder, .. }) if holder.name == "b")
        );
        let keeps = [put("web", Expect::Present, &[address]), delete("web", Expect::Present)];
        assert!(plan(&keeps, &stored(), 8).is_ok());
    }
}
