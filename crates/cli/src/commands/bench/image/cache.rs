//! What VMs of one template take of the host's page cache: the root filesystem once, however many.
//!
//! Measured in two ways. A hundred readers, each with the base open as its VMM has it and a disk of
//! its own, read all of the base. And as many real VMs as asked for boot, and each reads all of the
//! disk that is its base. What counts is what the cache holds (`fincore`) of every file that a reader or a VM's process has
//! open, each file once, beside the size of one base; the VMs' own files are told apart. How much the
//! host's cache grew meanwhile (`Cached` without `Shmem`) is told too, without a goal: whatever else
//! runs on the host reads and writes files, too.

use super::{super::server, Figure, run};
use crate::{
    args::{Args, ImageBenchArgs},
    client::Client,
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_gateway::api::Execute;
use aetherium_image::{BlankDisks, InstalledTemplate};
use aetherium_model::{Fault, Name, interactive::Captured, vm::Vm};
use aetherium_worker::Layout;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const READERS: u32 = 100;
/// The root disk comes first, over PCI and MMIO alike.
const ROOT_DISK: &str = "/dev/vda";

pub(super) async fn of_readers(
    data: &DataDir,
    work: &Path,
    wanted: &ImageBenchArgs,
    bars: &Bars,
) -> Result<Vec<Figure>, CliError> {
    bars.spin(&format!("{READERS} readers of one root filesystem"));
    let base = template(data, &wanted.bench.template)?.rootfs();
    let size = mib(fs::metadata(&base).map_err(|error| local(base.display(), error))?.len());
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let blanks = BlankDisks::open(layout.blanks()).map_err(Fault::from)?;
    let disk = template(data, &wanted.bench.template)?.manifest.defaults.disk_mib;
    forget(&base)?;
    let (before, mut readers, mut disks) = (cached_mib()?, Vec::new(), Vec::new());
    for n in 0..READERS {
        let path = work.join(format!("disk{n}.ext4"));
        blanks.clone_to(&path, disk).await.map_err(Fault::from)?;
        let mut reader = File::open(&base).map_err(|error| local(base.display(), error))?;
        read_all(&mut reader, &base)?;
        readers.push(reader);
        disks.push(path);
    }
    let own = resident_mib(&disks)?;
    let held = resident_mib(std::slice::from_ref(&base))?;
    let grown = cached_mib()? - before;
    for disk in &disks {
        fs::remove_file(disk).map_err(|error| local(disk.display(), error))?;
    }
    Ok(vec![
        Figure::new(&format!("cache.{READERS}_readers_of_a_base"), held, "MiB")
            .over(size)
            .ratio_at_most(1.0),
        Figure::new(&format!("cache.{READERS}_readers_own_disks"), own, "MiB"),
        Figure::new(&format!("cache.{READERS}_readers_host_growth"), grown, "MiB"),
    ])
}

pub(super) async fn of_vms(
    args: &Args,
    data: &DataDir,
    wanted: &ImageBenchArgs,
    bars: &Bars,
) -> Result<Vec<Figure>, CliError> {
    let template = template(data, &wanted.bench.template)?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let server = server(args, &wanted.bench).await?;
    let measured = async {
        let client = server.client()?;
        let base = template.rootfs();
        forget(&base)?;
        let before = cached_mib()?;
        let mut vms = Vec::new();
        for n in 0..wanted.vms {
            bars.spin(&format!("VM {} of {}", n + 1, wanted.vms));
            let made = super::super::create(&client, &template.manifest.name).await?;
            let vm = super::super::super::vm::running(&client, &made.id.to_string()).await?;
            read_in_guest(&client, &vm, &base).await?;
            vms.push(vm);
        }
        let own = resident_mib(&own_files(&layout, &vms)?)?;
        let grown = cached_mib()? - before;
        let found = fs::metadata(&base).map_err(|error| local(base.display(), error))?;
        let (size, inode) = (mib(found.len()), (found.dev(), found.ino()));
        let open = open_files(&layout, &vms)?;
        let sharing = open.iter().filter(|files| files.contains_key(&inode)).count() as f64;
        // Each file once, however many have it open.
        let all: BTreeMap<_, _> = open.into_iter().flatten().collect();
        let held = resident_mib(&all.into_values().collect::<Vec<_>>())?;
        let count = vms.len();
        Ok(vec![
            Figure::new("cache.vms_with_the_one_base_open", sharing, "VMs")
                .over(f64::from(wanted.vms))
                .ratio_at_least(1.0),
            Figure::new(&format!("cache.{count}_vms_of_a_base"), held, "MiB")
                .over(size)
                .ratio_at_most(1.0),
            Figure::new(&format!("cache.{count}_vms_own_files"), own, "MiB"),
            Figure::new(&format!("cache.{count}_vms_host_growth"), grown, "MiB"),
        ])
    }
    .await;
    server.stop().await;
    measured
}

/// Has a VM read its root disk from end to end, past the filesystem on it.
async fn read_in_guest(client: &Client, vm: &Vm, base: &Path) -> Result<(), CliError> {
    let size = fs::metadata(base).map_err(|error| local(base.display(), error))?.len();
    let count = format!("cat {ROOT_DISK} | wc -c");
    let request = Execute {
        schedule: Default::default(),
        argv: ["sh", "-c", &count].map(str::to_owned).into(),
        env: BTreeMap::new(),
        secrets: Default::default(),
        cwd: None,
        user: None,
        timeout_ms: None,
        detached: false,
    };
    let ran: Captured = client.post(&format!("/vms/{}/execute", vm.id), &request).await?;
    if ran.stdout.trim() == size.to_string() {
        return Ok(());
    }
    let said = format!("{}{}", ran.stdout, ran.stderr);
    let detail =
        format!("the VM read {:?} of the {size} bytes of its root filesystem", said.trim());
    Err(Fault::internal(detail).into())
}

fn template(data: &DataDir, name: &Name) -> Result<InstalledTemplate, CliError> {
    Ok(super::super::super::template::open(data)?.get(name).map_err(Fault::from)?)
}

/// What the VMs have for themselves: disks, initramfs, logs.
fn own_files(layout: &Layout, vms: &[Vm]) -> Result<Vec<PathBuf>, CliError> {
    let mut files = Vec::new();
    for vm in vms {
        let dir = layout.vm(vm.id);
        for entry in fs::read_dir(&dir).map_err(|error| local(dir.display(), error))? {
            let path = entry.map_err(|error| local(dir.display(), error))?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// A file, whatever its name: its device and inode.
type FileId = (u64, u64);

/// The files that the processes of each VM have open, but for those in the VM's own directory.
fn open_files(layout: &Layout, vms: &[Vm]) -> Result<Vec<BTreeMap<FileId, PathBuf>>, CliError> {
    let strays = aetherium_vmm::strays(&layout.vms()).map_err(Fault::from)?;
    let files_of = |vm: &Vm| {
        let own = layout.vm(vm.id);
        let processes =
            strays.iter().filter(|it| it.vm_id == vm.id).flat_map(|it| it.processes.iter());
        let descriptors = processes
            .flat_map(|it| fs::read_dir(format!("/proc/{}/fd", it.pid)).into_iter().flatten());
        // A descriptor may be closed meanwhile.
        let files = descriptors.flatten().filter_map(|it| {
            let path = fs::read_link(it.path()).ok()?;
            let found = fs::metadata(&path).ok()?;
            let wanted = found.is_file() && !path.starts_with(&own);
            wanted.then(|| ((found.dev(), found.ino()), path))
        });
        files.collect()
    };
    Ok(vms.iter().map(files_of).collect())
}

/// Drops a file from the page cache, as far as nobody has it mapped.
fn forget(file: &Path) -> Result<(), CliError> {
    let open = File::open(file).map_err(|error| local(file.display(), error))?;
    let all = rustix::fs::Advice::DontNeed;
    Ok(rustix::fs::fadvise(&open, 0, None, all).map_err(|error| local(file.display(), error))?)
}

fn read_all(reader: &mut File, path: &Path) -> Result<(), CliError> {
    let mut chunk = vec![0; 1 << 20];
    while reader.read(&mut chunk).map_err(|error| local(path.display(), error))? > 0 {}
    Ok(())
}

/// What of these files is in the page cache, by `fincore`(1).
fn resident_mib(files: &[PathBuf]) -> Result<f64, CliError> {
    if files.is_empty() {
        return Ok(0.0);
    }
    let printed = run(Command::new("fincore")
        .args(["--bytes", "--noheadings", "--output", "RES"])
        .args(files))?;
    Ok(mib(printed.lines().filter_map(|line| line.trim().parse::<u64>().ok()).sum()))
}

/// The host's page cache without shared memory: `Cached` and `Shmem` of proc_meminfo(5).
fn cached_mib() -> Result<f64, CliError> {
    let text =
        fs::read_to_string("/proc/meminfo").map_err(|error| local("/proc/meminfo", error))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<f64>().ok())
    };
    let cached = field("Cached:").zip(field("Shmem:")).map(|(cached, shared)| cached - shared);
    let kib = cached.ok_or_else(|| Fault::internal("/proc/meminfo has no Cached or no Shmem"))?;
    Ok(kib / 1024.0)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
