//! Pure: what is wrong with a pod or a pod template, but for its containers and volumes
//! (`ValidatePodSpec`), and what of a pod may change after its creation.

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Toleration,
};

use super::admit::Faults;
use super::container_validation as containers;
use super::field_path::{FieldPath, quoted, shown};
use super::metadata_validation as metadata;
use super::metadata_validation::{label_value_faults, qualified_name_faults};
use super::{confinement_validation, difference, ephemeral_validation, volume_validation};
use crate::object::Kind;
use crate::object::name::{label_faults, subdomain_faults};

/// `spec.activeDeadlineSeconds`: the largest unsigned 32 bits.
const LONGEST_DEADLINE_SECONDS: i64 = 4_294_967_295;

pub fn pod(pod: &Pod) -> Faults {
    let mut faults = metadata::faults(&pod.metadata, Kind::Pod);
    let nothing = PodSpec::default();
    faults.extend(spec(pod.spec.as_ref().unwrap_or(&nothing), &FieldPath::root("spec")));
    faults
}

/// What only a new pod may not have.
pub fn new_pod(new: &Pod) -> Faults {
    let mut faults = pod(new);
    let ephemeral = new.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
    if ephemeral.is_some_and(|list| !list.is_empty()) {
        let path = FieldPath::root("spec");
        faults.push(path.child("ephemeralContainers").forbidden("cannot be set on create"));
    }
    faults
}

/// The template of a workload.
pub fn template(template: &PodTemplateSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if let Some(meta) = &template.metadata {
        let path = path.child("metadata");
        faults.extend(metadata::labels(meta.labels.as_ref(), &path.child("labels")));
        faults.extend(metadata::annotations(meta.annotations.as_ref(), &path.child("annotations")));
    }
    let nothing = PodSpec::default();
    let own = template.spec.as_ref().unwrap_or(&nothing);
    let path = path.child("spec");
    faults.extend(spec(own, &path));
    if own.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        let detail = "ephemeral containers not allowed in pod template";
        faults.push(path.child("ephemeralContainers").forbidden(detail));
    }
    faults
}

fn spec(spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let (usable, volume_faults) = volume_validation::volumes(volumes, &path.child("volumes"));
    faults.extend(volume_faults);
    faults.extend(containers::containers(spec, &usable, &path.child("containers")));
    let init_path = path.child("initContainers");
    faults.extend(containers::init_containers(spec, &usable, &init_path));
    let path_of_ephemeral = path.child("ephemeralContainers");
    faults.extend(ephemeral_validation::ephemeral_containers(spec, &usable, &path_of_ephemeral));
    host_network_faults(spec, path, &mut faults);
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        faults.push(path.child("shareProcessNamespace").invalid("true".to_owned(), detail));
    }
    let restart = spec.restart_policy.as_deref().unwrap_or_default();
    let policies = ["Always", "OnFailure", "Never"];
    faults.extend(one_of(restart, &policies, &path.child("restartPolicy")));
    let dns = spec.dns_policy.as_deref().unwrap_or_default();
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    faults.extend(one_of(dns, &policies, &path.child("dnsPolicy")));
    faults.extend(metadata::labels(spec.node_selector.as_ref(), &path.child("nodeSelector")));
    faults.extend(security_faults(spec, path));
    faults.extend(confinement_validation::faults(spec, path));
    if let Some(affinity) = &spec.affinity {
        faults.extend(affinity_faults(affinity, &path.child("affinity")));
    }
    faults.extend(name_faults(spec, path));
    faults.extend(override_faults(spec, path));
    let tolerations = path.child("tolerations");
    for (index, toleration) in spec.tolerations.iter().flatten().enumerate() {
        faults.extend(toleration_faults(toleration, &tolerations.index(index)));
    }
    if let Some(policy) = spec.preemption_policy.as_deref() {
        let policies = ["Never", "PreemptLowerPriority"];
        faults.extend(one_of(policy, &policies, &path.child("preemptionPolicy")));
    }
    faults
}

/// Empty is `Required`, a stranger is `Unsupported`.
pub fn one_of(value: &str, supported: &[&str], path: &FieldPath<'_>) -> Faults {
    if value.is_empty() {
        vec![path.required("")]
    } else if supported.contains(&value) {
        Faults::new()
    } else {
        vec![path.not_supported(value, supported)]
    }
}

