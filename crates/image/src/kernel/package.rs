//! Gets a kernel out of the distribution's package, without installing it.

use super::KernelFiles;
use crate::{
    command::Tool,
    distribution::Distribution,
    error::{ImageError, OnPath, Result, blocking},
    progress::Progress,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Reading the package index of the host.
const INDEX_DEADLINE: Duration = Duration::from_secs(60);
/// Downloading some 30 to 60 MB.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(600);
/// Unpacking it.
const UNPACK_DEADLINE: Duration = Duration::from_secs(120);
/// How often the growth of a download is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// Depends on the newest source; the same in Debian and Ubuntu.
const SOURCE_METAPACKAGE: &str = "linux-source";

/// A package file as the index describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    file: String,
    size: u64,
}

/// Downloads the kernel's packages into `cache`, unless they are there, and unpacks them in `work`.
pub(crate) async fn fetch(
    host: &Distribution,
    cache: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<KernelFiles> {
    let packages = packages_of(host.kernel_metapackage()?).await?;
    progress.step(&format!("kernel from package {}", packages[0]));
    let archives = locate(&packages).await?;
    fs::create_dir_all(cache).on("make directory", cache)?;
    let missing: Vec<_> = archives.iter().filter(|archive| !archive.is_in(cache)).collect();
    if !missing.is_empty() {
        download(&packages, &missing, cache, &work.join("packages"), progress).await?;
    }
    let files: Vec<_> = archives.iter().map(|archive| cache.join(&archive.file)).collect();
    unpack(&files, &work.join("kernel"), progress).await
}

/// Unpacks package files into one directory and finds the kernel and its modules there.
pub(crate) async fn unpack(
    files: &[PathBuf],
    into: &Path,
    progress: &dyn Progress,
) -> Result<KernelFiles> {
    for file in files {
        progress.step(&format!("unpacking {}", file.display()));
        extract(file, into).await?;
    }
    let named = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
    let (into, named) = (into.to_owned(), named.join(", "));
    blocking(move || find_files(&into, &named)).await
}

async fn extract(file: &Path, into: &Path) -> Result<()> {
    Tool::new("dpkg-deb", "dpkg", UNPACK_DEADLINE)
        .arg("-x")
        .args([file, into])
        .remedy("get the package anew; one in the download cache may be removed")
        .run()
        .await?;
    Ok(())
}

/// Downloads the package with the distribution's kernel source into `cache`, unless it is there; returns
/// the package file, whose name tells the version.
pub(super) async fn fetch_source(
    cache: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf> {
    let concrete = dependencies(SOURCE_METAPACKAGE).await?;
    let concrete = concrete.into_iter().find(|name| name.starts_with("linux-source-"));
    let package = concrete.ok_or_else(|| ImageError::PackageUnknown {
        wanted: format!("kernel source behind {SOURCE_METAPACKAGE}"),
    })?;
    progress.step(&format!("kernel source from package {package}"));
    let packages = [package];
    let archives = locate(&packages).await?;
    fs::create_dir_all(cache).on("make directory", cache)?;
    let missing: Vec<_> = archives.iter().filter(|archive| !archive.is_in(cache)).collect();
    if !missing.is_empty() {
        download(&packages, &missing, cache, &work.join("packages"), progress).await?;
    }
    Ok(cache.join(&archives[0].file))
}

/// Unpacks such a package into `into`; returns the archive with the source inside.
pub(super) async fn unpack_source(package: &Path, into: &Path) -> Result<PathBuf> {
    extract(package, into).await?;
    let sources = into.join("usr/src");
    source_archive(&sources).ok_or_else(|| ImageError::PackageIncomplete {
        package: package.display().to_string(),
        wanted: "/usr/src/linux-source-*.tar.*",
    })
}

/// The one archive in a directory: Debian has it there, Ubuntu in a directory of its own, to which a
/// link leads.
fn source_archive(dir: &Path) -> Option<PathBuf> {
    let is_source = |path: &PathBuf| {
        let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
        name.starts_with("linux-source-")
    };
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let here = entries(dir).map(|entry| entry.path()).filter(is_source);
    let (dirs, files): (Vec<_>, Vec<_>) =
        here.filter(|path| !path.is_symlink()).partition(|path| path.is_dir());
    let inside = dirs.iter().flat_map(|dir| entries(dir)).map(|entry| entry.path());
    let inside = inside.filter(|path| is_source(path) && path.is_file() && !path.is_symlink());
    let mut archives = files.into_iter().chain(inside);
    let first = archives.next();
    first.filter(|_| archives.next().is_none())
}

/// The concrete kernel package behind a metapackage, first, and those that hold its modules.
async fn packages_of(metapackage: &str) -> Result<Vec<String>> {
    let image = dependencies(metapackage)
        .await?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| ImageError::PackageUnknown {
            wanted: format!("kernel behind {metapackage}"),
        })?;
    let modules = dependencies(&image).await?;
    let modules = modules.into_iter().filter(|name| name.starts_with("linux-modules-"));
    Ok(std::iter::once(image.clone()).chain(modules).collect())
}

async fn dependencies(package: &str) -> Result<Vec<String>> {
    let listed =
        Tool::new("apt-cache", "apt", INDEX_DEADLINE).args(["depends", package]).run().await;
    match listed {
        Ok(text) => Ok(parse_dependencies(&text)),
        // It fails exactly when the index does not know the package.
        Err(ImageError::CommandFailed { .. }) => {
            Err(ImageError::PackageUnknown { wanted: format!("package {package}") })
        }
        Err(error) => Err(error),
    }
}

/// Lines such as `  Depends: name` and ` |Depends: name`; a name in `<>` is a virtual package.
fn parse_dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start_matches([' ', '|']).strip_prefix("Depends: "))
        .filter(|name| !name.starts_with('<'))
        .map(str::to_owned)
        .collect()
}

