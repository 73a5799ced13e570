//! `aetherium template test`: boots a template and sees that what every VM needs works.
//!
//! It runs in a directory of its own, with a store that has this one template and shares the files of
//! the real one. So it disturbs no server that may run, and leaves nothing but its verdict.

use super::{elapsed_ms, open};
use crate::{
    args::{Args, DriverArgs},
    commands::vm,
    datadir::DataDir,
    error::{CliError, local},
    print,
    progress::Bars,
    server::{Server, ServerConfig},
};
use aetherium_agent_client::{
    AgentClient, AgentError, ByteRange, ExecSpec, ExitStatus, Reach, WriteOptions, collect,
};
use aetherium_gateway::api::CreateVm;
use aetherium_image::{Holder, InstalledTemplate, TemplateStore};
use aetherium_model::{
    Code, Fault, Name, TemplateRef, Timestamp, VmId,
    boot_test::BootTest,
    finding::{Finding, Verdict},
    task::Task,
    vm::Vm,
};
use aetherium_worker::Layout;
use bytes::Bytes;
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

/// The directory of the test, inside the data directory: on the filesystem of the template's files,
/// which a jailed VMM is given by hard links. Short, as the paths of a VM's sockets must be.
const DIR: &str = ".boot";
/// What is written to see whether the disk can be: more than any cache of a filesystem's metadata.
const WRITTEN_BYTES: usize = 1 << 20;
/// How far a guest's clock may be off: nothing that checks a certificate minds.
const MOST_CLOCK_ERROR: Duration = Duration::from_secs(5);
/// The most that is kept of what the tried command prints.
const MOST_OUTPUT: usize = 4096;
/// How long a command may take in an emulated guest on a busy host, in milliseconds.
const COMMAND_DEADLINE_MS: u64 = 60_000;

pub(super) async fn test(
    args: &Args,
    data: &DataDir,
    wanted: &TemplateRef,
    driver: &DriverArgs,
    boot_deadline: Duration,
) -> Result<(), CliError> {
    let store = open(data)?;
    // As a VM would, so that nobody removes it meanwhile.
    let holder = Holder::Vm(VmId::new());
    let template = store.hold(&holder, wanted).map_err(Fault::from)?;
    let bars = Bars::new();
    bars.spin(&format!("booting {wanted}"));
    let tested = async {
        let place = Place::make(data, &store, &template)?;
        let test = Box::pin(boot(&place, &template, driver, boot_deadline)).await?;
        place.remove()?;
        Ok::<_, CliError>(test)
    };
    let tested = tested.await;
    bars.clear();
    store.release(&holder).map_err(Fault::from)?;
    let test = tested?;
    store.record_boot_test(&template, &test).map_err(Fault::from)?;
    if args.json {
        print::json(&test)?;
    } else {
        show(wanted, &test);
    }
    if test.passed() {
        return Ok(());
    }
    let failed = test.checks.iter().filter(|it| it.verdict == Verdict::Fail);
    let names: Vec<_> = failed.map(|it| it.check.clone()).collect();
    let fault = Fault::new(
        Code::TemplateBroken,
        format!("template {wanted} did not pass: {}", names.join(", ")),
    );
    Err(fault.remedy("see what each failed check says to do, and build it again").into())
}

fn show(wanted: &TemplateRef, test: &BootTest) {
    for check in &test.checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        println!("{mark} {:<18} {}", check.check, check.found);
        if check.verdict != Verdict::Ok {
            println!("     what to do: {}", check.remedy);
        }
    }
    let verdict = if test.passed() { "passed" } else { "did not pass" };
    println!(
        "{wanted} {verdict} under {} in {}",
        test.driver.as_str(),
        print::millis(test.took_ms)
    );
}

/// The directory that tests run in. It stays when a test is killed, so that the next one finds what
/// that has left running.
struct Place {
    dir: PathBuf,
    subject: Name,
}

