//! Pure: what a host has besides cores, memory and disk, as its operator declares it: devices, licences,
//! by the names that pods ask for. The scheduler counts them; nobody looks whether they are there.

use std::collections::BTreeMap;

use crate::object::name;

/// Its resources are devices, which containers would have to be given.
const NVIDIA: &str = "nvidia.com";

/// What a file and flags (`NAME=COUNT`) declare, checked; a flag wins over the file.
pub fn read(
    mut all: BTreeMap<String, i64>,
    flags: Vec<String>,
    faults: &mut Vec<String>,
) -> BTreeMap<String, i64> {
    for text in flags {
        match text.split_once('=').and_then(|(name, count)| Some((name, count.parse().ok()?))) {
            Some((name, count)) => _ = all.insert(name.to_owned(), count),
            None => faults.push(format!("--resource: {text:?} is not NAME=COUNT")),
        }
    }
    for (name, count) in &all {
        let at = format!("resources[{name}]");
        if *count < 0 {
            faults.push(format!("{at}: {count} is less than nothing"));
        }
        let (domain, of_domain) = name.split_once('/').unwrap_or(("", name));
        let native = domain.is_empty() || domain.ends_with("kubernetes.io");
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let shaped = name::subdomain_faults(domain).is_empty()
            && (1..=63).contains(&of_domain.len())
            && of_domain.chars().all(is_word);
        if native || !shaped {
            faults.push(format!(
                "{at}: a resource of your own is named domain/name, such as example.com/fpga"
            ));
        }
        if domain == NVIDIA {
            faults.push(format!("{at}: this version gives containers no devices; a count alone would be an empty promise"));
        }
    }
    all
}
