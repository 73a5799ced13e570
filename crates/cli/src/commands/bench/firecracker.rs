//! The floor of a boot with Firecracker: a bare one with the same configuration and files, from its
//! start until its agent answers.
//!
//! The configuration is that of a VM which our driver has started, as its Firecracker tells it: so the
//! two can differ only in what we put around Firecracker.

use super::boot::{BOOT_DEADLINE, Started};
use crate::{
    args::BenchArgs,
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
};
use aetherium_agent_client::{AGENT_PORT, AgentClient, Deadlines, Endpoint, Token};
use aetherium_image::{BlankDisks, InstalledTemplate};
use aetherium_model::{
    Code, Fault,
    resources::{DriverKind, VirtioTransport},
    template::CpuTemplate,
    vm::Vm,
};
use aetherium_vmm::VsockChoice;
use aetherium_worker::Layout;
use serde_json::{Value, json};
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A Firecracker that is started by hand.
pub(super) struct Floor {
    template: InstalledTemplate,
    blanks: BlankDisks,
    program: String,
    config: Value,
    pci: bool,
    dir: PathBuf,
}

impl Floor {
    /// Learns the configuration from a VM of ours.
    pub(super) async fn learn(
        client: &Client,
        data: &DataDir,
        bench: &BenchArgs,
    ) -> Result<Self, CliError> {
        let layout = Layout::open(data.path()).map_err(Fault::from)?;
        let template =
            super::super::template::open(data)?.get(&bench.template).map_err(Fault::from)?;
        let vm = super::create(client, &bench.template).await?;
        let vm: Vm = super::super::vm::running(client, &vm.id.to_string()).await?;
        let config = config_of(&layout.vm(vm.id).join("api.sock")).await?;
        client.delete::<aetherium_model::task::Task>(&format!("/vms/{}", vm.id)).await?;
        let named = bench.driver.firecracker.as_ref().map(|path| path.display().to_string());
        Ok(Self {
            template,
            blanks: BlankDisks::open(layout.blanks()).map_err(Fault::from)?,
            program: named.unwrap_or_else(|| "firecracker".to_owned()),
            config,
            pci: vm.virtio_transport == Some(VirtioTransport::Pci),
            dir: data.path().join("bench"),
        })
    }

    /// Boots one and says how long it took until the agent answered.
    pub(super) async fn run(&self) -> Result<Duration, CliError> {
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir).map_err(|error| local(self.dir.display(), error))?;
        let token = Token::from_random(rand::random());
        let guest = aetherium_worker::GuestIdentity {
            token: &token,
            hostname: "bare",
            net: None,
            ends_by: aetherium_worker::ends_by(DriverKind::Firecracker),
        };
        let initramfs = self.dir.join("initramfs");
        aetherium_worker::write_guest_initrd(&self.template, &initramfs, guest, VsockChoice::Auto)
            .await?;
        let size = self.template.manifest.defaults.disk_mib;
        let overlay = self.dir.join("disk_overlay");
        self.blanks.clone_to(&overlay, size).await.map_err(Fault::from)?;
        let kernel = self.template.kernel_elf().unwrap_or_else(|| self.template.kernel());
        for (file, name) in [(kernel, "kernel"), (self.template.rootfs(), "disk_root")] {
            symlink(file, self.dir.join(name)).map_err(|error| local(name, error))?;
        }
        self.write("config.json", &self.config_file()?)?;
        let mut argv = vec![self.program.clone(), "--no-api".to_owned()];
        argv.extend(["--config-file".to_owned(), "config.json".to_owned()]);
        argv.extend(self.pci.then(|| "--enable-pci".to_owned()));

        let began = Instant::now();
        let firecracker = Started::spawn_in(&argv, Some(&self.dir), None)?;
        let uds = self.dir.join("vsock");
        let endpoint = Endpoint::Vsock { uds, port: u32::from(AGENT_PORT) };
        let agent = AgentClient::new(vec![endpoint], Deadlines::default());
        let ready = agent.wait_ready(BOOT_DEADLINE).await;
        let took = began.elapsed();
        ready.map_err(|error| {
            Fault::new(Code::AgentSilent, format!("the bare Firecracker: {error}"))
        })?;
        drop(firecracker);
        let _ = std::fs::remove_dir_all(&self.dir);
        Ok(took)
    }

    /// The configuration as a file may have it: without what is not set, and a custom CPU template in
    /// a file of its own.
    fn config_file(&self) -> Result<Value, CliError> {
        let mut config = self.config.clone();
        if let Some(sections) = config.as_object_mut() {
            sections.retain(|_, section| !section.is_null());
            for section in ["cpu-config", "logger", "metrics"] {
                sections.remove(section);
            }
            if let Some(CpuTemplate::Custom(modifiers)) =
                &self.template.manifest.kernel.cpu_template
            {
                self.write("cpu.json", &json!(modifiers))?;
                sections.insert("cpu-config".to_owned(), json!("cpu.json"));
            }
        }
        Ok(config)
    }

    fn write(&self, name: &str, json: &Value) -> Result<(), CliError> {
        let path = self.dir.join(name);
        std::fs::write(&path, json.to_string()).map_err(|error| local(path.display(), error).into())
    }
}

/// What the Firecracker behind this API socket was told.
async fn config_of(socket: &Path) -> Result<Value, CliError> {
    let failed = |error: reqwest::Error| Fault::internal(format!("GET /vm/config: {error}"));
    let client = reqwest::Client::builder().unix_socket(socket).build().map_err(failed)?;
    let answer = client.get("http://localhost/vm/config").send().await.map_err(failed)?;
    Ok(answer.json().await.map_err(failed)?)
}
