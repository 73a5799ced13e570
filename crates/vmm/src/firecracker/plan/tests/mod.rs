//! The planner across versions × kernels, its refusals, and what holds for every plan.

mod devices;
mod machine;
mod properties;
mod refusals;
mod transport;

use super::*;
use aetherium_model::{
    kernel::{ConfigSource, KernelConfig, KernelOption as Option_, Setting},
    resources::Resources,
    template::KernelFormat,
};
use aetherium_net::GuestNet;

const MIB: u64 = 1024 * 1024;

fn version(text: &str) -> FirecrackerVersion {
    text.parse().unwrap()
}

fn kernel(options: &[(Option_, Setting)]) -> KernelFacts {
    let options = options.iter().copied().filter(|it| it.1 != Setting::Off).collect();
    KernelFacts {
        release: "6.1.0".to_owned(),
        format: KernelFormat::Elf,
        needs_bytes: 40 * MIB,
        config: Some(KernelConfig { source: ConfigSource::Image, options }),
    }
}

/// A kernel with everything, but for what `except` says.
fn kernel_but(except: &[(Option_, Setting)]) -> KernelFacts {
    let full = Option_::ALL.iter().map(|option| {
        let own = except.iter().find(|it| it.0 == *option);
        (*option, own.map_or(Setting::BuiltIn, |it| it.1))
    });
    kernel(&full.collect::<Vec<_>>())
}

fn unknown_kernel() -> KernelFacts {
    KernelFacts { config: None, ..kernel_but(&[]) }
}

fn initramfs(modules: &[&str]) -> Start {
    Start::Initramfs(InitramfsFacts {
        path: "/t/initramfs".into(),
        bytes: 4 * MIB,
        modules: modules.iter().map(|it| (*it).to_owned()).collect(),
    })
}

fn template(start: Start) -> TemplateFacts {
    TemplateFacts {
        kernel: KernelFiles { image: "/t/kernel".into(), format: KernelFormat::Elf, elf: None },
        start,
        kernel_args: Vec::new(),
        cpu: None,
    }
}

fn disk(id: &str, read_only: bool) -> DiskRequest {
    DiskRequest {
        path: format!("/t/{id}.ext4").into(),
        read_only,
        id: id.to_owned(),
        purpose: "a disk",
    }
}

fn network() -> NetworkRequest {
    let netns = Netns::At { path: "/run/netns/vm1".into() };
    NetworkRequest { tap: "tap0".to_owned(), netns, guest: GuestNet::COMMON }
}

fn request() -> PlanRequest {
    PlanRequest {
        run_dir: "/run/vm1".into(),
        confinement: Confinement::Plain,
        resources: Resources::default(),
        transport: TransportChoice::Auto,
        disks: vec![disk("root", true), disk("overlay", false)],
        network: None,
        vsock: Some(VsockRequest { guest_cid: 3 }),
        balloon: None,
        entropy: true,
        limits: RateLimits::default(),
        huge_pages: HugePages::None,
        track_dirty_pages: false,
        console: Console::Quiet,
        kernel_args: Vec::new(),
    }
}

fn planned(
    firecracker: &str,
    kernel: &KernelFacts,
    template: &TemplateFacts,
    request: &PlanRequest,
) -> Result<Plan, PlanError> {
    plan(&HostFacts::default(), version(firecracker), kernel, template, request)
}

fn accepted(firecracker: &str, kernel: &KernelFacts, request: &PlanRequest) -> Plan {
    planned(firecracker, kernel, &template(initramfs(&[])), request).unwrap()
}

fn refused(firecracker: &str, kernel: &KernelFacts, request: &PlanRequest) -> PlanError {
    planned(firecracker, kernel, &template(initramfs(&[])), request).unwrap_err()
}

fn paths(plan: &Plan) -> Vec<String> {
    plan.calls.iter().map(|call| call.path().into_owned()).collect()
}

fn body(plan: &Plan, path: &str) -> serde_json::Value {
    plan.calls.iter().find(|call| call.path() == path).unwrap().body().unwrap()
}
