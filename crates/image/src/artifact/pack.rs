//! One file as a layer: a tar archive with that file, its holes left out, packed with gzip or zstd.
//!
//! Holes are kept as GNU tar keeps them (GNU tar manual, "Storing Sparse Files"), and long runs of
//! zeros become holes. The same content gives the same bytes, so that a registry which has them
//! already is not sent them again.

use super::spec::{Descriptor, Packing, as_digest};
use flate2::{Compression, write::GzEncoder};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, Write},
    path::Path,
};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// A run of zeros this long, aligned, is left out. Smaller ones pack well by themselves.
const GRAIN: usize = 64 << 10;
/// Parts of one file; with more it is not worth it, and whoever reads has a limit too.
const MAX_EXTENTS: usize = 50_000;
/// A tar archive's unit, in bytes.
const BLOCK: u64 = 512;

/// zstd's own default: about gzip's fastest in size, at several times its speed.
const ZSTD_LEVEL: i32 = 3;

/// A packed file, and what it is.
pub(super) struct Packed {
    pub(super) descriptor: Descriptor,
    /// It has no name, and ends with this.
    pub(super) file: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    offset: u64,
    bytes: u64,
}

/// Packs the file at `path` under `name`, into a file on the filesystem of `dir`.
pub(super) fn pack(path: &Path, name: &str, dir: &Path, packing: Packing) -> io::Result<Packed> {
    let mut source = File::open(path)?;
    let size = source.metadata()?.len();
    let extents = extents(&mut source, size)?;
    let counted = Counted {
        inner: BufWriter::new(tempfile::tempfile_in(dir)?),
        hash: Sha256::new(),
        bytes: 0,
    };
    let mut archive = |to: &mut dyn Write| write_archive(to, name, size, &mut source, &extents);
    let counted = match packing {
        Packing::Gzip => {
            let mut packed = GzEncoder::new(counted, Compression::fast());
            archive(&mut packed)?;
            packed.finish()?
        }
        Packing::Zstd => {
            let mut packed = zstd::Encoder::new(counted, ZSTD_LEVEL)?;
            packed.include_checksum(true)?;
            archive(&mut packed)?;
            packed.finish()?
        }
    };
    let Counted { inner, hash, bytes } = counted;
    let mut file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    let digest = as_digest(hash.finalize().as_slice());
    Ok(Packed { descriptor: Descriptor::layer(packing, name, digest, bytes), file })
}

/// Writes a tar archive of one file, its holes left out.
fn write_archive(
    to: &mut dyn Write,
    name: &str,
    size: u64,
    source: &mut File,
    extents: &[Extent],
) -> io::Result<()> {
    write_headers(to, name, size, extents)?;
    let mut content = 0;
    for Extent { offset, bytes } in extents {
        source.seek(io::SeekFrom::Start(*offset))?;
        if io::copy(&mut source.take(*bytes), to)? != *bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content += bytes;
    }
    // Padding, and the two empty blocks that end an archive.
    let padding = content.next_multiple_of(BLOCK) - content + 2 * BLOCK;
    io::copy(&mut io::repeat(0).take(padding), to).map(drop)
}

fn write_headers(to: &mut dyn Write, name: &str, size: u64, extents: &[Extent]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(extents.iter().map(|it| it.bytes).sum());
    let gnu = header.as_gnu_mut().ok_or_else(|| io::Error::other("no GNU header"))?;
    gnu.set_real_size(size);
    let (inside, mut rest) = extents.split_at(extents.len().min(gnu.sparse.len()));
    fill(&mut gnu.sparse, inside);
    gnu.set_is_extended(!rest.is_empty());
    header.set_cksum();
    to.write_all(header.as_bytes())?;
    while !rest.is_empty() {
        let mut more = GnuExtSparseHeader::new();
        let (inside, left) = rest.split_at(rest.len().min(more.sparse.len()));
        fill(&mut more.sparse, inside);
        more.set_is_extended(!left.is_empty());
        to.write_all(more.as_bytes())?;
        rest = left;
    }
    Ok(())
}

fn fill(slots: &mut [GnuSparseHeader], extents: &[Extent]) {
    for (slot, extent) in slots.iter_mut().zip(extents) {
        slot.set_offset(extent.offset);
        slot.set_length(extent.bytes);
    }
}

/// The parts of a file that are not zeros, in order.
fn extents(file: &mut File, size: u64) -> io::Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut grain = vec![0; GRAIN];
    let mut at = 0;
    while at < size {
        let data = match seek(&*file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break, // only a hole is left
            Err(errno) => return Err(errno.into()),
        };
        let hole = seek(&*file, SeekFrom::Hole(data))?;
        let mut offset = data;
        while offset < hole {
            let end = (offset - offset % GRAIN as u64 + GRAIN as u64).min(hole);
            let bytes = end - offset;
            let part = &mut grain[..usize::try_from(bytes).unwrap_or(GRAIN)];
            file.seek(io::SeekFrom::Start(offset))?;
            file.read_exact(part)?;
            if part.iter().any(|byte| *byte != 0) {
                match extents.last_mut() {
                    Some(last) if last.offset + last.bytes == offset => last.bytes += bytes,
                    _ => extents.push(Extent { offset, bytes }),
                }
            }
            offset = end;
        }
        at = hole;
    }
    if extents.len() > MAX_EXTENTS {
        return Ok(vec![Extent { offset: 0, bytes: size }]);
    }
    Ok(extents)
}

/// Counts and digests what is written through it.
struct Counted<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
