//! A cluster on a shelf: objects in memory behind [`Cluster`], so that one room can be tested with
//! the real engine and nothing else between. It stores and tells; it admits everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ballast::object::{
    ApiError, Change, Cluster, DeleteOptions, Key, Kind, Listing, Note, Object, Patch, Scope,
};
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::broadcast;

#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

/// The last revision, and every object.
type Shelved = (u64, BTreeMap<(Kind, Key), Value>);

struct Inner {
    objects: Mutex<Shelved>,
    changed: broadcast::Sender<(Kind, Value, bool)>,
    pub notes: Mutex<Vec<Note>>,
}

impl Shelf {
    pub fn new() -> Self {
        let (changed, _) = broadcast::channel(4096);
        Self(Arc::new(Inner { objects: Mutex::default(), changed, notes: Mutex::default() }))
    }

    pub fn notes(&self) -> Vec<String> {
        let notes = self.0.notes.lock().expect("no panic inside");
        notes.iter().map(|note| format!("{} {}", note.reason, note.message)).collect()
    }

    fn put(&self, kind: Kind, key: &Key, change: impl FnOnce(&mut Value)) -> Value {
        let mut objects = self.0.objects.lock().expect("no panic inside");
        objects.0 += 1;
        let revision = objects.0;
        let slot = objects.1.entry((kind, key.clone())).or_insert_with(|| json!({}));
        change(slot);
        slot["metadata"]["resourceVersion"] = json!(revision.to_string());
        if slot["metadata"]["uid"].is_null() {
            slot["metadata"]["uid"] = json!(format!("uid-{revision}"));
        }
        let stored = slot.clone();
        let _ = self.0.changed.send((kind, stored.clone(), false));
        stored
    }

    fn read(&self, kind: Kind, key: &Key) -> Result<Value, ApiError> {
        let objects = self.0.objects.lock().expect("no panic inside");
        let found = objects.1.get(&(kind, key.clone())).cloned();
        found.ok_or_else(|| ApiError::not_found(kind, &key.name))
    }

    /// What `kubectl delete pod` does: a deletion time, or at once with a grace of 0.
    pub fn delete_pod(&self, key: &Key, grace_seconds: i64, now: jiff::Timestamp) {
        if grace_seconds == 0 {
            return self.take(Kind::Pod, key);
        }
        let deadline = now + jiff::SignedDuration::from_secs(grace_seconds);
        self.put(Kind::Pod, key, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(deadline.to_string());
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
        });
    }

    fn take(&self, kind: Kind, key: &Key) {
        let mut objects = self.0.objects.lock().expect("no panic inside");
        if let Some(last) = objects.1.remove(&(kind, key.clone())) {
            let _ = self.0.changed.send((kind, last, true));
        }
    }

    fn all(&self, kind: Kind, scope: &Scope) -> Vec<Value> {
        let objects = self.0.objects.lock().expect("no panic inside");
        let of_kind = objects.1.iter().filter(|((k, _), _)| *k == kind);
        of_kind.map(|(_, value)| value.clone()).filter(|value| covers(scope, value)).collect()
    }
}

fn covers(scope: &Scope, value: &Value) -> bool {
    let namespace = value["metadata"]["namespace"].as_str();
    let in_namespace = scope.namespace.is_none() || scope.namespace.as_deref() == namespace;
    let field = scope.fields.as_ref().is_none_or(|fields| {
        let (path, wanted) = fields.split_once('=').expect("a field selector");
        value.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str)
            == Some(wanted)
    });
    in_namespace && field
}

fn typed<K: Object>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).expect("what was put is of its kind"))
}

impl Cluster for Shelf {
    async fn get<K: Object>(&self, key: &Key) -> Result<Arc<K>, ApiError> {
        self.read(K::OBJECT_KIND, key).map(typed)
    }

