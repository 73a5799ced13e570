//! The grammar of the command line.

mod assistant;
mod bench;
mod config;
mod disk;
mod environment;
mod events;
mod host;
mod kernel;
mod kind;
mod migrate;
mod parse;
mod placement;
mod plan;
mod roles;
mod schedule;
mod secrets;
mod template;
mod tool;
mod tuning;
mod vm;
mod watch;
mod worker;
mod ws;

pub(crate) use assistant::AssistantCommand;
pub(crate) use bench::{
    AgentBenchArgs, ApiBenchArgs, BenchArgs, BenchCommand, FleetBenchArgs, ImageBenchArgs,
};
pub(crate) use config::ConfigCommand;
pub(crate) use disk::DiskCommand;
pub(crate) use environment::{AssistantArgs, EnvCommand, EnvironmentArgs, SetupArgs};
pub(crate) use events::{EventLogArgs, EventsArgs, FilterArgs, ProjectCommand, WebhookCommand};
pub(crate) use host::{HostCommand, PrepareArgs};
pub(crate) use kernel::{Base, ImportArgs, KernelBuildArgs, KernelCommand};
pub(crate) use migrate::MigrateArgs;
pub(crate) use placement::PlacementArgs;
pub(crate) use plan::PlanArgs;
pub(crate) use roles::{CatalogArgs, FleetArgs, GatewayArgs, WorkerArgs};
pub(crate) use schedule::ScheduleArgs;
pub(crate) use secrets::{KeysArgs, RoleKeysArgs, RotateArgs, SecretCommand, SecretsArgs};
pub(crate) use template::{BuildArgs, DEFAULT_BLOB_CACHE_MIB, PlaceArgs, TemplateCommand};
pub(crate) use tool::ToolCommand;
pub(crate) use tuning::{LimitArgs, TuningArgs};
pub(crate) use vm::{VmArgs, VmCommand};
pub(crate) use watch::{TopArgs, TopOrder};
pub(crate) use worker::WorkerCommand;
pub(crate) use ws::{AgainArgs, PromptArgs, WsCommand, WsCreateArgs};

