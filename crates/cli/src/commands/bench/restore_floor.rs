//! The floor of a restore: a bare VMM that loads the files of a snapshot of ours, from its start until
//! its agent answers, and until the first output of a command that is then started there.
//!
//! Firecracker is told what our driver tells it. QEMU gets the command line of a VM that our driver
//! has restored, and the state as its standard input.

use super::boot::{BOOT_DEADLINE, Started, command_line, free_port};
use crate::{
    args::BenchArgs,
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
};
use aetherium_agent_client::{
    AGENT_PORT, AgentClient, AgentError, Deadlines, Endpoint, ExecSpec, ProcessEvent, Token,
};
use aetherium_gateway::api::CreateVm;
use aetherium_image::InstalledTemplate;
use aetherium_model::{Code, Fault, resources::DriverKind, task::Task, vm::Vm};
use aetherium_worker::Layout;
use serde_json::{Value, json};
use std::{
    fs::File,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::{sleep, timeout},
};

/// How often a socket is looked for that a VMM makes.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A snapshot that was taken for this, and what to ask for to have a VM of it.
pub(super) struct Taken {
    dir: PathBuf,
    template: InstalledTemplate,
    token: Token,
    pub(super) request: CreateVm,
}

impl Taken {
    /// Reads what the snapshot in `dir` says.
    pub(super) fn open(
        dir: PathBuf,
        request: CreateVm,
        template: InstalledTemplate,
    ) -> Result<Self, CliError> {
        let path = dir.join("manifest.json");
        let text = std::fs::read(&path).map_err(|error| local(path.display(), error))?;
        let mut manifest: Value = serde_json::from_slice(&text).map_err(Fault::internal)?;
        let token = serde_json::from_value(manifest["token"].take()).map_err(Fault::internal)?;
        Ok(Self { dir, template, token, request })
    }

    /// Its files, but for the manifest.
    pub(super) fn files(&self) -> [PathBuf; 3] {
        ["memory", "state", "overlay.ext4"].map(|name| self.dir.join(name))
    }
}

/// How long a bare one took, from its start.
pub(super) struct Took {
    pub(super) to_agent: Duration,
    pub(super) to_first_output: Duration,
}

/// A VMM that is started by hand.
pub(super) struct Floor {
    dir: PathBuf,
    vmm: BareVmm,
}

enum BareVmm {
    Firecracker { program: String },
    Qemu { argv: Vec<String>, theirs: String },
}

impl Floor {
    /// Learns from a restored VM of ours how its VMM was started.
    pub(super) async fn learn(
        client: &Client,
        data: &DataDir,
        bench: &BenchArgs,
        driver: DriverKind,
        taken: &Taken,
    ) -> Result<Self, CliError> {
        let vmm = match driver {
            DriverKind::Firecracker => {
                let named = bench.driver.firecracker.as_ref();
                let program = named.map(|path| path.display().to_string());
                BareVmm::Firecracker { program: program.unwrap_or_else(|| "firecracker".into()) }
            }
            DriverKind::Qemu | DriverKind::Process | DriverKind::Simulated => {
                let layout = Layout::open(data.path()).map_err(Fault::from)?;
                let vm: Vm = client.post("/vms", &taken.request).await?;
                let vm = super::super::vm::running(client, &vm.id.to_string()).await?;
                let argv = command_line(&layout, vm.id)?;
                client.delete::<Task>(&format!("/vms/{}", vm.id)).await?;
                BareVmm::Qemu { argv, theirs: layout.vm(vm.id).display().to_string() }
            }
        };
        Ok(Self { dir: data.path().join("bench"), vmm })
    }

    /// Loads the snapshot and says how long that took.
    pub(super) async fn run(&self, taken: &Taken) -> Result<Took, CliError> {
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir).map_err(|error| local(self.dir.display(), error))?;
        let took = match &self.vmm {
            BareVmm::Firecracker { program } => self.firecracker(program, taken).await,
            BareVmm::Qemu { argv, theirs } => self.qemu(argv, theirs, taken).await,
        };
        let _ = std::fs::remove_dir_all(&self.dir);
        took
    }

    async fn firecracker(&self, program: &str, taken: &Taken) -> Result<Took, CliError> {
        let [memory, state, overlay] = taken.files();
        let root = taken.template.rootfs();
        for (file, name) in [(memory, "memory"), (state, "state"), (root, "disk_root")] {
            symlink(file, self.dir.join(name)).map_err(|error| local(name, error))?;
        }
        let disk = self.dir.join("disk_overlay");
        aetherium_image::copy_sparse(&overlay, &disk).await.map_err(Fault::from)?;
        let socket = self.dir.join("api.sock");
        let argv = [program, "--api-sock", "api.sock"].map(str::to_owned);

        let began = Instant::now();
        let _firecracker = Started::spawn_in(&argv, Some(&self.dir), None)?;
        drop(connect(&socket).await?);
        load(&socket).await?;
        let uds = self.dir.join("vsock");
        answered(Endpoint::Vsock { uds, port: u32::from(AGENT_PORT) }, began).await
    }

    async fn qemu(&self, argv: &[String], theirs: &str, taken: &Taken) -> Result<Took, CliError> {
        let [_, state, overlay] = taken.files();
        let disk = self.dir.join("overlay.ext4");
        aetherium_image::copy_sparse(&overlay, &disk).await.map_err(Fault::from)?;
        let address = free_port()?;
        let argv = bare(argv, theirs, &self.dir, address);
        let state = File::open(&state).map_err(|error| local(state.display(), error))?;

        let began = Instant::now();
        let _qemu = Started::spawn_in(&argv, None, Some(state))?;
        resume(&self.dir.join("qmp.sock")).await?;
        answered(Endpoint::Tcp { addr: address, token: taken.token.clone() }, began).await
    }
}

