//! Pure: who am I, and what may I: the reviews behind `kubectl auth`. They are answered from the
//! table of rights that every request goes through, and stored nowhere.
//!
//! Imprecise on purpose: a right that hangs on the stored object (is the pod bound to this node) is
//! answered as if it were given, because a review names no object's state.

use serde_json::{Value, json};

use crate::api::access::{Identity, Part, Verb};
use crate::api::discovery::{self, Resource, Unstored};
use crate::api::protobuf::{self, Malformed};
use crate::api::request;
use crate::object::{ApiError, Key, Kind, Reason};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// May I do this one thing? `kubectl auth can-i`
    Access,
    /// What may I do? `kubectl auth can-i --list`
    Rules,
    /// Who am I? `kubectl auth whoami`
    Subject,
}

const AUTHORIZATION: &str = "authorization.k8s.io/v1";
const EVERY_VERB: [Verb; 7] =
    [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];
/// `ResourceAttributes` in `authorization/v1/generated.proto`.
const RESOURCE_FIELDS: [(u64, &str); 7] = [
    (1, "namespace"),
    (2, "verb"),
    (3, "group"),
    (4, "version"),
    (5, "resource"),
    (6, "subresource"),
    (7, "name"),
];
/// What `kubectl auth can-i --list` shows beside resources.
const READABLE_PATHS: [&str; 12] = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

/// The review that a path names, and the version it is asked in. whoami of kubectl 1.27 speaks
/// v1beta1, which is the same and which discovery does not tell of.
pub fn at(path: &str) -> Option<(Review, &'static str)> {
    match path.trim_end_matches('/') {
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => {
            Some((Review::Access, AUTHORIZATION))
        }
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews" => {
            Some((Review::Rules, AUTHORIZATION))
        }
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => {
            Some((Review::Subject, "authentication.k8s.io/v1"))
        }
        "/apis/authentication.k8s.io/v1beta1/selfsubjectreviews" => {
            Some((Review::Subject, "authentication.k8s.io/v1beta1"))
        }
        _ => None,
    }
}

impl Review {
    /// The `spec` of a body in protobuf.
    ///
    /// # Errors
    /// A body that is none.
    pub fn spec_of_protobuf(self, body: &[u8]) -> Result<Value, Malformed> {
        let spec = protobuf::part(protobuf::enveloped(body)?, 2)?;
        match self {
            Self::Subject => Ok(json!({})),
            Self::Rules => protobuf::strings(spec, &[(1, "namespace")]),
            Self::Access => {
                let mut read = json!({});
                for (number, name, names) in [
                    (1, "resourceAttributes", &RESOURCE_FIELDS[..]),
                    (2, "nonResourceAttributes", &[(1, "path"), (2, "verb")][..]),
                ] {
                    let attributes = protobuf::part(spec, number)?;
                    if !attributes.is_empty() {
                        read[name] = protobuf::strings(attributes, names)?;
                    }
                }
                Ok(read)
            }
        }
    }

    /// The whole answer. `refusal` is the sentence for writes of those who only read.
    ///
    /// # Errors
    /// `Invalid` for an access review that asks for nothing or for two things.
    pub fn answer(
        self,
        api_version: &str,
        spec: &Value,
        who: &Identity,
        refusal: &str,
    ) -> Result<Value, ApiError> {
        let (kind, status) = match self {
            Self::Access => {
                let status = match asked(spec)? {
                    Asked::Path(attributes) => may_read(attributes, who, refusal),
                    Asked::Resource(attributes) => may(attributes, who, refusal),
                };
                let status = match status {
                    Ok(()) => json!({"allowed": true}),
                    Err(reason) => json!({"allowed": false, "reason": reason}),
                };
                ("SelfSubjectAccessReview", status)
            }
            Self::Rules => ("SelfSubjectRulesReview", rules(spec, who)),
            Self::Subject => (
                "SelfSubjectReview",
                json!({"userInfo": {"username": who.name(), "groups": who.groups()}}),
            ),
        };
        let mut body =
            json!({"kind": kind, "apiVersion": api_version, "metadata": {}, "status": status});
        if self != Self::Subject {
            body["spec"] = spec.clone();
        }
        Ok(body)
    }
}

