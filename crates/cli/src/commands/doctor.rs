//! `aetherium doctor`: what this host has, what it lacks, why that matters, and what to do.

use super::{plan, template};
use crate::{
    args::{Args, DriverArgs, VmArgs},
    datadir::DataDir,
    error::CliError,
    print, server,
};
use aetherium_image::Check;
use aetherium_model::{
    Fault, WorkerId,
    finding::{Finding, Verdict},
    resources::{DriverChoice, DriverKind},
};
use aetherium_net::{Prefix, SlotsConfig};
use aetherium_vmm::{AgentProcess, DriverConfig, Firecracker, Qemu, Vmm as _};
use aetherium_worker::Layout;
use std::process::ExitCode;

pub(crate) async fn doctor(args: &Args, driver: &DriverArgs) -> Result<ExitCode, CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    data.create()?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let config = server::driver_config(&data, &layout, driver);
    let mut findings = match driver.driver {
        DriverChoice::Only(DriverKind::Process) => AgentProcess::new(&config).preflight().await,
        DriverChoice::Only(DriverKind::Firecracker) => Firecracker::new(&config).preflight().await,
        DriverChoice::Only(DriverKind::Qemu) => Qemu::new(&config).preflight().await,
        // Nothing of the host is needed for a model.
        DriverChoice::Only(DriverKind::Simulated) => Vec::new(),
        DriverChoice::Auto => every_driver(&config).await,
    };
    if firecracker_possible(&config, driver) && !driver.no_slots {
        let slots = SlotsConfig::new(Prefix::of_worker(WorkerId::new()));
        findings.extend(aetherium_net::slot::preflight(&slots).await);
    }
    findings.push(agent_found(driver));
    findings.extend(templates(&data, driver.driver)?);
    findings.extend(plans(&data, &plan::Host { config: &config, layout: &layout, driver }).await?);
    findings.push(server_found(&data));
    if args.json {
        print::json(&findings)?;
    } else {
        show(&findings);
    }
    let failed = findings.iter().any(|it| it.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What `auto` chooses among. That there is no Firecracker matters only to who asks for it.
async fn every_driver(config: &DriverConfig) -> Vec<Finding> {
    let mut findings = Qemu::new(config).preflight().await;
    if Firecracker::is_installed(config) {
        let known: Vec<String> = findings.iter().map(|it| it.check.clone()).collect();
        let more = Firecracker::new(config).preflight().await;
        findings.extend(more.into_iter().filter(|it| !known.contains(&it.check)));
    }
    findings
}

fn agent_found(driver: &DriverArgs) -> Finding {
    let why = "it becomes the init of every guest and runs its commands";
    match server::agent_binary(driver) {
        Some(path) => Finding::ok("agent.binary", path.display().to_string(), why),
        None => Finding::warn(
            "agent.binary",
            "fc-agent is not beside this program",
            why,
            "run `make build`, or name it with --agent; templates that exist have one inside",
        ),
    }
}

fn templates(data: &DataDir, choice: DriverChoice) -> Result<Vec<Finding>, CliError> {
    let why = "a VM starts from a template";
    let store = template::open(data)?;
    let list = store.list().map_err(Fault::from)?;
    if list.is_empty() {
        return Ok(match choice {
            DriverChoice::Only(kind) if !kind.starts_from_template() => Vec::new(),
            _ => vec![Finding::warn(
                "template",
                "there is none",
                why,
                "make one: aetherium template build",
            )],
        });
    }
    let mut findings = Vec::new();
    for manifest in list {
        let installed = store.get(&manifest.name).map_err(Fault::from)?;
        let mut checks =
            installed.verify(Check::Quick).into_iter().chain(installed.verify_kernel());
        let bad = checks.find(|it| it.verdict != Verdict::Ok);
        let check = format!("template.{}", manifest.name);
        findings.push(bad.map_or_else(
            || {
                Finding::ok(
                    &check,
                    format!("{}, kernel {}", manifest.rootfs.origin, manifest.kernel.release),
                    why,
                )
            },
            |bad| Finding { check: check.clone(), ..bad },
        ));
    }
    Ok(findings)
}

/// Whether VMs may come to run under Firecracker here.
fn firecracker_possible(config: &DriverConfig, driver: &DriverArgs) -> bool {
    let chosen = match driver.driver {
        DriverChoice::Auto => true,
        DriverChoice::Only(kind) => kind == DriverKind::Firecracker,
    };
    chosen && Firecracker::is_installed(config)
}

/// Whether Firecracker would start VMs of each template, where there is one.
async fn plans(data: &DataDir, host: &plan::Host<'_>) -> Result<Vec<Finding>, CliError> {
    if !firecracker_possible(host.config, host.driver) {
        return Ok(Vec::new());
    }
    let wanted = host.driver.driver == DriverChoice::Only(DriverKind::Firecracker);
    let why = "what is known not to boot is refused before anything is started";
    let store = template::open(data)?;
    let mut findings = Vec::new();
    for manifest in store.list().map_err(Fault::from)? {
        let installed = store.get(&manifest.name).map_err(Fault::from)?;
        let check = format!("template.{}.firecracker", manifest.name);
        findings.push(match host.plan(&installed, &VmArgs::default(), None).await {
            Ok(plan) => Finding::ok(&check, format!("boots over {}", plan.transport), why),
            Err(fault) if wanted => Finding::fail(&check, fault.detail, why, fault.remedy),
            Err(fault) => Finding::warn(&check, fault.detail, why, fault.remedy),
        });
    }
    Ok(findings)
}

fn server_found(data: &DataDir) -> Finding {
    let why = "clients of this data directory talk to it";
    match data.running() {
        Some(running) => {
            Finding::ok("server", format!("{} (process {})", running.url, running.pid), why)
        }
        None => Finding::ok("server", "none runs on this data directory", why),
    }
}

fn show(findings: &[Finding]) {
    let rows: Vec<Vec<String>> = findings
        .iter()
        .map(|it| {
            let verdict = match it.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            vec![verdict.to_owned(), it.check.clone(), it.found.clone()]
        })
        .collect();
    print::table(&["", "CHECK", "FOUND"], &rows);
    for it in findings.iter().filter(|it| it.verdict != Verdict::Ok) {
        println!("\n{}: {}\n  matters: {}\n  remedy:  {}", it.check, it.found, it.why, it.remedy);
    }
}
