//! PCI or MMIO.

use super::{
    Feature, FirecrackerVersion, PlanError, TransportChoice,
    guest::{Guest, Has},
};
use aetherium_model::{kernel::KernelOption, resources::VirtioTransport};

/// What virtio over PCI needs, see "Guest kernel configuration items" in Firecracker's
/// `docs/kernel-policy.md`; seen to suffice.
const PCI: [KernelOption; 4] =
    [KernelOption::Pci, KernelOption::PciMmconfig, KernelOption::PciMsi, KernelOption::VirtioPci];

/// Chooses, and says why.
pub(super) fn choose(
    choice: TransportChoice,
    version: FirecrackerVersion,
    guest: &Guest<'_>,
    pci_is_off: Option<&str>,
) -> Result<(VirtioTransport, String), PlanError> {
    match choice {
        TransportChoice::Only(VirtioTransport::Pci) => forced_pci(version, guest, pci_is_off),
        TransportChoice::Only(VirtioTransport::Mmio) => forced_mmio(version, guest),
        TransportChoice::Auto => automatic(version, guest, pci_is_off),
    }
}

fn forced_pci(
    version: FirecrackerVersion,
    guest: &Guest<'_>,
    pci_is_off: Option<&str>,
) -> Result<(VirtioTransport, String), PlanError> {
    if !version.supports(Feature::Pci) {
        return Err(PlanError::FeatureMissing { feature: Feature::Pci, version });
    }
    if let Some(arg) = pci_is_off {
        let conflict = "turns off the PCI bus on which the guest's disks would be";
        return Err(PlanError::KernelArg { arg: arg.to_owned(), conflict });
    }
    match guest.has_all(&PCI) {
        Has::No => Err(missing(VirtioTransport::Pci, version, guest)),
        Has::Yes => Ok((VirtioTransport::Pci, "asked for".to_owned())),
        Has::Unknown => Ok((
            VirtioTransport::Pci,
            "asked for; the kernel's configuration is not known, so it may lack PCI".to_owned(),
        )),
    }
}

fn forced_mmio(
    version: FirecrackerVersion,
    guest: &Guest<'_>,
) -> Result<(VirtioTransport, String), PlanError> {
    match has_mmio(version, guest) {
        Has::No => Err(missing(VirtioTransport::Mmio, version, guest)),
        Has::Yes => Ok((VirtioTransport::Mmio, "asked for".to_owned())),
        Has::Unknown => Ok((
            VirtioTransport::Mmio,
            "asked for; the kernel's configuration is not known, so it may lack MMIO".to_owned(),
        )),
    }
}

/// What is known to work goes before what may work; of the latter MMIO first, which more kernels
/// made for Firecracker have.
fn automatic(
    version: FirecrackerVersion,
    guest: &Guest<'_>,
    pci_is_off: Option<&str>,
) -> Result<(VirtioTransport, String), PlanError> {
    let release = &guest.kernel.release;
    let mmio = has_mmio(version, guest);
    let (pci, no_pci) = if !version.supports(Feature::Pci) {
        let since = Feature::Pci.since();
        (Has::No, format!("Firecracker {version} has no PCI, which came with {since}"))
    } else if let Some(arg) = pci_is_off {
        (Has::No, format!("the kernel argument {arg:?} turns PCI off"))
    } else {
        let lacks = lacking(&PCI, guest);
        let lacks: Vec<String> = lacks.iter().map(ToString::to_string).collect();
        (guest.has_all(&PCI), format!("kernel {release} lacks {}", lacks.join(", ")))
    };
    match (pci, mmio) {
        (Has::Yes, _) => Ok((
            VirtioTransport::Pci,
            format!(
                "Firecracker {version} and kernel {release} both have PCI, the faster of the two"
            ),
        )),
        (Has::No, Has::Yes) => Ok((VirtioTransport::Mmio, no_pci)),
        (Has::No, Has::Unknown) => Ok((
            VirtioTransport::Mmio,
            format!("{no_pci}; whether the kernel has MMIO is not known"),
        )),
        (Has::Unknown, Has::Yes | Has::Unknown) => Ok((
            VirtioTransport::Mmio,
            format!("whether kernel {release} has PCI is not known, and MMIO needs less of it"),
        )),
        (Has::Unknown, Has::No) => Ok((
            VirtioTransport::Pci,
            format!("kernel {release} lacks MMIO; whether it has PCI is not known"),
        )),
        (Has::No, Has::No) if version.supports(Feature::Pci) && pci_is_off.is_none() => {
            Err(missing(VirtioTransport::Pci, version, guest))
        }
        (Has::No, Has::No) => Err(missing(VirtioTransport::Mmio, version, guest)),
    }
}

/// How a guest can be told of MMIO devices: by ACPI where Firecracker writes its tables, else on the
/// command line. Either suffices.
fn announcements(version: FirecrackerVersion) -> &'static [KernelOption] {
    if version.supports(Feature::Acpi) {
        &[KernelOption::Acpi, KernelOption::VirtioMmioCmdline]
    } else {
        &[KernelOption::VirtioMmioCmdline]
    }
}

fn has_mmio(version: FirecrackerVersion, guest: &Guest<'_>) -> Has {
    let announced = announcements(version).iter().map(|option| guest.has(*option));
    let announced = announced.fold(Has::No, |best, it| match (best, it) {
        (Has::Yes, _) | (_, Has::Yes) => Has::Yes,
        (Has::Unknown, _) | (_, Has::Unknown) => Has::Unknown,
        (Has::No, Has::No) => Has::No,
    });
    match (guest.has(KernelOption::VirtioMmio), announced) {
        (Has::No, _) | (_, Has::No) => Has::No,
        (Has::Yes, Has::Yes) => Has::Yes,
        _ => Has::Unknown,
    }
}

fn lacking(options: &[KernelOption], guest: &Guest<'_>) -> Vec<KernelOption> {
    options.iter().copied().filter(|option| guest.has(*option) == Has::No).collect()
}

fn missing(
    transport: VirtioTransport,
    version: FirecrackerVersion,
    guest: &Guest<'_>,
) -> PlanError {
    let missing = match transport {
        VirtioTransport::Pci => lacking(&PCI, guest),
        VirtioTransport::Mmio => {
            let mut missing = lacking(&[KernelOption::VirtioMmio], guest);
            let announcements = announcements(version);
            if lacking(announcements, guest).len() == announcements.len() {
                missing.extend(announcements);
            }
            missing
        }
    };
    PlanError::TransportMissing { release: guest.kernel.release.clone(), transport, missing }
}
