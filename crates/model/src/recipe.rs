//! A recipe: what a template is made of. A base, steps that run in a VM of it, and what its VMs start
//! with.
//!
//! Command line and API speak of the same recipe, one in TOML, the other in JSON. Whoever holds one
//! holds something allowed: each value was checked where it was read, each unknown field refused.
//! What a recipe comes to, step by step, is for `aetherium-image` to plan.

use crate::{
    resources::{DiskMib, MemoryMib, NetworkMode, Vcpus},
    run::Command,
    template_ref::TemplateRef,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

mod values;

pub use values::{
    Base64, EnvName, Few, GuestPath, OctalMode, Owner, PackageName, Seconds, UserName,
};

/// Seconds that a ready command's success is waited for where the recipe does not say.
pub const DEFAULT_READY_DEADLINE_S: u32 = 60;
/// A script for the guest's `/bin/sh -e`: installs its arguments, which are packages, with whichever
/// package manager there is, and leaves no lists behind.
pub const INSTALL_PACKAGES: &str = "\
if command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  apt-get install -y --no-install-recommends \"$@\"
  apt-get clean
  rm -rf /var/lib/apt/lists/*
elif command -v apk >/dev/null; then
  apk add --no-cache \"$@\"
elif command -v dnf >/dev/null; then
  dnf install -y --setopt=install_weak_deps=False \"$@\"
  dnf clean all
else
  echo \"the base has none of apt-get, apk and dnf\" >&2
  exit 127
fi
";
/// What runs a command that is given as a line.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// How a template is made, and what its VMs start with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "base": { "template": "default" },
    "run": [{ "command": "echo made >/etc/made" }],
}))]
pub struct Recipe {
    /// What it begins with.
    pub base: Base,
    /// Packages to install, by the base's own package manager: apt, apk or dnf.
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 256)]
    pub packages: Few<PackageName>,
    /// Files to put into it, after the packages and before the commands.
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    #[schema(value_type = Vec<FileCopy>, max_items = 256)]
    pub files: Few<FileCopy>,
    /// Environment of the commands below, and of every command of its VMs that does not set the
    /// variable itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<EnvName, String>,
    /// Commands to run in order, each in a VM of what the one before left.
    #[serde(default, skip_serializing_if = "Few::is_empty")]
    #[schema(value_type = Vec<RunStep>, max_items = 256)]
    pub run: Few<RunStep>,
    /// The command that each of its VMs starts by itself once it has booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The command that must succeed before one of its VMs counts as running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// The base's own init, such as `/sbin/init` for systemd, which becomes the first process of its
    /// VMs; the agent serves beside it. The agent itself where absent. Steps run without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<GuestPath>,
    /// The size of VMs whose creator does not say.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Sizes,
    /// Who runs a command of its VMs that names no user; as the base says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Where such a command runs that names no directory; as the base says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<GuestPath>,
    /// The VMs in which its steps run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub build: BuildVm,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a template begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// Another template: its kernel, its agent and its root filesystem.
    Template(TemplateRef),
    /// An image, as `template build --from` takes it, such as `docker.io/library/alpine:3`.
    Image(String),
    /// A minimal system of the host's own distribution, with these packages.
    #[schema(value_type = Vec<String>)]
    Packages(Few<PackageName>),
}

/// The size of a VM, as far as it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Virtual CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Vcpus>,
    /// Guest memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<MemoryMib>,
    /// Writable disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<DiskMib>,
}

/// The VMs in which steps run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildVm {
    /// Virtual CPUs; 2 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<Vcpus>,
    /// Guest memory in MiB; 1024 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<MemoryMib>,
    /// Room for what steps write beyond the base, in MiB; 4096 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mib: Option<DiskMib>,
    /// What the commands of `run` may reach. Packages are installed with `egress` all the same.
    #[serde(default)]
    pub network: NetworkMode,
}

/// A command of a recipe, run once while the template is made. A non-zero exit ends the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunStep {
    /// What it is called in the build's log; its first line where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is run.
    pub command: Program,
    /// Who runs it; root where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Where it runs; the user's home where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<GuestPath>,
    /// Time it may take, in seconds; one hour where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<Seconds>,
}

/// The command that each VM of a template starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// What is run.
    pub command: Program,
    /// Who runs it; the template's user where absent, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Where it runs; the template's directory where absent, else the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<GuestPath>,
}

/// The command that must succeed before a VM of a template counts as running. It is tried again until
/// it exits with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// What is run.
    pub command: Program,
    /// Who runs it; the template's user where absent, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Where it runs; the template's directory where absent, else the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<GuestPath>,
    /// Seconds that its success is waited for; 60 where absent. Then the VM has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<Seconds>,
}

/// A file, or a directory with all that is in it, to be put into a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCopy {
    /// What is copied.
    pub source: FileSource,
    /// Where it goes. Directories above it are made.
    pub dest: GuestPath,
    /// Its permission bits in octal, such as `"0755"`; those of the source where absent, or `0644`
    /// where the source is given in the recipe. Of a directory, those of all files in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<OctalMode>,
    /// Who owns it: a user of the base by name or number, or `user:group`; root where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// What a file of a recipe is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "expected a path, or { text = \"…\" }, or { base64 = \"…\" }")]
pub enum FileSource {
    /// A file or directory beside the recipe, by its path from there. Not over the API.
    Path(String),
    /// The content itself.
    Inline(Inline),
}

/// The content of a file, in the recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inline {
    /// As text.
    Text(String),
    /// As base64 (RFC 4648, with padding).
    Base64(Base64),
}

/// A program: a line for the guest's `/bin/sh`, or a list of the program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ProgramText", into = "ProgramText")]
pub enum Program {
    /// A line for a shell.
    Shell(String),
    /// The program, looked up in the guest's PATH, and its arguments.
    Argv(Vec<String>),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a line for a shell, or a list of a program and its arguments"
)]
enum ProgramText {
    Shell(String),
    Argv(Vec<String>),
}

impl TryFrom<ProgramText> for Program {
    type Error = String;

    fn try_from(text: ProgramText) -> Result<Self, String> {
        let program = match text {
            ProgramText::Shell(line) if line.trim().is_empty() => {
                return Err("the line is empty".to_owned());
            }
            ProgramText::Shell(line) => Self::Shell(line),
            ProgramText::Argv(argv) => Self::Argv(argv),
        };
        program.command().validate().map_err(|error| error.problem)?;
        Ok(program)
    }
}

impl From<Program> for ProgramText {
    fn from(program: Program) -> Self {
        match program {
            Program::Shell(line) => Self::Shell(line),
            Program::Argv(argv) => Self::Argv(argv),
        }
    }
}

impl Program {
    /// The command it is.
    pub fn command(&self) -> Command {
        match self {
            Self::Shell(line) => Command::new(SHELL.into_iter().chain([line.as_str()])),
            Self::Argv(argv) => Command::new(argv),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shell(line) => f.write_str(line.trim()),
            Self::Argv(argv) => write!(f, "{argv:?}"),
        }
    }
}

impl utoipa::PartialSchema for Program {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::OneOfBuilder::new()
            .item(String::schema())
            .item(Vec::<String>::schema())
            .description(Some("A line for the guest's `/bin/sh`, or a program and its arguments."))
            .into()
    }
}

impl utoipa::ToSchema for Program {}

impl RunStep {
    /// The command it is, with the recipe's environment.
    pub fn command(&self, env: &BTreeMap<EnvName, String>) -> Command {
        Command {
            user: Some(self.user.as_ref().map_or("0", UserName::as_str).to_owned()),
            cwd: self.cwd.as_ref().map(ToString::to_string),
            timeout_ms: self.timeout_s.map(Seconds::as_millis),
            env: plain_env(env),
            ..self.command.command()
        }
    }
}

impl Start {
    /// The command it is. What it leaves open is the template's to fill in.
    pub fn command(&self) -> Command {
        Command {
            user: self.user.as_ref().map(ToString::to_string),
            cwd: self.cwd.as_ref().map(ToString::to_string),
            ..self.command.command()
        }
    }
}

impl Ready {
    /// What it is, for a manifest.
    pub fn check(&self) -> crate::template::ReadyCheck {
        let command = Command {
            user: self.user.as_ref().map(ToString::to_string),
            cwd: self.cwd.as_ref().map(ToString::to_string),
            ..self.command.command()
        };
        let deadline_ms =
            self.deadline_s.map_or(u64::from(DEFAULT_READY_DEADLINE_S) * 1000, Seconds::as_millis);
        crate::template::ReadyCheck { command, deadline_ms }
    }
}

/// How `template build --from` names what lies on the host.
const HOST_ORIGINS: [&str; 5] = ["oci:", "oci-archive:", "docker-archive:", "tar:", "dir:"];

impl Recipe {
    /// The fields that name something on the host's disk, and what is wrong with that for a caller who
    /// is somewhere else.
    pub fn taken_from_host(&self) -> Vec<(String, &'static str)> {
        let local = |text: &str| HOST_ORIGINS.iter().any(|kind| text.starts_with(kind));
        let base = match &self.base {
            Base::Image(text) if local(text) => Some((
                "base.image".to_owned(),
                "lies on the host's disk: give an image of a registry, or a template",
            )),
            _ => None,
        };
        let files = self.files.iter().enumerate().filter_map(|(index, copy)| match copy.source {
            FileSource::Path(_) => Some((
                format!("files[{index}].source"),
                "lies on the host's disk: give the content, as { text } or { base64 }",
            )),
            FileSource::Inline(_) => None,
        });
        base.into_iter().chain(files).collect()
    }
}

/// An environment, as commands have it.
pub fn plain_env(env: &BTreeMap<EnvName, String>) -> BTreeMap<String, String> {
    env.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
}

#[cfg(test)]
mod tests;
