//! A Service's cluster address and node ports. What is taken is known from the Services' claims
//! when an address is chosen (`admission/addresses.rs` chooses); the store's own check of the claims
//! is what makes it certain, so a choice that lost a race is made again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::api::admission::addresses::{self, Ranges, ip_claim, port_claim};
use crate::api::admission::{Admit, refuse};
use crate::api::verbs::Api;
use crate::object::{ApiError, ApplySet, Kind, SetWrite};
use crate::store::{ListRequest, Store};

/// Which claims are taken; read from the store when the first Service needs them.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Of the same commit, entered with it.
    here: BTreeSet<String>,
    /// Named by manifests of the same commit: not to be drawn by another Service before they come.
    named: BTreeSet<String>,
    /// Of stored Services that the same commit deletes, or that hold it no more after it.
    given_up: BTreeSet<String>,
    stored: Option<BTreeSet<String>>,
}

impl Taken {
    /// For a Service of a commit: what the rest of it holds, what its manifests name, and what it
    /// gives up.
    pub fn in_commit(
        here: BTreeSet<String>,
        named: BTreeSet<String>,
        given_up: BTreeSet<String>,
    ) -> Self {
        Self { here, named, given_up, stored: None }
    }
}

impl<S: Store> Api<S> {
    /// Fills in what a Service leaves open and checks what it names; every other kind is left
    /// alone. `own` are the claims of the stored object.
    ///
    /// # Errors
    /// `Invalid` for an address or port outside its range or taken, or where the range is full.
    pub(crate) fn allocate<K: Admit>(
        &self,
        new: &mut K,
        own: &[String],
        taken: &mut Taken,
    ) -> Result<(), ApiError> {
        if K::OBJECT_KIND != Kind::Service {
            return Ok(());
        }
        let options = self.options();
        let ranges =
            Ranges { services: options.service_range, node_ports: options.node_ports.clone() };
        let claims = taken.stored.get_or_insert_with(|| self.stored_claims());
        let (here, given_up) = (&taken.here, &taken.given_up);
        let is_taken = |claim: &str| {
            let is_free = given_up.contains(claim) || own.iter().any(|own| own == claim);
            here.contains(claim) || claims.contains(claim) && !is_free
        };
        // What is drawn, and not named by this Service, also stays clear of addresses that others
        // may name, while there are any left.
        let asked = addresses::claims(new);
        let reserved = reserved_band(options.service_range);
        let named = &taken.named;
        let kept = |claim: &str| {
            let spoken_for = named.contains(claim) || reserved.contains(claim);
            is_taken(claim) || spoken_for && !asked.iter().any(|own| own == claim)
        };
        let mut random = || {
            u64::from(options.ids.below(u32::MAX)) << 32 | u64::from(options.ids.below(u32::MAX))
        };
        let mut drawn = new.clone();
        let assigned = match addresses::assign(&mut drawn, &ranges, own, &kept, &mut random) {
            Ok(()) => {
                *new = drawn;
                Ok(())
            }
            Err(_) => addresses::assign(new, &ranges, own, &is_taken, &mut random),
        };
        if let Err(faults) = assigned {
            refuse(new, faults)?;
        }
        taken.here.extend(addresses::claims(new));
        Ok(())
    }

    fn stored_claims(&self) -> BTreeSet<String> {
        let request =
            ListRequest { namespace: None, limit: 0, after: None, at: None, select: &|_| true };
        let services = self.store().list(Kind::Service, &request).map(|page| page.items);
        let records = services.unwrap_or_default();
        records.iter().flat_map(|record| record.header.claims.iter().cloned()).collect()
    }
}

/// The lower band of the range stays free for addresses that manifests name, the cluster's DNS
/// among them: a sixteenth, at least 16 and at most 256 (KEP-3070).
fn reserved_band(range: Ipv4Net) -> BTreeSet<String> {
    let size = 1_u64 << (32 - u32::from(range.prefix_len()));
    let band = (size / 16).clamp(16, 256).min(size / 2);
    let first = u64::from(u32::from(range.network()));
    (0..band)
        .filter_map(|offset| u32::try_from(first + offset).ok())
        .map(|address| ip_claim(&Ipv4Addr::from(address).to_string()))
        .collect()
}

/// Addresses and ports that the commit's manifests name: nothing is drawn from these.
pub(crate) fn named_claims(set: &ApplySet) -> BTreeSet<String> {
    let mut claims = BTreeSet::new();
    for write in &set.writes {
        let SetWrite::Apply { kind: Kind::Service, manifest, .. } = write else { continue };
        let spec = &manifest["spec"];
        let ips = spec["clusterIPs"].as_array().into_iter().flatten();
        for address in ips.chain([&spec["clusterIP"]]).filter_map(Value::as_str) {
            claims.insert(ip_claim(address));
        }
        for port in spec["ports"].as_array().into_iter().flatten() {
            if let Some(number) = port["nodePort"].as_i64().and_then(|port| port.try_into().ok()) {
                claims.insert(port_claim(port["protocol"].as_str().unwrap_or("TCP"), number));
            }
        }
    }
    claims
}
