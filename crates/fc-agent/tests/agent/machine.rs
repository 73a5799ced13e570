//! The agent and its machine: measured by any, changed by one that owns it.

use std::time::{Duration, SystemTime};

use aetherium_agent_client::{AgentClient, AgentError, ExecSpec, RefusalKind};
use aetherium_agent_proto::config::{GuestNet, Route};
use aetherium_agent_proto::files::{ByteRange, Reach};
use aetherium_agent_proto::system::{MachineIdentity, SecretName};

use crate::files::all;
use crate::harness::{Agent, finish, story};

fn kind<T: std::fmt::Debug>(outcome: Result<T, AgentError>) -> RefusalKind {
    match outcome {
        Err(AgentError::Refused { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

async fn shell(client: &AgentClient, line: &str) -> String {
    let output = finish(client.exec(ExecSpec::new(["sh", "-c", line])).await.unwrap()).await;
    assert!(output.exit.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout.to_vec()).unwrap()
}

#[test]
fn metrics_are_in_units_that_make_sense() {
    let agent = Agent::start();
    story(async {
        let metrics = agent.unix().system().metrics().await.unwrap();
        assert!(metrics.cpu.online >= 1);
        assert!(metrics.cpu.busy > Duration::ZERO && metrics.cpu.busy < metrics.uptime * 1024);
        assert!(metrics.memory.available_bytes <= metrics.memory.total_bytes);
        assert!(metrics.memory.total_bytes > 16 << 20);
        assert!(metrics.disk.available_bytes <= metrics.disk.total_bytes);
        assert!(metrics.processes >= 1 && metrics.threads >= metrics.processes);
        let resident_kib = metrics.agent_resident_bytes / 1024;
        assert!(resident_kib.abs_diff(agent.rss_kib()) < 1024, "{resident_kib} KiB");
    });
}

#[test]
fn an_agent_that_shares_its_machine_leaves_it_alone() {
    let agent = Agent::start();
    story(async {
        let system = agent.unix().system();
        let name: SecretName = "key".parse().unwrap();
        let identity = MachineIdentity { hostname: Some("x".into()), network: None };
        let refused = RefusalKind::NotItsMachine;
        assert_eq!(kind(system.set_clock(SystemTime::now()).await), refused);
        assert_eq!(kind(system.reseed(&[7; 32]).await), refused);
        assert_eq!(kind(system.set_identity(identity).await), refused);
        assert_eq!(kind(system.write_secret(&name, vec![1], None).await), refused);
        assert_eq!(kind(system.remove_secret(&name).await), refused);
    });
}

#[test]
fn an_identity_is_taken_whole_and_again() {
    let agent = Agent::start_as_machine();
    story(async {
        let client = agent.unix();
        let network = |last: u8| GuestNet {
            address_cidr: format!("172.16.{last}.2/24").parse().unwrap(),
            gateway: Some([172, 16, last, 1].into()),
            dns: vec![[9, 9, 9, last].into()],
            routes: vec![Route {
                to_cidr: "10.9.0.0/16".parse().unwrap(),
                via: [172, 16, last, 7].into(),
            }],
        };
        for last in [3, 4, 4] {
            let hostname = Some(format!("vm-{last}"));
            let identity = MachineIdentity { hostname, network: Some(network(last)) };
            client.system().set_identity(identity).await.unwrap();
            assert_eq!(shell(&client, "hostname").await, format!("vm-{last}\n"));
            assert_eq!(shell(&client, "cat /etc/hostname").await, format!("vm-{last}\n"));
            let addresses = shell(&client, "ip -4 -o addr show dev eth0").await;
            assert_eq!(addresses.lines().count(), 1, "{addresses}");
            assert!(addresses.contains(&format!("172.16.{last}.2/24")), "{addresses}");
            let routes = shell(&client, "ip -4 route").await;
            assert!(routes.contains(&format!("default via 172.16.{last}.1 ")), "{routes}");
            assert!(routes.contains(&format!("10.9.0.0/16 via 172.16.{last}.7 ")), "{routes}");
            let resolves = shell(&client, "cat /etc/resolv.conf").await;
            assert_eq!(resolves, format!("nameserver 9.9.9.{last}\n"));
        }
    });
}

#[test]
fn a_secret_lies_in_memory_for_its_owner_and_can_be_removed() {
    let agent = Agent::start_as_machine();
    story(async {
        let client = agent.unix();
        let (system, name) = (client.system(), "api.key".parse::<SecretName>().unwrap());
        for content in ["first", "second"] {
            let path = system.write_secret(&name, content.into(), None).await.unwrap();
            let reader = client.files().read(&path, ByteRange::default()).await.unwrap();
            assert_eq!(reader.info().mode.bits(), 0o400);
            assert_eq!(all(reader).await, content.as_bytes());
        }
        let mount = shell(&client, "grep ' /run/aetherium/secrets ' /proc/self/mounts").await;
        assert_eq!(mount.lines().count(), 1, "{mount}");
        assert!(mount.starts_with("tmpfs ") && mount.contains("noexec"), "{mount}");
        let listed = shell(&client, "ls -a /run/aetherium/secrets | grep -v '^[.]*$'").await;
        assert_eq!(listed, "api.key\n");
        assert!(system.remove_secret(&name).await.unwrap());
        assert!(!system.remove_secret(&name).await.unwrap());
        let too_much = system.write_secret(&name, vec![0; (1 << 20) + 1], None).await;
        assert_eq!(kind(too_much), RefusalKind::TooLarge);
        client.files().remove("/run/aetherium/none", Reach::Itself).await.unwrap_err();
    });
}

#[test]
fn what_the_kernel_does_not_let_the_agent_do_is_told() {
    let agent = Agent::start_as_machine();
    story(async {
        // Clock and generator belong to the machine outside; the namespaces' root may not touch them.
        let system = agent.unix().system();
        let denied = system.set_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).await;
        assert_eq!(kind(denied), RefusalKind::PermissionDenied);
        assert_eq!(kind(system.reseed(&[7; 32]).await), RefusalKind::PermissionDenied);
        assert_eq!(kind(system.reseed(&[7; 31]).await), RefusalKind::InvalidRequest);
    });
}
