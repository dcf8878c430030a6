//! What the command line does about credentials, on the data directory of a daemon: `token` and
//! `kubeconfig`. Whoever may read that directory may do everything anyway; over HTTP nobody can make
//! a credential.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::access::Role;
use crate::api::gate::authority::{Authority, Pair};
use crate::api::gate::credential::{
    self, Credential, CredentialList, Fingerprint, Proof, Wish, fingerprint,
};
use crate::api::gate::credential_file::{edit, list};
use crate::api::gate::served::Served;
use crate::cli::{Grant, GrantedRole, Output};
use crate::clock::Clock;
use crate::home::{self, Found};

/// What `ballast kubeconfig` was asked.
#[derive(Clone, Debug)]
pub struct KubeconfigQuestion {
    pub grant: Grant,
    pub server: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub certificate: bool,
}

/// `ballast token create`: the token on the standard output and nothing else there.
///
/// # Errors
/// No data directory of a daemon; a role that is off; a name that is taken.
pub fn create_token(grant: &Grant) -> Result<ExitCode> {
    let (token, made) = token(grant)?;
    println!("{token}");
    eprintln!("{}", told(&made));
    Ok(ExitCode::SUCCESS)
}

/// `ballast token list`.
///
/// # Errors
/// The list cannot be read.
pub fn list_credentials(data_dir: &Path, output: Output) -> Result<ExitCode> {
    ours(data_dir)?;
    let all = list(data_dir)?;
    match output {
        Output::Text => print!("{}", table(&all, Clock::wall().now())),
        Output::Json => println!("{:#}", serde_json::to_value(&all.credentials)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// `ballast token revoke`.
///
/// # Errors
/// There is no such credential; the list cannot be written.
pub fn revoke(data_dir: &Path, name: &str) -> Result<ExitCode> {
    ours(data_dir)?;
    edit(data_dir, |list| list.without(name).map(|list| (list, ())))?;
    eprintln!("{name} is revoked; what was open under it ends now");
    Ok(ExitCode::SUCCESS)
}

/// `ballast kubeconfig`: the file on the standard output and nothing else there.
///
/// # Errors
/// As [`create_token`]; a daemon without TLS, where there is no credential to give, and one was asked for.
pub fn kubeconfig(question: &KubeconfigQuestion) -> Result<ExitCode> {
    let (text, made) = kubeconfig_text(question)?;
    print!("{text}");
    match made {
        Some(made) => eprintln!("{}", told(&made)),
        None => eprintln!("everybody on this host reads without a credential: there is none in it"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The kubeconfig, with a new credential in it where the daemon has any.
///
/// # Errors
/// As [`kubeconfig`].
pub fn kubeconfig_text(question: &KubeconfigQuestion) -> Result<(String, Option<Credential>)> {
    let KubeconfigQuestion { grant, server, ca_file, certificate } = question;
    let data_dir = &grant.data_dir;
    ours(data_dir)?;
    let served = served(data_dir)?;
    let Some(server) = server.clone().or_else(|| served.as_ref().map(|at| at.server.clone()))
    else {
        bail!("no daemon has run with {} yet: give its address with --server", data_dir.display());
    };
    if !server.starts_with("https://") {
        if asks_for_a_credential(question) {
            bail!(
                "the daemon at {server} serves without TLS: everybody on its host reads without a credential (ballast kubeconfig without options); start it with --tls or with a public --listen"
            );
        }
        // kubectl takes no context without a user.
        return Ok((written(&server, None, "reader", &json!({}))?, None));
    }
    let own = served.is_none_or(|at| at.own_authority);
    let authority = match ca_file {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?,
        ),
        None if own => Some(Authority::open(data_dir, Clock::wall().now())?.pem),
        None => None,
    };
    let (user, made) = if *certificate {
        let (pair, made) = client_certificate(grant)?;
        let coded = |pem: &str| STANDARD.encode(pem);
        (
            json!({"client-certificate-data": coded(&pair.certificate), "client-key-data": coded(&pair.key)}),
            made,
        )
    } else {
        let (token, made) = token(grant)?;
        (json!({"token": token}), made)
    };
    Ok((written(&server, authority.as_deref(), &made.name, &user)?, Some(made)))
}

/// Whether something of a credential was asked for beyond what everybody has.
fn asks_for_a_credential(question: &KubeconfigQuestion) -> bool {
    let KubeconfigQuestion { grant, server: _, ca_file, certificate } = question;
    grant.role != GrantedRole::Viewer
        || grant.name.is_some()
        || grant.node.is_some()
        || grant.ttl != credential::DEFAULT_TTL
        || ca_file.is_some()
        || *certificate
}

fn written(server: &str, authority: Option<&str>, name: &str, user: &Value) -> Result<String> {
    let mut cluster = json!({"server": server});
    if let Some(pem) = authority {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(pem));
    }
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "ballast", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "ballast", "context": {"cluster": "ballast", "user": name}}],
        "current-context": "ballast",
    });
    Ok(serde_yaml::to_string(&file)?)
}

