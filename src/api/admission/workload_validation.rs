//! Pure: what is wrong with a Deployment or ReplicaSet (`pkg/apis/apps/validation`).

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::admit::{Fault, Faults};
use super::field_path::{FieldPath, quoted, shown};
use super::metadata_validation as metadata;
use super::metadata_validation::not_negative;
use super::pod_validation;
use crate::object::Kind;
use crate::object::int_or_percent::percent;
use crate::object::selector::Selector;

pub fn deployment(deployment: &Deployment) -> Faults {
    let mut faults = metadata::faults(&deployment.metadata, Kind::Deployment);
    if let Some(spec) = &deployment.spec {
        faults.extend(deployment_spec(spec, &FieldPath::root("spec")));
    }
    faults
}

fn deployment_spec(spec: &DeploymentSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    faults.extend(not_negative(spec.replicas.map(i64::from), &path.child("replicas")));
    let selector_path = path.child("selector");
    let selector = workload_selector(&spec.selector, &selector_path, &mut faults);
    faults.extend(template(&spec.template, selector, &path.child("template")));
    faults.extend(strategy(spec.strategy.as_ref(), &path.child("strategy")));
    let min_ready = spec.min_ready_seconds.map(i64::from);
    faults.extend(not_negative(min_ready, &path.child("minReadySeconds")));
    let history = spec.revision_history_limit.map(i64::from);
    faults.extend(not_negative(history, &path.child("revisionHistoryLimit")));
    if let Some(deadline) = spec.progress_deadline_seconds {
        let path = path.child("progressDeadlineSeconds");
        faults.extend(not_negative(Some(i64::from(deadline)), &path));
        if deadline <= spec.min_ready_seconds.unwrap_or(0) {
            let detail = "must be greater than minReadySeconds";
            faults.push(path.invalid(deadline.to_string(), detail));
        }
    }
    faults
}

/// The selector's own faults; `None` when it cannot be evaluated or selects everything.
fn workload_selector(
    selector: &LabelSelector,
    path: &FieldPath<'_>,
    faults: &mut Faults,
) -> Option<Selector> {
    let empty = selector.match_labels.as_ref().is_none_or(|map| map.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|list| list.is_empty());
    if *selector == LabelSelector::default() {
        faults.push(path.required(""));
        // An absent selector selects nothing, so no template matches it.
        return Some(Selector::default());
    }
    faults.extend(metadata::selector(selector, path));
    if empty {
        faults.push(path.invalid(shown(selector), "empty selector is invalid for deployment"));
    }
    Selector::of_label_selector(selector).ok()
}

/// The template of a workload whose pods run for ever.
fn template(
    template: &PodTemplateSpec,
    selector: Option<Selector>,
    path: &FieldPath<'_>,
) -> Faults {
    let mut faults = Faults::new();
    let nothing = Default::default();
    let meta = template.metadata.as_ref().unwrap_or(&nothing);
    if let Some(selector) = selector {
        let selects = !selector.is_everything() && selector.matches_optional(meta.labels.as_ref());
        if !selects {
            let labels = meta.labels.clone().unwrap_or_default();
            let detail = "`selector` does not match template `labels`";
            let field = path.child("metadata");
            faults.push(field.child("labels").invalid(shown(&labels), detail));
        }
    }
    faults.extend(pod_validation::template(template, path));
    if let Some(policy) = template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref())
        && matches!(policy, "OnFailure" | "Never")
    {
        faults.push(path.child("spec").child("restartPolicy").not_supported(policy, &["Always"]));
    }
    if template.spec.as_ref().is_some_and(|spec| spec.active_deadline_seconds.is_some()) {
        let field = path.child("spec");
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        faults.push(field.child("activeDeadlineSeconds").forbidden(detail));
    }
    faults
}

fn strategy(strategy: Option<&DeploymentStrategy>, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let Some(strategy) = strategy else { return faults };
    let rolling_path = path.child("rollingUpdate");
    match strategy.type_.as_deref().unwrap_or_default() {
        "Recreate" => {
            if strategy.rolling_update.is_some() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                faults.push(rolling_path.forbidden(detail));
            }
        }
        "RollingUpdate" => {
            let Some(rolling) = &strategy.rolling_update else {
                faults.push(rolling_path.required("this should be defaulted and never be nil"));
                return faults;
            };
            let zero = IntOrString::Int(0);
            let unavailable = rolling.max_unavailable.as_ref().unwrap_or(&zero);
            let surge = rolling.max_surge.as_ref().unwrap_or(&zero);
            let unavailable_path = rolling_path.child("maxUnavailable");
            faults.extend(count_or_percent(unavailable, &unavailable_path));
            faults.extend(count_or_percent(surge, &rolling_path.child("maxSurge")));
            if amount(unavailable) == 0 && amount(surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                faults.push(unavailable_path.invalid(shown(unavailable), detail));
            }
            if percent(unavailable).is_some_and(|percent| percent > 100) {
                let detail = "must not be greater than 100%";
                faults.push(unavailable_path.invalid(shown(unavailable), detail));
            }
        }
        other => {
            let supported = ["Recreate", "RollingUpdate"];
            faults.push(path.child("type").not_supported(other, &supported));
        }
    }
    faults
}

