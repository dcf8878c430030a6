//! Pure: why a Git server could not be read from. Every sentence says what happened and what to do
//! next; the address stands before it (see `git`). What a server says is printed in one line, and
//! nothing of it can be a credential: addresses lose their user and their query.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;

use crate::sync::source::{printable, scrub};

/// What ended a conversation with a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    #[error(
        "{host} has no address: check the host's name in the URL, and name resolution on this machine"
    )]
    NoAddress { host: String },
    #[error("{server} refuses the connection: check the port in the URL, and that the server runs")]
    Refused { server: String },
    #[error("{server} cannot be reached ({cause}): check the network and the firewalls on the way")]
    Unreachable { server: String, cause: String },
    #[error(
        "{server} sent nothing for {}: check its load and the firewalls on the way; it is tried again", seconds(.silence)
    )]
    Silent { server: String, silence: Duration },
    #[error("the fetch was ended after {}, {server} sends too slowly; it is tried again", seconds(.patience))]
    TooSlow { server: String, patience: Duration },
    #[error("Ballast is stopping")]
    Stopped,
    #[error("{server} sends more than {most} bytes: {hint}")]
    TooMuch { server: String, most: usize, hint: &'static str },
    #[error("{server} closed the connection in the middle of its answer; it is tried again")]
    Closed { server: String },

    #[error(
        "the certificate of {host} is signed by no authority that this machine trusts: name the authority's certificate in the source's caFile, or install it on this machine (update-ca-certificates)"
    )]
    Untrusted { host: String },
    #[error(
        "the certificate of {host} is for {}, not for {host}: use a name of the certificate in the URL, or renew the certificate",
        listed(.names)
    )]
    WrongName { host: String, names: Vec<String> },
    #[error(
        "the certificate of {host} {what}: renew it on the server, or check this machine's clock"
    )]
    OutOfDate { host: String, what: &'static str },
    #[error(
        "no TLS connection with {server} ({cause}): check that the port is the one for https://"
    )]
    NoTls { server: String, cause: String },
    #[error("{}: {cause}", .file.display())]
    Authorities { file: PathBuf, cause: String },

    #[error(
        "it redirects to {to}, which is another host: it is not followed, because it would be given this source's credentials; if it is right, write it into the source's url"
    )]
    ForeignRedirect { to: String },
    #[error(
        "it redirects to {to}, which is no https:// address of the same repository: check the URL"
    )]
    OddRedirect { to: String },
    #[error("it redirects more than {most} times: check the URL")]
    RedirectLoop { most: usize },
    #[error(
        "the server asks for credentials, and the source has none: write a token that may read the repository into a file and name it in the source's tokenFile"
    )]
    CredentialsMissing,
    #[error(
        "the server refuses the credentials (user {user}, token of {place}): the token is wrong, expired or revoked, or belongs to another user; write a new one there, no restart is needed"
    )]
    CredentialsRefused { user: String, place: String },
    #[error("{place}: {cause}")]
    TokenUnreadable { place: String, cause: String },
    #[error(
        "the server knows {who} and does not let it read this repository: give it the right to read"
    )]
    Forbidden { who: String },
    #[error(
        "there is no repository at this address: check the path (many servers also say so when the credentials may not read it)"
    )]
    NoRepository,
    #[error("the server asks to come back later (too many requests{})", .after.as_deref().map(|after| format!(", after {after}")).unwrap_or_default())]
    Busy { after: Option<String> },
    #[error("the server answers {status}: it is tried again; its own log tells why")]
    ServerError { status: u16 },
    #[error("the server answers with status {status}: check that the URL is a Git repository's")]
    Status { status: u16 },
    #[error(
        "the answer is {what}, not Git: is the URL that of a web page, or does a login page stand in between? use the address that git clone takes"
    )]
    NotGit { what: String },

    #[error("ssh:// needs the ssh program: install it (apt install openssh-client)")]
    NoSshProgram,
    #[error("the ssh program cannot be started: {cause}")]
    SshNotStarted { cause: String },
    #[error(
        "the host key of {host} is not in {file}: compare its fingerprint with the server's owner, then add it (ssh-keyscan -p {port} {host} >> {file})"
    )]
    HostKeyUnknown { host: String, port: u16, file: String },
    #[error(
        "the host key of {host} is not the one in {file}: the server was made anew, or somebody stands in between; ask its owner before you replace the line (ssh-keygen -R '{name}' -f {file})"
    )]
    HostKeyChanged { host: String, name: String, file: String },
    #[error("the host key of {host} is revoked in {file}: ask the server's owner for the new one")]
    HostKeyRevoked { host: String, file: String },
    #[error("the private key {file} cannot be used: {why}")]
    KeyUnusable { file: String, why: &'static str },
    #[error(
        "the server refuses the key{}: add its public half to the repository's deploy keys, or name another in the source's sshKeyFile",
        .file.as_deref().map(|file| format!(" {file}")).unwrap_or_default()
    )]
    KeyRefused { file: Option<String> },
    #[error(
        "the server refuses to log in, and the source has no key: name a private key in the source's sshKeyFile"
    )]
    KeyMissing,
    #[error("the server has no git-upload-pack program: install git there")]
    NoGitThere,
    #[error("the server says: {what}")]
    RemoteSays { what: String },
}