enum Asked<'a> {
    Resource(&'a Value),
    Path(&'a Value),
}

fn asked(spec: &Value) -> Result<Asked<'_>, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, false) => Ok(Asked::Resource(resource)),
        (false, true) => Ok(Asked::Path(path)),
        _ => Err(ApiError::new(
            Reason::Invalid,
            "spec: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

fn text<'a>(attributes: &'a Value, name: &str) -> &'a str {
    attributes[name].as_str().unwrap_or_default()
}

fn may_read(attributes: &Value, who: &Identity, refusal: &str) -> Result<(), String> {
    match text(attributes, "verb") {
        "get" | "head" => Ok(()),
        _ if who.only_reads() => Err(refusal.to_owned()),
        verb => Err(format!("no path is served for {verb}")),
    }
}

fn may(attributes: &Value, who: &Identity, refusal: &str) -> Result<(), String> {
    let (group, resource) = (text(attributes, "group"), text(attributes, "resource"));
    let (verb, sub) = (text(attributes, "verb"), text(attributes, "subresource"));
    let verbs: Vec<Verb> = match verb {
        "*" => EVERY_VERB.to_vec(),
        "deletecollection" => vec![Verb::Delete],
        verb => EVERY_VERB.into_iter().filter(|one| one.as_str() == verb).collect(),
    };
    if verbs.is_empty() {
        return Err(format!("the verb {verb} is not served"));
    }
    let is_meant = |one: &str, asked: &str| asked == "*" || asked == one;
    let kinds: Vec<Kind> = Kind::all()
        .filter(|kind| is_meant(kind.row().group, group) && is_meant(kind.row().plural, resource))
        .collect();
    let key = Key::new(text(attributes, "namespace"), text(attributes, "name"));
    if kinds.is_empty() {
        let mut unstored = discovery::UNSTORED
            .iter()
            .filter(|one| is_meant(one.group, group) && is_meant(one.plural, resource));
        let served = |one: &&Unstored| one.verbs.contains(&verb) && matches!(sub, "" | "*");
        let one = unstored.find(served).ok_or_else(|| {
            format!("no resource {resource} of group {group:?} is served for {verb}")
        })?;
        return match verbs.iter().all(|verb| may_unstored(one, *verb, &key, who)) {
            true => Ok(()),
            false => Err(refusal.to_owned()),
        };
    }
    for kind in kinds {
        let part = match sub {
            "" | "*" => Part::Whole,
            sub => request::part(kind, sub)
                .ok_or_else(|| format!("{}/{sub} is not served", kind.row().plural))?,
        };
        for verb in &verbs {
            who.may(*verb, kind, part, &key).map_err(|error| match who.only_reads() {
                true => refusal.to_owned(),
                false => error.message,
            })?;
        }
    }
    Ok(())
}

/// What is made of stored kinds is as open as they are; a review is everybody's.
fn may_unstored(one: &Unstored, verb: Verb, key: &Key, who: &Identity) -> bool {
    one.made_of.iter().all(|kind| who.may(verb, *kind, Part::Whole, key).is_ok())
}

/// One rule a group and set of verbs, in the order of discovery.
fn rules(spec: &Value, who: &Identity) -> Value {
    let namespace = text(spec, "namespace");
    let mut rules: Vec<(&str, Vec<&str>, Vec<String>)> = Vec::new();
    for (group, version) in discovery::group_versions() {
        for resource in discovery::resources(group, version) {
            let verbs = verbs_of(&resource, group, version, namespace, who);
            if verbs.is_empty() {
                continue;
            }
            match rules.iter_mut().find(|(of, with, _)| *of == group && *with == verbs) {
                Some((_, _, resources)) => resources.push(resource.name),
                None => rules.push((group, verbs, vec![resource.name])),
            }
        }
    }
    let rules: Vec<Value> = rules
        .into_iter()
        .map(|(group, verbs, resources)| {
            json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
        })
        .collect();
    json!({
        "resourceRules": rules,
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": READABLE_PATHS}],
        "incomplete": false,
    })
}

fn verbs_of(
    resource: &Resource,
    group: &str,
    version: &str,
    namespace: &str,
    who: &Identity,
) -> Vec<&'static str> {
    let (plural, sub) = resource.name.split_once('/').unwrap_or((&resource.name, ""));
    let key = Key::new(namespace, "");
    let verb_of = |name: &str| {
        // Who may delete each may delete all.
        let name = if name == "deletecollection" { "delete" } else { name };
        EVERY_VERB.into_iter().find(|verb| verb.as_str() == name)
    };
    let stored = Kind::of_resource(group, version, plural);
    let unstored =
        discovery::UNSTORED.iter().find(|one| one.group == group && one.plural == plural);
    let allowed = |name: &&str| {
        verb_of(name).is_some_and(|verb| match (stored, unstored) {
            (Some(kind), _) => {
                let part =
                    if sub.is_empty() { Some(Part::Whole) } else { request::part(kind, sub) };
                part.is_some_and(|part| who.may(verb, kind, part, &key).is_ok())
            }
            (None, Some(one)) => may_unstored(one, verb, &key, who),
            (None, None) => false,
        })
    };
    resource.verbs.iter().copied().filter(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(who: &Identity, attributes: Value) -> Value {
        let spec = json!({"resourceAttributes": attributes});
        let answer = Review::Access.answer(AUTHORIZATION, &spec, who, "through Git");
        answer.expect("a question")["status"].take()
    }

    #[test]
    fn a_review_is_what_a_request_would_meet() {
        let ask = |verb: &str, resource: &str, sub: &str| json!({"verb": verb, "resource": resource, "subresource": sub, "namespace": "a"});
        let reader = |attributes| access(&Identity::Reader, attributes);
        assert_eq!(reader(ask("list", "pods", "")), json!({"allowed": true}));
        assert_eq!(reader(ask("get", "pods", "log")), json!({"allowed": true}));
        assert_eq!(
            reader(ask("create", "pods", "")),
            json!({"allowed": false, "reason": "through Git"})
        );
        assert_eq!(reader(ask("get", "pods", "exec"))["allowed"], false);
        assert_eq!(reader(ask("get", "things", ""))["allowed"], false);
        assert_eq!(reader(ask("fly", "pods", ""))["allowed"], false);
        assert_eq!(reader(ask("*", "*", ""))["allowed"], false);
        let mut all = ask("*", "*", "");
        all["group"] = json!("*");
        assert_eq!(access(&Identity::Admin, all)["allowed"], true);
        let agent = Identity::NodeAgent { node: "n1".to_owned() };
        let node = |name: &str| json!({"verb": "patch", "resource": "nodes", "name": name});
        assert_eq!(access(&agent, node("n1"))["allowed"], true);
        assert_eq!(access(&agent, node("n2"))["allowed"], false);
    }

    #[test]
    fn nothing_asked_is_no_review() {
        let both = json!({"resourceAttributes": {}, "nonResourceAttributes": {}});
        for spec in [json!({}), Value::Null, both] {
            let answer = Review::Access.answer(AUTHORIZATION, &spec, &Identity::Reader, "");
            assert_eq!(answer.unwrap_err().reason, Reason::Invalid);
        }
    }

    #[test]
    fn the_rules_of_a_reader_are_reads() {
        let answer = Review::Rules.answer(
            AUTHORIZATION,
            &json!({"namespace": "a"}),
            &Identity::Reader,
            "through Git",
        );
        let status = answer.expect("rules")["status"].take();
        let rules = status["resourceRules"].as_array().expect("rules").clone();
        let of = |resource: &str| {
            let has = |rule: &&Value| {
                rule["resources"].as_array().is_some_and(|all| all.contains(&json!(resource)))
            };
            rules.iter().find(has).map(|rule| rule["verbs"].clone())
        };
        assert_eq!(of("pods"), Some(json!(["get", "list", "watch"])));
        assert_eq!(of("pods/log"), Some(json!(["get"])));
        assert_eq!(of("pods/binding"), None);
        assert_eq!(of("selfsubjectaccessreviews"), Some(json!(["create"])));
    }
}
