//! The kernel's command line.

use super::{
    Console, Feature, FirecrackerVersion, PlanError, Start,
    guest::{Guest, Has},
};
use aetherium_model::{
    kernel::{KernelOption, Setting},
    resources::VirtioTransport,
};

/// What fits, with the NUL at the end: `CMDLINE_MAX_SIZE` of Firecracker for x86.
pub(super) const MAX_BYTES: usize = 2048;
/// At least what `virtio_mmio.device=4K@0xc0001000:5` and a space take.
const MMIO_DEVICE_BYTES: usize = 40;

/// What every guest is told:
/// - `console=ttyS0`: the serial port is the console; Firecracker's own default has none.
/// - `reboot=k`: restart by the keyboard controller, at which Firecracker ends.
/// - `panic=-1`: restart at once after a panic, and not never.
/// - `i8042.…`: no search for a mouse and for more keyboards, which costs tens of milliseconds.
/// - `cryptomgr.notests`: no self-tests of ciphers, which cost as much.
const BASE: [&str; 7] = [
    "console=ttyS0",
    "reboot=k",
    "panic=-1",
    "i8042.noaux",
    "i8042.nomux",
    "i8042.dumbkbd",
    "cryptomgr.notests",
];

/// The first of `args` that turns PCI off.
pub(super) fn pci_off<'a>(mut args: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    args.find(|arg| {
        arg.strip_prefix("pci=").is_some_and(|values| {
            values.split(',').any(|value| ["off", "nommconf", "nomsi"].contains(&value))
        }) || ["acpi=off", "noacpi"].contains(arg)
    })
}

/// What Firecracker appends to the command line by itself. The addresses of MMIO devices are its
/// own affair.
pub(super) fn appended(
    version: FirecrackerVersion,
    transport: VirtioTransport,
    start: &Start,
    root_read_only: bool,
    devices: usize,
) -> Vec<String> {
    let mut appended = Vec::new();
    // Up to 1.12 `pci=off` was among the defaults that ours replace; since then it is appended.
    if transport == VirtioTransport::Mmio && version.supports(Feature::Pci) {
        appended.push("pci=off".to_owned());
    }
    if matches!(start, Start::Disk { .. }) {
        let mode = if root_read_only { "ro" } else { "rw" };
        appended.extend(["root=/dev/vda".to_owned(), mode.to_owned()]);
    }
    if transport == VirtioTransport::Mmio {
        appended.extend((0..devices).map(|_| "virtio_mmio.device=…".to_owned()));
    }
    appended
}

/// Makes the command line, without what Firecracker appends.
pub(super) fn line<'a>(
    transport: VirtioTransport,
    start: &Start,
    guest: &Guest<'_>,
    console: Console,
    extra: impl Iterator<Item = &'a str> + Clone,
) -> Result<String, PlanError> {
    for arg in extra.clone() {
        check(arg, start, guest)?;
    }
    let mut args: Vec<String> = BASE.map(str::to_owned).to_vec();
    if console == Console::Quiet {
        args.push("quiet".to_owned());
    }
    if transport == VirtioTransport::Mmio {
        args.push("pci=off".to_owned());
    }
    if let Start::Disk { init: Some(init) } = start {
        args.push(format!("init={init}"));
    }
    args.extend(extra.map(str::to_owned));
    Ok(args.join(" "))
}

/// Refuses a line that does not fit once Firecracker has appended to it.
pub(super) fn check_length(line: &str, appended: &[String]) -> Result<(), PlanError> {
    let extra: usize = appended
        .iter()
        .map(|arg| if arg.starts_with("virtio_mmio") { MMIO_DEVICE_BYTES } else { arg.len() + 1 })
        .sum();
    let bytes = line.len() + extra + 1;
    if bytes > MAX_BYTES {
        return Err(PlanError::KernelArgsTooLong { bytes, max: MAX_BYTES });
    }
    Ok(())
}

/// Refuses an argument that would keep the guest from booting, or be read as several.
fn check(arg: &str, start: &Start, guest: &Guest<'_>) -> Result<(), PlanError> {
    let bad = |why| PlanError::BadValue { what: "kernel argument", value: arg.to_owned(), why };
    if arg.is_empty() || !arg.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("it has to be printable ASCII without spaces"));
    }
    if arg == "--" {
        return Err(bad("what follows it would be the init's and not the kernel's"));
    }
    let name = arg.split_once('=').map_or(arg, |it| it.0);
    let conflict = match (name, start) {
        ("rdinit", Start::Initramfs(_)) => Some("would start another program than the agent"),
        ("noinitrd", Start::Initramfs(_)) => Some("leaves the initramfs with the agent unused"),
        ("root", Start::Disk { .. }) => Some("names another root than Firecracker does"),
        ("init", Start::Disk { init: Some(_) }) => {
            Some("names another init than the template does")
        }
        ("nomodule", _) if guest.loads_modules() => {
            Some("keeps the kernel from loading the modules of its initramfs")
        }
        ("acpi", _)
            if arg == "acpi=off" && guest.has(KernelOption::VirtioMmioCmdline) == Has::No =>
        {
            Some("turns off the only way in which this kernel finds its devices")
        }
        _ => None,
    };
    match conflict {
        Some(conflict) => Err(PlanError::KernelArg { arg: arg.to_owned(), conflict }),
        None => Ok(()),
    }
}

/// What is to be known of the guest's console.
pub(super) fn console_reason(console: Console, guest: &Guest<'_>) -> String {
    let off = |option| matches!(guest.kernel.setting(option), Some(Setting::Off | Setting::Module));
    if off(KernelOption::Serial) || off(KernelOption::SerialConsole) {
        return "the kernel has no serial console: a boot that fails will say nothing".to_owned();
    }
    if off(KernelOption::SerialPnp) {
        let option = KernelOption::SerialPnp;
        return format!(
            "the kernel has no {option}: only its own messages will be seen, not its init's"
        );
    }
    match console {
        Console::Quiet => {
            "a serial port is slow, and all messages double the time of a boot".to_owned()
        }
        Console::Verbose => "all messages, as asked for".to_owned(),
    }
}
