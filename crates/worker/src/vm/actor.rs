//! The actor's life: bring the VM up, watch over it, end it, release what it took.

use super::{
    Activity, IdlePolicy, Request, Verb, VmHandle,
    go_on::go_on,
    hibernate::NotHibernated,
    record::Record,
    start::{self, Beginning, Machinery},
};
use crate::host::Host;
use aetherium_model::{
    Code, Fault, WorkspaceId,
    template::ImageDefaults,
    vm::{Vm, VmEvent, VmState},
    workspace::IdleAction,
};
use aetherium_queue::Topic;
use aetherium_vmm::VmmExit;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{sync::mpsc, time};
use tracing::{Instrument as _, Span};

/// Requests that may wait for one actor; there are few reasons to ask a VM anything.
const REQUESTS: usize = 16;
/// How long the VMM's processes may take to die once killed.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Where a VM comes from.
pub(crate) enum Origin {
    /// It is to be made.
    Fresh,
    /// It goes on with the memory of its workspace's hibernated VM.
    Hibernated(WorkspaceId),
    /// It was there when an earlier process of this worker ended, and still is. Its row says whether it
    /// is paused.
    Adopted(Machinery),
}

/// Starts the actor of a VM and enters it into the host's registry.
pub(crate) fn spawn(
    host: &Arc<Host>,
    vm: Vm,
    idle: Option<IdlePolicy>,
    origin: Origin,
) -> VmHandle {
    let id = vm.id;
    let (sender, requests) = mpsc::channel(REQUESTS);
    let (record, view) = Record::new(Arc::clone(host), vm);
    let activity = Activity::new();
    let image = Arc::new(OnceLock::new());
    let handle = VmHandle {
        id,
        requests: sender,
        view,
        activity: Arc::clone(&activity),
        image: Arc::clone(&image),
    };
    let actor = Actor {
        host: Arc::clone(host),
        record,
        requests,
        activity,
        idle,
        image,
        machinery: None,
        was_paused: false,
    };
    // Within whatever asked for the VM, which may end before the VM does.
    let start = tracing::info_span!("vm.start", vm = %id);
    host.vms.enter(handle.clone(), actor.run(origin, start));
    // Somebody may be waiting for it to be here.
    host.queue.bus().announce(Topic::Vm(id));
    handle
}

pub(super) struct Actor {
    pub(super) host: Arc<Host>,
    pub(super) record: Record,
    requests: mpsc::Receiver<Request>,
    pub(super) activity: Arc<Activity>,
    idle: Option<IdlePolicy>,
    image: Arc<OnceLock<ImageDefaults>>,
    pub(super) machinery: Option<Machinery>,
    /// Whether its end was asked for while it was paused.
    was_paused: bool,
}

/// Nobody can ask the VM for anything any more.
fn abandoned() -> Fault {
    Fault::new(Code::Drained, "nobody holds the VM any more")
}

/// The next request to end the VM. Whatever else is asked of one that is being made is refused.
async fn next_stop(requests: &mut mpsc::Receiver<Request>) -> Fault {
    loop {
        match requests.recv().await {
            Some(Request::Stop(reason) | Request::Rest(reason)) => return reason,
            Some(Request::Do(verb, answer)) => {
                let detail = format!("the VM is being made and cannot {} yet", verb.as_str());
                let _ = answer
                    .send(Err(Fault::new(Code::Conflict, detail)
                        .remedy("wait until it runs, then ask again")));
            }
            Some(Request::Measure(answer)) => {
                let refused =
                    Fault::new(Code::Conflict, "the VM is being made and uses nothing yet");
                let _ = answer.send(Err(refused.remedy("wait until it runs, then ask again")));
            }
            None => return abandoned(),
        }
    }
}

