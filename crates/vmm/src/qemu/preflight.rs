//! What the QEMU driver needs of its host.

use super::{
    program::{Info, OLDEST, PROGRAM, Program, REMEDY},
    vsock,
};
use crate::{
    DriverConfig, VmmError, host,
    kvm::{self, Kvm, Prober as _},
    kvm_device,
    spawn::find_program,
};
use aetherium_model::finding::Finding;

/// Looks at everything; runs no guest.
pub(crate) async fn run(config: &DriverConfig, program: &Program, kvm: &Kvm) -> Vec<Finding> {
    let info = program.info().await;
    let mut findings = vec![binary(&info)];
    if let Ok(info) = &info {
        findings.push(version(info));
        findings.push(sandbox(info));
    }
    findings.push(device());
    findings.push(match &info {
        Ok(info) => kvm
            .recall(&info.vmm())
            .unwrap_or_else(|| kvm::unprobed("not probed yet: needs a template")),
        Err(_) => kvm::unprobed("not probed: no QEMU answers"),
    });
    findings.push(vsock_helper(config));
    findings.push(e2fsprogs());
    findings.push(host::memory());
    findings.push(host::disk(&config.data_dir));
    findings
}

fn binary(info: &Result<Info, VmmError>) -> Finding {
    let (check, why) = ("qemu.binary", "QEMU runs the VMs");
    match info {
        Ok(info) => {
            Finding::ok(check, format!("{} {}", info.path.display(), info.version_text), why)
        }
        Err(error) => Finding::fail(check, error.to_string(), why, REMEDY),
    }
}

fn version(info: &Info) -> Finding {
    let (check, why) = ("qemu.version", "older versions lack options that the driver gives");
    let found = info.version.to_string();
    if info.version >= OLDEST {
        Finding::ok(check, found, why)
    } else {
        Finding::fail(check, found, why, format!("install {PROGRAM} {OLDEST} or later"))
    }
}

fn sandbox(info: &Info) -> Finding {
    let (check, why) =
        ("qemu.sandbox", "a guest that breaks out of QEMU meets a system call filter");
    if info.sandbox {
        Finding::ok(check, "built in", why)
    } else {
        Finding::warn(check, "not built in", why, "install a QEMU built with seccomp")
    }
}

fn device() -> Finding {
    let (check, why) = ("kvm.device", "KVM runs guests at the host's speed");
    match kvm_device::try_vm() {
        Ok(()) => Finding::ok(check, "/dev/kvm opens and makes a VM", why),
        Err(error) => {
            let remedy = format!("{}; without it guests run under emulation", error.remedy());
            Finding::warn(check, error.to_string(), why, remedy)
        }
    }
}

fn vsock_helper(config: &DriverConfig) -> Finding {
    let (check, why) =
        ("vsock.helper", "over vsock the agent is reached without the guest's network");
    match find_program(config.vsock_helper.as_deref(), vsock::PROGRAM) {
        Some(path) => Finding::ok(check, path.display().to_string(), why),
        None => {
            let found = format!("{} not found: agents are reached over TCP", vsock::PROGRAM);
            Finding::warn(check, found, why, format!("cargo install {}", vsock::PROGRAM))
        }
    }
}

fn e2fsprogs() -> Finding {
    let (check, why) = ("host.e2fsprogs", "mkfs.ext4 makes root file systems and disks");
    // Package tools put it in sbin, which a user's PATH may lack.
    let found = find_program(None, "mkfs.ext4").or_else(|| {
        ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"]
            .into_iter()
            .map(Into::into)
            .find(|it: &std::path::PathBuf| it.is_file())
    });
    match found {
        Some(path) => Finding::ok(check, path.display().to_string(), why),
        None => Finding::fail(check, "mkfs.ext4 not found", why, "install e2fsprogs"),
    }
}