impl Place {
    fn make(
        data: &DataDir,
        store: &TemplateStore,
        template: &InstalledTemplate,
    ) -> Result<Self, CliError> {
        let dir = data.path().join(DIR);
        let templates = dir.join("templates");
        let io = |error| CliError::from(local(dir.display(), error));
        fs::create_dir_all(&templates).map_err(io)?;
        link(&store.dir().join("blobs"), &templates.join("blobs")).map_err(io)?;
        // What is known about this host's accelerators need not be found out again.
        let probes = Layout::open(data.path()).map_err(Fault::from)?.probes();
        link(&probes, &dir.join("probes")).map_err(io)?;
        let subject: Name = format!("test-{}", &template.digest().map_err(Fault::from)?.short())
            .parse()
            .map_err(Fault::internal)?;
        let alone = TemplateStore::open(templates).map_err(Fault::from)?;
        alone.derive(template, &subject, |_| {}).map_err(Fault::from)?;
        Ok(Self { dir, subject })
    }

    /// Removes it. Whoever does so has had it for a server of its own.
    fn remove(self) -> Result<(), CliError> {
        fs::remove_dir_all(&self.dir)
            .map_err(|error| local(format!("cannot remove {}", self.dir.display()), error).into())
    }
}

/// Makes a link, unless there is one from an earlier test.
fn link(target: &Path, place: &Path) -> io::Result<()> {
    match symlink(target, place) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

async fn boot(
    place: &Place,
    template: &InstalledTemplate,
    driver: &DriverArgs,
    boot_deadline: Duration,
) -> Result<BootTest, CliError> {
    let config = ServerConfig {
        boot_deadline,
        ..ServerConfig::private(DataDir::locate(Some(&place.dir))?, driver.clone())
    };
    let server = Server::start(config).await?;
    let kind = server.driver().map(|(kind, _)| *kind).map_err(Clone::clone);
    let tested = async {
        let kind = kind?;
        if !kind.starts_from_template() {
            let fault =
                Fault::new(Code::InvalidRequest, format!("the {kind} driver boots no template"));
            return Err(fault.remedy("test with --driver qemu or firecracker").into());
        }
        let began = Instant::now();
        let (accelerator, checks) = Box::pin(run(&server, &place.subject)).await?;
        let manifest = &template.manifest;
        let versions = [
            ("aetherium", env!("CARGO_PKG_VERSION").to_owned()),
            ("agent", manifest.initramfs.agent_version.clone()),
            ("kernel", manifest.kernel.release.clone()),
            ("driver", server.driver().map(|(_, reason)| reason.clone()).unwrap_or_default()),
        ];
        Ok(BootTest {
            at: Timestamp::from(SystemTime::now()),
            took_ms: elapsed_ms(began),
            driver: kind,
            accelerator,
            versions: versions.map(|(name, version)| (name.to_owned(), version)).into(),
            checks,
        })
    }
    .await;
    server.stop().await;
    tested
}

/// Starts a VM, checks it, and ends it.
async fn run(server: &Server, subject: &Name) -> Result<(Option<String>, Vec<Finding>), CliError> {
    let client = server.client()?;
    let request = CreateVm { template: Some(subject.into()), ..CreateVm::default() };
    let made: Vm = client.post("/vms", &request).await?;
    let id = made.id.to_string();
    let why = "nothing runs in a VM whose agent does not answer";
    let vm = match vm::running(&client, &id).await {
        Ok(vm) => vm,
        Err(error) => {
            let fault = error.fault();
            let mut found = fault.detail.clone();
            for line in &fault.evidence {
                found = format!("{found}\n     | {line}");
            }
            return Ok((None, vec![Finding::fail("agent", found, why, fault.remedy.clone())]));
        }
    };
    let agent = server.worker.agent(vm.id).await?;
    let took = vm.timings.map_or(0, |timings| timings.total_ms());
    let over = vm.agent_transport.map_or("nothing", |it| it.as_str());
    let mut checks =
        vec![Finding::ok("agent", format!("answered over {over} after {took} ms"), why)];
    checks.push(Box::pin(clock(&agent)).await);
    checks.push(Box::pin(dns(&agent)).await);
    checks.push(Box::pin(disk(&agent)).await);
    checks.push(Box::pin(exec(&agent)).await);
    client.delete::<Task>(&format!("/vms/{id}")).await?;
    Ok((vm.accelerator, checks))
}

/// The guest's clock, as a file that it has just written tells.
async fn clock(agent: &AgentClient) -> Finding {
    let why = "certificates and tokens are refused by a machine whose clock is wrong";
    let fix = "see that the kernel has a clock the host gives it (kvm-clock, or an RTC)";
    let told = async {
        let before = SystemTime::now();
        let written = write(agent, "/tmp/.aetherium-clock", b"now".to_vec()).await?;
        Ok::<_, AgentError>((before, written, SystemTime::now()))
    };
    match told.await {
        Err(error) => Finding::fail("clock", error.to_string(), why, fix),
        Ok((before, guest, after)) => {
            let early = before.duration_since(guest).unwrap_or_default();
            let late = guest.duration_since(after).unwrap_or_default();
            let off = early.max(late);
            let found = format!("{} ms from the host's", off.as_millis());
            if off <= MOST_CLOCK_ERROR {
                Finding::ok("clock", found, why)
            } else {
                Finding::fail("clock", found, why, fix)
            }
        }
    }
}

/// Where the guest would ask for names. Whether anybody answers is the network's affair.
async fn dns(agent: &AgentClient) -> Finding {
    let why = "names are looked up where /etc/resolv.conf says";
    let fix = "let /etc/resolv.conf be a file, or nothing: the agent writes it";
    match read(agent, "/etc/resolv.conf").await {
        Err(error) => Finding::warn("dns", error.to_string(), why, fix),
        Ok(text) => {
            let servers: Vec<_> = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("nameserver"))
                .map(str::trim)
                .collect();
            if servers.is_empty() {
                Finding::warn("dns", "/etc/resolv.conf names no server", why, fix)
            } else {
                Finding::ok("dns", format!("asks {}", servers.join(", ")), why)
            }
        }
    }
}