impl Actor {
    async fn run(mut self, origin: Origin, start: Span) {
        let end = match self.bring_up(origin).instrument(start).await {
            Ok(()) => self.watch_over().await,
            Err(fault) => fault,
        };
        self.release(&end).await;
        // In this order: whoever finds no actor must find a row that says why.
        self.record.apply(VmEvent::Ended(end), None).await;
        if let Some(why) = self.record.termination() {
            self.host.metrics.ended(&why);
        }
        self.host.vms.remove(self.record.vm().id);
    }

    /// Gets the VM to `running`, unless somebody wants it ended before that.
    async fn bring_up(&mut self, origin: Origin) -> Result<(), Fault> {
        // Dropping an unfinished start leaves its traces on disk and among the processes; `release`
        // finds them there.
        let beginning = match &origin {
            Origin::Hibernated(workspace) => Beginning::Hibernated(*workspace),
            Origin::Fresh | Origin::Adopted(_) => Beginning::Specified,
        };
        let stop = match origin {
            Origin::Fresh | Origin::Hibernated(_) => tokio::select! {
                biased;
                reason = next_stop(&mut self.requests) => Some(reason),
                started = Box::pin(start::start(&self.host, &mut self.record, beginning)) => {
                    self.machinery = Some(started?);
                    None
                }
            },
            Origin::Adopted(machinery) => {
                let agent = machinery.agent.clone();
                self.machinery = Some(machinery);
                if self.record.vm().state == VmState::Paused {
                    return Ok(());
                }
                tokio::select! {
                    biased;
                    reason = next_stop(&mut self.requests) => Some(reason),
                    done = Box::pin(go_on(&self.host, self.record.vm(), &agent)) => {
                        done?;
                        None
                    }
                }
            }
        };
        if let Some(reason) = stop {
            return Err(self.stop_requested(reason).await);
        }
        self.now_running().await;
        Ok(())
    }

    pub(super) async fn now_running(&mut self) {
        if let Some(machinery) = &self.machinery {
            // Before anybody can get at the agent. A VM that was resumed has it already.
            let _ = self.image.set(machinery.image.clone());
        }
        let agent = self.machinery.as_ref().map(|machinery| machinery.agent.clone());
        self.record.apply(VmEvent::AgentAnswered, agent).await;
    }

    /// Waits for the end of a running VM, or brings it about; returns the reason.
    async fn watch_over(&mut self) -> Fault {
        let Some(machine) = self.machinery.as_ref().map(|it| Arc::clone(&it.machine)) else {
            return Fault::internal("a running VM without a machine");
        };
        loop {
            let idle_check = self.next_idle_check();
            tokio::select! {
                exit = machine.wait() => return self.unrequested_end(exit).await,
                request = self.requests.recv() => match request {
                    Some(Request::Do(Verb::Hibernate, answer)) => {
                        let done = self.hibernate_unless_used().await;
                        let (answered, end) = match done {
                            Ok(end) => (Ok(()), Some(end)),
                            Err(NotHibernated::RunsOn(why)) => (Err(why), None),
                            Err(NotHibernated::Stuck(why)) => (Err(why.clone()), Some(why)),
                        };
                        let _ = answer.send(answered);
                        if let Some(end) = end {
                            return end;
                        }
                    }
                    Some(Request::Do(verb, answer)) => {
                        let done = self.perform(verb).await;
                        // Whoever asked may have gone away; it is done all the same.
                        let _ = answer.send(done);
                    }
                    Some(Request::Measure(answer)) => {
                        let _ = answer.send(self.measure().await);
                    }
                    Some(Request::Rest(reason)) => return self.rest(reason).await,
                    Some(Request::Stop(reason)) => {
                        let reason = self.stop_requested(reason).await;
                        self.shut_down().await;
                        return reason;
                    }
                    None => {
                        let reason = self.stop_requested(abandoned()).await;
                        self.shut_down().await;
                        return reason;
                    }
                },
                () = time::sleep(idle_check.unwrap_or(Duration::MAX)), if idle_check.is_some() => {
                    if let Some(reason) = self.idle_too_long() {
                        return self.rest(reason).await;
                    }
                }
            }
        }
    }

