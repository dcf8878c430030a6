//! The door's server-side apply: what `apply/` decides, on the object as it is stored now, through the
//! same admission and the same loop as every other write.

use std::sync::Arc;

use serde_json::Value;

use crate::api::access::{Identity, Part, Verb};
use crate::api::admission::Admit;
use crate::api::apply::tracking::{self, Application};
use crate::api::request::named;
use crate::api::secret_view::sighted;
use crate::api::verbs::Api;
use crate::api::write::{ATTEMPTS, Asked, Owning, manager_of, value_of};
use crate::api::write_options::WriteOptions;
use crate::object::{ApiError, Key, Kind};
use crate::store::Store;

/// What an apply came to.
pub(crate) struct AppliedObject<K> {
    pub object: Arc<K>,
    pub created: bool,
}

impl<S: Store> Api<S> {
    /// Applies a configuration: creates the object if there is none.
    ///
    /// # Errors
    /// As [`Api::create`] and [`Api::update`]; `Conflict` for fields of other managers, `BadRequest`
    /// for what is no configuration of the kind.
    pub(crate) async fn apply<K: Admit>(
        &self,
        who: &Identity,
        part: Part,
        key: &Key,
        config: &Value,
        options: &WriteOptions,
    ) -> Result<AppliedObject<K>, ApiError> {
        let kind = K::OBJECT_KIND;
        self.permit(who, Verb::Patch, kind, part, key, options.dry_run)?;
        sighted::<K>(who, key, options.dry_run)?;
        tracking::check::<K>(config, &key.namespace, &key.name)?;
        let manager = manager_of(who, options);
        let asked = |live: Option<&Value>| -> Result<Asked<K>, ApiError> {
            let writer = self.writer(&manager, part);
            let application = Application { config, writer, force: options.force };
            let (object, entries) = tracking::apply::<K>(live, &application)?;
            Ok(Asked { object: named(object, key)?, owning: Owning::Applied(entries) })
        };
        let mut lost = ApiError::conflict(kind, &key.name);
        for _ in 0..ATTEMPTS {
            if self.store().get(kind, key).is_some() {
                let next = |body: &_, _: &Arc<K>| asked(Some(&value_of(body)?));
                match self.change(who, part, key, options, next).await {
                    Err(error) if error.is_not_found() => lost = error,
                    Err(error) => return Err(error),
                    Ok(object) => return Ok(AppliedObject { object, created: false }),
                }
            } else if part == Part::Whole {
                let new = asked(None)?;
                of_no_incarnation(kind, key, &new.object)?;
                match self.insert(who, &new.object, &new.owning, options).await {
                    Err(error) if error.is_already_exists() => lost = error,
                    Err(error) => return Err(error),
                    Ok(object) => return Ok(AppliedObject { object, created: true }),
                }
            } else {
                return Err(ApiError::not_found(kind, &key.name));
            }
        }
        Err(lost)
    }
}

/// A uid says which object is meant: none that is to be made.
fn of_no_incarnation<K: Admit>(kind: Kind, key: &Key, object: &K) -> Result<(), ApiError> {
    let uid = object.uid();
    if uid.is_empty() {
        return Ok(());
    }
    let mut error = ApiError::conflict(kind, &key.name);
    error.message = format!(
        "Operation cannot be fulfilled on {} \"{}\": uid mismatch: the provided object specified uid {uid}, and no existing object was found",
        kind.qualified_resource(),
        key.name
    );
    Err(error)
}
