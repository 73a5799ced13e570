//! What an agent does with a machine of its own.

use std::time::{Duration, Instant, SystemTime};

use aetherium_agent_client::{ExecSpec, ExitStatus, ProcessEvent};
use aetherium_agent_proto::files::WriteOptions;
use aetherium_agent_proto::system::{MachineIdentity, SecretName};
use aetherium_vmm::VmmExit;

use crate::vm::{Guest, config};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_jump_of_the_clock_shortens_and_lengthens_no_time_limit() {
    let guest = Guest::start(&config()).await;
    let client = &guest.client;
    for to in [SystemTime::now() + 365 * DAY, SystemTime::UNIX_EPOCH + DAY] {
        let limit = Duration::from_secs(2);
        let spec = ExecSpec::new(["/sbin/init", "sleep"]).timeout(limit);
        let began = Instant::now();
        let mut process = client.exec(spec).await.unwrap();
        let moved_ns = client.system().set_clock(to).await.unwrap();
        assert!(moved_ns.unsigned_abs() > DAY.as_nanos() as u64, "{moved_ns}");
        match process.next().await.unwrap() {
            Some(ProcessEvent::Exited(exit)) => {
                assert_eq!(exit.status, ExitStatus::Timeout);
                assert!(exit.wall_ms >= 2_000, "{exit:?}");
            }
            other => panic!("{other:?}"),
        }
        let took = began.elapsed();
        assert!(took >= limit && took < limit * 5, "{took:?}");
        // The guest's files are of that time.
        let mut file = client.files().write("/run/now", WriteOptions::default()).await.unwrap();
        file.write("x".into()).await.unwrap();
        let modified = file.commit().await.unwrap().modified;
        assert!(modified.duration_since(to).unwrap() < 60 * Duration::from_secs(60));
    }
    guest.kill().await;
}

#[tokio::test]
async fn a_guest_takes_entropy_secrets_and_a_name_and_ends_in_order() {
    let guest = Guest::start(&config()).await;
    let (client, system) = (&guest.client, guest.client.system());
    system.reseed(&[3; 512]).await.unwrap();
    let identity = MachineIdentity { hostname: Some("another".into()), network: config().net };
    // The root takes no writes, so the name's files cannot be; the name itself is taken.
    let refused = system.set_identity(identity.clone()).await.unwrap_err();
    assert_eq!(refused.code(), "read_only", "{refused}");
    let network = MachineIdentity { hostname: None, ..identity };
    // The address stays the same and the connection with it.
    system.set_identity(network).await.unwrap();
    let name: SecretName = "key".parse().unwrap();
    let path = system.write_secret(&name, b"sesame".to_vec(), Some("1000")).await.unwrap();
    let found = client.files().as_user("1000").stat(&path).await.unwrap();
    assert_eq!((found.uid, found.mode.bits(), found.size), (1_000, 0o400, 6));
    let another = client.files().as_user("1001");
    assert_eq!(
        another.read(&path, Default::default()).await.err().map(|error| error.code()),
        Some("permission_denied")
    );
    let metrics = system.metrics().await.unwrap();
    assert!(metrics.agent_resident_bytes < 4 << 20, "{} bytes", metrics.agent_resident_bytes);
    assert_eq!(metrics.interfaces[0].name, "eth0");
    client.shutdown().await.unwrap();
    assert_eq!(guest.end().await, VmmExit::Code(0), "{}", guest.console());
    assert!(guest.console().contains("aetherium-init: power-off"), "{}", guest.console());
    guest.kill().await;
}
