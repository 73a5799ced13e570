//! A guest's virtio socket without the host kernel's help: `vhost-device-vsock` beside QEMU.
//!
//! The helper offers the guest's ports behind a Unix socket of the host, spoken to as Firecracker's
//! is: `CONNECT <port>\n`, then `OK <n>\n`. It outlives its QEMU, so it is ours to end.

use crate::{Role, VmmError, diagnose::tail_lines, held::Held, spawn::Spawn};
use aetherium_model::VmId;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The helper's program.
pub(crate) const PROGRAM: &str = "vhost-device-vsock";

/// The context id that every guest has; 0 to 2 are reserved, see vsock(7). It is the same for all,
/// as each helper serves one guest, and as a snapshot then needs no rewriting.
const GUEST_CID: &str = "3";
/// How long the helper may take to listen.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often its socket is looked for: the helper has no way to say that it is ready.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The sockets of one helper.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    /// Where hosts reach the guest's ports.
    pub(crate) uds: PathBuf,
    /// Where QEMU finds the device.
    pub(crate) device: PathBuf,
}

impl Sockets {
    pub(crate) fn within(run_dir: &Path) -> Self {
        Self { uds: run_dir.join("vsock.sock"), device: run_dir.join("vhost.sock") }
    }
}

/// Starts a helper, and waits until QEMU can connect to it.
///
/// # Errors
/// Whatever keeps it from listening; it does not live then.
pub(crate) async fn start(
    program: &Path,
    vm_id: VmId,
    run_dir: &Path,
    sockets: &Sockets,
    log: &Path,
) -> Result<Held, VmmError> {
    let mut args: Vec<OsString> = vec!["--guest-cid".into(), GUEST_CID.into()];
    args.extend(["--uds-path".into(), sockets.uds.clone().into_os_string()]);
    args.extend(["--socket".into(), sockets.device.clone().into_os_string()]);
    let spawn = Spawn {
        role: Role::VsockHelper,
        vm_id,
        run_dir,
        program,
        args,
        log,
        stdout: None,
        inherit: None,
        bind: None,
    };
    let helper = spawn.start()?;
    let until = Instant::now() + DEADLINE;
    while !(sockets.device.exists() && sockets.uds.exists()) {
        if Instant::now() >= until {
            let log = tail_lines(log).await;
            return Err(VmmError::NotReady { program: program.to_owned(), waited: DEADLINE, log });
        }
        tokio::select! {
            exit = helper.ended() => {
                let log = tail_lines(log).await;
                return Err(VmmError::EndedEarly { program: program.to_owned(), exit, log });
            }
            () = sleep(LOOK_AGAIN) => {}
        }
    }
    Ok(helper)
}
