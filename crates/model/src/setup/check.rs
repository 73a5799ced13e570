//! What a setup may say. Its fields' types hold what a value must be by itself; here are the bounds, and
//! what must hold between its fields.

use super::{
    FileContent, McpServer, Repository, Script, Setup, SetupFile, Step, StepAction,
    remote::{Remote, Transport},
    variables::{Piece, pieces},
};
use crate::{
    assistant::AssistantOptions,
    limits::MAX_ENV,
    recipe::EnvName,
    secret::{MAX_USES, SecretUses},
};
use std::collections::{BTreeMap, BTreeSet};

/// The bytes of one environment, names and values together: half of what a command may take.
const MAX_ENV_BYTES: usize = crate::limits::MAX_COMMAND_BYTES / 2;
/// MCP servers of one workspace.
const MAX_MCP_SERVERS: usize = 64;
/// The arguments, variables or headers of one MCP server.
const MAX_MCP_TEXTS: usize = 256;
/// The bytes of an MCP server's texts together.
const MAX_MCP_BYTES: usize = 64 * 1024;
/// A step's name, in characters.
const MAX_STEP_NAME: usize = 100;
/// A script, in bytes.
const MAX_SCRIPT_BYTES: usize = 64 * 1024;
/// A file's content, in bytes.
const MAX_FILE_BYTES: usize = 128 * 1024;
/// The known_hosts of a repository, in bytes.
const MAX_KNOWN_HOSTS_BYTES: usize = 64 * 1024;
/// A model's name, in characters.
const MAX_MODEL: usize = 200;
/// A system prompt, in bytes.
const MAX_SYSTEM_PROMPT_BYTES: usize = 64 * 1024;

/// A value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// Where it is, such as `repository.url` or `tools[2]`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Objection {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same, seen from what has it as its field `outer`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field), ..self }
    }
}

fn within(outer: &str, inner: Vec<Objection>) -> impl Iterator<Item = Objection> {
    inner.into_iter().map(move |it| it.within(outer))
}

/// What is wrong with a text, if anything.
fn text(field: &str, text: &str, max_bytes: usize) -> Vec<Objection> {
    let problem = match text.len() {
        _ if text.trim().is_empty() => "is empty".to_owned(),
        bytes if bytes > max_bytes => format!("has {bytes} bytes; at most {max_bytes}"),
        _ if text.contains('\0') => "contains a NUL byte".to_owned(),
        _ => return Vec::new(),
    };
    vec![Objection::new(field, problem)]
}

fn uses(secrets: &SecretUses) -> Vec<Objection> {
    match secrets.len() {
        0..=MAX_USES => Vec::new(),
        many => vec![Objection::new("secrets", format!("asks for {many}; at most {MAX_USES}"))],
    }
}

/// What is wrong with an environment, if anything.
pub fn check_env(field: &str, env: &BTreeMap<EnvName, String>) -> Vec<Objection> {
    let nul = env.iter().find(|(_, value)| value.contains('\0'));
    let nul = nul.map(|(name, _)| Objection::new(format!("{field}.{name}"), "contains a NUL byte"));
    let bytes: usize = env.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
    let size = match env.len() {
        many if many > MAX_ENV => format!("has {many} variables; at most {MAX_ENV}"),
        _ if bytes > MAX_ENV_BYTES => format!("takes {bytes} bytes; at most {MAX_ENV_BYTES}"),
        _ => return nul.into_iter().collect(),
    };
    nul.into_iter().chain([Objection::new(field, size)]).collect()
}

impl AssistantOptions {
    /// What is not allowed of it.
    pub fn objections(&self) -> Vec<Objection> {
        let model = self.model.iter().filter_map(|model| {
            let odd = |c: char| c.is_whitespace() || c.is_control();
            let problem = match model.chars().count() {
                0 => "is empty".to_owned(),
                many if many > MAX_MODEL => format!("has {many} characters; at most {MAX_MODEL}"),
                _ if model.starts_with('-') => format!("{model:?} would be taken for an option"),
                _ if model.contains(odd) => format!("{model:?} has a space in it"),
                _ => return None,
            };
            Some(Objection::new("model", problem))
        });
        let system_prompt = self.system_prompt.iter();
        model
            .chain(system_prompt.flat_map(|it| text("system_prompt", it, MAX_SYSTEM_PROMPT_BYTES)))
            .collect()
    }
}

