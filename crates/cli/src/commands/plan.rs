//! `aetherium vm plan`: how Firecracker would be asked to start a VM, and why so. Starts nothing.

use super::template;
use crate::{
    args::{Args, DriverArgs, PlanArgs, VmArgs},
    datadir::DataDir,
    error::CliError,
    print, server,
};
use aetherium_gateway::api::DEFAULT_TEMPLATE;
use aetherium_image::InstalledTemplate;
use aetherium_model::{Code, Fault, resources::Resources, vm::VmSpec};
use aetherium_vmm::{
    DriverConfig, Firecracker, VsockChoice,
    firecracker::plan::{AgentTransport, FirecrackerVersion, Plan},
};
use aetherium_worker::Layout;

pub(crate) async fn plan(args: &Args, wanted: &PlanArgs) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    data.create()?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let name = match &wanted.vm.template {
        Some(name) => name.clone(),
        None => DEFAULT_TEMPLATE.parse().map_err(Fault::internal)?,
    };
    let template = template::open(&data)?.get(&name).map_err(Fault::from)?;
    let host = Host {
        config: &server::driver_config(&data, &layout, &wanted.driver),
        layout: &layout,
        driver: &wanted.driver,
    };
    let plan = host.plan(&template, &wanted.vm, wanted.firecracker_version).await?;
    if args.json { print::json(&plan) } else { show(&plan) }
}

/// What a plan depends on beside the template.
pub(super) struct Host<'a> {
    pub(super) config: &'a DriverConfig,
    pub(super) layout: &'a Layout,
    pub(super) driver: &'a DriverArgs,
}

impl Host<'_> {
    /// How a VM of the template would be started here.
    pub(super) async fn plan(
        &self,
        template: &InstalledTemplate,
        vm: &VmArgs,
        version: Option<FirecrackerVersion>,
    ) -> Result<Plan, Fault> {
        let defaults = template.manifest.defaults;
        let spec = VmSpec {
            template: (&template.manifest.name).into(),
            template_digest: Some(template.digest()?),
            resources: Resources {
                vcpus: vm.vcpus.unwrap_or(defaults.vcpus),
                memory_mib: vm.memory_mib.unwrap_or(defaults.memory_mib),
                disk_mib: vm.disk_mib.unwrap_or(defaults.disk_mib),
            },
            tuning: vm.tuning.tuning().or(template.manifest.tuning),
            network: vm.network.unwrap_or_default(),
            transport: vm.transport,
            snapshot: None,
            snapshots: vm.snapshots,
        };
        let vsock = if self.driver.no_vsock { VsockChoice::Off } else { VsockChoice::Auto };
        spec.tuning.check(spec.resources.memory_mib).map_err(|misfit| {
            let detail = format!("{}: {}", misfit.field, misfit.problem);
            Fault::new(Code::InvalidRequest, detail).remedy("give a value that fits the memory")
        })?;
        let networked = rustix::process::geteuid().is_root() && !self.driver.no_slots;
        let spec = aetherium_worker::preview(template, self.layout, &spec, vsock);
        Ok(Firecracker::new(self.config).plan(&spec, version, networked).await?)
    }
}

fn show(plan: &Plan) -> Result<(), CliError> {
    println!("Firecracker {}, virtio over {}\n", plan.firecracker, plan.transport);
    let reasons: Vec<Vec<String>> = plan
        .reasons
        .iter()
        .map(|it| vec![it.topic.to_string(), it.chosen.clone(), it.why.clone()])
        .collect();
    print::table(&["CHOICE", "CHOSEN", "WHY"], &reasons);
    println!("\nprogram:   firecracker {}", plan.program_args.join(" "));
    println!("kernel:    {}", plan.kernel_args);
    if !plan.appended_args.is_empty() {
        println!("           to which Firecracker adds {}", plan.appended_args.join(" "));
    }
    println!("agent:     {}", plan.agent.iter().map(way).collect::<Vec<_>>().join(", else "));
    let devices: Vec<String> =
        plan.devices.iter().map(|it| format!("{} ({})", it.guest_name, it.purpose)).collect();
    println!("devices:   {}", devices.join(", "));
    for file in &plan.files {
        let usage = format!("{:?}", file.usage).to_lowercase();
        println!("file:      {} is {} ({usage})", file.vmm.display(), file.host.display());
    }
    println!();
    for call in &plan.calls {
        println!("{} {} {}", call.method(), call.path(), call.body().map_err(Fault::internal)?);
    }
    println!("PUT /actions {{\"action_type\":\"InstanceStart\"}}");
    for defect in &plan.warnings {
        println!("\nwarning: Firecracker {}: {}", plan.firecracker, defect.what());
    }
    Ok(())
}

fn way(agent: &AgentTransport) -> String {
    match agent {
        AgentTransport::Vsock { uds, port } => format!("vsock {} port {port}", uds.display()),
        AgentTransport::Tcp { address, netns } => format!("tcp {address} in {netns}"),
    }
}