use aetherium_model::resources::DriverChoice;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use parse::{duration, file, variable};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Runs AI agents, and any other untrusted command, in microVMs.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  aetherium doctor                              what this host has, lacks, and how to get it
  aetherium template build                      make the template `default`
  aetherium run -- uname -a                     one command in a VM of its own
  aetherium up                                  the server: API, queue and worker in one process
  aetherium ws create demo                      a workspace on it
  aetherium ws prompt demo 'echo Hello from VM' a prompt in the workspace's VM"
)]
pub(crate) struct Args {
    /// Where everything is kept: database, API key, templates, VMs.
    #[arg(long, global = true, env = "AETHERIUM_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The server to talk to; else the one that runs on the data directory.
    #[arg(long, global = true, env = "AETHERIUM_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The API key; else the one in the data directory.
    #[arg(
        long,
        global = true,
        env = "AETHERIUM_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub(crate) api_key: Option<String>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How the log on standard error looks; AETHERIUM_LOG sets what it shows (`info`, `debug`, …).
    #[arg(
        long,
        global = true,
        env = "AETHERIUM_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,
    /// Where a server sends its traces: the base URL of a collector that takes OTLP over HTTP, such as
    /// http://127.0.0.1:4318.
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line.
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: API, queue and worker in one process, until Ctrl-C.
    Up(UpArgs),
    /// Boot a VM, run one command in it, and exit with its exit code.
    #[command(after_help = "\
Uses the server of the data directory if one runs, else one of its own for the time it takes.
Exit codes: the command's own; 128+N if signal N ended it; 124 if its time was up;
125 if Aetherium failed; 126 if it could not be executed; 127 if it was not found.

Examples:
  aetherium run -- uname -a
  echo 'print(6*7)' | aetherium run --template python -- python3 -
  aetherium run --network egress --memory-mib 1024 -- sh -c 'apt-get update'")]
    Run(RunArgs),
    /// Run a command in a VM that exists.
    Exec(ExecArgs),
    /// Workspaces and their prompts.
    Ws {
        /// What to do with them.
        #[command(subcommand)]
        verb: WsCommand,
    },
    /// Environments: what workspaces are made from, in versions.
    #[command(visible_alias = "environment")]
    Env {
        /// What to do with them.
        #[command(subcommand)]
        verb: EnvCommand,
    },
    /// VMs.
    Vm {
        /// What to do with them.
        #[command(subcommand)]
        verb: VmCommand,
    },
    /// Queued work.
    Task {
        /// What to do with it.
        #[command(subcommand)]
        verb: TaskCommand,
    },
    /// What happened to workspaces, VMs, prompts and the rest, and go on with what does.
    Events(EventsArgs),
    /// Addresses that are told of events.
    Webhook {
        /// What to do with them.
        #[command(subcommand)]
        verb: WebhookCommand,
    },
    /// Secrets: what commands get without its being written down.
    #[command(visible_alias = "secrets")]
    Secret {
        /// What to do with them.
        #[command(subcommand)]
        verb: SecretCommand,
    },
    /// Projects: what each may use, and uses.
    Project {
        /// What to do with them.
        #[command(subcommand)]
        verb: ProjectCommand,
    },
    /// Templates: what VMs start from.
    Template {
        /// What to do with them.
        #[command(subcommand)]
        verb: TemplateCommand,
    },
    /// Tools: what workspaces may ask for by name.
    #[command(visible_alias = "tools")]
    Tool {
        /// What to do with them.
        #[command(subcommand)]
        verb: ToolCommand,
    },
    /// Assistants: what answers the prompts of workspaces.
    #[command(visible_alias = "assistants")]
    Assistant {
        /// What to do with them.
        #[command(subcommand)]
        verb: AssistantCommand,
    },
    /// Kernels for templates: look at one, import one, build a lean one.
    Kernel {
        /// What to do with them.
        #[command(subcommand)]
        verb: KernelCommand,
    },
    /// This host, before it runs VMs.
    Host {
        /// What to do with it.
        #[command(subcommand)]
        verb: HostCommand,
    },
    /// Run a gateway of a fleet: the API, in front of workers on other machines.
    Gateway(GatewayArgs),
    /// Run a worker of a fleet; with a verb, ask about workers.
    #[command(args_conflicts_with_subcommands = true)]
    Worker {
        /// What to ask.
        #[command(subcommand)]
        verb: Option<WorkerCommand>,
        #[command(flatten)]
        role: Box<WorkerArgs>,
    },
    /// Show on one screen how a server or fleet is; exits with 1 if something fails.
    Status,
    /// Show what each VM uses, over and over, until Ctrl-C.
    Top(TopArgs),
    /// Check this host: what is there, what is missing, why it matters, what to do.
    Doctor(DriverArgs),
    /// Bring the database's schema up to date; every server does this by itself when it starts.
    Migrate(MigrateArgs),
    /// What can be configured.
    Config {
        /// What to show of it.
        #[command(subcommand)]
        verb: ConfigCommand,
    },
    /// Print the API's OpenAPI 3.1 document.
    Openapi,
    /// Make a template, start a server, run a prompt in a real VM, and stop again.
    Quickstart(QuickstartArgs),
    /// Measure against a floor taken in the same run.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        verb: BenchCommand,
    },
    /// Print a shell's completion script.
    #[command(
        after_help = "Example:\n  aetherium completion bash > /etc/bash_completion.d/aetherium"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Which driver, and where its programs are.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct DriverArgs {
    /// The driver: `auto`, `firecracker`, `qemu` or `process` (no isolation).
    #[arg(long, env = "AETHERIUM_DRIVER", default_value = "auto")]
    pub(crate) driver: DriverChoice,
    /// Firecracker's program; else firecracker from PATH.
    #[arg(long, env = "AETHERIUM_FIRECRACKER", value_name = "FILE")]
    pub(crate) firecracker: Option<PathBuf>,
    /// Firecracker's jailer; else the one beside it, or jailer from PATH.
    #[arg(long, env = "AETHERIUM_JAILER", value_name = "FILE")]
    pub(crate) jailer: Option<PathBuf>,
    /// Run Firecracker without its jailer, though this is root.
    #[arg(long, conflicts_with = "jailer")]
    pub(crate) no_jailer: bool,
    /// QEMU's program; else qemu-system-x86_64 from PATH.
    #[arg(long, env = "AETHERIUM_QEMU", value_name = "FILE", value_parser = file)]
    pub(crate) qemu: Option<PathBuf>,
    /// The program that gives QEMU's guests a virtio socket; else vhost-device-vsock from PATH.
    #[arg(long, env = "AETHERIUM_VSOCK_HELPER", value_name = "FILE", value_parser = file)]
    pub(crate) vsock_helper: Option<PathBuf>,
    /// The guest agent's static binary; else fc-agent beside this program.
    #[arg(long, env = "AETHERIUM_AGENT", value_name = "FILE", value_parser = file)]
    pub(crate) agent: Option<PathBuf>,
    /// How much disk the memories of hibernated workspaces may take on this machine, in MiB; a VM that
    /// would go beyond is stopped instead.
    #[arg(long, env = "AETHERIUM_HIBERNATION_MIB", default_value_t = 65_536, value_name = "MIB")]
    pub(crate) hibernation_mib: u32,
    /// A directory in this machine's memory (a tmpfs), where the memory of a VM that was given secrets
    /// is in clear for as long as it takes to hibernate or wake it.
    #[arg(long, env = "AETHERIUM_VOLATILE_DIR", default_value = "/dev/shm", value_name = "DIR")]
    pub(crate) volatile_dir: PathBuf,
    /// Give VMs no virtio socket: their agents are reached over TCP.
    #[arg(long)]
    pub(crate) no_vsock: bool,
    /// Give Firecracker's VMs no network of the host's: their agents are reached over vsock alone.
    #[arg(long)]
    pub(crate) no_slots: bool,
}

