//! A prompt's assistant on this worker: which conversation its command goes on with, whether it has
//! credentials, and what its output says.
//!
//! What is only known in the guest is found out when the VM is there and before the start mark: a prompt that
//! cannot work fails without having run anything.

use crate::{
    handler::status,
    host::Host,
    run::{self, exec_spec},
    vm::VmHandle,
};
use aetherium_agent_client::{AgentClient, AgentError, ProcessEvent};
use aetherium_catalog::{Ask, AssistantDefinition, HomePath, OutputParser};
use aetherium_model::{
    Code, Fault, WorkspaceId,
    output::{EventBody, Stream},
    run::Command,
    secret::SecretUses,
    workspace::{Prompt, Workspace},
};
use aetherium_store::RunRef;
use std::sync::Arc;

/// Entries of a log that are read at once.
const PAGE: u32 = 500;
/// How long the guest may take to look for files.
const LOOK_MS: u64 = 60_000;
/// Looks below the home for a file by a pattern, and for any of some files.
const LOOK: &str = r#"cd || exit; IFS=
[ -n "$1" ] && ls -d -- $1 >/dev/null 2>&1 && echo session
shift
for file; do [ -e "$file" ] && echo credentials && break; done
exit 0"#;

/// A prompt, and the assistant that answers it.
pub(crate) struct Turn<'a> {
    host: &'a Arc<Host>,
    pub(crate) workspace: &'a Workspace,
    pub(crate) prompt: &'a Prompt,
    pub(crate) definition: &'a AssistantDefinition,
    /// What its command has of MCP servers; see [`crate::mcp`].
    pub(crate) mcp_config: Option<String>,
}

/// What a guest has of an assistant.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Found {
    session: bool,
    credentials: bool,
}

impl<'a> Turn<'a> {
    /// The turn of a workspace's assistant.
    ///
    /// # Errors
    /// There is no such assistant.
    pub(crate) fn of(
        host: &'a Arc<Host>,
        workspace: &'a Workspace,
        prompt: &'a Prompt,
    ) -> Result<Self, Fault> {
        let definition = host.settings.catalog.assistant(&workspace.ai_assistant)?;
        Ok(Self { host, workspace, prompt, definition, mcp_config: None })
    }

