//! Pure: credentials: what one is, how a new one is admitted to the list, and which one a request
//! shows. A token is 256 random bits, so its plain SHA-256 is as good as a slow hash of a password:
//! nobody can search for it. A client certificate is known by the SHA-256 of its DER form, so that
//! it can be revoked like a token, without lists of the authority's.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::access::{Identity, Role};
use crate::object::name;

/// Before the random part: so that scanners for leaked secrets, and people, know what it is.
pub const PREFIX: &str = "ballast_";
/// A credential that nobody renews is one that nobody watches: a month.
pub const DEFAULT_TTL: &str = "30d";
/// Ten years, the life of the authority that signs the certificates.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 3650);

/// What is shown to prove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    Token,
    Certificate,
}

/// The SHA-256 of a token's text or of a certificate's DER form.
pub type Fingerprint = [u8; 32];

/// One credential as it is kept: never what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    /// The user's name in messages, Events and the audit log; one credential each.
    pub name: String,
    pub role: Role,
    /// The node, for the role node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub proof: Proof,
    #[serde(with = "hex_digits")]
    pub fingerprint: Fingerprint,
    pub created: Timestamp,
    /// It counts until this moment, and not at it.
    pub expires: Timestamp,
}

/// The whole list, as the file holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialList {
    pub credentials: Vec<Credential>,
}

/// What somebody wants made.
#[derive(Clone, Debug)]
pub struct Wish {
    pub name: String,
    pub role: Role,
    pub node: Option<String>,
    pub proof: Proof,
    pub ttl: SignedDuration,
}

/// Why a credential is not made, or not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFault {
    #[error("{0:?} is no name of a credential: {1}")]
    Name(String, String),
    #[error("there is a credential {0} already: give --name another one, or revoke it first")]
    Taken(String),
    #[error("the role controller is for the daemon's own loops and is never given away")]
    Controller,
    #[error("a credential of the role node is for one node: give --node, and only there")]
    Node,
    #[error("there is no credential {0}: `ballast token list` shows them")]
    Unknown(String),
    #[error("{0:?} is no time to live such as 12h or 30d (units: s, m, h, d; at most 3650d)")]
    Ttl(String),
}

impl Credential {
    /// Whose requests are made with it.
    pub fn identity(&self) -> Identity {
        let name = self.name.clone();
        match (self.role, &self.node) {
            (Role::Operator, _) => Identity::Operator { name },
            (Role::Node, Some(node)) => Identity::NodeAgent { node: node.clone() },
            // Neither is ever made; a file that says so by hand gives no more than reading.
            (Role::Viewer | Role::Controller | Role::Node, _) => Identity::Viewer { name },
        }
    }

    pub fn has_expired(&self, now: Timestamp) -> bool {
        now >= self.expires
    }
}

impl CredentialList {
    /// The list with a new credential; what has run out is left out, and its name is free again.
    ///
    /// # Errors
    /// A name that is none or is taken; a role that is not given away.
    pub fn with(
        mut self,
        wish: Wish,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<(Self, Credential), CredentialFault> {
        let Wish { name, role, node, proof, ttl } = wish;
        if let Some(fault) = name::subdomain_faults(&name).into_iter().next() {
            return Err(CredentialFault::Name(name, fault));
        }
        if role == Role::Controller {
            return Err(CredentialFault::Controller);
        }
        if (role == Role::Node) != node.is_some() {
            return Err(CredentialFault::Node);
        }
        if let Some(node) = &node
            && let Some(fault) = name::subdomain_faults(node).into_iter().next()
        {
            return Err(CredentialFault::Name(node.clone(), fault));
        }
        self.credentials.retain(|credential| !credential.has_expired(now));
        if self.credentials.iter().any(|credential| credential.name == name) {
            return Err(CredentialFault::Taken(name));
        }
        let expires = now.checked_add(ttl).unwrap_or(Timestamp::MAX);
        let made = Credential { name, role, node, proof, fingerprint, created: now, expires };
        self.credentials.push(made.clone());
        Ok((self, made))
    }

    /// The list without one.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn without(mut self, name: &str) -> Result<Self, CredentialFault> {
        let before = self.credentials.len();
        self.credentials.retain(|credential| credential.name != name);
        if self.credentials.len() == before {
            return Err(CredentialFault::Unknown(name.to_owned()));
        }
        Ok(self)
    }
}