/// Whether a file on the root can be written, read and removed.
async fn disk(agent: &AgentClient) -> Finding {
    let why = "a VM's files are written to a disk of its own, over the template's";
    let path = "/.aetherium-disk";
    let content: Vec<u8> = (0..WRITTEN_BYTES).map(|n| (n % 251) as u8).collect();
    let tried = async {
        write(agent, path, content.clone()).await?;
        let back = read_bytes(agent, path).await?;
        agent.files().remove(path, Reach::Itself).await?;
        Ok::<_, AgentError>(back == content)
    };
    let fix = "see that the kernel has overlayfs and ext4, and the disk has room";
    match tried.await {
        Ok(true) => Finding::ok("disk", format!("{WRITTEN_BYTES} bytes written and read"), why),
        Ok(false) => Finding::fail("disk", "what was read is not what was written", why, fix),
        Err(error) => Finding::fail("disk", error.to_string(), why, fix),
    }
}

/// Whether a program runs. The guest's first process is one that every template has.
async fn exec(agent: &AgentClient) -> Finding {
    let why = "prompts and commands are programs that the agent starts";
    let fix = "see that /proc is mounted, and that programs of the root can be started";
    let spec = ExecSpec {
        timeout_ms: Some(COMMAND_DEADLINE_MS),
        ..ExecSpec::new(["/proc/1/exe", "--version"])
    };
    let ran = async {
        let process = agent.exec(spec).await.map_err(|error| error.to_string())?;
        collect(process, MOST_OUTPUT).await.map_err(|error| error.to_string())
    };
    match ran.await {
        Ok(output) if output.exit.status == ExitStatus::Code(0) => {
            let said = String::from_utf8_lossy(&output.stdout);
            Finding::ok("exec", format!("ran {}", said.lines().next().unwrap_or("")), why)
        }
        Ok(output) => Finding::fail("exec", format!("{:?}", output.exit.status), why, fix),
        Err(error) => Finding::fail("exec", error, why, fix),
    }
}

/// Writes a file, and returns when the guest says that it was.
async fn write(
    agent: &AgentClient,
    path: &str,
    content: Vec<u8>,
) -> Result<SystemTime, AgentError> {
    let mut writer = agent.files().write(path, WriteOptions::default()).await?;
    writer.write(Bytes::from(content)).await?;
    Ok(writer.commit().await?.modified)
}

async fn read(agent: &AgentClient, path: &str) -> Result<String, AgentError> {
    Ok(String::from_utf8_lossy(&read_bytes(agent, path).await?).into_owned())
}

async fn read_bytes(agent: &AgentClient, path: &str) -> Result<Vec<u8>, AgentError> {
    let mut reader = agent.files().read(path, ByteRange::default()).await?;
    let mut all = Vec::new();
    while let Some(piece) = reader.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}
