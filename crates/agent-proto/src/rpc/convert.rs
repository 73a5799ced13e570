//! The ways between the wire's messages and this crate's types.

use super::wire;
use crate::{
    AgentTransport, ExecSpec, ExitReport, ExitStatus, Hello, Life, ProcessInfo, ProcessLimits,
    ProcessSelector, Program, ProtocolVersion, Stdio, StreamOffsets, Terminal, TerminalSize,
};

impl From<&Hello> for wire::HelloResponse {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol_major: hello.protocol.major,
            protocol_minor: hello.protocol.minor,
            agent_version: hello.agent_version.clone(),
            boot_id: hello.boot_id.clone(),
            is_init: hello.is_init,
            uptime_ms: hello.uptime_ms,
            started_uptime_ms: hello.started_uptime_ms,
            listening_uptime_ms: hello.listening_uptime_ms,
            transports: hello.transports.iter().map(ToString::to_string).collect(),
            generation: hello.generation,
            upgrade_failure: hello.upgrade_failure.clone(),
            ..Self::default()
        }
    }
}

impl From<wire::HelloResponse> for Hello {
    /// Transports this build does not know are left out.
    fn from(hello: wire::HelloResponse) -> Self {
        let transports = hello.transports.iter().filter_map(|it| AgentTransport::from_name(it));
        Self {
            protocol: ProtocolVersion { major: hello.protocol_major, minor: hello.protocol_minor },
            boot_id: hello.boot_id,
            is_init: hello.is_init,
            uptime_ms: hello.uptime_ms,
            started_uptime_ms: hello.started_uptime_ms,
            listening_uptime_ms: hello.listening_uptime_ms,
            transports: transports.collect(),
            agent_version: hello.agent_version,
            generation: hello.generation,
            upgrade_failure: hello.upgrade_failure,
        }
    }
}

impl From<ExecSpec> for wire::StartRequest {
    fn from(spec: ExecSpec) -> Self {
        let (argv, shell_line) = match spec.program {
            Program::Argv(argv) => (argv, false),
            Program::ShellLine(line) => (vec![line], true),
        };
        let (stdin, terminal) = match spec.stdio {
            Stdio::Output => (false, None),
            Stdio::InputAndOutput => (true, None),
            Stdio::Terminal(terminal) => (true, Some(wire::Terminal::from(terminal))),
        };
        let limits = (!spec.limits.is_none()).then(|| wire::ProcessLimits::from(spec.limits));
        Self {
            argv,
            shell_line,
            env: spec.env.into_iter().collect(),
            cwd: spec.cwd,
            user: spec.user,
            umask: spec.umask,
            nice: spec.nice,
            limits: limits.into(),
            timeout_ms: spec.timeout_ms,
            kill_grace_ms: spec.kill_grace_ms,
            stdin,
            terminal: terminal.into(),
            detached: spec.life == Life::Detached,
            tag: spec.tag,
            ..Self::default()
        }
    }
}

impl From<wire::StartRequest> for ExecSpec {
    fn from(request: wire::StartRequest) -> Self {
        let program = if request.shell_line {
            Program::ShellLine(request.argv.into_iter().next().unwrap_or_default())
        } else {
            Program::Argv(request.argv)
        };
        let stdio = match request.terminal.into_option() {
            Some(terminal) => Stdio::Terminal(terminal.into()),
            None if request.stdin => Stdio::InputAndOutput,
            None => Stdio::Output,
        };
        Self {
            program,
            env: request.env.into_iter().collect(),
            cwd: request.cwd,
            user: request.user,
            umask: request.umask,
            nice: request.nice,
            limits: request.limits.into_option().map(Into::into).unwrap_or_default(),
            timeout_ms: request.timeout_ms,
            kill_grace_ms: request.kill_grace_ms,
            stdio,
            life: if request.detached { Life::Detached } else { Life::Attached },
            tag: request.tag,
        }
    }
}

impl From<ProcessLimits> for wire::ProcessLimits {
    fn from(limits: ProcessLimits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            cpu_millis: limits.cpu_millis,
            ..Self::default()
        }
    }
}

impl From<wire::ProcessLimits> for ProcessLimits {
    fn from(limits: wire::ProcessLimits) -> Self {
        Self { memory_bytes: limits.memory_bytes, pids: limits.pids, cpu_millis: limits.cpu_millis }
    }
}

impl From<Terminal> for wire::Terminal {
    fn from(terminal: Terminal) -> Self {
        Self {
            size: wire::TerminalSize::from(terminal.size).into(),
            kind: terminal.kind,
            ..Self::default()
        }
    }
}

