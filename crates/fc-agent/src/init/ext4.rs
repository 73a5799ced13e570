//! The names an ext file system carries in its superblock. Pure: bytes in, names out.

/// Where the superblock begins on a disk, in bytes.
pub(super) const OFFSET: u64 = 1024;
/// How much of it is needed.
pub(super) const LEN: usize = 256;

const MAGIC_AT: usize = 0x38;
const MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();
const UUID_AT: usize = 0x68;
const LABEL_AT: usize = 0x78;
const LABEL_LEN: usize = 16;

/// What a file system calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// Hyphenated, lower case.
    pub(super) uuid: String,
    pub(super) label: String,
}

/// Reads the names; `None` if this is no ext file system.
pub(super) fn names(superblock: &[u8; LEN]) -> Option<Names> {
    if superblock[MAGIC_AT..MAGIC_AT + 2] != MAGIC {
        return None;
    }
    let label = &superblock[LABEL_AT..LABEL_AT + LABEL_LEN];
    let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Names {
        uuid: hyphenated(&superblock[UUID_AT..UUID_AT + 16]),
        label: String::from_utf8_lossy(label).into_owned(),
    })
}

fn hyphenated(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_tells_its_uuid_and_label() {
        let mut block = [0; LEN];
        block[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC);
        for (index, byte) in block[UUID_AT..UUID_AT + 16].iter_mut().enumerate() {
            *byte = 0xa0 + index as u8;
        }
        block[LABEL_AT..LABEL_AT + 9].copy_from_slice(b"root-disk");
        let names = names(&block).unwrap();
        assert_eq!(names.uuid, "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf");
        assert_eq!(names.label, "root-disk");
    }

    #[test]
    fn other_bytes_are_no_file_system() {
        assert_eq!(names(&[0; LEN]), None);
        assert_eq!(names(&[0xff; LEN]), None);
    }
}
