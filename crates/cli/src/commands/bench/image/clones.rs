//! A VM's own disk: 8 GiB against 64 MiB, in time and in space on the host.

use super::{Figure, median, ms};
use crate::{
    datadir::DataDir,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_image::BlankDisks;
use aetherium_model::{Fault, resources::DiskMib};
use aetherium_worker::Layout;
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

const LARGE_MIB: u32 = 8192;
const SMALL_MIB: u32 = 64;

pub(super) async fn figures(
    data: &DataDir,
    work: &Path,
    rounds: u32,
    bars: &Bars,
) -> Result<Vec<Figure>, CliError> {
    bars.spin("disks of VMs");
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let blanks = BlankDisks::open(layout.blanks()).map_err(Fault::from)?;
    let (mut large, mut small, mut used) = (Vec::new(), Vec::new(), 0);
    // More rounds than elsewhere: each takes milliseconds.
    for round in 0..=rounds * 20 {
        let (large_took, large_used) = clone(&blanks, work, LARGE_MIB).await?;
        let (small_took, _) = clone(&blanks, work, SMALL_MIB).await?;
        // The first of a size formats what the others are copied from.
        if round > 0 {
            large.push(ms(large_took));
            small.push(ms(small_took));
            used = used.max(large_used);
        }
    }
    let (large, small) = (median(&mut large), median(&mut small));
    Ok(vec![
        Figure::new("disk.clone_8_gib_p50", large, "ms").over(small).ratio_at_most(1.5),
        Figure::new("disk.clone_8_gib_time", large, "ms").value_at_most(10.0),
        Figure::new("disk.clone_8_gib_space", used as f64 / f64::from(1 << 20), "MiB")
            .value_at_most(1.0),
    ])
}

/// Makes a disk as a VM's start does; how long it took, and its bytes on the host.
async fn clone(blanks: &BlankDisks, work: &Path, mib: u32) -> Result<(Duration, u64), CliError> {
    let disk = work.join("disk.ext4");
    let size = DiskMib::try_from(mib).map_err(Fault::internal)?;
    let began = Instant::now();
    blanks.clone_to(&disk, size).await.map_err(Fault::from)?;
    let took = began.elapsed();
    let found = fs::metadata(&disk).map_err(|error| local(disk.display(), error))?;
    fs::remove_file(&disk).map_err(|error| local(disk.display(), error))?;
    // st_blocks counts 512 bytes each: stat(2).
    Ok((took, found.blocks() * 512))
}
