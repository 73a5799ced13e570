//! `aetherium template build -f`: a template of a recipe. Its steps run in VMs of their own, whether a
//! server runs on the data directory or not.

use super::template;
use crate::{
    args::{Args, BuildArgs},
    datadir::DataDir,
    error::{CliError, local},
    print,
    progress::Bars,
    server,
};
use aetherium_image::{
    BuildRequest, ImageError, InstalledTemplate, KernelSource, Progress, RootfsSource,
    TemplateStore,
    recipe::{Plan, entries, parse},
};
use aetherium_model::{
    Fault, TemplateRef,
    build::BuildEvent,
    finding::Finding,
    recipe::{Base, Recipe, Sizes},
    resources::Resources,
    template::Template,
};
use aetherium_vmm::VsockChoice;
use aetherium_worker::{
    BuildGround, BuildLog, Layout, Settings, SlotChoice, StepReuse, build_template,
};
use serde_json::json;
use std::{
    convert::Infallible,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// 128 + SIGINT, as a shell has it.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

pub(crate) async fn from_recipe(
    args: &Args,
    data: &DataDir,
    build: &BuildArgs,
    file: &Path,
) -> Result<(), CliError> {
    let report = BuildReport::begin(args);
    let text = std::fs::read_to_string(file).map_err(|error| local(file.display(), error))?;
    let recipe = parse(file, &text).map_err(ImageError::from).map_err(Fault::from)?;
    let plan = plan(&recipe, file)?;
    let templates = template::open(data)?;
    let request = request(data, build, &templates, &recipe)?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let driver = server::choose_driver(data, &layout, &build.driver).await?;
    let ground = BuildGround {
        layout,
        templates,
        driver: driver.vmm,
        vsock: if build.driver.no_vsock { VsockChoice::Off } else { VsockChoice::Auto },
        slots: if build.driver.no_slots { SlotChoice::Off } else { SlotChoice::Auto },
        boot_deadline: Settings::default().boot_deadline,
        reuse: if build.no_cache { StepReuse::None } else { StepReuse::Kept },
    };
    let log = story(args, plan.steps());
    let built =
        until_interrupted(&ground, &request, &build.name, &recipe, &plan, log.as_ref()).await;
    log.done();
    report.end(&built?.manifest);
    Ok(())
}

/// Who is told what a build does: a person, or a program.
pub(crate) fn story(args: &Args, steps: usize) -> Box<dyn BuildLog> {
    if args.json { Box::new(JsonLines) } else { Box::new(Story::new(steps)) }
}

/// The last words about a build that went well.
pub(crate) struct BuildReport {
    began: Instant,
    json: bool,
}

impl BuildReport {
    pub(crate) fn begin(args: &Args) -> Self {
        Self { began: Instant::now(), json: args.json }
    }

    pub(crate) fn end(self, template: &Template) {
        if self.json {
            print_line(&json!({ "event": "built", "template": template }));
            return;
        }
        println!("built {} in {}", template.name, print::millis(template::elapsed_ms(self.began)));
        template::describe(template);
    }
}

/// Plans a recipe, with the files beside it.
pub(crate) fn plan(recipe: &Recipe, file: &Path) -> Result<Plan, CliError> {
    let dir = file.parent().unwrap_or_else(|| Path::new(""));
    let copied: Result<Vec<_>, _> = recipe.files.iter().map(|copy| entries(copy, dir)).collect();
    Ok(Plan::new(recipe, copied.map_err(Fault::from)?))
}

/// The base of a recipe, and what the arguments say beside it.
fn request(
    data: &DataDir,
    args: &BuildArgs,
    templates: &TemplateStore,
    recipe: &Recipe,
) -> Result<BuildRequest, CliError> {
    let (kernel, rootfs, defaults) = match &recipe.base {
        Base::Template(name) => {
            let base = templates.get(name).map_err(Fault::from)?;
            let defaults = base.manifest.defaults;
            let kernel = match (&args.kernel, &args.kernel_of) {
                (None, None) => KernelSource::Template(Box::new(base.clone())),
                _ => template::kernel(data, templates, args)?,
            };
            (kernel, RootfsSource::Template(Box::new(base)), defaults)
        }
        Base::Image(origin) => {
            let origin = origin.parse().map_err(|error| local("base.image", error))?;
            let registry = Box::new(template::registry(data, &args.mirror, args.blob_cache_mib));
            let rootfs = RootfsSource::Image { origin, registry };
            (template::kernel(data, templates, args)?, rootfs, Resources::default())
        }
        Base::Packages(packages) => {
            let include = packages.iter().map(ToString::to_string).collect();
            let rootfs = RootfsSource::Packages { include };
            (template::kernel(data, templates, args)?, rootfs, Resources::default())
        }
    };
    let Sizes { vcpus, memory_mib, disk_mib } = recipe.resources;
    let defaults = Resources {
        vcpus: vcpus.unwrap_or(defaults.vcpus),
        memory_mib: memory_mib.unwrap_or(defaults.memory_mib),
        disk_mib: disk_mib.unwrap_or(defaults.disk_mib),
    };
    template::request(args, kernel, rootfs, defaults)
}

/// Builds it. Ctrl-C ends the build in order: its VM is gone before this returns.
async fn until_interrupted(
    ground: &BuildGround,
    request: &BuildRequest,
    place: &TemplateRef,
    recipe: &Recipe,
    plan: &Plan,
    log: &dyn BuildLog,
) -> Result<InstalledTemplate, CliError> {
    let cancelled = CancellationToken::new();
    let interrupt = async {
        // Without the handler Ctrl-C would end this process, which the next build cleans up after.
        if tokio::signal::ctrl_c().await.is_ok() {
            cancelled.cancel();
        }
        std::future::pending::<Infallible>().await
    };
    let built = tokio::select! {
        built = Box::pin(build_template(ground, request, place, recipe, plan, log, &cancelled)) => built,
        never = interrupt => match never {},
    };
    built.map_err(|fault| {
        let error = CliError::new(fault);
        if cancelled.is_cancelled() { error.exiting_with(EXIT_INTERRUPTED) } else { error }
    })
}

/// The story of a build for people, on standard error.
struct Story {
    bars: Bars,
    steps: usize,
    /// The line that a step's command has begun.
    line: Mutex<String>,
}

impl Story {
    fn new(steps: usize) -> Self {
        Self { bars: Bars::new(), steps, line: Mutex::default() }
    }

    fn say(&self, step: usize, what: &str) {
        self.bars.clear();
        eprintln!("[{step}/{}] {what}", self.steps);
    }

    fn output(&self, text: &str) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in text.split_inclusive('\n') {
            line.push_str(piece);
            if piece.ends_with('\n') {
                eprint!("  | {line}");
                line.clear();
            }
        }
    }

    fn end_line(&self) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if !line.is_empty() {
            eprintln!("  | {line}");
            line.clear();
        }
    }
}