async fn locate(packages: &[String]) -> Result<Vec<Archive>> {
    let text = Tool::new("apt-get", "apt", INDEX_DEADLINE)
        .args(["download", "--print-uris"])
        .args(packages)
        .remedy("refresh the package index (as root: apt-get update), then try again")
        .run()
        .await?;
    let archives = parse_uris(&text);
    if archives.len() == packages.len() {
        return Ok(archives);
    }
    Err(ImageError::PackageUnknown { wanted: format!("download for {}", packages.join(", ")) })
}

/// Lines such as `'http://mirror/x.deb' x.deb 123 SHA256:…`.
fn parse_uris(text: &str) -> Vec<Archive> {
    text.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let file = fields.next().filter(|file| !file.contains('/'))?.to_owned();
            Some(Archive { file, size: fields.next()?.parse().ok()? })
        })
        .collect()
}

impl Archive {
    /// Only complete files come into the cache, so that their size tells the rest.
    fn is_in(&self, cache: &Path) -> bool {
        fs::metadata(cache.join(&self.file)).is_ok_and(|found| found.len() == self.size)
    }
}

async fn download(
    packages: &[String],
    missing: &[&Archive],
    cache: &Path,
    into: &Path,
    progress: &dyn Progress,
) -> Result<()> {
    fs::create_dir_all(into).on("make directory", into)?;
    let total = missing.iter().map(|archive| archive.size).sum();
    progress.total("downloading the kernel", Some(total));
    let download = Tool::new("apt-get", "apt", DOWNLOAD_DEADLINE)
        // It downloads into our directory, which its sandbox user cannot write to.
        .args(["--quiet", "-o", "APT::Sandbox::User=root", "download"])
        .args(packages)
        .dir(into)
        .remedy("check the network; if the package is gone, as root: apt-get update")
        .run();
    watch_growth(into, progress, download).await?;
    progress.done();
    for archive in missing {
        let (from, cache) = (into.join(&archive.file), cache.to_owned());
        let file = archive.file.clone();
        blocking(move || keep(&from, &cache, &file)).await?;
    }
    Ok(())
}

/// Tells how the files of a directory grow while `work` is under way.
async fn watch_growth<T>(
    dir: &Path,
    progress: &dyn Progress,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut told = 0;
    let mut tell = || {
        let sizes = fs::read_dir(dir).into_iter().flatten().flatten();
        let now = sizes.filter_map(|file| Some(file.metadata().ok()?.len())).sum::<u64>();
        progress.advance(now.saturating_sub(told));
        told = told.max(now);
    };
    tokio::pin!(work);
    loop {
        match tokio::time::timeout(WATCH_INTERVAL, &mut work).await {
            Ok(result) => {
                tell();
                return result;
            }
            Err(_) => tell(),
        }
    }
}

/// Copies a file into the cache, where it appears whole or not at all.
fn keep(from: &Path, cache: &Path, name: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(cache).on("make a file in", cache)?;
    let mut source = fs::File::open(from).on("open", from)?;
    std::io::copy(&mut source, &mut file).on("write to", cache)?;
    let place = cache.join(name);
    file.persist(&place).map_err(|error| error.error).on("write", &place)?;
    Ok(())
}

