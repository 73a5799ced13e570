//! The catalogue of stable codes, and [`Fault`]: what happened, with which value, and what to do.
//!
//! A code never changes its meaning and is never reused. It appears in API problems, in the
//! termination reason of a VM, and in the outcome of tasks, prompts and executions.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+) => {
        /// A stable, machine-readable name for what happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])+ #[serde(rename = $text)] $variant,)+ }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as it appears in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What the code means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

codes! {
    // Requests.
    /// The request has an unknown field or a value that is not allowed.
    InvalidRequest = "invalid_request",
    /// The request could not be read: its body is not JSON, or did not arrive whole.
    MalformedRequest = "malformed_request",
    /// The request body is of a type that this route does not take.
    UnsupportedMediaType = "unsupported_media_type",
    /// No API key was given, or it is not a known one.
    Unauthorized = "unauthorized",
    /// The key is a known one, but may not do this.
    Forbidden = "forbidden",
    /// There is no such thing, or no such route.
    NotFound = "not_found",
    /// The route exists, but not with this method.
    MethodNotAllowed = "method_not_allowed",
    /// The thing is in a state in which this cannot be done.
    Conflict = "conflict",
    /// The Idempotency-Key was used before with another request.
    IdempotencyMismatch = "idempotency_mismatch",
    /// The request body is larger than allowed.
    PayloadTooLarge = "payload_too_large",
    /// A bounded queue is full; try again later.
    Busy = "busy",
    /// No worker can take it now.
    NoCapacity = "no_capacity",
    /// A limit of the project is reached; the detail names it.
    QuotaExceeded = "quota_exceeded",
    /// A part that the request needs does not answer now.
    Unavailable = "unavailable",
    /// It did not finish within its deadline.
    DeadlineExceeded = "deadline_exceeded",
    /// A defect in Aetherium; the log has the details under the request id.
    Internal = "internal",

    // Why a VM failed.
    /// The guest kernel panicked for a reason that no narrower code names.
    KernelPanic = "kernel_panic",
    /// The guest found no block device that carries its root filesystem.
    RootNotFound = "root_not_found",
    /// The root device is there, but its filesystem could not be mounted.
    RootMountFailed = "root_mount_failed",
    /// The writable overlay disk could not be found or mounted.
    OverlayFailed = "overlay_failed",
    /// The kernel found no program to run as init.
    InitMissing = "init_missing",
    /// The guest's init ended, which panics the kernel.
    InitExited = "init_exited",
    /// The guest ran out of memory while booting.
    GuestOutOfMemory = "guest_out_of_memory",
    /// The VMM cannot load the guest's kernel.
    KernelUnsupported = "kernel_unsupported",
    /// KVM refused to make or to run the guest.
    KvmFailed = "kvm_failed",
    /// The guest has no virtio socket, by which alone its agent was to be reached.
    VsockMissing = "vsock_missing",
    /// The guest started another init than the agent, and the agent did not come.
    AgentMissing = "agent_missing",
    /// The guest booted, but its agent did not answer within the deadline.
    AgentSilent = "agent_silent",
    /// The guest did not get as far as its init within the deadline.
    BootTimeout = "boot_timeout",
    /// The guest ended for a reason its console does not tell.
    BootFailedUnknown = "boot_failed_unknown",
    /// What was asked for cannot boot; nothing was started.
    CannotBoot = "cannot_boot",
    /// The VMM program could not be started, or refused its configuration.
    VmmStartFailed = "vmm_start_failed",
    /// The VMM ended by itself while the guest was running.
    VmmExited = "vmm_exited",
    /// The VMM was killed by a signal from outside.
    VmmKilled = "vmm_killed",
    /// The agent of a running VM no longer answers.
    AgentLost = "agent_lost",
    /// A file of the template is missing or does not match its digest.
    TemplateBroken = "template_broken",
    /// The host has no room for the VM's disk.
    DiskFull = "disk_full",
    /// The VM's network could not be made on this host, or did not come up in the guest.
    NetworkFailed = "network_failed",
    /// No driver on this host passes its preflight.
    DriverUnavailable = "driver_unavailable",
    /// The template's start command did not start, or its ready command did not succeed in time.
    NotReady = "not_ready",
    /// The worker restarted and could not take the VM over.
    NotAdopted = "not_adopted",
    /// Its worker's lease ran out: the worker is gone, or was cut off and ended its VMs itself.
    WorkerLost = "worker_lost",

    // Why a VM stopped.
    /// Somebody asked for it.
    Requested = "requested",
    /// The worker was told to stop.
    Drained = "drained",
    /// It was unused for its idle timeout.
    Idle = "idle",
    /// Its memory was kept for the workspace's next VM, which goes on with it.
    Hibernated = "hibernated",
    /// Its time to live was over.
    Expired = "expired",
    /// The guest shut itself down.
    GuestShutdown = "guest_shutdown",

    // How work ended.
    /// It was cancelled on request.
    Cancelled = "cancelled",
    /// It may have started when its worker or VM went away; it was not run again.
    Interrupted = "interrupted",
    /// The guest has no such program.
    CommandNotFound = "command_not_found",
    /// The guest has the program, but its user may not run it.
    CommandNotExecutable = "command_not_executable",
    /// The command could not be started in the guest for another reason, which the detail names.
    SpawnFailed = "spawn_failed",
    /// A step of a template's recipe, or of a workspace's preparation, failed; the detail names it.
    StepFailed = "step_failed",
    /// The VM that the work was for is gone.
    VmGone = "vm_gone",
    /// It was tried as often as allowed and failed each time.
    RetriesExhausted = "retries_exhausted",
    /// A secret that the work asks for does not exist.
    SecretMissing = "secret_missing",
    /// A secret cannot be decrypted: its master key is not known here, or it was altered.
    SecretUnreadable = "secret_unreadable",
    /// A secret could not be handed to the guest.
    SecretNotDelivered = "secret_not_delivered",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a known code"))
    }
}

/// What happened, with which value, and what to do about it.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, thiserror::Error,
)]
#[error("{code}: {detail}{}{remedy}", if remedy.is_empty() { "" } else { " — " })]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// What happened, with the values that matter.
    pub detail: String,
    /// What to do about it; empty where nothing needs doing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// The lines that decided the verdict, such as those of a guest's console.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
}

impl Fault {
    /// A fault without a remedy.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), remedy: String::new(), evidence: Vec::new() }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Adds the lines that decided the verdict.
    #[must_use]
    pub fn evidence(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(lines);
        self
    }

    /// A defect of our own: the detail says what went wrong, for the log.
    pub fn internal(detail: impl fmt::Display) -> Self {
        Self::new(Code::Internal, detail.to_string())
            .remedy("report it with the server's log of this moment")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_from_its_text_and_has_a_meaning() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse::<Code>(), Ok(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!(code.meaning().trim().ends_with('.'), "{code}: {:?}", code.meaning());
        }
    }

    #[test]
    fn a_fault_reads_as_what_happened_and_what_to_do() {
        let fault = Fault::new(Code::RootNotFound, "no disk has UUID 1234").remedy("rebuild it");
        assert_eq!(fault.to_string(), "root_not_found: no disk has UUID 1234 — rebuild it");
    }
}
