//! What the API tells about itself on `/metrics`: requests over HTTP as `ballast_api_…`, deliveries
//! of webhooks as `ballast_webhook_…`. Rooms of this process come in by the inner skin and are not
//! counted here: what they write is in `ballast_store_…`.

use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::api::access::Part;
use crate::api::endpoints::{self, Wanted};
use crate::api::query;
use crate::api::request::Target;
use crate::measure::{Counters, Timers, at_zero, label, quick_timers};

/// Counted whether or not anybody registered them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Counters<3>,
    seconds: Timers<1>,
    watches: Gauge,
    watch_lines: Counter,
    watch_lines_rendered: Counter,
    given_up: Counter,
    deliveries: Counters<1>,
}

impl Default for Metrics {
    fn default() -> Self {
        let deliveries = Counters::default();
        at_zero(&deliveries, "result", &["accepted", "unauthorized", "unknown", "failed"]);
        Self {
            requests: Counters::default(),
            seconds: quick_timers(),
            watches: Gauge::default(),
            watch_lines: Counter::default(),
            watch_lines_rendered: Counter::default(),
            given_up: Counter::default(),
            deliveries,
        }
    }
}

/// What a request wants, in Kubernetes' words: of each there are as many as the API serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    verb: &'static str,
    /// `pods`, `deployments.apps/scale`; `none` outside the resources.
    resource: String,
}

impl Asked {
    pub fn of(method: &Method, target: Option<&Target>, uri: &Uri) -> Self {
        let (path, query) = (uri.path(), uri.query());
        let (resource, whole) = match target {
            Some(Target::Collection { kind, .. }) => (kind.qualified_resource(), false),
            Some(Target::Object { kind, part, .. }) => {
                (format!("{}{}", kind.qualified_resource(), suffix(*part)), true)
            }
            Some(Target::Unknown) => match endpoints::wanted(path) {
                Some(wanted) => ("endpoints".to_owned(), matches!(wanted, Wanted::One(_))),
                None => ("none".to_owned(), true),
            },
            None => ("none".to_owned(), true),
        };
        let verb = match *method {
            Method::GET | Method::HEAD if !whole && query::asks_for_watch(query) => "watch",
            Method::GET | Method::HEAD => match whole {
                true => "get",
                false => "list",
            },
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => match whole {
                true => "delete",
                false => "deletecollection",
            },
            _ => "other",
        };
        Self { verb, resource }
    }
}

fn suffix(part: Part) -> &'static str {
    match part {
        Part::Whole => "",
        Part::Status => "/status",
        Part::Scale => "/scale",
        Part::Binding => "/binding",
        Part::Log => "/log",
        Part::Finalize => "/finalize",
        Part::Exec => "/exec",
        Part::Attach => "/attach",
        Part::PortForward => "/portforward",
        Part::EphemeralContainers => "/ephemeralcontainers",
    }
}

/// A watch that is open; dropped with its stream.
#[derive(Debug)]
pub(crate) struct OpenWatch(Gauge);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A request is answered, or a stream of answers began.
    pub(crate) fn answered(&self, asked: Asked, code: StatusCode, took: Duration) {
        let verb = label("verb", asked.verb);
        let resource = label("resource", asked.resource);
        let code = ("code", code.as_str().to_owned().into());
        self.seconds.get_or_create(std::array::from_ref(&verb)).observe(took.as_secs_f64());
        self.requests.get_or_create(&[verb, resource, code]).inc();
    }

    /// Counts a watch until the answer is dropped.
    pub(crate) fn watching(&self) -> OpenWatch {
        self.watches.inc();
        OpenWatch(self.watches.clone())
    }

    /// A watch has an object to tell of.
    pub(crate) fn watch_line(&self) {
        self.watch_lines.inc();
    }

    /// It was written out for this: no other watch had it yet.
    pub(crate) fn watch_line_rendered(&self) {
        self.watch_lines_rendered.inc();
    }

    /// Where clients that do not read are counted.
    pub(crate) fn given_up(&self) -> &Counter {
        &self.given_up
    }

    /// A webhook's delivery is answered. Whose it was stands in a URL that anybody may write, so it is
    /// no label.
    pub(crate) fn delivered(&self, code: StatusCode) {
        let result = match code {
            StatusCode::ACCEPTED => "accepted",
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::NOT_FOUND => "unknown",
            _ => "failed",
        };
        self.deliveries.get_or_create(&[label("result", result)]).inc();
    }

    /// Puts them under their names.
    pub fn register(&self, registry: &mut Registry) {
        let api = registry.sub_registry_with_prefix("ballast_api");
        api.register(
            "requests",
            "Requests over HTTP, by Kubernetes' verb, resource and the answer's code",
            self.requests.clone(),
        );
        api.register(
            "request_seconds",
            "Time until the answer began; of a watch or followed log, until its stream did",
            self.seconds.clone(),
        );
        api.register("watches", "Open watches over HTTP", self.watches.clone());
        api.register(
            "watch_lines",
            "Objects that watches over HTTP told of",
            self.watch_lines.clone(),
        );
        api.register(
            "watch_lines_rendered",
            "Those of them that were written out for it: the others had been for another watch",
            self.watch_lines_rendered.clone(),
        );
        api.register(
            "slow_readers",
            "Connections closed because the client did not read its answer",
            self.given_up.clone(),
        );
        let webhook = registry.sub_registry_with_prefix("ballast_webhook");
        webhook.register(
            "requests",
            "Deliveries of webhooks: accepted, unauthorized (bad signature), unknown (no such source, or no secret) or failed",
            self.deliveries.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::target;

    #[test]
    fn requests_are_told_in_kubernetes_words() {
        for (method, uri, verb, resource) in [
            (Method::GET, "/api/v1/pods", "list", "pods"),
            (Method::GET, "/api/v1/pods?watch=1", "watch", "pods"),
            (Method::GET, "/api/v1/pods?watch=false", "list", "pods"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "get", "pods/log"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/b/scale",
                "patch",
                "deployments.apps/scale",
            ),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection", "pods"),
            // Made of others, and counted as what it is.
            (Method::GET, "/api/v1/endpoints?watch=1", "watch", "endpoints"),
            (Method::GET, "/api/v1/namespaces/a/endpoints/b", "get", "endpoints"),
            // What a stranger makes up is one series.
            (Method::GET, "/api/v1/whatever", "get", "none"),
            (Method::GET, "/wp-login.php", "get", "none"),
            (Method::TRACE, "/api/v1/pods", "other", "pods"),
        ] {
            let uri: Uri = uri.parse().expect("a URI");
            let asked = Asked::of(&method, target(uri.path()).as_ref(), &uri);
            assert_eq!(asked, Asked { verb, resource: resource.to_owned() }, "{method} {uri}");
        }
    }
}
