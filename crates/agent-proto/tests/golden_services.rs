//! The bytes of files, ports and the machine on the wire, pinned as those of `golden.rs` are.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "golden/fixture.rs"]
mod fixture;

use std::path::Path;
use std::time::{Duration, SystemTime};

use aetherium_agent_proto::config::{GuestNet, Route};
use aetherium_agent_proto::files::{
    Changed, FileEvent, FileInfo, FileKind, FileMode, Ownership, Placement, Unpacked, WriteOptions,
};
use aetherium_agent_proto::ports::{ListeningPort, PortEvent};
use aetherium_agent_proto::rpc::{Outgoing, wire};
use aetherium_agent_proto::system::{
    CpuMetrics, DiskMetrics, InterfaceMetrics, MachineIdentity, MemoryMetrics, Metrics,
};
use buffa::Message;
use connectrpc::{CodecFormat, ConnectError, Encodable};
use fixture::compare_messages;

fn info() -> FileInfo {
    FileInfo {
        path: "/work/a".into(),
        kind: FileKind::Symlink,
        size: 4_096,
        mode: FileMode::new(0o751).unwrap(),
        uid: 1_000,
        gid: 100,
        user: Some("dev".into()),
        group: None,
        modified: SystemTime::UNIX_EPOCH - Duration::from_millis(1_500),
        link_target: Some("../b".into()),
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        placement: Placement::At(7),
        mode: Some(FileMode::new(0o600).unwrap()),
        ownership: Ownership { user: Some("dev".into()), group: Some("100".into()) },
        make_parents: true,
    }
}