impl Setup {
    /// What is not allowed of it, but for variables that it does not have
    /// ([`Setup::unknown_variables`]): they may come from what it is put together with.
    pub fn objections(&self) -> Vec<Objection> {
        let mut found = Vec::new();
        if let Some(repository) = &self.repository {
            found.extend(within("repository", repository.objections()));
        }
        let mut tools = BTreeSet::new();
        for (index, tool) in self.tools.iter().enumerate() {
            if !tools.insert(&tool.name) {
                let problem = format!("{} is named twice: a workspace has one of it", tool.name);
                found.push(Objection::new(format!("tools[{index}]"), problem));
            }
        }
        found.extend(check_env("env", &self.env));
        found.extend(self.check_mcp_servers());
        for (index, step) in self.preparation.iter().enumerate() {
            found.extend(within(&format!("preparation[{index}]"), step.objections()));
        }
        found.extend(within("assistant", self.assistant.objections()));
        found
    }

    fn check_mcp_servers(&self) -> Vec<Objection> {
        let mut found = Vec::new();
        let many = self.mcp_servers.len();
        if many > MAX_MCP_SERVERS {
            let problem = format!("has {many} servers; at most {MAX_MCP_SERVERS}");
            found.push(Objection::new("mcp_servers", problem));
        }
        for (name, server) in &self.mcp_servers {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if !(1..=63).contains(&name.len()) || !name.chars().all(allowed) {
                let name: String = name.chars().take(80).collect();
                let problem = format!(
                    "{name:?} cannot be a server's name: use 1 to 63 of a-z, A-Z, 0-9, '-' and '_'"
                );
                found.push(Objection::new("mcp_servers", problem));
                continue;
            }
            found.extend(within(&format!("mcp_servers.{name}"), server.objections()));
        }
        found
    }

    /// The variables that its MCP servers want and nothing gives them: neither this, nor its steps, nor
    /// the secrets.
    pub fn unknown_variables(&self, secrets: &SecretUses) -> Vec<Objection> {
        let steps = self.preparation.iter().filter_map(|step| match &step.action {
            StepAction::Env(env) => Some(env.keys()),
            _ => None,
        });
        let own = self.env.keys().chain(steps.flatten()).map(EnvName::as_str);
        let secret = secrets.iter().map(|(variable, _)| variable.as_str());
        let known: BTreeSet<&str> = own.chain(secret).collect();
        let mut found = Vec::new();
        for (server, definition) in &self.mcp_servers {
            for (field, text) in definition.texts() {
                let wanted = pieces(text).unwrap_or_default().into_iter();
                let unknown = wanted.filter_map(|piece| match piece {
                    Piece::Variable { name, default: None } if !known.contains(name) => Some(name),
                    _ => None,
                });
                found.extend(unknown.map(|name| {
                    let problem = format!(
                        "wants ${{{name}}}, and there is neither a variable {name} in `setup.env` nor a secret in `secrets`"
                    );
                    Objection::new(format!("mcp_servers.{server}.{field}"), problem)
                }));
            }
        }
        found
    }
}

impl Repository {
    /// What is not allowed of it.
    pub fn objections(&self) -> Vec<Objection> {
        let mut found = Vec::new();
        let mut object = |field: &str, problem: &str| found.push(Objection::new(field, problem));
        match (self.url.parse::<Remote>(), &self.known_hosts) {
            (Err(problem), _) => object("url", &problem),
            (Ok(Remote { transport: Transport::Ssh, host }), None) => object(
                "known_hosts",
                &format!(
                    "is missing: give the keys of {host}, as `ssh-keyscan {host}` prints them"
                ),
            ),
            (Ok(Remote { transport: Transport::Http, .. }), Some(_)) => {
                object("known_hosts", "is for ssh, and this is spoken to over http: leave it out");
            }
            (Ok(Remote { transport: Transport::Ssh, .. }), Some(lines)) => {
                if let Some(problem) = check_known_hosts(lines) {
                    object("known_hosts", &problem);
                }
            }
            (Ok(Remote { transport: Transport::Http, .. }), None) => {}
        }
        if let Some(branch) = self.branch.as_deref().filter(|branch| !is_revision(branch)) {
            let branch: String = branch.chars().take(80).collect();
            object("branch", &format!("{branch:?} cannot be a branch, tag or commit of git"));
        }
        if self.depth == Some(0) {
            object("depth", "0 is not allowed: give 1 or more, or leave it out for all commits");
        }
        found
    }
}

fn check_known_hosts(lines: &str) -> Option<String> {
    if lines.len() > MAX_KNOWN_HOSTS_BYTES {
        return Some(format!("has {} bytes; at most {MAX_KNOWN_HOSTS_BYTES}", lines.len()));
    }
    let said = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
    if lines.contains('\0') || !lines.lines().any(|line| said(&line)) {
        return Some("has no keys: give lines as `host ssh-ed25519 AAAA…`".to_owned());
    }
    let short = lines.lines().filter(said).find(|line| line.split_whitespace().count() < 3)?;
    let short: String = short.chars().take(80).collect();
    Some(format!("{short:?} is no line of known_hosts: give `host ssh-ed25519 AAAA…`"))
}

