//! QEMU's command line, as a pure function of what a VM is to be.
//!
//! # Decisions
//! - **q35, trimmed, with virtio over PCI.** It boots any distribution kernel without being told
//!   anything. `microvm` saves only the firmware's time, and hangs under software
//!   emulation in the calibration of the TSC unless the host's frequency is passed in, and a guest
//!   then trusts that number.
//! - **`-no-reboot` with `panic=-1`:** a guest that panics ends its VMM at once, instead of looping.
//! - **Nothing by default:** `-nodefaults -no-user-config`, and `-sandbox` where QEMU has it: no
//!   new processes, no other user, no obsolete system calls.
//! - **Disks by JSON**, so that no character of a path can mean anything. `cache` is writeback and
//!   honours flushes; a discard in the guest frees space on the host.

use super::program::MACHINE;
use crate::{Accelerator, Disk, VmmError};
use aetherium_agent_proto::AGENT_PORT;
use aetherium_model::resources::{MemoryMib, NetworkMode, Vcpus};
use aetherium_net::{GuestNet, usernet};
use std::{
    ffi::OsString,
    os::fd::RawFd,
    path::{Path, PathBuf},
};

/// What virtio-blk carries of a serial number; `VIRTIO_BLK_ID_BYTES` in the virtio specification.
const MAX_SERIAL_BYTES: usize = 20;

/// Without devices of a q35 that no guest of ours uses: each would cost its kernel a probe. (Not
/// `graphics=off`: with it the firmware writes on the serial port, and a silent guest is silent no more.)
const FEATURES: &str = "usb=off,sata=off,smbus=off,i8042=off,vmport=off";

/// The CPU under emulation. It costs nothing measurable beside `qemu64`, and it has RDRAND, without
/// which a guest waits for entropy, and what x86-64-v2 and v3 programs need.
pub(crate) const EMULATED_CPU: &str = "max";

/// No child processes, no change of user or priorities, no obsolete system calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// One QEMU to run.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) name: &'a str,
    pub(crate) accelerator: Accelerator,
    pub(crate) sandbox: bool,
    pub(crate) vcpus: Vcpus,
    pub(crate) memory: MemoryMib,
    pub(crate) balloon: bool,
    pub(crate) start: Start<'a>,
    pub(crate) disks: &'a [Disk],
    pub(crate) console: &'a Path,
    /// `None`: no interface at all.
    pub(crate) network: Option<NetworkMode>,
    /// The listening socket of the monitor, inherited under this number.
    pub(crate) monitor: Option<RawFd>,
    /// The vhost-user socket of the vsock helper.
    pub(crate) vsock: Option<&'a Path>,
}

/// What a guest starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Its kernel.
    Kernel {
        image: &'a Path,
        initrd: &'a Path,
        /// After the arguments that the driver chooses, so that they win.
        extra_args: &'a [String],
    },
    /// A state that QEMU is told of later, and paused then. What the kernel started from is in it.
    State,
}

