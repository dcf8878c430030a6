//! Pure: one copy of what many values have in common.
//!
//! Ten thousand pods of one template have the same labels, the same owner and the same ports: held
//! apart they are most of what is kept of a pod, held once they are a pointer each. A pool belongs to
//! whoever makes such values: there is none for the whole process.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

/// Below this many values nobody looks whether they are still held.
const FEW: usize = 64;

/// Values of one type, each of them once. A value lives as long as somebody holds it: whenever the
/// pool has doubled, those that only the pool itself still holds are dropped. So it never has more
/// than twice as many as were held when it last looked (or 64), and looking costs each new value
/// a constant.
pub struct Pool<T: ?Sized> {
    held: HashSet<Arc<T>>,
    /// As many values make it look which of them nobody holds any more.
    look_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self { held: HashSet::new(), look_at: FEW }
    }
}

impl<T: ?Sized> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("values", &self.held.len()).finish()
    }
}

impl<T: Eq + Hash> Pool<T> {
    /// The equal value that is there already, or this one from now on.
    pub fn share(&mut self, value: T) -> Arc<T> {
        match self.held.get(&value) {
            Some(same) => same.clone(),
            None => self.add(Arc::new(value)),
        }
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    /// As [`Pool::share`], of a value that somebody else owns: it is copied only if it is new.
    pub fn share_clone(&mut self, value: &T) -> Arc<T> {
        match self.held.get(value) {
            Some(same) => same.clone(),
            None => self.add(Arc::new(value.clone())),
        }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    /// As [`Pool::share`], of a text or a slice: it is copied only if it is new.
    pub fn share_ref<'a>(&mut self, value: &'a T) -> Arc<T>
    where
        Arc<T>: From<&'a T>,
    {
        match self.held.get(value) {
            Some(same) => same.clone(),
            None => self.add(Arc::from(value)),
        }
    }

    /// How many values it has, held or not yet dropped.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    fn add(&mut self, value: Arc<T>) -> Arc<T> {
        if self.held.len() >= self.look_at {
            self.drop_unheld();
        }
        self.held.insert(value.clone());
        value
    }

    /// Nobody can take up a value meanwhile that only the pool holds: it is lent to one at a time.
    fn drop_unheld(&mut self) {
        self.held.retain(|value| Arc::strong_count(value) > 1);
        self.look_at = (2 * self.held.len()).max(FEW);
        self.held.shrink_to(self.look_at);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn equal_values_are_one() {
        let labels = |app: &str| BTreeMap::from([("app".to_owned(), app.to_owned())]);
        let mut pool = Pool::default();
        let (web, same, other) =
            (pool.share(labels("web")), pool.share_clone(&labels("web")), pool.share(labels("db")));
        assert!(Arc::ptr_eq(&web, &same));
        assert!(!Arc::ptr_eq(&web, &other));
        assert_eq!((&*web, &*other), (&labels("web"), &labels("db")));
        assert_eq!(pool.len(), 2);
    }

    #[test]
    fn texts_and_slices_are_asked_for_without_a_copy() {
        let mut texts: Pool<str> = Pool::default();
        assert!(Arc::ptr_eq(&texts.share_ref("n1"), &texts.share_ref(&String::from("n1"))));
        let mut slices: Pool<[u16]> = Pool::default();
        let ports: Vec<u16> = (80..82).collect();
        assert!(Arc::ptr_eq(&slices.share_ref(&[80, 81]), &slices.share_ref(&ports)));
        assert_eq!(&*slices.share_ref(&[]), &[] as &[u16]);
    }

    #[test]
    fn what_nobody_holds_is_dropped_and_what_is_held_stays_one() {
        let mut pool: Pool<str> = Pool::default();
        let held: Vec<Arc<str>> = (0..100).map(|n| pool.share_ref(&format!("held {n}"))).collect();
        for n in 0..10_000 {
            pool.share_ref(&format!("passing {n}"));
            assert!(pool.len() <= 2 * (held.len() + 1), "{} values", pool.len());
        }
        for (n, value) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(value, &pool.share_ref(&format!("held {n}"))));
        }
        drop(held);
        for n in 0..1_000 {
            pool.share_ref(&format!("later {n}"));
        }
        assert!(pool.len() <= FEW, "{} values", pool.len());
    }
}