/// Where the truth is kept.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct DatabaseArgs {
    /// The database, as postgres://user@host/name or sqlite:///file; else SQLite in the data
    /// directory. To PostgreSQL over a network, add ?sslmode=verify-full and, for a certificate
    /// authority of your own, &sslrootcert=FILE.
    #[arg(
        long,
        visible_alias = "database-url",
        env = "AETHERIUM_DATABASE",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) database: Option<String>,
}

/// Arguments of `up`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct UpArgs {
    /// The address of the API; port 0 takes a free one.
    #[arg(
        long,
        env = "AETHERIUM_LISTEN",
        default_value = "127.0.0.1:7070",
        value_name = "ADDRESS"
    )]
    pub(crate) listen: SocketAddr,
    /// Where operators ask for metrics and health, without authentication; nowhere unless it is given.
    #[arg(long, env = "AETHERIUM_OPERATIONS_LISTEN", value_name = "ADDRESS")]
    pub(crate) operations_listen: Option<SocketAddr>,
    /// How long commands may go on after Ctrl-C, such as `10s`.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    pub(crate) grace: Duration,
    /// How long a VM may take until its agent answers.
    #[arg(long, default_value = "90s", value_parser = duration, value_name = "TIME")]
    pub(crate) boot_deadline: Duration,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) keys: KeysArgs,
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    #[command(flatten)]
    pub(crate) events: EventLogArgs,
}

/// A command to run in a VM.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct CommandArgs {
    /// An environment variable for it; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) secrets: SecretsArgs,
    /// Its working directory in the guest.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// The guest's user to run it as; root where absent.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// How long it may take, such as `90s`, `15m` or `2h`.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) argv: Vec<String>,
}

impl CommandArgs {
    /// The command as the API takes it.
    pub(crate) fn command(&self) -> aetherium_model::run::Command {
        aetherium_model::run::Command {
            argv: self.argv.clone(),
            env: self.env.iter().cloned().collect(),
            secrets: self.secrets.uses(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
            timeout_ms: self
                .timeout
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Arguments of `run`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
    #[command(flatten)]
    pub(crate) command: CommandArgs,
}

/// Arguments of `exec`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ExecArgs {
    /// The VM's id.
    pub(crate) vm: String,
    #[command(flatten)]
    pub(crate) command: CommandArgs,
}

/// Which part of a list.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ListArgs {
    /// At most this many, newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub(crate) limit: u32,
    /// Continue after a page's `next_cursor`.
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

/// Verbs on tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List them.
    List {
        /// Only those in this state.
        #[arg(long)]
        state: Option<String>,
        /// Only those that were tried as often as allowed and failed each time.
        #[arg(long)]
        dead: bool,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one.
    #[command(visible_alias = "show")]
    Get {
        /// Its id.
        task: String,
    },
    /// Cancel one.
    Cancel {
        /// Its id.
        task: String,
    },
    /// Have one done again that failed.
    Requeue {
        /// Its id.
        task: String,
    },
}

/// Arguments of `quickstart`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct QuickstartArgs {
    /// Seconds that building took, for the table of timings.
    #[arg(long, hide = true)]
    pub(crate) build_seconds: Option<u64>,
    /// The prompt.
    #[arg(long, default_value = "echo Hello from VM")]
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) driver: DriverArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn no_verb_has_an_argument_by_the_name_of_one_that_every_verb_has() {
        fn look(command: &clap::Command, of_all: &[&str]) {
            for verb in command.get_subcommands() {
                for argument in verb.get_arguments() {
                    let id = argument.get_id().as_str();
                    assert!(!of_all.contains(&id), "{}: {id}", verb.get_name());
                }
                look(verb, of_all);
            }
        }
        let command = Args::command();
        let of_all = command.get_arguments().filter(|it| it.is_global_set());
        look(&command, &of_all.map(|it| it.get_id().as_str()).collect::<Vec<_>>());
    }
}