/// Waits for the agent's answer and for a command's first output.
async fn answered(endpoint: Endpoint, began: Instant) -> Result<Took, CliError> {
    let silent =
        |error: AgentError| Fault::new(Code::AgentSilent, format!("the bare VMM: {error}"));
    let agent = AgentClient::new(vec![endpoint], Deadlines::default());
    agent.wait_ready(BOOT_DEADLINE).await.map_err(silent)?;
    let to_agent = began.elapsed();
    let mut process = agent.exec(ExecSpec::new(["echo", "x"])).await.map_err(silent)?;
    while let Some(event) = process.next().await.map_err(silent)? {
        if let ProcessEvent::Stdout(_) = event {
            return Ok(Took { to_agent, to_first_output: began.elapsed() });
        }
    }
    Err(Fault::internal("the command printed nothing").into())
}

/// Connects to a socket as soon as somebody listens there.
async fn connect(socket: &Path) -> Result<UnixStream, CliError> {
    let connected = async {
        loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => return stream,
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    };
    let late = |_| Fault::internal(format!("nobody listens at {}", socket.display()));
    Ok(timeout(BOOT_DEADLINE, connected).await.map_err(late)?)
}

/// Has the Firecracker behind this API socket load the snapshot beside it, and the guest go on.
async fn load(socket: &Path) -> Result<(), CliError> {
    let failed = |error: reqwest::Error| Fault::internal(format!("PUT /snapshot/load: {error}"));
    let client = reqwest::Client::builder().unix_socket(socket).build().map_err(failed)?;
    let body = json!({
        "snapshot_path": "state",
        "mem_backend": { "backend_type": "File", "backend_path": "memory" },
        "resume_vm": true,
    });
    let request = client.put("http://localhost/snapshot/load").json(&body);
    let answer = request.send().await.map_err(failed)?;
    match answer.error_for_status_ref() {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::internal(answer.text().await.map_err(failed)?).into()),
    }
}

/// Lets the guest of the QEMU behind this monitor go on, once it is loaded: it was saved paused, and
/// stays so.
async fn resume(socket: &Path) -> Result<(), CliError> {
    let mut monitor = BufReader::new(connect(socket).await?);
    let resumed = async {
        ask(&mut monitor, "qmp_capabilities").await?;
        while ask(&mut monitor, "query-status").await?["return"]["status"] == "inmigrate" {
            sleep(LOOK_AGAIN).await;
        }
        ask(&mut monitor, "cont").await
    };
    let late = |_| Fault::internal("the bare QEMU does not load the snapshot");
    let resumed = timeout(BOOT_DEADLINE, resumed).await.map_err(late)?;
    resumed.map_err(|error| local(socket.display(), error))?;
    Ok(())
}

/// Asks a monitor one thing.
async fn ask(monitor: &mut BufReader<UnixStream>, command: &str) -> std::io::Result<Value> {
    let line = format!("{}\n", json!({ "execute": command }));
    monitor.write_all(line.as_bytes()).await?;
    loop {
        let mut line = String::new();
        if monitor.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let answer: Value = serde_json::from_str(&line)?;
        if answer.get("return").is_some() || answer.get("error").is_some() {
            return Ok(answer);
        }
    }
}

/// The arguments of a restored VM's QEMU for another directory and a known port, with the state as
/// standard input and the monitor at a name.
fn bare(argv: &[String], theirs: &str, dir: &Path, address: SocketAddr) -> Vec<String> {
    let dir = dir.display().to_string();
    let mut bare = Vec::new();
    for arg in argv.iter().filter(|arg| *arg != "-S") {
        let arg = match arg.as_str() {
            "defer" => "fd:0".to_owned(),
            chardev if chardev.contains("id=monitor,") => {
                format!("socket,id=monitor,path={dir}/qmp.sock,server=on,wait=off")
            }
            other => other
                .replace(theirs, &dir)
                .replace("hostfwd=tcp:127.0.0.1:0-", &format!("hostfwd=tcp:{address}-")),
        };
        bare.push(arg);
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_command_line_differs_in_paths_port_monitor_and_the_way_of_the_state() {
        let argv = [
            "qemu",
            "-incoming",
            "defer",
            "-S",
            "-netdev",
            "user,hostfwd=tcp:127.0.0.1:0-172.16.0.2:9999",
            "-chardev",
            "socket,id=monitor,fd=9,server=on,wait=off",
            "-mon",
            "chardev=monitor",
            "-blockdev",
            "/d/vms/vm_1/overlay.ext4",
        ]
        .map(str::to_owned);
        let address = SocketAddr::from(([127, 0, 0, 1], 5));
        let expected = [
            "qemu",
            "-incoming",
            "fd:0",
            "-netdev",
            "user,hostfwd=tcp:127.0.0.1:5-172.16.0.2:9999",
            "-chardev",
            "socket,id=monitor,path=/b/qmp.sock,server=on,wait=off",
            "-mon",
            "chardev=monitor",
            "-blockdev",
            "/b/overlay.ext4",
        ];
        assert_eq!(bare(&argv, "/d/vms/vm_1", Path::new("/b"), address), expected);
    }
}
