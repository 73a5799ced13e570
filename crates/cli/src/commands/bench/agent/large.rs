//! A file far larger than any memory here: written through the agent, read back, compared.
//!
//! It is written to a disk in full and removed again; both ends must hold next to nothing of it.

use super::{super::Figure, Bench, MIB, PIECE, fault, memory, whole};
use crate::error::{CliError, local};
use aetherium_agent_client::{ByteRange, Reach, WriteOptions};
use aetherium_model::Fault;
use bytes::{Bytes, BytesMut};
use std::{fs, time::Instant};

/// How many bytes at the beginning of each piece say which one it is.
const STAMP: usize = size_of::<u64>();

impl Bench<'_> {
    /// Throughput of each direction, and what agent and client held at most.
    pub(super) async fn large_file(&self, size: u64) -> Result<Vec<Figure>, CliError> {
        self.bars.spin("a large file");
        let dir = format!("/var/tmp/aetherium-bench-{}", std::process::id());
        let figures = self.there_and_back(&format!("{dir}/large"), size).await;
        self.agent.files().remove(&dir, Reach::Recursive).await.map_err(fault)?;
        figures
    }

    async fn there_and_back(&self, path: &str, size: u64) -> Result<Vec<Figure>, CliError> {
        memory::forget_peak(self.agent).await?;
        fs::write("/proc/self/clear_refs", "5").map_err(|error| local("clear_refs", error))?;
        let before = client_peak()?;
        let mib_per_s = |began: Instant| (size / MIB) as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        self.write_pieces(path, size).await?;
        let write = mib_per_s(began);
        let began = Instant::now();
        self.read_pieces(path, size).await?;
        let read = mib_per_s(began);
        let grown = client_peak()? - before;
        let peak = memory::peak(self.agent, "agent.large_file_peak_memory").await?;
        Ok(vec![
            Figure::new("agent.large_file_write", write, "MiB/s"),
            Figure::new("agent.large_file_read", read, "MiB/s"),
            peak.value_at_most(16.0),
            Figure::new("client.large_file_grown_memory", grown, "MiB").value_at_most(16.0),
        ])
    }

    async fn write_pieces(&self, path: &str, size: u64) -> Result<(), CliError> {
        let options = WriteOptions { make_parents: true, ..WriteOptions::default() };
        let mut file = self.agent.files().write(path, options).await.map_err(fault)?;
        for number in 0..size / PIECE as u64 {
            file.write(piece(number)).await.map_err(fault)?;
        }
        let written = file.commit().await.map_err(fault)?.size;
        whole(written, size)
    }

    async fn read_pieces(&self, path: &str, size: u64) -> Result<(), CliError> {
        let range = ByteRange::default();
        let mut file = self.agent.files().read(path, range).await.map_err(fault)?;
        let (mut came, mut rest) = (0, BytesMut::with_capacity(2 * PIECE));
        let mut number = 0;
        while let Some(data) = file.next().await.map_err(fault)? {
            came += data.len() as u64;
            rest.extend_from_slice(&data);
            while rest.len() >= PIECE {
                let one = rest.split_to(PIECE);
                if one[..STAMP] != u64::to_le_bytes(number) {
                    let detail = format!("piece {number} of {path} is another one");
                    return Err(Fault::internal(detail).into());
                }
                number += 1;
            }
        }
        whole(came, size)
    }
}

/// A piece that tells which one it is.
fn piece(number: u64) -> Bytes {
    let mut piece = vec![0; PIECE];
    piece[..STAMP].copy_from_slice(&number.to_le_bytes());
    piece.into()
}

/// The most that this process, with the client in it, has held, in MiB.
fn client_peak() -> Result<f64, CliError> {
    let status = fs::read_to_string("/proc/self/status");
    memory::field(&status.map_err(|error| local("/proc/self/status", error))?, "VmHWM")
}
