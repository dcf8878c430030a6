//! The command line, as clap reads it. `--help` is documentation: every command says when to use it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    after_help = "Begin with:\n  ballast validate ./manifests     find every mistake before you push\n  ballast run ./repository         follow a repository on this host\n  ballast status                   is it fetched, applied, converged?\n"
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
    Run(Box<Run>),
    /// Check manifests without a daemon: every problem at once, with the line it is on. Exit 1 if any.
    Validate {
        /// A file, a directory or a repository.
        path: PathBuf,
        #[command(flatten)]
        ranges: Ranges,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// What applying manifests would change, by the same code as the sync. Needs a running daemon to
    /// compare with, or --empty. Exit 0: nothing, 1: changes, 2: problems.
    Plan {
        /// A directory of manifests, or a commit, branch or tag of the repository in --repository.
        path_or_ref: String,
        /// The repository that a commit, branch or tag belongs to; and the folder inside it.
        #[arg(long)]
        repository: Option<PathBuf>,
        #[arg(long, default_value = ".")]
        path: String,
        /// The source whose inventory is compared.
        #[arg(long, default_value = "main")]
        source: String,
        /// Compare with an empty cluster instead of a running daemon.
        #[arg(long)]
        empty: bool,
        #[command(flatten)]
        ranges: Ranges,
        #[command(flatten)]
        server: Server,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Fetched, Applied, Converged: how far the cluster follows each source. Exit 1 if not converged.
    Status {
        #[command(flatten)]
        server: Server,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Every difference between Git and the world, with where it is wanted, why and since when.
    /// Exit 1 if any is open.
    Drift {
        #[command(flatten)]
        server: Server,
        /// Closed ones of the last 24 hours too.
        #[arg(long)]
        all: bool,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Walk a packet through the rules of this host: why does (or does not) a connection arrive?
    Trace {
        /// Where it comes from: an address, or `host` for this host itself.
        from: String,
        /// Where it goes: address:port, with /udp for UDP.
        to: String,
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Remove an installation from Docker, iptables and disk, after showing what goes.
    ///
    /// Refuses while its daemon runs. A data directory goes only with the installation that is
    /// written in it; without Docker the rules alone go.
    Reset {
        /// Whose containers and rules [default: the one written in the data directory, else default]
        #[arg(long)]
        installation: Option<String>,
        /// Its data directory [default: /var/lib/ballast]
        #[arg(long)]
        data_dir: Option<PathBuf>,
        #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
        docker: String,
        /// Do it without asking.
        #[arg(long)]
        yes: bool,
    },
    /// The version, and those of what is built in.
    Version {
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// The repository: a local path, file://, https:// or ssh://. Without it, the config file's sources.
    pub repository: Option<String>,
    #[arg(long)]
    pub branch: Option<String>,
    /// The folder of manifests inside the repository.
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
    /// The API and the dashboard; loopback only [default: 127.0.0.1:7440]
    #[arg(long)]
    pub listen: Option<String>,
    /// A second listener that serves webhooks alone and may be public.
    #[arg(long)]
    pub webhook_listen: Option<String>,
    /// A YAML file with everything above and more; see README.md.
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
    /// Which log lines: info, debug, ballast::node=debug … [default: info]
    #[arg(long)]
    pub log: Option<String>,
    /// text or json [default: text]
    #[arg(long)]
    pub log_format: Option<String>,
}

#[derive(Debug, Args)]
pub struct Server {
    /// The daemon's address.
    #[arg(long, default_value = "http://127.0.0.1:7440", env = "BALLAST_SERVER")]
    pub server: String,
}

/// Which addresses are right: a flag wins over the config file, the file over a daemon that is asked.
#[derive(Clone, Debug, Default, Args)]
pub struct Ranges {
    /// The daemon's config file: its serviceCidr and nodePorts are judged by.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The Services' addresses [default: the running daemon's, else 10.43.0.0/16]
    #[arg(long)]
    pub service_cidr: Option<String>,
    /// The ports that Services may open [default: the running daemon's, else 30000-32767]
    #[arg(long)]
    pub node_ports: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}
