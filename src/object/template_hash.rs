//! Pure: the hash behind `pod-template-hash` and the names of ReplicaSets.
//!
//! Kubernetes hashes a Go-specific dump that nobody outside Go can reproduce, and nothing requires
//! it: any stable hash over the alphabet below passes kubectl and conformance. Ours is the FNV-1a 32
//! of the template's canonical JSON (sorted keys, defaults filled in), plus the collision count,
//! written as Kubernetes writes it. Two templates may share a hash; the caller compares templates
//! and raises the collision count.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The alphabet of `rand.SafeEncodeString`: no vowels, nothing that reads as a word or a digit's twin.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// 8 to 10 characters, stable over restarts and versions.
pub fn template_hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    let value = serde_json::to_value(template).expect("a pod template has string keys only");
    let mut hash = fnv1a(0x811c_9dc5, value.to_string().as_bytes());
    if let Some(count) = collision_count {
        hash = fnv1a(hash, &count.to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

/// Maps every byte into the alphabet, as `SafeEncodeString` does.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

fn fnv1a(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_stable_and_collisions_move_it() {
        let template = PodTemplateSpec::default();
        assert_eq!(template_hash(&template, None), template_hash(&template, None));
        assert_ne!(template_hash(&template, None), template_hash(&template, Some(1)));
    }
}
