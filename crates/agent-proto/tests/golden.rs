//! The wire's bytes, pinned: a host must go on understanding guests of earlier releases.
//!
//! A changed line here is a changed protocol. New lines may be added; `UPDATE_GOLDEN=1` writes the
//! files anew, and the difference is then a matter of review.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use aetherium_agent_proto::config::{
    Disk, DiskSelector, EndsBy, FirstProcess, GuestNet, Mode, OnFatal, RootAccess, Transports,
};
use aetherium_agent_proto::line::{LineError, LineRequest, LineResponse, LineResult};
use aetherium_agent_proto::rpc::{OutgoingEvent, wire};
use aetherium_agent_proto::{
    AgentTransport, ExecSpec, ExitReport, ExitStatus, GuestConfig, Hello, Life, ProcessInfo,
    ProcessLimits, ProcessSelector, ProtocolVersion, StreamOffsets, TerminalSize, Token,
};
use buffa::Message;
use connectrpc::{CodecFormat, Encodable};

fn compare(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(expected == actual, "{file} differs; expected:\n{expected}\nactual:\n{actual}");
}

fn hello() -> Hello {
    Hello {
        protocol: ProtocolVersion { major: 1, minor: 0 },
        agent_version: "0.1.0".into(),
        boot_id: "0dc1bd1e-6bd8-4f3f-9a3c-1d1a2f9f1c11".into(),
        is_init: true,
        uptime_ms: 5_000,
        started_uptime_ms: 400,
        listening_uptime_ms: 650,
        transports: vec![AgentTransport::Vsock, AgentTransport::Tcp],
        generation: 0,
        upgrade_failure: None,
    }
}

/// As an agent of 1.0 knows it.
fn spec() -> ExecSpec {
    ExecSpec::new(["sh", "-c", "echo hi"])
        .env("LANG", "C.UTF-8")
        .cwd("/work")
        .user("dev")
        .timeout(Duration::from_secs(30))
        .kill_grace(Duration::from_millis(500))
        .with_stdin()
        .tag("build")
}

/// With everything 1.1 brought.
fn spec_1_1() -> ExecSpec {
    let limits =
        ProcessLimits { memory_bytes: Some(64 << 20), pids: Some(32), cpu_millis: Some(500) };
    let spec = ExecSpec::shell("top").on_terminal(24, 80, "xterm").detached().limits(limits);
    ExecSpec { umask: Some(0o27), nice: -5, ..spec }
}

fn report(status: ExitStatus) -> ExitReport {
    ExitReport { status, wall_ms: 1_234, user_ms: 200, sys_ms: 34, max_rss_kib: 4_096 }
}

fn process() -> ProcessInfo {
    ProcessInfo {
        pid: 301,
        argv: vec!["sleep".into(), "60".into()],
        cwd: Some("/".into()),
        user: None,
        tag: Some("nap".into()),
        started_uptime_ms: 700,
        life: Life::Attached,
        terminal: false,
        exited: None,
    }
}

fn event(event: &OutgoingEvent) -> Vec<u8> {
    event.encode(CodecFormat::Proto).unwrap().to_vec()
}

#[test]
fn rpc_messages_keep_their_bytes() {
    let list =
        wire::ListResponse { processes: vec![process().into()], ..wire::ListResponse::default() };
    let signal = wire::SendSignalRequest { pid: 301, signal: 15, ..Default::default() };
    let stdin = wire::StdinRequest { pid: 301, data: b"input".to_vec(), ..Default::default() };
    let messages = [
        ("hello_response", wire::HelloResponse::from(&hello()).encode_to_vec()),
        ("start_request", wire::StartRequest::from(spec()).encode_to_vec()),
        ("event_started", event(&OutgoingEvent::started(301))),
        ("event_failed", event(&OutgoingEvent::failed("not_found", "program `x` was not found"))),
        ("event_stdout", event(&OutgoingEvent::Stdout(b"out".to_vec().into()))),
        ("event_stderr_200", event(&OutgoingEvent::Stderr(vec![b'e'; 200].into()))),
        ("event_exit_0", event(&OutgoingEvent::exited(&report(ExitStatus::Code(0))))),
        ("event_exit_signal", event(&OutgoingEvent::exited(&report(ExitStatus::Signal(9))))),
        ("event_exit_timeout", event(&OutgoingEvent::exited(&report(ExitStatus::Timeout)))),
        ("stdin_request", stdin.encode_to_vec()),
        ("signal_request", signal.encode_to_vec()),
        ("list_response", list.encode_to_vec()),
    ];
    compare("rpc.txt", &hex_lines(&messages));
}

