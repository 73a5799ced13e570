//! What Firecracker counts: a file to which it adds a line now and then, and whenever it is asked to.
//!
//! Each line holds what was counted since the one before (`SharedIncMetric` in Firecracker's
//! `src/vmm/src/logger/metrics.rs`), so the whole is the sum of all lines.

use crate::VmmError;
use aetherium_model::metrics::{DiskUsage, NetUsage, VmmMetrics};
use rustix::{fs::SeekFrom, io::Errno};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// What is parsed of a line. A version that lacks a field has counted nothing of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    block: Block,
    net: Net,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    read_bytes: u64,
    write_bytes: u64,
    read_count: u64,
    write_count: u64,
    rate_limiter_throttled_events: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Net {
    rx_bytes_count: u64,
    tx_bytes_count: u64,
    rx_packets_count: u64,
    tx_packets_count: u64,
    rx_rate_limiter_throttled: u64,
    tx_rate_limiter_throttled: u64,
}

/// Reads what is kept of the file. Where it was cut, its beginning is a hole.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, VmmError> {
    let read = || {
        let mut file = File::open(path)?;
        match rustix::fs::seek(&file, SeekFrom::Data(0)) {
            // Nothing is in it but holes.
            Err(Errno::NXIO) => return Ok(Vec::new()),
            found => found.map_err(io::Error::from)?,
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map(|_| text)
    };
    read().map_err(VmmError::io("read", path))
}

/// The whole, with the last line as it is. What is no whole line, as at a cut, is passed over.
pub(super) fn sum(text: &[u8], has_network: bool) -> VmmMetrics {
    let (mut disk, mut net) = (DiskUsage::default(), NetUsage::default());
    let mut throttled = 0;
    let mut last = None;
    for bytes in text.split(|byte| *byte == b'\n') {
        let Ok(line) = serde_json::from_slice::<Line>(bytes) else { continue };
        let Line { block, net: packets } = line;
        disk.read_bytes += block.read_bytes;
        disk.written_bytes += block.write_bytes;
        disk.reads += block.read_count;
        disk.writes += block.write_count;
        throttled += block.rate_limiter_throttled_events;
        net.rx_bytes += packets.rx_bytes_count;
        net.tx_bytes += packets.tx_bytes_count;
        net.rx_packets += packets.rx_packets_count;
        net.tx_packets += packets.tx_packets_count;
        net.throttled += packets.rx_rate_limiter_throttled + packets.tx_rate_limiter_throttled;
        last = Some(bytes);
    }
    disk.throttled = Some(throttled);
    VmmMetrics {
        balloon: None,
        disk: Some(disk),
        net: has_network.then_some(net),
        raw: last.and_then(|line| serde_json::from_slice(line).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FallocateFlags, fallocate};
    use std::{fs, io::Write as _};

    #[test]
    fn what_lines_count_is_added_up_and_the_last_one_is_kept_whole() {
        let text = br#"cut {"block": {"read_bytes": 9}}
{"block": {"read_bytes": 5, "write_count": 1, "other": 7}, "net": {"rx_bytes_count": 3}}
{"block": {"read_bytes": 6}, "vcpu": {"failures": 1}}
{"block": {"rea"#;
        let metrics = sum(text, true);
        let disk = metrics.disk.unwrap();
        assert_eq!((disk.read_bytes, disk.writes, disk.throttled), (11, 1, Some(0)));
        assert_eq!(metrics.net.unwrap().rx_bytes, 3);
        assert_eq!(metrics.raw.unwrap()["vcpu"]["failures"], 1);
        assert_eq!(sum(text, false).net, None);
    }

    #[test]
    fn a_file_whose_beginning_is_a_hole_is_read_from_its_data_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![b' '; 1 << 20]).unwrap();
        file.write_all(b"\n{}\n").unwrap();
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, 0, 1 << 20).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), (1 << 20) + 4);
        assert!(read(&path).unwrap().len() < 1 << 16);
        assert!(sum(&read(&path).unwrap(), false).raw.is_some());
    }
}
