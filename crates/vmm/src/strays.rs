//! Processes of ours that a record may have lost: found by the marks in their environment.

use crate::{
    ProcessRef, Role, VmmError,
    firecracker::jail,
    held::{MARK_ROLE, MARK_RUN_DIR, MARK_VM, kill_exactly, reap_exactly},
    procfs::{self, Stat},
    spawn::role_mark,
};
use aetherium_model::VmId;
use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};

/// How often a dying process is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The living processes of one VM, as their environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The VM they belong to.
    pub vm_id: VmId,
    /// The processes.
    pub processes: Vec<ProcessRef>,
}

/// Every living process that belongs to a VM whose run directory is `run_root`, an absolute path, or is one
/// of that name in it; by VM. It reads `/proc`, which blocks for some milliseconds: call it off the async threads.
///
/// Whether they are strays is for the caller to say, who knows which VMs there should be.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn strays(run_root: &Path) -> Result<Vec<Stray>, VmmError> {
    let mut found: BTreeMap<VmId, Vec<ProcessRef>> = BTreeMap::new();
    for Marked { vm_id, run_dir, process } in Scan::now()?.marked {
        if run_dir.starts_with(run_root) {
            found.entry(vm_id).or_default().push(process);
        }
    }
    for (vm_id, process) in jailed(run_root)? {
        let known = found.entry(vm_id).or_default();
        if !known.contains(&process) {
            known.push(process);
        }
    }
    Ok(found.into_iter().map(|(vm_id, processes)| Stray { vm_id, processes }).collect())
}