    async fn stop_requested(&mut self, reason: Fault) -> Fault {
        self.was_paused = self.record.vm().state == VmState::Paused;
        self.record.apply(VmEvent::StopRequested(reason.clone()), None).await;
        reason
    }

    /// When to look again whether the VM is idle; `None` if it never stops for that.
    fn next_idle_check(&self) -> Option<Duration> {
        // A paused VM is kept on purpose.
        let policy = self.idle.filter(|_| self.record.vm().state == VmState::Running)?;
        let idle = self.activity.idle_for().unwrap_or(Duration::ZERO);
        // At least a second, so that rounding cannot make this a busy loop.
        Some(policy.after.saturating_sub(idle).max(Duration::from_secs(1)))
    }

    fn idle_too_long(&self) -> Option<Fault> {
        let idle = self.activity.give_up_if_idle(self.idle?.after)?;
        Some(Fault::new(Code::Idle, format!("nothing ran in it for {} s", idle.as_secs())))
    }

    /// Ends an idle VM, with its memory kept where that is wanted and can be.
    async fn rest(&mut self, mut reason: Fault) -> Fault {
        if self.idle.is_some_and(|policy| policy.action == IdleAction::Hibernate) {
            match self.hibernate(&reason.detail).await {
                Ok(end) | Err(NotHibernated::Stuck(end)) => return end,
                Err(NotHibernated::RunsOn(why)) => {
                    reason.detail = format!("{}; its memory is not kept: {why}", reason.detail);
                }
            }
        }
        self.record.apply(VmEvent::StopRequested(reason.clone()), None).await;
        self.shut_down().await;
        reason
    }

    /// The VMM ended though nobody asked: the guest shut itself down, or something broke.
    async fn unrequested_end(&mut self, exit: VmmExit) -> Fault {
        if let Err(lost) = self.host.tenure.check() {
            return lost;
        }
        let fault = match &self.machinery {
            Some(machinery) => start::explain_end(machinery, exit).await,
            None => Fault::internal("a VMM that was never started has ended"),
        };
        if fault.code == Code::GuestShutdown {
            self.record.apply(VmEvent::StopRequested(fault.clone()), None).await;
        }
        fault
    }

    /// Asks the guest to end, by its agent, else by the machine's own means, and gives it its grace;
    /// `release` sees to the rest. A paused guest hears nothing and is not asked.
    async fn shut_down(&self) {
        let Some(machinery) = self.machinery.as_ref().filter(|_| !self.was_paused) else { return };
        let (vm, grace) = (self.record.vm().id, self.host.settings.stop_grace);
        let orderly = async {
            if let Err(error) = machinery.agent.shutdown().await {
                tracing::warn!(%vm, %error, "the agent did not take the shutdown");
                if let Err(error) = machinery.machine.press_power_button().await {
                    tracing::warn!(%vm, %error, "the guest cannot be asked otherwise");
                    return;
                }
            }
            machinery.machine.wait().await;
        };
        if time::timeout(grace, orderly).await.is_err() {
            tracing::warn!(%vm, ?grace, "the guest did not shut down in time");
        }
    }

    /// Frees everything the VM took from the host, but for its console and VMM log.
    async fn release(&mut self, end: &Fault) {
        let id = self.record.vm().id;
        if let Some(machinery) = self.machinery.take() {
            let reason = self.record.termination().unwrap_or_else(|| end.clone());
            machinery.agent.close(reason.to_string());
            if let Err(error) = machinery.machine.kill(KILL_DEADLINE).await {
                tracing::error!(vm = %id, %error, "a process of the vm would not die");
            }
        }
        if let Err(error) = self.host.release_vm(id).await {
            tracing::error!(vm = %id, %error, "something of the vm was left behind");
        }
        // The disk stays as the memory that was kept knows it.
        if end.code != Code::Hibernated {
            self.reclaim_disk().await;
        }
    }
}
