//! Arguments of environments, and of what they share with workspaces and prompts.

use super::{
    ListArgs, SecretsArgs,
    parse::{content, env_variable, of, text_or_file},
};
use aetherium_model::{
    Name, TemplateRef,
    assistant::{AssistantName, AssistantOptions, PermissionMode},
    environment::EnvironmentSpec,
    recipe::{EnvName, Few, GuestPath, UserName},
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus},
    secret::{SecretName, SecretUses},
    setup::{Repository, Script, Setup, Step, StepAction, ToolRef},
    workspace::IdleAction,
};
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;

/// Verbs on environments.
#[derive(Debug, Subcommand)]
pub(crate) enum EnvCommand {
    /// Make one: of a file, of arguments, or of both, of which the arguments go before.
    #[command(after_help = "\
Examples:
  aetherium env create web --file web.toml
  aetherium env create web --template default --assistant shell --tool nodejs@20 \\
    --repository https://git.example.org/web.git --env STAGE=test --prepare 'npm ci'
  aetherium ws create demo --environment web")]
    Create {
        /// Its name.
        name: Name,
        #[command(flatten)]
        spec: Box<EnvironmentArgs>,
    },
    /// List them, each in its newest version.
    List(ListArgs),
    /// Show one, as a file that `env update --file` takes.
    #[command(visible_alias = "show")]
    Get {
        /// Its name or id.
        environment: String,
        /// The version; the newest where absent.
        #[arg(long, value_name = "NUMBER")]
        version: Option<u32>,
    },
    /// Make its next version: of a file, or of what it says now, with what the arguments say.
    #[command(after_help = "\
Workspaces that were made from it stay as they are.

Examples:
  aetherium env get web > web.toml && $EDITOR web.toml && aetherium env update web --file web.toml
  aetherium env update web --file web.toml --if-version 3   fails if it is at another version by now
  aetherium env update web --tool python@3.12 --env STAGE=test")]
    Update {
        /// Its name or id.
        environment: String,
        /// Only if this is its newest version.
        #[arg(long, value_name = "NUMBER")]
        if_version: Option<u32>,
        #[command(flatten)]
        spec: Box<EnvironmentArgs>,
    },
    /// List its versions, newest first.
    Versions {
        /// Its name or id.
        environment: String,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Remove one with its versions; workspaces that were made from it stay.
    Delete {
        /// Its name or id.
        environment: String,
    },
}

/// What an environment says.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct EnvironmentArgs {
    /// What it says, in TOML, or in JSON where the file's name ends in `.json`.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What it is for, in a sentence.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// What answers prompts.
    #[arg(long)]
    assistant: Option<AssistantName>,
    /// The template of its VMs: NAME, NAME:TAG or NAME@sha256:DIGEST.
    #[arg(long)]
    template: Option<TemplateRef>,
    /// Virtual CPUs.
    #[arg(long)]
    vcpus: Option<Vcpus>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<MemoryMib>,
    /// Writable disk in MiB.
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<DiskMib>,
    /// What its VMs may reach: `isolated` or `egress`.
    #[arg(long)]
    network: Option<NetworkMode>,
    /// Hibernate or stop VMs after so many seconds without work.
    #[arg(long, value_name = "SECONDS")]
    idle_timeout_s: Option<u32>,
    /// Which of the two: `hibernate` or `stop`.
    #[arg(long, value_name = "ACTION")]
    idle_action: Option<IdleAction>,
    #[command(flatten)]
    secrets: SecretsArgs,
    #[command(flatten)]
    setup: SetupArgs,
}

impl EnvironmentArgs {
    /// What the arguments say, over a specification that has this repository.
    pub(crate) fn spec(&self, repository: Option<&Repository>) -> Result<EnvironmentSpec, String> {
        Ok(EnvironmentSpec {
            description: self.description.clone().unwrap_or_default(),
            ai_assistant: self.assistant.clone(),
            template: self.template.clone(),
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            disk_mib: self.disk_mib,
            network: self.network,
            secrets: self.secrets.uses(),
            idle_timeout_s: self.idle_timeout_s,
            idle_action: self.idle_action,
            placement: Default::default(),
            setup: self.setup.setup(repository)?,
        })
    }
}

/// What is put into a workspace.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct SetupArgs {
    /// A git repository that is cloned into it: https://…, http://…, ssh://… or user@host:path. What is said
    /// of it without its address is said of the one that it has by its environment or file.
    #[arg(long, value_name = "URL")]
    repository: Option<String>,
    /// The branch, tag or commit that is checked out.
    #[arg(long, value_name = "REVISION")]
    branch: Option<String>,
    /// How many commits are fetched; all where absent.
    #[arg(long, value_name = "COMMITS")]
    depth: Option<u32>,
    /// Where the repository goes; `workspace` in the user's home where absent.
    #[arg(long, value_name = "DIR", value_parser = of::<GuestPath>)]
    clone_to: Option<GuestPath>,
    /// The secret that the repository's server is spoken to with: a `git_token` or an `ssh_key`.
    #[arg(long, value_name = "SECRET")]
    credential: Option<SecretName>,
    /// The file with the server's keys, as lines of ssh's known_hosts; needed for ssh.
    #[arg(long, value_name = "FILE", value_parser = content)]
    known_hosts: Option<String>,
    /// A tool that it has, such as `nodejs@20`; may be repeated.
    #[arg(long = "tool", value_name = "TOOL[@VERSION]")]
    tools: Vec<ToolRef>,
    /// An environment variable of its steps and prompts; may be repeated.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = env_variable)]
    env: Vec<(EnvName, String)>,
    /// A line for a shell that is run before the first prompt; may be repeated.
    #[arg(long, value_name = "SCRIPT")]
    prepare: Vec<String>,
    /// Where prompts run; where the repository is where absent, else the user's home.
    #[arg(long = "cwd", value_name = "DIR", value_parser = of::<GuestPath>)]
    working_directory: Option<GuestPath>,
    /// The guest's user that steps and prompts run as.
    #[arg(long, value_parser = of::<UserName>)]
    user: Option<UserName>,
    #[command(flatten)]
    options: AssistantArgs,
}