    fn ask(&self) -> Ask<'_> {
        let options = self.workspace.setup.assistant.with(&self.prompt.options.assistant);
        Ask { options, mcp_config: self.mcp_config.as_deref(), ..Ask::of(&self.prompt.prompt) }
    }

    /// Its command, as far as it is known outside the guest.
    pub(crate) fn command(&self) -> Command {
        self.definition.command(&self.ask())
    }

    /// What the prompt gets of secrets: what it and its workspace ask for, and, where that is none of its
    /// assistant's credentials, the first of those that there is.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn secrets(&self) -> Result<SecretUses, Fault> {
        let uses = self.workspace.secrets.with(&self.prompt.secrets);
        let store = self.host.queue.store();
        if self.definition.credentials.is_empty() || self.definition.has_credentials(&uses) {
            return Ok(uses);
        }
        let there = store.assistant_credentials(self.workspace.id).await?;
        let own = self.definition.credentials.iter();
        let first = own.filter(|it| there.contains(&it.secret)).take(1);
        Ok(uses.with(&first.map(|it| (it.variable().clone(), it.secret.clone())).collect()))
    }

    /// The command with what is only known in the guest.
    ///
    /// # Errors
    /// `secret_missing` without credentials; or what the agent said.
    pub(crate) async fn complete(
        &self,
        vm: &VmHandle,
        agent: &AgentClient,
        run: RunRef,
        command: Command,
    ) -> Result<Command, Fault> {
        let session = self.session();
        let login = self.definition.login.as_ref().map(|it| it.credential_files.as_slice());
        let lacks =
            !self.definition.is_known_by(&command.secrets, |it| command.env.contains_key(it));
        let found =
            self.look(vm, agent, &command, session, if lacks { login } else { None }).await?;
        if lacks && !found.credentials {
            return Err(self.definition.without_credentials());
        }
        let gone =
            session.filter(|it| self.definition.session_file(it).is_some() && !found.session);
        if let Some(gone) = gone {
            let message =
                format!("the conversation {gone} is not on the disk any more; a new one begins");
            run::append(self.host, run, vec![status("session_lost", message)]).await;
        }
        let session = session.filter(|_| gone.is_none());
        let ask = Ask { session, ..self.ask() };
        let made = self.definition.command(&ask);
        let env = made.env.into_iter().chain(command.env).collect();
        let command = Command { argv: made.argv, env, ..command };
        let invalid =
            |error| Fault::new(Code::InvalidRequest, format!("the prompt's command: {error}"));
        command.validate().map_err(invalid)?;
        Ok(command)
    }

    /// The conversation that the prompt is to go on with.
    fn session(&self) -> Option<&str> {
        let goes_on = !self.prompt.options.new_session && self.definition.has_sessions();
        self.workspace.session.as_deref().filter(|_| goes_on)
    }

    async fn look(
        &self,
        vm: &VmHandle,
        agent: &AgentClient,
        command: &Command,
        session: Option<&str>,
        credentials: Option<&[HomePath]>,
    ) -> Result<Found, Fault> {
        let session = session.and_then(|it| self.definition.session_file(it));
        let credentials = credentials.unwrap_or_default();
        if session.is_none() && credentials.is_empty() {
            return Ok(Found::default());
        }
        let head = ["/bin/sh", "-c", LOOK, "look"].map(str::to_owned).into_iter();
        let files = credentials.iter().map(|it| it.as_str().to_owned());
        let look = Command {
            env: command.env.clone(),
            user: command.user.clone(),
            cwd: Some("/".to_owned()),
            timeout_ms: Some(LOOK_MS),
            ..Command::new(head.chain([session.unwrap_or_default()]).chain(files))
        };
        let said = printed(agent, &vm.complete(&look)).await.map_err(|error| {
            let detail = format!("the assistant's files could not be looked for: {error}");
            Fault::new(Code::AgentLost, detail)
                .remedy("read the VM's console; delete the VM if it does not recover")
        })?;
        let has = |word: &str| said.lines().any(|line| line == word);
        Ok(Found { session: has("session"), credentials: has("credentials") })
    }

    /// What reads the output of its command, from the beginning.
    pub(crate) fn reader(&self) -> Reader {
        Reader(self.definition.parser())
    }

    /// What reads the rest of the output of its command, after what the run's log has of it.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn reader_again(&self, run: RunRef) -> Result<Reader, Fault> {
        let mut reader = self.reader();
        let mut after = 0;
        while reader.0.is_some() {
            let page = self.host.queue.store().events(run, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for entry in &page {
                // What it said is in the log, beside what it was read from.
                match (&entry.body, entry.body.output()) {
                    (_, Some((Stream::Stdout, bytes))) => drop(reader.read(&bytes)),
                    (EventBody::Missing { stream: Stream::Stdout, .. }, _) => reader.gap(),
                    _ => {}
                }
            }
        }
        Ok(reader)
    }

    /// Notes the conversation for the workspace's next prompt.
    pub(crate) async fn keep_session(&self, reader: &Reader) {
        let Some(session) = reader.0.as_ref().and_then(OutputParser::session) else { return };
        if !self.definition.has_sessions() || self.workspace.session.as_deref() == Some(session) {
            return;
        }
        let id: WorkspaceId = self.workspace.id;
        let kept = self.host.queue.set_workspace_session(id, session, self.host.now()).await;
        if let Err(error) = kept {
            tracing::warn!(workspace = %id, %error, "the next prompt will not go on with this conversation");
        }
    }
}

/// Reads an assistant's output while it is logged; nothing where nobody knows how.
pub(crate) struct Reader(Option<OutputParser>);

impl Reader {
    /// For a command that no assistant made.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// What the next bytes of standard output say.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Vec<EventBody> {
        let events = self.0.as_mut().map(|parser| parser.push(bytes));
        events.into_iter().flatten().map(|event| EventBody::Assistant { event }).collect()
    }

    /// Standard output has a gap here.
    pub(crate) fn gap(&mut self) {
        if let Some(parser) = &mut self.0 {
            parser.gap();
        }
    }

    /// The output has ended.
    pub(crate) fn finish(&mut self) -> Vec<EventBody> {
        let events = self.0.as_mut().map(OutputParser::finish);
        events.into_iter().flatten().map(|event| EventBody::Assistant { event }).collect()
    }
}

/// What a short command of the worker's own prints.
async fn printed(agent: &AgentClient, command: &Command) -> Result<String, AgentError> {
    let mut process = agent.exec(exec_spec(command, false)).await?;
    let mut said = String::new();
    while let Some(event) = process.next().await? {
        match event {
            ProcessEvent::Stdout(bytes) if said.len() < 1024 => {
                said.push_str(&String::from_utf8_lossy(&bytes));
            }
            ProcessEvent::Exited(_) => break,
            _ => {}
        }
    }
    Ok(said)
}