fn host_network_faults(spec: &PodSpec, path: &FieldPath<'_>, faults: &mut Faults) {
    if spec.host_network != Some(true) {
        return;
    }
    let list = path.child("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        let path = list.index(index);
        let ports = path.child("ports");
        for (index, port) in container.ports.iter().flatten().enumerate() {
            if port.host_port.is_some_and(|host| host != port.container_port) {
                let detail = "must match `hostPort` when `hostNetwork` is true";
                let field = ports.index(index);
                let value = port.container_port.to_string();
                faults.push(field.child("containerPort").invalid(value, detail));
            }
        }
    }
}

fn security_faults(spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let Some(context) = &spec.security_context else { return faults };
    let path = path.child("securityContext");
    for (field, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        faults.extend(containers::id_fault(id, &path.child(field)));
    }
    if let Some(policy) = context.fs_group_change_policy.as_deref() {
        let field = path.child("fsGroupChangePolicy");
        if !matches!(policy, "Always" | "OnRootMismatch") {
            faults.push(field.not_supported(policy, &["Always", "OnRootMismatch"]));
        }
    }
    let list = path.child("supplementalGroups");
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        faults.extend(containers::id_fault(Some(*group), &list.index(index)));
    }
    faults
}

fn affinity_faults(affinity: &Affinity, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let Some(nodes) = &affinity.node_affinity else { return faults };
    let path = path.child("nodeAffinity");
    if let Some(required) = &nodes.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        faults.extend(node_selector(required, &path));
    }
    let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    let preferred = nodes.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    for (index, preference) in preferred.enumerate() {
        let path = list.index(index);
        if !(1..=100).contains(&preference.weight) {
            let value = preference.weight.to_string();
            faults.push(path.child("weight").invalid(value, "must be in the range 1-100"));
        }
        faults.extend(term_faults(&preference.preference, &path.child("preference")));
    }
    faults
}

/// Alternatives, of which there is one at least (`ValidateNodeSelector`).
pub fn node_selector(selector: &NodeSelector, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let terms = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        faults.push(terms.required("must have at least one node selector term"));
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        faults.extend(term_faults(term, &terms.index(index)));
    }
    faults
}

fn term_faults(term: &NodeSelectorTerm, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let list = path.child("matchExpressions");
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = list.index(index);
        faults.extend(node_requirement(requirement, &path));
        let key = path.child("key");
        faults.extend(key.each_invalid(&requirement.key, qualified_name_faults(&requirement.key)));
    }
    let list = path.child("matchFields");
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = list.index(index);
        let values = requirement.values.as_deref().unwrap_or_default();
        if !matches!(requirement.operator.as_str(), "In" | "NotIn") {
            let value = quoted(&requirement.operator);
            faults.push(path.child("operator").invalid(value, "not a valid selector operator"));
        } else if values.len() != 1 {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            faults.push(path.child("values").required(detail));
        }
        if requirement.key != "metadata.name" {
            let value = quoted(&requirement.key);
            faults.push(path.child("key").invalid(value, "not a valid field selector key"));
        }
    }
    faults
}

fn node_requirement(requirement: &NodeSelectorRequirement, path: &FieldPath<'_>) -> Faults {
    let values = requirement.values.as_deref().unwrap_or_default();
    let field = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            vec![field.required("must be specified when `operator` is 'In' or 'NotIn'")]
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            vec![field.forbidden(detail)]
        }
        "Gt" | "Lt" if values.len() != 1 => {
            vec![field.required("must be specified single value when `operator` is 'Lt' or 'Gt'")]
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => Faults::new(),
        other => {
            vec![path.child("operator").invalid(quoted(other), "not a valid selector operator")]
        }
    }
}

fn name_faults(spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let mut check = |field: &str, value: &Option<String>, judge: fn(&str) -> Vec<String>| {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            faults.extend(path.child(field).each_invalid(value, judge(value)));
        }
    };
    check("serviceAccountName", &spec.service_account_name, subdomain_faults);
    check("nodeName", &spec.node_name, subdomain_faults);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=LONGEST_DEADLINE_SECONDS).contains(&seconds)
    {
        let detail = format!("must be between 1 and {LONGEST_DEADLINE_SECONDS}, inclusive");
        faults.push(path.child("activeDeadlineSeconds").invalid(seconds.to_string(), detail));
    }
    let mut check = |field: &str, value: &Option<String>, judge: fn(&str) -> Vec<String>| {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            faults.extend(path.child(field).each_invalid(value, judge(value)));
        }
    };
    check("hostname", &spec.hostname, label_faults);
    check("subdomain", &spec.subdomain, label_faults);
    check("hostnameOverride", &spec.hostname_override, subdomain_faults);
    check("priorityClassName", &spec.priority_class_name, subdomain_faults);
    check("schedulerName", &spec.scheduler_name, |_| Vec::new());
    faults
}

