//! One actor per VM: the only task that changes the VM's state, in memory and in the store.
//!
//! ```text
//!   handlers, internal API ──► VmHandle ──requests──► actor ──► VMM, agent
//!                                 ▲                     │
//!                                 └──── view (watch) ◄──┘──► store row, bus
//! ```
//! Commands do not pass through the actor: whoever wants to run one waits for the view to say
//! `running` and takes the agent's client from it, so that a slow command holds up nothing.
//! Whatever ends a VM, the actor's last act is to release all the VM took from the host and then
//! to record the terminal state with its reason. A VM that is recorded as ended has nothing left.

mod activity;
mod actor;
mod base;
mod disk;
mod go_on;
mod guest;
mod hibernate;
mod network;
mod pause;
mod preview;
mod ready;
mod record;
mod restore;
mod sealed;
mod snapshot;
mod start;
mod take;
mod tune;

pub(crate) use activity::{Activity, Hold, IdlePolicy};
pub(crate) use actor::{Origin, spawn};
pub(crate) use base::{hold_for_adopted, hold_for_workspace};
pub(crate) use guest::{Bootable, guest_kernel, probe_of, write_initrd};
pub use guest::{GuestIdentity, ends_by, probe_guest, write_guest_initrd, write_probe_initrd};
pub use preview::preview;
pub(crate) use sealed::{renew_key, room_to_wake};
pub(crate) use start::{Machinery, agent_client, await_agent, deadlines, transport};

use crate::login::Given;
use aetherium_agent_client::AgentClient;
use aetherium_model::{
    Code, Fault, VmId,
    metrics::VmMetrics,
    run::Command,
    template::ImageDefaults,
    vm::{AgentTransport, ChangeVm, TakeSnapshot, VmState},
};
use std::{
    fs::File,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};

/// What others may know of a VM at any moment.
#[derive(Clone)]
pub(crate) struct View {
    /// Where it stands.
    pub(crate) state: VmState,
    /// Its agent, once it has answered.
    pub(crate) agent: Option<AgentClient>,
}

/// What others may ask of a VM's actor.
#[derive(Debug)]
pub(crate) enum Request {
    /// End the VM, for this reason.
    Stop(Fault),
    /// End the VM, which nobody uses any more, as when it is idle: with its memory kept where that is
    /// wanted and can be.
    Rest(Fault),
    /// Do this to a VM that goes on, and say how it went.
    Do(Verb, oneshot::Sender<Result<(), Fault>>),
    /// Say what the VM uses, as far as its host and its VMM know.
    Measure(oneshot::Sender<Result<VmMetrics, Fault>>),
}

/// What can be done to a VM that goes on.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Stop its CPUs.
    Pause,
    /// Let it go on.
    Resume,
    /// Write a snapshot.
    Snapshot(TakeSnapshot),
    /// Keep its memory for its workspace's next VM, and end.
    Hibernate,
    /// Copy its workspace's disk into this empty file.
    CopyDisk(File),
    /// Change what it takes of its host.
    Change(ChangeVm),
}

impl Verb {
    /// The verb, as a person says it.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Snapshot(_) => "be snapshotted",
            Self::Hibernate => "be hibernated",
            Self::CopyDisk(_) => "have its disk copied",
            Self::Change(_) => "be changed",
        }
    }
}

/// A VM's actor, from outside. Cheap to clone.
#[derive(Clone)]
pub(crate) struct VmHandle {
    id: VmId,
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<View>,
    activity: Arc<Activity>,
    /// What the template's image says about commands, once the VM runs.
    image: Arc<OnceLock<ImageDefaults>>,
    given: Given,
}

impl VmHandle {
    /// What it has of logins.
    pub(crate) const fn given(&self) -> &Given {
        &self.given
    }

    /// Which VM it is.
    pub(crate) fn id(&self) -> VmId {
        self.id
    }

    /// The state as last published.
    pub(crate) fn state(&self) -> VmState {
        self.view.borrow().state.clone()
    }

    /// What its agent is reached over, once it has answered.
    pub(crate) fn transport(&self) -> Option<AgentTransport> {
        self.view.borrow().agent.as_ref()?.transport().map(transport)
    }

    /// Keeps the VM from counting as idle until the hold is dropped.
    ///
    /// # Errors
    /// It is being ended for having been idle.
    pub(crate) fn hold(&self) -> Result<Hold, Fault> {
        self.activity.hold().ok_or_else(|| self.gone())
    }