fn events() -> [(&'static str, FileEvent); 6] {
    let file = || Changed { path: "/work/a".into(), is_dir: false };
    let dir = Changed { path: "/work/d".into(), is_dir: true };
    [
        ("event_created", FileEvent::Created(dir)),
        ("event_modified", FileEvent::Modified(file())),
        ("event_attributes", FileEvent::Attributes(file())),
        ("event_removed", FileEvent::Removed(file())),
        ("event_renamed", FileEvent::Renamed { from: "/work/z".into(), to: file() }),
        ("event_lost", FileEvent::Lost),
    ]
}

fn metrics() -> Metrics {
    Metrics {
        uptime: Duration::from_millis(5_000),
        cpu: CpuMetrics {
            online: 2,
            busy: Duration::from_millis(900),
            idle: Duration::from_millis(8_000),
            steal: Duration::from_millis(10),
            load: [0.5, 0.25, 1.75],
        },
        memory: MemoryMetrics {
            total_bytes: 512 << 20,
            available_bytes: 256 << 20,
            cached_bytes: 64 << 20,
            swap_total_bytes: 0,
            swap_free_bytes: 0,
        },
        disk: DiskMetrics {
            total_bytes: 10 << 30,
            available_bytes: 9 << 30,
            total_inodes: 655_360,
            available_inodes: 600_000,
        },
        processes: 40,
        threads: 44,
        interfaces: vec![InterfaceMetrics {
            name: "eth0".into(),
            received_bytes: 1_000,
            sent_bytes: 2_000,
            received_packets: 10,
            sent_packets: 20,
            errors: 1,
            dropped: 2,
        }],
        agent_resident_bytes: 2 << 20,
    }
}

fn identity() -> MachineIdentity {
    MachineIdentity {
        hostname: Some("vm-7".into()),
        network: Some(GuestNet {
            address_cidr: "172.16.0.2/24".parse().unwrap(),
            gateway: Some([172, 16, 0, 1].into()),
            dns: vec![[172, 16, 0, 1].into()],
            routes: vec![Route {
                to_cidr: "10.0.0.0/8".parse().unwrap(),
                via: [172, 16, 0, 9].into(),
            }],
        }),
    }
}

fn port() -> ListeningPort {
    ListeningPort { address: [127, 0, 0, 1].into(), port: 8080, uid: 1_000 }
}

fn data<M>(message: &Outgoing<M>) -> Vec<u8>
where
    Outgoing<M>: Encodable<M>,
{
    message.encode(CodecFormat::Proto).unwrap().to_vec()
}

#[test]
fn messages_of_files_keep_their_bytes() {
    use wire::__buffa::oneof::{write_part, write_tar_part};
    let open = wire::WriteOpen::new(Path::new("/work/a"), options(), Some("dev".into()));
    let part = |part| wire::WritePart { part: Some(part), ..Default::default() }.encode_to_vec();
    let tar_open = wire::TarOpen {
        path: b"/work".to_vec(),
        outward_links: true,
        user: Some("dev".into()),
        ..Default::default()
    };
    let tar_part = write_tar_part::Part::Open(Box::new(tar_open));
    let read = wire::ReadRequest {
        path: b"/work/a".to_vec(),
        offset: 7,
        length: Some(9),
        user: Some("dev".into()),
        ..Default::default()
    };
    let mut messages = vec![
        ("entry", wire::FileEntry::from(info()).encode_to_vec()),
        ("read_request", read.encode_to_vec()),
        ("read_data", data(&Outgoing::<wire::ReadPart>::Data(b"out".to_vec().into()))),
        ("tar_data", data(&Outgoing::<wire::TarPart>::Data(vec![b't'; 200].into()))),
        ("write_open", part(write_part::Part::Open(Box::new(open)))),
        ("write_data", part(write_part::Part::Data(b"in".to_vec()))),
        ("write_commit", part(write_part::Part::Commit(Box::default()))),
        (
            "tar_open",
            wire::WriteTarPart { part: Some(tar_part), ..Default::default() }.encode_to_vec(),
        ),
        (
            "unpacked",
            wire::WriteTarResponse::from(Unpacked { entries: 3, bytes: 500 }).encode_to_vec(),
        ),
        ("event_watching", wire::WatchEvent::watching().encode_to_vec()),
    ];
    let events = events();
    messages.extend(
        events.iter().map(|(name, it)| (*name, wire::WatchEvent::from(it.clone()).encode_to_vec())),
    );
    compare_messages("files.txt", messages);
}

#[test]
fn messages_of_ports_keep_their_bytes() {
    use wire::__buffa::oneof::tunnel_input::Part;
    let input = |part| wire::TunnelInput { part: Some(part), ..Default::default() }.encode_to_vec();
    let open = wire::TunnelOpen { port: 8080, ..Default::default() };
    let event = |event| wire::ListeningEvent::from(event).encode_to_vec();
    compare_messages(
        "ports.txt",
        [
            ("tunnel_open", input(Part::Open(Box::new(open)))),
            ("tunnel_data", input(Part::Data(b"in".to_vec()))),
            ("tunnel_end", input(Part::End(Box::default()))),
            ("tunnel_out", data(&Outgoing::<wire::TunnelOutput>::Data(b"out".to_vec().into()))),
            ("port_opened", event(PortEvent::Opened(port()))),
            ("port_closed", event(PortEvent::Closed(port()))),
            ("port_caught_up", event(PortEvent::CaughtUp)),
        ],
    );
}

#[test]
fn messages_of_the_machine_keep_their_bytes() {
    let secret = wire::WriteSecretRequest {
        name: "key".into(),
        data: b"abc".to_vec(),
        user: Some("dev".into()),
        ..Default::default()
    };
    let reseed = wire::ReseedRequest { entropy: vec![7; 32], ..Default::default() };
    let clock = wire::SetClockRequest { unix_ns: 1_700_000_000_123_456_789, ..Default::default() };
    let refusal = wire::Refusal { code: "not_found".into(), ..Default::default() };
    compare_messages(
        "system.txt",
        [
            ("metrics", wire::MetricsResponse::from(metrics()).encode_to_vec()),
            ("identity", wire::SetIdentityRequest::from(identity()).encode_to_vec()),
            ("clock", clock.encode_to_vec()),
            ("reseed", reseed.encode_to_vec()),
            ("secret", secret.encode_to_vec()),
            ("refusal", refusal.encode_to_vec()),
        ],
    );
}

#[test]
fn every_type_survives_the_wire() {
    assert_eq!(FileInfo::from(wire::FileEntry::from(info())), info());
    let open = wire::WriteOpen::new(Path::new("/work/a"), options(), None);
    assert_eq!(open.options().unwrap(), options());
    for (name, event) in events() {
        let read = wire::WatchEvent::from(event.clone()).into_change();
        assert_eq!(read, Some(event), "{name}");
    }
    assert_eq!(wire::WatchEvent::watching().into_change(), None);
    for event in [PortEvent::Opened(port()), PortEvent::Closed(port()), PortEvent::CaughtUp] {
        assert_eq!(wire::ListeningEvent::from(event).read(), Some(event));
    }
    assert_eq!(Metrics::from(wire::MetricsResponse::from(metrics())), metrics());
    let request = wire::SetIdentityRequest::from(identity());
    assert_eq!(MachineIdentity::try_from(request).unwrap(), identity());
}

#[test]
fn what_is_no_network_is_refused_with_its_text() {
    let mut request = wire::SetIdentityRequest::from(identity());
    if let Some(network) = request.network.as_option_mut() {
        network.dns = vec!["nine".into()];
    }
    let error = MachineIdentity::try_from(request).unwrap_err();
    assert_eq!(error.to_string(), "`nine` is no IPv4 address");
}

#[test]
fn a_refusal_is_a_connect_error_with_its_code_as_detail() {
    let refusal = aetherium_agent_proto::Refusal::new(
        aetherium_agent_proto::RefusalKind::NoSpace,
        "`/a` cannot be written",
    );
    let error = ConnectError::from(refusal);
    assert_eq!(error.code.as_str(), "resource_exhausted");
    assert_eq!(error.details[0].type_url, "aetherium.agent.v1.Refusal");
}
