//! Pure: the container layer of drift: what the engine runs against what the pods say.
//!
//! Compared are existence, whether it runs, and the settings that can change from outside
//! ([`Settings`]). Not compared: what a host may refuse (`oom_score_adj`, a limit its control groups
//! cannot hold), and environment that ConfigMaps, Secrets or Services filled in when the container
//! was made: by Kubernetes' rule a later change of those reaches the next container only.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::node::capacity::Limits;
use crate::node::container_spec::{self, spec_hash};
use crate::node::instance::{Instance, Role, Settings};
use crate::node::memory::Memory;
use crate::node::pod_plan::{self, View};
use crate::object::drift::{Class, DriftObject};
use crate::object::ledger::{Difference, Examined, FIGHT_HEALS, FIGHT_SECONDS, Response};
use crate::object::{Kind, Object};

/// A first start that is not done after this long is a Drift: the default progress deadline of a
/// Deployment.
const START_DEADLINE: SignedDuration = SignedDuration::from_secs(600);

/// One setting that is not what the manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// `env[A]`, `resources.limits.memory`
    pub field: String,
    pub wanted: String,
    pub actual: String,
}

/// Every setting that differs, as far as the host can hold it.
pub fn changed(wanted: &Settings, actual: &Settings, limits: Limits) -> Vec<Changed> {
    let mut found = Vec::new();
    let mut differ = |field: &str, wanted: String, actual: String| {
        if wanted != actual {
            found.push(Changed { field: field.to_owned(), wanted, actual });
        }
    };
    if limits.memory {
        let of = |bytes: i64| if bytes > 0 { bytes.to_string() } else { "unlimited".to_owned() };
        differ("resources.limits.memory", of(wanted.memory), of(actual.memory));
        if limits.swap && wanted.memory > 0 && wanted.memory == actual.memory {
            differ("memory+swap", of(wanted.memory_swap), of(actual.memory_swap));
        }
    }
    if limits.cpu_shares {
        differ("cpu shares", wanted.cpu_shares.to_string(), actual.cpu_shares.to_string());
    }
    if limits.cpu_quota {
        let of = |quota: i64| {
            if quota > 0 { format!("{quota}us/100ms") } else { "unlimited".to_owned() }
        };
        differ("resources.limits.cpu", of(wanted.cpu_quota), of(actual.cpu_quota));
    }
    differ("restart policy", wanted.restart_policy.clone(), actual.restart_policy.clone());
    let actual_env: BTreeMap<&str, &str> =
        actual.env.iter().filter_map(|pair| pair.split_once('=')).collect();
    for (name, value) in wanted.env.iter().filter_map(|pair| pair.split_once('=')) {
        let actual = actual_env.get(name).copied().unwrap_or("(none)");
        differ(&format!("env[{name}]"), value.to_owned(), actual.to_owned());
    }
    found
}

/// What a container's running instance has in place of what the manifest says.
pub fn changed_settings(
    container: &Container,
    instance: &Instance,
    limits: Limits,
) -> Vec<Changed> {
    changed(&container_spec::wanted_settings(container), &instance.settings, limits)
}

/// Whether making this container anew once more would only feed a fight.
pub fn may_heal(memory: &Memory, container: &str, now: Timestamp) -> bool {
    let recent =
        |at: &&Timestamp| now.duration_since(**at) < SignedDuration::from_secs(FIGHT_SECONDS);
    !memory.report_only
        && memory
            .heals
            .get(container)
            .is_none_or(|times| times.iter().filter(recent).count() < FIGHT_HEALS)
}

/// The pod as the ledger names it.
pub fn drift_object(pod: &Pod) -> DriftObject {
    let key = pod.key();
    DriftObject {
        kind: Kind::Pod,
        namespace: key.namespace,
        name: key.name,
        uid: pod.uid().to_owned(),
    }
}

