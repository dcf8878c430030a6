//! Pure: what is wrong with what is done to a running container: its hooks, its stop signal and its probes
//! (`validateLifecycle`, `validateProbe`, `validateHandler`).

use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, Probe,
};

use super::admit::{Fault, Faults};
use super::field_path::{FieldPath, quoted};
use super::metadata_validation::not_negative;
use super::pod_validation::one_of;
use super::service_validation::{port_number, port_reference};
use super::stop_signal::STOP_SIGNALS;

const HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const ONE_HANDLER: &str = "may not specify more than 1 handler type";

pub fn lifecycle_faults(lifecycle: &Lifecycle, spec: &PodSpec, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let grace = spec.termination_grace_period_seconds;
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            faults.extend(hook_faults(hook, grace, &path.child(field)));
        }
    }
    if let Some(signal) = lifecycle.stop_signal.as_deref().filter(|signal| !signal.is_empty()) {
        let path = path.child("stopSignal");
        if spec.os.is_none() {
            let detail = "may not be set for containers with empty `spec.os.name`";
            faults.push(path.forbidden(detail));
        } else if !STOP_SIGNALS.contains(&signal) {
            faults.push(path.not_supported(signal, &STOP_SIGNALS));
        }
    }
    faults
}

fn hook_faults(hook: &LifecycleHandler, grace: Option<i64>, path: &FieldPath<'_>) -> Faults {
    let probe = Probe {
        exec: hook.exec.clone(),
        http_get: hook.http_get.clone(),
        tcp_socket: hook.tcp_socket.clone(),
        ..Probe::default()
    };
    if let Some(pause) = &hook.sleep {
        let path = path.child("sleep");
        if probe != Probe::default() {
            return vec![path.forbidden(ONE_HANDLER)];
        }
        let grace = grace.unwrap_or(i64::MAX);
        return if (0..=grace).contains(&pause.seconds) {
            Faults::new()
        } else {
            let detail = format!(
                "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
            );
            vec![path.invalid(pause.seconds.to_string(), detail)]
        };
    }
    handler_faults(&probe, path)
}

pub fn probes(container: &Container, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if let Some(probe) = &container.liveness_probe {
        let path = path.child("livenessProbe");
        faults.extend(probe_faults(probe, &path));
        faults.extend(one_success(probe, &path));
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        faults.extend(probe_faults(probe, &path));
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let field = path.child("terminationGracePeriodSeconds");
            faults.push(field.invalid(seconds.to_string(), "must not be set for readinessProbes"));
        }
    }
    if let Some(probe) = &container.startup_probe {
        let path = path.child("startupProbe");
        faults.extend(probe_faults(probe, &path));
        faults.extend(one_success(probe, &path));
    }
    faults
}

fn one_success(probe: &Probe, path: &FieldPath<'_>) -> Option<Fault> {
    let threshold = probe.success_threshold.unwrap_or(0);
    (threshold != 1)
        .then(|| path.child("successThreshold").invalid(threshold.to_string(), "must be 1"))
}

fn probe_faults(probe: &Probe, path: &FieldPath<'_>) -> Faults {
    let mut faults = handler_faults(probe, path);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        faults.extend(not_negative(value.map(i64::from), &path.child(field)));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let field = path.child("terminationGracePeriodSeconds");
        faults.push(field.invalid(seconds.to_string(), "must be greater than 0"));
    }
    faults
}

fn handler_faults(probe: &Probe, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    let mut seen = false;
    let mut handler = |field: &str, set: bool, own: &dyn Fn(&FieldPath<'_>) -> Faults| {
        if !set {
            return;
        }
        let path = path.child(field);
        if seen {
            faults.push(path.forbidden(ONE_HANDLER));
        } else {
            seen = true;
            faults.extend(own(&path));
        }
    };
    handler("exec", probe.exec.is_some(), &|path| {
        let command = probe.exec.as_ref().and_then(|exec| exec.command.as_ref());
        if command.is_none_or(|command| command.is_empty()) {
            return vec![path.child("command").required("")];
        }
        Faults::new()
    });
    handler("httpGet", probe.http_get.is_some(), &|path| {
        probe.http_get.iter().flat_map(|action| http_faults(action, path)).collect()
    });
    handler("tcpSocket", probe.tcp_socket.is_some(), &|path| {
        let field = path.child("port");
        probe.tcp_socket.iter().flat_map(|action| port_reference(&action.port, &field)).collect()
    });
    handler("grpc", probe.grpc.is_some(), &|path| {
        probe.grpc.iter().flat_map(|action| port_number(action.port, &path.child("port"))).collect()
    });
    if !seen {
        faults.push(path.required("must specify a handler type"));
    }
    faults
}

fn http_faults(action: &HTTPGetAction, path: &FieldPath<'_>) -> Faults {
    let mut faults = Faults::new();
    if action.path.as_deref().unwrap_or_default().is_empty() {
        faults.push(path.child("path").required(""));
    }
    faults.extend(port_reference(&action.port, &path.child("port")));
    let scheme = action.scheme.as_deref().unwrap_or_default();
    faults.extend(one_of(scheme, &["HTTP", "HTTPS"], &path.child("scheme")));
    for header in action.http_headers.iter().flatten() {
        let good = !header.name.is_empty()
            && header.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !good {
            faults.push(path.child("httpHeaders").invalid(quoted(&header.name), HEADER_NAME));
        }
    }
    faults
}
