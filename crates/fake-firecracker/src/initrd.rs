//! What the host told the guest: its configuration, out of the initramfs.

use aetherium_agent_proto::config::{GUEST_CONFIG_PATH, GuestConfig};
use std::{fs, io, path::Path};

/// Bytes of a `newc` header: a magic of six and thirteen numbers of eight hexadecimal digits, see
/// `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.
const HEADER: usize = 110;
/// The size of the file is the seventh number.
const SIZE_AT: usize = 6 + 6 * 8;

/// The last configuration in an initramfs of uncompressed archives, as the kernel would leave it.
pub(crate) fn guest_config(initrd: &Path) -> io::Result<Option<GuestConfig>> {
    Ok(last_file(&fs::read(initrd)?, GUEST_CONFIG_PATH).map(serde_json::from_slice).transpose()?)
}

fn last_file<'a>(archive: &'a [u8], path: &str) -> Option<&'a [u8]> {
    let name = [path.trim_start_matches('/').as_bytes(), b"\0"].concat();
    let at = archive.windows(name.len()).rposition(|it| it == name)?;
    let header = at.checked_sub(HEADER)?;
    let size = archive.get(header + SIZE_AT..header + SIZE_AT + 8)?;
    let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
    // Names and contents begin at multiples of four.
    let content = (at + name.len()).next_multiple_of(4);
    archive.get(content..content + size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, content: &str) -> Vec<u8> {
        let mut numbers = [0; 13];
        (numbers[6], numbers[11]) = (content.len(), path.len() + 1);
        let numbers: String = numbers.iter().map(|it| format!("{it:08x}")).collect();
        let mut bytes = format!("070701{numbers}{path}\0").into_bytes();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_last_file_of_a_name_is_what_the_guest_sees() {
        let archive = [
            entry("init", "x"),
            entry("aetherium/guest.json", "{}"),
            entry("aetherium/guest.json", "[1]"),
        ];
        assert_eq!(last_file(&archive.concat(), GUEST_CONFIG_PATH), Some(&b"[1]"[..]));
        assert_eq!(last_file(&archive[0], GUEST_CONFIG_PATH), None);
    }
}
