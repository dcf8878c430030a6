//! Pure: the hosts file of a pod whose sandbox was made before it, or which has a domain. The engine writes
//! one for every other sandbox when it makes it; this one is the kubelet's (`kubelet_pods.go`, managedHostsFileContent).

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

use crate::node::host_name::HostName;

/// The whole content: localhost, the pod's own names, and its `hostAliases`.
pub fn hosts_file(pod: &Pod, address: Ipv4Addr) -> String {
    let own = HostName::of(pod);
    let names = own.full().map_or(own.name.clone(), |full| format!("{full}\t{}", own.name));
    let mut text = format!(
        "# Managed by Ballast.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n\
         {address}\t{names}\n"
    );
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    for (index, alias) in aliases.enumerate() {
        if index == 0 {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{}", alias.ip, names.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_names_the_pod_and_its_aliases() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {
            "hostname": "front", "subdomain": "web", "containers": [], "hostAliases": [
                {"ip": "10.1.2.3", "hostnames": ["a.example", "b.example"]},
                {"ip": "fd00::7", "hostnames": ["c.example"]}]}}),
        )
        .expect("a pod");
        let text = hosts_file(&pod, Ipv4Addr::new(10, 42, 0, 9));
        assert!(text.contains("127.0.0.1\tlocalhost\n"));
        let end = "10.42.0.9\tfront.web.shop.svc.cluster.local\tfront\n\n# Entries added by HostAliases.\n10.1.2.3\ta.example\tb.example\nfd00::7\tc.example\n";
        assert!(text.ends_with(end), "{text}");
        let plain = serde_json::from_value(json!({"metadata": {"name": "p"}})).expect("a pod");
        let plain = hosts_file(&plain, Ipv4Addr::LOCALHOST);
        assert!(plain.ends_with("127.0.0.1\tp\n") && !plain.contains("HostAliases"));
    }
}
