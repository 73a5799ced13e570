//! Arguments of workspaces and their prompts.

use super::{
    AssistantArgs, CommandArgs, DiskCommand, ListArgs, ScheduleArgs, SecretsArgs, SetupArgs,
    VmArgs,
    parse::{duration, env_variable, of},
};
use aetherium_model::{
    Name,
    assistant::AssistantName,
    recipe::{EnvName, GuestPath},
    workspace::IdleAction,
};
use clap::{Args as ClapArgs, Subcommand};
use std::{path::PathBuf, time::Duration};

/// Verbs on workspaces.
#[derive(Debug, Subcommand)]
pub(crate) enum WsCommand {
    /// Make one.
    #[command(after_help = "\
What is said here goes before what the environment says; tools and steps come after its own.

Examples:
  aetherium ws create demo
  aetherium ws create demo --environment web --branch fix/login
  aetherium ws create demo --tool nodejs@20 --env STAGE=test --prepare 'npm ci' --wait")]
    Create(Box<WsCreateArgs>),
    /// List them.
    List(ListArgs),
    /// Show one.
    #[command(visible_alias = "show")]
    Get {
        /// Its name or id.
        workspace: String,
    },
    /// Remove one with its VM, its disk and its prompts.
    Delete {
        /// Its name or id.
        workspace: String,
    },
    /// Have done what one's setup asks for, from the first step that failed or has changed, and follow it.
    #[command(after_help = "\
Examples:
  aetherium ws prepare demo
  aetherium ws prepare demo --force                 a secret has another value: every step
  aetherium ws prepare demo --setup setup.json      another setup, in place of the one it has")]
    Prepare {
        #[command(flatten)]
        prepare: AgainArgs,
        /// Do every step again, also those that have not changed.
        #[arg(long)]
        force: bool,
        /// The setup that it has from now on, in place of all its setup said, as JSON.
        #[arg(long, value_name = "FILE")]
        setup: Option<PathBuf>,
    },
    /// Go on with one that has failed, from the step that did, and follow it.
    Retry {
        #[command(flatten)]
        prepare: AgainArgs,
    },
    /// Run a command in one as its prompts are run, waking it if it sleeps; exits with the command's exit code.
    #[command(after_help = "\
Examples:
  aetherium ws exec demo -- git status
  aetherium ws exec demo --user root -- apt-get update")]
    Exec {
        /// The workspace's name or id.
        workspace: String,
        #[command(flatten)]
        command: CommandArgs,
    },
    /// Log an assistant in, from one's VM: shows the address to open, and asks for what comes back.
    #[command(after_help = "\
What the browser shows at the end is pasted here, or given on standard input; never as an argument, which
everybody on the machine can read. Every workspace of the project is logged in then.

Examples:
  aetherium ws login demo
  aetherium ws login demo --assistant codex --timeout 5m
  aetherium ws login demo --json < code-from-the-browser")]
    Login {
        /// The workspace's name or id.
        workspace: String,
        /// Who logs in; the workspace's assistant where nobody says.
        #[arg(long)]
        assistant: Option<AssistantName>,
        /// When it is given up.
        #[arg(long, value_parser = duration, value_name = "TIME", default_value = "15m")]
        timeout: Duration,
    },
    /// List who is logged in, for every workspace of the project.
    Logins,
    /// Forget what an assistant is logged in with. Workspaces that had it keep their files.
    Logout {
        /// The assistant's name.
        assistant: AssistantName,
    },
    /// Keep what runs in one's VM beside its disk, and end the VM; the next prompt goes on with it.
    Hibernate {
        /// Its name or id.
        workspace: String,
    },
    /// Have a VM of one run: the hibernated one, or one that boots.
    Wake {
        /// Its name or id.
        workspace: String,
    },
    /// Work on one's disk, which outlives its VMs.
    Disk {
        /// What to do with it.
        #[command(subcommand)]
        verb: DiskCommand,
    },
    /// Send a prompt and follow its output; exits with the prompt's exit code.
    #[command(after_help = "\
Examples:
  aetherium ws prompt demo 'make the tests pass' --model sonnet --permission-mode all
  aetherium ws prompt demo 'what is in here?' --cwd /srv/app --system-prompt @brief.md --new-session")]
    Prompt(Box<PromptArgs>),
    /// Follow the output of a prompt that was sent before.
    Follow {
        /// The workspace's name or id.
        workspace: String,
        /// The prompt's id.
        prompt: String,
        /// Show what its assistant printed, as it is.
        #[arg(long)]
        raw: bool,
    },
    /// List a workspace's prompts.
    Prompts {
        /// The workspace's name or id.
        workspace: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Cancel a prompt.
    Cancel {
        /// The workspace's name or id.
        workspace: String,
        /// The prompt's id.
        prompt: String,
    },
}

/// Arguments of `ws create`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct WsCreateArgs {
    /// Its name.
    pub(crate) name: Name,
    /// The environment it is made from, by its name or id.
    #[arg(long, value_name = "NAME")]
    pub(crate) environment: Option<Name>,
    /// What answers its prompts; `shell` where nobody says.
    #[arg(long)]
    pub(crate) assistant: Option<AssistantName>,
    /// Hibernate or stop its VM after so many seconds without work.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) idle_timeout_s: Option<u32>,
    /// Which of the two: `hibernate` keeps what runs in it and makes its VMs ready for that, `stop`
    /// keeps the disk alone. Without it VMs hibernate that can as they are.
    #[arg(long, value_name = "ACTION")]
    pub(crate) idle_action: Option<IdleAction>,
    /// Wait until it is ready, and show the steps of its preparation meanwhile.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
    #[command(flatten)]
    pub(crate) secrets: SecretsArgs,
    #[command(flatten)]
    pub(crate) vm: VmArgs,
}

/// Arguments of `ws prepare` and `ws retry`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct AgainArgs {
    /// The workspace's name or id.
    pub(crate) workspace: String,
    /// Only ask for it and print its task's id.
    #[arg(long)]
    pub(crate) detach: bool,
}

/// Arguments of `ws prompt`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct PromptArgs {
    /// The workspace's name or id.
    pub(crate) workspace: String,
    /// The text.
    pub(crate) prompt: String,
    /// How long it may take, such as `15m`.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// An environment variable for it, before the workspace's; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = env_variable)]
    pub(crate) env: Vec<(EnvName, String)>,
    /// Where it runs in the guest.
    #[arg(long, value_name = "DIR", value_parser = of::<GuestPath>)]
    pub(crate) cwd: Option<GuestPath>,
    #[command(flatten)]
    pub(crate) assistant: AssistantArgs,
    /// Begin a conversation, instead of going on with the last prompt's.
    #[arg(long)]
    pub(crate) new_session: bool,
    #[command(flatten)]
    pub(crate) secrets: SecretsArgs,
    #[command(flatten)]
    pub(crate) schedule: ScheduleArgs,
    /// Show what its assistant prints, as it is.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Only submit it and print its id.
    #[arg(long)]
    pub(crate) detach: bool,
}
