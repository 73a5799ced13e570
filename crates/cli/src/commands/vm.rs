//! `aetherium vm …`.

use super::{more, page};
use crate::{
    args::{Args, VmArgs, VmCommand},
    client::Client,
    error::CliError,
    print,
    progress::Bars,
};
use aetherium_gateway::api::{CreateVm, SetTtl};
use aetherium_model::{
    Code, Fault,
    metrics::VmMetrics,
    page::Page,
    task::Task,
    vm::{ChangeVm, SnapshotKind, TakeSnapshot, Vm, VmState},
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
        VmCommand::Create { ttl, vm } => {
            let patience = vm.placement.patience();
            let request = CreateVm { ttl_s: ttl.map(seconds), ..request(vm) };
            let made: Vm = client.post_within(patience, "/vms", &request).await?;
            let vm = running(&client, &made.id.to_string()).await?;
            if args.json { print::json(&vm)? } else { println!("{}", vm.id) }
        }
        VmCommand::Ttl { vm, ttl } => {
            let set = SetTtl { ttl_s: ttl.map(seconds) };
            let vm: Vm = client.post(&format!("/vms/{vm}/ttl"), &set).await?;
            if args.json {
                return print::json(&vm);
            }
            match vm.expires_at {
                Some(at) => println!("{} ends at {at}", vm.id),
                None => println!("{} lives as long as it likes", vm.id),
            }
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
            let patience = vm.placement.patience();
            let made: Vm = client.post_within(patience, "/vms", &request).await?;
            let vm = running(&client, &made.id.to_string()).await?;
            if args.json { print::json(&vm)? } else { println!("{}", vm.id) }
        }
        VmCommand::Set { vm, balloon_mib, limits } => {
            let change = ChangeVm { balloon_mib: *balloon_mib, limits: limits.limits() };
            let vm: Vm = client.patch(&format!("/vms/{vm}"), &change).await?;
            if args.json { print::json(&vm)? } else { println!("{} is changed", vm.id) }
        }
        VmCommand::Metrics { vm } => {
            let metrics: VmMetrics = client.get(&format!("/vms/{vm}/metrics")).await?;
            if args.json {
                print::json(&metrics)?;
            } else {
                print::table(&["WHO", "WHAT", "HOW MUCH"], &usage(&metrics));
            }
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
        balloon_mib: vm.tuning.balloon_mib,
        huge_pages: vm.tuning.huge_pages,
        limits: vm.tuning.limits.limits(),
        network: vm.network,
        transport: vm.transport,
        snapshot: None,
        snapshots: vm.snapshots,
        ttl_s: None,
        placement: vm.placement.placement(),
        when_full: vm.placement.when_full(),
    }
}

/// A time as the API takes it; what is less than a second counts as one.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX)
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

/// The metrics as a table: who says it, what it is, how much of it.
fn usage(metrics: &VmMetrics) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = |who: &str, what: &str, value: String| {
        rows.push(vec![who.to_owned(), what.to_owned(), value]);
    };
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let VmMetrics { host, vmm, guest, .. } = metrics;
    row("host", "processor time", format!("{} ms", host.cpu_ms));
    row("host", "resident memory", mib(host.resident_bytes));
    if let Some(balloon) = &vmm.balloon {
        let target = balloon.target_mib.map(|mib| format!(", to be {mib} MiB"));
        let actual = balloon.actual_mib.map_or("not told".to_owned(), |mib| format!("{mib} MiB"));
        row("vmm", "balloon", actual + &target.unwrap_or_default());
    }
    if let Some(disk) = &vmm.disk {
        let of = |bytes, requests| format!("{} in {requests} requests", mib(bytes));
        row("vmm", "disks read", of(disk.read_bytes, disk.reads));
        row("vmm", "disks written", of(disk.written_bytes, disk.writes));
        if let Some(throttled) = disk.throttled {
            row("vmm", "disks held back", format!("{throttled} times"));
        }
    }
    if let Some(net) = &vmm.net {
        let of = |bytes, packets| format!("{} in {packets} packets", mib(bytes));
        row("vmm", "network received", of(net.rx_bytes, net.rx_packets));
        row("vmm", "network sent", of(net.tx_bytes, net.tx_packets));
        row("vmm", "network held back", format!("{} times", net.throttled));
    }
    if let Some(guest) = guest {
        row("guest", "up", format!("{} s", guest.uptime_ms / 1000));
        row("guest", "processors at work", format!("{} ms of {}", guest.cpu_busy_ms, guest.cpus));
        let of = |left, all| format!("{} of {}", mib(left), mib(all));
        row("guest", "memory left", of(guest.memory_available_bytes, guest.memory_total_bytes));
        row("guest", "disk left", of(guest.disk_available_bytes, guest.disk_total_bytes));
        row("guest", "processes", guest.processes.to_string());
    }
    rows
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
