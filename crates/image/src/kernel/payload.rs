//! Unpacks a bzImage: the ELF image inside, which a VMM without a boot loader of its own can load.
//!
//! A bzImage is a boot sector and a few more of setup code, a small unpacker, and the packed
//! kernel; the boot header says where that is. Offsets are those of "The Linux/x86 Boot Protocol"
//! (`Documentation/arch/x86/boot.rst` of Linux).

use memchr::memmem;
use std::io::{self, Cursor, Read};

/// How many sectors of setup code follow the boot sector.
const SETUP_SECTS: usize = 0x1f1;
const SECTOR_BYTES: usize = 512;
/// What a count of 0 means.
const DEFAULT_SETUP_SECTS: usize = 4;
const PROTOCOL_VERSION: usize = 0x206;
/// Where the packed kernel begins, counted from the end of the setup code, and its length.
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The first protocol version with both.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;
/// The largest kernel, unpacked: far above any that exists, far below what would hurt.
const MAX_UNPACKED_BYTES: u64 = 512 << 20;
/// Of the legacy frame, the only one that the build of Linux makes.
const LZ4_MAGIC: &[u8] = b"\x02\x21\x4c\x18";
const LZ4_BLOCK_BYTES: usize = 8 << 20;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The ELF image inside a bzImage.
pub(super) fn unpack(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(bzimage).ok_or("its boot header names no payload within the file")?;
    let mut elf = Vec::new();
    let unpacked = Packing::of(payload)?
        .open(payload)
        .and_then(|reader| reader.take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut elf));
    match unpacked {
        Err(error) => Err(format!("its payload cannot be unpacked: {error}")),
        Ok(bytes) if bytes as u64 > MAX_UNPACKED_BYTES => {
            Err(format!("unpacked, it is larger than {MAX_UNPACKED_BYTES} bytes"))
        }
        Ok(_) if !elf.starts_with(ELF_MAGIC) => Err("its payload is no ELF image".to_owned()),
        Ok(_) => Ok(elf),
    }
}

fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    if u16::from_le_bytes(array(bzimage, PROTOCOL_VERSION)?) < VERSION_WITH_PAYLOAD {
        return None;
    }
    let setup_sects = match usize::from(*bzimage.get(SETUP_SECTS)?) {
        0 => DEFAULT_SETUP_SECTS,
        count => count,
    };
    let field = |at| usize::try_from(u32::from_le_bytes(array(bzimage, at)?)).ok();
    let begin = (setup_sects + 1) * SECTOR_BYTES + field(PAYLOAD_OFFSET)?;
    bzimage.get(begin..begin.checked_add(field(PAYLOAD_LENGTH)?)?)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// How a kernel is packed: the choices of `CONFIG_KERNEL_*`, by their magic numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lz4,
    None,
}

impl Packing {
    fn of(payload: &[u8]) -> Result<Self, String> {
        let known: [(&[u8], Result<Self, &str>); 8] = [
            (b"\x1f\x8b", Ok(Self::Gzip)),
            (b"\xfd7zXZ\0", Ok(Self::Xz)),
            (b"\x28\xb5\x2f\xfd", Ok(Self::Zstd)),
            (ELF_MAGIC, Ok(Self::None)),
            (LZ4_MAGIC, Ok(Self::Lz4)),
            (b"BZh", Err("bzip2")),
            (b"\x5d\0\0", Err("lzma")),
            (b"\x89LZO", Err("lzo")),
        ];
        let found = known.iter().find(|(magic, _)| payload.starts_with(magic));
        match found {
            Some((_, Ok(packing))) => Ok(*packing),
            Some((_, Err(name))) => {
                Err(format!("it is packed with {name}, which is not read here"))
            }
            None => Err("it is packed in a way that is not known".to_owned()),
        }
    }

    fn open(self, payload: &[u8]) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(payload)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new(payload, false)),
            Self::Zstd => Box::new(
                ruzstd::decoding::StreamingDecoder::new(payload).map_err(io::Error::other)?,
            ),
            Self::Lz4 => Box::new(Cursor::new(unpack_lz4(&payload[LZ4_MAGIC.len()..])?)),
            Self::None => Box::new(payload),
        })
    }
}

