//! The dull model: the log of all committed transactions, what a watch is about, and what a watcher
//! noted of it. Nothing here knows how the store does its work.

use std::collections::BTreeMap;

use ballast::object::{Key, Kind};

/// What a selector can see of an object; empty is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub app: String,
    pub node: String,
}

/// One write of a transaction that was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    pub revision: u64,
    /// The revision that ends its transaction.
    pub end: u64,
    pub kind: Kind,
    pub key: Key,
    /// What the object carries to be known by; a deletion tells the last state's.
    pub tag: String,
    /// `None` before the creation.
    pub before: Option<Facts>,
    /// `None` after the deletion.
    pub after: Option<Facts>,
}

/// One write as its writer knows it: the state before is the log's to find out.
#[derive(Clone, Debug)]
pub struct Written {
    pub kind: Kind,
    pub key: Key,
    pub tag: String,
    /// `None` deletes.
    pub facts: Option<Facts>,
}

/// Everything that was committed after `first`, in order.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub first: u64,
    pub entries: Vec<Committed>,
}

impl Log {
    /// Out of the transactions with the revisions that the store answered.
    ///
    /// # Panics
    /// When two writes have one revision, or a revision belongs to no write.
    pub fn of(first: u64, transactions: Vec<(Vec<Written>, Vec<u64>)>) -> Self {
        let mut all = BTreeMap::new();
        for (writes, revisions) in transactions {
            assert_eq!(writes.len(), revisions.len(), "a revision a write");
            let end = *revisions.last().expect("no transaction is empty");
            for (written, revision) in writes.into_iter().zip(revisions) {
                assert!(all.insert(revision, (written, end)).is_none(), "{revision} twice");
            }
        }
        let (mut entries, mut state) = (Vec::new(), BTreeMap::new());
        for (revision, (written, end)) in all {
            let Written { kind, key, mut tag, facts: after } = written;
            let id = (kind, key.clone());
            let before = match &after {
                Some(facts) => state.insert(id, (facts.clone(), tag.clone())),
                None => state.remove(&id),
            };
            if let (None, Some((_, last))) = (&after, &before) {
                tag.clone_from(last);
            }
            let before = before.map(|(facts, _)| facts);
            entries.push(Committed { revision, end, kind, key, tag, before, after });
        }
        for (number, entry) in entries.iter().enumerate() {
            assert_eq!(entry.revision, first + 1 + number as u64, "no revision is skipped");
        }
        Self { first, entries }
    }

    pub fn at(&self, revision: u64) -> Option<&Committed> {
        let index = revision.checked_sub(self.first + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Whether all of a transaction is there at this revision, and nothing of the next one.
    pub fn is_end(&self, revision: u64) -> bool {
        revision == self.first || self.at(revision).is_some_and(|one| one.end == revision)
    }

    /// What there is at a revision that the interest selects, with each object's own revision.
    pub fn state(&self, interest: &Interest, at: u64) -> BTreeMap<Key, u64> {
        let mut state = BTreeMap::new();
        for one in self.entries.iter().take_while(|one| one.revision <= at) {
            if one.kind != interest.kind {
                continue;
            }
            match &one.after {
                Some(facts) if interest.selects(&one.key, facts) => {
                    state.insert(one.key.clone(), one.revision);
                }
                _ => drop(state.remove(&one.key)),
            }
        }
        state
    }

    /// Everything that a watch with this interest has to say.
    pub fn relevant(&self, interest: &Interest) -> Vec<Told> {
        self.entries.iter().filter_map(|one| interest.told(one)).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    Any,
    Is(&'static str),
    IsNot(&'static str),
    In(&'static str, &'static str),
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    Any,
    Name(String),
    Node(&'static str),
    NotNode(&'static str),
}

/// What a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest {
    pub kind: Kind,
    pub namespace: Option<String>,
    pub labels: Labels,
    pub fields: Fields,
}

impl Interest {
    /// Selector by selector, as a person would say it.
    pub fn selects(&self, key: &Key, facts: &Facts) -> bool {
        let labels = match &self.labels {
            Labels::Any => true,
            Labels::Is(app) => facts.app == *app,
            Labels::IsNot(app) => facts.app != *app,
            Labels::In(one, other) => facts.app == *one || facts.app == *other,
            Labels::Absent => facts.app.is_empty(),
        };
        let fields = match &self.fields {
            Fields::Any => true,
            Fields::Name(name) => key.name == *name,
            Fields::Node(node) => facts.node == *node,
            Fields::NotNode(node) => facts.node != *node,
        };
        labels && fields && self.namespace.as_ref().is_none_or(|one| *one == key.namespace)
    }

    /// The same as a query.
    pub fn query(&self) -> String {
        let labels = match &self.labels {
            Labels::Any => String::new(),
            Labels::Is(app) => format!("&labelSelector=app%3D{app}"),
            Labels::IsNot(app) => format!("&labelSelector=app!%3D{app}"),
            Labels::In(one, other) => format!("&labelSelector=app+in+({one},{other})"),
            Labels::Absent => "&labelSelector=!app".to_owned(),
        };
        let fields = match &self.fields {
            Fields::Any => String::new(),
            Fields::Name(name) => format!("&fieldSelector=metadata.name%3D{name}"),
            Fields::Node(node) => format!("&fieldSelector=spec.nodeName%3D{node}"),
            Fields::NotNode(node) => format!("&fieldSelector=spec.nodeName!%3D{node}"),
        };
        labels + &fields
    }

    /// What a write is to a watch: an object that enters the selector is added, one that leaves it
    /// deleted.
    fn told(&self, one: &Committed) -> Option<Told> {
        let selected = |facts: &Option<Facts>| {
            one.kind == self.kind
                && facts.as_ref().is_some_and(|facts| self.selects(&one.key, facts))
        };
        let change = match (selected(&one.before), selected(&one.after)) {
            (false, true) => Change::Added,
            (true, true) => Change::Modified,
            (true, false) => Change::Deleted,
            (false, false) => return None,
        };
        let (revision, key, tag) = (one.revision, one.key.clone(), one.tag.clone());
        Some(Told { change, revision, key, tag })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub change: Change,
    pub revision: u64,
    pub key: Key,
    pub tag: String,
}

/// What a watcher noted, in the order in which it happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A list, or the state that a watch began with; each object with its revision.
    Listed {
        revision: u64,
        items: BTreeMap<Key, u64>,
    },
    /// A watch began; the history reached back to `floor` before it asked.
    Opened {
        from: u64,
        floor: u64,
    },
    /// An event, and the revision that a read beside it would have been of.
    Told {
        told: Told,
        visible: u64,
    },
    Bookmark(u64),
    /// Nothing more came although there was time; before it the store was at this revision.
    Quiet {
        visible: u64,
    },
    /// The watch ended: cut, timed out, or its server gone.
    Cut,
    /// 410 at the beginning of a watch; the history reached back to `floor` after it.
    Refused {
        from: u64,
        floor: u64,
    },
    /// 410 in the middle of one.
    Lost {
        floor: u64,
    },
}

/// Everything that one watcher noted.
#[derive(Clone, Debug)]
pub struct History {
    pub name: String,
    pub interest: Interest,
    /// Whether it asked for bookmarks.
    pub bookmarks: bool,
    pub notes: Vec<Note>,
}