fn seconds(time: &Duration) -> String {
    if time.as_secs() >= 120 {
        format!("{} minutes", time.as_secs() / 60)
    } else {
        format!("{} s", time.as_secs_f32())
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "no name at all".to_owned();
    }
    names.iter().take(5).map(|name| printable(name)).collect::<Vec<_>>().join(", ")
}

/// The head of an answer over HTTPS.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub location: Option<&'a str>,
    pub retry_after: Option<&'a str>,
}

/// Who asks: what a refusal names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    pub user: String,
    /// `tokenFile /etc/ballast/token`
    pub place: String,
}

/// What an answer's head means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The body is Git's.
    Git,
    /// Ask there: an address as the server wrote it.
    Redirect(String),
    Fault(WireFault),
}

/// Reads an answer's head; `expected` is the content type that Git's protocol has here.
pub fn meaning(head: Head<'_>, expected: &str, asker: Option<&Asker>) -> Meaning {
    let fault = match head.status {
        200 if head.content_type.is_some_and(|given| essence(given) == expected) => {
            return Meaning::Git;
        }
        200 => WireFault::NotGit {
            what: match head.content_type.map(essence) {
                Some("text/html") => "a web page".to_owned(),
                Some(other) if !other.is_empty() => printable(other),
                _ => "of no content type".to_owned(),
            },
        },
        301 | 302 | 303 | 307 | 308 => match head.location {
            Some(location) => return Meaning::Redirect(location.to_owned()),
            None => WireFault::OddRedirect { to: "nowhere".to_owned() },
        },
        401 => match asker {
            None => WireFault::CredentialsMissing,
            Some(Asker { user, place }) => {
                WireFault::CredentialsRefused { user: printable(user), place: place.clone() }
            }
        },
        403 => WireFault::Forbidden {
            who: match asker {
                None => "nobody without credentials".to_owned(),
                Some(Asker { place, .. }) => format!("the token of {place}"),
            },
        },
        404 | 410 => WireFault::NoRepository,
        429 => WireFault::Busy { after: head.retry_after.map(printable) },
        status @ 500.. => WireFault::ServerError { status },
        status => WireFault::Status { status },
    };
    Meaning::Fault(fault)
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// What the repository's own address is after a redirect: `base` was asked for `base` + `suffix`.
/// Only the same host and port, over TLS, is followed.
///
/// # Errors
/// [`WireFault::ForeignRedirect`], [`WireFault::OddRedirect`].
pub fn redirected(base: &str, suffix: &str, location: &str) -> Result<String, WireFault> {
    let (authority, _) = split(base).unwrap_or_default();
    let to = || shown(location);
    let absolute = match location.split_once("://") {
        Some(_) => location.to_owned(),
        None if location.starts_with("//") => format!("https:{location}"),
        None if location.starts_with('/') => format!("https://{authority}{location}"),
        None => return Err(WireFault::OddRedirect { to: to() }),
    };
    let Some((new_authority, path)) = split(&absolute) else {
        return Err(WireFault::OddRedirect { to: to() });
    };
    if server_of(new_authority) != server_of(authority) {
        return Err(WireFault::ForeignRedirect { to: to() });
    }
    match path.strip_suffix(suffix) {
        Some(path) if !path.is_empty() && !path.contains(['?', '#']) => {
            Ok(format!("https://{authority}{path}"))
        }
        _ => Err(WireFault::OddRedirect { to: to() }),
    }
}

/// The host and port behind an authority, written in one way only.
fn server_of(authority: &str) -> String {
    let lower = authority.to_ascii_lowercase();
    lower.strip_suffix(":443").map(str::to_owned).unwrap_or(lower)
}

/// `https://host:port/path` as its authority and its path with the leading slash.
fn split(url: &str) -> Option<(&str, &str)> {
    let rest =
        url.get(..8).filter(|start| start.eq_ignore_ascii_case("https://")).map(|_| &url[8..]);
    let rest = rest?;
    Some(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

/// An address for people: a login page's query may be worth as much as a password.
fn shown(location: &str) -> String {
    let end = location.find(['?', '#']).unwrap_or(location.len());
    scrub(&location[..end], &[])
}

/// What the ssh program was asked for.
#[derive(Clone, Copy, Debug)]
pub struct SshCall<'a> {
    pub host: &'a str,
    pub port: u16,
    /// The private key that the source names.
    pub key: Option<&'a str>,
    pub known_hosts: &'a str,
}

/// What ended the ssh program, by what it wrote to standard error. Its words are OpenSSH's, which
/// are not translated; words nobody knows are passed on.
pub fn of_ssh(said: &str, call: SshCall<'_>) -> WireFault {
    let has = |words: &str| said.contains(words);
    let host = call.host.to_owned();
    let server = format!("{host}:{}", call.port);
    let file = call.known_hosts.to_owned();
    let key = || call.key.unwrap_or("(the one ssh chose)").to_owned();
    if has("REVOKED HOST KEY") || has("marked as revoked") {
        return WireFault::HostKeyRevoked { host, file };
    }
    if has("HOST IDENTIFICATION HAS CHANGED") || has("has changed and you have requested") {
        let name = if call.port == 22 { host.clone() } else { format!("[{host}]:{}", call.port) };
        return WireFault::HostKeyChanged { host, name, file };
    }
    if has("host key is known for") || has("Host key verification failed") {
        return WireFault::HostKeyUnknown { host, port: call.port, file };
    }
    let key_faults = [
        ("UNPROTECTED PRIVATE KEY FILE", "others can read it: chmod 600"),
        ("bad permissions", "others can read it: chmod 600"),
        ("incorrect passphrase", LOCKED),
        ("passphrase", LOCKED),
        ("not accessible", "there is no such file, or Ballast may not read it"),
        ("invalid format", "it is no private key"),
        ("error in libcrypto", "it is no private key, or has a passphrase"),
    ];
    let loading = said.lines().filter(|line| {
        line.contains("Load key") || line.contains("Identity file") || line.contains("PRIVATE KEY")
    });
    let why = loading.flat_map(|line| key_faults.iter().find(|(words, _)| line.contains(words)));
    if let Some((_, why)) = why.into_iter().next() {
        return WireFault::KeyUnusable { file: key(), why };
    }
    if has("Permission denied (") || has("Too many authentication failures") {
        return match call.key {
            Some(file) => WireFault::KeyRefused { file: Some(file.to_owned()) },
            None => WireFault::KeyMissing,
        };
    }
    if has("Could not resolve hostname") {
        return WireFault::NoAddress { host };
    }
    if has("Connection refused") {
        return WireFault::Refused { server };
    }
    for cause in ["Connection timed out", "No route to host", "Network is unreachable"] {
        if has(cause) {
            return WireFault::Unreachable { server, cause: cause.to_lowercase() };
        }
    }
    if has("git-upload-pack: command not found") || has("git-upload-pack: not found") {
        return WireFault::NoGitThere;
    }
    let lower = said.to_lowercase();
    if lower.contains("does not appear to be a git repository")
        || (lower.contains("repository") && lower.contains("not found"))
    {
        return WireFault::NoRepository;
    }
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() || has("Connection reset") || has("Connection closed") {
        return WireFault::Closed { server };
    }
    let last = lines[lines.len().saturating_sub(3)..].join("; ");
    WireFault::RemoteSays { what: scrub(&last, &[]) }
}

/// What a key with a passphrase is told.
pub const LOCKED: &str = "it has a passphrase: use a key without one";

/// Whether the text of a private key is locked with a passphrase. PEM says so in words; OpenSSH's own
/// format names the cipher behind its magic (`PROTOCOL.key`), which is `none` for an open one.
pub fn is_locked(key: &str) -> bool {
    if key.contains("ENCRYPTED") {
        return true;
    }
    let body = key.lines().filter(|line| !line.starts_with('-')).flat_map(str::chars);
    let head: String = body.take(32).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(head).unwrap_or_default();
    let cipher = bytes.strip_prefix(b"openssh-key-v1\0").and_then(|rest| rest.get(4..8));
    cipher.is_some_and(|cipher| cipher != b"none")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/x-git-upload-pack-advertisement";

    #[test]
    fn every_status_has_its_next_step() {
        let asker = Asker { user: "git".into(), place: "tokenFile /t".into() };
        let rows: &[(u16, Option<&Asker>, &str)] = &[
            (401, None, "name it in the source's tokenFile"),
            (401, Some(&asker), "token of tokenFile /t): the token is wrong, expired or revoked"),
            (403, Some(&asker), "the token of tokenFile /t and does not let it read"),
            (403, None, "nobody without credentials"),
            (404, None, "there is no repository at this address"),
            (429, None, "come back later (too many requests, after 30)"),
            (503, None, "the server answers 503"),
            (418, None, "status 418"),
            (302, None, "redirects to nowhere"),
        ];
        for (status, asker, words) in rows {
            let head = Head { status: *status, retry_after: Some("30"), ..Head::default() };
            let Meaning::Fault(fault) = meaning(head, TYPE, *asker) else {
                panic!("{status} is a fault")
            };
            assert!(fault.to_string().contains(words), "{status}: {fault}");
        }
        let page =
            Head { status: 200, content_type: Some("text/html; charset=x"), ..Head::default() };
        assert_eq!(
            meaning(page, TYPE, None),
            Meaning::Fault(WireFault::NotGit { what: "a web page".into() })
        );
        let git = Head { content_type: Some(TYPE), ..page };
        assert_eq!(meaning(git, TYPE, None), Meaning::Git);
    }

    #[test]
    fn only_the_same_host_over_tls_is_followed() {
        const SUFFIX: &str = "/info/refs?service=git-upload-pack";
        let go = |location: &str| redirected("https://git.example/old", SUFFIX, location);
        let moved = Ok("https://git.example/team/new.git".to_owned());
        for good in [
            "https://git.example/team/new.git/info/refs?service=git-upload-pack",
            "HTTPS://GIT.example:443/team/new.git/info/refs?service=git-upload-pack",
            "/team/new.git/info/refs?service=git-upload-pack",
        ] {
            assert_eq!(go(good), moved, "{good}");
        }
        for foreign in [
            "https://evil.example/x/info/refs?service=git-upload-pack",
            "https://git.example:8443/x/info/refs?service=git-upload-pack",
            "https://git.example@evil.example/x/info/refs?service=git-upload-pack",
            "https://git.example.evil.example/x/info/refs?service=git-upload-pack",
            "//evil.example/x/info/refs?service=git-upload-pack",
            "https://git.example\\@evil.example/x",
        ] {
            let fault = go(foreign).expect_err("another host");
            assert!(matches!(fault, WireFault::ForeignRedirect { .. }), "{foreign}: {fault}");
        }
        for odd in [
            "http://git.example/x/info/refs?service=git-upload-pack",
            "file:///etc/passwd",
            "https://git.example/login?return=x",
            "relative/info/refs",
            "",
        ] {
            let fault = go(odd).expect_err("no repository");
            assert!(matches!(fault, WireFault::OddRedirect { .. }), "{odd}: {fault}");
        }
        let login = go("https://sso.example/login?state=s3cret#x").expect_err("another host");
        assert!(!login.to_string().contains("s3cret"), "{login}");
        let user = go("https://me:s3cret@evil.example/x").expect_err("another host");
        assert!(!user.to_string().contains("s3cret"), "{user}");
    }

    #[test]
    fn what_ssh_says_is_understood() {
        let call = SshCall { host: "git.example", port: 2222, key: Some("/k"), known_hosts: "/h" };
        let rows: &[(&str, &str)] = &[
            (
                "No ED25519 host key is known for [git.example]:2222 and you have requested strict checking.\nHost key verification failed.",
                "add it (ssh-keyscan -p 2222 git.example >> /h)",
            ),
            (
                "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
                "ssh-keygen -R '[git.example]:2222' -f /h",
            ),
            ("@       WARNING: REVOKED HOST KEY DETECTED!               @", "revoked in /h"),
            ("git@git.example: Permission denied (publickey).", "refuses the key /k"),
            (
                "Load key \"/k\": invalid format\ngit@git.example: Permission denied (publickey).",
                "/k cannot be used: it is no private key",
            ),
            (
                "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\nPermissions 0644 for '/k' are too open.",
                "chmod 600",
            ),
            (
                "Load key \"/k\": incorrect passphrase supplied to decrypt private key",
                "use a key without one",
            ),
            (
                "Warning: Identity file /k not accessible: No such file or directory.\nPermission denied (publickey).",
                "there is no such file",
            ),
            (
                "ssh: Could not resolve hostname git.example: Name or service not known",
                "no address",
            ),
            (
                "ssh: connect to host git.example port 2222: Connection refused",
                "git.example:2222 refuses",
            ),
            ("ssh: connect to host git.example port 2222: No route to host", "no route to host"),
            ("fatal: '/x' does not appear to be a git repository", "no repository at this address"),
            ("ERROR: Repository not found.", "no repository at this address"),
            ("bash: git-upload-pack: command not found", "install git there"),
            (
                "kex_exchange_identification: Connection closed by remote host",
                "closed the connection",
            ),
            ("", "closed the connection"),
            ("something\nnew\u{1b}[31m", "the server says: something; new"),
        ];
        for (said, words) in rows {
            let fault = of_ssh(said, call).to_string();
            assert!(fault.contains(words) && !fault.contains('\u{1b}'), "{said}: {fault}");
        }
        let keyless = SshCall { key: None, ..call };
        assert_eq!(of_ssh("x: Permission denied (publickey).", keyless), WireFault::KeyMissing);
    }
}
