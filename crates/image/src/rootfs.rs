//! Makes a template's root filesystem: read-only, with everything a shell needs, and no more.
//!
//! As root, tools run as they are. As anybody else, `mmdebstrap` finds a way of its own (user
//! namespaces, else fakechroot), and what must own files as root runs under `fakeroot`. Nothing is
//! mounted where the host could see it: as root, `mmdebstrap` gets namespaces of its own, so that
//! its mounts end with it however it ends.

use crate::{
    command::{self, Tool},
    distribution::Distribution,
    error::{ImageError, OnPath, Result, blocking},
    ext4::{self, Content},
    oci::{self, ImageOrigin, Places, RegistryAccess},
    progress::Progress,
    sparse,
    store::InstalledTemplate,
};
use aetherium_model::{
    finding::Finding,
    template::{ImageDefaults, Template},
};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Downloading and installing some hundred packages, on a slow line and a slow machine.
const BOOTSTRAP_DEADLINE: Duration = Duration::from_secs(900);
/// Unpacking their files.
const UNPACK_DEADLINE: Duration = Duration::from_secs(300);
/// Files that only people at a terminal on a full system miss. Licences stay.
const DPKG_OPTIONS: [&str; 8] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    // Each installed file would be forced to the disk by itself; the finished image is, once.
    "force-unsafe-io",
    "force-confold",
];
/// Beyond the minimum: TLS roots, and `ps`, `free` and their kin.
const BASE_PACKAGES: [&str; 2] = ["ca-certificates", "procps"];

/// Comes with `mmdebstrap`: a system that begins with a merged /usr. Without it, Debian 12 installs
/// all of Perl to merge it afterwards.
const MERGED_USR_HOOKS: &str = "/usr/share/mmdebstrap/hooks/maybe-merged-usr";

const REMEDY_AS_ROOT: &str = "check the network and the names of the packages, and refresh the package index: apt-get update";
const REMEDY_AS_USER: &str = "check the network and the names of the packages; without root, this \
                              user needs ranges in /etc/subuid and /etc/subgid (as root: usermod \
                              --add-subuids 100000-165535 --add-subgids 100000-165535 USER)";

/// A root filesystem's image, and how to speak of it.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) uuid: String,
    pub(crate) origin: String,
    /// What its image says about commands.
    pub(crate) defaults: Option<ImageDefaults>,
    /// Stands for its content where the image's own digest does not: two made of the same layers
    /// differ in their UUIDs.
    pub(crate) key: Option<String>,
}

/// Whether the tools for packages are there; called before anything slow is done.
pub(crate) fn require_bootstrap_tools() -> Result<()> {
    command::find("mmdebstrap", "mmdebstrap")?;
    command::find("tar", "tar")?;
    if is_root() {
        command::find("unshare", "util-linux")?;
        return Ok(());
    }
    command::find("fakeroot", "fakeroot")?;
    // Either lets `mmdebstrap` install packages without root.
    command::find("fakechroot", "fakechroot").or_else(|_| command::find("newuidmap", "uidmap"))?;
    Ok(())
}

/// Installs a minimal system of the host's distribution and makes `image` of it.
pub(crate) async fn from_packages(
    host: &Distribution,
    include: &[String],
    work: &Path,
    image: &Path,
    progress: &dyn Progress,
) -> Result<Made> {
    let archive = work.join("rootfs.tar");
    bootstrap(host, include, work, &archive, progress).await?;
    progress.step("unpacking the root filesystem");
    let (dir, state) = (work.join("rootfs"), work.join("owners"));
    fs::create_dir(&dir).on("make directory", &dir)?;
    let unpack = Tool::new("tar", "tar", UNPACK_DEADLINE)
        .args(["--extract", "--numeric-owner", "--same-owner", "--preserve-permissions"])
        // The guest's kernel fills /dev; making its nodes here takes a privilege.
        .args(["--exclude=./dev/*", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&dir);
    let unpack = if is_root() {
        unpack.args(["--xattrs", "--xattrs-include=*"])
    } else {
        unpack.under(fakeroot().arg("-s").arg(&state).arg("--"))?
    };
    unpack.run().await?;
    fs::remove_file(&archive).on("remove", &archive)?;
    let uuid = image_of(&dir, image, state.exists().then_some(&state), progress).await?;
    Ok(Made { uuid, origin: format!("{} {}", host.id, host.codename), defaults: None, key: None })
}

async fn bootstrap(
    host: &Distribution,
    include: &[String],
    work: &Path,
    archive: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    let sources = host.sources().await?;
    progress.step(&format!("installing a small {} {}", host.id, host.codename));
    let packages: Vec<_> =
        BASE_PACKAGES.into_iter().chain(include.iter().map(String::as_str)).collect();
    let merged_usr = host.id == "debian" && Path::new(MERGED_USR_HOOKS).is_dir();
    let tool = Tool::new("mmdebstrap", "mmdebstrap", BOOTSTRAP_DEADLINE)
        .args(["--variant=minbase", "--format=tar"])
        .arg(if is_root() { "--mode=root" } else { "--mode=auto" })
        .arg(format!("--include={}", packages.join(",")))
        .args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")))
        .args([
            "--aptopt=Acquire::Languages \"none\"",
            "--aptopt=APT::Install-Recommends \"false\"",
        ])
        .args(merged_usr.then(|| format!("--hook-dir={MERGED_USR_HOOKS}")))
        .arg(&host.codename)
        .arg(archive)
        .args(&sources)
        .remedy(if is_root() { REMEDY_AS_ROOT } else { REMEDY_AS_USER })
        .narrate(progress, meaning);
    let tool = if is_root() {
        let namespaces = Tool::new("unshare", "util-linux", BOOTSTRAP_DEADLINE).args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ]);
        tool.env("TMPDIR", work).under(namespaces)?
    } else {
        tool
    };
    tool.run().await?;
    Ok(())
}

