//! What shows that a guest of the real Firecracker is whole, under PCI and MMIO: its devices, its
//! root, its network from both sides, servers inside it, and its agent over vsock and over TCP.
//!
//! Each test has a network of its own: its thread leaves the machine's before anything is started.
//! See [`crate::drivers`] for what the runs need and how they say that it is missing.

use crate::{
    drivers::Subject,
    world::{Server, id},
};
use reqwest::StatusCode;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

/// The guest's gateway, with the space that follows it in a table of neighbours.
const GATEWAY: &str = "172.16.0.1 ";
const PATIENCE: Duration = Duration::from_secs(10);

/// Two servers inside the guest: one that agrees to be a WebSocket, and one with a banner.
const SERVERS: &str = r#"
use IO::Socket::INET;
sub serve { my ($port, $answer) = @_; return if fork;
  my $listener = IO::Socket::INET->new(LocalPort => $port, Listen => 5, ReuseAddr => 1) or die $!;
  while (my $peer = $listener->accept) {
    if ($port == 8080) { while (<$peer>) { last if /^\r?$/ } }
    print $peer $answer; close $peer } exit }
serve(8080, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
serve(2222, "SSH-2.0-aetherium-test\r\n");
"#;

/// Takes this thread, and whatever it starts, out of the machine's network.
pub(crate) fn leave_the_machines_network() {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: only the network namespace changes; no descriptor table or memory is shared less.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    // As a host that forwards, which a slot with egress needs; this namespace starts without.
    let _ = fs::write("/proc/sys/net/ipv4/ip_forward", "1");
}

async fn run(server: &Server<'_>, vm: &Value, script: &str) -> String {
    let body = json!({ "argv": ["sh", "-c", script] });
    let ran = server.post(&format!("/vms/{}/execute", id(vm)), body).await;
    assert_eq!(ran["result"]["exit_code"], 0, "{script}: {ran:#}");
    ran["stdout"].as_str().unwrap().to_owned()
}

/// Connects to a port of the guest from the host, once it listens.
fn reach(address: Ipv4Addr, port: u16) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect_timeout(&SocketAddr::from((address, port)), PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "port {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One ping; whether it was answered.
fn ping(to: Ipv4Addr) -> bool {
    let socket =
        rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
    let limit = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, limit, Some(PATIENCE)).unwrap();
    // Type 8, code 0, checksum, identifier 7, number 1; RFC 792.
    let mut request = [8, 0, 0, 0, 0, 7, 0, 1];
    let sum: u32 = request.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum();
    let checksum = !(u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap());
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    let address = SocketAddrV4::new(to, 0);
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &address).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut answer = [0_u8; 1500];
    while Instant::now() < deadline {
        let Ok((_, read)) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()) else {
            return false;
        };
        let header = usize::from(answer[0] & 0xf) * 4;
        if read >= header + 8 && answer[header] == 0 && answer[header + 4..header + 6] == [0, 7] {
            return true;
        }
    }
    false
}

async fn a_guest_is_whole(transport: &str) {
    let Some(subject) = Subject::real_with_network(transport, &[]) else { return };
    leave_the_machines_network();
    let server = subject.server().await;
    let vm = server.vm(subject.vm.clone()).await;
    assert_eq!(vm["virtio_transport"], transport, "{vm:#}");

    // The kernel found its devices and its root.
    let console = server.get(&format!("/vms/{}/console", id(&vm))).await;
    assert!(!console.to_string().contains("Cannot open root device"), "{console}");
    let messages = run(&server, &vm, "dmesg").await;
    let has = |wanted: &[&str]| {
        let found = messages.lines().any(|line| wanted.iter().all(|it| line.contains(it)));
        assert!(found, "no line with {wanted:?} in {messages}");
    };
    has(&["virtio_blk", "[vda]"]);
    has(&["EXT4-fs (vda)", "mounted"]);
    if transport == "pci" {
        let ids = "cat /sys/bus/pci/devices/*/vendor /sys/bus/pci/devices/*/device";
        let ids = run(&server, &vm, ids).await;
        assert!(ids.contains("0x1af4") && ids.contains("0x1042"), "{ids}");
    }
    let root = run(&server, &vm, "grep ' / ' /proc/mounts; cat /proc/partitions").await;
    assert!(root.contains("overlay / overlay") && root.contains("vdb"), "{root}");

    // The network, seen from the guest, from its TAP and from the host.
    let seen = "cat /sys/class/net/eth0/operstate; cat /proc/net/fib_trie";
    let seen = run(&server, &vm, seen).await;
    assert!(seen.starts_with("up") || seen.starts_with("unknown"), "{seen}");
    assert!(seen.contains("172.16.0.2"), "{seen}");
    let address: Ipv4Addr = vm["address"].as_str().expect("it has an address").parse().unwrap();
    assert!(ping(address), "no answer to a ping of {address}, which its slot passes to the TAP");
    let neighbours = run(&server, &vm, "cat /proc/net/arp").await;
    let gateway = neighbours.lines().find(|line| line.starts_with(GATEWAY)).unwrap_or_default();
    assert!(gateway.contains(" 0x2 "), "no answer to ARP on the TAP: {neighbours}");

    // Servers inside, reached through the namespace.
    run(&server, &vm, &format!("perl -e '{SERVERS}' </dev/null >/dev/null 2>&1")).await;
    let mut web = reach(address, 8080);
    let asked = "GET / HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    web.write_all(asked.as_bytes()).unwrap();
    let mut head = [0; 12];
    web.read_exact(&mut head).unwrap();
    let switching = format!("HTTP/1.1 {}", StatusCode::SWITCHING_PROTOCOLS.as_u16());
    assert_eq!(head, *switching.as_bytes());
    let mut banner = String::new();
    reach(address, 2222).read_to_string(&mut banner).unwrap();
    assert_eq!(banner, "SSH-2.0-aetherium-test\r\n");

    server.stop().await;
    subject.place.assert_no_vm_is_left();

    // The agent over vsock without a network; and over TCP with vsock taken away.
    for (without, way) in [("--no-slots", "vsock"), ("--no-vsock", "tcp")] {
        let subject = Subject::real_with_network(transport, &[without]).unwrap();
        let server = subject.server().await;
        let vm = server.vm(subject.vm.clone()).await;
        assert_eq!(vm["agent_transport"], way, "{vm:#}");
        assert_eq!(run(&server, &vm, "echo command ran").await, "command ran\n");
        server.stop().await;
        subject.place.assert_no_vm_is_left();
    }
}

#[tokio::test]
async fn a_guest_over_pci_is_whole() {
    a_guest_is_whole("pci").await;
}

#[tokio::test]
async fn a_guest_over_mmio_is_whole() {
    a_guest_is_whole("mmio").await;
}
