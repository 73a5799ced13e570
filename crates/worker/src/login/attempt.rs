//! One login, from the wait for its VM to its end.

use super::{Submission, home::Home, keep, talk::Talk};
use crate::{host::Host, prompt, run, secrets, workspace};
use aetherium_agent_client::AgentClient;
use aetherium_agent_proto::ExecSpec;
use aetherium_catalog::Login as HowToLogIn;
use aetherium_model::{
    Code, Fault,
    login::{Happening, Login, LoginState},
    run::{Command, RunState},
    workspace::Workspace,
};
use aetherium_store::StoreError;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The terminal. So wide that programs which know its width break no address over lines.
pub(super) const ROWS: u16 = 50;
pub(super) const COLUMNS: u16 = 2000;
const TERMINAL: &str = "xterm-256color";
/// How often the end of a login is tried to be written, and the pause between.
const END_TRIES: u32 = 20;
const END_PAUSE: Duration = Duration::from_millis(500);

/// A login that is under way.
pub(super) struct Attempt {
    pub(super) host: Arc<Host>,
    pub(super) how: HowToLogIn,
    pub(super) workspace: Workspace,
    /// As it was written last.
    pub(super) login: Login,
    pub(super) submissions: mpsc::Receiver<Submission>,
}

impl Attempt {
    /// Does it, within this time.
    pub(super) async fn run(mut self, within: Duration, cancel: &CancellationToken) {
        let host = Arc::clone(&self.host);
        let (id, assistant) = (self.login.id, self.login.assistant.clone());
        tracing::info!(login = %id, %assistant, "a login begins");
        // The first two end with the guest's program, which goes with the connection.
        let end = tokio::select! {
            biased;
            () = cancel.cancelled() => Happening::Cancelled,
            () = host.draining.cancelled() => Happening::Failed(
                Fault::new(Code::Interrupted, "its worker was told to stop").remedy("log in again"),
            ),
            done = Box::pin(self.log_in()) => match done {
                Ok(()) => Happening::Stored,
                Err(fault) => Happening::Failed(fault),
            },
            () = tokio::time::sleep(within) => Happening::Late,
        };
        self.end(end).await;
        tracing::info!(login = %id, %assistant, state = self.login.state.as_str(), "a login is over");
    }

    async fn log_in(&mut self) -> Result<(), Fault> {
        let host = Arc::clone(&self.host);
        let (vm, _hold) = workspace::ensure_vm(&host, self.login.workspace_id, None).await?;
        let agent = vm.agent().await?;
        // What the guest is about to have must not be written with its memory.
        secrets::note_given(&host, vm.id())?;
        let program = Command::new(self.how.argv.iter().cloned());
        let command = prompt::in_workspace(&host, &vm, &self.workspace, program).await?;
        let command = vm.complete(&command);
        let home = Home::of(&agent, &command).await?;
        let before = home.read(&self.how.credential_files).await?;
        let process = start(&agent, &command).await?;
        let talk = Talk::new(self, &vm, &agent, &home, process, before);
        let found = Box::pin(talk.followed_to_its_end()).await?;
        keep::store(&host, &vm, &self.login.assistant, &found).await
    }

    /// Writes where it stands.
    pub(super) async fn tell(&mut self, happening: Happening) {
        let Some(state) = self.login.state.after(happening) else { return };
        if let Err(error) = self.write(&state).await {
            // Its end is what matters, and is written by more than one try.
            tracing::warn!(login = %self.login.id, %error, "where a login stands is not written");
            self.login.state = state;
        }
    }

    async fn write(&mut self, state: &LoginState) -> Result<(), StoreError> {
        let host = &self.host;
        self.login = host.queue.set_login_state(self.login.id, state, host.now()).await?;
        Ok(())
    }

    async fn end(&mut self, happening: Happening) {
        let Some(state) = self.login.state.after(happening) else { return };
        for tried in 1.. {
            match self.write(&state).await {
                Ok(()) => return,
                Err(StoreError::Database(error)) if tried < END_TRIES => {
                    tracing::warn!(%error, tried, "cannot write a login's end; trying again");
                }
                // It went with its workspace, or is another process's to end.
                Err(error) => return tracing::warn!(%error, "a login's end is not written"),
            }
            tokio::time::sleep(END_PAUSE).await;
        }
    }
}

async fn start(
    agent: &AgentClient,
    command: &Command,
) -> Result<aetherium_agent_client::Process, Fault> {
    let spec: ExecSpec = run::exec_spec(command, false).on_terminal(ROWS, COLUMNS, TERMINAL);
    agent.exec(spec).await.map_err(|error| match run::not_run(&error) {
        RunState::Failed { fault } | RunState::Interrupted { fault } => fault,
        _ => Fault::internal(error),
    })
}
