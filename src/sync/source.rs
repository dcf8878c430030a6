//! Pure: which repository a source follows, and which addresses are followed at all.
//!
//! An address is hostile until it is parsed: credentials in it are refused (they would end up in
//! logs), transports that start programs or check nothing are refused by name, and everything that
//! is shown to a person goes through [`scrub`] first.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::object::source::{Source, SourceSpec};
use crate::sync::access::Access;

/// One repository, branch and folder to follow, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// The name of its Source object, and of its webhook.
    pub name: String,
    pub url: SourceUrl,
    pub branch: String,
    /// The folder inside the repository; `.` is all of it.
    pub path: String,
    /// Seconds between two polls where nothing announces a change. Default 60.
    pub poll_seconds: u32,
    pub access: Access,
    /// Sources that are configured no more, and whose objects this one takes over.
    pub formerly: Vec<String>,
}

impl SourceConfig {
    /// The object that stands for it in the cluster, without status.
    pub fn object(&self) -> Source {
        let mut source = Source {
            spec: SourceSpec {
                url: self.url.as_text(),
                branch: self.branch.clone(),
                path: self.path.clone(),
                poll_seconds: self.poll_seconds,
            },
            ..Source::default()
        };
        source.metadata.name = Some(self.name.clone());
        source
    }
}

/// An address that Ballast follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceUrl {
    /// An absolute path of this host (`file://` is the same).
    Local(PathBuf),
    /// `https://host/…`, without user information, query or fragment.
    Https { url: String, host: String, port: u16 },
    /// `ssh://user@host[:port]/…`; `git@host:path` is shown in this form too. `path` is what the
    /// server is asked for: `git@host:path` begins in the user's home, `ssh://` at the root.
    Ssh { url: String, user: String, host: String, port: u16, path: String },
}

/// Why an address is not followed, with the next step. Contains no part of the address that could
/// be a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the repository's address is empty: give a path or an https:// or ssh:// URL")]
    Empty,
    #[error("the repository's address is longer than {MAX_URL} bytes")]
    TooLong,
    #[error("the repository's address contains a control character or a space")]
    Control,
    #[error("the repository's address begins with '-', which programs read as an option")]
    Option,
    #[error("{0}:// is not followed: use a local path, file://, https:// or ssh://")]
    Transport(String),
    #[error(
        "'{0}::' starts a program, it is not followed: use a local path, file://, https:// or ssh://"
    )]
    Program(String),
    #[error(
        "the repository's address contains credentials: remove them from the URL and give them as a token or key in the configuration, where they are never shown"
    )]
    Credentials,
    #[error("the repository's address has a query or a fragment: remove everything from '{0}'")]
    Query(char),
    #[error("the repository's address has no valid host: {0:?}")]
    Host(String),
    #[error("the repository's address has no path behind the host")]
    NoPath,
    #[error("file:// with a host is not followed: use file:///absolute/path")]
    FileHost,
    #[error("the path {0:?} is relative: a configured repository needs an absolute one")]
    Relative(String),
}

/// Longer addresses are no addresses.
const MAX_URL: usize = 2048;

impl SourceUrl {
    /// # Errors
    /// Everything that is not a local path or one of the three schemes, see [`UrlError`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.is_empty() {
            return Err(UrlError::Empty);
        }
        if text.len() > MAX_URL {
            return Err(UrlError::TooLong);
        }
        if text.starts_with('-') {
            return Err(UrlError::Option);
        }
        if text.chars().any(char::is_control) {
            return Err(UrlError::Control);
        }
        if text.starts_with('/') {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return match scheme.to_ascii_lowercase().as_str() {
                "file" if rest.starts_with('/') => Ok(Self::Local(PathBuf::from(rest))),
                "file" => Err(UrlError::FileHost),
                "https" => https(rest),
                "ssh" => ssh(rest, &decoded(rest.split_once('/').map_or("", |(_, path)| path))?),
                other => Err(UrlError::Transport(printable(other))),
            };
        }
        if let Some((program, _)) = text.split_once("::") {
            return Err(UrlError::Program(printable(program)));
        }
        match text.split_once(':') {
            Some((before, path)) if !before.contains('/') => {
                ssh(&format!("{before}/{}", path.trim_start_matches('/')), path)
            }
            _ => Err(UrlError::Relative(printable(text))),
        }
    }

    /// The address as libgit2 takes it and as people see it: without credentials.
    pub fn as_text(&self) -> String {
        match self {
            Self::Local(path) => path.to_string_lossy().into_owned(),
            Self::Https { url, .. } | Self::Ssh { url, .. } => url.clone(),
        }
    }
}

/// The address without credentials.
impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_text())
    }
}

fn no_spaces(rest: &str) -> Result<(), UrlError> {
    if rest.contains(' ') || rest.to_ascii_lowercase().contains("%00") {
        return Err(UrlError::Control);
    }
    match rest.chars().find(|c| matches!(c, '?' | '#')) {
        Some(found) => Err(UrlError::Query(found)),
        None => Ok(()),
    }
}

