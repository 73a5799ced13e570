//! A running VM as a set of held processes: the one [`Machine`] of every driver.
//!
//! Owns the processes and sockets that the footprint names. It has no task of its own: whoever
//! waits does the watching, and whoever sees the end first reaps.

use crate::{
    AgentAddress, Footprint, JailFootprint, Machine, Role, VmmError, VmmExit,
    firecracker::{cgroup, jail},
    held::Held,
    strays::kill_all_of,
};
use async_trait::async_trait;
use std::{io, path::Path, time::Duration};
use tokio::time::{Instant, timeout_at};

/// How long what is left of a VM gets to end during adoption.
const REMNANT_DEADLINE: Duration = Duration::from_secs(5);

pub(crate) struct Supervised {
    footprint: Footprint,
    /// The first one's end is the VM's.
    main: Held,
    helpers: Vec<Held>,
}

impl Supervised {
    pub(crate) const fn new(footprint: Footprint, main: Held, helpers: Vec<Held>) -> Self {
        Self { footprint, main, helpers }
    }

    /// Finds the processes of `footprint` again.
    pub(crate) async fn adopt(mut footprint: Footprint) -> Result<Option<Self>, VmmError> {
        let mut found = Vec::new();
        let root = footprint.jail.as_ref().map(|jail| jail.root.as_path());
        for who in &footprint.processes {
            let held = Held::find(*who, footprint.vm_id, root).await;
            found.push(held.map_err(VmmError::io("look at", format!("/proc/{}", who.pid)))?);
        }
        let mut found = found.into_iter();
        let Some(main) = found.next().flatten() else {
            kill_all_of(footprint.vm_id, None, REMNANT_DEADLINE).await?;
            remove_remains(&footprint, REMNANT_DEADLINE).await?;
            return Ok(None);
        };
        let helpers: Vec<Held> = found.flatten().collect();
        let had_helper = footprint.processes.iter().any(|it| it.role == Role::VsockHelper);
        if had_helper && !helpers.iter().any(|it| it.who().role == Role::VsockHelper) {
            // The device died with its helper; its address would only cost every dialler time.
            footprint.agent.retain(|it| !matches!(it, AgentAddress::Vsock { .. }));
        }
        Ok(Some(Self::new(footprint, main, helpers)))
    }
}

#[async_trait]
impl Machine for Supervised {
    fn footprint(&self) -> &Footprint {
        &self.footprint
    }

    async fn wait(&self) -> VmmExit {
        self.main.ended().await
    }

    async fn kill(&self, deadline: Duration) -> Result<(), VmmError> {
        let until = Instant::now() + deadline;
        let main = self.main.who();
        // Until the main process is reaped its number is its own, and so is its family.
        let leader =
            (main.role == Role::Agent && !self.main.has_been_seen_ended()).then_some(main.pid);
        if leader.is_some() {
            kill_all_of(self.footprint.vm_id, leader, deadline).await?;
        }
        for held in std::iter::once(&self.main).chain(&self.helpers) {
            let pid = held.who().pid;
            held.kill().map_err(VmmError::io("kill", format!("/proc/{pid}")))?;
        }
        for held in std::iter::once(&self.main).chain(&self.helpers) {
            let ended = timeout_at(until, held.ended()).await;
            ended.map_err(|_| VmmError::StillAlive {
                processes: vec![held.who()],
                waited: deadline,
            })?;
        }
        kill_all_of(self.footprint.vm_id, None, until.saturating_duration_since(Instant::now()))
            .await?;
        remove_remains(&self.footprint, until.saturating_duration_since(Instant::now())).await
    }
}

/// Removes what stays when the processes have ended: sockets, the jail and its cgroup.
async fn remove_remains(footprint: &Footprint, deadline: Duration) -> Result<(), VmmError> {
    footprint.sockets.iter().try_for_each(|path| remove_if_there(path))?;
    match &footprint.jail {
        Some(jail) => remove_jail(jail, deadline).await,
        None => Ok(()),
    }
}

/// Removes a jail and its cgroup, whose processes have ended.
pub(crate) async fn remove_jail(
    jailed: &JailFootprint,
    deadline: Duration,
) -> Result<(), VmmError> {
    jail::remove(&jailed.root)?;
    match &jailed.cgroup {
        Some(cgroup) => cgroup::remove(cgroup, deadline).await,
        None => Ok(()),
    }
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), VmmError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VmmError::Io { action: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