/// A token's text out of its 256 random bits.
pub fn token(random: [u8; 32]) -> String {
    format!("{PREFIX}{}", hex::encode(random))
}

/// By what a token or a certificate is known.
pub fn fingerprint(shown: &[u8]) -> Fingerprint {
    Sha256::digest(shown).into()
}

/// The token in an `Authorization` header's value. Other schemes are none of ours.
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// `90s`, `15m`, `12h`, `30d`: the unit that people count credentials in is the day, which no
/// duration of Go's or of a clock's has.
///
/// # Errors
/// Another form, nothing, or more than ten years.
pub fn ttl(text: &str) -> Result<SignedDuration, CredentialFault> {
    let wrong = || CredentialFault::Ttl(text.to_owned());
    let unit = text.chars().last().ok_or_else(wrong)?;
    let digits = &text[..text.len() - unit.len_utf8()];
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: i64 = plain.then(|| digits.parse().ok()).flatten().ok_or_else(wrong)?;
    let total = count.checked_mul(seconds).map(SignedDuration::from_secs).ok_or_else(wrong)?;
    if total.is_zero() || total > LONGEST {
        return Err(wrong());
    }
    Ok(total)
}

mod hex_digits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(name: &str, role: Role) -> Wish {
        let ttl = SignedDuration::from_secs(60);
        Wish { name: name.to_owned(), role, node: None, proof: Proof::Token, ttl }
    }

    #[test]
    fn a_name_is_one_credentials_until_it_has_run_out() {
        let now = Timestamp::UNIX_EPOCH;
        let list = CredentialList::default();
        let (list, made) = list.with(wish("ada", Role::Viewer), [1; 32], now).expect("made");
        assert!(!made.has_expired(now + SignedDuration::from_secs(59)));
        assert!(made.has_expired(now + SignedDuration::from_secs(60)));
        let again = list.clone().with(wish("ada", Role::Operator), [2; 32], now);
        assert_eq!(again.unwrap_err(), CredentialFault::Taken("ada".to_owned()));
        let later = now + SignedDuration::from_secs(61);
        let (list, _) = list.with(wish("ada", Role::Operator), [2; 32], later).expect("free again");
        assert_eq!(list.credentials.len(), 1);
        assert_eq!(list.credentials[0].identity(), Identity::Operator { name: "ada".into() });
        assert!(list.clone().without("eve").is_err());
        assert_eq!(list.without("ada").expect("revoked"), CredentialList::default());
    }

    #[test]
    fn what_is_not_given_away() {
        let refused = |wish| {
            CredentialList::default().with(wish, [1; 32], Timestamp::UNIX_EPOCH).unwrap_err()
        };
        assert_eq!(refused(wish("a", Role::Controller)), CredentialFault::Controller);
        assert_eq!(refused(wish("a", Role::Node)), CredentialFault::Node);
        let stray = Wish { node: Some("n1".to_owned()), ..wish("a", Role::Viewer) };
        assert_eq!(refused(stray), CredentialFault::Node);
        for name in ["", "system:admin", "Ada", "a b", "../a"] {
            assert!(matches!(refused(wish(name, Role::Viewer)), CredentialFault::Name(..)));
        }
    }

    #[test]
    fn the_file_has_no_token_in_it() {
        let token = token([7; 32]);
        assert_eq!(token.len(), PREFIX.len() + 64);
        let print = fingerprint(token.as_bytes());
        let list = CredentialList::default();
        let (list, _) =
            list.with(wish("ada", Role::Viewer), print, Timestamp::UNIX_EPOCH).expect("made");
        let text = serde_json::to_string(&list).expect("serialises");
        assert!(!text.contains(&token[PREFIX.len()..]), "{text}");
        assert_eq!(serde_json::from_str::<CredentialList>(&text).expect("reads"), list);
        assert!(serde_json::from_str::<CredentialList>(&text.replace("viewer", "root")).is_err());
    }

    #[test]
    fn a_bearer_is_one_word_after_its_scheme() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for other in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(bearer(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_time_to_live_is_a_number_and_a_unit() {
        let seconds = |text: &str| ttl(text).map(|ttl| ttl.as_secs()).ok();
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("15m"), Some(900));
        assert_eq!(seconds("12h"), Some(43_200));
        assert_eq!(seconds(DEFAULT_TTL), Some(30 * 86_400));
        for wrong in
            ["", "d", "0h", "-1h", "+1h", "1.5h", "1w", "3651d", "99999999999999999999d", "1ü"]
        {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }
}
