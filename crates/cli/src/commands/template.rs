//! `aetherium template …`: the templates of the data directory, with or without a server.

use crate::{
    args::{Args, BuildArgs, DriverArgs, TemplateCommand, TuningArgs},
    datadir::DataDir,
    error::{CliError, local},
    print,
    progress::Bars,
    server,
};
use aetherium_image::{
    BlobCache, BuildRequest, Credentials, InstalledTemplate, KernelSource, Progress,
    RegistryAccess, RootfsSource, TemplateStore,
};
use aetherium_model::{
    Code, Fault, Name,
    resources::Resources,
    template::{CpuTemplate, Template},
};
use aetherium_worker::Layout;
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// Downloaded layers that are kept for the next build: some tens of images.
const BLOB_CACHE_BYTES: u64 = 10 << 30;

pub(crate) async fn dispatch(args: &Args, verb: &TemplateCommand) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    match verb {
        TemplateCommand::Build(build) => {
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
        TemplateCommand::List => {
            let templates = open(&data)?.list().map_err(Fault::from)?;
            if args.json {
                return print::json(&templates);
            }
            let rows: Vec<_> = templates.iter().map(row).collect();
            print::table(&["NAME", "KERNEL", "ROOT", "SIZE", "BUILT"], &rows);
        }
        TemplateCommand::Get { name } => {
            print::json(&open(&data)?.get(name).map_err(Fault::from)?.manifest)?;
        }
        TemplateCommand::Remove { name } => {
            open(&data)?.remove(name).map_err(Fault::from)?;
            println!("removed {name}");
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
    let defaults = Resources::default();
    let request = BuildRequest {
        name: args.name.clone(),
        kernel: match &args.kernel {
            Some(kernel) => {
                KernelSource::Files { kernel: kernel.clone(), modules: args.modules.clone() }
            }
            None => KernelSource::DistributionPackage { cache: data.path().join("cache") },
        },
        rootfs: match (&args.from, &args.rootfs) {
            (Some(origin), _) => RootfsSource::Image {
                origin: origin.clone(),
                registry: Box::new(registry(data, args)),
            },
            (None, Some(path)) if path.is_dir() => RootfsSource::Directory(path.clone()),
            (None, Some(path)) => RootfsSource::Ext4Image(path.clone()),
            (None, None) => RootfsSource::Packages { include: args.include.clone() },
        },
        agent: agent(args.agent.as_deref())?,
        defaults: Resources {
            vcpus: args.vcpus.unwrap_or(defaults.vcpus),
            memory_mib: args.memory_mib.unwrap_or(defaults.memory_mib),
            disk_mib: args.disk_mib.unwrap_or(defaults.disk_mib),
        },
        tuning: args.tuning.tuning(),
        kernel_args: args.kernel_arg.clone(),
        cpu_template: args.cpu_template.as_deref().map(cpu_template).transpose()?,
        transport: args.transport,
        replace: args.replace,
    };
    Ok(aetherium_image::build(&store, request, progress).await.map_err(Fault::from)?)
}

/// How registries are reached: the cache in the data directory, and logins as `docker` has them.
fn registry(data: &DataDir, args: &BuildArgs) -> RegistryAccess {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let credentials = variable("AETHERIUM_REGISTRY_USERNAME")
        .zip(variable("AETHERIUM_REGISTRY_PASSWORD"))
        .map(|(username, password)| Credentials { username, password });
    let docker = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
    RegistryAccess {
        cache: BlobCache::new(data.path().join("cache/blobs"), BLOB_CACHE_BYTES),
        mirrors: args.mirror.clone(),
        credentials,
        docker_config: docker.map(|dir| dir.join("config.json")),
    }
}

/// What `template build NAME` without further arguments makes.
pub(crate) fn defaults(name: Name, agent: Option<PathBuf>) -> BuildArgs {
    BuildArgs {
        name,
        include: Vec::new(),
        kernel: None,
        modules: None,
        rootfs: None,
        from: None,
        mirror: Vec::new(),
        kernel_arg: Vec::new(),
        cpu_template: None,
        transport: None,
        vcpus: None,
        memory_mib: None,
        disk_mib: None,
        tuning: TuningArgs::default(),
        replace: false,
        agent,
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

fn agent(named: Option<&Path>) -> Result<PathBuf, CliError> {
    let driver = DriverArgs { agent: named.map(Path::to_owned), ..DriverArgs::default() };
    server::agent_binary(&driver).ok_or_else(|| {
        Fault::new(Code::NotFound, "the guest agent's binary, fc-agent, is not beside this program")
            .remedy("run `make build`, or name the binary with --agent")
            .into()
    })
}

fn row(template: &Template) -> Vec<String> {
    vec![
        template.name.to_string(),
        template.kernel.release.clone(),
        template.rootfs.origin.clone(),
        format!("{} MiB", template.rootfs.image.size / 1_048_576),
        template.created_at.to_string(),
    ]
}

fn describe(template: &Template) {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    println!("  kernel     {} ({})", template.kernel.release, mib(template.kernel.image.size));
    let initramfs = &template.initramfs;
    println!(
        "  initramfs  {} modules, agent {} ({})",
        initramfs.modules.len(),
        initramfs.agent_version,
        mib(initramfs.image.size)
    );
    println!("  root       {} ({})", template.rootfs.origin, mib(template.rootfs.image.size));
}

pub(crate) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