fn https(rest: &str) -> Result<SourceUrl, UrlError> {
    no_spaces(rest)?;
    let (authority, path) = rest.split_once('/').ok_or(UrlError::NoPath)?;
    if authority.contains('@') {
        return Err(UrlError::Credentials);
    }
    let (host, port) = host_of(authority)?;
    if path.trim_matches('/').is_empty() {
        return Err(UrlError::NoPath);
    }
    let (url, port) = (format!("https://{authority}/{path}"), port.unwrap_or(443));
    Ok(SourceUrl::Https { url, host, port })
}

/// The path of an `ssh://` address as the server takes it: `/~/x` begins in the user's home.
fn decoded(path: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = (first == b'%').then(|| after.get(..2)).flatten();
        let value = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(value.unwrap_or(first));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    let text = String::from_utf8(bytes).map_err(|_| UrlError::Control)?;
    if text.chars().any(char::is_control) {
        return Err(UrlError::Control);
    }
    Ok(if text.starts_with('~') { text } else { format!("/{text}") })
}

/// `asked`: the path for the server.
fn ssh(rest: &str, asked: &str) -> Result<SourceUrl, UrlError> {
    no_spaces(rest)?;
    let (authority, path) = rest.split_once('/').ok_or(UrlError::NoPath)?;
    let (user, host_port) = match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => return Err(UrlError::Credentials),
        Some((user, host)) => (user, host),
        None => ("git", authority),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if user.is_empty() || user.starts_with('-') || !user.chars().all(plain) {
        return Err(UrlError::Host(printable(user)));
    }
    let (host, port) = host_of(host_port)?;
    if path.is_empty() || asked.starts_with('-') || matches!(asked, "" | "/") {
        return Err(UrlError::NoPath);
    }
    let url = match port {
        None => format!("ssh://{user}@{host}/{path}"),
        Some(port) => format!("ssh://{user}@{host}:{port}/{path}"),
    };
    let (user, path, port) = (user.to_owned(), asked.to_owned(), port.unwrap_or(22));
    Ok(SourceUrl::Ssh { url, user, host, port, path })
}

/// Host and port; an IPv6 zone (`%eth0`) is no part of a repository's address.
fn host_of(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    let wrong = || UrlError::Host(printable(authority));
    let (host, port) = if authority.starts_with('[') {
        let end = authority.find(']').ok_or_else(wrong)?;
        let inside = &authority[1..end];
        inside.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
        (&authority[..=end], authority[end + 1..].strip_prefix(':'))
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
            return Err(wrong());
        }
        (host, port)
    };
    let port = match port {
        None => None,
        Some(text) => Some(text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
    };
    Ok((host.to_owned(), port))
}

/// A text from outside in one printable line: control characters and bidirectional overrides
/// escaped, at most 200 characters.
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(200) {
        let bidirectional = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || bidirectional {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}

/// Removes everything that could be a credential from a library's error text: the user information
/// and the query of every URL in it, and the secrets named.
pub fn scrub(text: &str, secrets: &[&str]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        clean = clean.replace(secret, "(hidden)");
    }
    let words = clean.split(' ').map(|word| {
        let Some(at) = word.find("://") else { return word.to_owned() };
        let (scheme, rest) = word.split_at(at + 3);
        let end = rest.find(['/', '\'', '"']).unwrap_or(rest.len());
        let rest = match rest[..end].rfind('@') {
            Some(at) => format!("(hidden)@{}", &rest[at + 1..]),
            None => rest.to_owned(),
        };
        match rest.find('?') {
            Some(query) => format!("{scheme}{}?(hidden)", &rest[..query]),
            None => format!("{scheme}{rest}"),
        }
    });
    printable_long(&words.collect::<Vec<_>>().join(" "))
}

/// As [`printable`], for whole sentences: at most 1,000 characters.
fn printable_long(text: &str) -> String {
    text.chars().take(1000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether a text can be a branch: the rules of `git check-ref-format`, tightened.
pub fn branch_fault(branch: &str) -> Option<&'static str> {
    let forbidden = |c: char| {
        c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\' | '\u{7f}')
    };
    if branch.is_empty() {
        Some("the branch's name is empty")
    } else if branch.len() > 255 {
        Some("the branch's name is longer than 255 bytes")
    } else if branch.starts_with('-') {
        Some("the branch's name begins with '-'")
    } else if branch == "HEAD" || branch == "@" {
        Some("HEAD is no branch: name the branch to follow")
    } else if branch.chars().any(forbidden) || branch.contains("@{") {
        Some("the branch's name contains a character that Git does not allow")
    } else if branch
        .split('/')
        .any(|part| part.is_empty() || part.starts_with('.') || part.ends_with(".lock"))
        || branch.contains("..")
        || branch.ends_with('.')
    {
        Some("the branch's name has an empty part, a part that begins with '.', '..' or '.lock'")
    } else {
        None
    }
}

/// A commit as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitFacts {
    /// The full hex id.
    pub id: String,
    /// Printable, at most 200 characters.
    pub subject: String,
    pub author: String,
}

