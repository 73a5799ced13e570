//! Builds a template from the distribution's packages and tells how long each step took.
//!
//! `cargo run -p aetherium-image --example build_template -- DIR AGENT`

use aetherium_image::{
    BuildRequest, Check, KernelSource, Progress, RootfsSource, TemplateStore, build,
};
use aetherium_model::{Fault, finding::Finding, resources::Resources};
use std::{path::PathBuf, process::ExitCode, time::Instant};

struct Lines(Instant);

impl Progress for Lines {
    fn step(&self, label: &str) {
        println!("{:6.1} s  {label}", self.0.elapsed().as_secs_f32());
    }

    fn total(&self, label: &str, bytes: Option<u64>) {
        self.step(&format!("{label} ({} bytes)", bytes.unwrap_or_default()));
    }

    fn advance(&self, _bytes: u64) {}

    fn done(&self) {
        self.step("complete");
    }

    fn warn(&self, finding: &Finding) {
        self.step(&format!("warning: {}: {}", finding.found, finding.why));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(dir), Some(agent)) = (args.next(), args.next()) else {
        eprintln!("give a directory and the agent's binary");
        return ExitCode::FAILURE;
    };
    match run(dir, agent).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("{fault}\n{}", fault.evidence.join("\n"));
            ExitCode::FAILURE
        }
    }
}

async fn run(dir: PathBuf, agent: PathBuf) -> Result<(), Fault> {
    let store = TemplateStore::open(dir.join("templates"))?;
    let request = BuildRequest {
        name: "default".parse().map_err(Fault::internal)?,
        kernel: KernelSource::DistributionPackage { cache: dir.join("cache") },
        rootfs: RootfsSource::Packages { include: vec![] },
        agent,
        defaults: Resources::default(),
        tuning: Default::default(),
        kernel_args: vec![],
        cpu_template: None,
        transport: None,
        snapshots: None,
        replace: true,
    };
    let progress = Lines(Instant::now());
    let template = build(&store, request, &progress).await?;
    progress.step("in place");
    for finding in template.verify(Check::Full) {
        println!("{:?} {}: {}", finding.verdict, finding.check, finding.found);
    }
    println!("{:#?}", template.manifest);
    Ok(())
}
