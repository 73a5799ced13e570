//! Builds a lean kernel from source: a base of the kernel's own, this project's fragment laid over it,
//! and a look whether what was wanted is what will be built.
//!
//! ```text
//! source ─► make tinyconfig ─► + lean.config ─► make olddefconfig ─► all there? ─► make bzImage
//! ```
//! All is done in a directory that the caller gives; the source itself is not changed. What an earlier
//! build left there, however it ended, is gone on from:
//!
//! ```text
//! <work>/source/     the distribution's source, unpacked
//! <work>/unpacked    the package it is of; written when all of it is there
//! <work>/build/      the configuration, and what was compiled
//! <work>/.lock       held by whoever builds
//! ```

use super::{package, toolchain};
use crate::{
    command::{self, Tool},
    error::{ImageError, OnPath, Result, blocking},
    lock,
    progress::Progress,
};
use aetherium_model::finding::Finding;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

/// The options that make a kernel one for microVMs.
pub const LEAN_CONFIG: &str = include_str!("lean.config");

/// Unpacking 1.3 GB of small files.
const UNPACK_DEADLINE: Duration = Duration::from_secs(900);
/// The build of the configurator is most of it.
const CONFIGURE_DEADLINE: Duration = Duration::from_secs(600);
/// On one slow core.
const BUILD_DEADLINE: Duration = Duration::from_secs(4 * 3600);
const ARCH: &str = "ARCH=x86_64";
/// Where the build puts it.
const IMAGE: &str = "arch/x86/boot/bzImage";
const REMEDY: &str =
    "see the last lines; what was compiled stays, and the next try goes on from it";
/// Options that were renamed: a source knows one name or the other.
const RENAMED: [(&str, &str); 1] = [("SPECULATION_MITIGATIONS", "CPU_MITIGATIONS")];

/// Where the source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelCode {
    /// The package with the distribution's kernel source. It is not installed.
    DistributionPackage {
        /// Where downloaded packages are kept.
        cache: PathBuf,
    },
    /// A source tree that was never built in.
    Tree(PathBuf),
}

/// What the fragment is laid over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseConfig {
    /// Nothing that can be left out: what is not in the fragment is off.
    #[default]
    Tiny,
    /// What the kernel's own developers find reasonable: larger, and slower to build and to boot.
    Default,
}

impl BaseConfig {
    const fn target(self) -> &'static str {
        match self {
            Self::Tiny => "tinyconfig",
            Self::Default => "defconfig",
        }
    }
}

/// What is to be built.
#[derive(Debug, Clone)]
pub struct KernelBuild {
    /// The source.
    pub code: KernelCode,
    /// The base.
    pub base: BaseConfig,
    /// A fragment of the caller's own, after [`LEAN_CONFIG`]: its lines go before.
    pub fragment: Option<PathBuf>,
    /// An existing directory with room for source and build.
    pub work: PathBuf,
    /// How many compilers run at once.
    pub jobs: NonZeroUsize,
}

/// A kernel that can be built. Nobody else builds in its directory until this is dropped.
#[derive(Debug)]
pub struct Configured {
    /// Its source.
    pub source: PathBuf,
    /// The directory of its build.
    pub build: PathBuf,
    /// Wanted options that this source does not know.
    pub unknown: Vec<String>,
    _lock: File,
}

impl Configured {
    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.build.join(".config")
    }
}

impl KernelBuild {
    /// Gets the source and configures it.
    ///
    /// # Errors
    /// [`ImageError::KernelOptionsLost`] if an option of the fragments did not survive; whatever keeps
    /// the source away, or the configurator from running.
    pub async fn configure(&self, progress: &dyn Progress) -> Result<Configured> {
        toolchain::require().await?;
        let wanted = self.wanted()?;
        let (dir, waited) = (self.work.clone(), Duration::ZERO);
        let held = lock::exclusive(&dir.join(".lock"), waited).await?;
        let _lock = held.ok_or(ImageError::KernelsBusy { dir, waited })?;
        let source = self.source(progress).await?;
        let build = self.work.join("build");
        fs::create_dir_all(&build).on("make directory", &build)?;
        progress.step("configuring the kernel");
        make(&source, &build, CONFIGURE_DEADLINE).args(["-s", self.base.target()]).run().await?;
        let config = build.join(".config");
        append(&config, &wanted)?;
        make(&source, &build, CONFIGURE_DEADLINE).args(["-s", "olddefconfig"]).run().await?;
        let (text, tree) = (fs::read_to_string(&config).on("read", &config)?, source.clone());
        let known = blocking(move || known_symbols(&tree)).await?;
        let outcome = compare(&wanted, &text, &known);
        if !outcome.lost.is_empty() {
            return Err(ImageError::KernelOptionsLost { source_dir: source, lost: outcome.lost });
        }
        if !outcome.unknown.is_empty() {
            progress.warn(&passed_over(&outcome.unknown));
        }
        Ok(Configured { source, build, unknown: outcome.unknown, _lock })
    }

