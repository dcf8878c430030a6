//! Pure: what a pod is called inside: its host name, and the domain that its `subdomain` puts it in.
//!
//! The kubelet's rules (`kubelet_pods.go` GeneratePodHostNameAndDomain, `util.go` GetNodenameForKernel).
//! There is no cluster DNS: the full name is in the pod's own hosts file and, where
//! `setHostnameAsFQDN` says so, what the kernel answers.

use k8s_openapi::api::core::v1::Pod;

use crate::object::Object;

/// The kubelet's default `clusterDomain`.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// A label of DNS.
const LONGEST_NAME: usize = 63;
/// What the kernel keeps.
const LONGEST_IN_KERNEL: usize = 64;

/// What a pod is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    pub name: String,
    /// `SUBDOMAIN.NAMESPACE.svc.cluster.local`; `None`: it has none.
    pub domain: Option<String>,
}

impl HostName {
    /// `hostnameOverride` is the whole name; else it is `hostname`, or the pod's own name.
    pub fn of(pod: &Pod) -> Self {
        let (spec, key) = (pod.spec.clone().unwrap_or_default(), pod.key());
        let written = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(name) = written(spec.hostname_override) {
            return Self { name: cut(&name), domain: None };
        }
        let name = written(spec.hostname).unwrap_or(key.name);
        let domain = written(spec.subdomain)
            .map(|subdomain| format!("{subdomain}.{}.svc.{CLUSTER_DOMAIN}", key.namespace));
        Self { name: cut(&name), domain }
    }

    /// `NAME.SUBDOMAIN.NAMESPACE.svc.cluster.local`, where it has a domain.
    pub fn full(&self) -> Option<String> {
        Some(format!("{}.{}", self.name, self.domain.as_ref()?))
    }
}

fn cut(name: &str) -> String {
    let cut: String = name.chars().take(LONGEST_NAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// What the kernel is told.
///
/// # Errors
/// The kubelet's sentence where the full name is asked for and is too long.
pub fn in_kernel(pod: &Pod) -> Result<String, String> {
    let asked = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let own = HostName::of(pod);
    match own.full().filter(|_| asked) {
        None => Ok(own.name),
        Some(full) if full.len() <= LONGEST_IN_KERNEL => Ok(full),
        Some(full) => Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({LONGEST_IN_KERNEL} characters is the max, {} characters requested)",
            full.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value) -> Pod {
        let meta = json!({"name": name, "namespace": "shop"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a pod")
    }

    fn called(name: &str, mut spec: Value) -> (Result<String, String>, Option<String>) {
        spec["containers"] = json!([]);
        let pod = pod(name, spec);
        (in_kernel(&pod), HostName::of(&pod).full())
    }

    #[test]
    fn names_are_the_kubelets() {
        let full = |name: &str| Some(format!("{name}.web.shop.svc.cluster.local"));
        assert_eq!(called("p-1", json!({})), (Ok("p-1".into()), None));
        assert_eq!(called("p-1", json!({"hostname": "front"})), (Ok("front".into()), None));
        let of_web = json!({"hostname": "front", "subdomain": "web"});
        assert_eq!(called("p-1", of_web), (Ok("front".into()), full("front")));
        assert_eq!(called("p-1", json!({"subdomain": "web"})), (Ok("p-1".into()), full("p-1")));
        let in_kernel = json!({"subdomain": "web", "setHostnameAsFQDN": true});
        assert_eq!(called("p-1", in_kernel), (Ok(full("p-1").expect("one")), full("p-1")));
        // Without a subdomain there is nothing to add.
        assert_eq!(called("p-1", json!({"setHostnameAsFQDN": true})), (Ok("p-1".into()), None));
        // An override wins over both, and has no domain.
        let other =
            json!({"hostname": "front", "subdomain": "web", "hostnameOverride": "a.example"});
        assert_eq!(called("p-1", other), (Ok("a.example".into()), None));
        let long = "a".repeat(61) + "-.b";
        assert_eq!(called(&long, json!({})), (Ok("a".repeat(61)), None));
    }

    #[test]
    fn a_full_name_that_the_kernel_does_not_hold_is_refused_in_the_kubelets_words() {
        let spec = json!({"subdomain": "web", "setHostnameAsFQDN": true});
        // 64 characters with the domain's 29.
        let most = "a".repeat(64 - ".web.shop.svc.cluster.local".len());
        assert_eq!(called(&most, spec.clone()).0.expect("it fits").len(), 64);
        let refused = called(&format!("{most}a"), spec).0.expect_err("65");
        assert_eq!(
            refused,
            format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {most}a.web.shop.svc.cluster.local is too long (64 characters is the max, 65 characters requested)"
            )
        );
    }
}