/// One file of a commit that may hold manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// From the repository's root, UTF-8, printable.
    pub path: Arc<str>,
    /// The hex id of its content: equal id, equal content.
    pub blob: String,
    pub bytes: Arc<[u8]>,
}

/// Whether a file's name says that it holds manifests. Everything else is not read.
pub fn is_manifest_name(name: &str) -> bool {
    !name.starts_with('.')
        && [".yaml", ".yml", ".json"].iter().any(|ending| {
            name.len() > ending.len()
                && name.is_char_boundary(name.len() - ending.len())
                && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_forms_are_followed() {
        assert_eq!(
            SourceUrl::parse("/srv/git/app"),
            Ok(SourceUrl::Local(PathBuf::from("/srv/git/app")))
        );
        assert_eq!(
            SourceUrl::parse("file:///srv/git/app"),
            Ok(SourceUrl::Local(PathBuf::from("/srv/git/app")))
        );
        assert_eq!(
            SourceUrl::parse("https://git.example:8443/a/b.git").map(|url| url.as_text()),
            Ok("https://git.example:8443/a/b.git".to_owned())
        );
        assert_eq!(
            SourceUrl::parse("git@git.example:team/app.git").map(|url| url.as_text()),
            Ok("ssh://git@git.example/team/app.git".to_owned())
        );
        assert_eq!(
            SourceUrl::parse("ssh://deploy@[fe80::1]:2222/app").map(|url| url.as_text()),
            Ok("ssh://deploy@[fe80::1]:2222/app".to_owned())
        );
    }

    #[test]
    fn a_path_for_ssh_begins_where_git_lets_it_begin() {
        for (text, asked) in [
            ("git@git.example:team/app.git", "team/app.git"),
            ("git@git.example:/srv/app.git", "/srv/app.git"),
            ("ssh://git.example/srv/my%20app", "/srv/my app"),
            ("ssh://git.example/~/app", "~/app"),
            ("ssh://git.example/100%/app", "/100%/app"),
        ] {
            let url = SourceUrl::parse(text).expect("an address");
            assert!(
                matches!(&url, SourceUrl::Ssh { path, .. } if path == asked),
                "{text}: {url:?}"
            );
        }
        for text in ["git.example:-x", "ssh://git.example/", "git.example:", "ssh://h/a%0ab"] {
            assert!(SourceUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let rows = [
            ("", UrlError::Empty),
            ("--upload-pack=touch x", UrlError::Option),
            ("ssh://git@-oProxyCommand=x/y", UrlError::Host("-oProxyCommand=x".into())),
            ("ext::sh -c id", UrlError::Program("ext".into())),
            ("git://git.example/app", UrlError::Transport("git".into())),
            ("http://git.example/app", UrlError::Transport("http".into())),
            ("https://git.example/a\nb", UrlError::Control),
            ("https://git.example/a%00b", UrlError::Control),
            ("https://me:secret@git.example/a", UrlError::Credentials),
            ("https://token@git.example/a", UrlError::Credentials),
            ("ssh://git:secret@git.example/a", UrlError::Credentials),
            ("https://git.example/a?private_token=x", UrlError::Query('?')),
            ("https://git.example", UrlError::NoPath),
            ("https://[fe80::1%25eth0]/a", UrlError::Host("[fe80::1%25eth0]".into())),
            ("file://server/share", UrlError::FileHost),
            ("../app", UrlError::Relative("../app".into())),
        ];
        for (text, expected) in rows {
            assert_eq!(SourceUrl::parse(text), Err(expected), "{text:?}");
        }
        assert_eq!(
            SourceUrl::parse(&format!("https://h/{}", "a".repeat(10_000))),
            Err(UrlError::TooLong)
        );
    }

    #[test]
    fn nothing_secret_is_left_in_an_error() {
        let text = "failed https://me:hunter2@git.example/a?token=abc with hunter2 'x'";
        assert_eq!(
            scrub(text, &["hunter2"]),
            "failed https://(hidden)@git.example/a?(hidden) with (hidden) 'x'"
        );
    }

    #[test]
    fn branches_are_names_and_nothing_else() {
        for good in ["main", "release/1.2", "a-b_c"] {
            assert_eq!(branch_fault(good), None);
        }
        for bad in ["", "-x", "HEAD", "../x", "a..b", "a b", "x.lock", "a//b", "a:b", "a@{1}"] {
            assert!(branch_fault(bad).is_some(), "{bad:?}");
        }
    }

    #[test]
    fn only_three_endings_are_read() {
        for name in ["a.yaml", "a.yml", "a.json", "A.YAML"] {
            assert!(is_manifest_name(name));
        }
        for name in [".ballast.yaml", ".yaml", "a.txt", "yaml", "a.yaml.bak"] {
            assert!(!is_manifest_name(name), "{name}");
        }
    }
}