/// The blocks of lz4's legacy frame, each behind its packed length. Of more than one, all but the
/// last hold [`LZ4_BLOCK_BYTES`]. The build of Linux appends the length of the whole.
fn unpack_lz4(mut blocks: &[u8]) -> io::Result<Vec<u8>> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut elf = Vec::new();
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        if rest.is_empty() {
            break; // the appended length
        }
        let length = u32::from_le_bytes(*length) as usize;
        let block = rest.get(..length).ok_or_else(|| invalid("a block is cut off".to_owned()))?;
        let unpacked = lz4_flex::block::decompress(block, LZ4_BLOCK_BYTES)
            .map_err(|error| invalid(error.to_string()))?;
        elf.extend_from_slice(&unpacked);
        if elf.len() as u64 > MAX_UNPACKED_BYTES {
            break; // the caller refuses it
        }
        blocks = &rest[length..];
    }
    Ok(elf)
}

/// The first place after which `bytes` hold a gzip stream that unpacks whole, behind `mark`.
pub(super) fn gunzip_after(bytes: &[u8], mark: &[u8], max_bytes: u64) -> Option<Vec<u8>> {
    memmem::find_iter(bytes, mark).find_map(|at| {
        let mut text = Vec::new();
        let packed = &bytes[at + mark.len()..];
        let reader = flate2::read::GzDecoder::new(packed);
        reader.take(max_bytes).read_to_end(&mut text).ok()?;
        Some(text)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernel::image::tests::bzimage;
    use proptest::prelude::*;
    use std::io::Write;

    /// A bzImage with that payload.
    pub(crate) fn bzimage_of(payload: &[u8]) -> Vec<u8> {
        let mut bytes = bzimage("6.1.0");
        bytes[PROTOCOL_VERSION..PROTOCOL_VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
        let setup_sects = bytes.len() / SECTOR_BYTES; // with the boot sector one more than needed
        bytes[SETUP_SECTS] = u8::try_from(setup_sects).unwrap();
        bytes.resize((setup_sects + 1) * SECTOR_BYTES, 0);
        bytes.extend_from_slice(b"the unpacker");
        let length = u32::try_from(payload.len()).unwrap();
        bytes[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&12_u32.to_le_bytes());
        bytes[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::default();
        options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(bytes, level)
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let blocks = bytes.chunks(LZ4_BLOCK_BYTES).flat_map(|block| {
            let packed = lz4_flex::block::compress(block);
            [&u32::try_from(packed.len()).unwrap().to_le_bytes()[..], &packed].concat()
        });
        LZ4_MAGIC.iter().copied().chain(blocks).collect()
    }

    #[test]
    fn a_kernel_unpacks_to_the_same_image_however_it_is_packed() {
        let elf = [ELF_MAGIC, &b"a kernel".repeat(1000)].concat();
        for packed in [gzip(&elf), xz(&elf), zstd(&elf), lz4(&elf), elf.clone()] {
            // The build appends the unpacked length to whatever has no such field itself.
            let with_length = [&packed[..], &[0x10, 0x27, 0, 0]].concat();
            let unpacked = unpack(&bzimage_of(&with_length)).unwrap();
            assert!(unpacked.starts_with(&elf), "{:x?}", &packed[..4]);
        }
    }

    #[test]
    fn a_kernel_of_several_lz4_blocks_unpacks_whole() {
        let elf = [ELF_MAGIC, &vec![7; LZ4_BLOCK_BYTES + 4096]].concat();
        let packed = [&lz4(&elf)[..], &[0, 0, 0, 0]].concat();
        assert!(unpack(&bzimage_of(&packed)).unwrap() == elf);
        let cut = unpack(&bzimage_of(&packed[..packed.len() - 12])).unwrap_err();
        assert!(cut.contains("cut off"), "{cut}");
    }

    #[test]
    fn what_cannot_be_unpacked_is_told_by_its_packing() {
        let error = |payload: &[u8]| unpack(&bzimage_of(payload)).unwrap_err();
        assert!(error(b"BZh91AY").contains("bzip2"));
        assert!(error(b"something else").contains("not known"));
        assert!(error(&gzip(b"no kernel")).contains("no ELF"));
        assert!(error(&gzip(&[7; 5000])[..40]).contains("cannot be unpacked"));
        assert!(unpack(&bzimage("6.1.0")).unwrap_err().contains("boot header"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_unpacker_fall_over(
            payload in prop::collection::vec(any::<u8>(), 0..300), cut in 0..2000_usize
        ) {
            let elf = [ELF_MAGIC, &payload].concat();
            for packed in [xz(&elf), zstd(&elf), gzip(&elf), lz4(&elf), payload] {
                let whole = bzimage_of(&packed);
                let _ = unpack(&whole[..cut.min(whole.len())]);
                let _ = unpack(&whole);
            }
        }
    }
}
