//! What is put into a workspace before its first prompt, and given to each: its repository, tools,
//! variables, MCP servers, and steps of its own.

use crate::{
    Digest, Fault, TaskId, Timestamp,
    assistant::AssistantOptions,
    recipe::{Base64, EnvName, Few, GuestPath, OctalMode, Seconds, UserName},
    secret::{SecretName, SecretUses},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

mod check;
pub(crate) mod merge;
pub mod remote;
pub mod variables;

pub use check::{Objection, check_env};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a workspace is made of besides its VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// What is cloned into it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// Where prompts run; where the repository is, else the user's home, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<GuestPath>,
    /// Tools that it has, from the catalogue: `nodejs` or `nodejs@20`.
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 256)]
    pub tools: Few<ToolRef>,
    /// Environment of its steps and prompts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<EnvName, String>,
    /// MCP servers that its assistant is told of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mcp_servers: BTreeMap<String, McpServer>,
    /// What else is done before its first prompt, in order, after the repository was cloned.
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    #[schema(value_type = Vec<Step>, max_items = 256)]
    pub preparation: Few<Step>,
    /// Who its steps and prompts run as: as its assistant's definition says, else its template,
    /// where absent. A user that the guest does not have is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// How its assistant works, where a prompt does not say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub assistant: AssistantOptions,
}

impl Setup {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }
}

/// A git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Where it is: `https://…`, `http://…`, `ssh://…` or `user@host:path`.
    #[schema(example = "https://git.example.org/demo.git")]
    pub url: String,
    /// The branch, tag or commit that is checked out; the remote's own choice where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// How many commits are fetched; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub depth: Option<u32>,
    /// Where it goes, which must be new or empty; `workspace` in the user's home where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<GuestPath>,
    /// The secret that the server is spoken to with: a `git_token`, or an `ssh_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<SecretName>,
    /// The server's keys, as lines of ssh's known_hosts. Without them no server is spoken to over ssh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<String>,
}

/// A tool of the catalogue, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolRef {
    /// The tool's name.
    pub name: String,
    /// The version; the catalogue's default where absent.
    pub version: Option<String>,
}

impl FromStr for ToolRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let word = |text: &str, more: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            (1..=63).contains(&text.len())
                && text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(allowed)
        };
        if word(name, "-_") && version.is_none_or(|version| word(version, ".-_+")) {
            Ok(Self { name: name.to_owned(), version: version.map(str::to_owned) })
        } else {
            let text: String = text.chars().take(80).collect();
            Err(format!("{text:?} is not a tool: give its name, or name@version, as nodejs@20"))
        }
    }
}

impl TryFrom<String> for ToolRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ToolRef> for String {
    fn from(tool: ToolRef) -> Self {
        tool.to_string()
    }
}

impl fmt::Display for ToolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A server of the Model Context Protocol. `${NAME}` in its texts stands for the variable, or the secret,
/// of that name that the prompt gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum McpServer {
    /// A program of the guest that speaks on its standard input and output.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Its environment.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        #[schema(value_type = BTreeMap<String, String>)]
        env: BTreeMap<EnvName, String>,
    },
    /// One that is spoken to over HTTP.
    Http {
        /// Where.
        url: String,
        /// Headers of each request.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
    },
}

/// One thing that is done before a workspace's first prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What it is called in logs; what it does where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100)]
    pub name: Option<String>,
    /// What is done.
    #[serde(rename = "do")]
    pub action: StepAction,
    /// What it may take; ten minutes where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<Seconds>,
    /// Whether the next step is done though this one failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub continue_on_error: bool,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepAction {
    /// Clones a repository; one that is there already is left as it is.
    GitClone(Repository),
    /// Runs a script.
    Script(Script),
    /// Writes files.
    #[schema(value_type = Vec<SetupFile>)]
    Files(Few<SetupFile>),
    /// Sets variables for the steps after it and for every prompt.
    #[schema(value_type = BTreeMap<String, String>)]
    Env(BTreeMap<EnvName, String>),
}

impl StepAction {
    /// What it does, as in JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::GitClone(_) => "git_clone",
            Self::Script(_) => "script",
            Self::Files(_) => "files",
            Self::Env(_) => "env",
        }
    }
}

/// A script of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Its text, for the guest's `/bin/sh`.
    #[schema(max_length = 65_536)]
    pub run: String,
    /// Who runs it; the workspace's user where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Where; where prompts run where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<GuestPath>,
    /// Secrets that it gets, besides the workspace's.
    #[serde(default, skip_serializing_if = "SecretUses::is_empty")]
    pub secrets: SecretUses,
}

/// A file of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupFile {
    /// Where it goes; directories above it are made.
    pub path: GuestPath,
    /// What is in it.
    pub content: FileContent,
    /// Its permission bits; 0644 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<OctalMode>,
    /// Whose it is; the workspace's user's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<UserName>,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileContent {
    /// Text.
    Text(String),
    /// Bytes.
    Base64(Base64),
}

/// How far a workspace's preparation is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preparation {
    /// The task that prepares it, or did last; its log has what the steps print.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// Its steps, in order.
    #[serde(default)]
    pub steps: Vec<StepReport>,
    /// The template its VMs start from, where that was made for its tools and assistant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Digest>,
}

impl Preparation {
    /// Whether nothing was prepared yet.
    pub fn is_empty(&self) -> bool {
        is_default(self)
    }
}

/// One step of a preparation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepReport {
    /// What it is called.
    pub name: String,
    /// What it does: `tools`, `git_clone`, `script`, `files` or `env`.
    pub action: String,
    /// What it was made of, by which it is known whether that has changed since it was done.
    pub inputs: Digest,
    /// Where it stands.
    #[serde(flatten)]
    pub state: StepState,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Where a step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    /// It waits for its turn.
    Waiting,
    /// It is being done.
    Running,
    /// It was done.
    Done,
    /// It was done before, and its inputs are the same.
    Unchanged,
    /// It failed.
    Failed {
        /// Why.
        fault: Fault,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_a_name_with_or_without_a_version() {
        let tool: ToolRef = "nodejs@20.1".parse().unwrap();
        assert_eq!((tool.name.as_str(), tool.version.as_deref()), ("nodejs", Some("20.1")));
        assert_eq!(tool.to_string(), "nodejs@20.1");
        assert_eq!("git".parse::<ToolRef>().unwrap().version, None);
        for bad in ["", "@1", "git@", "a b", "git@1;rm", "../git", "a@b@c"] {
            assert!(bad.parse::<ToolRef>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_setup_with_a_key_that_nobody_knows_is_refused() {
        let known = r#"{"tools":["git"],"preparation":[{"do":{"script":{"run":"true"}}}]}"#;
        let setup: Setup = serde_json::from_str(known).unwrap();
        assert_eq!(serde_json::to_string(&setup).unwrap(), known);
        for bad in [r#"{"tool":["git"]}"#, r#"{"preparation":[{"do":{"script":{"runs":"true"}}}]}"#]
        {
            assert!(serde_json::from_str::<Setup>(bad).is_err(), "{bad} was accepted");
        }
    }
}