/// What `mmdebstrap` says that people want to read.
fn meaning(line: &str) -> Option<&str> {
    let said = line.strip_prefix("I: ")?.trim_end_matches('.');
    let begins = |word: &&str| said.starts_with(word);
    ["running apt", "downloading", "extracting", "installing", "cleaning", "creating"]
        .iter()
        .any(begins)
        .then_some(said)
}

/// Makes `image` of a directory.
pub(crate) async fn from_directory(
    dir: &Path,
    image: &Path,
    progress: &dyn Progress,
) -> Result<Made> {
    let found = fs::metadata(dir).on("look at", dir)?;
    if !found.is_dir() {
        let detail = "it is not a directory".to_owned();
        return Err(ImageError::RootfsUnusable { path: dir.to_owned(), detail });
    }
    warn_without_shell(dir, &dir.display().to_string(), progress);
    let uuid = image_of(dir, image, None, progress).await?;
    Ok(Made { uuid, origin: format!("directory {}", dir.display()), defaults: None, key: None })
}

/// Makes `image` of the layers of a container image.
pub(crate) async fn from_layers(
    origin: &ImageOrigin,
    places: Places<'_>,
    image: &Path,
    progress: &dyn Progress,
) -> Result<Made> {
    let (dir, owners) = (places.work.join("rootfs"), places.work.join("owners"));
    let owners = (!is_root()).then_some(owners);
    let found = oci::get(origin, places, progress).await?;
    let (name, defaults, key) = (found.origin.clone(), found.defaults.clone(), found.key());
    oci::unpack(found, &dir, owners.as_deref(), progress).await?;
    warn_without_shell(&dir, &name, progress);
    let uuid = image_of(&dir, image, owners.as_ref(), progress).await?;
    Ok(Made { uuid, origin: name, defaults, key })
}

/// Makes `image` the root filesystem of a container image, as a build does, without a template around
/// it: for whoever measures that. `work` is a directory of the caller's own, in which the layers are
/// unpacked.
///
/// # Errors
/// Whatever keeps a template from being made of that image.
pub async fn root_filesystem(
    origin: &ImageOrigin,
    registry: &RegistryAccess,
    work: &Path,
    image: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    from_layers(origin, Places { work, registry }, image, progress).await.map(drop)
}

fn warn_without_shell(dir: &Path, name: &str, progress: &dyn Progress) {
    if fs::symlink_metadata(dir.join("bin/sh")).is_err() {
        progress.warn(&Finding::warn(
            "template.rootfs.shell",
            format!("{name} has no /bin/sh"),
            "the shell assistant runs every prompt with it; programs of the image run without",
            "install a shell in the root filesystem, or run its programs by their paths",
        ));
    }
}

/// Makes `image` a copy of an ext4 image.
pub(crate) async fn from_image(
    source: &Path,
    image: &Path,
    progress: &dyn Progress,
) -> Result<Made> {
    let uuid = ext4::uuid_of(source).await?;
    progress.step("copying the root filesystem");
    let (from, to) = (source.to_owned(), image.to_owned());
    blocking(move || sparse::copy(&from, &File::create_new(&to).on("make", &to)?)).await?;
    progress.step("checking the root filesystem");
    ext4::check(image).await?;
    Ok(Made { uuid, origin: format!("image {}", source.display()), defaults: None, key: None })
}

/// Makes `image` a copy of another template's.
pub(crate) async fn from_template(
    base: &InstalledTemplate,
    image: &Path,
    progress: &dyn Progress,
) -> Result<Made> {
    let Made { uuid, .. } = from_image(&base.rootfs(), image, progress).await?;
    fs::set_permissions(image, Permissions::from_mode(0o644)).on("set permissions of", image)?;
    let Template { rootfs, image: defaults, .. } = &base.manifest;
    let (origin, defaults) = (rootfs.origin.clone(), defaults.clone());
    Ok(Made { uuid, origin, defaults, key: Some(rootfs.image.sha256.clone()) })
}

/// Makes the image; `owners` is what `fakeroot` wrote down of who owns what.
async fn image_of(
    dir: &Path,
    image: &Path,
    owners: Option<&PathBuf>,
    progress: &dyn Progress,
) -> Result<String> {
    progress.step("writing the root filesystem");
    let measured = dir.to_owned();
    let content = blocking(move || Content::of(&measured)).await?;
    let uuid = uuid::Uuid::new_v4().hyphenated().to_string();
    ext4::make_from_dir(image, dir, content, &uuid, |mkfs| {
        if is_root() {
            return Ok(mkfs);
        }
        let state = owners.into_iter().flat_map(|state| [Path::new("-i"), state]);
        mkfs.under(fakeroot().args(state).arg("--"))
    })
    .await?;
    // Readable by whichever user a VMM is made to run as.
    fs::set_permissions(image, Permissions::from_mode(0o644)).on("set permissions of", image)?;
    Ok(uuid)
}

fn fakeroot() -> Tool<'static> {
    Tool::new("fakeroot", "fakeroot", UNPACK_DEADLINE)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_people_want_to_read_is_passed_on() {
        assert_eq!(meaning("I: extracting archives..."), Some("extracting archives"));
        assert_eq!(meaning("I: automatically chosen format: tar"), None);
        assert_eq!(meaning("Get:1 http://deb.example"), None);
    }
}