fn find_files(unpacked: &Path, package: &str) -> Result<KernelFiles> {
    let missing = |wanted| ImageError::PackageIncomplete { package: package.to_owned(), wanted };
    let image =
        only_entry(&unpacked.join("boot"), "vmlinuz-").ok_or_else(|| missing("/boot/vmlinuz-*"))?;
    // Packages made for a merged /usr name the second.
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|dir| only_entry(&unpacked.join(dir), ""))
        .ok_or_else(|| missing("/lib/modules/*"))?;
    Ok(KernelFiles { image, modules: Some(modules) })
}

fn only_entry(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found = fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)));
    found.next().map(|entry| entry.path()).filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_concrete_packages_are_read_from_what_apt_says() {
        let debian = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(parse_dependencies(debian), ["linux-image-6.1.0-56-cloud-amd64"]);
        let ubuntu = "linux-image-6.8.0-41-generic\n |Depends: kmod\n  Depends: <linux-boot>\n    \
                      kmod\n  Depends: linux-modules-6.8.0-41-generic\n  Suggests: fdutils\n";
        assert_eq!(parse_dependencies(ubuntu), ["kmod", "linux-modules-6.8.0-41-generic"]);
    }

    #[test]
    fn a_download_is_known_by_its_file_and_size_before_it_is_made() {
        let said = "Reading...\n'http://deb.example/pool/l/x_1%2b2_amd64.deb' x_1+2_amd64.deb 267 SHA256:e7\n";
        let archives = parse_uris(said);
        assert_eq!(archives, [Archive { file: "x_1+2_amd64.deb".into(), size: 267 }]);
        assert_eq!(parse_uris("'http://deb.example/x' ../x.deb 267 SHA256:e7"), []);
    }

    #[test]
    fn only_a_complete_package_counts_as_cached() {
        let cache = tempfile::tempdir().unwrap();
        let archive = Archive { file: "x.deb".into(), size: 3 };
        assert!(!archive.is_in(cache.path()));
        fs::write(cache.path().join("x.deb"), "ab").unwrap();
        assert!(!archive.is_in(cache.path()));
        fs::write(cache.path().join("x.deb"), "abc").unwrap();
        assert!(archive.is_in(cache.path()));
    }

    #[test]
    fn the_source_is_found_as_debian_and_as_ubuntu_pack_it() {
        let unpacked = tempfile::tempdir().unwrap();
        let dir = unpacked.path();
        assert_eq!(source_archive(dir), None);
        fs::write(dir.join("linux-patch-6.1-rt.patch.xz"), "").unwrap();
        let debian = dir.join("linux-source-6.1.tar.xz");
        fs::write(&debian, "").unwrap();
        assert_eq!(source_archive(dir), Some(debian.clone()));
        fs::remove_file(&debian).unwrap();

        let ubuntu = dir.join("linux-source-6.8.0/linux-source-6.8.0.tar.bz2");
        fs::create_dir_all(dir.join("linux-source-6.8.0/debian")).unwrap();
        fs::write(&ubuntu, "").unwrap();
        let link = dir.join("linux-source-6.8.0.tar.bz2");
        std::os::unix::fs::symlink("linux-source-6.8.0/linux-source-6.8.0.tar.bz2", link).unwrap();
        assert_eq!(source_archive(dir), Some(ubuntu));
        fs::write(debian, "").unwrap();
        assert_eq!(source_archive(dir), None, "nobody knows which of two is meant");
    }

    #[test]
    fn kernel_and_modules_are_found_in_both_layouts() {
        for layout in ["lib/modules/6.1", "usr/lib/modules/6.1"] {
            let unpacked = tempfile::tempdir().unwrap();
            fs::create_dir_all(unpacked.path().join("boot")).unwrap();
            fs::create_dir_all(unpacked.path().join(layout)).unwrap();
            fs::write(unpacked.path().join("boot/config-6.1"), "").unwrap();
            let error = find_files(unpacked.path(), "linux-image-6.1").unwrap_err().to_string();
            assert!(error.contains("linux-image-6.1") && error.contains("vmlinuz"), "{error}");
            fs::write(unpacked.path().join("boot/vmlinuz-6.1"), "").unwrap();
            let files = find_files(unpacked.path(), "linux-image-6.1").unwrap();
            assert_eq!(files.image, unpacked.path().join("boot/vmlinuz-6.1"));
            assert_eq!(files.modules, Some(unpacked.path().join(layout)));
        }
    }
}
