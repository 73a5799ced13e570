//! Kernels that were imported or built, kept under a name for the templates to come.
//!
//! ```text
//! <dir>/<name>/kernel.json  kernel  config  modules/    put in place whole by one rename
//! <dir>/.lock                                           held by whoever changes the shelf
//! <dir>/.import-XXXXXX/                                 an import under way, or what a killed one left
//! ```
//! Templates copy what they are made of, so removing a kernel disturbs nobody.

use super::{config, facts, package};
use crate::{
    command::Tool,
    distribution::Distribution,
    error::{ImageError, OnPath, Result, blocking},
    lock,
    progress::Progress,
    staging,
};
use aetherium_model::{Name, Timestamp, kernel::KernelFacts};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

const MANIFEST: &str = "kernel.json";
const IMAGE: &str = "kernel";
const CONFIG: &str = "config";
const MODULES: &str = "modules";
const STAGING_PREFIX: &str = ".import-";
/// Another import may be unpacking a package.
const PATIENCE: Duration = Duration::from_secs(600);
/// Copying some thousand modules.
const COPY_DEADLINE: Duration = Duration::from_secs(120);

/// The kernels of one directory.
#[derive(Debug, Clone)]
pub struct KernelShelf {
    dir: PathBuf,
}

/// A kernel on the shelf: its manifest, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShelvedKernel {
    /// Its name.
    pub name: Name,
    /// Where it came from: a file, packages, or a build.
    pub origin: String,
    /// What is known of it.
    pub facts: KernelFacts,
    /// When it came.
    pub imported_at: Timestamp,
    /// Its image.
    #[serde(skip)]
    pub image: PathBuf,
    /// Its modules, as in `/lib/modules/<release>`; `None` if it came without.
    #[serde(skip)]
    pub modules: Option<PathBuf>,
}

/// Where an imported kernel comes from.
#[derive(Debug, Clone)]
pub enum KernelOrigin {
    /// Files at hand.
    Files {
        /// A bzImage or an ELF image.
        image: PathBuf,
        /// Its modules, as in `/lib/modules/<release>`.
        modules: Option<PathBuf>,
        /// Its configuration, where that is neither inside the image nor beside it.
        config: Option<PathBuf>,
    },
    /// Package files that hold a kernel and its modules together. They are not installed.
    Packages(Vec<PathBuf>),
    /// The package that the host's distribution has for virtual machines.
    Distribution {
        /// Where downloaded packages are kept.
        cache: PathBuf,
    },
}

