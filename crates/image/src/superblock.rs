//! What an ext4 image says of itself, read from its superblock. Nothing is changed, and nothing but
//! the superblock is believed: whether the rest agrees with it is for `e2fsck` to say.

use crate::error::{ImageError, OnPath, Result};
use std::{fs::File, os::unix::fs::FileExt, path::Path};

/// Where it begins in an image, and how much of it is read, in bytes. This and the offsets below:
/// `Documentation/filesystems/ext4/super.rst` of Linux.
const OFFSET: u64 = 1024;
const LEN: usize = 1024;

const BLOCKS_LO: usize = 0x4;
const FREE_BLOCKS_LO: usize = 0xc;
const FREE_INODES: usize = 0x10;
const LOG_BLOCK_SIZE: usize = 0x18;
const MAGIC_AT: usize = 0x38;
const STATE: usize = 0x3a;
const INCOMPAT: usize = 0x60;
const BLOCKS_HI: usize = 0x150;
const FREE_BLOCKS_HI: usize = 0x158;

const MAGIC: u16 = 0xef53;
/// Set while nothing has it mounted for writing.
const STATE_CLEAN: u16 = 0x1;
/// The journal holds what the rest does not: set while something has it mounted for writing.
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_64BIT: u32 = 0x80;
/// Blocks have 1 KiB, shifted by at most this much: 64 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

/// The superblock of an ext4 image, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
    /// Whether it was unmounted, or never mounted.
    pub(crate) at_rest: bool,
}

impl Superblock {
    /// Reads that of an image. Synchronous and short.
    ///
    /// # Errors
    /// [`ImageError::RootfsUnusable`] if the file has none.
    pub(crate) fn read(image: &Path) -> Result<Self> {
        let file = File::open(image).on("open", image)?;
        let mut bytes = [0; LEN];
        let parsed = match file.read_exact_at(&mut bytes, OFFSET) {
            Ok(()) => Self::parse(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error).on("read", image),
        };
        parsed.ok_or_else(|| ImageError::RootfsUnusable {
            path: image.to_owned(),
            detail: "it has no ext4 superblock".to_owned(),
        })
    }

    fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let log_block_size = word(LOG_BLOCK_SIZE);
        if half(MAGIC_AT) != MAGIC || log_block_size > MAX_LOG_BLOCK_SIZE {
            return None;
        }
        let incompat = word(INCOMPAT);
        let wide = |low: usize, high: usize| {
            let high = if incompat & INCOMPAT_64BIT == 0 { 0 } else { u64::from(word(high)) };
            high << 32 | u64::from(word(low))
        };
        Some(Self {
            block_bytes: 1024 << log_block_size,
            blocks: wide(BLOCKS_LO, BLOCKS_HI),
            free_blocks: wide(FREE_BLOCKS_LO, FREE_BLOCKS_HI),
            free_inodes: u64::from(word(FREE_INODES)),
            at_rest: half(STATE) & STATE_CLEAN != 0 && incompat & INCOMPAT_RECOVER == 0,
        })
    }

    /// Bytes that are not used.
    pub(crate) fn free_bytes(self) -> u64 {
        self.free_blocks.saturating_mul(self.block_bytes)
    }

    /// Bytes of the whole.
    pub(crate) fn bytes(self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(usize, &[u8])]) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[STATE] = 1;
        for (at, value) in fields {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        bytes
    }

    #[test]
    fn sizes_are_told_in_bytes_beyond_32_bits_too() {
        let block = of(&[
            (LOG_BLOCK_SIZE, &[2]),
            (BLOCKS_LO, &[0, 1]),
            (BLOCKS_HI, &[1]),
            (FREE_BLOCKS_LO, &[3]),
            (INCOMPAT, &[0x80]),
        ]);
        let block = Superblock::parse(&block).unwrap();
        assert_eq!((block.bytes(), block.free_bytes()), (4096 * ((1 << 32) + 256), 3 * 4096));
        assert!(block.at_rest);
    }

    #[test]
    fn an_image_that_something_writes_to_is_not_at_rest() {
        for (at, value) in [(INCOMPAT, 0x4), (STATE, 0)] {
            assert!(!Superblock::parse(&of(&[(at, &[value])])).unwrap().at_rest, "{at:#x}");
        }
    }

    #[test]
    fn other_bytes_are_no_superblock() {
        assert_eq!(Superblock::parse(&[0; LEN]), None);
        assert_eq!(Superblock::parse(&of(&[(LOG_BLOCK_SIZE, &[7])])), None);
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Superblock::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("no ext4 superblock"), "{error}");
    }
}
