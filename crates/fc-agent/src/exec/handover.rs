//! Processes on their way from one program of the agent to the next.
//!
//! ```text
//! freeze (supervisors stop where they are) ──► save ──exec──► restore ──► supervise
//!                                                └──exec failed──► thaw
//! ```
//!
//! What is saved are plain values and the numbers of descriptors, which stay open over the exec.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use aetherium_agent_proto::{ExitReport, ProcessInfo, StreamOffsets};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cgroup::Cgroup;
use super::children::{Children, Phase};
use super::descriptor::Descriptor;
use super::process::{Place, Process, Stdin};
use super::supervise::{Drain, Output, Supervisor, Times};

/// One process. The bytes its log holds are kept apart.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedProcess {
    info: ProcessInfo,
    /// Where what is held of its output begins.
    start: StreamOffsets,
    /// How much of it there is.
    held: StreamOffsets,
    /// What its starter had read, if it has one that is expected back.
    floor: Option<StreamOffsets>,
    exit: Option<ExitReport>,
    /// What a process has that is still followed.
    followed: Option<SavedRun>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRun {
    ends: SavedEnds,
    cgroup: Option<PathBuf>,
    elapsed_ms: u64,
    limit_in_ms: Option<u64>,
    grace_ms: u64,
    kill_in_ms: Option<u64>,
    timed_out: bool,
    abandoned: bool,
    /// The whole group is to end with it.
    ending: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedEnds {
    Pipes { stdin: Option<RawFd>, stdout: Option<RawFd>, stderr: Option<RawFd> },
    Terminal(Option<RawFd>),
}

/// Every supervisor, stopped between two steps.
pub(crate) struct Frozen {
    supervisors: Vec<Supervisor>,
}

/// What has been saved, in the order in which it is to be restored.
pub(crate) struct Saved {
    pub(crate) processes: Vec<SavedProcess>,
    /// Their logs' bytes, one after the other.
    pub(crate) output: Vec<Bytes>,
    /// What must stay open.
    pub(crate) descriptors: Vec<RawFd>,
}

impl Children {
    /// Tells callers whether they are to leave and come back.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Stops every supervisor. Nothing is read from any process from here on.
    pub(crate) async fn freeze(&self) -> Frozen {
        self.set_phase(Phase::Frozen);
        let mut tasks =
            std::mem::take(&mut *self.supervisors.lock().unwrap_or_else(PoisonError::into_inner));
        let mut supervisors = Vec::new();
        while let Some(stopped) = tasks.join_next().await {
            supervisors.extend(stopped.ok().flatten().map(|supervisor| *supervisor));
        }
        for supervisor in &mut supervisors {
            supervisor.take_pending_exit();
        }
        Frozen { supervisors }
    }

    /// Lets the supervisors go on.
    pub(crate) fn thaw(&self, frozen: Frozen) {
        self.set_phase(Phase::Serving);
        frozen.supervisors.into_iter().for_each(|supervisor| self.supervise(supervisor));
    }

    /// Writes everything down.
    pub(crate) fn save(&self, frozen: &Frozen) -> Saved {
        let table = self.table();
        let mut saved =
            Saved { processes: Vec::new(), output: Vec::new(), descriptors: Vec::new() };
        let ended = table.ended.iter().map(|(_, process)| (process, false));
        let running = table.running.values().map(|child| (&child.process, child.ending));
        for (process, ending) in ended.chain(running) {
            let followed = frozen.supervisors.iter().find(|it| Arc::ptr_eq(&it.process, process));
            let followed = followed.map(|it| it.save(ending, &mut saved.descriptors));
            saved.processes.push(process.save(followed, &mut saved.output));
        }
        saved
    }

    /// Takes over the processes of the program before. `output` gives the saved bytes back.
    pub(crate) fn restore(
        self: &Arc<Self>,
        processes: Vec<SavedProcess>,
        mut output: Bytes,
    ) -> std::io::Result<()> {
        let now = Instant::now();
        for saved in processes {
            let SavedProcess { info, start, held, floor, exit, followed } = saved;
            let mut take = |len: u64| {
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(output.len());
                output.split_to(len)
            };
            let mut log = self.new_log();
            let (stdout, stderr) = (take(held.stdout), take(held.stderr));
            log.refill(start, [stdout, stderr], floor);
            let (stdin, outputs) = match followed.as_ref().map(|run| &run.ends) {
                Some(ends) => ends.open()?,
                None => (Stdin::Closed, Output::adopt(None, None)),
            };
            let stdin = if exit.is_some() { Stdin::Closed } else { stdin };
            let until = now + super::RETURN_TIME;
            let place = floor.map_or(Place::Empty, |_| Place::Kept { until });
            let process = Process::restore(info, log, stdin, place, exit, followed.is_none());
            let process = Arc::new(process);
            let mut table = self.table();
            let running = followed.as_ref().filter(|_| exit.is_none());
            let ended = match running {
                Some(run) => table.enter(process.clone(), run.ending),
                None => {
                    table.ended.push_back((now, process.clone()));
                    oneshot::channel().1
                }
            };
            drop(table);
            if let Some(run) = followed {
                self.supervise(Supervisor {
                    children: self.clone(),
                    process,
                    output: outputs,
                    exit: ended,
                    cgroup: run.cgroup.clone().map(Cgroup::adopt),
                    phase: self.phase(),
                    times: run.times(now),
                    drain: exit.map(|_| Drain::begin()),
                });
            }
        }
        Ok(())
    }
}

impl SavedRun {
    fn times(&self, now: Instant) -> Times {
        let ahead = |ms: Option<u64>| ms.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
        let elapsed = Duration::from_millis(self.elapsed_ms);
        Times {
            began: now.checked_sub(elapsed).unwrap_or(now),
            limit: ahead(self.limit_in_ms),
            grace: Duration::from_millis(self.grace_ms),
            kill_at: ahead(self.kill_in_ms),
            timed_out: self.timed_out,
            abandoned: self.abandoned,
        }
    }
}

impl SavedEnds {
    fn open(&self) -> std::io::Result<(Stdin, Output)> {
        let adopt = |fd: Option<RawFd>| fd.map(take_over).transpose();
        match *self {
            Self::Pipes { stdin, stdout, stderr } => {
                let stdin = adopt(stdin)?.map_or(Stdin::Closed, Stdin::Pipe);
                let (stdout, stderr) = (adopt(stdout)?, adopt(stderr)?);
                Ok((stdin, Output::adopt(stdout.map(Arc::new), stderr.map(Arc::new))))
            }
            Self::Terminal(fd) => match adopt(fd)?.map(Arc::new) {
                Some(end) => Ok((Stdin::Terminal(end.clone()), Output::adopt(Some(end), None))),
                None => Ok((Stdin::Closed, Output::adopt(None, None))),
            },
        }
    }
}

fn take_over(fd: RawFd) -> std::io::Result<Descriptor> {
    // SAFETY: the program before left it open for this one and named it once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Descriptor::new(fd)
}

impl Supervisor {
    /// An end that the reaper has told and nobody has heard.
    fn take_pending_exit(&mut self) {
        if self.drain.is_none()
            && let Ok(exit) = self.exit.try_recv()
        {
            self.begin_drain(&exit);
        }
    }

    fn save(&self, ending: bool, descriptors: &mut Vec<RawFd>) -> SavedRun {
        let now = Instant::now();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let ahead = |at: Option<Instant>| at.map(|at| millis(at.saturating_duration_since(now)));
        let mut keep = |end: Option<&Descriptor>| {
            let fd = end?.get().as_raw_fd();
            descriptors.push(fd);
            Some(fd)
        };
        let stdout = keep(self.output.stdout.as_deref());
        let ends = if self.process.has_terminal() {
            SavedEnds::Terminal(stdout)
        } else {
            let stderr = keep(self.output.stderr.as_deref());
            let stdin = self.process.with_stdin(|stdin| match stdin {
                Stdin::Pipe(pipe) => keep(Some(pipe)),
                Stdin::Terminal(_) | Stdin::Lent | Stdin::Closed => None,
            });
            SavedEnds::Pipes { stdin, stdout, stderr }
        };
        SavedRun {
            ends,
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.dir().to_owned()),
            elapsed_ms: millis(now.saturating_duration_since(self.times.began)),
            limit_in_ms: ahead(self.times.limit),
            grace_ms: millis(self.times.grace),
            kill_in_ms: ahead(self.times.kill_at),
            timed_out: self.times.timed_out,
            abandoned: self.times.abandoned,
            ending,
        }
    }
}

impl Process {
    fn save(&self, followed: Option<SavedRun>, output: &mut Vec<Bytes>) -> SavedProcess {
        let info = self.info();
        self.with_log(|log| {
            let mut held = StreamOffsets::default();
            let (start, [stdout, stderr]) = log.contents();
            for piece in stdout {
                held.stdout += piece.len() as u64;
                output.push(piece);
            }
            for piece in stderr {
                held.stderr += piece.len() as u64;
                output.push(piece);
            }
            let exit = info.exited;
            SavedProcess { info, start, held, floor: log.floor(), exit, followed }
        })
    }
}