impl KernelShelf {
    /// The shelf in a directory, which need not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Every kernel, sorted by name. One without a readable manifest is left out, with a warning in the
    /// log. Synchronous and short.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<ShelvedKernel>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.on("read directory", &self.dir)?,
        };
        let mut kernels = Vec::new();
        for entry in entries {
            let entry = entry.on("read directory", &self.dir)?;
            let Some(Ok(name)) = entry.file_name().to_str().map(str::parse::<Name>) else {
                continue;
            };
            match self.get(&name) {
                Ok(kernel) => kernels.push(kernel),
                Err(error) => tracing::warn!(kernel = %name, %error, "skipping a kernel"),
            }
        }
        kernels.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(kernels)
    }

    /// One kernel.
    ///
    /// # Errors
    /// [`ImageError::KernelNotFound`] without one of that name; if its manifest cannot be read.
    pub fn get(&self, name: &Name) -> Result<ShelvedKernel> {
        let dir = self.dir.join(name.as_str());
        let path = dir.join(MANIFEST);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.not_found(name));
            }
            other => other.on("read", &path)?,
        };
        let manifest: ShelvedKernel =
            serde_json::from_slice(&text).map_err(io::Error::from).on("read", &path)?;
        let modules = Some(dir.join(MODULES)).filter(|modules| modules.is_dir());
        Ok(ShelvedKernel { name: name.clone(), image: dir.join(IMAGE), modules, ..manifest })
    }

    /// Takes a kernel in. Without a name it gets that of its release. Killed at any point, it leaves the
    /// shelf as it was, but for a directory that the next import removes.
    ///
    /// # Errors
    /// [`ImageError::KernelExists`] if the name is taken and the kernel there is not to be replaced; if
    /// it is no kernel, or cannot be read or copied.
    pub async fn import(
        &self,
        name: Option<Name>,
        origin: &KernelOrigin,
        replace: bool,
        progress: &dyn Progress,
    ) -> Result<ShelvedKernel> {
        let _lock = self.lock().await?;
        self.sweep()?;
        let work = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempdir_in(&self.dir)
            .on("make directory in", &self.dir)?;
        let mut files = take(origin, work.path(), progress).await?;
        let facts = examined(&files).await?;
        files.config = files.config.or_else(|| config::file_beside(&files.image, &facts.release));
        let name = name.map_or_else(|| of_release(&files, &facts), Ok)?;
        if !replace && self.dir.join(name.as_str()).exists() {
            return Err(ImageError::KernelExists { name });
        }
        progress.step(&format!("keeping kernel {}", facts.release));
        let manifest = ShelvedKernel {
            name,
            origin: origin.to_string(),
            facts,
            imported_at: Timestamp::from(SystemTime::now()),
            image: PathBuf::new(),
            modules: None,
        };
        let made = arrange(&files, &manifest, work.path()).await?;
        let shelf = self.clone();
        let placed = manifest.name.clone();
        blocking(move || shelf.place(&made, &placed)).await?;
        self.get(&manifest.name)
    }

    /// Removes a kernel. Templates made of it go on.
    ///
    /// # Errors
    /// [`ImageError::KernelNotFound`] without one of that name; if it cannot be removed.
    pub async fn remove(&self, name: &Name) -> Result<()> {
        let dir = self.dir.join(name.as_str());
        if !dir.exists() {
            return Err(self.not_found(name));
        }
        let _lock = self.lock().await?;
        let gone = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(&self.dir);
        let gone = gone.on("make directory in", &self.dir)?;
        fs::rename(&dir, gone.path()).on("remove", &dir)
    }

    async fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.dir).on("make directory", &self.dir)?;
        let held = lock::exclusive(&self.dir.join(".lock"), PATIENCE).await?;
        held.ok_or_else(|| ImageError::KernelsBusy { dir: self.dir.clone(), waited: PATIENCE })
    }

    /// Removes what killed imports left; the lock is held.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir).on("read directory", &self.dir)? {
            let path = entry.on("read directory", &self.dir)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(STAGING_PREFIX)) {
                fs::remove_dir_all(&path).on("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Puts a directory in the place of its name; what had the place goes with the staging directory.
    fn place(&self, made: &Path, name: &Name) -> Result<()> {
        let place = self.dir.join(name.as_str());
        match rustix::fs::renameat_with(CWD, made, CWD, &place, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(rustix::io::Errno::NOENT) => {
                fs::rename(made, &place).on("move the kernel to", &place)?;
            }
            Err(errno) => return Err(errno).on("replace", &place),
        }
        staging::sync_dir(&self.dir)
    }

    fn not_found(&self, name: &Name) -> ImageError {
        ImageError::KernelNotFound { name: name.clone(), dir: self.dir.clone() }
    }
}

impl std::fmt::Display for KernelOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files { image, .. } => write!(f, "{}", image.display()),
            Self::Packages(files) => {
                let names = files.iter().filter_map(|file| file.file_name());
                let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
                f.write_str(&names.join(", "))
            }
            Self::Distribution { .. } => f.write_str("the distribution's package"),
        }
    }
}

/// The files of a kernel that is to be kept.
struct Files {
    image: PathBuf,
    modules: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// Gets the files of a kernel; those of packages are unpacked in `work`.
async fn take(origin: &KernelOrigin, work: &Path, progress: &dyn Progress) -> Result<Files> {
    let unpacked = match origin {
        KernelOrigin::Files { image, modules, config } => {
            let (image, modules, config) = (image.clone(), modules.clone(), config.clone());
            return Ok(Files { image, modules, config });
        }
        KernelOrigin::Packages(files) => {
            package::unpack(files, &work.join("unpacked"), progress).await?
        }
        KernelOrigin::Distribution { cache } => {
            package::fetch(&Distribution::of_host()?, cache, work, progress).await?
        }
    };
    Ok(Files { image: unpacked.image, modules: unpacked.modules, config: None })
}

async fn examined(files: &Files) -> Result<KernelFacts> {
    let (image, config) = (files.image.clone(), files.config.clone());
    blocking(move || Ok(facts::examine_with(&image, config.as_deref())?.facts)).await
}

fn of_release(files: &Files, facts: &KernelFacts) -> Result<Name> {
    facts.release.parse().map_err(|_| ImageError::KernelUnusable {
        path: files.image.clone(),
        detail: format!("its release {:?} cannot be its name: give one", facts.release),
    })
}

/// Makes the directory that is to be put in place, inside `work`, and forces it to the disk.
async fn arrange(files: &Files, manifest: &ShelvedKernel, work: &Path) -> Result<PathBuf> {
    let made = work.join("made");
    fs::create_dir(&made).on("make directory", &made)?;
    if let Some(config) = &files.config {
        // Where a template's build looks for it, should it not be inside the image.
        fs::copy(config, made.join(CONFIG)).on("copy", config)?;
    }
    if let Some(modules) = &files.modules {
        let to = made.join(MODULES);
        // Unpacked ones are moved, others are somebody's.
        if modules.starts_with(work) {
            fs::rename(modules, &to).on("move", modules)?;
        } else {
            Tool::new("cp", "coreutils", COPY_DEADLINE)
                .args(["--recursive", "--no-dereference", "--preserve=timestamps"])
                .args([modules, &to])
                .run()
                .await?;
        }
    }
    let (image, text) = (files.image.clone(), serde_json::to_vec_pretty(manifest));
    let dir = made.clone();
    blocking(move || {
        let place = dir.join(IMAGE);
        fs::copy(&image, &place).on("copy", &image)?;
        fs::set_permissions(&place, Permissions::from_mode(0o644))
            .on("set permissions of", &place)?;
        let place = dir.join(MANIFEST);
        fs::write(&place, text.map_err(io::Error::from).on("write", &place)?)
            .on("write", &place)?;
        for file in [IMAGE, MANIFEST] {
            let path = dir.join(file);
            File::open(&path).and_then(|file| file.sync_all()).on("write to disk", &path)?;
        }
        staging::sync_dir(&dir)
    })
    .await?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::image::tests::bzimage, modules::tests::write_tree, progress::Silent};
    use aetherium_model::kernel::{KernelOption, Setting};
    use tempfile::TempDir;

