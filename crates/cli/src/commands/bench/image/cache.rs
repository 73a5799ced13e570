//! What VMs of one template take of the host's page cache: the root filesystem once, however many.
//!
//! Measured in two ways. A hundred readers, each with the base open as its VMM has it and a disk of
//! its own, read all of the base. And as many real VMs as asked for boot and read what a boot reads;
//! what the host's cache then holds beyond that before the first of them, without shared memory (a
//! guest's own memory may be a memfd) and without the VMs' own disks and initramfs, is the base's.

use super::{super::server, Figure, run};
use crate::{
    args::{Args, ImageBenchArgs},
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_image::{BlankDisks, InstalledTemplate};
use aetherium_model::{Fault, Name, vm::Vm};
use aetherium_worker::Layout;
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

const READERS: u32 = 100;
/// Whatever else runs on the host reads and writes files, too.
const NOISE_MIB: f64 = 16.0;

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
    let grown = cached_mib()? - before - own;
    for disk in &disks {
        fs::remove_file(disk).map_err(|error| local(disk.display(), error))?;
    }
    Ok(vec![
        Figure::new(&format!("cache.{READERS}_readers_of_a_base"), grown, "MiB")
            .over(size + NOISE_MIB)
            .ratio_at_most(1.0),
        Figure::new(&format!("cache.{READERS}_readers_own_disks"), own, "MiB"),
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
            vms.push(super::super::super::vm::running(&client, &made.id.to_string()).await?);
        }
        let held = resident_mib(std::slice::from_ref(&base))?;
        let own = resident_mib(&own_files(&layout, &vms)?)?;
        let grown = cached_mib()? - before - own;
        let inode = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
        let wanted_inode = inode(&base).map_err(|error| local(base.display(), error))?;
        let sharing = sharing(&layout, &vms, wanted_inode)?;
        let count = vms.len();
        Ok(vec![
            Figure::new("cache.vms_with_the_one_base_open", f64::from(sharing), "VMs")
                .over(f64::from(wanted.vms))
                .ratio_at_least(1.0),
            Figure::new(&format!("cache.{count}_vms_of_a_base"), grown, "MiB")
                .over(held + NOISE_MIB)
                .ratio_at_most(1.0),
            Figure::new(&format!("cache.{count}_vms_own_files"), own, "MiB"),
        ])
    }
    .await;
    server.stop().await;
    measured
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

/// How many of the VMs have a process with this very file open.
fn sharing(layout: &Layout, vms: &[Vm], file: (u64, u64)) -> Result<u32, CliError> {
    let strays = aetherium_vmm::strays(&layout.vms()).map_err(Fault::from)?;
    let opens = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        // A descriptor may be closed meanwhile.
        open.filter_map(|it| fs::metadata(it.path()).ok()).any(|it| (it.dev(), it.ino()) == file)
    };
    let sharers = vms.iter().filter(|vm| {
        let own = strays.iter().filter(|it| it.vm_id == vm.id);
        own.flat_map(|it| &it.processes).any(|process| opens(process.pid))
    });
    Ok(u32::try_from(sharers.count()).unwrap_or(u32::MAX))
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