impl SetupArgs {
    /// As the model has it, over something that has this repository.
    pub(crate) fn setup(&self, repository: Option<&Repository>) -> Result<Setup, String> {
        let repository = self.repository(repository)?;
        let step = |run: &String| Step {
            name: None,
            action: StepAction::Script(Script {
                run: run.clone(),
                user: None,
                cwd: None,
                secrets: SecretUses::default(),
            }),
            timeout_s: None,
            continue_on_error: false,
        };
        let preparation: Vec<_> = self.prepare.iter().map(step).collect();
        Ok(Setup {
            repository,
            working_directory: self.working_directory.clone(),
            tools: few("--tool", self.tools.clone())?,
            env: self.env.iter().cloned().collect(),
            preparation: few("--prepare", preparation)?,
            user: self.user.clone(),
            assistant: self.options.options(),
            ..Setup::default()
        })
    }

    /// An argument that says something of a repository and not which, if one does.
    pub(crate) fn of_another_repository(&self) -> Option<&'static str> {
        let said = [
            ("--branch", self.branch.is_some()),
            ("--depth", self.depth.is_some()),
            ("--clone-to", self.clone_to.is_some()),
            ("--credential", self.credential.is_some()),
            ("--known-hosts", self.known_hosts.is_some()),
        ];
        let mut said = said.into_iter().filter(|(_, is_said)| *is_said);
        said.next().map(|(argument, _)| argument).filter(|_| self.repository.is_none())
    }

    /// The repository that was named, else this one with what is said of it.
    fn repository(&self, other: Option<&Repository>) -> Result<Option<Repository>, String> {
        let of_another = self.of_another_repository();
        let base = match (&self.repository, of_another, other) {
            (Some(url), _, _) => Repository {
                url: url.clone(),
                branch: None,
                depth: None,
                path: None,
                credential: None,
                known_hosts: None,
            },
            (None, None, _) => return Ok(None),
            (None, Some(_), Some(other)) => other.clone(),
            (None, Some(argument), None) => {
                return Err(format!("{argument}: of which repository? name it with --repository"));
            }
        };
        Ok(Some(Repository {
            branch: self.branch.clone().or(base.branch),
            depth: self.depth.or(base.depth),
            path: self.clone_to.clone().or(base.path),
            credential: self.credential.clone().or(base.credential),
            known_hosts: self.known_hosts.clone().or(base.known_hosts),
            url: base.url,
        }))
    }
}

fn few<T>(argument: &str, given: Vec<T>) -> Result<Few<T>, String> {
    given.try_into().map_err(|problem| format!("{argument} {problem}"))
}

/// How an assistant is to work.
#[derive(Debug, Clone, Default, ClapArgs)]
pub(crate) struct AssistantArgs {
    /// The model it asks, as its provider names it.
    #[arg(long)]
    model: Option<String>,
    /// What it is told besides its own system prompt: a text, or the file that `@` names.
    #[arg(long, value_name = "TEXT|@FILE", value_parser = text_or_file)]
    system_prompt: Option<String>,
    /// What it may do without asking: `plan`, `edits` or `all`.
    #[arg(long, value_name = "MODE")]
    permission_mode: Option<PermissionMode>,
}

impl AssistantArgs {
    /// As the model has it.
    pub(crate) fn options(&self) -> AssistantOptions {
        let Self { model, system_prompt, permission_mode } = self.clone();
        AssistantOptions { model, system_prompt, permission_mode }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    #[derive(Parser)]
    struct Given {
        #[command(flatten)]
        setup: SetupArgs,
    }

    fn repository(arguments: &[&str], other: Option<&Repository>) -> serde_json::Value {
        let given = Given::try_parse_from([&["x"], arguments].concat()).unwrap();
        match given.setup.setup(other) {
            Ok(setup) => serde_json::to_value(setup.repository).unwrap(),
            Err(problem) => json!(problem),
        }
    }

    #[test]
    fn what_is_said_of_a_repository_without_its_address_is_said_of_the_other_one() {
        let other = json!({"url": "https://h/a", "branch": "main", "depth": 5, "credential": "T"});
        let other: Repository = serde_json::from_value(other).unwrap();
        assert_eq!(repository(&[], Some(&other)), json!(null));
        assert_eq!(
            repository(&["--branch", "fix"], Some(&other)),
            json!({"url": "https://h/a", "branch": "fix", "depth": 5, "credential": "T"})
        );
        assert_eq!(
            repository(&["--repository", "https://h/b", "--depth", "1"], Some(&other)),
            json!({"url": "https://h/b", "depth": 1})
        );
        let problem = repository(&["--branch", "fix"], None);
        assert!(problem.as_str().unwrap().contains("--branch"), "{problem}");
    }
}
