//! Whether guests run under KVM on this host. A device that opens is no proof; a guest that came up
//! is.
//!
//! A verdict belongs to one kernel image, VMM, host kernel and CPU model, and is kept in a file
//! under that key. One probe runs at a time, across processes too. How a VMM is started is its
//! driver's: see [`Prober`].

use crate::{
    ProbeGuest, VmmError, VmmExit,
    diagnose::{read_tail, tail_lines},
    held::Held,
};
use aetherium_agent_proto::console::ConsoleLine;
use aetherium_model::{
    finding::Finding,
    resources::{MemoryMib, Vcpus},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::timeout;

/// The check's name.
pub(crate) const CHECK: &str = "kvm.probe";
const WHY: &str = "with KVM guests run at the host's speed, without it many times slower";
/// How long the probe guest may take where there is another way to run guests. Under software
/// emulation, on a slow host, it needs half of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(6);
/// A VMM that has run this long has not refused its orders: its guest failed.
const REFUSAL_TIME: Duration = Duration::from_secs(5);
/// Verdicts that are kept; the oldest go first.
const MAX_VERDICTS: usize = 64;
const DEVICE: &str = "/dev/kvm";
/// The size of a probe guest.
const PROBE_VCPUS: u32 = 1;
const PROBE_MEMORY_MIB: u32 = 256;

/// A driver's way to run a probe guest under KVM.
#[async_trait]
pub(crate) trait Prober: Sync {
    /// The VMM's name and version, in full: a verdict holds for this one only.
    fn vmm(&self) -> String;

    /// How long the guest may take: the longer, the more depends on it.
    fn deadline(&self) -> Duration;

    /// Starts a VMM with the guest. Its working directory is `dir`, its console goes to
    /// `console.log` there and whatever it says to `vmm.log`.
    async fn start(
        &self,
        guest: &ProbeGuest,
        size: ProbeSize,
        dir: &Path,
    ) -> Result<Held, VmmError>;
}

/// How large a probe guest is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeSize {
    pub(crate) vcpus: Vcpus,
    pub(crate) memory: MemoryMib,
}

/// All that a verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    kernel_sha256: String,
    vmm: String,
    host_kernel: String,
    cpu: String,
}

/// What a probe showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) runs: bool,
    /// In words, with what was seen.
    pub(crate) reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    verdict: Verdict,
}

/// Verdicts, learned and remembered.
#[derive(Debug)]
pub(crate) struct Kvm {
    dir: PathBuf,
    device: PathBuf,
    /// By kernel path, for launches.
    learned: Mutex<HashMap<PathBuf, Verdict>>,
    probing: Arc<tokio::sync::Mutex<()>>,
}

impl Kvm {
    pub(crate) fn new(cache_dir: &Path) -> Self {
        Self {
            dir: cache_dir.to_owned(),
            device: DEVICE.into(),
            learned: Mutex::default(),
            probing: Arc::default(),
        }
    }

    /// Whether guests of this kernel run under KVM, and how that is known; `None` before any probe.
    pub(crate) fn verdict_for(&self, kernel: &Path) -> Option<Verdict> {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.get(kernel).cloned()
    }

    /// Learns whether guests of this kernel run under KVM.
    pub(crate) async fn learn(&self, vmm: &dyn Prober, guest: &ProbeGuest) -> Finding {
        let _one_at_a_time = self.probing.lock().await;
        let verdict = match self.judge(vmm, guest).await {
            Ok(verdict) => verdict,
            Err(error) => {
                Verdict { runs: false, reason: format!("KVM could not be probed: {error}") }
            }
        };
        let finding = finding(&verdict);
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        learned.insert(guest.kernel.image.clone(), verdict);
        finding
    }

    /// What is known already, for any kernel on this host as it is.
    pub(crate) fn recall(&self, vmm: &str) -> Option<Finding> {
        let entries = read_entries(&self.file()).ok()?;
        let here = key(vmm, "");
        let fits = |it: &&Entry| Key { kernel_sha256: String::new(), ..it.key.clone() } == here;
        entries.iter().rev().find(fits).map(|entry| finding(&entry.verdict))
    }

