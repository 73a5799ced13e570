//! Another program in the place of a guest's agent: the machine notices nothing.

use aetherium_agent_client::{ExecSpec, ProcessEvent};
use aetherium_agent_proto::GuestConfig;
use aetherium_agent_proto::config::FirstProcess;
use aetherium_vmm::VmmExit;

use crate::vm::{Guest, config, program};

const KILL: i32 = 9;

async fn goes_on_in_another_program(config: GuestConfig) {
    let is_init = config.first_process == FirstProcess::Agent;
    let guest = Guest::start(&config).await;
    let client = &guest.client;
    let mut process = client.exec(ExecSpec::new(["/sbin/init", "sleep"])).await.unwrap();

    let hello = client.upgrade(program().into()).await.unwrap();
    assert_eq!((hello.generation, hello.is_init), (1, is_init));
    assert_eq!(client.list().await.unwrap()[0].pid, process.pid());
    // The machine is still the agent's own.
    client.system().reseed(&[7; 64]).await.unwrap();
    client.signal(process.pid(), KILL).await.unwrap();
    assert!(matches!(process.next().await.unwrap(), Some(ProcessEvent::Exited(_))));

    client.shutdown().await.unwrap();
    assert_eq!(guest.end().await, VmmExit::Code(0), "{}", guest.console());
    assert!(!guest.console().contains("Kernel panic"), "{}", guest.console());
    guest.kill().await;
}

#[tokio::test]
async fn a_first_process_goes_on_in_another_program_and_still_ends_the_machine() {
    goes_on_in_another_program(config()).await;
}

#[tokio::test]
async fn an_agent_beside_an_init_goes_on_in_another_program_and_still_asks_for_the_end() {
    let first_process = FirstProcess::Image { program: "/sbin/init".into() };
    goes_on_in_another_program(GuestConfig { first_process, ..config() }).await;
}
