//! Pure: what is wrong with a pod's ephemeral containers (`validateEphemeralContainers`), and what of
//! them may change (`ValidatePodEphemeralContainersUpdate`): some may come, none may go or be another.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements,
};

use super::admit::{Admit, Faults};
use super::container_validation::container_faults;
use super::difference;
use super::field_path::{FieldPath, quoted};
use super::lifecycle;
use super::sequence::{self, bump_generation, refuse};
use crate::object::ApiError;
use crate::object::ephemeral_container::as_container;

const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

/// `volumes` are the names that a mount may use.
pub fn ephemeral_containers(
    spec: &PodSpec,
    volumes: &BTreeSet<&str>,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    let written = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: BTreeSet<&str> = written.map(|container| &*container.name).collect();
    let mut names = others.clone();
    for (index, one) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        faults.extend(container_faults(&as_container(one), volumes, &path));
        if !names.insert(&one.name) {
            faults.push(path.child("name").duplicate(quoted(&one.name)));
        }
        let target = one.target_container_name.as_deref().unwrap_or_default();
        if !target.is_empty() && !others.contains(target) {
            faults.push(path.child("targetContainerName").not_found(quoted(target)));
        }
        faults.extend(field_faults(one, &path));
        let mounts = path.child("volumeMounts");
        for (index, mount) in one.volume_mounts.iter().flatten().enumerate() {
            let path = mounts.index(index);
            for (field, text) in
                [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)]
            {
                if text.as_deref().is_some_and(|text| !text.is_empty()) {
                    faults.push(path.child(field).forbidden(NOT_HERE));
                }
            }
        }
    }
    faults
}

/// What only containers have that serve.
fn field_faults(one: &EphemeralContainer, path: &FieldPath<'_>) -> Faults {
    let nothing = ResourceRequirements::default();
    let is_set = [
        ("ports", one.ports.as_ref().is_some_and(|list| !list.is_empty())),
        ("resources", one.resources.as_ref().is_some_and(|own| *own != nothing)),
        ("resizePolicy", one.resize_policy.as_ref().is_some_and(|list| !list.is_empty())),
        ("restartPolicy", one.restart_policy.is_some()),
        ("restartPolicyRules", one.restart_policy_rules.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
        ("lifecycle", one.lifecycle.is_some()),
    ];
    let set = is_set.into_iter().filter(|(_, set)| *set);
    set.map(|(field, _)| path.child(field).forbidden(NOT_HERE)).collect()
}

/// Every stored one is still there and the same, in whatever order.
fn change_faults(new: &Pod, old: &Pod) -> Faults {
    let list = |pod: &Pod| -> Vec<EphemeralContainer> {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.ephemeral_containers.clone()).unwrap_or_default()
    };
    let (is, was) = (list(new), list(old));
    let is: BTreeMap<&str, &EphemeralContainer> = is.iter().map(|one| (&*one.name, one)).collect();
    let root = FieldPath::root("spec");
    let path = root.child("ephemeralContainers");
    let mut faults = Faults::new();
    for before in &was {
        let name = quoted(&before.name);
        match is.get(&*before.name) {
            None => {
                faults.push(path.forbidden(format!(
                    "existing ephemeral containers {name} may not be removed\n"
                )))
            }
            Some(now) if *now != before => faults.push(path.forbidden(format!(
                "existing ephemeral containers {name} may not be changed\n{}",
                difference::changed_lines(before, *now, &before.name)
            ))),
            Some(_) => {}
        }
    }
    faults
}

/// As [`admit_ephemeral_containers`], of an object that must be a pod.
///
/// # Errors
/// As there; BadRequest for another kind.
pub fn admitted<K: Admit>(asked: &K, old: &K) -> Result<K, ApiError> {
    let pod = |object: &K| (object as &dyn Any).downcast_ref::<Pod>().cloned();
    let no_pod = || ApiError::bad_request("only pods have ephemeral containers");
    let (asked, old) = pod(asked).zip(pod(old)).ok_or_else(no_pod)?;
    let new: Box<dyn Any> = Box::new(admit_ephemeral_containers(&asked, &old)?);
    new.downcast::<K>().map(|new| *new).map_err(|_| no_pod())
}

/// A write of a pod's `ephemeralcontainers`: of what was sent nothing else counts.
///
/// # Errors
/// As [`sequence::admit_update`].
pub fn admit_ephemeral_containers(asked: &Pod, old: &Pod) -> Result<Pod, ApiError> {
    let mut new = old.clone();
    let sent = asked.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
    new.spec.get_or_insert_default().ephemeral_containers = sent;
    sequence::read_quantities(&mut new)?;
    new.fill_defaults();
    bump_generation(&mut new, old);
    let mut faults = lifecycle::update_faults(&new.metadata, &old.metadata);
    faults.extend(super::pod_validation::pod(&new));
    faults.extend(change_faults(&new, old));
    let before = old.unsupported();
    faults.extend(new.unsupported().into_iter().filter(|fault| !before.contains(fault)));
    refuse(&new, faults)?;
    Ok(new)
}

