//! What a VM takes of its host beyond its size, changed while it goes on; and what it uses.

use super::actor::Actor;
use aetherium_agent_client::AgentClient;
use aetherium_agent_proto::system::Metrics;
use aetherium_model::{
    Code, Fault, VmId,
    metrics::{GuestUsage, VmMetrics},
    tuning::Tuning,
    vm::ChangeVm,
};
use std::time::Duration;

/// How long a guest may take to say what it uses. It is left out rather than waited for.
const GUEST_DEADLINE: Duration = Duration::from_secs(3);

impl Actor {
    /// Changes what the VM takes. Each part that was changed is on record, whatever becomes of the
    /// next.
    pub(super) async fn change(&mut self, change: ChangeVm) -> Result<(), Fault> {
        let Some(machine) = self.machinery.as_ref().map(|it| it.machine.clone()) else {
            return Err(Fault::internal("a running VM without a machine"));
        };
        let ChangeVm { balloon_mib, limits } = change;
        let wanted = Tuning { balloon_mib, ..Tuning::default() };
        wanted.check(self.record.vm().spec.resources.memory_mib).map_err(|misfit| {
            let detail = format!("{}: {}", misfit.field, misfit.problem);
            Fault::new(Code::InvalidRequest, detail).remedy("give a smaller balloon")
        })?;
        if let Some(mib) = balloon_mib {
            machine.set_balloon(mib).await?;
            self.record.amend_now(|vm| vm.spec.tuning.balloon_mib = Some(mib)).await;
        }
        if !limits.is_empty() {
            machine.set_limits(&limits).await?;
            self.record
                .amend_now(|vm| vm.spec.tuning.limits = limits.or(vm.spec.tuning.limits))
                .await;
        }
        Ok(())
    }

    /// What the VM uses, as far as its host and its VMM know.
    pub(super) async fn measure(&self) -> Result<VmMetrics, Fault> {
        let Some(machinery) = &self.machinery else {
            return Err(Fault::internal("a running VM without a machine"));
        };
        let vmm = machinery.machine.metrics().await?;
        let host = machinery.machine.footprint().usage();
        Ok(VmMetrics { taken_at: self.host.now(), host, vmm, guest: None })
    }
}

/// What a guest says of itself; `None` where it does not answer in time.
pub(super) async fn ask_guest(vm: VmId, agent: &AgentClient) -> Option<GuestUsage> {
    match tokio::time::timeout(GUEST_DEADLINE, Box::pin(agent.system().metrics())).await {
        Ok(Ok(told)) => Some(usage(&told)),
        Ok(Err(error)) => {
            tracing::debug!(%vm, %error, "the guest does not say what it uses");
            None
        }
        Err(_) => {
            tracing::debug!(%vm, "the guest does not say in time what it uses");
            None
        }
    }
}

fn usage(told: &Metrics) -> GuestUsage {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    GuestUsage {
        uptime_ms: millis(told.uptime),
        cpus: told.cpu.online,
        cpu_busy_ms: millis(told.cpu.busy),
        cpu_steal_ms: millis(told.cpu.steal),
        load: told.cpu.load,
        memory_total_bytes: told.memory.total_bytes,
        memory_available_bytes: told.memory.available_bytes,
        disk_total_bytes: told.disk.total_bytes,
        disk_available_bytes: told.disk.available_bytes,
        processes: told.processes,
    }
}
