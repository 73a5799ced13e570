//! A template made of another: kernel and initramfs are taken over as they are, the agent in the
//! initramfs made a current one.

use crate::{
    agent::Agent,
    build::BuildRequest,
    cpio, digest,
    error::{OnPath, Result, blocking},
    sparse,
    store::{INITRAMFS_FILE, InstalledTemplate, KERNEL_ELF_FILE, KERNEL_FILE},
};
use aetherium_model::template::{Initramfs, Kernel, TemplateFile};
use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

/// Takes over the kernel and the initramfs of `base`.
pub(crate) async fn kernel_and_initramfs(
    base: &InstalledTemplate,
    dir: &Path,
    request: &BuildRequest,
    agent: Agent,
) -> Result<(Kernel, Initramfs)> {
    let (base, dir) = (base.clone(), dir.to_owned());
    let (extra_args, cpu_template, transport) =
        (request.kernel_args.clone(), request.cpu_template.clone(), request.transport);
    blocking(move || {
        let mut kernel = base.manifest.kernel.clone();
        take(&base.kernel(), &dir, KERNEL_FILE, &mut kernel.image)?;
        if let (Some(path), Some(elf)) = (base.kernel_elf(), &mut kernel.elf) {
            take(&path, &dir, KERNEL_ELF_FILE, elf)?;
        }
        kernel.extra_args.extend(extra_args);
        kernel.cpu_template = cpu_template.or(kernel.cpu_template);
        kernel.transport = transport.or(kernel.transport);

        let mut initramfs = base.manifest.initramfs.clone();
        take(&base.initramfs(), &dir, INITRAMFS_FILE, &mut initramfs.image)?;
        if initramfs.agent_sha256 != agent.sha256 {
            renew_agent(&mut initramfs, &dir, agent)?;
        }
        Ok((kernel, initramfs))
    })
    .await
}

fn take(from: &Path, dir: &Path, file: &str, entry: &mut TemplateFile) -> Result<()> {
    let place = dir.join(file);
    sparse::copy(from, &File::create_new(&place).on("make", &place)?)?;
    fs::set_permissions(&place, Permissions::from_mode(0o644)).on("set permissions of", &place)?;
    file.clone_into(&mut entry.file);
    Ok(())
}

/// Lays another `/init` over the one there is: the kernel unpacks one archive after the other.
fn renew_agent(initramfs: &mut Initramfs, dir: &Path, agent: Agent) -> Result<()> {
    let place = dir.join(INITRAMFS_FILE);
    let segment = cpio::segment(&[cpio::Entry::file("init", 0o755, agent.bytes)]);
    File::options()
        .append(true)
        .open(&place)
        .and_then(|mut file| file.write_all(&segment))
        .on("append to", &place)?;
    initramfs.image = digest::template_file(dir, INITRAMFS_FILE)?;
    initramfs.agent_version = agent.version;
    initramfs.agent_sha256 = agent.sha256;
    Ok(())
}