/// What a write of the whole pod leaves out stays: no manifest has them.
pub fn keep(new: &mut PodSpec, old: Option<&PodSpec>) {
    if new.ephemeral_containers.as_ref().is_none_or(Vec::is_empty) {
        new.ephemeral_containers = old.and_then(|old| old.ephemeral_containers.clone());
    }
}

/// As containers, with the defaults that containers have.
pub fn fill(spec: &mut PodSpec, fill_container: fn(&mut Container)) {
    for one in spec.ephemeral_containers.iter_mut().flatten() {
        let mut container = as_container(one);
        fill_container(&mut container);
        let target = one.target_container_name.take().filter(|name| !name.is_empty());
        *one = crate::object::ephemeral_container::of_container(container, target);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn running(ephemeral: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"containers": [{"name": "web", "image": "web:1"}],
                "initContainers": [{"name": "first", "image": "web:1"}],
                "volumes": [{"name": "v", "emptyDir": {}}], "ephemeralContainers": ephemeral}}))
        .expect("a pod");
        pod.fill_defaults();
        pod
    }

    fn told(asked: Value, old: Value) -> Vec<String> {
        match admit_ephemeral_containers(&running(asked), &running(old)) {
            Ok(_) => Vec::new(),
            Err(error) => {
                let causes = error.details.expect("details").causes.expect("causes");
                let line = |field: Option<String>, message: Option<String>| {
                    format!("{}: {}", field.unwrap_or_default(), message.unwrap_or_default())
                };
                causes.into_iter().map(|cause| line(cause.field, cause.message)).collect()
            }
        }
    }

    #[test]
    fn they_only_come_and_are_filled_as_containers_are() {
        let one = json!({"name": "a", "image": "tools:1", "targetContainerName": "web"});
        let old = running(json!([]));
        let new = admit_ephemeral_containers(&running(json!([one])), &old).expect("taken");
        assert_eq!(new.metadata.generation, Some(2));
        let list = new.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
        assert_eq!(
            serde_json::to_value(&list.expect("one")[0]).expect("serialises"),
            json!({"name": "a", "image": "tools:1", "imagePullPolicy": "IfNotPresent",
                "resources": {}, "targetContainerName": "web",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File"})
        );
        // Nothing else of what was sent counts.
        let mut asked = running(json!([one]));
        asked.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        asked.spec.as_mut().expect("a spec").containers[0].image = Some("other:1".to_owned());
        assert_eq!(admit_ephemeral_containers(&asked, &old).expect("taken"), new);
        let again = admit_ephemeral_containers(&new, &new).expect("the same");
        assert_eq!(again, new);
    }

    #[test]
    fn who_is_there_stays_as_it_is() {
        let (one, two) =
            (json!({"name": "a", "image": "x:1"}), json!({"name": "b", "image": "x:1"}));
        assert!(told(json!([two, one]), json!([one])).is_empty());
        assert_eq!(
            told(json!([two]), json!([one])),
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be removed\n"
            ]
        );
        let other = json!({"name": "a", "image": "x:2"});
        assert_eq!(
            told(json!([other]), json!([one])),
            [
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"a\" may not be changed\n-a.image: \"x:1\"\n+a.image: \"x:2\""
            ]
        );
    }

    #[test]
    fn what_serves_and_what_has_no_name_of_its_own_is_refused() {
        let with = |more: Value| {
            let mut one = json!({"name": "a", "image": "x:1"});
            json_patch::merge(&mut one, &more);
            told(json!([one]), json!([]))
        };
        let at = "spec.ephemeralContainers[0]";
        for (field, value) in [
            ("ports", json!([{"containerPort": 80}])),
            ("resources", json!({"limits": {"cpu": "1"}})),
            ("restartPolicy", json!("Always")),
            ("livenessProbe", json!({"exec": {"command": ["true"]}})),
            ("startupProbe", json!({"exec": {"command": ["true"]}})),
            ("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})),
        ] {
            let faults = with(json!({field: value}));
            let words =
                format!("{at}.{field}: Forbidden: cannot be set for an Ephemeral Container");
            assert_eq!(faults, [words], "{field}");
        }
        for name in ["web", "first"] {
            let words = format!("{at}.name: Duplicate value: \"{name}\"");
            assert_eq!(with(json!({"name": name})), [words]);
        }
        assert_eq!(
            with(json!({"targetContainerName": "nope"})),
            [format!("{at}.targetContainerName: Not found: \"nope\"")]
        );
        assert!(with(json!({"targetContainerName": "first"})).is_empty());
        let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]});
        assert_eq!(
            with(mount),
            [format!(
                "{at}.volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container"
            )]
        );
        assert_eq!(with(json!({"image": ""}))[0], format!("{at}.image: Required value"));
    }

    #[test]
    fn a_write_of_the_pod_leaves_them() {
        let old = running(json!([{"name": "a", "image": "x:1"}]));
        let updated = sequence::admit_update(running(json!([])), &old).expect("the manifest again");
        assert_eq!(updated, old);
        let more = running(json!([{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]));
        let refused = sequence::admit_update(more, &old).expect_err("not that way");
        assert!(refused.message.contains("pod updates may not change fields"), "{refused}");
    }
}