    /// Compiles what was configured; returns the bzImage. What the compilers say goes into `log`.
    ///
    /// # Errors
    /// If it does not compile, or not within four hours.
    pub async fn compile(
        &self,
        configured: &Configured,
        log: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        progress.step("compiling the kernel");
        let file = File::create(log).on("make", log)?;
        make(&configured.source, &configured.build, BUILD_DEADLINE)
            .arg(format!("-j{}", self.jobs))
            .arg("bzImage")
            .speaks_on_stdout()
            .narrate(progress, meaning)
            .log(file)
            .run()
            .await?;
        Ok(configured.build.join(IMAGE))
    }

    /// Every option that is wanted, the caller's own last.
    fn wanted(&self) -> Result<Vec<String>> {
        let own = match &self.fragment {
            Some(path) => fs::read_to_string(path).on("read", path)?,
            None => String::new(),
        };
        Ok(options(&[LEAN_CONFIG, &own].join("\n")))
    }

    async fn source(&self, progress: &dyn Progress) -> Result<PathBuf> {
        let cache = match &self.code {
            KernelCode::Tree(tree) => return tree.canonicalize().on("resolve", tree),
            KernelCode::DistributionPackage { cache } => cache,
        };
        let package = package::fetch_source(cache, &self.work, progress).await?;
        let (source, mark) = (self.work.join("source"), self.work.join("unpacked"));
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if fs::read_to_string(&mark).is_ok_and(|unpacked| unpacked == name) {
            return Ok(source);
        }
        progress.step("unpacking the kernel's source");
        let packed = self.work.join("package");
        for stale in [&mark, &source, &packed, &self.work.join("build")] {
            removed(stale)?;
        }
        fs::create_dir_all(&source).on("make directory", &source)?;
        let archive = package::unpack_source(&package, &packed).await?;
        untar(&archive, &source).await?;
        removed(&packed)?;
        fs::write(&mark, name).on("write", &mark)?;
        Ok(source)
    }
}

async fn untar(archive: &Path, into: &Path) -> Result<()> {
    // tar starts these by itself, and without them says only that a child failed.
    match archive.extension().and_then(|ending| ending.to_str()) {
        Some("bz2") => drop(command::find("bzip2", "bzip2")?),
        Some("xz") => drop(command::find("xz", "xz-utils")?),
        _ => {}
    }
    Tool::new("tar", "tar", UNPACK_DEADLINE)
        .args(["--extract", "--strip-components=1", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(into)
        .run()
        .await?;
    Ok(())
}

/// Removes a file or a directory, if it is there.
fn removed(path: &Path) -> Result<()> {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.on("remove", path),
    }
}

fn make(source: &Path, build: &Path, deadline: Duration) -> Tool<'static> {
    let mut output = std::ffi::OsString::from("O=");
    output.push(build);
    Tool::new("make", "make", deadline).arg("-C").arg(source).arg(output).arg(ARCH).remedy(REMEDY)
}

/// What a line of the build means to people: the directory that is done, of
/// `  AR      fs/ext4/built-in.a`. Lines for every file would be thousands.
fn meaning(line: &str) -> Option<&str> {
    line.trim().strip_prefix("AR ")?.trim_start().strip_suffix("/built-in.a")
}

/// The lines `CONFIG_X=…`; of two for one option the last counts.
fn options(text: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with("CONFIG_")) {
        options.retain(|other| symbol(other) != symbol(line));
        options.push(line.to_owned());
    }
    options
}

/// The option of a line, with `CONFIG_`.
fn symbol(line: &str) -> &str {
    line.split_once('=').map_or(line, |(symbol, _)| symbol)
}

fn append(config: &Path, wanted: &[String]) -> Result<()> {
    let mut file = File::options().append(true).open(config).on("open", config)?;
    file.write_all(format!("{}\n", wanted.join("\n")).as_bytes()).on("write", config)
}

/// What became of the wanted options.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// The source knows them, and turned them off or gave them another value.
    lost: Vec<String>,
    /// The source does not know them: an option of another release.
    unknown: Vec<String>,
}