impl Plan<'_> {
    /// The arguments after the program's name.
    ///
    /// # Errors
    /// [`VmmError::BadValue`] for a path, name or serial number that QEMU cannot be given.
    pub(crate) fn args(&self) -> Result<Vec<OsString>, VmmError> {
        let mut args = Args::default();
        args.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
        args.pair("-display", "none");
        args.pair("-name", format!("{},process={}", self.name, self.name));
        if self.sandbox {
            args.pair("-sandbox", SANDBOX);
        }
        self.machine(&mut args);
        match self.start {
            Start::Kernel { image, initrd, extra_args } => {
                args.pair("-append", kernel_args(extra_args));
                args.path("-kernel", image);
                args.path("-initrd", initrd);
            }
            Start::State => {
                args.pair("-incoming", "defer");
                args.flags(&["-S"]);
            }
        }
        let console = escaped(self.console)?;
        args.pair("-chardev", format!("file,id=console,path={console},append=on"));
        args.pair("-serial", "chardev:console");
        args.pair("-device", "virtio-rng-pci,disable-legacy=on");
        if self.balloon {
            args.pair("-device", "virtio-balloon-pci,deflate-on-oom=on,disable-legacy=on");
        }
        for (at, disk) in self.disks.iter().enumerate() {
            add_disk(&mut args, at, disk)?;
        }
        if let Some(mode) = self.network {
            let net = GuestNet::COMMON;
            args.pair("-netdev", usernet::netdev("net0", &net, mode, AGENT_PORT));
            let device =
                format!("virtio-net-pci,netdev=net0,mac={},disable-legacy=on,romfile=", net.mac);
            args.pair("-device", device);
        }
        if let Some(socket) = self.vsock {
            args.pair("-chardev", format!("socket,id=vsock,path={}", escaped(socket)?));
            args.pair("-device", "vhost-user-vsock-pci,chardev=vsock");
        }
        if let Some(fd) = self.monitor {
            args.pair("-chardev", format!("socket,id=monitor,fd={fd},server=on,wait=off"));
            args.pair("-mon", "chardev=monitor,mode=control");
        }
        Ok(args.0)
    }

    fn machine(&self, args: &mut Args) {
        let memory = self.memory.get();
        match self.accelerator {
            Accelerator::Kvm => {
                args.pair("-accel", "kvm");
                args.pair("-cpu", "host");
            }
            Accelerator::Tcg | Accelerator::None => {
                args.pair("-accel", "tcg,thread=multi");
                args.pair("-cpu", EMULATED_CPU);
            }
        }
        args.pair("-smp", self.vcpus.to_string());
        args.pair("-m", format!("{memory}M"));
        if self.vsock.is_some() {
            // The helper reads and writes the guest's memory itself.
            args.pair("-object", format!("memory-backend-memfd,id=ram,size={memory}M,share=on"));
            args.pair("-machine", format!("{MACHINE},{FEATURES},memory-backend=ram"));
        } else {
            args.pair("-machine", format!("{MACHINE},{FEATURES}"));
        }
    }
}

/// `panic=-1` reboots at once, `reboot=t` does so by a triple fault, which needs no firmware; with
/// `-no-reboot` that ends QEMU. `quiet`, because each line costs milliseconds on a serial port; a panic
/// is printed nevertheless. `cryptomgr.notests`, because the self-tests of the kernel's ciphers are a
/// good part of an emulated boot. `no_timer_check`, because an emulator that gets no processor for a
/// moment delivers the timer's interrupts late, and the kernel would take the timer for broken and panic.
fn kernel_args(extra: &[String]) -> String {
    let mut line =
        "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests no_timer_check".to_owned();
    for arg in extra {
        line.push(' ');
        line.push_str(arg);
    }
    line
}

