//! `aetherium template …`: the templates of the data directory, with or without a server.

mod boot;
mod kept;
mod transfer;

use super::{build, kernel, remote_build};
use crate::{
    args::{Args, BuildArgs, DEFAULT_BLOB_CACHE_MIB, DriverArgs, TemplateCommand, TuningArgs},
    datadir::DataDir,
    error::{CliError, local},
    print,
    progress::Bars,
    server,
};
use aetherium_image::{
    BlobCache, BuildRequest, InstalledTemplate, Keep, KernelSource, Mirror, Packing, Progress,
    RegistryAccess, Removal, RootfsSource, TemplateStore,
};
use aetherium_model::{
    Code, Fault, Name, TemplateRef,
    resources::Resources,
    template::{CpuTemplate, Template},
};
use aetherium_worker::Layout;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

pub(crate) async fn dispatch(args: &Args, verb: &TemplateCommand) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    match verb {
        TemplateCommand::Build(build) => {
            if let Some(file) = &build.file {
                if build.remote {
                    return remote_build::build(args, build, file).await;
                }
                return build::from_recipe(args, &data, build, file).await;
            }
            let began = Instant::now();
            let bars = Bars::new();
            let built = make(&data, build, &bars).await;
            bars.clear();
            let template = built?.manifest;
            if args.json {
                return print::json(&template);
            }
            println!("built {} in {}", template.name, print::millis(elapsed_ms(began)));
            describe(&template);
        }
        TemplateCommand::List { all } => kept::list(args, &data, *all)?,
        TemplateCommand::Get { template } => {
            print::json(&open(&data)?.get(template).map_err(Fault::from)?.manifest)?;
        }
        TemplateCommand::Inspect { template, verify } => {
            kept::inspect(args, &data, template, *verify).await?;
        }
        TemplateCommand::Tag { template, to } => kept::tag(args, &data, template, to)?,
        TemplateCommand::Remove { template } => kept::remove(args, &data, template)?,
        TemplateCommand::Gc { dry_run, keep_last, keep_tools } => {
            let removal = if *dry_run { Removal::Pretended } else { Removal::Real };
            let keep = Keep { last: *keep_last, derived: *keep_tools };
            kept::collect(args, &data, keep, removal).await?;
        }
        TemplateCommand::Export { template, output, zstd } => {
            let packing = if *zstd { Packing::Zstd } else { Packing::Gzip };
            transfer::export(args, &data, template, packing, output.as_deref()).await?;
        }
        TemplateCommand::Import { file, place } => {
            transfer::import(args, &data, file, place).await?;
        }
        TemplateCommand::Push { template, to } => {
            transfer::push(args, &data, template, to).await?;
        }
        TemplateCommand::Pull { from, place, mirror } => {
            transfer::pull(args, &data, from, place, mirror).await?;
        }
        TemplateCommand::Test { template, driver, boot_deadline } => {
            Box::pin(boot::test(args, &data, template, driver, *boot_deadline)).await?;
        }
    }
    Ok(())
}

/// Opens the templates of a data directory.
pub(crate) fn open(data: &DataDir) -> Result<TemplateStore, CliError> {
    data.create()?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    Ok(TemplateStore::open(layout.templates()).map_err(Fault::from)?)
}

/// Builds a template as the arguments say.
pub(crate) async fn make(
    data: &DataDir,
    args: &BuildArgs,
    progress: &dyn Progress,
) -> Result<InstalledTemplate, CliError> {
    let store = open(data)?;
    let rootfs = match (&args.from, &args.rootfs) {
        (Some(origin), _) => RootfsSource::Image {
            origin: origin.clone(),
            registry: Box::new(registry(data, &args.mirror, args.blob_cache_mib)),
        },
        (None, Some(path)) if path.is_dir() => RootfsSource::Directory(path.clone()),
        (None, Some(path)) => RootfsSource::Ext4Image(path.clone()),
        (None, None) => RootfsSource::Packages { include: args.include.clone() },
    };
    let kernel = kernel(data, &store, args)?;
    let request = request(args, kernel, rootfs, Resources::default())?;
    let built = aetherium_image::build_as(&store, request, &args.name, progress).await;
    Ok(built.map_err(Fault::from)?)
}

