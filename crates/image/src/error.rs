//! What can go wrong while templates are made, kept and read.
//!
//! The text of an [`ImageError`] says what happened, with which value; [`ImageError::remedy`] says
//! what to do about it. As a [`Fault`] it carries both, and the last lines of a failed command.

mod advice;

use crate::layers::Problem;
use aetherium_model::{Fault, Name, TemplateRef};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The result of whatever this crate does.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// Why a template or a disk could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is taken, and the request does not say to replace what has it.
    #[error("template {name} exists already")]
    AlreadyExists {
        /// The name.
        name: Name,
    },
    /// No template has the name.
    #[error("there is no template {name} in {}; there is {}", dir.display(), listed(known))]
    NotFound {
        /// What was asked for.
        name: TemplateRef,
        /// Where templates are kept.
        dir: PathBuf,
        /// Those of that name; where there are none, all.
        known: Vec<TemplateRef>,
    },
    /// A digest is given where a tag is to be set or taken away.
    #[error("{template} is what it is for good: only a tag can be set or taken away")]
    NotATag {
        /// What was named.
        template: TemplateRef,
    },
    /// A file of the store is not what this program writes there.
    #[error("{} is damaged: {detail}", path.display())]
    StoreDamaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Somebody uses the store in a way that keeps others out, for longer than that takes.
    #[error("the templates in {} are in use by another process (waited {waited:?})", dir.display())]
    StoreBusy {
        /// Where templates are kept.
        dir: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// Another build or removal holds the template's lock.
    #[error("template {name} is being built or removed by another process (waited {waited:?})")]
    Busy {
        /// The name.
        name: Name,
        /// How long its lock was waited for.
        waited: Duration,
    },
    /// A template's directory is there, but not what it must hold.
    #[error("template {name} is broken: {detail}")]
    Broken {
        /// The name.
        name: Name,
        /// What is wrong with it.
        detail: String,
    },
    /// A file could not be read, written, made or removed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A program that is needed is not installed.
    #[error("{program} is not installed, or not in PATH")]
    ProgramMissing {
        /// The program.
        program: String,
        /// The package that has it.
        package: &'static str,
    },
    /// Programs or headers that a kernel's build needs are not installed.
    #[error("a kernel cannot be built here: {} {} missing", missing.join(", "), if missing.len() > 1 { "are" } else { "is" })]
    BuildToolsMissing {
        /// Programs and headers.
        missing: Vec<&'static str>,
        /// The packages that have them.
        packages: Vec<&'static str>,
    },
    /// A program ended with an error.
    #[error("`{command}` failed with {status}{}", last_line(tail))]
    CommandFailed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// Its last lines of output.
        tail: Vec<String>,
        /// What to do, where the lines tell.
        remedy: String,
    },
    /// A program did not end in time; it was ended with its whole process group.
    #[error("`{command}` did not finish within {deadline:?}{}", last_line(tail))]
    CommandTimedOut {
        /// The command line.
        command: String,
        /// The time it had.
        deadline: Duration,
        /// Its last lines of output.
        tail: Vec<String>,
    },
    /// The distribution has no kernel package that is known to boot in a microVM.
    #[error("no kernel package is known for distribution {distribution:?} on {architecture}")]
    DistributionUnknown {
        /// `ID` of `/etc/os-release`.
        distribution: String,
        /// The machine's architecture.
        architecture: &'static str,
    },
    /// The package index of the host does not have what was looked for.
    #[error("the host's package index has no {wanted}")]
    PackageUnknown {
        /// The package, or what of it.
        wanted: String,
    },
    /// A package does not hold the files it was expected to hold.
    #[error("{package} holds no {wanted}")]
    PackageIncomplete {
        /// The package.
        package: String,
        /// What is not there.
        wanted: &'static str,
    },
    /// A file is no kernel image that this platform can start.
    #[error("{} is not a kernel image: {detail}", path.display())]
    KernelUnusable {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// A file is no kernel configuration.
    #[error("{} is not a kernel configuration: {detail}", path.display())]
    KernelConfigUnusable {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// A kernel's source cannot be configured as wanted.
    #[error("these options do not survive the configuration of {}: {}", source_dir.display(), lost.join(", "))]
    KernelOptionsLost {
        /// The source.
        source_dir: PathBuf,
        /// The options, as they were wanted.
        lost: Vec<String>,
    },
    /// No imported kernel has the name.
    #[error("there is no kernel {name} in {}", dir.display())]
    KernelNotFound {
        /// The name.
        name: Name,
        /// Where kernels are kept.
        dir: PathBuf,
    },
    /// A kernel has the name, and is not to be replaced.
    #[error("kernel {name} exists already")]
    KernelExists {
        /// The name.
        name: Name,
    },
    /// Another process imports or removes a kernel and does not come to an end.
    #[error("the kernels in {} are being changed by another process (waited {waited:?})", dir.display())]
    KernelsBusy {
        /// Where kernels are kept.
        dir: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The kernel has a needed driver neither built in nor as a module.
    #[error("kernel {release} has no {driver}: {purpose}")]
    DriverMissing {
        /// The kernel's release.
        release: String,
        /// The module's name.
        driver: String,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// A kernel module cannot be used.
    #[error("module {} cannot be used: {detail}", path.display())]
    ModuleUnusable {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Modules depend on each other in a circle.
    #[error("modules depend on each other in a circle: {}", circle.join(" → "))]
    ModuleCircle {
        /// The modules on the way round.
        circle: Vec<String>,
    },
    /// The agent's binary cannot be a guest's init.
    #[error("{} cannot be a guest's init: {detail}", path.display())]
    AgentUnusable {
        /// The binary.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A root filesystem cannot be used.
    #[error("{} cannot be a root filesystem: {detail}", path.display())]
    RootfsUnusable {
        /// The directory or image.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A recipe is not allowed.
    #[error(transparent)]
    RecipeInvalid(#[from] crate::recipe::RecipeInvalid),
    /// A recipe cannot be sent with all that it copies.
    #[error("the recipe cannot be sent: {detail}")]
    RecipeNotSent {
        /// Why.
        detail: String,
    },
    /// What a recipe names cannot be copied.
    #[error("{} cannot be copied: {detail}", path.display())]
    CopyRefused {
        /// The source.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// Something has a root filesystem mounted for writing, or had when it was ended.
    #[error("{} is in use, or was when its VM was ended", path.display())]
    RootfsInUse {
        /// The image.
        path: PathBuf,
    },
    /// `e2fsck` finds errors in a root filesystem. It was left as it is.
    #[error("{} is damaged{}; it was left as it is", path.display(), last_line(tail))]
    RootfsDamaged {
        /// The image.
        path: PathBuf,
        /// The image before the last change, if it is there and whole.
        previous: Option<PathBuf>,
        /// What `e2fsck` said last.
        tail: Vec<String>,
    },
    /// Another process prepares a root filesystem and does not come to an end.
    #[error("{} is being prepared by another process (waited {waited:?})", path.display())]
    RootfsBusy {
        /// The image.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The agent could not be written into a root filesystem.
    #[error("the agent cannot be installed in {}: {detail}", path.display())]
    AgentNotInstalled {
        /// The image.
        path: PathBuf,
        /// What is in the way.
        detail: String,
    },
    /// A layer of an image holds what is not allowed, or is damaged.
    #[error("layer {layer}{}: {problem}", of_entry(entry))]
    LayerRefused {
        /// Which layer: its place in the image and its digest, or its file.
        layer: String,
        /// The entry's name; empty where the layer as a whole is meant.
        entry: String,
        /// Why.
        problem: Problem,
    },
    /// An image's documents cannot be used.
    #[error("image {image} cannot be used: {detail}")]
    ImageUnusable {
        /// The image.
        image: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An image is for other machines.
    #[error("image {image} is for {found}, and not for {wanted}")]
    PlatformMissing {
        /// The image.
        image: String,
        /// This machine.
        wanted: String,
        /// What the image is for.
        found: String,
    },
    /// A registry does not have an image.
    #[error("{host} has no image {image}")]
    ImageMissing {
        /// Who was asked.
        host: String,
        /// The image.
        image: String,
    },
    /// A registry does not give an image to this user.
    #[error("{host} does not give {image} to this user")]
    RegistryDenied {
        /// Who was asked.
        host: String,
        /// The image.
        image: String,
    },
    /// A registry could not be reached, or broke off again and again.
    #[error("cannot get {image} from {host}: {detail}")]
    RegistryFailed {
        /// Who was asked.
        host: String,
        /// The image.
        image: String,
        /// What happened.
        detail: String,
    },
    /// A downloaded blob is not the one that was named. It was thrown away.
    #[error("what came as blob {wanted} is sha256:{found}")]
    BlobWrong {
        /// The digest that was named.
        wanted: String,
        /// The digest of what came, in hexadecimal.
        found: String,
    },
    /// Another process downloads a blob and does not come to an end.
    #[error("blob {digest} is being downloaded by another process (waited {waited:?})")]
    BlobBusy {
        /// The blob.
        digest: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A task on the blocking pool was dropped: the runtime is ending.
    #[error("the runtime ended during the work: {0}")]
    RuntimeEnded(String),
}

impl From<&ImageError> for Fault {
    fn from(error: &ImageError) -> Self {
        let tail = match error {
            ImageError::CommandFailed { tail, .. }
            | ImageError::CommandTimedOut { tail, .. }
            | ImageError::RootfsDamaged { tail, .. } => tail.clone(),
            _ => Vec::new(),
        };
        Self::new(error.code(), error.to_string()).remedy(error.remedy()).evidence(tail)
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Self::from(&error)
    }
}

fn of_entry(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(", entry {entry:?}") }
}

/// Templates in a row, for a sentence.
fn listed(templates: &[TemplateRef]) -> String {
    if templates.is_empty() {
        return "none at all".to_owned();
    }
    templates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn last_line(tail: &[String]) -> String {
    tail.last().map_or_else(String::new, |line| format!(": {line}"))
}

/// Says what was tried, and on which path, when a system call fails.
pub(crate) trait OnPath<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> OnPath<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| ImageError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

/// Runs file work where it cannot hold up the runtime; a panic in it goes on here.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(ImageError::RuntimeEnded(error.to_string())),
        },
    }
}
