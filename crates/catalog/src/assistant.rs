//! How an assistant turns a prompt into a command, and what it needs for that.

use crate::{
    arguments::{Argument, Placeholder, Text, Values},
    login::Login,
    mcp::Mcp,
    output::{OutputParser, Rules},
};
use aetherium_model::{
    Code, Fault,
    assistant::{AssistantName, AssistantOptions, PermissionMode},
    recipe::{EnvName, UserName},
    run::Command,
    secret::{SecretKind, SecretName, SecretUses},
    setup::{McpServer, Objection, ToolRef},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// One assistant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssistantDefinition {
    /// Its name.
    pub name: AssistantName,
    /// What it is, in a sentence.
    pub description: String,
    /// Who it runs as, and whose home has its files; as the template says where absent.
    #[serde(default)]
    pub user: Option<UserName>,
    /// How it is put into a template.
    #[serde(default)]
    pub install: Install,
    /// What it is known to its provider by: any one of these does.
    #[serde(default)]
    pub credentials: Vec<Credential>,
    /// Variables of which one says that it is known to a provider otherwise.
    #[serde(default)]
    pub credentials_elsewhere: Vec<EnvName>,
    /// Whether it is of use without any of them.
    #[serde(default)]
    pub works_without_credentials: bool,
    /// How somebody logs in to its provider.
    #[serde(default)]
    pub login: Option<Login>,
    prompt: PromptCommand,
    #[serde(default)]
    permissions: Option<Permissions>,
    #[serde(default)]
    session: Option<Session>,
    #[serde(default)]
    mcp: Option<Mcp>,
    #[serde(default)]
    output: Rules,
}

/// How an assistant is put into a template.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// Tools of the catalogue that must be there before.
    #[serde(default)]
    pub tools: Vec<ToolRef>,
    /// Lines for the guest's `/bin/sh`, run in order by root when the template is made.
    #[serde(default)]
    pub run: Vec<String>,
    /// A line for `/bin/sh` that succeeds where it is installed.
    #[serde(default)]
    pub check: Option<String>,
}

/// A secret that an assistant is known to its provider by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The secret's name.
    pub secret: SecretName,
    /// The variable that the assistant looks for, where that has another name.
    #[serde(default)]
    variable: Option<SecretName>,
    /// What kind of secret it is.
    #[serde(default = "assistant_credential")]
    pub kind: SecretKind,
}

impl Credential {
    /// The variable that the assistant has it in.
    pub fn variable(&self) -> &SecretName {
        self.variable.as_ref().unwrap_or(&self.secret)
    }
}

const fn assistant_credential() -> SecretKind {
    SecretKind::AssistantCredential
}

/// The command for one prompt.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptCommand {
    /// Program and arguments. A list within the list is there only where its placeholders have values.
    argv: Vec<Argument>,
    /// Variables, each there only where its placeholders have values.
    #[serde(default)]
    env: BTreeMap<EnvName, Text>,
}

/// What each permission mode is to the assistant, as arguments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Permissions {
    /// The mode of a prompt that names none.
    default: PermissionMode,
    #[serde(default)]
    plan: Option<Vec<String>>,
    #[serde(default)]
    edits: Option<Vec<String>>,
    #[serde(default)]
    all: Option<Vec<String>>,
}

impl Permissions {
    fn of(&self, mode: PermissionMode) -> Option<&[String]> {
        let arguments = match mode {
            PermissionMode::Plan => &self.plan,
            PermissionMode::Edits => &self.edits,
            PermissionMode::All => &self.all,
        };
        arguments.as_deref()
    }
}

/// Where the assistant keeps a conversation.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Session {
    /// A file's path below the user's home, with `*` for what is not known of it. Where no such file is
    /// there, the conversation is gone.
    file: Text,
    /// How many characters of the conversation's id are in that name, where not all are.
    #[serde(default)]
    chars: Option<usize>,
}

/// What a command is made for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The prompt's text.
    pub prompt: &'a str,
    /// How it is to be answered: the workspace's options with the prompt's.
    pub options: AssistantOptions,
    /// The conversation it goes on with.
    pub session: Option<&'a str>,
    /// Its MCP servers: [`AssistantDefinition::mcp_config`]'s text, or the path of the file that has it.
    pub mcp_config: Option<&'a str>,
}

