//! From the layers of an image to the root filesystem of a template, against `tar x` of each layer
//! and `mkfs.ext4 -d` of the tree, by hand.
//!
//! The floor checks nothing: neither digests, nor where a name leads, nor the filesystem that was
//! made. What we do beyond it is in our time.

use super::{
    Figure,
    layout::{Layers, Layout, Packing},
    median, ms, remade, run,
};
use crate::{
    args::ImageBenchArgs,
    error::{CliError, local},
    progress::Bars,
};
use aetherium_image::{BlobCache, ImageOrigin, RegistryAccess, Silent};
use aetherium_model::{Code, Fault};
use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Blobs of a registry, which the measured images do not come from.
const NO_CACHE: u64 = 0;

/// What is there at once, in sizes of the image: its layers, a layout of them, the tree, the ext4 image.
const ROOM: u64 = 4;

pub(super) async fn figures(wanted: &ImageBenchArgs, bars: &Bars) -> Result<Vec<Figure>, CliError> {
    let within = &wanted.unpack_in;
    require_room(within, ROOM * (wanted.mib << 20))?;
    let work = tempfile::Builder::new().prefix("aetherium-bench-").tempdir_in(within);
    let work = work.map_err(|error| local(within.display(), error))?;
    let figures = compare(work.path(), wanted, bars).await?;
    work.close().map_err(|error| local(within.display(), error))?;
    Ok(figures)
}

fn require_room(dir: &Path, wanted: u64) -> Result<(), CliError> {
    let found = rustix::fs::statvfs(dir).map_err(|error| local(dir.display(), error))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= wanted {
        return Ok(());
    }
    let (free, wanted) = (free >> 20, wanted >> 20);
    let detail = format!("{} has {free} MiB of room, and {wanted} are needed", dir.display());
    let remedy = "measure with a smaller image (--mib), or elsewhere (--unpack-in DIR)";
    Err(Fault::new(Code::DiskFull, detail).remedy(remedy).into())
}

async fn compare(
    work: &Path,
    wanted: &ImageBenchArgs,
    bars: &Bars,
) -> Result<Vec<Figure>, CliError> {
    bars.spin(&format!("making an image of {} MiB", wanted.mib));
    let layers = Layers::make(work, wanted.mib)?;
    let mut figures = Vec::new();
    for packing in [Packing::Plain, Packing::Gzip] {
        let layout = layers.layout(work.join("layout"), packing)?;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        // The first round of each warms caches and tells the size for the second.
        let mut size = 0;
        for round in 0..=wanted.rounds {
            bars.spin(&format!("{} layers, round {round} of {}", packing.as_str(), wanted.rounds));
            let (here, bytes) = unpacked_by_us(work, &layout).await?;
            size = bytes.max(size);
            let bare = tokio::task::block_in_place(|| unpacked_by_hand(work, &layout, size))?;
            if round > 0 {
                ours.push(ms(here));
                floor.push(ms(bare));
            }
        }
        let name = format!("image.{}_layers_to_ext4_p50", packing.as_str());
        figures.push(
            Figure::new(&name, median(&mut ours), "ms").over(median(&mut floor)).ratio_at_most(1.3),
        );
    }
    Ok(figures)
}

/// The time of a template's build that its root filesystem takes, and the size of that.
async fn unpacked_by_us(work: &Path, layout: &Layout) -> Result<(Duration, u64), CliError> {
    let (dir, image) = (work.join("ours"), work.join("ours.ext4"));
    remade(&dir)?;
    let origin = ImageOrigin::Layout { dir: layout.dir.clone(), tag: None };
    let registry = RegistryAccess {
        cache: BlobCache::new(work.join("blobs"), NO_CACHE),
        mirrors: Vec::new(),
        credentials: None,
        docker_config: None,
    };
    rustix::fs::sync();
    let began = Instant::now();
    aetherium_image::root_filesystem(&origin, &registry, &dir, &image, &Silent)
        .await
        .map_err(Fault::from)?;
    let took = began.elapsed();
    let size = fs::metadata(&image).map_err(|error| local(image.display(), error))?.len();
    removed(&dir, &image)?;
    Ok((took, size))
}

/// The same by hand, into an image of this size with the same features.
fn unpacked_by_hand(work: &Path, layout: &Layout, size: u64) -> Result<Duration, CliError> {
    let (dir, image) = (work.join("bare"), work.join("bare.ext4"));
    remade(&dir)?;
    rustix::fs::sync();
    let began = Instant::now();
    for layer in &layout.layers {
        run(Command::new("tar").arg("-xf").arg(layer).arg("-C").arg(&dir))?;
    }
    let file = fs::File::create(&image).map_err(|error| local(image.display(), error))?;
    file.set_len(size).map_err(|error| local(image.display(), error))?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-m", "0"])
        .args(["-O", "^has_journal,^resize_inode", "-i", "4096", "-d"])
        .args([&dir, &image]))?;
    let took = began.elapsed();
    removed(&dir, &image)?;
    Ok(took)
}

fn removed(dir: &Path, image: &Path) -> Result<(), CliError> {
    fs::remove_dir_all(dir).map_err(|error| local(dir.display(), error))?;
    Ok(fs::remove_file(image).map_err(|error| local(image.display(), error))?)
}