fn token(grant: &Grant) -> Result<(String, Credential)> {
    let token = credential::token(rand::random());
    let made = register(grant, Proof::Token, fingerprint(token.as_bytes()))?;
    Ok((token, made))
}

fn client_certificate(grant: &Grant) -> Result<(Pair, Credential)> {
    // Its name stands in the certificate, and the list knows the certificate by its hash.
    let grant = Grant { name: Some(name(grant)), ..grant.clone() };
    let now = Clock::wall().now();
    let wish = wish(&grant, Proof::Certificate)?;
    let authority = Authority::open(&grant.data_dir, now)?;
    let role = format!("ballast:{}s", wish.role.as_str());
    let expires = now.checked_add(wish.ttl)?;
    // Checked before it is signed, so that no fault of a name becomes one of a certificate's.
    CredentialList::default().with(wish.clone(), [0; 32], now)?;
    let pair = authority.client(&wish.name, &role, now, expires)?;
    let made = register(&grant, Proof::Certificate, fingerprint(&pair.der))?;
    Ok((pair, made))
}

fn register(grant: &Grant, proof: Proof, print: Fingerprint) -> Result<Credential> {
    ours(&grant.data_dir)?;
    let wish = wish(grant, proof)?;
    let off = served(&grant.data_dir)?.is_some_and(|at| !at.operator);
    if wish.role == Role::Operator && off {
        bail!(
            "the role operator is off in this daemon: set `operator: true` in its config file and start it again first"
        );
    }
    let now = Clock::wall().now();
    Ok(edit(&grant.data_dir, |list| list.with(wish, print, now))?)
}

fn wish(grant: &Grant, proof: Proof) -> Result<Wish> {
    let role = match grant.role {
        GrantedRole::Viewer => Role::Viewer,
        GrantedRole::Operator => Role::Operator,
        GrantedRole::Node => Role::Node,
    };
    let ttl = credential::ttl(&grant.ttl)?;
    Ok(Wish { name: name(grant), role, node: grant.node.clone(), proof, ttl })
}

fn name(grant: &Grant) -> String {
    grant.name.clone().unwrap_or_else(|| {
        let role = match grant.role {
            GrantedRole::Viewer => "viewer",
            GrantedRole::Operator => "operator",
            GrantedRole::Node => "node",
        };
        let letter = || char::from(b'a' + rand::random_range(0..26_u8));
        let random: String = std::iter::repeat_with(letter).take(5).collect();
        format!("{role}-{random}")
    })
}

/// A credential in a directory that no daemon reads would open nothing.
fn ours(data_dir: &Path) -> Result<()> {
    match home::look(data_dir)? {
        Found::Marked(_) => Ok(()),
        _ => bail!(
            "{} is no data directory of a daemon: give --data-dir, or start the daemon once first",
            data_dir.display()
        ),
    }
}

fn served(data_dir: &Path) -> Result<Option<Served>> {
    Served::read(data_dir)
        .with_context(|| format!("cannot read what the daemon of {} serves", data_dir.display()))
}

fn told(made: &Credential) -> String {
    format!(
        "credential {} ({}) counts until {}; end it with: ballast token revoke {}",
        made.name,
        made.role.as_str(),
        to_the_second(made.expires),
        made.name
    )
}

fn to_the_second(at: Timestamp) -> Timestamp {
    at.round(jiff::Unit::Second).unwrap_or(at)
}

fn table(all: &CredentialList, now: Timestamp) -> String {
    let mut text = format!(
        "{:<24} {:<9} {:<12} {:<12} {:<21} EXPIRES\n",
        "NAME", "ROLE", "NODE", "PROOF", "CREATED"
    );
    for one in &all.credentials {
        let proof = match one.proof {
            Proof::Token => "token",
            Proof::Certificate => "certificate",
        };
        let over = if one.has_expired(now) { " (expired)" } else { "" };
        let _ = writeln!(
            text,
            "{:<24} {:<9} {:<12} {:<12} {:<21} {}{over}",
            one.name,
            one.role.as_str(),
            one.node.as_deref().unwrap_or("-"),
            proof,
            to_the_second(one.created).to_string(),
            to_the_second(one.expires)
        );
    }
    text
}