    struct Host {
        dir: TempDir,
        shelf: KernelShelf,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("vmlinuz"), bzimage("6.1.0-x")).unwrap();
            fs::write(dir.path().join("config-6.1.0-x"), "CONFIG_EXT4_FS=y\n").unwrap();
            let shelf = KernelShelf::new(dir.path().join("kernels"));
            Self { dir, shelf }
        }

        fn origin(&self, modules: Option<PathBuf>) -> KernelOrigin {
            KernelOrigin::Files { image: self.dir.path().join("vmlinuz"), modules, config: None }
        }

        fn left(&self) -> Vec<String> {
            let names = fs::read_dir(self.dir.path().join("kernels")).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with(STAGING_PREFIX)).collect()
        }
    }

    #[tokio::test]
    async fn an_imported_kernel_is_found_by_its_release_with_what_is_known_of_it() {
        let files = Host::new();
        let modules = files.dir.path().join("modules-of-it");
        write_tree(&modules, "6.1.0-x", &["kernel/ext4.ko"], &[("overlay", "")]);
        let origin = files.origin(Some(modules.clone()));
        let made = files.shelf.import(None, &origin, false, &Silent).await.unwrap();
        assert_eq!(made.name.as_str(), "6.1.0-x");
        assert_eq!(made.facts.setting(KernelOption::Ext4), Some(Setting::BuiltIn));
        assert_eq!(fs::read(&made.image).unwrap(), bzimage("6.1.0-x"));
        assert!(made.modules.as_ref().unwrap().join("modules.builtin").exists());
        assert!(modules.exists(), "somebody's modules are copied");
        assert_eq!(files.shelf.list().unwrap(), [made]);
        assert_eq!(files.left(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_taken_name_is_replaced_only_when_that_is_asked_for() {
        let files = Host::new();
        let name = || Some("lean".parse().unwrap());
        let origin = files.origin(None);
        files.shelf.import(name(), &origin, false, &Silent).await.unwrap();
        let refused = files.shelf.import(name(), &origin, false, &Silent).await;
        assert!(matches!(refused, Err(ImageError::KernelExists { .. })), "{refused:?}");
        fs::write(files.dir.path().join("vmlinuz"), bzimage("6.2.0")).unwrap();
        let made = files.shelf.import(name(), &origin, true, &Silent).await.unwrap();
        assert_eq!(made.facts.release, "6.2.0");
        files.shelf.remove(&made.name).await.unwrap();
        let gone = files.shelf.get(&made.name);
        assert!(matches!(gone, Err(ImageError::KernelNotFound { .. })), "{gone:?}");
        assert_eq!(files.left(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_a_killed_import_left_goes_with_the_next() {
        let files = Host::new();
        let left = files.dir.path().join("kernels/.import-dead/made");
        fs::create_dir_all(&left).unwrap();
        files.shelf.import(None, &files.origin(None), false, &Silent).await.unwrap();
        assert!(!left.exists());
        let no_kernel = KernelOrigin::Files {
            image: files.dir.path().join("config-6.1.0-x"),
            modules: None,
            config: None,
        };
        assert!(files.shelf.import(None, &no_kernel, false, &Silent).await.is_err());
        assert_eq!(files.left(), Vec::<String>::new());
    }
}
