//! What a guest's console says of a lost boot. Pure; knows the words of Linux and of our init.
//!
//! Kernel messages quoted here are those of `init/main.c`, `init/do_mounts.c`, `init/initramfs.c`,
//! `kernel/exit.c` and `mm/oom_kill.c` of Linux 5.10 to 6.12.

use aetherium_agent_proto::console::{ConsoleLine, FatalCode, MARKER, SeenDisk, Stage};
use aetherium_model::{Code, Fault};

const PANIC: &str = "Kernel panic - not syncing: ";

/// The reason a console gives for the guest's end, if it gives one that is final.
pub(super) fn verdict(lines: &[String]) -> Option<Fault> {
    fatal(lines).or_else(|| panic(lines))
}

/// How far the init came.
pub(super) fn last_stage(lines: &[String]) -> Option<Stage> {
    lines.iter().rev().find_map(|line| match ConsoleLine::parse(line) {
        Some(ConsoleLine::Stage { stage, .. }) => Some(stage),
        _ => None,
    })
}

/// Whether the guest powered off or restarted in order.
pub(super) fn shut_down(lines: &[String]) -> Option<&String> {
    lines.iter().rev().find(|line| {
        matches!(ConsoleLine::parse(line), Some(ConsoleLine::PowerOff))
            || ["reboot: Power down", "reboot: Restarting system", "reboot: System halted"]
                .iter()
                .any(|end| message(line).starts_with(end))
    })
}

/// Our init's own word.
fn fatal(lines: &[String]) -> Option<Fault> {
    let (at, code, detail, seen) =
        lines.iter().enumerate().rev().find_map(|(at, line)| match ConsoleLine::parse(line) {
            Some(ConsoleLine::Fatal { code, detail, seen }) => Some((at, code, detail, seen)),
            _ => None,
        })?;
    let disks = disks(&seen);
    let fault = match code {
        FatalCode::RootNotFound => Fault::new(Code::RootNotFound, format!("{detail}; {disks}")),
        FatalCode::RootMountFailed => {
            Fault::new(Code::RootMountFailed, format!("{detail}; {disks}"))
        }
        FatalCode::OverlayNotFound | FatalCode::OverlayFailed => {
            Fault::new(Code::OverlayFailed, format!("{detail}; {disks}"))
        }
        FatalCode::ListenFailed if detail.contains("vsock") => {
            Fault::new(Code::VsockMissing, format!("the agent has nothing to listen on: {detail}"))
        }
        FatalCode::ConfigMissing
        | FatalCode::ConfigInvalid
        | FatalCode::MountFailed
        | FatalCode::SwitchFailed
        | FatalCode::HandOverFailed
        | FatalCode::ListenFailed
        | FatalCode::Internal => {
            Fault::new(Code::InitExited, format!("the guest's init gave up: {code}: {detail}"))
        }
    };
    Some(fault.evidence(around(lines, at, 4, 0)))
}

fn disks(seen: &[SeenDisk]) -> String {
    if seen.is_empty() {
        return "the guest saw no disk".to_owned();
    }
    let each: Vec<String> = seen
        .iter()
        .map(|disk| {
            let known = [&disk.fstype, &disk.label, &disk.uuid];
            let known: Vec<&str> =
                known.into_iter().map(String::as_str).filter(|it| !it.is_empty()).collect();
            if known.is_empty() {
                disk.name.clone()
            } else {
                format!("{} ({})", disk.name, known.join(", "))
            }
        })
        .collect();
    format!("the guest saw {}", each.join(", "))
}

/// The kernel's last word.
fn panic(lines: &[String]) -> Option<Fault> {
    let (at, why) = lines
        .iter()
        .enumerate()
        .find_map(|(at, line)| Some((at, message(line).strip_prefix(PANIC)?)))?;
    let before = &lines[..at];
    let fault = if let Some(line) = memory_ran_out(before, why) {
        Fault::new(Code::GuestOutOfMemory, format!("the guest ran out of memory: {line}"))
    } else if let Some(block) = why.strip_prefix("VFS: Unable to mount root fs on ") {
        no_root(before, block)
    } else if let Some(line) = init_missing(before, why) {
        Fault::new(Code::InitMissing, format!("the kernel found no init to run: {line}"))
    } else if let Some(status) = why.strip_prefix("Attempted to kill init! exitcode=") {
        Fault::new(Code::InitExited, format!("the guest's init {}", ended(status)))
    } else {
        Fault::new(Code::KernelPanic, format!("the guest's kernel panicked: {why}"))
    };
    Some(fault.evidence(around(lines, at, 6, 2)))
}

