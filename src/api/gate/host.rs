//! Pure: for whom a request was meant. A page of a foreign site can make a browser connect here
//! under the site's own name (DNS rebinding), but it cannot make the browser lie in `Host` and
//! `Origin`: a name that is not this listener's is refused, and so is every other site's page.

use std::net::IpAddr;

/// The host of `host:port`, without brackets and the root's dot, in lower case; `None` for what is
/// no host at all.
fn bare(authority: &str) -> Option<String> {
    let name = match authority.rsplit_once(':') {
        // A bare IPv6 address has colons and no port.
        _ if authority.parse::<IpAddr>().is_ok() => authority,
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    (!bare.is_empty()).then(|| bare.to_ascii_lowercase())
}

/// What a listener is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `localhost`, `*.localhost` (RFC 6761) or a loopback address.
    ThisMachine,
    /// Any other address: no name, so no resolver can have been turned round.
    Address,
    /// A name, in lower case.
    Name(String),
}

/// What a `Host` header or a URL's authority asks for; `None`: nothing.
pub fn asked(authority: &str) -> Option<Asked> {
    let host = bare(authority)?;
    if host == "localhost" || host.ends_with(".localhost") {
        return Some(Asked::ThisMachine);
    }
    Some(match host.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => Asked::ThisMachine,
        Ok(_) => Asked::Address,
        Err(_) => Asked::Name(host),
    })
}

/// Whether a page of `origin` (`https://host:port`) is this server's own: `host` is what the same
/// request asks for. Browsers send an Origin with everything that can do harm.
pub fn is_own_page(origin: &str, host: &str) -> bool {
    let Some((_, authority)) = origin.split_once("://") else { return false };
    authority.eq_ignore_ascii_case(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in [
            "localhost",
            "LOCALHOST:7440",
            "localhost.",
            "127.0.0.1:7440",
            "[::1]:7440",
            "::1",
            "web.localhost",
            "127.9.9.9",
        ] {
            assert_eq!(asked(host), Some(Asked::ThisMachine), "{host}");
        }
        for host in ["10.0.0.1", "[::2]:80", "0.0.0.0", "192.0.2.1:7440"] {
            assert_eq!(asked(host), Some(Asked::Address), "{host}");
        }
        for host in
            ["evil.example", "Evil.Example:7440", "localhost.evil.example", "127.0.0.1.nip.io"]
        {
            assert!(
                matches!(asked(host), Some(Asked::Name(name)) if !name.contains(':')),
                "{host}"
            );
        }
        for nothing in ["", ":7440", "[]:1"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_page_is_our_own_or_a_strangers() {
        assert!(is_own_page("https://Ops.example:7440", "ops.example:7440"));
        for origin in
            ["https://evil.example", "https://ops.example", "null", "", "ops.example:7440"]
        {
            assert!(!is_own_page(origin, "ops.example:7440"), "{origin}");
        }
    }
}