/// The kernel of the arguments, else the distribution's.
pub(crate) fn kernel(
    data: &DataDir,
    store: &TemplateStore,
    args: &BuildArgs,
) -> Result<KernelSource, CliError> {
    Ok(match (&args.kernel, &args.kernel_of) {
        (Some(named), _) => {
            let found = kernel::resolve(data, named)?;
            let modules = args.modules.clone().or(found.modules);
            KernelSource::Files { kernel: found.image, modules }
        }
        (None, Some(name)) => {
            KernelSource::Template(Box::new(store.get(name).map_err(Fault::from)?))
        }
        (None, None) => KernelSource::DistributionPackage { cache: data.path().join("cache") },
    })
}

/// A request of the arguments, and of what they leave to others.
pub(crate) fn request(
    args: &BuildArgs,
    kernel: KernelSource,
    rootfs: RootfsSource,
    defaults: Resources,
) -> Result<BuildRequest, CliError> {
    Ok(BuildRequest {
        name: args.name.name.clone(),
        kernel,
        rootfs,
        agent: agent(&args.driver)?,
        defaults: Resources {
            vcpus: args.vcpus.unwrap_or(defaults.vcpus),
            memory_mib: args.memory_mib.unwrap_or(defaults.memory_mib),
            disk_mib: args.disk_mib.unwrap_or(defaults.disk_mib),
        },
        tuning: args.tuning.tuning(),
        kernel_args: args.kernel_arg.clone(),
        cpu_template: args.cpu_template.as_deref().map(cpu_template).transpose()?,
        transport: args.transport,
        snapshots: args.snapshots,
        replace: args.replace,
    })
}

/// How registries are reached: the cache in the data directory, and logins as `docker` has them.
pub(crate) fn registry(data: &DataDir, mirrors: &[Mirror], blob_cache_mib: u32) -> RegistryAccess {
    let bytes = u64::from(blob_cache_mib) << 20;
    let cache = BlobCache::new(data.path().join("cache/blobs"), bytes);
    RegistryAccess::as_logged_in(cache, mirrors.to_vec())
}

/// What `template build NAME` without further arguments makes.
pub(crate) fn defaults(name: Name, agent: Option<PathBuf>) -> BuildArgs {
    BuildArgs {
        name: TemplateRef::latest(name),
        file: None,
        remote: false,
        no_cache: false,
        include: Vec::new(),
        kernel: None,
        modules: None,
        kernel_of: None,
        rootfs: None,
        from: None,
        mirror: Vec::new(),
        blob_cache_mib: DEFAULT_BLOB_CACHE_MIB,
        kernel_arg: Vec::new(),
        cpu_template: None,
        transport: None,
        snapshots: None,
        vcpus: None,
        memory_mib: None,
        disk_mib: None,
        tuning: TuningArgs::default(),
        replace: false,
        driver: DriverArgs { agent, ..DriverArgs::default() },
    }
}

/// Reads a custom CPU template; what is in it is for Firecracker to judge.
fn cpu_template(path: &Path) -> Result<CpuTemplate, CliError> {
    let text = std::fs::read(path).map_err(|error| local(path.display(), error))?;
    let modifiers = serde_json::from_slice(&text).map_err(|error| {
        let detail = format!("{} is no CPU template: {error}", path.display());
        Fault::new(Code::InvalidRequest, detail)
            .remedy("give a JSON object as Firecracker's documentation of CPU templates has it")
    })?;
    Ok(CpuTemplate::Custom(modifiers))
}

fn agent(driver: &DriverArgs) -> Result<PathBuf, CliError> {
    server::agent_binary(driver).ok_or_else(|| {
        Fault::new(Code::NotFound, "the guest agent's binary, fc-agent, is not beside this program")
            .remedy("run `make build`, or name the binary with --agent")
            .into()
    })
}

pub(crate) fn describe(template: &Template) {
    println!("  kernel     {} ({})", template.kernel.release, mib(template.kernel.image.size));
    let initramfs = &template.initramfs;
    println!(
        "  initramfs  {} modules, agent {} ({})",
        initramfs.modules.len(),
        initramfs.agent_version,
        mib(initramfs.image.size)
    );
    println!("  root       {} ({})", template.rootfs.origin, mib(template.rootfs.image.size));
    println!("  digest     sha256:{}", template.digest);
}

/// Bytes as people read them.
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

pub(crate) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
