//! The command line, as clap reads it. `--help` is documentation: every command says when to use it.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::gate::credential::DEFAULT_TTL;
use crate::config::DATA_DIR;
use crate::object::privilege;

const BEGIN: &str = "\
Begin with:
  ballast validate ./manifests     find every mistake before you push
  ballast run ./repository         follow a repository on this host
  ballast status                   is it fetched, applied, converged?

Exit status: 0 all is well; 1 the answer is no (each command says what that means);
2 there is no answer, and standard error says why and what to do next.";

const RUN: &str = "\
Examples:
  ballast run ./shop                                      branch main, the whole repository
  ballast run https://git.example/team/shop.git --branch live --path deploy --token-file /etc/ballast/token
  ballast run --config /etc/ballast.yaml                  several sources, webhooks

Exit status: 0 stopped by SIGTERM or Ctrl-C; 2 it could not start, or a part of it died.";

const VALIDATE: &str = "\
Examples:
  ballast validate ./manifests
  ballast validate web.yaml --config /etc/ballast.yaml    with that daemon's address ranges
  ballast validate . --output json                        for an editor or a pipeline

Exit status: 0 valid; 1 problems, all of them shown; 2 the path cannot be read.";

const PLAN: &str = "\
Examples:
  ballast plan ./manifests                                files as they are, committed or not
  ballast plan my-branch                                  inside the repository: before it is merged
  ballast plan HEAD~1 --repository /srv/shop --path deploy
  ballast plan ./manifests --empty                        without a daemon: everything is created

Exit status: 0 nothing would change; 1 changes; 2 problems, or there is no answer.";

const STATUS: &str = "\
Examples:
  ballast status
  until ballast status >/dev/null; do sleep 1; done       wait until what was fetched has converged

Exit status: 0 every source is applied at its newest commit and converged; 1 not (yet); 2 no daemon answers.";

const DRIFT: &str = "\
Examples:
  ballast drift
  ballast drift --all --output json

Exit status: 0 no difference is open; 1 some are; 2 no daemon answers.";

const TRACE: &str = "\
Examples:
  ballast trace host 10.43.0.5:80              from this host to a Service
  ballast trace 10.42.0.7 10.43.0.5:53/udp     from a pod
  ballast trace 198.51.100.7 192.0.2.1:30080   from outside to a node port

Exit status: 0 every way the packet may take arrives; 1 one does not; 2 the rules cannot be read (it needs root).";

const RESET: &str = "\
Examples:
  ballast reset                                shows what would go, and asks
  ballast reset --data-dir /srv/ballast --yes
  ballast reset --delete-volumes               the data of claims too: it stays otherwise

Exit status: 0 removed, or nothing was there; 1 you said no; 2 refused or failed: nothing goes without a word.";

const TOKEN: &str = "\
Examples:
  ballast token create --role viewer --name ada --ttl 30d
  ballast token create --role node --node host-2
  ballast token list
  ballast token revoke ada

Exit status: 0 done; 2 refused: nothing was changed.";

const KUBECONFIG: &str = "\
Examples:
  ballast kubeconfig > ballast.yaml                       without TLS: no credential is needed
  ballast kubeconfig --role viewer --name ada > ada.yaml
  kubectl --kubeconfig ada.yaml get pods -A               on any machine that reaches the daemon
  ballast kubeconfig --role viewer --certificate --server https://ops.example:7440

Exit status: 0 printed; 2 refused: no credential was made.";