fn compare(wanted: &[String], config: &str, known: &BTreeSet<String>) -> Outcome {
    let lines: BTreeSet<&str> = config.lines().map(str::trim_end).collect();
    let mut outcome = Outcome::default();
    for option in wanted {
        // What is off has no line of that form.
        let off = option.strip_suffix("=n").map(|symbol| format!("# {symbol} is not set"));
        let name = symbol(option);
        let is_there = match off {
            Some(off) => {
                lines.contains(off.as_str()) || !lines.iter().any(|line| symbol(line) == name)
            }
            None => lines.contains(option.as_str()),
        };
        if is_there {
            continue;
        }
        let bare = name.trim_start_matches("CONFIG_");
        if known.contains(bare) {
            outcome.lost.push(option.clone());
        } else if !other_name(bare).is_some_and(|other| known.contains(other)) {
            outcome.unknown.push(option.clone());
        }
    }
    outcome
}

fn other_name(symbol: &str) -> Option<&'static str> {
    RENAMED.iter().find_map(|(old, new)| match symbol {
        it if it == *old => Some(*new),
        it if it == *new => Some(*old),
        _ => None,
    })
}

/// Every option that the source has, from its Kconfig files.
fn known_symbols(source: &Path) -> Result<BTreeSet<String>> {
    let mut symbols = BTreeSet::new();
    let mut dirs = vec![source.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).on("read directory", &dir)? {
            let entry = entry.on("read directory", &dir)?;
            let path = entry.path();
            let is_kconfig = entry.file_name().as_encoded_bytes().starts_with(b"Kconfig");
            if entry.file_type().on("look at", &path)?.is_dir() {
                dirs.push(path);
            } else if is_kconfig {
                let text = fs::read(&path).on("read", &path)?;
                symbols.extend(defined(&String::from_utf8_lossy(&text)).map(str::to_owned));
            }
        }
    }
    Ok(symbols)
}

fn defined(kconfig: &str) -> impl Iterator<Item = &str> {
    kconfig.lines().filter_map(|line| {
        let (keyword, name) = line.trim().split_once(char::is_whitespace)?;
        ["config", "menuconfig"].contains(&keyword).then(|| name.trim())
    })
}

fn passed_over(unknown: &[String]) -> Finding {
    Finding::warn(
        "kernel.options",
        format!("this source does not know {}", unknown.join(", ")),
        "options come and go between releases; the kernel is built without these",
        "nothing, if the source has the same under another name",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::kernel::KernelOption;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_wanted_of_a_kernel_is_lost_unknown_or_there() {
        let wanted =
            lines("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=n\nCONFIG_E=\"x\"\nCONFIG_F=n");
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_E=\"x\"\nCONFIG_F=y\n";
        let known = ["A", "B", "D", "E", "F"].map(str::to_owned).into();
        let outcome = compare(&wanted, config, &known);
        assert_eq!(outcome.lost, ["CONFIG_B=y", "CONFIG_F=n"]);
        assert_eq!(outcome.unknown, ["CONFIG_C=y"]);
    }

    #[test]
    fn an_option_under_its_other_name_is_not_missed() {
        let wanted = lines("CONFIG_SPECULATION_MITIGATIONS=y\nCONFIG_CPU_MITIGATIONS=y");
        for name in ["SPECULATION_MITIGATIONS", "CPU_MITIGATIONS"] {
            let config = format!("CONFIG_{name}=y\n");
            let known = [name.to_owned()].into();
            assert_eq!(compare(&wanted, &config, &known), Outcome::default());
            assert_eq!(compare(&wanted, "", &known).lost, [format!("CONFIG_{name}=y")]);
        }
        assert_eq!(compare(&wanted, "", &BTreeSet::new()).unknown, wanted);
    }

    #[test]
    fn of_the_builds_lines_those_are_told_that_end_a_directory() {
        assert_eq!(meaning("  AR      fs/ext4/built-in.a"), Some("fs/ext4"));
        assert_eq!(meaning("  CC      fs/ext4/inode.o"), None);
        assert_eq!(meaning("  AR      built-in.a"), None);
    }

    #[test]
    fn of_two_lines_for_one_option_the_last_counts() {
        assert_eq!(
            options("# x\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_A=n\n"),
            ["CONFIG_B=y", "CONFIG_A=n"]
        );
    }

    #[test]
    fn the_options_of_a_source_are_read_from_its_kconfig_files() {
        let text =
            "menuconfig NET\n\tbool \"x\"\nconfig INET\n\tdepends on NET\n# config NOT\n\thelp\n";
        assert_eq!(defined(text).collect::<Vec<_>>(), ["NET", "INET"]);
    }

    #[test]
    fn the_fragment_has_everything_built_in_that_a_guest_is_asked_for() {
        let wanted = options(LEAN_CONFIG);
        let loadable = [KernelOption::Modules];
        for option in KernelOption::ALL.iter().filter(|option| !loadable.contains(option)) {
            assert!(wanted.contains(&format!("{option}=y")), "{option}");
        }
        assert_eq!(options(LEAN_CONFIG).len(), LEAN_CONFIG.matches("\nCONFIG_").count());
    }
}