fn amount(value: &IntOrString) -> i32 {
    match value {
        IntOrString::Int(count) => *count,
        text @ IntOrString::String(_) => percent(text).unwrap_or(0),
    }
}

fn count_or_percent(value: &IntOrString, path: &FieldPath<'_>) -> Option<Fault> {
    match value {
        IntOrString::Int(count) => not_negative(Some(i64::from(*count)), path),
        IntOrString::String(text) => percent(value).is_none().then(|| {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            path.invalid(quoted(text), detail)
        }),
    }
}

pub fn deployment_update(new: &Deployment, old: &Deployment) -> Faults {
    let mut faults = deployment(new);
    let selector = |of: &Deployment| of.spec.as_ref().map(|spec| spec.selector.clone());
    faults.extend(selector_changed(selector(new), selector(old)));
    faults
}

pub fn replica_set(set: &ReplicaSet) -> Faults {
    let mut faults = metadata::faults(&set.metadata, Kind::ReplicaSet);
    let Some(spec) = &set.spec else { return faults };
    let path = FieldPath::root("spec");
    faults.extend(not_negative(spec.replicas.map(i64::from), &path.child("replicas")));
    let min_ready = spec.min_ready_seconds.map(i64::from);
    faults.extend(not_negative(min_ready, &path.child("minReadySeconds")));
    let selector = workload_selector(&spec.selector, &path.child("selector"), &mut faults);
    match &spec.template {
        Some(own) => faults.extend(template(own, selector, &path.child("template"))),
        None => faults.push(path.child("template").required("")),
    }
    faults
}

pub fn replica_set_update(new: &ReplicaSet, old: &ReplicaSet) -> Faults {
    let mut faults = replica_set(new);
    let selector = |of: &ReplicaSet| of.spec.as_ref().map(|spec| spec.selector.clone());
    faults.extend(selector_changed(selector(new), selector(old)));
    faults
}

fn selector_changed(new: Option<LabelSelector>, old: Option<LabelSelector>) -> Option<Fault> {
    let path = FieldPath::root("spec");
    (new != old).then(|| {
        path.child("selector").invalid(shown(&new.unwrap_or_default()), "field is immutable")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults_of(spec: serde_json::Value) -> Vec<String> {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "a"}});
        spec["template"] = json!({"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let mut object: Deployment = serde_json::from_value(
            json!({"metadata": {"name": "d", "namespace": "default"}, "spec": spec}),
        )
        .unwrap();
        super::super::defaults::fill_deployment(&mut object);
        deployment(&object).iter().map(|fault| fault.field.clone()).collect()
    }

    #[test]
    fn counts_deadlines_and_strategies() {
        assert_eq!(faults_of(json!({})), Vec::<String>::new());
        assert_eq!(faults_of(json!({"replicas": -1})), ["spec.replicas"]);
        assert_eq!(
            faults_of(json!({"progressDeadlineSeconds": 10, "minReadySeconds": 10})),
            ["spec.progressDeadlineSeconds"]
        );
        assert_eq!(faults_of(json!({"revisionHistoryLimit": -1})), ["spec.revisionHistoryLimit"]);
        let rolling = |update: serde_json::Value| {
            faults_of(json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": update}}))
        };
        assert_eq!(rolling(json!({"maxSurge": "x"})), ["spec.strategy.rollingUpdate.maxSurge"]);
        assert_eq!(
            rolling(json!({"maxUnavailable": "101%"})),
            ["spec.strategy.rollingUpdate.maxUnavailable"]
        );
        assert_eq!(
            rolling(json!({"maxSurge": "0%", "maxUnavailable": 0})),
            ["spec.strategy.rollingUpdate.maxUnavailable"]
        );
        assert_eq!(
            faults_of(json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}})),
            ["spec.strategy.rollingUpdate"]
        );
        assert_eq!(faults_of(json!({"strategy": {"type": "Blue"}})), ["spec.strategy.type"]);
    }
}
