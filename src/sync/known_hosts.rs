//! Pure: whether a host key stands in a `known_hosts` file. Whoever is not in it is refused: an
//! unknown host is never trusted on first use.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a file says about one host and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Known,
    /// The host is there with other keys: it was reinstalled, or somebody stands in between.
    Changed,
    Revoked,
    /// The host is not in the file, or only under hashed names, which are not read.
    Unknown,
}

/// Looks a host's key up. `key` is the wire form that follows the key type in the file.
pub fn judge(text: &str, host: &str, port: u16, key: &[u8]) -> Verdict {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let name = if port == 22 { host } else { format!("[{host}]:{port}") };
    let mut verdict = Verdict::Unknown;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next().filter(|word| !word.starts_with('#')) else { continue };
        let (marker, names) = match first.starts_with('@') {
            true => (Some(first), words.next().unwrap_or_default()),
            false => (None, first),
        };
        let listed = names.split(',').any(|listed| listed.eq_ignore_ascii_case(&name));
        let (Some(_key_type), Some(encoded)) = (words.next(), words.next()) else { continue };
        let same = STANDARD.decode(encoded).is_ok_and(|decoded| decoded == key);
        match (marker, listed, same) {
            (Some("@revoked"), _, true) => return Verdict::Revoked,
            (None, true, true) => verdict = Verdict::Known,
            (None, true, false) if verdict == Verdict::Unknown => verdict = Verdict::Changed,
            _ => {}
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_key_is_known() {
        let file = "# comment\n\
            git.example,10.0.0.1 ssh-ed25519 AAAA\n\
            git.example ssh-rsa BBBB\n\
            [git.example]:2222 ssh-ed25519 CCCC\n\
            |1|c2FsdA==|aGFzaA== ssh-ed25519 DDDD\n\
            @revoked * ssh-ed25519 EEEE\n\
            broken line\n";
        let key = |text: &str| STANDARD.decode(text).expect("base64");
        let rows = [
            ("git.example", 22, "AAAA", Verdict::Known),
            ("GIT.example", 22, "BBBB", Verdict::Known),
            ("10.0.0.1", 22, "AAAA", Verdict::Known),
            ("git.example", 22, "CCCC", Verdict::Changed),
            ("git.example", 2222, "CCCC", Verdict::Known),
            ("git.example", 2222, "AAAA", Verdict::Changed),
            ("other.example", 22, "AAAA", Verdict::Unknown),
            ("git.example", 22, "EEEE", Verdict::Revoked),
        ];
        for (host, port, encoded, expected) in rows {
            assert_eq!(judge(file, host, port, &key(encoded)), expected, "{host}:{port} {encoded}");
        }
    }
}
