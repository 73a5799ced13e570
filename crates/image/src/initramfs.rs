//! Makes a template's initramfs: the agent as `/init`, and the modules that this kernel needs.
//!
//! ```text
//! /init                           the agent
//! /aetherium/modules/<name>.ko    unpacked modules
//! /aetherium/modules.order        their file names, one a line, in load order
//! /dev/console  /proc /sys /run … where init starts out
//! ```
//! The archive is not compressed: unpacking costs a slow guest more than reading. A VM's own part
//! is a second archive after this one, see [`crate::cpio`]. A module may fail to load where the
//! machine lacks what it drives (`crc32c_intel`); the agent goes on.

use crate::{
    agent::Agent,
    cpio::{self, Entry},
    error::{ImageError, OnPath, Result, blocking},
    modules::{self, Need, WANTED, tree::ModuleTree},
};
use aetherium_model::finding::Finding;
use std::{fs, path::Path};

/// Where init finds what the host put there for it.
const OWN_DIR: &str = "aetherium";

/// The archive of an initramfs, and what was decided on the way.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    pub(crate) modules: Vec<String>,
    pub(crate) warnings: Vec<Finding>,
}

/// Writes an initramfs with the agent and no modules, for a guest that only shows that it runs.
///
/// # Errors
/// If the agent cannot be a guest's init, or the file `to` cannot be written.
pub async fn of_agent(agent: &Path, to: &Path) -> Result<()> {
    let agent = Agent::read(agent).await?;
    let to = to.to_owned();
    blocking(move || fs::write(&to, archive(&agent, &[])).on("write", &to)).await
}

/// Makes the archive for a kernel of `release` with these modules. Synchronous: reads the modules.
pub(crate) fn make(agent: &Agent, release: &str, modules: Option<&Path>) -> Result<Archive> {
    let Some(dir) = modules else {
        return Ok(Archive {
            bytes: archive(agent, &[]),
            modules: Vec::new(),
            warnings: vec![unknown_drivers(release)],
        });
    };
    let mut tree = ModuleTree::open(dir, release)?;
    let plan = modules::plan(WANTED, |module| tree.provision(module))?;
    if let Some(missing) = modules::fatal(WANTED, &plan.absent) {
        return Err(ImageError::DriverMissing {
            release: release.to_owned(),
            driver: missing.module.to_owned(),
            purpose: missing.purpose,
        });
    }
    let files: Vec<_> = plan
        .load_order
        .iter()
        .filter_map(|module| Some((format!("{module}.ko"), tree.take(module)?)))
        .collect();
    let recommended = plan.absent.iter().filter(|absent| absent.need == Need::Recommended);
    Ok(Archive {
        bytes: archive(agent, &files),
        modules: plan.load_order,
        warnings: recommended.map(|absent| no_driver(release, absent)).collect(),
    })
}

fn archive(agent: &Agent, modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let directory = |path: &str| Entry::directory(path, 0o755);
    let mut entries = vec![
        directory(OWN_DIR),
        directory(&format!("{OWN_DIR}/modules")),
        directory("dev"),
        // Without it the kernel gives init no standard streams, and a panic no words.
        Entry::char_device("dev/console", 0o600, 5, 1),
        directory("proc"),
        Entry::directory("root", 0o700),
        directory("run"),
        directory("sys"),
        Entry::file("init", 0o755, agent.bytes.clone()),
    ];
    let mut order = String::new();
    for (file, object) in modules {
        entries.push(Entry::file(&format!("{OWN_DIR}/modules/{file}"), 0o644, object.clone()));
        order.push_str(file);
        order.push('\n');
    }
    entries.push(Entry::file(&format!("{OWN_DIR}/modules.order"), 0o644, order));
    cpio::segment(&entries)
}

fn no_driver(release: &str, absent: &modules::Wanted) -> Finding {
    Finding::warn(
        &format!("template.kernel.{}", absent.module),
        format!("kernel {release} has no {}", absent.module),
        absent.purpose,
        "use a kernel that has it, such as the distribution's",
    )
}

fn unknown_drivers(release: &str) -> Finding {
    Finding::warn(
        "template.kernel.modules",
        format!("no modules were given for kernel {release}"),
        "a driver that is not built in will be missing, and the VM will not start",
        "give the kernel's modules directory, unless all virtio drivers, ext4 and overlay are built in",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::tests::write_tree;

    fn agent() -> Agent {
        Agent { bytes: b"agent".to_vec(), version: "1".into(), sha256: String::new() }
    }

    const BUILT_IN: [&str; 3] = ["kernel/virtio_pci.ko", "kernel/virtio_blk.ko", "kernel/ext4.ko"];

    #[test]
    fn modules_are_listed_in_load_order_and_the_bytes_are_always_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let modules = [("overlay", "zlib"), ("zlib", ""), ("virtio-rng", "")];
        write_tree(dir.path(), "6.1", &BUILT_IN, &modules);
        let made = make(&agent(), "6.1", Some(dir.path())).unwrap();
        assert_eq!(made.modules, ["zlib", "overlay", "virtio_rng"]);
        let text = String::from_utf8_lossy(&made.bytes).into_owned();
        assert!(text.contains("zlib.ko\noverlay.ko\nvirtio_rng.ko\n"));
        assert!(text.contains("aetherium/modules/virtio_rng.ko\0"));
        assert_eq!(make(&agent(), "6.1", Some(dir.path())).unwrap().bytes, made.bytes);
        let warned: Vec<_> = made.warnings.iter().map(|finding| finding.check.as_str()).collect();
        assert_eq!(
            warned,
            ["template.kernel.vmw_vsock_virtio_transport", "template.kernel.virtio_net"]
        );
    }

    #[test]
    fn a_kernel_that_could_not_mount_its_root_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_tree(dir.path(), "6.1", &BUILT_IN, &[]);
        let error = make(&agent(), "6.1", Some(dir.path())).unwrap_err();
        assert!(error.to_string().contains("has no overlay"), "{error}");
        assert!(error.remedy().contains("overlay"));
    }

    #[test]
    fn a_kernel_without_modules_is_taken_with_a_warning() {
        let made = make(&agent(), "6.1", None).unwrap();
        assert_eq!(made.modules, Vec::<String>::new());
        assert_eq!(made.warnings[0].check, "template.kernel.modules");
    }
}