/// A name for the pod instead of all others (Kubernetes 1.34).
fn override_faults(spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    /// What the kernel keeps.
    const LONGEST: usize = 64;
    let mut faults = Faults::new();
    let Some(name) = spec.hostname_override.as_deref() else { return faults };
    let field = path.child("hostnameOverride");
    if name.is_empty() {
        faults.extend(field.each_invalid(name, subdomain_faults(name)));
    }
    if name.len() > LONGEST {
        faults.push(field.too_long(LONGEST));
    }
    for (other, set) in
        [("hostNetwork", spec.host_network), ("setHostnameAsFQDN", spec.set_hostname_as_fqdn)]
    {
        if set == Some(true) {
            faults.push(field.forbidden(format!("may not be set when {other} is true")));
        }
    }
    faults
}

fn toleration_faults(toleration: &Toleration, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, value) = (text(&toleration.key), text(&toleration.value));
    let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
    let operator_path = path.child("operator");
    if !key.is_empty() {
        faults.extend(path.child("key").each_invalid(&key, qualified_name_faults(&key)));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        faults.push(operator_path.invalid(quoted(&operator), detail));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        faults.push(path.child("effect").invalid(quoted(&effect), detail));
    }
    match operator.as_str() {
        "Equal" | "" => {
            let sentences = label_value_faults(&value);
            if !sentences.is_empty() {
                faults.push(operator_path.invalid(quoted(&value), sentences.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            faults.push(operator_path.invalid(shown(toleration), detail));
        }
        "Exists" => {}
        other => faults.push(operator_path.not_supported(other, &["Equal", "Exists"])),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() && !effects.contains(&effect.as_str()) {
        faults.push(path.child("effect").not_supported(&effect, &effects));
    }
    faults
}

/// The new state, and that nothing changed but what may: images, a shorter deadline, more
/// tolerations, and a negative grace that becomes 1.
pub fn pod_update(new: &Pod, old: &Pod) -> Faults {
    let mut faults = pod(new);
    let path = FieldPath::root("spec");
    let nothing = PodSpec::default();
    let (is, was) = (new.spec.as_ref().unwrap_or(&nothing), old.spec.as_ref().unwrap_or(&nothing));
    if is == was {
        return faults;
    }
    for (field, is, was) in [
        ("containers", &is.containers[..], &was.containers[..]),
        (
            "initContainers",
            is.init_containers.as_deref().unwrap_or_default(),
            was.init_containers.as_deref().unwrap_or_default(),
        ),
    ] {
        if is.len() != was.len() {
            let detail = "pod updates may not add or remove containers";
            faults.push(path.child(field).forbidden(detail));
            return faults;
        }
    }
    faults.extend(deadline_faults(is, was, &path));
    let tolerations = |spec: &PodSpec| spec.tolerations.clone().unwrap_or_default();
    if !only_added(&tolerations(is), &tolerations(was)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        faults.push(path.child("tolerations").forbidden(detail));
    }
    let munged = with_changeable_fields_of(is, was);
    if munged != *was {
        faults.push(path.forbidden(format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{}",
            difference::changed_lines(was, &munged, "spec")
        )));
    }
    faults
}

fn deadline_faults(is: &PodSpec, was: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let field = path.child("activeDeadlineSeconds");
    match (is.active_deadline_seconds, was.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            vec![field.invalid(new.to_string(), "must be less than or equal to previous value")]
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            vec![field.invalid("null".to_owned(), detail)]
        }
        _ => Faults::new(),
    }
}

fn only_added(is: &[Toleration], was: &[Toleration]) -> bool {
    let same = |a: &Toleration, b: &Toleration| {
        Toleration { toleration_seconds: None, ..a.clone() }
            == Toleration { toleration_seconds: None, ..b.clone() }
    };
    was.iter().all(|old| is.iter().any(|new| same(new, old)))
}

/// The new spec with what may change set back: what still differs may not.
fn with_changeable_fields_of(is: &PodSpec, was: &PodSpec) -> PodSpec {
    let mut munged = is.clone();
    let images = |to: &mut [Container], from: &[Container]| {
        for (to, from) in to.iter_mut().zip(from) {
            to.image.clone_from(&from.image);
        }
    };
    images(&mut munged.containers, &was.containers);
    if let (Some(to), Some(from)) = (&mut munged.init_containers, &was.init_containers) {
        images(to, from);
    }
    munged.active_deadline_seconds = was.active_deadline_seconds;
    munged.tolerations.clone_from(&was.tolerations);
    if was.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && is.termination_grace_period_seconds == Some(1)
    {
        munged.termination_grace_period_seconds = was.termination_grace_period_seconds;
    }
    munged
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod_of(spec: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec}),
        )
        .unwrap();
        super::super::pod_defaults::fill_pod(&mut pod);
        pod
    }

    fn with(field: &str, value: Value) -> Vec<String> {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec[field] = value;
        new_pod(&pod_of(spec)).iter().map(|fault| fault.field.clone()).collect()
    }

    #[test]
    fn the_pods_own_fields() {
        for (field, bad, at) in [
            ("restartPolicy", json!("Maybe"), "spec.restartPolicy"),
            ("dnsPolicy", json!("Mine"), "spec.dnsPolicy"),
            ("nodeSelector", json!({"a b": "c"}), "spec.nodeSelector"),
            ("activeDeadlineSeconds", json!(0), "spec.activeDeadlineSeconds"),
            ("hostname", json!("A_B"), "spec.hostname"),
            ("subdomain", json!("a.b"), "spec.subdomain"),
            ("hostnameOverride", json!("a_b.example"), "spec.hostnameOverride"),
            ("hostnameOverride", json!(""), "spec.hostnameOverride"),
            ("hostnameOverride", json!(format!("{}.b", "a".repeat(63))), "spec.hostnameOverride"),
            ("tolerations", json!([{"operator": "Equal"}]), "spec.tolerations[0].operator"),
            (
                "tolerations",
                json!([{"key": "a", "operator": "Exists", "effect": "Never"}]),
                "spec.tolerations[0].effect",
            ),
            (
                "affinity",
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                    {"nodeSelectorTerms": []}}}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms",
            ),
            (
                "affinity",
                json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 101, "preference": {}}]}}),
                "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
            ),
        ] {
            assert_eq!(with(field, bad), [at]);
        }
        assert_eq!(with("terminationGracePeriodSeconds", json!(0)), Vec::<String>::new());
    }

    #[test]
    fn a_name_for_all_others_is_the_only_one() {
        let told = |more: Value| -> Vec<String> {
            let mut spec = json!({"containers": [{"name": "c", "image": "i"}],
                "hostname": "h", "subdomain": "s", "hostnameOverride": "my.own.name"});
            json_patch::merge(&mut spec, &more);
            new_pod(&pod_of(spec)).into_iter().map(|fault| fault.detail).collect()
        };
        assert!(told(json!({"setHostnameAsFQDN": false, "hostNetwork": false})).is_empty());
        for other in ["hostNetwork", "setHostnameAsFQDN"] {
            let words = format!("may not be set when {other} is true");
            assert_eq!(told(json!({other: true})), [words]);
        }
    }

    #[test]
    fn a_running_pod_changes_its_image_and_little_else() {
        let spec = |image: &str| json!({"containers": [{"name": "c", "image": image}]});
        let old = pod_of(spec("a:1"));
        assert_eq!(pod_update(&pod_of(spec("a:2")), &old), Faults::new());
        let mut more = old.clone();
        more.spec
            .as_mut()
            .unwrap()
            .tolerations
            .as_mut()
            .unwrap()
            .push(Toleration { operator: Some("Exists".into()), ..Toleration::default() });
        assert_eq!(pod_update(&more, &old), Faults::new());
        assert_eq!(pod_update(&old, &more)[0].field, "spec.tolerations");
        let mut moved = old.clone();
        moved.spec.as_mut().unwrap().host_network = Some(true);
        let faults = pod_update(&moved, &old);
        assert_eq!(faults[0].field, "spec");
        assert!(faults[0].detail.contains("spec.hostNetwork"), "{}", faults[0].detail);
    }
}