    /// Holds the VM. One that was given up is waited for: until nothing of it is left, or, where it was
    /// to be hibernated and could not be, until it can be used again.
    pub(crate) async fn hold_unless_it_ends(&self) -> Option<Hold> {
        loop {
            let goes_on = self.state().termination().is_none();
            if goes_on && let Some(hold) = self.activity.hold() {
                return Some(hold);
            }
            tokio::select! {
                () = self.ended() => return None,
                () = self.activity.taken_back(), if goes_on => {}
            }
        }
    }

    /// Keeps the VM from counting as idle for a while, since something runs in it whose task will be
    /// gone on with.
    pub(crate) fn expect_use(&self, within: Duration) {
        self.activity.expect_use(within);
    }

    /// Whether somebody uses the VM now.
    pub(crate) fn is_in_use(&self) -> bool {
        self.activity.idle_for().is_none()
    }

    /// Waits until the VM runs and returns its agent. The boot has a deadline of its own, so this
    /// ends.
    ///
    /// # Errors
    /// Why the VM will not run.
    pub(crate) async fn agent(&self) -> Result<AgentClient, Fault> {
        let mut view = self.view.clone();
        let settled = view
            .wait_for(|view| {
                view.state.termination().is_some()
                    || matches!(view.state, VmState::Pausing | VmState::Paused)
                    || (view.state == VmState::Running && view.agent.is_some())
            })
            .await;
        match settled.as_deref() {
            Ok(View { state: VmState::Pausing | VmState::Paused, .. }) => {
                Err(Fault::new(Code::Conflict, format!("{} is paused", self.id))
                    .remedy("resume it first"))
            }
            Ok(View { state, agent }) => match (state.termination(), agent) {
                (None, Some(agent)) => Ok(agent.clone()),
                (Some(termination), _) => Err(termination.clone()),
                (None, None) => Err(self.gone()),
            },
            Err(_) => Err(self.gone()),
        }
    }

    /// Waits until a paused VM is no longer that, however long somebody keeps it so.
    pub(crate) async fn resumed(&self) {
        let mut view = self.view.clone();
        // An error means that the actor is gone, and the VM with it.
        let _ =
            view.wait_for(|view| !matches!(view.state, VmState::Pausing | VmState::Paused)).await;
    }

    /// The command with what it leaves open filled in from the template's image. For a VM that runs.
    pub(crate) fn complete(&self, command: &Command) -> Command {
        self.image.get().map_or_else(|| command.clone(), |image| image.complete(command))
    }

    /// Has something done to a VM that goes on. The actor brings the deadlines.
    ///
    /// # Errors
    /// It is not in a state for that, its driver cannot do it, or why it failed.
    pub(crate) async fn perform(&self, verb: Verb) -> Result<(), Fault> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Do(verb, answer)).await.map_err(|_| self.gone())?;
        answered.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// What the VM uses, its guest's own words included where it can be asked. The actor brings the
    /// deadlines of the VMM, this the guest's.
    ///
    /// # Errors
    /// It is being made or ended, or why its VMM tells nothing.
    pub(crate) async fn metrics(&self) -> Result<VmMetrics, Fault> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Measure(answer)).await.map_err(|_| self.gone())?;
        let mut metrics = answered.await.unwrap_or_else(|_| Err(self.gone()))?;
        let agent = match &*self.view.borrow() {
            View { state: VmState::Running, agent } => agent.clone(),
            _ => None,
        };
        if let Some(agent) = agent {
            metrics.guest = tune::ask_guest(self.id, &agent).await;
        }
        Ok(metrics)
    }

    /// Asks for the end and waits until nothing of the VM is left.
    pub(crate) async fn stop(&self, reason: Fault) {
        // A closed channel means that the actor is past its end already.
        let _ = self.requests.send(Request::Stop(reason)).await;
        self.ended().await;
    }

    /// Asks for the end, and waits for nothing. Who has asked already need not be heard again.
    pub(crate) fn ask_to_stop(&self, reason: Fault) {
        let _ = self.requests.try_send(Request::Stop(reason));
    }

    /// Asks for the end, with its memory kept where its workspace wants that, if nobody uses the VM;
    /// whoever wants to from then on gets another.
    pub(crate) fn rest_if_unused(&self, reason: Fault) {
        if self.activity.give_up_if_idle(Duration::ZERO).is_some() {
            let _ = self.requests.try_send(Request::Rest(reason));
        }
    }

    /// Waits until nothing of the VM is left.
    pub(crate) async fn ended(&self) {
        let mut view = self.view.clone();
        // An error means that the actor has dropped its side, which it does last.
        let _ = view.wait_for(|view| view.state.is_terminal()).await;
    }

    fn gone(&self) -> Fault {
        Fault::new(Code::VmGone, format!("{} is no longer on this worker", self.id))
            .remedy("look at the VM's termination, then start another one")
    }
}