/// Whether git could have a branch or tag of this name, and takes it for nothing else
/// (git-check-ref-format(1)).
fn is_revision(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
    (1..=255).contains(&text.len())
        && !text.starts_with(['-', '/', '.'])
        && !text.ends_with(['/', '.'])
        && !text.contains(odd)
        && !["..", "@{", "//", "/."].iter().any(|it| text.contains(it))
        && !text.split('/').any(|part| part.ends_with(".lock"))
        && text != "@"
}

impl McpServer {
    /// What is not allowed of it.
    pub fn objections(&self) -> Vec<Objection> {
        let mut found = Vec::new();
        let texts = self.texts();
        for (field, text) in &texts {
            if text.contains('\0') {
                found.push(Objection::new(field, "contains a NUL byte"));
            } else if let Err(malformed) = pieces(text) {
                found.push(Objection::new(field, malformed.to_string()));
            }
        }
        let bytes: usize = texts.iter().map(|(_, text)| text.len()).sum();
        if bytes > MAX_MCP_BYTES || texts.len() > MAX_MCP_TEXTS {
            let problem = format!(
                "is too large: at most {MAX_MCP_TEXTS} texts, of {MAX_MCP_BYTES} bytes together"
            );
            let field = if matches!(self, Self::Stdio { .. }) { "args" } else { "headers" };
            found.push(Objection::new(field, problem));
        }
        match self {
            Self::Stdio { command, .. } if command.trim().is_empty() => {
                found.push(Objection::new("command", "is empty"));
            }
            Self::Stdio { .. } => {}
            Self::Http { url, headers } => {
                let names_host = ["http://", "https://"].iter().any(|scheme| {
                    let rest = url.strip_prefix(scheme);
                    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
                });
                let odd = url.contains(|c: char| c.is_whitespace() || c.is_control());
                if odd || !(names_host || url.starts_with("${")) {
                    let url: String = url.chars().take(80).collect();
                    let problem = format!("{url:?} is not an address: give http://… or https://…");
                    found.push(Objection::new("url", problem));
                }
                found.extend(headers.iter().filter_map(|(name, value)| check_header(name, value)));
            }
        }
        found
    }
}

/// A field's name is a token, and its value one line (RFC 9110, section 5).
fn check_header(name: &str, value: &str) -> Option<Objection> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        let name: String = name.chars().take(80).collect();
        return Some(Objection::new("headers", format!("{name:?} cannot be a header's name")));
    }
    let broken = value.contains(|c: char| c.is_control() && c != '\t');
    broken.then(|| Objection::new(format!("headers.{name}"), "is more than one line"))
}

impl Step {
    /// What is not allowed of it.
    pub fn objections(&self) -> Vec<Objection> {
        let mut found = Vec::new();
        if let Some(name) = &self.name {
            let many = name.chars().count();
            if name.trim().is_empty() || name.contains(char::is_control) {
                found.push(Objection::new("name", "must be one line with something in it"));
            } else if many > MAX_STEP_NAME {
                let problem = format!("has {many} characters; at most {MAX_STEP_NAME}");
                found.push(Objection::new("name", problem));
            }
        }
        let objections = match &self.action {
            StepAction::GitClone(repository) => repository.objections(),
            StepAction::Script(script) => script.objections(),
            StepAction::Files(files) => {
                let each = files.iter().enumerate().filter_map(|(index, file)| {
                    let problem = file.problem()?;
                    Some(Objection::new(format!("do.files[{index}].content"), problem))
                });
                found.extend(each);
                return found;
            }
            StepAction::Env(env) => {
                found.extend(check_env("do.env", env));
                return found;
            }
        };
        found.extend(within(&format!("do.{}", self.action.as_str()), objections));
        found
    }
}

impl Script {
    fn objections(&self) -> Vec<Objection> {
        let mut found = text("run", &self.run, MAX_SCRIPT_BYTES);
        found.extend(uses(&self.secrets));
        found
    }
}

impl SetupFile {
    fn problem(&self) -> Option<String> {
        let bytes = match &self.content {
            FileContent::Text(text) => text.len(),
            // Four characters of base64 are three bytes.
            FileContent::Base64(text) => text.as_str().len() / 4 * 3,
        };
        (bytes > MAX_FILE_BYTES).then(|| format!("has {bytes} bytes; at most {MAX_FILE_BYTES}"))
    }
}

#[cfg(test)]
mod tests;
