//! `aetherium kernel …`: the kernels of the data directory, and any kernel's abilities.

use super::host;
use crate::{
    args::{Args, Base, ImportArgs, KernelBuildArgs, KernelCommand},
    datadir::DataDir,
    error::{CliError, local},
    print,
    progress::Bars,
};
use aetherium_image::kernel::{
    self, BaseConfig, KernelBuild, KernelCode, KernelOrigin, KernelShelf, ShelvedKernel,
};
use aetherium_model::{
    Code, Fault, Name,
    finding::{Finding, Verdict},
    kernel::{KernelFacts, KernelOption},
};
use serde::Serialize;
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(crate) async fn dispatch(args: &Args, verb: &KernelCommand) -> Result<ExitCode, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    match verb {
        KernelCommand::Inspect { kernel, config } => {
            return inspect(args, resolve(&data, kernel)?.image, config.clone()).await;
        }
        KernelCommand::Import(import) => {
            let bars = Bars::new();
            let made = shelf(&data)
                .import(import.name.clone(), &origin(&data, import), import.replace, &bars)
                .await;
            bars.clear();
            kept(args, &made.map_err(Fault::from)?)?;
        }
        KernelCommand::Build(wanted) => build(args, &data, wanted).await?,
        KernelCommand::List => {
            let kernels = shelf(&data).list().map_err(Fault::from)?;
            if args.json {
                print::json(&kernels)?;
            } else {
                let rows: Vec<_> = kernels.iter().map(row).collect();
                print::table(&["NAME", "RELEASE", "MODULES", "FROM", "IMPORTED"], &rows);
            }
        }
        KernelCommand::Remove { name } => {
            shelf(&data).remove(name).await.map_err(Fault::from)?;
            println!("removed {name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shelf(data: &DataDir) -> KernelShelf {
    KernelShelf::new(data.path().join("kernels"))
}

/// A kernel by its file, or by the name of an imported one.
pub(crate) struct Resolved {
    pub(crate) image: PathBuf,
    pub(crate) modules: Option<PathBuf>,
}

pub(crate) fn resolve(data: &DataDir, named: &Path) -> Result<Resolved, CliError> {
    if named.is_file() {
        let image = std::path::absolute(named).map_err(|error| local(named.display(), error))?;
        return Ok(Resolved { image, modules: None });
    }
    let Some(Ok(name)) = named.to_str().map(str::parse::<Name>) else {
        let detail = format!("there is no file {}", named.display());
        return Err(Fault::new(Code::NotFound, detail)
            .remedy("check that the path is right")
            .into());
    };
    let ShelvedKernel { image, modules, .. } = shelf(data).get(&name).map_err(Fault::from)?;
    Ok(Resolved { image, modules })
}

fn origin(data: &DataDir, import: &ImportArgs) -> KernelOrigin {
    let is_package = |file: &PathBuf| file.extension().is_some_and(|ending| ending == "deb");
    match import.files.as_slice() {
        [] => KernelOrigin::Distribution { cache: data.path().join("cache") },
        [image] if !is_package(image) => KernelOrigin::Files {
            image: image.clone(),
            modules: import.modules.clone(),
            config: import.config.clone(),
        },
        packages => KernelOrigin::Packages(packages.to_vec()),
    }
}

async fn build(args: &Args, data: &DataDir, wanted: &KernelBuildArgs) -> Result<(), CliError> {
    let own_work = data.path().join("cache/kernel-build");
    let work = wanted.work.clone().unwrap_or_else(|| own_work.clone());
    std::fs::create_dir_all(&work).map_err(|error| local(work.display(), error))?;
    let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let job = KernelBuild {
        code: match &wanted.source {
            Some(tree) => KernelCode::Tree(tree.clone()),
            None => KernelCode::DistributionPackage { cache: data.path().join("cache") },
        },
        base: match wanted.base {
            Base::Tiny => BaseConfig::Tiny,
            Base::Default => BaseConfig::Default,
        },
        fragment: wanted.fragment.clone(),
        work: std::path::absolute(&work).map_err(|error| local(work.display(), error))?,
        jobs: wanted.jobs.unwrap_or(cpus),
    };
    let bars = Bars::new();
    let configured = job.configure(&bars).await;
    bars.clear();
    let configured = configured.map_err(Fault::from)?;
    if wanted.configure_only {
        println!("{}", configured.config().display());
        return Ok(());
    }
    let log = job.work.join("build.log");
    let image = job.compile(&configured, &log, &bars).await;
    bars.clear();
    let image = image.map_err(|error| {
        let fault = Fault::from(error);
        let remedy = format!("{}; all of it is in {}", fault.remedy, log.display());
        fault.remedy(remedy)
    })?;
    let config = Some(configured.config());
    let origin = KernelOrigin::Files { image, modules: None, config };
    let name = Some(wanted.name.clone());
    let made = shelf(data).import(name, &origin, wanted.replace, &bars).await;
    bars.clear();
    let made = made.map_err(Fault::from)?;
    if wanted.work.is_none() {
        std::fs::remove_dir_all(&own_work).map_err(|error| local(own_work.display(), error))?;
    }
    kept(args, &made)
}

fn kept(args: &Args, kernel: &ShelvedKernel) -> Result<(), CliError> {
    if args.json {
        return print::json(kernel);
    }
    println!("kept kernel {} as {}", kernel.facts.release, kernel.name);
    println!("use it: aetherium template build --kernel {}", kernel.name);
    Ok(())
}

fn row(kernel: &ShelvedKernel) -> Vec<String> {
    vec![
        kernel.name.to_string(),
        kernel.facts.release.clone(),
        if kernel.modules.is_some() { "yes" } else { "no" }.to_owned(),
        kernel.origin.clone(),
        kernel.imported_at.to_string(),
    ]
}

/// What `inspect` prints with `--json`.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    facts: KernelFacts,
    checks: Vec<Finding>,
}

async fn inspect(
    args: &Args,
    image: PathBuf,
    config: Option<PathBuf>,
) -> Result<ExitCode, CliError> {
    let examined = examine(image, config).await?;
    let checks = kernel::findings(&examined);
    let failed = checks.iter().any(|it| it.verdict == Verdict::Fail);
    let facts = examined.facts;
    if args.json {
        print::json(&Inspected { facts, checks })?;
    } else {
        host::checklist(&checks);
        if facts.config.is_some() {
            println!();
            let setting = |option: &KernelOption| facts.setting(*option).map_or("", kernel::how);
            let rows = KernelOption::ALL.iter().map(|it| vec![it.to_string(), setting(it).into()]);
            print::table(&["OPTION", "IS"], &rows.collect::<Vec<_>>());
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads and unpacks a kernel, which keeps a thread busy for a while.
pub(crate) async fn examine(
    image: PathBuf,
    config: Option<PathBuf>,
) -> Result<kernel::Examined, Fault> {
    tokio::task::spawn_blocking(move || kernel::examine_with(&image, config.as_deref()))
        .await
        .map_err(Fault::internal)?
        .map_err(Fault::from)
}
