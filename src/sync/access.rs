//! Pure: what opens a remote repository. Secrets are named by where they stand; their values are
//! read when they are needed and are in no value that could be printed.

use std::fmt;
use std::path::PathBuf;

/// What a source needs to read its repository. What its address has no use for is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `https://`: sent beside the token. GitHub and Gitea take any, a GitLab deploy token has its own.
    pub user: Option<String>,
    /// `https://`: sent as the password.
    pub token: Option<TokenFrom>,
    /// `https://`: authorities that are trusted besides the system's, in PEM form.
    pub ca_file: Option<PathBuf>,
    /// `ssh://`: the private key. Without one, ssh chooses (agent, configuration, default files).
    pub ssh_key: Option<PathBuf>,
    /// `ssh://`: the hosts that may answer. Without one, ssh's own files (`~/.ssh/known_hosts`).
    pub known_hosts: Option<PathBuf>,
}

/// The user of a token for which nobody named one.
pub const ANY_USER: &str = "git";

/// Where a token stands.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenFrom {
    /// Read at every fetch, so that a new one counts without a restart.
    File(PathBuf),
    /// An environment variable, and what it held when the daemon started.
    Variable { name: String, value: String },
}

/// The place without the token.
impl fmt::Display for TokenFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "tokenFile {}", path.display()),
            Self::Variable { name, .. } => write!(f, "tokenEnv {name}"),
        }
    }
}

/// As [`fmt::Display`]: never the token.
impl fmt::Debug for TokenFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The token in a file's or a variable's text.
///
/// # Errors
/// Why the text is none.
pub fn token_in(text: &str) -> Result<&str, &'static str> {
    let token = text.trim();
    if token.is_empty() {
        return Err("is empty");
    }
    if token.chars().any(|c| c.is_control() || c == ' ') {
        return Err("holds more than one line or word: write the token alone");
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_is_never_shown() {
        assert_eq!(token_in(" abc\n"), Ok("abc"));
        for (text, words) in
            [("", "empty"), ("\n", "empty"), ("a b", "more than"), ("a\nb", "more")]
        {
            assert!(token_in(text).is_err_and(|why| why.contains(words)), "{text:?}");
        }
        let token = TokenFrom::Variable { name: "GIT_TOKEN".into(), value: "s3cret".into() };
        let access = Access { token: Some(token), ..Access::default() };
        let shown = format!("{access:?}");
        assert!(shown.contains("tokenEnv GIT_TOKEN") && !shown.contains("s3cret"), "{shown}");
    }
}
