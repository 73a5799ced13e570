//! Steps, done in a workspace's guest.

use super::{
    cancelled, git,
    guest::{Guest, Person},
    plan::{Planned, Work},
};
use crate::{rejoin, run, secrets, tail::Tail};
use aetherium_agent_client::AgentError;
use aetherium_agent_proto::files::FileMode;
use aetherium_model::{
    Code, Fault,
    recipe::{Base64, EnvName, OctalMode, UserName},
    run::{Command, Exit, RunState},
    setup::{FileContent, Repository, Script, SetupFile},
};
use aetherium_store::RunRef;
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// KILL, see signal(7).
const SIGKILL: i32 = 9;
/// How long a killed process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// The mode of a file that says none.
const FILE_MODE: u32 = 0o644;

/// What steps are done on.
pub(super) struct Ground<'a> {
    pub(super) guest: Guest<'a>,
    /// Where what they print goes.
    pub(super) log: RunRef,
    /// Ends the one that is under way.
    pub(super) stop: &'a CancellationToken,
}

impl Ground<'_> {
    /// What the tags of steps' commands begin with in their guest.
    fn tag(&self) -> String {
        format!("prepare:{}:", self.guest.workspace.id)
    }

    /// Ends what an earlier process of the worker had begun: it is about to be begun again.
    pub(super) async fn end_remnants(&self) -> Result<(), Fault> {
        let agent = &self.guest.agent;
        let lost = |error: AgentError| Fault::new(Code::AgentLost, error.to_string());
        let tag = self.tag();
        for left in agent.list().await.map_err(lost)? {
            if !left.tag.as_ref().is_some_and(|it| it.starts_with(&tag)) {
                continue;
            }
            tracing::info!(tag = left.tag, pid = left.pid, "a step's command is left, and ended");
            match agent.signal(left.pid, SIGKILL).await {
                Ok(()) | Err(AgentError::NoSuchProcess { .. }) => {}
                Err(error) => return Err(lost(error)),
            }
            match timeout(KILL_DEADLINE, agent.wait(left.pid)).await {
                Ok(Ok(_) | Err(AgentError::NoSuchProcess { .. })) => {}
                Ok(Err(error)) => return Err(lost(error)),
                Err(_) => {
                    let detail = format!("process {} of an earlier step does not end", left.pid);
                    return Err(Fault::new(Code::DeadlineExceeded, detail)
                        .remedy("delete the workspace's VM, and prepare it again"));
                }
            }
        }
        Ok(())
    }

    /// Does one step.
    ///
    /// # Errors
    /// Why it failed, with the step's name; or that it was to stop.
    pub(super) async fn perform(&self, number: usize, step: &Planned<'_>) -> Result<(), Fault> {
        let done = match step.work {
            Work::Clone(repository) => self.clone(step, repository).await,
            Work::Script(script) => self.script(step, script).await,
            Work::Files(files) => self.files(files).await,
            // Given to every command after it.
            Work::Env(_) => Ok(()),
        };
        done.map_err(|fault| match fault.code {
            Code::Cancelled | Code::WorkerLost => fault,
            _ => Fault {
                detail: format!("step {} ({}): {}", number + 1, step.name, fault.detail),
                ..fault
            },
        })
    }

    async fn person(&self, user: Option<&UserName>) -> Result<Person, Fault> {
        let own = super::user(self.guest.host, self.guest.workspace)?;
        self.guest.person(user.or(own)).await
    }

    async fn clone(&self, step: &Planned<'_>, repository: &Repository) -> Result<(), Fault> {
        let person = self.person(None).await?;
        let place = self.guest.place_of(repository, &person);
        let command = git::command(repository, &place.display().to_string())?;
        self.guest.make_dir(&place, &person).await?;
        match Box::pin(self.run(step, Command { user: person.user, ..command })).await? {
            (Exit::Exited { code: git::NO_GIT }, _) => Err(missing("git")),
            (Exit::Exited { code: git::NO_SSH }, _) => Err(missing("ssh")),
            (exit, tail) => judged(exit, tail).map_err(|fault| git::explained(repository, fault)),
        }
    }

    async fn script(&self, step: &Planned<'_>, script: &Script) -> Result<(), Fault> {
        let own = self.person(None).await?;
        let place = self.guest.place_of_prompts(&own).await?;
        let person = match &script.user {
            Some(user) => self.person(Some(user)).await?,
            None => own,
        };
        let place = place.map(|place| place.display().to_string());
        let command = Command {
            secrets: self.guest.workspace.secrets.with(&script.secrets),
            cwd: script.cwd.as_ref().map(|cwd| cwd.as_str().to_owned()).or(place),
            user: person.user,
            ..Command::new(["/bin/sh", "-e", "-c", &script.run])
        };
        let (exit, tail) = Box::pin(self.run(step, command)).await?;
        judged(exit, tail).map_err(|fault| {
            fault.remedy("read what the step printed, correct it, and prepare the workspace again (`aetherium ws retry`): the steps before it are kept")
        })
    }

    async fn files(&self, files: &[SetupFile]) -> Result<(), Fault> {
        for file in files {
            let person = self.person(file.owner.as_ref()).await?;
            let path = Path::new(file.path.as_str());
            let not_written = |why: String| {
                Fault::new(Code::StepFailed, format!("{} could not be written: {why}", path.display()))
                    .remedy("check its place and its owner against what the guest has, and prepare the workspace again (`aetherium ws retry`)")
            };
            if let Some(above) = path.parent() {
                self.guest.make_dir(above, &person).await?;
            }
            let content = match &file.content {
                FileContent::Text(text) => text.clone().into_bytes(),
                FileContent::Base64(bytes) => Base64::bytes(bytes),
            };
            let bits = file.mode.as_ref().map_or(FILE_MODE, OctalMode::bits);
            let mode = FileMode::new(bits).map_err(|error| not_written(error.to_string()))?;
            let written = self.guest.write(path, content, mode, &person).await;
            written.map_err(|error| not_written(error.to_string()))?;
        }
        Ok(())
    }

    /// Runs a step's command to its end, with what it prints in the log.
    async fn run(&self, step: &Planned<'_>, command: Command) -> Result<(Exit, Tail), Fault> {
        let Guest { host, vm, agent, .. } = &self.guest;
        let mut env = variables(&step.env);
        env.extend(command.env);
        let timeout_ms = u64::try_from(step.timeout.as_millis()).unwrap_or(u64::MAX);
        let command = Command { env, timeout_ms: Some(timeout_ms), ..command };
        let invalid = |error: aetherium_model::run::InvalidCommand| {
            Fault::new(Code::InvalidRequest, error.to_string())
        };
        command.validate().map_err(invalid)?;
        let command = run::traced(vm.complete(&command));
        let delivered = secrets::deliver(host, vm.id(), agent, self.log, &command).await?;
        host.tenure.check()?;
        let tag = format!("{}{:016x}", self.tag(), rand::random::<u64>());
        let started = rejoin::start_as(vm, agent, tag, delivered.spec(&command, false)).await;
        let (end, tail) = match started {
            Ok(process) => {
                run::log_with_tail(host, self.log, process, &delivered.masks, self.stop).await
            }
            Err(error) => (run::not_run(&error), Tail::default()),
        };
        secrets::forget(vm, self.log, &command.secrets).await;
        match end {
            RunState::Completed { exit } => Ok((exit.exit, tail)),
            RunState::Failed { fault } => Err(fault),
            RunState::Interrupted { fault } => {
                let fault = Fault::new(Code::StepFailed, fault.detail);
                Err(fault
                    .remedy("see why its VM ended, and prepare it again (`aetherium ws retry`)"))
            }
            _ => Err(cancelled()),
        }
    }
}

/// Variables as commands have them.
pub(crate) fn variables(env: &BTreeMap<EnvName, String>) -> BTreeMap<String, String> {
    env.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect()
}

/// What a command's end is to its step.
fn judged(exit: Exit, tail: Tail) -> Result<(), Fault> {
    let how = match exit {
        Exit::Exited { code: 0 } => return Ok(()),
        Exit::Exited { code } => format!("ended with exit code {code}"),
        Exit::Signaled { signal } => format!("was ended by signal {signal}"),
        Exit::TimedOut => "did not end within its time".to_owned(),
    };
    Err(Fault::new(Code::StepFailed, how).evidence(tail.lines()))
}

fn missing(program: &str) -> Fault {
    Fault::new(Code::StepFailed, format!("the guest has no {program}")).remedy(
        "add the tool git to the setup (\"tools\": [\"git\"]), or take a template that has it, and prepare the workspace again (`aetherium ws retry`)",
    )
}