    async fn judge(&self, vmm: &dyn Prober, guest: &ProbeGuest) -> Result<Verdict, VmmError> {
        if let Err(error) = open(&self.device) {
            // Not kept: the next start may find the device.
            let reason = format!("{} does not open: {error}", self.device.display());
            return Ok(Verdict { runs: false, reason });
        }
        let key = key(&vmm.vmm(), &guest.kernel_sha256);
        let file = self.file();
        let _lock = lock(&self.dir).await?;
        let mut entries = read_entries(&file).map_err(VmmError::io("read", &file))?;
        if let Some(known) = entries.iter().find(|it| it.key == key) {
            return Ok(known.verdict.clone());
        }
        let (verdict, lasting) = self.probe(vmm, guest).await?;
        tracing::info!(runs = verdict.runs, reason = verdict.reason, "KVM probed");
        if !lasting {
            return Ok(verdict);
        }
        entries.push(Entry { key, verdict: verdict.clone() });
        let too_many = entries.len().saturating_sub(MAX_VERDICTS);
        entries.drain(..too_many);
        write_entries(&file, &entries).map_err(VmmError::io("write", &file))?;
        Ok(verdict)
    }

    /// Runs the probe guest to its end or the deadline. Also says whether the verdict lasts: a VMM
    /// that refuses what it is told or cannot read a file, which it does soon, tells nothing about KVM.
    async fn probe(
        &self,
        vmm: &dyn Prober,
        guest: &ProbeGuest,
    ) -> Result<(Verdict, bool), VmmError> {
        let dir = self.dir.join("kvm-probe");
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(VmmError::io("remove", &dir))?;
        }
        fs::create_dir_all(&dir).map_err(VmmError::io("create", &dir))?;
        let size = ProbeSize {
            vcpus: Vcpus::try_from(PROBE_VCPUS).map_err(bad_constant)?,
            memory: MemoryMib::try_from(PROBE_MEMORY_MIB).map_err(bad_constant)?,
        };
        // Never kept, so that it ends with this function, however that ends.
        let began = Instant::now();
        let held = vmm.start(guest, size, &dir).await?;
        let exit = timeout(vmm.deadline(), held.ended()).await.ok();
        let seen = read_tail(&dir.join("console.log")).await;
        let (name, limit) = (vmm.vmm(), vmm.deadline());
        let verdict = judge(&name, limit, &seen, exit, &tail_lines(&dir.join("vmm.log")).await);
        drop(held);
        fs::remove_dir_all(&dir).map_err(VmmError::io("remove", &dir))?;
        let failed = matches!(exit, Some(VmmExit::Code(code)) if code != 0);
        let lasting = verdict.runs || !failed || began.elapsed() > REFUSAL_TIME;
        Ok((verdict, lasting))
    }

    fn file(&self) -> PathBuf {
        self.dir.join("kvm-verdicts.json")
    }
}

/// The verdict on what a probe left. Pure.
fn judge(
    vmm: &str,
    limit: Duration,
    console: &str,
    exit: Option<VmmExit>,
    log: &[String],
) -> Verdict {
    let marker = console.lines().find_map(|line| match ConsoleLine::parse(line) {
        Some(ConsoleLine::Probe { uptime_ms }) => Some(uptime_ms),
        _ => None,
    });
    if let Some(uptime_ms) = marker {
        return Verdict {
            runs: true,
            reason: format!("a probe guest came up under KVM in {uptime_ms} ms ({vmm})"),
        };
    }
    let said = log.last().map(|line| format!(": {line}")).unwrap_or_default();
    let reason = match exit {
        Some(exit) => format!("under KVM {vmm} {exit} before the probe guest came up{said}"),
        None => {
            format!("under KVM the probe guest did not come up within {} s{said}", limit.as_secs())
        }
    };
    Verdict { runs: false, reason }
}