impl<'a> Ask<'a> {
    /// A prompt that asks for nothing else.
    pub fn of(prompt: &'a str) -> Self {
        Self { prompt, options: AssistantOptions::default(), session: None, mcp_config: None }
    }
}

/// An assistant's configuration of MCP servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum McpConfig {
    /// A text for the command itself.
    Inline(String),
    /// The content of a file whose path the command has.
    File(String),
    /// The same, of a file that root owns and its user's group reads: for a program that believes no other.
    RootFile(String),
}

impl AssistantDefinition {
    /// Checks what no type says.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.prompt.argv.is_empty() {
            return Err("prompt.argv: must name a program".to_owned());
        }
        if !self.uses(Placeholder::Prompt) {
            return Err("prompt: {prompt} is nowhere in argv or env".to_owned());
        }
        for argument in &self.prompt.argv {
            argument.check().map_err(|problem| format!("prompt.argv: {problem}"))?;
        }
        if self.uses(Placeholder::Permissions) != self.permissions.is_some() {
            return Err("permissions: wants {permissions} in prompt.argv, and that wants it".into());
        }
        if let Some(modes) = &self.permissions
            && modes.of(modes.default).is_none()
        {
            let default = modes.default.as_str();
            return Err(format!("permissions.default: {default} has no arguments here"));
        }
        if self.uses(Placeholder::McpConfig) != self.mcp.is_some() {
            return Err("mcp: wants {mcp_config} in prompt, and that wants it".to_owned());
        }
        if let Some(session) = &self.session {
            let other = session.file.placeholders().any(|it| it != Placeholder::Session);
            if other || !self.uses(Placeholder::Session) {
                return Err("session.file: takes {session} alone, which argv must take too".into());
            }
        }
        if let Some(mcp) = &self.mcp {
            mcp.check().map_err(|problem| format!("mcp: {problem}"))?;
        }
        self.output.check().map_err(|problem| format!("output: {problem}"))
    }

    fn uses(&self, placeholder: Placeholder) -> bool {
        let argv = self.prompt.argv.iter().flat_map(Argument::placeholders);
        let env = self.prompt.env.values().flat_map(Text::placeholders);
        argv.chain(env).any(|it| it == placeholder)
    }

    /// Whether it has conversations that a later prompt can go on with.
    pub fn has_sessions(&self) -> bool {
        self.uses(Placeholder::Session)
    }

    /// The file of a conversation, below the user's home, with `*` for what is not known of it.
    pub fn session_file(&self, session: &str) -> Option<String> {
        let kept = self.session.as_ref()?;
        let shown = kept.chars.and_then(|chars| session.get(..chars)).unwrap_or(session);
        kept.file.fill(&Values { session: Some(shown), ..Values::default() })
    }

    /// Whether one of its credentials is among these.
    pub fn has_credentials(&self, uses: &SecretUses) -> bool {
        uses.iter().any(|(variable, _)| self.credentials.iter().any(|it| it.variable() == variable))
    }

    /// Whether it is of use without credentials.
    pub const fn needs_no_credentials(&self) -> bool {
        self.works_without_credentials || (self.credentials.is_empty() && self.login.is_none())
    }

    /// Whether it needs no credentials, or has some by these secrets and variables.
    pub fn is_known_by(&self, uses: &SecretUses, has: impl Fn(&str) -> bool) -> bool {
        let own = self.credentials.iter().map(|it| it.variable().as_str());
        let mut names = own.chain(self.credentials_elsewhere.iter().map(EnvName::as_str));
        let given = |name| has(name) || uses.iter().any(|(variable, _)| variable.as_str() == name);
        self.needs_no_credentials() || names.any(given)
    }

    /// What a prompt is told that is to be answered without credentials.
    pub fn without_credentials(&self) -> Fault {
        let name = &self.name;
        let wanted: Vec<_> = self.credentials.iter().map(|it| it.secret.as_str()).collect();
        let detail = format!("the assistant {name} has no credentials");
        let detail = match wanted.as_slice() {
            [] => detail,
            wanted => format!("{detail}: it wants a secret named {}", wanted.join(" or ")),
        };
        let set = wanted.first().map(|first| {
            format!("set one with `aetherium secret set {first} --kind assistant_credential`")
        });
        let log_in = self.login.as_ref();
        let log_in = log_in.map(|_| "log in with `aetherium ws login WORKSPACE`".to_owned());
        let ways: Vec<_> = set.into_iter().chain(log_in).collect();
        Fault::new(Code::SecretMissing, detail).remedy(ways.join(", or "))
    }

    /// Checks that it can do what is asked of it.
    ///
    /// # Errors
    /// The first option that it has no use for.
    pub fn accepts(&self, options: &AssistantOptions) -> Result<(), Objection> {
        let name = &self.name;
        let refuse = |field: &str, problem: String| {
            Err(Objection { field: field.to_owned(), problem: format!("{problem}: leave it out") })
        };
        if options.model.is_some() && !self.takes_model() {
            return refuse("model", format!("the assistant {name} takes none"));
        }
        if options.system_prompt.is_some() && self.is_shell() {
            return refuse("system_prompt", format!("the assistant {name} takes none"));
        }
        let Some(mode) = options.permission_mode else { return Ok(()) };
        if self.permission_modes().any(|it| it == mode) {
            return Ok(());
        }
        let known: Vec<_> = self.permission_modes().map(PermissionMode::as_str).collect();
        let problem = match known.as_slice() {
            [] => format!("the assistant {name} takes none: leave it out"),
            known => format!("the assistant {name} takes {}", known.join(" or ")),
        };
        Err(Objection { field: "permission_mode".to_owned(), problem })
    }

    /// Whether a prompt can say which model it asks.
    pub fn takes_model(&self) -> bool {
        self.uses(Placeholder::Model)
    }

    /// What it may be permitted.
    pub fn permission_modes(&self) -> impl Iterator<Item = PermissionMode> + '_ {
        let all = [PermissionMode::Plan, PermissionMode::Edits, PermissionMode::All];
        all.into_iter()
            .filter(|mode| self.permissions.as_ref().is_some_and(|modes| modes.of(*mode).is_some()))
    }

    /// What it is permitted where nobody says.
    pub fn default_permission_mode(&self) -> Option<PermissionMode> {
        self.permissions.as_ref().map(|modes| modes.default)
    }

    /// One whose output nobody reads talks to no model.
    fn is_shell(&self) -> bool {
        self.name == AssistantName::SHELL
    }

    /// The configuration of MCP servers as it takes it, if it takes any. Texts of the servers must be
    /// expanded.
    pub fn mcp_config(&self, servers: &BTreeMap<String, McpServer>) -> Option<McpConfig> {
        let mcp = self.mcp.as_ref().filter(|_| !servers.is_empty())?;
        Some(mcp.render(servers))
    }

    /// Whether it can be told of MCP servers.
    pub const fn takes_mcp_servers(&self) -> bool {
        self.mcp.is_some()
    }

    /// The command that answers a prompt.
    pub fn command(&self, ask: &Ask<'_>) -> Command {
        let system_prompt = ask.options.system_prompt.as_deref();
        let prompt = match system_prompt {
            // Without a way of its own it is said first.
            Some(system) if !self.uses(Placeholder::SystemPrompt) => {
                format!("{system}\n\n{}", ask.prompt)
            }
            _ => ask.prompt.to_owned(),
        };
        let modes = self.permissions.as_ref();
        let mode = modes.map(|modes| ask.options.permission_mode.unwrap_or(modes.default));
        let values = Values {
            prompt: Some(&prompt),
            model: ask.options.model.as_deref(),
            system_prompt,
            session: ask.session,
            mcp_config: ask.mcp_config,
            permissions: modes.zip(mode).and_then(|(modes, mode)| modes.of(mode)),
        };
        let argv = self.prompt.argv.iter().flat_map(|argument| argument.fill(&values));
        let env = self.prompt.env.iter().filter_map(|(name, text)| {
            text.fill(&values).map(|value| (name.as_str().to_owned(), value))
        });
        Command {
            env: env.collect(),
            user: self.user.as_ref().map(|user| user.as_str().to_owned()),
            ..Command::new(argv)
        }
    }

    /// Reads its output, where that is in a form that its definition describes.
    pub fn parser(&self) -> Option<OutputParser> {
        (!self.output.is_empty()).then(|| OutputParser::new(self.output.clone()))
    }
}