/// One pod's comparison. `causes`: what the engine's events told, by instance id; `by_us`: whether
/// we ended that instance, which is no drift.
pub fn examine(
    view: &View<'_>,
    causes: &BTreeMap<String, String>,
    by_us: &dyn Fn(&str) -> bool,
) -> Examined {
    let (pod, instances) = (view.pod, view.instances);
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let statuses = status.container_statuses.unwrap_or_default();
    let finished = pod_plan::finished(pod, instances) || pod.metadata.deletion_timestamp.is_some();
    let response = if view.memory.report_only {
        Response::Report("healing is off: annotation ballast.dev/heal is \"false\"".to_owned())
    } else {
        Response::Heal
    };
    let deadline = pod.metadata.creation_timestamp.as_ref().map(|at| at.0 + START_DEADLINE);
    let mut differences = Vec::new();
    let mut ran_before = false;
    if !finished {
        for container in &spec.containers {
            let stored = statuses.iter().find(|status| status.name == container.name);
            let ran = stored.is_some_and(has_run);
            ran_before |= ran;
            let latest = pod_plan::latest(instances, Role::Container, &container.name);
            if latest.is_some_and(|instance| by_us(&instance.id)) || (latest.is_none() && !ran) {
                // We are at it, or it is on its first way: progress until the pod's deadline.
                let late = deadline.is_some_and(|deadline| view.now >= deadline);
                if !late || latest.is_some() {
                    continue;
                }
            }
            let policy = &spec.restart_policy;
            let compared = compare(container, latest, view.limits, causes, policy, &response);
            differences.extend(compared);
        }
        let sandbox = pod_plan::latest(instances, Role::Sandbox, "");
        if let Some(sandbox) = sandbox.filter(|s| s.started_at.is_some() && !by_us(&s.id))
            && sandbox.ended().is_some()
        {
            differences.push(stopped("sandbox".to_owned(), sandbox, causes, &response));
        }
    }
    for difference in &mut differences {
        difference.deadline = deadline;
    }
    let images = spec.containers.iter().map(|c| c.image.clone().unwrap_or_default());
    Examined {
        object: drift_object(pod),
        wanted_id: images.collect::<Vec<_>>().join(","),
        converged_before: ran_before,
        differences,
    }
}

fn has_run(status: &ContainerStatus) -> bool {
    status.restart_count > 0
        || status.state.as_ref().is_some_and(|state| state.running.is_some())
        || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
}

fn compare(
    container: &Container,
    latest: Option<&Instance>,
    limits: Limits,
    causes: &BTreeMap<String, String>,
    restart_policy: &Option<String>,
    response: &Response,
) -> Vec<Difference> {
    let field = |rest: &str| format!("containers[{}]{rest}", container.name);
    let difference = |class, field, wanted: Option<String>, actual: Option<String>| Difference {
        class,
        field,
        wanted,
        actual,
        origin: None,
        since: None,
        cause: None,
        deadline: None,
        response: response.clone(),
    };
    let Some(instance) = latest else {
        let wanted = container.image.clone();
        return vec![difference(Class::Missing, field(""), wanted, None)];
    };
    if let Some(ended) = instance.ended() {
        let stays_down = match restart_policy.as_deref() {
            Some("Never") => true,
            Some("OnFailure") => ended.exit_code == 0,
            _ => false,
        };
        if stays_down {
            return Vec::new();
        }
        return vec![stopped(field(""), instance, causes, response)];
    }
    if instance.identity.spec_hash != spec_hash(container) {
        let (wanted, actual) = (container.image.clone(), Some(instance.settings.image.clone()));
        return vec![difference(Class::WrongImage, field(".image"), wanted, actual)];
    }
    changed_settings(container, instance, limits)
        .into_iter()
        .map(|changed| {
            let field = field(&format!(".{}", changed.field));
            difference(Class::Changed, field, Some(changed.wanted), Some(changed.actual))
        })
        .collect()
}

fn stopped(
    field: String,
    instance: &Instance,
    causes: &BTreeMap<String, String>,
    response: &Response,
) -> Difference {
    let ended = instance.ended();
    let told = causes.get(&instance.id).cloned();
    let cause = told.or_else(|| {
        let ended = ended.as_ref()?;
        Some(if ended.reason == "OOMKilled" {
            "out of memory".to_owned()
        } else {
            format!("exited with code {}", ended.exit_code)
        })
    });
    Difference {
        class: Class::Stopped,
        field,
        wanted: Some("running".to_owned()),
        actual: ended.as_ref().map(|ended| format!("exited ({})", ended.exit_code)),
        origin: None,
        since: ended.map(|ended| ended.finished_at),
        cause,
        deadline: None,
        response: response.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_the_host_cannot_hold_is_no_drift() {
        let wanted = Settings { memory: 64, memory_swap: 64, ..Settings::default() };
        let actual = Settings::default();
        assert_eq!(changed(&wanted, &actual, Limits::default()), []);
        let limits = Limits { memory: true, swap: true, ..Limits::default() };
        let found = changed(&wanted, &actual, limits);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].wanted, &*found[0].actual), ("64", "unlimited"));
    }

    #[test]
    fn only_variables_of_the_manifest_are_compared() {
        let wanted = Settings { env: vec!["A=1".into()], ..Settings::default() };
        let actual =
            Settings { env: vec!["PATH=/bin".into(), "A=2".into()], ..Settings::default() };
        let found = changed(&wanted, &actual, Limits::default());
        assert_eq!(found.iter().map(|c| &*c.field).collect::<Vec<_>>(), ["env[A]"]);
    }
}