/// The line that tells of a lack of memory, the panic's own or an earlier one that led to it.
fn memory_ran_out<'a>(before: &'a [String], why: &'a str) -> Option<&'a str> {
    let tells = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains("out of memory")
            || text.contains("deadlocked on memory")
            || text.contains("not enough memory")
            || text.contains("cannot allocate memory")
            || text.contains("initramfs unpacking failed: write error")
            || (text.contains("failed to allocate") && !text.contains("dma"))
    };
    // An earlier line counts only where memory can be behind the panic: a lost init or a lost root.
    let follows = why.contains("init") || why.starts_with("VFS:");
    let earlier = || before.iter().map(|line| message(line)).find(|line| tells(line));
    if tells(why) { Some(why) } else { earlier().filter(|_| follows) }
}

/// The kernel could not mount a root by itself, which it tries where it has no initramfs, or one
/// without `/init`.
fn no_root(before: &[String], block: &str) -> Fault {
    let unpacking = before
        .iter()
        .map(|line| message(line))
        .find(|it| it.starts_with("Initramfs unpacking failed"));
    if let Some(line) = unpacking {
        return Fault::new(Code::TemplateBroken, format!("the initramfs cannot be read: {line}"));
    }
    if let Some(root) = before.iter().find_map(|line| cannot_open(line)) {
        let seen = partitions(before);
        let seen = if seen.is_empty() {
            "it saw no disk".to_owned()
        } else {
            format!("it saw {}", seen.join(", "))
        };
        let detail =
            format!("the kernel was to find its root on {root}, which is not there; {seen}");
        return Fault::new(Code::RootNotFound, detail).remedy(
            "see that the VMM attaches the root disk and that the kernel has its driver; \
                     pci=off with devices on PCI hides them all",
        );
    }
    if block.starts_with("unknown-block(0,0)") || block.contains("\"\"") {
        let detail = "the kernel ran no /init from an initramfs, and has no root device of its own";
        return Fault::new(Code::InitMissing, format!("{detail}: {block}"));
    }
    Fault::new(
        Code::RootMountFailed,
        format!("the kernel could not mount a root file system on {block}"),
    )
}

/// The root device that a kernel was told of and could not open. It says so, with an empty name,
/// even where it was told of none. Kernels up to 6.3 leave `/dev/` out.
fn cannot_open(line: &str) -> Option<String> {
    let rest = message(line).strip_prefix("VFS: Cannot open root device \"")?;
    match rest.split_once('"')?.0 {
        "" | "(null)" => None,
        name if name.starts_with('/') || name.contains('=') => Some(name.to_owned()),
        name => Some(format!("/dev/{name}")),
    }
}

/// The names of the block devices that a kernel lists when it finds no root: a device number, a
/// count of blocks, a name, and perhaps a driver.
fn partitions(lines: &[String]) -> Vec<&str> {
    let listed = |line: &&String| message(line).contains("available partitions:");
    let list = lines.iter().skip_while(|line| !listed(line)).skip(1);
    list.map_while(|line| {
        let mut words = message(line).split_whitespace();
        let number = words.next()?;
        words.next()?.parse::<u64>().ok()?;
        let name = words.next()?;
        number.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(name)
    })
    .collect()
}

/// The root device that a kernel still waits for (`rootwait`).
pub(super) fn awaited_root(lines: &[String]) -> Option<&str> {
    let line = lines
        .iter()
        .rev()
        .find_map(|line| message(line).strip_prefix("Waiting for root device "))?;
    Some(line.trim_end_matches('.'))
}

/// What the init says of a network interface that it could not bring up.
pub(super) fn interface_trouble(lines: &[String]) -> Option<String> {
    let signs = ["eth0 is not there", "eth0 has no address", "no network, not even lo"];
    lines.iter().find_map(|line| match ConsoleLine::parse(line) {
        Some(ConsoleLine::Note { detail }) => {
            signs.iter().any(|sign| detail.starts_with(sign)).then_some(detail)
        }
        _ => None,
    })
}

