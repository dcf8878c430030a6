//! What the kernel needs for Services between pods of one bridge: forwarding, bridges that pass
//! iptables (`bridge-nf-call-iptables`), and ports that send a frame back to where it came from.
//!
//! Why: a pod's packet to a service is translated to its neighbour's address, and the neighbour's
//! reply goes straight over the bridge. Only if the bridge shows it to iptables it is translated
//! back. Where a host refuses the parameter, such traffic is masqueraded instead
//! ([`super::ruleset`]).
//!
//! The parameters hold for the whole network namespace, for every bridge in it, as with Docker
//! Swarm and every Kubernetes network. `route_localnet` is never touched.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use tracing::{debug, info, warn};

use super::kernel::BridgeFacts;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Sets what is missing and tells what the host refused. `keep_sysctls`: only looks at them.
pub async fn prepare(bridge: &str, keep_sysctls: bool) -> BridgeFacts {
    let mut refused = Vec::new();
    if !keep_sysctls && !Path::new(BRIDGE_FILTER).exists() {
        // A module on most distributions; where it is built in or forbidden, modprobe just fails.
        let _ = Command::new("modprobe").arg("br_netfilter").output().await;
    }
    if let Err(why) = switch_on(FORWARD, keep_sysctls).await {
        refused.push(format!(
            "net.ipv4.ip_forward stays off ({why}): pods reach only their own bridge"
        ));
    }
    let filter = switch_on(BRIDGE_FILTER, keep_sysctls).await;
    if let Err(why) = &filter {
        refused.push(format!(
            "net.bridge.bridge-nf-call-iptables stays off ({why}): service traffic between pods of this node is masqueraded"
        ));
    }
    if let Err(why) = hairpin(bridge).await {
        refused.push(format!(
            "hairpin mode of {bridge} not set ({why}): a pod cannot reach itself through a service"
        ));
    }
    BridgeFacts { filtered: filter.is_ok(), refused }
}

async fn switch_on(path: &str, only_look: bool) -> Result<(), String> {
    match tokio::fs::read_to_string(path).await {
        Ok(value) if value.trim() != "0" => return Ok(()),
        Ok(_) if only_look => return Err("left as it is".to_owned()),
        Ok(_) => {}
        Err(error) => return Err(error.to_string()),
    }
    tokio::fs::write(path, "1").await.map_err(|error| error.to_string())?;
    info!(parameter = path, "kernel parameter switched on");
    Ok(())
}

/// `ip` sees the daemon's own network namespace, also where `/sys` is another one's; where it is not
/// installed `/sys` does. A bridge that does not exist yet has no ports to set.
async fn hairpin(bridge: &str) -> Result<(), String> {
    let listed = Command::new("ip").args(["-d", "-o", "link", "show", "master", bridge]).output();
    let listed = match listed.await {
        Ok(output) if output.status.success() => output.stdout,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return hairpin_by_sysfs(bridge).await,
        Err(error) => return Err(error.to_string()),
    };
    let mut failures = Vec::new();
    for port in ports_without_hairpin(&String::from_utf8_lossy(&listed)) {
        let set = ["link", "set", "dev", &port, "type", "bridge_slave", "hairpin", "on"];
        match Command::new("ip").args(set).output().await {
            Ok(output) if output.status.success() => debug!(port, "hairpin mode on"),
            // The pod ended meanwhile, or we may not: the next pass will tell.
            Ok(output) => failures.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// The ports among `ip -d -o link`'s lines (`7: veth1@if6: <…> … hairpin off …`) that are to be set.
fn ports_without_hairpin(lines: &str) -> Vec<String> {
    let off = lines.lines().filter(|line| line.contains(" hairpin off "));
    off.filter_map(|line| {
        let name = line.split(": ").nth(1)?;
        Some(name.split('@').next().unwrap_or(name).to_owned())
    })
    .collect()
}

async fn hairpin_by_sysfs(bridge: &str) -> Result<(), String> {
    let folder = PathBuf::from("/sys/class/net").join(bridge).join("brif");
    let Ok(mut ports) = tokio::fs::read_dir(&folder).await else { return Ok(()) };
    while let Ok(Some(port)) = ports.next_entry().await {
        let mode = port.path().join("hairpin_mode");
        if let Err(error) = tokio::fs::write(&mode, "1").await {
            warn!(port = ?port.file_name(), %error, "hairpin mode not set");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_ips_lines() {
        let lines = "7: veth1@if6: <BROADCAST,UP> mtu 1500 master b0 state UP \\    link/ether 1a:2b promiscuity 1 \\    bridge_slave state forwarding hairpin off guard off \n\
            9: veth2@if8: <BROADCAST,UP> mtu 1500 master b0 \\    bridge_slave state forwarding hairpin on guard off \n";
        assert_eq!(ports_without_hairpin(lines), ["veth1"]);
    }
}