    async fn list<K: Object>(&self, scope: &Scope) -> Result<Listing<K>, ApiError> {
        let items = self.all(K::OBJECT_KIND, scope).into_iter().map(typed).collect();
        Ok(Listing { revision: 0, items })
    }

    fn watch_keeping<K: Object, T: Send + 'static>(
        &self,
        scope: Scope,
        keep: impl Fn(&Arc<K>) -> T + Send + Sync + 'static,
    ) -> impl Stream<Item = Change<T>> + Send + 'static {
        let receiver = self.0.changed.subscribe();
        let all = self.all(K::OBJECT_KIND, &scope).into_iter();
        let first = all.map(|value| keep(&typed(value))).collect();
        let begin = futures::stream::iter([Change::Reset(first)]);
        let rest = futures::stream::unfold((receiver, scope, keep), |held| async {
            let (mut receiver, scope, keep) = held;
            loop {
                let (kind, value, gone) = receiver.recv().await.ok()?;
                if kind == K::OBJECT_KIND && covers(&scope, &value) {
                    let object = keep(&typed(value));
                    let change =
                        if gone { Change::Deleted(object) } else { Change::Applied(object) };
                    return Some((change, (receiver, scope, keep)));
                }
            }
        });
        futures::StreamExt::chain(begin, rest)
    }

    async fn create<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        if self.read(K::OBJECT_KIND, &object.key()).is_ok() {
            return Err(ApiError::already_exists(K::OBJECT_KIND, &object.key().name));
        }
        let new = serde_json::to_value(object).expect("JSON");
        Ok(typed(self.put(K::OBJECT_KIND, &object.key(), |slot| *slot = new)))
    }

    async fn update<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        let stored = self.read(K::OBJECT_KIND, &object.key())?;
        let mut new = serde_json::to_value(object).expect("JSON");
        if !stored["status"].is_null() {
            new["status"] = stored["status"].clone();
        }
        Ok(typed(self.put(K::OBJECT_KIND, &object.key(), |slot| *slot = new)))
    }

    async fn update_status<K: Object>(&self, object: &K) -> Result<Arc<K>, ApiError> {
        let stored = self.read(K::OBJECT_KIND, &object.key())?;
        let new = serde_json::to_value(object).expect("JSON");
        if stored["metadata"]["resourceVersion"] != new["metadata"]["resourceVersion"] {
            return Err(ApiError::conflict(K::OBJECT_KIND, &object.key().name));
        }
        let status = new["status"].clone();
        Ok(typed(self.put(K::OBJECT_KIND, &object.key(), |slot| slot["status"] = status)))
    }

    async fn patch<K: Object>(&self, key: &Key, _: &Patch) -> Result<Arc<K>, ApiError> {
        Err(ApiError::bad_request(format!("{key}: a shelf cannot be patched")))
    }

    async fn patch_status<K: Object>(&self, key: &Key, _: &Patch) -> Result<Arc<K>, ApiError> {
        Err(ApiError::bad_request(format!("{key}: a shelf cannot be patched")))
    }

    async fn scale<K: Object>(&self, key: &Key, _: i32, _: Option<&str>) -> Result<(), ApiError> {
        Err(ApiError::bad_request(format!("{key}: a shelf cannot be scaled")))
    }

    async fn bind(&self, pod: &Key, _: &str, node: &str) -> Result<(), ApiError> {
        self.put(Kind::Pod, pod, |slot| slot["spec"]["nodeName"] = json!(node));
        Ok(())
    }

    async fn delete<K: Object>(&self, key: &Key, options: &DeleteOptions) -> Result<(), ApiError> {
        let stored = self.read(K::OBJECT_KIND, key)?;
        if options.uid.as_deref().is_some_and(|uid| stored["metadata"]["uid"] != uid) {
            return Err(ApiError::precondition(K::OBJECT_KIND, key, "another uid"));
        }
        self.take(K::OBJECT_KIND, key);
        Ok(())
    }

    fn note(&self, note: Note) {
        self.0.notes.lock().expect("no panic inside").push(note);
    }
}
