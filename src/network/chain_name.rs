//! Pure: what our chains are called, and which chains are ours.
//!
//! The default installation has `BALLAST-…`; any other (the demo, a test) has `BALLAST-<id6>-…`.
//! The kernel allows 28 bytes. A service port's chain ends in a hash of its name, as kube-proxy's
//! do: 16 letters for the default installation, 9 (45 bits) beside an id. With 10,000 service ports
//! two of them share a 9-letter hash once in 700,000 clusters; that is accepted.

use sha2::{Digest, Sha256};

use crate::object::Key;

use super::rule::Protocol;

/// The longest chain name of the kernel, in bytes (`XT_EXTENSION_MAXNAMELEN` less its NUL).
pub const MAX_NAME: usize = 28;
/// Leaves nine letters of hash for a service port.
const ID_LENGTH: usize = 6;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const FIXED: [&str; 7] =
    ["SERVICES", "NODEPORTS", "POSTROUTING", "MASQUERADE", "HAIRPIN", "FORWARD", "REJECT"];

/// An installation's names. Two installations never share a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainNames {
    prefix: String,
}

impl ChainNames {
    /// `BALLAST-…`, the installation without an id.
    pub fn default_installation() -> Self {
        Self { prefix: "BALLAST-".to_owned() }
    }

    /// The names of an installation: `default` is the one without an id; six lower-case letters or
    /// digits are the id itself (lower case keeps it apart from `SVC`); of any other name the id is
    /// the beginning of its hash.
    pub fn of_installation(name: &str) -> Self {
        let is_id = name.len() == ID_LENGTH
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if name == "default" {
            Self::default_installation()
        } else if is_id {
            Self { prefix: format!("BALLAST-{name}-") }
        } else {
            let hash = hex::encode(Sha256::digest(name));
            Self { prefix: format!("BALLAST-{}-", &hash[..ID_LENGTH]) }
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where every packet's destination is compared with the services' addresses.
    pub fn services(&self) -> String {
        self.fixed("SERVICES")
    }

    pub fn node_ports(&self) -> String {
        self.fixed("NODEPORTS")
    }

    pub fn postrouting(&self) -> String {
        self.fixed("POSTROUTING")
    }

    /// Clears our mark and masquerades.
    pub fn masquerade(&self) -> String {
        self.fixed("MASQUERADE")
    }

    /// Pods that reach themselves through a service.
    pub fn hairpin(&self) -> String {
        self.fixed("HAIRPIN")
    }

    /// Accepts service traffic before Docker's rules see it.
    pub fn forward(&self) -> String {
        self.fixed("FORWARD")
    }

    /// Services without endpoints.
    pub fn reject(&self) -> String {
        self.fixed("REJECT")
    }

    /// The chain of one service port; `port` is the port's name, empty for the only one.
    pub fn service(&self, service: &Key, port: &str, protocol: Protocol) -> String {
        let digest = Sha256::digest(format!("{service}:{port}/{protocol}"));
        let mut name = format!("{}SVC-", self.prefix);
        let room = (MAX_NAME - name.len()).min(16);
        name.extend(base32(&digest).take(room));
        name
    }

    /// Whether a chain of this name is this installation's. Another installation's is not, although
    /// it begins with `BALLAST-` too.
    pub fn owns(&self, chain: &str) -> bool {
        let Some(rest) = chain.strip_prefix(self.prefix.as_str()) else { return false };
        let hash_length = (MAX_NAME - self.prefix.len() - 4).min(16);
        FIXED.contains(&rest)
            || rest.strip_prefix("SVC-").is_some_and(|hash| {
                hash.len() == hash_length && hash.bytes().all(|byte| BASE32.contains(&byte))
            })
    }

    /// Whether some installation of Ballast made this chain: rules to it may stand before ours.
    pub fn any_installation(chain: &str) -> bool {
        chain.starts_with("BALLAST-")
    }

    fn fixed(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// RFC 4648's letters of the first 20 bytes, five bits each.
fn base32(digest: &[u8]) -> impl Iterator<Item = char> + '_ {
    let bit = |index: usize| usize::from(digest[index / 8] >> (7 - index % 8) & 1);
    (0..digest.len() * 8 / 5).map(move |letter| {
        let value = (0..5).fold(0, |value, step| value << 1 | bit(letter * 5 + step));
        char::from(BASE32[value])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_stay() {
        let key = Key::new("default", "web");
        let ours = ChainNames::default_installation();
        assert_eq!(ours.service(&key, "http", Protocol::Tcp), "BALLAST-SVC-OSC5D42RU6KJHZT7");
        assert_ne!(
            ours.service(&key, "http", Protocol::Tcp),
            ours.service(&key, "http", Protocol::Udp)
        );
        for names in [ours, ChainNames::of_installation("d3m0aa")] {
            let all = FIXED.iter().map(|name| names.fixed(name));
            for name in all.chain([names.service(&key, "http", Protocol::Tcp)]) {
                assert!(name.len() <= MAX_NAME && names.owns(&name), "{name}");
            }
        }
    }

    #[test]
    fn installations_do_not_own_each_others_chains() {
        let (ours, demo) =
            (ChainNames::default_installation(), ChainNames::of_installation("d3m0aa"));
        assert!(!ours.owns(&demo.services()) && !demo.owns(&ours.services()));
        assert!(!ours.owns(&demo.service(&Key::new("a", "b"), "", Protocol::Tcp)));
        assert!(!ours.owns("BALLAST-SVC-lower") && !ours.owns("DOCKER"));
        assert_eq!(ChainNames::of_installation("default"), ours);
        assert_eq!(demo.prefix(), "BALLAST-d3m0aa-");
        assert_eq!(ChainNames::of_installation("the tour; -j DROP").prefix().len(), 15);
    }
}