fn add_disk(args: &mut Args, at: usize, disk: &Disk) -> Result<(), VmmError> {
    let bad = |value: &str, why| VmmError::BadValue { value: value.to_owned(), why };
    let serial_is_plain =
        disk.serial.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if disk.serial.len() > MAX_SERIAL_BYTES || !serial_is_plain {
        return Err(bad(
            &disk.serial,
            "a disk's serial has at most 20 letters, digits, -, _ and .",
        ));
    }
    let node = serde_json::json!({
        "driver": "raw",
        "node-name": format!("disk{at}"),
        "read-only": disk.read_only,
        "discard": "unmap",
        "cache": { "direct": false, "no-flush": false },
        "file": { "driver": "file", "filename": text(&disk.path)?, "discard": "unmap" },
    });
    args.pair("-blockdev", node.to_string());
    let serial = &disk.serial;
    args.pair(
        "-device",
        format!("virtio-blk-pci,drive=disk{at},serial={serial},disable-legacy=on"),
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str, VmmError> {
    path.to_str().ok_or_else(|| VmmError::BadValue {
        value: path.display().to_string(),
        why: "the path is not UTF-8",
    })
}

/// A path inside an option list, where a comma is written twice.
fn escaped(path: &Path) -> Result<String, VmmError> {
    Ok(text(path)?.replace(',', ",,"))
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.into(), value.into().into()]);
    }

    fn path(&mut self, name: &str, path: &Path) {
        self.0.extend([name.into(), PathBuf::from(path).into_os_string()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan<'a>(disks: &'a [Disk], console: &'a Path) -> Plan<'a> {
        Plan {
            name: "vm_1",
            accelerator: Accelerator::Tcg,
            sandbox: true,
            vcpus: Vcpus::try_from(2).unwrap(),
            memory: MemoryMib::try_from(512).unwrap(),
            balloon: true,
            start: boot(&[]),
            disks,
            console,
            network: None,
            monitor: None,
            vsock: None,
        }
    }

    fn boot(extra_args: &[String]) -> Start<'_> {
        Start::Kernel { image: Path::new("/k"), initrd: Path::new("/i"), extra_args }
    }

    fn values_of(args: &[OsString], name: &str) -> Vec<String> {
        let pairs = args.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].to_str().unwrap().to_owned()).collect()
    }

    fn disk(path: &str, read_only: bool) -> Disk {
        Disk { path: path.into(), read_only, serial: "aetherium-root".to_owned() }
    }

    #[test]
    fn a_panicking_guest_ends_its_vmm_and_names_no_root() {
        let args = plan(&[], Path::new("/c")).args().unwrap();
        assert!(args.contains(&"-no-reboot".into()));
        let line = values_of(&args, "-append").remove(0);
        assert!(line.contains("panic=-1") && !line.contains("root="), "{line}");
    }

    #[test]
    fn extra_kernel_arguments_come_last_so_that_they_win() {
        let extra = ["loglevel=7".to_owned(), "x=1".to_owned()];
        let args = Plan { start: boot(&extra), ..plan(&[], Path::new("/c")) }.args().unwrap();
        assert!(values_of(&args, "-append")[0].ends_with(" loglevel=7 x=1"));
    }

    #[test]
    fn a_shared_base_is_read_only_and_no_disk_ignores_flushes() {
        let disks = [disk("/base", true), disk("/overlay", false)];
        let nodes = values_of(&plan(&disks, Path::new("/c")).args().unwrap(), "-blockdev");
        let nodes: Vec<serde_json::Value> =
            nodes.iter().map(|node| serde_json::from_str(node).unwrap()).collect();
        assert_eq!(nodes[0]["read-only"], true);
        assert_eq!(nodes[1]["read-only"], false);
        assert!(nodes.iter().all(|node| node["cache"]["no-flush"] == false));
    }

    #[test]
    fn guest_memory_is_shared_only_with_a_vsock_helper() {
        let without = plan(&[], Path::new("/c")).args().unwrap();
        assert_eq!(values_of(&without, "-object"), Vec::<String>::new());
        let with = Plan { vsock: Some(Path::new("/v")), ..plan(&[], Path::new("/c")) };
        let with = with.args().unwrap();
        assert!(values_of(&with, "-object")[0].contains("memory-backend-memfd"));
        assert!(values_of(&with, "-machine")[0].ends_with("memory-backend=ram"));
    }

    #[test]
    fn emulation_and_kvm_differ_in_accelerator_and_cpu_alone() {
        let tcg = plan(&[], Path::new("/c")).args().unwrap();
        let kvm = Plan { accelerator: Accelerator::Kvm, ..plan(&[], Path::new("/c")) };
        let kvm = kvm.args().unwrap();
        let differing: Vec<_> = tcg.iter().zip(&kvm).filter(|(a, b)| a != b).collect();
        assert_eq!(differing.len(), 2, "{differing:?}");
        assert_eq!(values_of(&kvm, "-cpu"), ["host"]);
    }

    #[test]
    fn a_state_is_awaited_by_the_same_machine_and_nothing_boots_meanwhile() {
        let kernel = plan(&[], Path::new("/c")).args().unwrap();
        let state = Plan { start: Start::State, ..plan(&[], Path::new("/c")) }.args().unwrap();
        assert_eq!(values_of(&state, "-incoming"), ["defer"]);
        assert!(state.contains(&"-S".into()) && values_of(&state, "-kernel").is_empty());
        for part in ["-machine", "-cpu", "-smp", "-m", "-device"] {
            assert_eq!(values_of(&state, part), values_of(&kernel, part), "{part}");
        }
    }

    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"/a\xff"));
        let disks = [Disk { path: odd, read_only: true, serial: String::new() }];
        assert!(plan(&disks, Path::new("/c")).args().is_err());
    }

    proptest! {
        #[test]
        fn no_path_can_add_an_option(path in "/[ -~]{0,40}") {
            let disks = [disk(&path, true)];
            let args = plan(&disks, Path::new(&path)).args().unwrap();
            let node: serde_json::Value =
                serde_json::from_str(&values_of(&args, "-blockdev")[0]).unwrap();
            prop_assert_eq!(node["file"]["filename"].as_str(), Some(path.as_str()));
            prop_assert_eq!(node["read-only"].as_bool(), Some(true));
            // QEMU reads `,,` as a comma of the value, and a single one as the next option.
            let chardev = &values_of(&args, "-chardev")[0];
            let options = chardev.replace(",,", "");
            prop_assert_eq!(options.matches(',').count(), 3);
        }
    }
}
