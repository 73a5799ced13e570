//! Sparse files in archives: GNU's own header, and its PAX forms 0.1 and 1.0.
//! (GNU tar manual, "Storing Sparse Files".)

use super::{
    Problem,
    archive::{Archive, BLOCK, Body, Extent, Records, unreadable},
};
use std::io::Read;

/// Parts of one file. A map of so many takes some MiB.
const MAX_EXTENTS: usize = 1 << 16;

/// A sparse file of PAX, and the name that its records give it.
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) body: Body,
}

/// The map in a GNU header, and in the blocks that follow it.
pub(super) fn gnu<R: Read>(
    archive: &mut Archive<R>,
    header: &tar::Header,
) -> Result<Body, Problem> {
    let gnu = header.as_gnu().ok_or_else(|| bad("it is no GNU header"))?;
    let size = gnu.real_size().map_err(|_| bad("its size"))?;
    let mut extents = Vec::new();
    add(&mut extents, &gnu.sparse)?;
    let mut more = gnu.is_extended();
    while more {
        let mut extended = tar::GnuExtSparseHeader::new();
        extended.as_mut_bytes().copy_from_slice(&archive.block()?);
        add(&mut extents, &extended.sparse)?;
        more = extended.is_extended();
    }
    checked(size, extents, archive.content_left())
}

fn add(extents: &mut Vec<Extent>, parts: &[tar::GnuSparseHeader]) -> Result<(), Problem> {
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let offset = part.offset().map_err(|_| bad("an offset"))?;
        let bytes = part.length().map_err(|_| bad("a length"))?;
        extents.push(Extent { offset, bytes });
    }
    bounded(extents)
}

/// The map in PAX records (0.1), or before the content (1.0); none if the file is not sparse.
pub(super) fn pax<R: Read>(
    archive: &mut Archive<R>,
    records: &Records,
) -> Result<Option<PaxSparse>, Problem> {
    let get = |key: &str| records.get(key.as_bytes());
    let size = |key| get(key).and_then(|it| number(it)).ok_or_else(|| bad("its size"));
    let name = get("GNU.sparse.name").cloned();
    let version = (get("GNU.sparse.major"), get("GNU.sparse.minor"));
    let (size, extents) = match version {
        (Some(major), Some(minor)) if (major.as_slice(), minor.as_slice()) == (b"1", b"0") => {
            (size("GNU.sparse.realsize")?, leading_map(archive)?)
        }
        _ => match get("GNU.sparse.map") {
            Some(map) => (size("GNU.sparse.size")?, listed(map)?),
            None if records.keys().any(|key| key.starts_with(b"GNU.sparse.")) => {
                return Err(Problem::PaxSparse);
            }
            None => return Ok(None),
        },
    };
    let body = checked(size, extents, archive.content_left())?;
    Ok(Some(PaxSparse { name, body }))
}

/// `OFFSET,LENGTH,OFFSET,LENGTH…`
fn listed(map: &[u8]) -> Result<Vec<Extent>, Problem> {
    let numbers: Option<Vec<u64>> =
        map.split(|byte| *byte == b',').take(2 * MAX_EXTENTS + 1).map(number).collect();
    paired(&numbers.ok_or_else(|| bad("a number"))?)
}

/// Numbers, one a line: how many parts, then offset and length of each, padded to whole blocks.
fn leading_map<R: Read>(archive: &mut Archive<R>) -> Result<Vec<Extent>, Problem> {
    let mut lines = Lines { archive, block: [0; BLOCK as usize], at: BLOCK as usize };
    let count = usize::try_from(lines.number()?).unwrap_or(usize::MAX);
    if count > MAX_EXTENTS {
        return Err(bad("it has too many parts"));
    }
    let numbers: Result<Vec<u64>, Problem> = (0..2 * count).map(|_| lines.number()).collect();
    paired(&numbers?)
}

struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: [u8; BLOCK as usize],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, Problem> {
        let mut digits = Vec::new();
        loop {
            if self.at == self.block.len() {
                self.archive.content().read_exact(&mut self.block).map_err(Problem::Unreadable)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return number(&digits).ok_or_else(|| bad("a number")),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(bad("a number")),
            }
        }
    }
}

fn paired(numbers: &[u64]) -> Result<Vec<Extent>, Problem> {
    if !numbers.len().is_multiple_of(2) {
        return Err(bad("an offset has no length"));
    }
    let extents: Vec<_> =
        numbers.chunks_exact(2).map(|pair| Extent { offset: pair[0], bytes: pair[1] }).collect();
    bounded(&extents)?;
    Ok(extents)
}

fn bounded(extents: &[Extent]) -> Result<(), Problem> {
    if extents.len() > MAX_EXTENTS { Err(bad("it has too many parts")) } else { Ok(()) }
}

/// A map whose parts are in order, apart, inside the file, and as long as what the archive holds.
fn checked(size: u64, extents: Vec<Extent>, held: u64) -> Result<Body, Problem> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for extent in &extents {
        if extent.offset < end {
            return Err(bad("its parts overlap"));
        }
        end = extent.offset.checked_add(extent.bytes).ok_or_else(|| bad("a length"))?;
        total = total.checked_add(extent.bytes).ok_or_else(|| bad("a length"))?;
    }
    if end > size || total != held {
        return Err(bad("its parts do not add up"));
    }
    Ok(Body { size, extents })
}

/// A decimal number.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    all_digits.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

fn bad(what: &str) -> Problem {
    unreadable(&format!("the map of a sparse file is wrong: {what}"))
}
