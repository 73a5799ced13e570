//! From the request for a VM from a snapshot to the first byte of a command's output, against a bare
//! VMM that loads the same files, from its start to the first output of the same command by its agent.
//!
//! The bare ones are in [`super::restore_floor`].

use super::{
    Figure, first_output, median, ms,
    restore_floor::{Floor, Taken},
    server,
};
use crate::{
    args::{Args, BenchArgs},
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_gateway::api::CreateVm;
use aetherium_model::{
    Fault,
    resources::{DriverChoice, DriverKind},
    task::Task,
    vm::{SnapshotKind, TakeSnapshot, Vm},
};
use aetherium_worker::Layout;
use std::{fs::File, time::SystemTime};

/// The snapshot's name; one that an earlier run left is replaced.
const NAME: &str = "bench-restore";
/// How many loads read the whole snapshot again, to show what that costs.
const READ_AGAIN: u32 = 3;

pub(super) async fn restore(
    args: &Args,
    rounds: u32,
    bench: &BenchArgs,
) -> Result<Vec<Figure>, CliError> {
    let mut bench = bench.clone();
    match bench.driver.driver {
        // Both sides over vsock, which is a part of Firecracker; a slot is not.
        DriverChoice::Only(DriverKind::Firecracker) => bench.driver.no_slots = true,
        // Both sides over TCP: QEMU cannot save a vsock.
        _ => bench.driver.no_vsock = true,
    }
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let dir = layout.snapshots().join(NAME);
    // A run that was cut short may have left it.
    let _ = std::fs::remove_dir_all(&dir);
    let server = server(args, &bench).await?;
    let measured = match (server.client(), server.driver()) {
        (Ok(client), Ok((driver, _))) => measure(&client, &data, rounds, &bench, *driver).await,
        (Err(error), _) => Err(error),
        (_, Err(fault)) => Err(fault.clone().into()),
    };
    server.stop().await;
    let _ = std::fs::remove_dir_all(&dir);
    measured
}

async fn measure(
    client: &Client,
    data: &DataDir,
    rounds: u32,
    bench: &BenchArgs,
    driver: DriverKind,
) -> Result<Vec<Figure>, CliError> {
    let bars = Bars::new();
    bars.spin("taking the snapshot");
    let taken = take(client, data, bench).await?;
    let floor = Floor::learn(client, data, bench, driver, &taken).await?;
    let (mut to_agent, mut bare) = (Vec::new(), Vec::new());
    let (mut ours, mut read_again) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        bars.tick(&format!("round {} of {rounds}", round + 1));
        let took = floor.run(&taken).await?;
        to_agent.push(ms(took.to_agent));
        bare.push(ms(took.to_first_output));
        ours.push(ms(first_output(client, &taken.request).await?.0));
    }
    for round in 0..READ_AGAIN {
        bars.tick(&format!("reading the snapshot again, {} of {READ_AGAIN}", round + 1));
        touch(&taken)?;
        read_again.push(ms(first_output(client, &taken.request).await?.0));
    }
    bars.clear();
    let floor = median(&mut bare);
    Ok(vec![
        Figure::new(&format!("restore.bare_{driver}_to_agent_p50"), median(&mut to_agent), "ms"),
        Figure::new(&format!("restore.bare_{driver}_to_first_output_p50"), floor, "ms"),
        Figure::new("restore.request_to_first_output_p50", median(&mut ours), "ms")
            .over(floor)
            .ratio_at_most(1.25),
        Figure::new("restore.with_every_file_read_again_p50", median(&mut read_again), "ms")
            .over(floor),
    ])
}

/// Takes a snapshot of a VM of its own.
async fn take(client: &Client, data: &DataDir, bench: &BenchArgs) -> Result<Taken, CliError> {
    let name: aetherium_model::Name = NAME.parse().map_err(Fault::internal)?;
    let request = CreateVm {
        template: Some((&bench.template).into()),
        snapshots: Some(SnapshotKind::Full),
        ..CreateVm::default()
    };
    let vm: Vm = client.post("/vms", &request).await?;
    let vm: Vm = super::super::vm::running(client, &vm.id.to_string()).await?;
    let body = TakeSnapshot { name: name.clone(), kind: SnapshotKind::Full };
    let vm: Vm = client.post(&format!("/vms/{}/snapshot", vm.id), &body).await?;
    client.delete::<Task>(&format!("/vms/{}", vm.id)).await?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    Taken::open(
        layout.snapshots().join(NAME),
        CreateVm { snapshot: Some(name), ..request },
        super::super::template::open(data)?.get(&bench.template).map_err(Fault::from)?,
    )
}

/// Makes each file of the snapshot look changed, so that a load reads it again.
fn touch(taken: &Taken) -> Result<(), CliError> {
    for path in taken.files() {
        File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .map_err(|error| local(path.display(), error))?;
    }
    Ok(())
}