#[test]
fn what_1_1_brought_keeps_its_bytes() {
    let offsets = StreamOffsets { stdout: 70_000, stderr: 3 };
    let pid = wire::ProcessSelector::from(ProcessSelector::Pid(301));
    let tag = wire::ProcessSelector::from(ProcessSelector::Tag("build".into()));
    let attach = wire::AttachRequest {
        process: tag.into(),
        from: wire::StreamOffsets::from(offsets).into(),
        as_starter: true,
        ..Default::default()
    };
    let wait = wire::WaitRequest { process: pid.into(), ..Default::default() };
    let exited = wire::Exited::from(&report(ExitStatus::Code(3)));
    let waited = wire::WaitResponse { pid: 301, exited: exited.into(), ..Default::default() };
    let size = TerminalSize { rows: 50, cols: 200 };
    let resize = wire::ResizeTerminalRequest {
        pid: 301,
        size: wire::TerminalSize::from(size).into(),
        ..Default::default()
    };
    let stdin = wire::StdinRequest { pid: 301, keep_open: true, ..Default::default() };
    let taken = wire::StdinResponse { taken: 5, handed_over: true, ..Default::default() };
    let ended = ProcessInfo {
        life: Life::Detached,
        terminal: true,
        exited: Some(report(ExitStatus::Oom)),
        ..process()
    };
    let upgraded =
        Hello { generation: 2, upgrade_failure: Some("no memory for it".into()), ..hello() };
    let list = wire::ListRequest { include_ended: true, ..Default::default() };
    let head = wire::UpgradeHead { size: 4, sha256: vec![0xab; 32], ..Default::default() };
    let head = wire::UpgradeRequest {
        part: Some(wire::__buffa::oneof::upgrade_request::Part::Head(Box::new(head))),
        ..Default::default()
    };
    let data = wire::UpgradeRequest {
        part: Some(wire::__buffa::oneof::upgrade_request::Part::Data(b"\x7fELF".to_vec())),
        ..Default::default()
    };
    let upgrade = wire::UpgradeResponse { agent_version: "0.2.0".into(), ..Default::default() };
    let messages = [
        ("start_request", wire::StartRequest::from(spec_1_1()).encode_to_vec()),
        ("attach_request", attach.encode_to_vec()),
        ("event_attached", event(&OutgoingEvent::attached(301, offsets, true))),
        ("event_skipped", event(&OutgoingEvent::skipped(offsets))),
        ("event_handed_over", event(&OutgoingEvent::handed_over(offsets))),
        ("event_exit_oom", event(&OutgoingEvent::exited(&report(ExitStatus::Oom)))),
        ("wait_request", wait.encode_to_vec()),
        ("wait_response", waited.encode_to_vec()),
        ("resize_request", resize.encode_to_vec()),
        ("stdin_request", stdin.encode_to_vec()),
        ("stdin_response", taken.encode_to_vec()),
        ("list_request", list.encode_to_vec()),
        ("list_entry", wire::ProcessEntry::from(ended).encode_to_vec()),
        ("hello_response", wire::HelloResponse::from(&upgraded).encode_to_vec()),
        ("upgrade_head", head.encode_to_vec()),
        ("upgrade_data", data.encode_to_vec()),
        ("upgrade_response", upgrade.encode_to_vec()),
    ];
    compare("rpc-1.1.txt", &hex_lines(&messages));
}

fn hex_lines(messages: &[(&str, Vec<u8>)]) -> String {
    let mut text = String::new();
    for (name, bytes) in messages {
        let hex: String = bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        writeln!(text, "{name} {hex}").unwrap();
    }
    text
}