fn finding(verdict: &Verdict) -> Finding {
    if verdict.runs {
        return Finding::ok(CHECK, verdict.reason.clone(), WHY);
    }
    let remedy = "use a host with working (nested) virtualization; until then guests run under \
                  QEMU's software emulation";
    Finding::warn(CHECK, verdict.reason.clone(), WHY, remedy)
}

/// The finding where nothing is known.
pub(crate) fn unprobed(reason: &str) -> Finding {
    Finding::warn(CHECK, reason, WHY, "build a template: its kernel is what is probed")
}

fn open(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

/// The host's CPU, as far as a guest can see it.
pub(crate) fn host_cpu() -> String {
    cpu_fields(&["vendor_id", "cpu family", "model\t", "stepping", "model name"])
}

/// Fields of the first CPU in `/proc/cpuinfo`, see proc(5).
fn cpu_fields(names: &[&str]) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &&str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("", |it| it.1.trim())
    };
    names.iter().map(field).collect::<Vec<_>>().join("/")
}

fn key(vmm: &str, kernel_sha256: &str) -> Key {
    let cpu = cpu_fields(&["model name", "cpu family", "model", "stepping", "microcode"]);
    Key {
        kernel_sha256: kernel_sha256.to_owned(),
        vmm: vmm.to_owned(),
        host_kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpu,
    }
}

/// Held while probing, so that two servers on one machine do not probe at once.
async fn lock(dir: &Path) -> Result<File, VmmError> {
    let path = dir.join("kvm-probe.lock");
    let dir = dir.to_owned();
    let take = move || {
        fs::create_dir_all(&dir)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("kvm-probe.lock"))?;
        file.lock()?;
        Ok(file)
    };
    let taken = tokio::task::spawn_blocking(take).await;
    taken
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        .map_err(VmmError::io("lock", path))
}

