//! Going on with a start that an earlier process of this worker had begun: its guest runs and its agent
//! answers, but whether the VM can be used nobody has said yet.

use super::{base, ready, restore, start::INITRD};
use crate::{
    host::Host,
    journal::{Journal, Readiness},
    metrics::StartedFrom,
};
use aetherium_agent_client::AgentClient;
use aetherium_model::{Fault, resources::DriverKind, vm::Vm};

/// Does what is left of the start of a VM that was taken over; of most nothing is.
///
/// # Errors
/// As of a start that was not interrupted: the guest could not be made this VM's, or is not ready in time.
pub(super) async fn go_on(host: &Host, vm: &Vm, agent: &AgentClient) -> Result<(), Fault> {
    let Some(mut journal) = Journal::read(&host.layout.vm(vm.id))? else {
        return Err(Fault::internal("a VM that was taken over has no journal"));
    };
    if journal.readiness == Readiness::Seen {
        return Ok(());
    }
    tracing::info!(vm = %vm.id, "its start is gone on with");
    if vm.spec.snapshot.is_some() || journal.started_from == StartedFrom::Snapshot {
        Box::pin(restore::renew(host, vm, agent, &journal)).await?;
    } else if host.driver()?.kind() != DriverKind::Process {
        ready::bring_up(agent, &base::held(host, vm)?.manifest).await?;
    }
    can_be_used(host, &mut journal).await
}

/// Notes that a VM's start has come to its end.
pub(super) async fn can_be_used(host: &Host, journal: &mut Journal) -> Result<(), Fault> {
    journal.readiness = Readiness::Seen;
    journal.write(&host.layout)?;
    // The VMM has read it, and it holds the token.
    let _ = tokio::fs::remove_file(host.layout.vm(journal.vm_id).join(INITRD)).await;
    Ok(())
}
