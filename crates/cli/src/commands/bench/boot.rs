//! From the request for a VM to the first byte of a command's output, against a bare VMM with the
//! same arguments, kernel, initramfs and disk, from its start until its agent answers.
//!
//! This is QEMU's floor; Firecracker's is in [`super::firecracker`].
//!
//! The bare command line is the one of a VM that our driver has started, read from `/proc`, with its
//! paths exchanged and its monitor left out: so the two can differ only in what we put around QEMU.

use super::{Figure, firecracker, median, ms, server, to_first_output};
use crate::{
    args::{Args, BenchArgs},
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_agent_client::{AgentClient, Deadlines, Endpoint, Token};
use aetherium_image::{BlankDisks, InstalledTemplate};
use aetherium_model::{
    Code, Fault, VmId,
    resources::{DriverChoice, DriverKind},
    vm::Vm,
};
use aetherium_vmm::{Role, VsockChoice};
use aetherium_worker::Layout;
use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(super) const BOOT_DEADLINE: Duration = Duration::from_secs(90);

pub(super) async fn boot(
    args: &Args,
    rounds: u32,
    bench: &BenchArgs,
) -> Result<Vec<Figure>, CliError> {
    let mut bench = bench.clone();
    match bench.driver.driver {
        // Both sides over vsock, which is a part of Firecracker; a slot is not.
        DriverChoice::Only(DriverKind::Firecracker) => bench.driver.no_slots = true,
        // Both sides over TCP: a helper process for vsock is no part of a bare QEMU.
        _ => bench.driver.no_vsock = true,
    }
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let server = server(args, &bench).await?;
    let client = server.client()?;
    let driver = server.driver().map(|it| it.0).map_err(Clone::clone);
    let measured = match driver {
        Ok(driver) => measure(&client, &data, rounds, &bench, driver).await,
        Err(fault) => Err(fault.into()),
    };
    server.stop().await;
    let (driver, mut ours, mut bare) = measured?;
    let floor = median(&mut bare);
    Ok(vec![
        Figure::new(&format!("boot.bare_{driver}_to_agent_p50"), floor, "ms"),
        Figure::new("boot.create_to_first_output_p50", median(&mut ours), "ms")
            .over(floor)
            .ratio_at_most(1.15),
    ])
}

/// A VMM that is started by hand.
enum Bare {
    Qemu(Floor),
    Firecracker(firecracker::Floor),
}

impl Bare {
    async fn run(&self) -> Result<Duration, CliError> {
        match self {
            Self::Qemu(floor) => floor.run().await,
            Self::Firecracker(floor) => floor.run().await,
        }
    }
}

async fn measure(
    client: &Client,
    data: &DataDir,
    rounds: u32,
    bench: &BenchArgs,
    driver: DriverKind,
) -> Result<(DriverKind, Vec<f64>, Vec<f64>), CliError> {
    let bars = Bars::new();
    let floor = match driver {
        DriverKind::Firecracker => {
            Bare::Firecracker(firecracker::Floor::learn(client, data, bench).await?)
        }
        DriverKind::Qemu | DriverKind::Process | DriverKind::Simulated => {
            Bare::Qemu(Floor::learn(client, data, bench).await?)
        }
    };
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        bars.tick(&format!("round {} of {rounds}", round + 1));
        bare.push(ms(floor.run().await?));
        ours.push(ms(to_first_output(client, &bench.template).await?.0));
    }
    bars.clear();
    Ok((driver, ours, bare))
}

/// A QEMU that is started by hand.
struct Floor {
    template: InstalledTemplate,
    blanks: BlankDisks,
    argv: Vec<String>,
    /// The directory that the arguments speak of.
    theirs: String,
    dir: PathBuf,
}

impl Floor {
    /// Learns the command line from a VM of ours.
    async fn learn(client: &Client, data: &DataDir, bench: &BenchArgs) -> Result<Self, CliError> {
        let layout = Layout::open(data.path()).map_err(Fault::from)?;
        let template =
            super::super::template::open(data)?.get(&bench.template).map_err(Fault::from)?;
        let vm = super::create(client, &bench.template).await?;
        let vm: Vm = super::super::vm::running(client, &vm.id.to_string()).await?;
        let argv = command_line(&layout, vm.id)?;
        client.delete::<aetherium_model::task::Task>(&format!("/vms/{}", vm.id)).await?;
        Ok(Self {
            template,
            blanks: BlankDisks::open(layout.blanks()).map_err(Fault::from)?,
            argv,
            theirs: layout.vm(vm.id).display().to_string(),
            dir: data.path().join("bench"),
        })
    }