impl BuildLog for Story {
    fn event(&self, event: BuildEvent) {
        match event {
            BuildEvent::Planned { .. } => self.bars.clear(),
            BuildEvent::StepStarted { step, label } => self.say(step, &label),
            BuildEvent::StepCached { step, label } => self.say(step, &format!("{label} (kept)")),
            BuildEvent::Output { text, .. } => self.output(&text),
            BuildEvent::StepEnded { step, wall_ms } => {
                self.end_line();
                self.say(step, &format!("done in {}", print::millis(wall_ms)));
            }
        }
    }
}

impl Progress for Story {
    fn step(&self, label: &str) {
        self.bars.step(label);
    }

    fn total(&self, label: &str, bytes: Option<u64>) {
        self.bars.total(label, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.bars.advance(bytes);
    }

    fn done(&self) {
        self.end_line();
        self.bars.done();
    }

    fn warn(&self, finding: &Finding) {
        self.bars.warn(finding);
    }
}

/// A build as one JSON object per line, on standard output.
struct JsonLines;

impl BuildLog for JsonLines {
    fn event(&self, event: BuildEvent) {
        print_line(&json!(event));
    }
}

impl Progress for JsonLines {
    fn step(&self, label: &str) {
        print_line(&json!({ "event": "stage", "message": label }));
    }

    fn total(&self, label: &str, bytes: Option<u64>) {
        print_line(&json!({ "event": "stage", "message": label, "bytes": bytes }));
    }

    fn advance(&self, _bytes: u64) {}

    fn done(&self) {}

    fn warn(&self, finding: &Finding) {
        print_line(&json!({ "event": "warning", "finding": finding }));
    }
}

fn print_line(value: &serde_json::Value) {
    println!("{value}");
}
