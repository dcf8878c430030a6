//! The binary: parses the command line and hands over to the library.

use std::process::ExitCode;

use anyhow::{Context, Result};
use ballast::access_commands::KubeconfigQuestion;
use ballast::cli::{Cli, Command, Output, Run, Server, TokenCommand};
use ballast::config::{self, ConfigFile, Overrides};
use ballast::offline_commands::{self, PlanQuestion};
use ballast::telemetry::{self, LogFormat};
use ballast::{access_commands, commands, daemon, host_commands};
use clap::Parser;

/// Gives freed memory back to the system; `.cargo/config.toml` says how soon.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Four times the standard library's: what handles every kind and verb is wide where nothing is
/// optimised. A stack that is not touched costs nothing.
const STACK: usize = 8 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ballast: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .build()
        .context("cannot start the runtime")?;
    match command {
        Command::Run(arguments) => {
            let config = configured(*arguments)?;
            let format = if config.log_json { LogFormat::Json } else { LogFormat::Text };
            telemetry::start(&config.log, format).context("the log filter cannot be read")?;
            runtime.block_on(daemon::run(config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { server, output } => runtime.block_on(status(&server, output)),
        Command::Drift { server, all, output } => runtime.block_on(drift(&server, all, output)),
        Command::Validate { path, ranges, output } => {
            runtime.block_on(offline_commands::validate(&path, &ranges, output))
        }
        Command::Plan { path_or_ref, repository, path, source, empty, ranges, server, output } => {
            let server = (!empty).then_some(server);
            let question = PlanQuestion { path_or_ref, repository, path, source, ranges, server };
            runtime.block_on(offline_commands::plan(&question, output))
        }
        Command::Token { command } => match command {
            TokenCommand::Create { grant } => access_commands::create_token(&grant),
            TokenCommand::List { data_dir, output } => {
                access_commands::list_credentials(&data_dir, output)
            }
            TokenCommand::Revoke { name, data_dir } => access_commands::revoke(&data_dir, &name),
        },
        Command::Kubeconfig { grant, server, ca_file, certificate } => {
            let question = KubeconfigQuestion { grant, server, ca_file, certificate };
            access_commands::kubeconfig(&question)
        }
        Command::Trace { from, to, output } => {
            runtime.block_on(host_commands::trace(&from, &to, output))
        }
        Command::Reset { installation, data_dir, docker, yes, delete_volumes } => {
            let (installation, data_dir) = (installation.as_deref(), data_dir.as_deref());
            let (docker, all) = (&docker, delete_volumes);
            runtime.block_on(host_commands::reset(installation, data_dir, docker, yes, all))
        }
        Command::Version { output } => {
            version(output);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn configured(arguments: Run) -> Result<config::Config> {
    let file = arguments
        .config
        .as_deref()
        .map(config::read)
        .transpose()?
        .unwrap_or_else(ConfigFile::default);
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let given = Overrides {
        repository: arguments.repository,
        branch: arguments.branch,
        path: arguments.path,
        token_file: arguments.token_file,
        ca_file: arguments.ca_file,
        ssh_key_file: arguments.ssh_key_file,
        known_hosts_file: arguments.known_hosts_file,
        data_dir: arguments.data_dir,
        listen: arguments.listen,
        tls: arguments.tls,
        tls_cert: arguments.tls_cert,
        tls_key: arguments.tls_key,
        tls_names: arguments.tls_names,
        webhook_listen: arguments.webhook_listen,
        installation: arguments.installation,
        node_name: arguments.node_name,
        docker: arguments.docker,
        pod_cidr: arguments.pod_cidr,
        service_cidr: arguments.service_cidr,
        node_ports: arguments.node_ports,
        spare_sandboxes: arguments.spare_sandboxes,
        log: arguments.log,
        log_format: arguments.log_format,
        allow: arguments.allow.into(),
        pids_limit: arguments.pids_limit,
        resources: arguments.resources,
    };
    Ok(config::build(file, given, &host_name)?)
}

async fn status(server: &Server, output: Output) -> Result<ExitCode> {
    let (sources, _) = commands::ask(server).await?;
    match output {
        Output::Text => {
            print!("{}", commands::status_text(&sources, ballast::clock::Clock::wall().now()))
        }
        Output::Json => println!("{:#}", commands::status_json(&sources)),
    }
    Ok(ExitCode::from(u8::from(!commands::is_converged(&sources))))
}

async fn drift(server: &Server, all: bool, output: Output) -> Result<ExitCode> {
    let (_, drifts) = commands::ask(server).await?;
    let chosen = commands::chosen(drifts, all);
    match output {
        Output::Text => {
            print!("{}", commands::drift_text(&chosen, ballast::clock::Clock::wall().now()))
        }
        Output::Json => println!("{:#}", serde_json::to_value(&chosen)?),
    }
    Ok(ExitCode::from(u8::from(chosen.iter().any(|drift| commands::is_open(drift)))))
}

fn version(output: Output) {
    let sqlite = ballast::store::sqlite_version();
    match output {
        Output::Text => println!(
            "ballast {} (Kubernetes 1.36 semantics, SQLite {sqlite})",
            env!("CARGO_PKG_VERSION")
        ),
        Output::Json => println!(
            "{:#}",
            serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "kubernetes": "1.36", "sqlite": sqlite })
        ),
    }
}