    /// Boots one and says how long it took until the agent answered.
    async fn run(&self) -> Result<Duration, CliError> {
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir).map_err(|error| local(self.dir.display(), error))?;
        let token = Token::from_random(rand::random());
        let initrd = self.dir.join("initrd");
        let guest = aetherium_worker::GuestIdentity {
            token: &token,
            hostname: "bare",
            net: Some(aetherium_worker::guest_net()),
            ends_by: aetherium_worker::ends_by(DriverKind::Qemu),
        };
        aetherium_worker::write_guest_initrd(&self.template, &initrd, guest, VsockChoice::Off)
            .await?;
        let disk = self.dir.join("overlay.ext4");
        self.blanks
            .clone_to(&disk, self.template.manifest.defaults.disk_mib)
            .await
            .map_err(Fault::from)?;
        let address = free_port()?;
        let argv = bare(&self.argv, &self.theirs, &self.dir, address);

        let began = Instant::now();
        let _qemu = Started::spawn_in(&argv, None, None)?;
        let agent =
            AgentClient::new(vec![Endpoint::Tcp { addr: address, token }], Deadlines::default());
        let ready = agent.wait_ready(BOOT_DEADLINE).await;
        let took = began.elapsed();
        ready.map_err(|error| Fault::new(Code::AgentSilent, format!("the bare QEMU: {error}")))?;
        drop(_qemu);
        let _ = std::fs::remove_dir_all(&self.dir);
        Ok(took)
    }
}

/// A process that ends with this value.
pub(super) struct Started(Child);

impl Started {
    /// Starts it, in a directory if one is given, and reading a file if one is given.
    pub(super) fn spawn_in(
        argv: &[String],
        dir: Option<&Path>,
        stdin: Option<std::fs::File>,
    ) -> Result<Self, CliError> {
        Command::new(&argv[0])
            .args(&argv[1..])
            .current_dir(dir.unwrap_or(Path::new(".")))
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
            .map_err(|error| local(format!("cannot start {}", argv[0]), error).into())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The arguments of a VM's QEMU, from `/proc/<pid>/cmdline` (proc(5): separated by NUL bytes).
pub(super) fn command_line(layout: &Layout, id: VmId) -> Result<Vec<String>, CliError> {
    let strays = aetherium_vmm::strays(&layout.vms()).map_err(Fault::from)?;
    let processes = strays.into_iter().filter(|it| it.vm_id == id).flat_map(|it| it.processes);
    let pid = processes.into_iter().find(|it| it.role == Role::Vmm).map(|it| it.pid);
    let pid = pid.ok_or_else(|| Fault::internal(format!("{id} has no VMM process")))?;
    let path = format!("/proc/{pid}/cmdline");
    let raw = std::fs::read(&path).map_err(|error| local(path, error))?;
    let text = String::from_utf8(raw).map_err(Fault::internal)?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}

/// The same arguments for another directory and a known port, without the monitor.
fn bare(argv: &[String], theirs: &str, dir: &Path, address: SocketAddr) -> Vec<String> {
    let mut bare = Vec::new();
    let mut rest = argv.iter();
    while let Some(arg) = rest.next() {
        let is_monitor = arg == "-mon"
            || (arg == "-chardev"
                && rest.as_slice().first().is_some_and(|it| it.contains("id=monitor")));
        if is_monitor {
            rest.next();
            continue;
        }
        let arg = arg.replace(theirs, &dir.display().to_string());
        bare.push(arg.replace("hostfwd=tcp:127.0.0.1:0-", &format!("hostfwd=tcp:{address}-")));
    }
    bare
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> Result<SocketAddr, CliError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map_err(|error| local("no free port on the loopback", error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_command_line_differs_in_paths_port_and_monitor_alone() {
        let argv = [
            "qemu",
            "-initrd",
            "/d/vms/vm_1/initrd",
            "-netdev",
            "user,hostfwd=tcp:127.0.0.1:0-172.16.0.2:9999",
            "-chardev",
            "socket,id=monitor,fd=9",
            "-mon",
            "chardev=monitor",
            "-kernel",
            "/d/t/kernel",
        ]
        .map(str::to_owned);
        let made =
            bare(&argv, "/d/vms/vm_1", Path::new("/b"), SocketAddr::from(([127, 0, 0, 1], 5)));
        let expected = [
            "qemu",
            "-initrd",
            "/b/initrd",
            "-netdev",
            "user,hostfwd=tcp:127.0.0.1:5-172.16.0.2:9999",
            "-kernel",
            "/d/t/kernel",
        ];
        assert_eq!(made, expected);
    }
}