impl Stray {
    /// Kills these processes and whatever else carries their VM's mark, and reaps those that are
    /// this process's own.
    ///
    /// # Errors
    /// [`VmmError::StillAlive`] when one has not ended by the deadline.
    pub async fn kill(&self, deadline: Duration) -> Result<(), VmmError> {
        let until = Instant::now() + deadline;
        for process in &self.processes {
            kill_exactly(process.pid, process.start_ticks)
                .map_err(VmmError::io("kill", format!("/proc/{}", process.pid)))?;
        }
        loop {
            let alive: Vec<ProcessRef> =
                self.processes.iter().filter(|it| still_lives(it)).copied().collect();
            if alive.is_empty() {
                break;
            }
            if Instant::now() >= until {
                return Err(VmmError::StillAlive { processes: alive, waited: deadline });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.processes.iter().copied().for_each(reap_exactly);
        kill_all_of(self.vm_id, None, until.saturating_duration_since(Instant::now())).await
    }
}

/// Whether the very process still runs. One that cannot be looked at is taken to live.
fn still_lives(process: &ProcessRef) -> bool {
    match procfs::stat(process.pid) {
        Ok(Some(now)) => now.start_ticks == process.start_ticks && now.is_alive(),
        Ok(None) => false,
        Err(_) => true,
    }
}

/// Processes in a jail of `run_root`'s own, or of a VM's directory in it. The jailer clears their environment, so they carry no mark:
/// their arguments say which VM they would be, and their root directory proves it.
fn jailed(run_root: &Path) -> Result<Vec<(VmId, ProcessRef)>, VmmError> {
    let all = procfs::all().map_err(VmmError::io("read", "/proc"))?;
    Ok(all
        .into_iter()
        .filter(|stat| stat.is_alive())
        .filter_map(|stat| {
            let arguments = procfs::arguments(stat.pid);
            let program = Path::new(arguments.first()?).file_name()?.to_owned();
            let id = arguments.windows(2).find(|pair| pair[0] == "--id")?[1].clone();
            let vm_id: VmId = jail::vm_id(&id)?;
            let jail = Path::new(&program).join(&id).join("root");
            let roots = [run_root.join(vm_id.to_string()).join(&jail), run_root.join(&jail)];
            let process =
                ProcessRef { role: Role::Vmm, pid: stat.pid, start_ticks: stat.start_ticks };
            let is_in = roots.iter().any(|root| procfs::has_root(stat.pid, root));
            is_in.then_some((vm_id, process))
        })
        .collect())
}

/// A process with a VM's mark.
struct Marked {
    vm_id: VmId,
    run_dir: PathBuf,
    process: ProcessRef,
}

/// What `/proc` said at one time.
struct Scan {
    /// Every process.
    all: Vec<Stat>,
    /// Those that live and carry a mark, but for this one.
    marked: Vec<Marked>,
}

impl Scan {
    fn now() -> Result<Self, VmmError> {
        let own = std::process::id();
        let all = procfs::all().map_err(VmmError::io("read", "/proc"))?;
        let living = all.iter().filter(|stat| stat.is_alive() && stat.pid != own);
        let marked = living.filter_map(Marked::read).collect();
        Ok(Self { all, marked })
    }

    /// A scan that began after this call did. Callers that wait at once share one: otherwise each of a
    /// thousand VMs that end together would read of the processes of all others.
    async fn shared() -> Result<Arc<Self>, VmmError> {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        static LAST: Mutex<Option<(u64, Arc<Scan>)>> = Mutex::const_new(None);
        let before = BEGUN.load(Ordering::SeqCst);
        let mut last = LAST.lock().await;
        if let Some((number, scan)) = &*last
            && *number > before
        {
            return Ok(Arc::clone(scan));
        }
        let number = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
        let scan = tokio::task::spawn_blocking(Self::now).await;
        let scan = scan.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let scan = Arc::new(scan);
        *last = Some((number, Arc::clone(&scan)));
        Ok(scan)
    }
}

impl Marked {
    fn read(stat: &Stat) -> Option<Self> {
        let environ = procfs::environ(stat.pid);
        let vm_id = procfs::variable(&environ, MARK_VM)?.parse().ok()?;
        let run_dir = procfs::variable(&environ, MARK_RUN_DIR)?.into();
        let role = procfs::variable(&environ, MARK_ROLE)?;
        let role = [Role::Vmm, Role::VsockHelper, Role::Agent]
            .into_iter()
            .find(|it| role_mark(*it) == role)?;
        let process = ProcessRef { role, pid: stat.pid, start_ticks: stat.start_ticks };
        Some(Self { vm_id, run_dir, process })
    }
}

/// Kills everything that carries `vm_id`'s mark, and the family of `leader` where its number is
/// known to be its own still, until nothing of it lives. The leader itself is spared if given: its
/// holder kills and reaps it.
pub(crate) async fn kill_all_of(
    vm_id: VmId,
    leader: Option<u32>,
    deadline: Duration,
) -> Result<(), VmmError> {
    let until = Instant::now() + deadline;
    let mut killed = Vec::new();
    loop {
        let alive = kill_once(&*Scan::shared().await?, vm_id, leader)?;
        if alive.is_empty() {
            killed.into_iter().for_each(reap_exactly);
            return Ok(());
        }
        killed.extend(alive.iter().copied());
        if Instant::now() >= until {
            return Err(VmmError::StillAlive { processes: alive, waited: deadline });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Kills what the scan has of it. A number that means another process by now is left alone.
fn kill_once(scan: &Scan, vm_id: VmId, leader: Option<u32>) -> Result<Vec<ProcessRef>, VmmError> {
    let marked = scan.marked.iter().filter(|it| it.vm_id == vm_id);
    let mut targets: Vec<ProcessRef> = marked.map(|it| it.process).collect();
    if let Some(leader) = leader {
        let known: HashSet<u32> = targets.iter().map(|it| it.pid).collect();
        let unknown = family(&scan.all, leader).into_iter().filter(|it| !known.contains(&it.pid));
        targets.extend(unknown.map(|it| ProcessRef {
            role: Role::Agent,
            pid: it.pid,
            start_ticks: it.start_ticks,
        }));
    }
    targets.retain(|it| Some(it.pid) != leader);
    for target in &targets {
        kill_exactly(target.pid, target.start_ticks).map_err(VmmError::io("kill", "a process"))?;
    }
    Ok(targets)
}

/// The living members of the leader's session, and its descendants whatever their session.
fn family(all: &[Stat], leader: u32) -> Vec<Stat> {
    let mut members: HashSet<u32> =
        all.iter().filter(|it| it.session == Some(leader)).map(|it| it.pid).collect();
    members.insert(leader);
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|it| members.contains(&it.parent) && !members.contains(&it.pid))
            .map(|it| it.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        members.extend(more);
    }
    all.iter()
        .filter(|it| it.pid != leader && it.is_alive() && members.contains(&it.pid))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, session: u32, state: char) -> Stat {
        Stat {
            pid,
            state,
            parent,
            session: Some(session),
            cpu_ticks: 0,
            threads: 1,
            start_ticks: 1,
        }
    }

    #[tokio::test]
    async fn who_asks_at_once_shares_a_scan_and_who_asks_later_gets_a_new_one() {
        let scans = futures::future::join_all((0..50).map(|_| Scan::shared())).await;
        let scans: Vec<Arc<Scan>> = scans.into_iter().map(Result::unwrap).collect();
        let different: HashSet<*const Scan> = scans.iter().map(Arc::as_ptr).collect();
        // One that began with the first of them, and one for all who came while it ran. Other tests
        // may have had one begun in between.
        assert!(different.len() <= 3, "{}", different.len());
        let later = Scan::shared().await.unwrap();
        assert!(!different.contains(&Arc::as_ptr(&later)));
    }

    #[test]
    fn a_family_is_the_session_and_all_descendants_and_nobody_else() {
        let all = [
            process(1, 0, 1, 'S'),
            process(10, 1, 10, 'S'),
            process(11, 10, 10, 'S'),
            process(12, 11, 12, 'S'),
            process(13, 12, 12, 'R'),
            process(14, 1, 10, 'S'),
            process(15, 10, 10, 'Z'),
            process(20, 1, 20, 'S'),
        ];
        let pids: Vec<u32> = family(&all, 10).iter().map(|it| it.pid).collect();
        assert_eq!(pids, [11, 12, 13, 14]);
    }
}
