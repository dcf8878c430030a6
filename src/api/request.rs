//! Pure: what a path names: a collection, an object, or a part of one; and whether a body is of it.

use crate::api::access::Part;
use crate::api::admission::quoted;
use crate::api::query::decoded_segment;
use crate::object::{ApiError, Key, Kind, Object, name};

/// A path below `/api/v1` or `/apis/<group>/<version>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Collection {
        kind: Kind,
        namespace: Option<String>,
    },
    Object {
        kind: Kind,
        key: Key,
        part: Part,
    },
    /// A group and version that are served, and nothing of ours below them.
    Unknown,
}

/// `None` for a path outside the groups that are served.
pub fn target(path: &str) -> Option<Target> {
    let segments: Vec<String> = path.trim_matches('/').split('/').map(decoded_segment).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let served = Kind::all().any(|kind| kind.row().group == group && kind.row().version == version);
    if !served || rest.is_empty() {
        return None;
    }
    let kind = |plural: &str| Kind::of_resource(group, version, plural);
    Some(found(rest, kind).unwrap_or(Target::Unknown))
}

fn found(rest: &[&str], kind_of: impl Fn(&str) -> Option<Kind>) -> Option<Target> {
    // A namespace's own subresources look like a collection inside it; the names are reserved.
    if let ["namespaces", name, sub @ ("status" | "finalize")] = rest {
        let kind = kind_of("namespaces")?;
        return Some(Target::Object { kind, key: Key::cluster(*name), part: part(kind, sub)? });
    }
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        _ => (None, rest),
    };
    let (plural, rest) = rest.split_first()?;
    let kind = kind_of(plural)?;
    let namespaced = kind.row().namespaced;
    if namespace.is_some() && !namespaced {
        return None;
    }
    let (name, sub) = match rest {
        [] => {
            let namespace = namespace.map(str::to_owned);
            return Some(Target::Collection { kind, namespace });
        }
        [name] => (*name, None),
        [name, sub] => (*name, Some(*sub)),
        _ => return None,
    };
    if name.is_empty() || (namespaced && namespace.is_none()) {
        return None;
    }
    let key = Key { namespace: namespace.unwrap_or_default().to_owned(), name: name.to_owned() };
    let part = sub.map_or(Some(Part::Whole), |sub| part(kind, sub))?;
    Some(Target::Object { kind, key, part })
}

/// The part of an object that a path names behind it.
pub fn part(kind: Kind, name: &str) -> Option<Part> {
    let row = kind.row();
    match name {
        "status" if row.has_status => Some(Part::Status),
        "scale" if row.has_scale => Some(Part::Scale),
        "binding" if kind == Kind::Pod => Some(Part::Binding),
        "log" if kind == Kind::Pod => Some(Part::Log),
        "exec" if kind == Kind::Pod => Some(Part::Exec),
        "attach" if kind == Kind::Pod => Some(Part::Attach),
        "portforward" if kind == Kind::Pod => Some(Part::PortForward),
        "ephemeralcontainers" if kind == Kind::Pod => Some(Part::EphemeralContainers),
        "finalize" if kind == Kind::Namespace => Some(Part::Finalize),
        _ => None,
    }
}

/// A name that is no segment of a path names nothing, whatever else is asked of it.
///
/// # Errors
/// `BadRequest`, as the reference server's storage says it.
pub fn nameable(key: &Key) -> Result<(), ApiError> {
    match name::segment_fault(&key.name) {
        None => Ok(()),
        Some(fault) => {
            let words = format!("Name parameter invalid: {}: {fault}", quoted(&key.name));
            Err(ApiError::bad_request(words))
        }
    }
}

/// The namespace of the URL, which the object may repeat and not contradict.
///
/// # Errors
/// `BadRequest` for another one.
pub fn place<K: Object>(object: &mut K, namespace: &str) -> Result<(), ApiError> {
    let own = object.metadata().namespace.as_deref().unwrap_or_default();
    if !own.is_empty() && own != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object.metadata_mut().namespace = Some(namespace.to_owned());
    Ok(())
}

/// A PUT or an apply names the object of its URL, or leaves the name out.
///
/// # Errors
/// `BadRequest` for another name or namespace.
pub fn named<K: Object>(mut object: K, key: &Key) -> Result<K, ApiError> {
    let meta = object.metadata_mut();
    let own = meta.name.get_or_insert_with(|| key.name.clone());
    if *own != key.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({})",
            key.name
        )));
    }
    if K::OBJECT_KIND.row().namespaced {
        place(&mut object, &key.namespace)?;
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_what_kubectl_means() {
        let object = |kind, key, part| Some(Target::Object { kind, key, part });
        let web = Key::new("shop", "web");
        assert_eq!(
            target("/api/v1/pods"),
            Some(Target::Collection { kind: Kind::Pod, namespace: None })
        );
        assert_eq!(
            target("/apis/apps/v1/namespaces/shop/deployments"),
            Some(Target::Collection { kind: Kind::Deployment, namespace: Some("shop".into()) })
        );
        assert_eq!(
            target("/apis/apps/v1/namespaces/shop/deployments/web/scale"),
            object(Kind::Deployment, web.clone(), Part::Scale)
        );
        assert_eq!(
            target("/api/v1/namespaces/shop/pods/web/log"),
            object(Kind::Pod, web.clone(), Part::Log)
        );
        assert_eq!(
            target("/api/v1/namespaces/shop/pods/web/portforward"),
            object(Kind::Pod, web.clone(), Part::PortForward)
        );
        let shop = Key::cluster("shop");
        assert_eq!(
            target("/api/v1/namespaces/shop"),
            object(Kind::Namespace, shop.clone(), Part::Whole)
        );
        assert_eq!(
            target("/api/v1/namespaces/shop/status"),
            object(Kind::Namespace, shop, Part::Status)
        );
        assert_eq!(
            target("/api/v1/namespaces"),
            Some(Target::Collection { kind: Kind::Namespace, namespace: None })
        );
        assert_eq!(
            target("/apis/ballast.dev/v1alpha1/sources/web%2F1"),
            object(Kind::Source, Key::cluster("web/1"), Part::Whole)
        );
        for (name, fault) in [
            ("..", "may not be '..'"),
            (".", "may not be '.'"),
            ("../etc", "may not contain '/'"),
            ("%2e%2e/", "may not contain '/';may not contain '%'"),
        ] {
            let told = nameable(&Key::cluster(name)).expect_err(name).message;
            assert_eq!(told, format!("Name parameter invalid: {name:?}: {fault}"));
        }
        assert_eq!(nameable(&web), Ok(()));
        for unknown in [
            "/api/v1/things",
            "/api/v1/pods/web",
            "/api/v1/namespaces/shop/nodes",
            "/api/v1/namespaces/shop/services/web/log",
            "/api/v1/namespaces/shop/pods/web/log/more",
        ] {
            assert_eq!(target(unknown), Some(Target::Unknown), "{unknown}");
        }
        for outside in ["/", "/apis/nope/v1/x", "/api/v2/pods", "/api/v1", "/apis/apps/v1"] {
            assert_eq!(target(outside), None, "{outside}");
        }
    }
}