fn read_entries(file: &Path) -> io::Result<Vec<Entry>> {
    match fs::read(file) {
        // A cache that cannot be read is a cache that is empty.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn write_entries(file: &Path, entries: &[Entry]) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(entries)?)?;
    fs::rename(new, file)
}

fn bad_constant(why: String) -> VmmError {
    VmmError::BadValue { value: why, why: "a constant is out of its bounds" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_probe_line_proves_that_guests_run() {
        let came_up = judge(
            "Qemu 7",
            DEADLINE,
            "noise\r\naetherium-init: probe uptime_ms=390\r\n",
            Some(VmmExit::Code(0)),
            &[],
        );
        assert!(came_up.runs && came_up.reason.contains("390 ms"), "{came_up:?}");
        let silent = judge("Qemu 7", DEADLINE, "", Some(VmmExit::Code(0)), &[]);
        assert!(!silent.runs, "{silent:?}");
    }

    #[test]
    fn a_failed_probe_says_what_it_saw() {
        let log = ["qemu: error: failed to set MSR 0x10a to 0x69".to_owned()];
        let aborted = judge("Qemu 7", DEADLINE, "", Some(VmmExit::Signal(6)), &log);
        assert!(
            aborted.reason.contains("signal 6") && aborted.reason.contains("MSR"),
            "{aborted:?}"
        );
        let slow = judge("Qemu 7", DEADLINE, "Probing EDD", None, &[]);
        assert!(!slow.runs && slow.reason.contains("within 6 s"), "{slow:?}");
    }

    /// A VMM that counts its runs, prints `line` where the guest's console goes, and exits.
    struct Counting {
        line: &'static str,
        code: i32,
        runs: PathBuf,
    }

    #[async_trait]
    impl Prober for Counting {
        fn vmm(&self) -> String {
            "a VMM that counts".to_owned()
        }

        fn deadline(&self) -> Duration {
            DEADLINE
        }

        async fn start(&self, _: &ProbeGuest, _: ProbeSize, dir: &Path) -> Result<Held, VmmError> {
            let script = format!(
                "echo run >>{}; echo '{}' >console.log; exit {}",
                self.runs.display(),
                self.line,
                self.code
            );
            let spawn = crate::spawn::Spawn {
                role: crate::Role::Vmm,
                vm_id: aetherium_model::VmId::new(),
                run_dir: dir,
                program: Path::new("/bin/sh"),
                args: vec!["-c".into(), script.into()],
                log: &dir.join("vmm.log"),
                stdout: None,
                inherit: None,
                bind: None,
            };
            spawn.start()
        }
    }

    fn counting(dir: &Path, line: &'static str) -> Counting {
        Counting { line, code: 0, runs: dir.join("runs") }
    }

    fn probe_guest(dir: &Path, sha256: &str) -> ProbeGuest {
        ProbeGuest {
            kernel: crate::GuestKernel {
                image: dir.join("kernel"),
                elf: None,
                facts: aetherium_model::kernel::KernelFacts {
                    release: "6.12".to_owned(),
                    format: aetherium_model::template::KernelFormat::BzImage,
                    needs_bytes: 0,
                    config: None,
                },
                extra_args: Vec::new(),
                modules: Vec::new(),
                cpu_template: None,
            },
            kernel_sha256: sha256.to_owned(),
            initrd: dir.join("initrd"),
        }
    }

    fn runs(dir: &Path) -> usize {
        fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
    }

    /// A memory of verdicts whose device always opens.
    fn kvm(dir: &Path) -> Kvm {
        Kvm { device: "/dev/null".into(), ..Kvm::new(&dir.join("cache")) }
    }

    #[tokio::test]
    async fn a_kernel_is_probed_once_even_by_many_at_once_and_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let vmm = counting(dir, "aetherium-init: probe uptime_ms=7");
        let guest = probe_guest(dir, "aa");
        assert_eq!(kvm(dir).verdict_for(&guest.kernel.image), None, "before any probe");

        let (one, other) = (kvm(dir), kvm(dir));
        let found = tokio::join!(
            one.learn(&vmm, &guest),
            one.learn(&vmm, &guest),
            other.learn(&vmm, &guest)
        );
        assert_eq!(runs(dir), 1);
        assert_eq!((&found.0, &found.0), (&found.1, &found.2));
        assert_eq!(found.0.verdict, aetherium_model::finding::Verdict::Ok, "{:?}", found.0);
        assert!(one.verdict_for(&guest.kernel.image).unwrap().runs);
        assert_eq!(kvm(dir).recall(&vmm.vmm()), Some(found.0));

        kvm(dir).learn(&vmm, &probe_guest(dir, "bb")).await;
        assert_eq!(runs(dir), 2, "another kernel needs a probe of its own");
    }

    #[tokio::test]
    async fn the_reason_why_a_kernel_does_not_come_up_under_kvm_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let vmm = counting(dir, "nothing of note");
        let guest = probe_guest(dir, "aa");
        let memory = kvm(dir);
        let finding = memory.learn(&vmm, &guest).await;
        assert_eq!(finding.verdict, aetherium_model::finding::Verdict::Warn);
        let verdict = memory.verdict_for(&guest.kernel.image).unwrap();
        assert_eq!((verdict.runs, &verdict.reason), (false, &finding.found));
        assert_eq!(kvm(dir).learn(&vmm, &guest).await, finding, "from the file");
        assert_eq!(runs(dir), 1);
    }

    #[tokio::test]
    async fn a_vmm_that_refuses_to_start_is_no_verdict_to_keep() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let vmm = Counting { code: 1, ..counting(dir, "nothing") };
        let finding = kvm(dir).learn(&vmm, &probe_guest(dir, "aa")).await;
        assert!(finding.found.contains("code 1"), "{finding:?}");
        assert_eq!(kvm(dir).recall(&vmm.vmm()), None);
    }

    #[tokio::test]
    async fn without_the_device_nothing_is_probed_and_nothing_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let vmm = counting(dir, "aetherium-init: probe uptime_ms=7");
        let memory = Kvm { device: dir.join("none"), ..kvm(dir) };
        let finding = memory.learn(&vmm, &probe_guest(dir, "aa")).await;
        assert!(finding.found.contains("does not open"), "{finding:?}");
        assert_eq!((runs(dir), kvm(dir).recall(&vmm.vmm())), (0, None));
    }
}