/// Keeps Docker hosts true to a Git branch.
///
/// Push Kubernetes manifests to a repository; Ballast runs them as Docker containers behind
/// iptables Services, rolls changes without a failed request, heals what is killed, and names every
/// difference that is left. Look at it with kubectl, at http://127.0.0.1:7440/, or with the
/// commands below. Roll back with `git revert`.
#[derive(Debug, Parser)]
#[command(
    name = "ballast",
    version,
    disable_help_subcommand = true,
    after_help = BEGIN
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow a repository: everything in one process (API, controllers, scheduler, node, network).
    ///
    /// Runs until SIGTERM or Ctrl-C. Stopping or restarting it touches no container and no rule.
    #[command(after_help = RUN)]
    Run(Box<Run>),
    /// Check manifests without a daemon: every problem at once, with the line it is on.
    #[command(after_help = VALIDATE)]
    Validate {
        /// A file, a directory as it is on disk, or a bare repository (the commit of its HEAD).
        path: PathBuf,
        #[command(flatten)]
        ranges: Ranges,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// What applying manifests would change, by the same code as the sync. Compares with what a
    /// running daemon holds, or with nothing (--empty).
    #[command(after_help = PLAN)]
    Plan {
        /// A file or directory on disk; what is none is a commit, branch or tag.
        path_or_ref: String,
        /// The repository of the commit, branch or tag [default: the one around the working directory]
        #[arg(long)]
        repository: Option<PathBuf>,
        /// The folder of manifests inside the commit [default: the source's, else the whole repository]
        #[arg(long)]
        path: Option<String>,
        /// The source of the daemon that is compared with.
        #[arg(long, default_value = "main")]
        source: String,
        /// Compare with an empty cluster instead of a running daemon.
        #[arg(long)]
        empty: bool,
        #[command(flatten)]
        ranges: Ranges,
        #[command(flatten)]
        server: Server,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Fetched, Applied, Converged: how far the cluster follows each source.
    #[command(after_help = STATUS)]
    Status {
        #[command(flatten)]
        server: Server,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Every difference between Git and the world, with where it is wanted, why and since when.
    #[command(after_help = DRIFT)]
    Drift {
        #[command(flatten)]
        server: Server,
        /// Closed ones of the last 24 hours too.
        #[arg(long)]
        all: bool,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Credentials for a daemon that serves with TLS: make, show, revoke. Run it where its data
    /// directory is; a running daemon takes every change up at once.
    #[command(after_help = TOKEN)]
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// A ready kubeconfig with the daemon's address and authority and a new credential, printed once.
    ///
    /// Of a daemon without TLS, where everybody on its host reads, with the address alone.
    // A credential alone is made for somebody and says what for; a file to look with is a viewer's.
    #[command(after_help = KUBECONFIG, mut_arg("role", |role| role.required(false).default_value("viewer")))]
    Kubeconfig {
        #[command(flatten)]
        grant: Grant,
        /// The daemon's address [default: as the daemon itself last noted it]
        #[arg(long)]
        server: Option<String>,
        /// What clients are to trust (PEM), where the daemon serves a given certificate [default: what
        /// the client's system trusts]
        #[arg(long)]
        ca_file: Option<PathBuf>,
        /// A client certificate instead of a token.
        #[arg(long)]
        certificate: bool,
    },
    /// Walk a packet through the rules of this host: why does (or does not) a connection arrive?
    #[command(after_help = TRACE)]
    Trace {
        /// Where it comes from: an address, or `host` for this host itself.
        from: String,
        /// Where it goes: address:port, with /udp for UDP.
        to: String,
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Remove an installation from Docker, iptables and disk, after showing what goes.
    ///
    /// Refuses while its daemon runs. A data directory goes only with the installation that is
    /// written in it; without Docker the rules alone go.
    #[command(after_help = RESET)]
    Reset {
        /// Whose containers and rules [default: the one written in the data directory, else default]
        #[arg(long)]
        installation: Option<String>,
        /// Its data directory [default: /var/lib/ballast]
        #[arg(long)]
        data_dir: Option<PathBuf>,
        /// The Docker Engine whose containers and networks go.
        #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
        docker: String,
        /// The data of claims too: their directories and Docker volumes. Without it they stay.
        #[arg(long)]
        delete_volumes: bool,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// The version, and those of what is built in.
    Version {
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// The repository: a local path, file://, https:// or ssh://. Without it, the config file's sources.
    pub repository: Option<String>,
    /// The branch to follow [default: main]
    #[arg(long)]
    pub branch: Option<String>,
    /// The folder of manifests inside the repository [default: the whole repository]
    #[arg(long)]
    pub path: Option<String>,
    /// For https://: a file that holds the token, and nothing else.
    #[arg(long, env = "BALLAST_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// For https://: authorities to trust besides the system's (PEM).
    #[arg(long, env = "BALLAST_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// For ssh://: the private key, without a passphrase [default: what ssh chooses]
    #[arg(long, env = "BALLAST_SSH_KEY_FILE")]
    pub ssh_key_file: Option<PathBuf>,
    /// For ssh://: the host keys to trust [default: ~/.ssh/known_hosts]
    #[arg(long, env = "BALLAST_KNOWN_HOSTS_FILE")]
    pub known_hosts_file: Option<PathBuf>,
    /// Where the store and the volumes live [default: /var/lib/ballast]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// The API and the dashboard. On any address but loopback with TLS, and then for whoever has a
    /// credential: see `ballast kubeconfig` [default: 127.0.0.1:7440]
    #[arg(long)]
    pub listen: Option<String>,
    /// TLS and credentials on loopback too.
    #[arg(long)]
    pub tls: bool,
    /// The listener's certificate chain (PEM) [default: one of this installation's own authority]
    #[arg(long)]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM).
    #[arg(long)]
    pub tls_key: Option<PathBuf>,
    /// A name or address that clients will ask for, in our own certificate; may be repeated.
    #[arg(long = "tls-name")]
    pub tls_names: Vec<String>,
    /// A second listener that serves webhooks alone and may be public [default: none]
    #[arg(long)]
    pub webhook_listen: Option<String>,
    /// A YAML file with everything here, several sources and their webhooks; see README.md. A flag wins.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Tells this daemon's containers and rules from another's on the same host [default: default]
    #[arg(long)]
    pub installation: Option<String>,
    /// This node's name; kept in the data directory [default: the host's name at the first start]
    #[arg(long)]
    pub node_name: Option<String>,
    /// The Docker Engine [default: unix:///var/run/docker.sock]
    #[arg(long, env = "DOCKER_HOST")]
    pub docker: Option<String>,
    /// The pods' addresses [default: 10.42.0.0/16]
    #[arg(long)]
    pub pod_cidr: Option<String>,
    /// The Services' addresses [default: 10.43.0.0/16]
    #[arg(long)]
    pub service_cidr: Option<String>,
    /// The ports that Services may open on every node [default: 30000-32767]
    #[arg(long)]
    pub node_ports: Option<String>,
    /// Sandboxes that wait for the next pods, at most: they start in half the time; 0 is none
    /// [default: 8, as many as the last ten minutes could use]
    #[arg(long)]
    pub spare_sandboxes: Option<usize>,
    #[command(flatten)]
    pub allow: Allow,
    /// Processes and threads that one container may have; 0 is as many as the host has [default: 4096]
    #[arg(long)]
    pub pids_limit: Option<i64>,
    /// NAME=COUNT of what this host has besides cores and memory, by the name that pods ask for
    /// (example.com/fpga=2); may be repeated [default: none]
    #[arg(long = "resource", value_name = "NAME=COUNT")]
    pub resources: Vec<String>,
    /// Which log lines: info, debug, ballast::node=debug … [default: info]
    #[arg(long)]
    pub log: Option<String>,
    /// text or json [default: text]
    #[arg(long)]
    pub log_format: Option<String>,
}

impl fmt::Display for Server {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kubeconfig {
            Some(path) => write!(out, "the server of {}", path.display()),
            None => out.write_str(&self.server),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, once: the daemon keeps its hash alone.
    Create {
        #[command(flatten)]
        grant: Grant,
    },
    /// Every credential, tokens and certificates, without what proves it.
    List {
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// End a credential now; watches and streams that are open under it end too.
    Revoke {
        name: String,
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
    },
}

/// A credential that is to be made.
#[derive(Clone, Debug, Args)]
pub struct Grant {
    /// What it lets its holder do.
    #[arg(long, value_enum)]
    pub role: GrantedRole,
    /// The user's name in Events and the audit log [default: the role and five random letters]
    #[arg(long)]
    pub name: Option<String>,
    /// For how long: 90s, 15m, 12h, 30d; at most 3650d.
    #[arg(long, default_value = DEFAULT_TTL)]
    pub ttl: String,
    /// The node, for --role node.
    #[arg(long)]
    pub node: Option<String>,
    /// The daemon's data directory.
    #[arg(long, default_value = DATA_DIR)]
    pub data_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GrantedRole {
    /// Reads everything; Secret values are keyed hashes.
    Viewer,
    /// As viewer, reads Secret values and enters containers. Off until the daemon's config says
    /// `operator: true`.
    Operator,
    /// The agent of one node.
    Node,
}

#[derive(Clone, Debug, Args)]
pub struct Server {
    /// The daemon's address.
    #[arg(long, default_value = "http://127.0.0.1:7440", env = "BALLAST_SERVER")]
    pub server: String,
    /// A kubeconfig in place of the address, for a daemon with TLS; its current context is used.
    #[arg(long, env = "BALLAST_KUBECONFIG", conflicts_with = "server")]
    pub kubeconfig: Option<PathBuf>,
}

/// Which addresses are right: a flag wins over the config file, the file over a daemon that is asked.
#[derive(Clone, Debug, Default, Args)]
pub struct Ranges {
    /// The daemon's config file: its serviceCidr, nodePorts and allow are judged by.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The Services' addresses [default: the running daemon's, else 10.43.0.0/16]
    #[arg(long)]
    pub service_cidr: Option<String>,
    /// The ports that Services may open [default: the running daemon's, else 30000-32767]
    #[arg(long)]
    pub node_ports: Option<String>,
    #[command(flatten)]
    pub allow: Allow,
}

/// What pods may have of the host, beside their namespace's label in Git: nothing by default. Each may
/// be repeated, `*` is every namespace, and all of them add to the config file's `allow`.
#[derive(Clone, Debug, Default, Args)]
pub struct Allow {
    /// NAMESPACE whose pods may be privileged: with every capability and without a profile.
    #[arg(long = "allow-privileged", value_name = "NAMESPACE")]
    pub privileged: Vec<String>,
    /// NAMESPACE whose pods may have the host's network, processes and memory segments.
    #[arg(long = "allow-host-namespaces", value_name = "NAMESPACE")]
    pub host_namespaces: Vec<String>,
    /// NAMESPACE:/PATH that its pods may mount, with what is below it.
    #[arg(long = "allow-host-path", value_name = "NAMESPACE:PATH")]
    pub host_paths: Vec<String>,
    /// NAMESPACE:PORT or NAMESPACE:FIRST-LAST that its pods may publish on the host.
    #[arg(long = "allow-host-ports", value_name = "NAMESPACE:PORTS")]
    pub host_ports: Vec<String>,
    /// NAMESPACE:NAME of a capability beyond the level baseline, such as NET_ADMIN.
    #[arg(long = "allow-capability", value_name = "NAMESPACE:NAME")]
    pub capabilities: Vec<String>,
    /// NAMESPACE:NAME of a kernel parameter beyond the safe ones; net.core.* is all that begin so.
    #[arg(long = "allow-sysctl", value_name = "NAMESPACE:NAME")]
    pub sysctls: Vec<String>,
}

impl From<Allow> for privilege::Flags {
    fn from(allow: Allow) -> Self {
        let Allow { privileged, host_namespaces, host_paths, host_ports, capabilities, sysctls } =
            allow;
        Self { privileged, host_namespaces, host_paths, host_ports, capabilities, sysctls }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}