/// A sign that some other init than ours runs.
pub(super) fn other_init(lines: &[String]) -> Option<&String> {
    if lines.iter().any(|line| line.contains(MARKER)) {
        return None;
    }
    lines.iter().rev().find(|line| {
        let text = message(line);
        text.ends_with(" login:")
            || text.starts_with("systemd[1]: ")
            || text.starts_with("Welcome to ")
            || text.starts_with("INIT: version ")
            || text.starts_with("OpenRC ")
    })
}

fn init_missing<'a>(before: &'a [String], why: &'a str) -> Option<&'a str> {
    let missing = why.starts_with("No working init found") || why.starts_with("No init found");
    if why.starts_with("Requested init ") {
        return Some(why);
    }
    // The line before says which program failed, and with which error.
    let tried = before
        .iter()
        .rev()
        .map(|line| message(line))
        .find(|it| it.starts_with("Failed to execute "));
    missing.then(|| tried.unwrap_or(why))
}

/// A wait status as the kernel prints it: `0x00000300` is code 3, `0x0000000b` is signal 11.
fn ended(status: &str) -> String {
    let digits = status.trim().trim_start_matches("0x");
    let digits: String = digits.chars().take_while(char::is_ascii_hexdigit).collect();
    match u32::from_str_radix(&digits, 16) {
        Ok(raw) if raw & 0x7f == 0 => format!("exited with code {}", (raw >> 8) & 0xff),
        Ok(raw) => format!("was killed by signal {}", raw & 0x7f),
        Err(_) => format!("ended with status {status}"),
    }
}

/// A kernel line without its time: `[    1.674065] text`.
fn message(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match rest {
        Some((time, text))
            if time.trim().bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'T') =>
        {
            text.trim_start()
        }
        _ => line,
    }
}

/// The line at `at` with a few neighbours.
fn around(lines: &[String], at: usize, before: usize, after: usize) -> Vec<String> {
    lines[at.saturating_sub(before)..(at + 1 + after).min(lines.len())].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_a_code_or_a_signal() {
        assert_eq!(ended("0x00000300"), "exited with code 3");
        assert_eq!(ended("0x0000000b"), "was killed by signal 11");
        assert_eq!(ended("0x0000008b"), "was killed by signal 11");
        assert_eq!(ended("0x00000000 ]---"), "exited with code 0");
    }

    #[test]
    fn the_disks_that_a_kernel_lists_are_named() {
        let lines = [
            "[    0.8] VFS: Cannot open root device \"/dev/vdz\" or unknown-block(0,0): error -6",
            "[    0.8] Please append a correct \"root=\" boot option; here are the available partitions:",
            "[    0.8] fe00           16384 vda",
            "[    0.8]  driver: virtio_blk",
            "[    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ];
        let fault = verdict(&lines.map(str::to_owned)).unwrap();
        assert_eq!(fault.code, Code::RootNotFound);
        assert!(
            fault.detail.contains("/dev/vdz") && fault.detail.ends_with("it saw vda"),
            "{fault}"
        );
    }

    #[test]
    fn a_kernel_that_was_told_of_no_root_has_lost_its_init() {
        let lines = [
            "[    0.8] VFS: Cannot open root device \"\" or unknown-block(0,0): error -6",
            "[    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ];
        assert_eq!(verdict(&lines.map(str::to_owned)).unwrap().code, Code::InitMissing);
    }

    #[test]
    fn a_quoted_panic_is_no_panic() {
        let lines = ["myapp: saw Kernel panic - not syncing: x in a log".to_owned()];
        assert_eq!(verdict(&lines), None);
    }

    #[test]
    fn an_old_complaint_about_memory_does_not_explain_an_unrelated_panic() {
        let lines = [
            "Out of memory: Killed process 99 (cc1)",
            "Kernel panic - not syncing: Fatal exception",
        ];
        let fault = verdict(&lines.map(str::to_owned)).unwrap();
        assert_eq!(fault.code, Code::KernelPanic);
    }
}