impl From<wire::Terminal> for Terminal {
    fn from(terminal: wire::Terminal) -> Self {
        let size = terminal.size.into_option().unwrap_or_default();
        Self { size: size.into(), kind: terminal.kind }
    }
}

impl From<TerminalSize> for wire::TerminalSize {
    fn from(size: TerminalSize) -> Self {
        Self { rows: size.rows.into(), cols: size.cols.into(), ..Self::default() }
    }
}

impl From<wire::TerminalSize> for TerminalSize {
    /// What is larger than any terminal can be is the largest.
    fn from(size: wire::TerminalSize) -> Self {
        let side = |chars| u16::try_from(chars).unwrap_or(u16::MAX);
        Self { rows: side(size.rows), cols: side(size.cols) }
    }
}

impl From<StreamOffsets> for wire::StreamOffsets {
    fn from(offsets: StreamOffsets) -> Self {
        Self { stdout: offsets.stdout, stderr: offsets.stderr, ..Self::default() }
    }
}

impl From<wire::StreamOffsets> for StreamOffsets {
    fn from(offsets: wire::StreamOffsets) -> Self {
        Self { stdout: offsets.stdout, stderr: offsets.stderr }
    }
}

impl From<ProcessSelector> for wire::ProcessSelector {
    fn from(selector: ProcessSelector) -> Self {
        use wire::__buffa::oneof::process_selector::Selector;
        let selector = match selector {
            ProcessSelector::Pid(pid) => Selector::Pid(pid),
            ProcessSelector::Tag(tag) => Selector::Tag(tag),
        };
        Self { selector: Some(selector), ..Self::default() }
    }
}

impl wire::ProcessSelector {
    /// The process meant; `None` when the message names none, or in a way this build does not know.
    #[must_use]
    pub fn meaning(self) -> Option<ProcessSelector> {
        use wire::__buffa::oneof::process_selector::Selector;
        Some(match self.selector? {
            Selector::Pid(pid) => ProcessSelector::Pid(pid),
            Selector::Tag(tag) => ProcessSelector::Tag(tag),
        })
    }
}

impl From<ProcessInfo> for wire::ProcessEntry {
    fn from(info: ProcessInfo) -> Self {
        Self {
            pid: info.pid,
            argv: info.argv,
            cwd: info.cwd,
            user: info.user,
            tag: info.tag,
            started_uptime_ms: info.started_uptime_ms,
            detached: info.life == Life::Detached,
            terminal: info.terminal,
            exited: info.exited.as_ref().map(wire::Exited::from).into(),
            ..Self::default()
        }
    }
}

impl From<wire::ProcessEntry> for ProcessInfo {
    fn from(entry: wire::ProcessEntry) -> Self {
        Self {
            pid: entry.pid,
            argv: entry.argv,
            cwd: entry.cwd,
            user: entry.user,
            tag: entry.tag,
            started_uptime_ms: entry.started_uptime_ms,
            life: if entry.detached { Life::Detached } else { Life::Attached },
            terminal: entry.terminal,
            exited: entry.exited.into_option().map(ExitReport::from),
        }
    }
}

impl From<&ExitReport> for wire::Exited {
    fn from(report: &ExitReport) -> Self {
        use wire::__buffa::oneof::exited::Status;
        let status = match report.status {
            ExitStatus::Code(code) => Some(Status::Code(code)),
            ExitStatus::Signal(signal) => Some(Status::Signal(signal)),
            ExitStatus::Timeout => None,
            // An older host knows the signal.
            ExitStatus::Oom => Some(Status::Signal(9)),
        };
        Self {
            status,
            timed_out: report.status == ExitStatus::Timeout,
            out_of_memory: report.status == ExitStatus::Oom,
            wall_ms: report.wall_ms,
            user_ms: report.user_ms,
            sys_ms: report.sys_ms,
            max_rss_kib: report.max_rss_kib,
            ..Self::default()
        }
    }
}

impl From<wire::Exited> for ExitReport {
    fn from(exited: wire::Exited) -> Self {
        use wire::__buffa::oneof::exited::Status;
        let status = match exited.status {
            _ if exited.out_of_memory => ExitStatus::Oom,
            _ if exited.timed_out => ExitStatus::Timeout,
            Some(Status::Code(code)) => ExitStatus::Code(code),
            Some(Status::Signal(signal)) => ExitStatus::Signal(signal),
            // Zero is not sent for a plain code.
            None => ExitStatus::Code(0),
        };
        Self {
            status,
            wall_ms: exited.wall_ms,
            user_ms: exited.user_ms,
            sys_ms: exited.sys_ms,
            max_rss_kib: exited.max_rss_kib,
        }
    }
}
