//! `aetherium vm …`.

use super::{more, page};
use crate::{
    args::{Args, VmArgs, VmCommand},
    client::Client,
    error::CliError,
    print,
    progress::Bars,
};
use aetherium_gateway::api::CreateVm;
use aetherium_model::{
    Code, Fault,
    page::Page,
    task::Task,
    vm::{SnapshotKind, TakeSnapshot, Vm, VmState},
};
use std::time::Duration;

pub(crate) async fn dispatch(args: &Args, verb: &VmCommand) -> Result<(), CliError> {
    if let VmCommand::Plan(plan) = verb {
        return super::plan::plan(args, plan).await;
    }
    let client = Client::connect(args)?;
    match verb {
        // Answered above: it needs no server.
        VmCommand::Plan(_) => {}
        VmCommand::Create(vm) => {
            let made: Vm = client.post("/vms", &request(vm)).await?;
            let vm = running(&client, &made.id.to_string()).await?;
            if args.json { print::json(&vm)? } else { println!("{}", vm.id) }
        }
        VmCommand::List { all, list } => {
            let vms: Page<Vm> = client.get(&format!("/vms?{}&live={}", page(list), !all)).await?;
            if args.json {
                return print::json(&vms);
            }
            print::table(
                &["ID", "STATE", "TEMPLATE", "SIZE", "DRIVER", "AGENT", "REASON"],
                &rows(&vms),
            );
            more(vms.next_cursor.as_ref());
        }
        VmCommand::Get { vm } => print::json(&client.get::<Vm>(&format!("/vms/{vm}")).await?)?,
        VmCommand::Delete { vm } => {
            let task: Task = client.delete(&format!("/vms/{vm}")).await?;
            if args.json {
                print::json(&task)?;
            } else {
                println!("{vm} is being ended ({})", task.id);
            }
        }
        VmCommand::Snapshot { vm, name, diff } => {
            let kind = if *diff { SnapshotKind::Diff } else { SnapshotKind::Full };
            let body = TakeSnapshot { name: name.clone(), kind };
            let vm: Vm = client.post(&format!("/vms/{vm}/snapshot"), &body).await?;
            if args.json { print::json(&vm)? } else { println!("{name} is taken of {}", vm.id) }
        }
        VmCommand::Restore { name, vm } => {
            let request = CreateVm { snapshot: Some(name.clone()), ..request(vm) };
            let made: Vm = client.post("/vms", &request).await?;
            let vm = running(&client, &made.id.to_string()).await?;
            if args.json { print::json(&vm)? } else { println!("{}", vm.id) }
        }
        VmCommand::Pause { vm } => changed(args, &client, vm, "pause").await?,
        VmCommand::Resume { vm } => changed(args, &client, vm, "resume").await?,
        VmCommand::Console { vm } => {
            print!("{}", client.text(&format!("/vms/{vm}/console")).await?);
        }
    }
    Ok(())
}

/// Has something done to a VM, and prints where it stands then.
async fn changed(args: &Args, client: &Client, vm: &str, verb: &str) -> Result<(), CliError> {
    let vm: Vm = client.post(&format!("/vms/{vm}/{verb}"), &serde_json::json!({})).await?;
    if args.json {
        return print::json(&vm);
    }
    println!("{} is {}", vm.id, vm.state.as_str());
    Ok(())
}

/// The arguments as the API takes them.
pub(crate) fn request(vm: &VmArgs) -> CreateVm {
    CreateVm {
        template: vm.template.clone(),
        vcpus: vm.vcpus,
        memory_mib: vm.memory_mib,
        disk_mib: vm.disk_mib,
        network: vm.network,
        transport: vm.transport,
        snapshot: None,
        snapshots: vm.snapshots,
    }
}

/// Waits until a VM runs.
pub(crate) async fn running(client: &Client, id: &str) -> Result<Vm, CliError> {
    let bars = Bars::new();
    bars.spin("booting a VM");
    let vm = loop {
        let vm: Vm = client.get(&format!("/vms/{id}")).await?;
        match vm.state.termination() {
            Some(termination) => break Err(ended(&vm, termination).into()),
            None if vm.state == VmState::Running => break Ok(vm),
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    bars.clear();
    vm
}

fn ended(vm: &Vm, termination: &Fault) -> Fault {
    let mut fault = termination.clone();
    fault.detail = format!("{} is {}: {}", vm.id, vm.state.as_str(), fault.detail);
    if fault.code == Code::Requested {
        fault.remedy = "somebody ended it while it was booting; make another one".to_owned();
    }
    fault
}

fn rows(vms: &Page<Vm>) -> Vec<Vec<String>> {
    let size = |vm: &Vm| {
        let size = &vm.spec.resources;
        format!("{} vCPU, {} MiB", size.vcpus, size.memory_mib)
    };
    let driver = |vm: &Vm| match (vm.driver, &vm.accelerator) {
        (Some(driver), Some(accelerator)) => format!("{driver} ({accelerator})"),
        _ => "-".to_owned(),
    };
    vms.items
        .iter()
        .map(|vm| {
            vec![
                vm.id.to_string(),
                vm.state.as_str().to_owned(),
                vm.spec.template.to_string(),
                size(vm),
                driver(vm),
                vm.agent_transport.map_or("-", |it| it.as_str()).to_owned(),
                vm.state.termination().map_or_else(String::new, |it| it.code.to_string()),
            ]
        })
        .collect()
}
