//! What a guest's serial console shows: the lines of a boot, and of one that is lost.

use crate::body::{BootSource, Drive, NetworkInterface};
use aetherium_agent_proto::config::EndsBy;
use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Write as _},
    sync::{Mutex, PoisonError},
};

/// Firecracker's own kernel arguments, from `src/vmm/src/vmm_config/boot_source.rs`.
const DEFAULT_ARGS: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux \
                            i8042.dumbkbd swiotlb=noforce";
/// The kernel that the fake pretends to have booted.
const KERNEL: &str = "Linux version 6.12.0 (fake@firecracker) #1 SMP PREEMPT_DYNAMIC";

/// The serial port.
#[derive(Debug, Default)]
pub(crate) struct Console(Mutex<Option<File>>);

impl Console {
    pub(crate) fn redirect(&self, file: File) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// Writes as the guest would.
    pub(crate) fn write(&self, text: &str) {
        let text = text.replace('\n', "\r\n");
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A console that nobody takes loses its text.
        let _ = match file.as_mut() {
            Some(file) => file.write_all(text.as_bytes()),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
    }
}

/// What a guest was given, so far as its console shows it.
pub(crate) struct Hardware<'a> {
    pub(crate) boot: &'a BootSource,
    /// The root first.
    pub(crate) drives: &'a [Drive],
    pub(crate) networks: &'a [NetworkInterface],
    pub(crate) vsock: bool,
    pub(crate) pci: bool,
}

impl Hardware<'_> {
    /// The kernel's command line: the given arguments and what Firecracker adds behind them.
    pub(crate) fn command_line(&self) -> String {
        let mut line = self.boot.boot_args.clone().unwrap_or_else(|| DEFAULT_ARGS.to_owned());
        if !self.pci {
            line += " pci=off";
        }
        if let Some(root) = self.drives.first().filter(|drive| drive.is_root_device) {
            let mode = if root.is_read_only == Some(true) { "ro" } else { "rw" };
            let root =
                root.partuuid.as_ref().map_or("/dev/vda".to_owned(), |it| format!("PARTUUID={it}"));
            line += &format!(" root={root} {mode}");
        }
        if !self.pci {
            for device in 0..self.devices() {
                // The window of MMIO devices on x86 begins at 0xc0001000, after the boot timer's page.
                let base = 0xc000_1000_usize + device * 0x1000;
                line += &format!(" virtio_mmio.device=4K@{base:#x}:{}", device + 5);
            }
        }
        line
    }

    fn devices(&self) -> usize {
        self.drives.len() + self.networks.len() + usize::from(self.vsock)
    }

    /// Whether the guest cannot find its root because its arguments forbid it the bus.
    pub(crate) fn loses_its_bus(&self) -> bool {
        let args = self.boot.boot_args.as_deref().unwrap_or_default();
        self.pci && args.split_whitespace().any(|word| word == "pci=off")
    }

    /// The kernel's lines up to its first program; only the gravest with `quiet`.
    pub(crate) fn kernel_lines(&self) -> String {
        let line = self.command_line();
        if line.split_whitespace().any(|word| word == "quiet") {
            return String::new();
        }
        let mut text = format!("[    0.000000] {KERNEL}\n[    0.000000] Command line: {line}\n");
        let mut say = |line: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        };
        if self.pci {
            for slot in 1..=self.devices() {
                say(format!(
                    "[    0.080000] pci 0000:00:{slot:02x}.0: [1af4:1042] type 00 class 0x018000"
                ));
            }
        }
        for (index, _) in self.drives.iter().enumerate() {
            let name = char::from(b'a' + u8::try_from(index % 26).unwrap_or_default());
            say(format!(
                "[    0.100000] virtio_blk virtio{index}: [vd{name}] 4096 512-byte logical blocks"
            ));
        }
        text
    }
}

/// The last lines of a kernel that finds no root.
pub(crate) const PANIC: &str = "\
[    0.300000] VFS: Cannot open root device \"/dev/vda\" or unknown-block(0,0): error -6
[    0.300100] Please append a correct \"root=\" boot option; here are the available partitions:
[    0.300200] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
[    0.300300] CPU: 0 UID: 0 PID: 1 Comm: swapper/0 Not tainted 6.12.0 #1
[    0.300400] Rebooting in 1 seconds..
";

/// The init's word that its agent can be reached.
pub(crate) const LISTENING: &str = "aetherium-init: stage=listening uptime_ms=200\n";

/// The init's word that its kernel runs, which is all that a probe is for.
pub(crate) const PROBE: &str = "aetherium-init: probe uptime_ms=150\n";

/// A guest's last words: by a restart, which ends Firecracker, or by a power switch, which it lacks.
pub(crate) const fn farewell(ends_by: EndsBy) -> &'static str {
    match ends_by {
        EndsBy::Restart => "[    9.000000] reboot: Restarting system\n",
        EndsBy::PowerOff => "[    9.000000] reboot: Power down\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(id: &str, root: bool) -> Drive {
        let body =
            serde_json::json!({"drive_id": id, "is_root_device": root, "is_read_only": root});
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn the_command_line_gets_what_the_transport_needs() {
        let boot = BootSource {
            kernel_image_path: "/k".into(),
            initrd_path: None,
            boot_args: Some("console=ttyS0".to_owned()),
        };
        let drives = [drive("root", true), drive("data", false)];
        let mmio =
            Hardware { boot: &boot, drives: &drives, networks: &[], vsock: false, pci: false };
        let expected = "console=ttyS0 pci=off root=/dev/vda ro \
                        virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6";
        assert_eq!(mmio.command_line(), expected);
        let pci = Hardware { pci: true, ..mmio };
        assert_eq!(pci.command_line(), "console=ttyS0 root=/dev/vda ro");
    }
}