#[test]
fn text_formats_keep_their_form() {
    let config = GuestConfig {
        mode: Mode::Run,
        token: Some(Token::new("0123456789abcdef").unwrap()),
        hostname: Some("vm-1".into()),
        root: Some(Disk::ext4(DiskSelector::Label("root".into()))),
        overlay: Some(Disk::ext4(DiskSelector::Serial("overlay".into()))),
        root_access: RootAccess::Read,
        net: Some(GuestNet {
            address_cidr: "172.16.0.2/24".parse().unwrap(),
            gateway: Some([172, 16, 0, 1].into()),
            dns: vec![[172, 16, 0, 1].into()],
            routes: Vec::new(),
        }),
        transports: Transports { vsock: true, tcp: false },
        root_deadline_ms: 5_000,
        ends_by: EndsBy::Restart,
        first_process: FirstProcess::Agent,
        on_fatal: OnFatal::End,
    };
    let handed_over = GuestConfig {
        first_process: FirstProcess::Image { program: "/sbin/init".into() },
        on_fatal: OnFatal::Hold,
        ..GuestConfig::default()
    };
    let request = LineRequest {
        cmd: "echo".into(),
        args: vec!["hi".into()],
        env: [("A".to_owned(), "b".to_owned())].into(),
        cwd: Some("/".into()),
        user: Some("dev".into()),
        timeout_ms: Some(1_000),
        token: Some(Token::new("0123456789abcdef").unwrap()),
    };
    let done = |status, truncated| {
        LineResponse::Done(LineResult::new(&report(status), b"out\n", b"err\n", truncated))
    };
    let error = LineError { code: "not_found".into(), detail: "program `x` was not found".into() };
    let lines = [
        serde_json::to_string(&config).unwrap(),
        serde_json::to_string(&request).unwrap(),
        serde_json::to_string(&done(ExitStatus::Code(0), false)).unwrap(),
        serde_json::to_string(&done(ExitStatus::Signal(9), true)).unwrap(),
        serde_json::to_string(&done(ExitStatus::Timeout, false)).unwrap(),
        serde_json::to_string(&LineResponse::Failed { error }).unwrap(),
        serde_json::to_string(&handed_over).unwrap(),
    ];
    assert_eq!(serde_json::from_str::<GuestConfig>(&lines[0]).unwrap(), config);
    assert_eq!(serde_json::from_str::<LineRequest>(&lines[1]).unwrap(), request);
    assert_eq!(serde_json::from_str::<GuestConfig>(&lines[6]).unwrap(), handed_over);
    compare("text.jsonl", &(lines.join("\n") + "\n"));
}

#[test]
fn every_type_survives_the_wire() {
    let there_and_back = |hello: &Hello| {
        let bytes = wire::HelloResponse::from(hello).encode_to_vec();
        Hello::from(wire::HelloResponse::decode_from_slice(&bytes).unwrap())
    };
    assert_eq!(there_and_back(&hello()), hello());
    for spec in [spec(), spec_1_1()] {
        let bytes = wire::StartRequest::from(spec.clone()).encode_to_vec();
        assert_eq!(ExecSpec::from(wire::StartRequest::decode_from_slice(&bytes).unwrap()), spec);
    }
    let ended = ProcessInfo { exited: Some(report(ExitStatus::Code(0))), ..process() };
    for info in [process(), ended] {
        assert_eq!(ProcessInfo::from(wire::ProcessEntry::from(info.clone())), info);
    }
    for status in [
        ExitStatus::Code(0),
        ExitStatus::Code(7),
        ExitStatus::Signal(9),
        ExitStatus::Timeout,
        ExitStatus::Oom,
    ] {
        let bytes = wire::Exited::from(&report(status)).encode_to_vec();
        let exited = wire::Exited::decode_from_slice(&bytes).unwrap();
        assert_eq!(ExitReport::from(exited), report(status));
    }
}

#[test]
fn output_handed_over_by_reference_reads_like_any_message() {
    use wire::__buffa::oneof::process_event::Event;
    for len in [0, 1, 127, 128, 16_383, 16_384, 131_072] {
        let data = vec![7_u8; len];
        let bytes = event(&OutgoingEvent::Stdout(data.clone().into()));
        let message = wire::ProcessEvent::decode_from_slice(&bytes).unwrap();
        match message.event {
            Some(Event::Stdout(read)) => assert!(read[..] == data[..], "{len}"),
            other => panic!("{len}: {other:?}"),
        }
    }
}
