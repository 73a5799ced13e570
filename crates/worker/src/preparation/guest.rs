//! A workspace's guest as its preparation and its prompts see it: who they are there, and where.

use super::accounts;
use crate::{host::Host, vm::VmHandle};
use aetherium_agent_client::{AgentClient, AgentError, ProcessEvent};
use aetherium_agent_proto::{
    ExitStatus,
    files::{Attributes, FileMode, Ownership, WriteOptions},
};
use aetherium_model::{
    Code, Fault,
    recipe::{GuestPath, UserName},
    resources::DriverKind,
    run::Command,
    setup::Repository,
    workspace::Workspace,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a repository goes that names no place, below its user's home.
const REPOSITORY: &str = "workspace";
/// The most that is read of a question's answer.
const MAX_ANSWER: usize = 64 << 10;
/// How long the guest may take over a question.
const QUESTION_MS: u64 = 60_000;
/// Asks a shell who runs it.
const WHO: &str = "printf '%s\\n' \"$HOME\"; id -u; id -g";

/// A workspace's guest, which runs.
pub(crate) struct Guest<'a> {
    pub(crate) host: &'a Arc<Host>,
    pub(crate) workspace: &'a Workspace,
    pub(crate) vm: &'a VmHandle,
    pub(crate) agent: AgentClient,
}

/// Somebody whom commands run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// As a command names them; who the template says where absent.
    pub(crate) user: Option<String>,
    /// Their home.
    pub(crate) home: PathBuf,
    /// Their numbers, for files; the agent's own where absent.
    ids: Option<(String, String)>,
}

impl Person {
    fn ownership(&self) -> Ownership {
        let (user, group) = self.ids.clone().unzip();
        Ownership { user, group }
    }
}

impl Guest<'_> {
    /// Whether it has users of its own. Beside the process driver everything is the worker's own user's.
    pub(super) fn has_users(&self) -> Result<bool, Fault> {
        Ok(self.host.driver()?.kind() != DriverKind::Process)
    }

    /// Somebody of the guest, made where it has nobody of that name; who the template says where nobody is
    /// named.
    ///
    /// # Errors
    /// `step_failed`: there is no such user, and none can be made.
    pub(crate) async fn person(&self, user: Option<&UserName>) -> Result<Person, Fault> {
        let user = match user {
            Some(user) if self.has_users()? => {
                if accounts::ensure(&self.agent, user).await? {
                    tracing::info!(vm = %self.vm.id(), %user, "made");
                }
                Some(user.as_str().to_owned())
            }
            _ => None,
        };
        let who = Command { user: user.clone(), ..Command::new(["/bin/sh", "-c", WHO]) };
        let (code, said) = self.ask(who).await.map_err(|error| {
            let name = user.as_deref().unwrap_or("the template's user");
            Fault::new(Code::StepFailed, format!("{name} cannot run a shell there: {error}"))
                .remedy("take a template with /bin/sh, and a user that may run it")
        })?;
        let mut lines = said.lines();
        let home = lines.next().filter(|home| home.starts_with('/')).unwrap_or("/");
        let ids = match (lines.next(), lines.next()) {
            (Some(uid), Some(gid)) if code == 0 && self.has_users()? => {
                Some((uid.to_owned(), gid.to_owned()))
            }
            _ => None,
        };
        Ok(Person { user, home: home.into(), ids })
    }

    /// Runs a short command of the worker's own, and returns its exit code and standard output.
    async fn ask(&self, command: Command) -> Result<(i32, String), AgentError> {
        let command = Command { timeout_ms: Some(QUESTION_MS), cwd: Some("/".into()), ..command };
        let spec = crate::run::exec_spec(&self.vm.complete(&command), false);
        let mut process = self.agent.exec(spec).await?;
        let mut said = Vec::new();
        while let Some(event) = process.next().await? {
            match event {
                ProcessEvent::Stdout(bytes) if said.len() < MAX_ANSWER => said.extend(bytes),
                ProcessEvent::Exited(report) => {
                    let code = match report.status {
                        ExitStatus::Code(code) => code,
                        _ => -1,
                    };
                    return Ok((code, String::from_utf8_lossy(&said).into_owned()));
                }
                _ => {}
            }
        }
        Ok((-1, String::new()))
    }

    /// Where a repository goes. Beside the process driver one that names no place has its workspace's own
    /// directory: the home is everybody's there.
    pub(super) fn place_of(&self, repository: &Repository, person: &Person) -> PathBuf {
        match &repository.path {
            Some(path) => path.as_str().into(),
            None if self.has_users().unwrap_or(true) => person.home.join(REPOSITORY),
            None => self.host.layout.workspace(self.workspace.id).join(REPOSITORY),
        }
    }

    /// Where prompts run that say nothing: in the workspace's directory, which is made, or where its
    /// repository is. Elsewhere is for the template to say.
    ///
    /// # Errors
    /// `step_failed`: it cannot be made.
    pub(crate) async fn place_of_prompts(&self, person: &Person) -> Result<Option<PathBuf>, Fault> {
        let setup = &self.workspace.setup;
        match (setup.working_directory.as_ref().map(GuestPath::as_str), &setup.repository) {
            (Some(place), _) => {
                self.make_dir(Path::new(place), person).await?;
                Ok(Some(place.into()))
            }
            (None, Some(repository)) => Ok(Some(self.place_of(repository, person))),
            (None, None) => Ok(None),
        }
    }

    /// Makes a directory and those above it that are missing, all of them `person`'s. One that is there
    /// stays as it is.
    ///
    /// # Errors
    /// `step_failed`: it cannot be made.
    pub(super) async fn make_dir(&self, path: &Path, person: &Person) -> Result<(), Fault> {
        let files = self.agent.files();
        let mut missing = Vec::new();
        for place in path.ancestors() {
            if files.stat(place).await.is_ok() {
                break;
            }
            missing.push(place);
        }
        for place in missing.into_iter().rev() {
            let made = async {
                files.make_dir(place, None).await?;
                let attributes = Attributes { mode: None, ownership: person.ownership() };
                files.set_attributes(place, attributes).await
            };
            made.await.map_err(|error| {
                Fault::new(
                    Code::StepFailed,
                    format!("the directory {} could not be made: {error}", place.display()),
                )
                .remedy("name a place that the guest has room and rights for")
            })?;
        }
        Ok(())
    }

    /// Writes a file that is `person`'s.
    pub(super) async fn write(
        &self,
        path: &Path,
        content: Vec<u8>,
        mode: FileMode,
        person: &Person,
    ) -> Result<(), AgentError> {
        let options = WriteOptions {
            mode: Some(mode),
            ownership: person.ownership(),
            ..WriteOptions::default()
        };
        let mut writer = self.agent.files().write(path, options).await?;
        writer.write(content.into()).await?;
        writer.commit().await.map(drop)
    }
}
