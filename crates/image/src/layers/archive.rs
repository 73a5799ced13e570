//! Reads the entries of a tar stream: ustar, GNU and PAX, as layers have them.
//!
//! The `tar` crate decodes a header's fields; the way from header to header is here, because it must
//! be bounded (that crate takes an extension of any size into memory), must take PAX values of any
//! bytes (there a newline, which file capabilities may hold, ends a value), and must know the sparse
//! files of PAX. Where forms of tar leave room, this reads what Go's `archive/tar` reads, with which
//! images are made and read elsewhere: what it sees is what others see.

use super::{Problem, sparse};
use std::{
    collections::BTreeMap,
    io::{self, Read},
};
use tar::EntryType;

pub(super) const BLOCK: u64 = 512;
/// Bytes of one extension: a long name or the PAX records of an entry. Go's limit.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// The entries of a tar stream, one after the other.
pub(super) struct Archive<R> {
    source: R,
    /// What of the current entry was not read: its content, and the padding behind it.
    content: u64,
    padding: u64,
}

/// An entry as the archive has it: nothing in it has been judged.
#[derive(Debug)]
pub(super) struct RawEntry {
    pub(super) header: tar::Header,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) records: Records,
    pub(super) body: Body,
}

/// PAX records, by key.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// A file's content: its length, and the parts of it that the archive holds. The rest is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) size: u64,
    pub(super) extents: Vec<Extent>,
}

/// A part of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// What extension entries say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, content: 0, padding: 0 }
    }

    /// The next entry; none at the end. What is left of the last one's content is passed over.
    pub(super) fn next(&mut self) -> Result<Option<RawEntry>, Problem> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header.as_old().size, header.entry_size());
            let size = size.map_err(|error| field("size", &error))?;
            self.begin(size)?;
            match header.entry_type() {
                EntryType::XHeader => extensions.records = records(&self.extension(size)?)?,
                EntryType::GNULongName => extensions.name = Some(text(self.extension(size)?)),
                EntryType::GNULongLink => extensions.link = Some(text(self.extension(size)?)),
                // Comments of whoever made the archive; Go does not apply them either.
                EntryType::XGlobalHeader => {}
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    /// The content of the entry that was read last.
    pub(super) fn content(&mut self) -> impl Read + '_ {
        ContentReader(self)
    }

    fn entry(&mut self, header: tar::Header, extensions: Extensions) -> Result<RawEntry, Problem> {
        let Extensions { name, link, records } = extensions;
        if let Some(size) = records.get(&b"size"[..]) {
            self.begin(sparse::number(size).ok_or_else(|| odd("size", size))?)?;
        }
        let kind = header.entry_type();
        if !has_content(kind) {
            self.begin(0)?;
        }
        let record = |key: &[u8]| records.get(key).cloned();
        let mut name = record(b"path").or(name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = record(b"linkpath")
            .or(link)
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        let plain = Body { size: self.content, extents: whole(self.content) };
        let body = if kind == EntryType::GNUSparse {
            sparse::gnu(self, &header)?
        } else if let Some(found) = sparse::pax(self, &records)? {
            name = found.name.unwrap_or(name);
            found.body
        } else {
            plain
        };
        Ok(RawEntry { header, name, link, records, body })
    }

    fn header(&mut self) -> Result<Option<tar::Header>, Problem> {
        let mut header = tar::Header::new_old();
        let Some(block) = self.block_or_end()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        header.as_mut_bytes().copy_from_slice(&block);
        // The sum is taken as if its own field (bytes 148 to 155) held blanks: tar(5), POSIX ustar.
        let sum = |range: &[u8]| range.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let sum = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
        if header.cksum().ok() != Some(sum) {
            return Err(unreadable("a header's checksum is wrong, or it is no tar archive"));
        }
        Ok(Some(header))
    }

    /// One block that must be there, beside an entry's content.
    pub(super) fn block(&mut self) -> Result<[u8; BLOCK as usize], Problem> {
        self.block_or_end()?.ok_or_else(|| unreadable("it ends in the midst of a header"))
    }

    fn block_or_end(&mut self) -> Result<Option<[u8; BLOCK as usize]>, Problem> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(unreadable("it ends in the midst of a header")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::Unreadable(error)),
            }
        }
        Ok(Some(block))
    }

    fn begin(&mut self, size: u64) -> Result<(), Problem> {
        self.content = size;
        self.padding = size
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(|| Problem::Field { field: "size", detail: size.to_string() })?
            - size;
        Ok(())
    }

    pub(super) const fn content_left(&self) -> u64 {
        self.content
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Problem> {
        if size > MAX_EXTENSION_BYTES {
            return Err(Problem::HeadersTooLarge { max: MAX_EXTENSION_BYTES });
        }
        let mut bytes = Vec::new();
        self.content().read_to_end(&mut bytes).map_err(Problem::Unreadable)?;
        Ok(bytes)
    }

    fn skip_rest(&mut self) -> Result<(), Problem> {
        io::copy(&mut self.content(), &mut io::sink()).map_err(Problem::Unreadable)?;
        let padding = std::mem::take(&mut self.padding);
        let skipped = io::copy(&mut (&mut self.source).take(padding), &mut io::sink());
        // The last entry's padding may be missing; nothing is lost with it.
        skipped.map(drop).map_err(Problem::Unreadable)
    }
}

/// Reads what is left of an entry's content, and insists that all of it is there.
struct ContentReader<'a, R>(&'a mut Archive<R>);

impl<R: Read> Read for ContentReader<'_, R> {
    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.0.content).unwrap_or(usize::MAX).min(chunk.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.0.source.read(&mut chunk[..wanted])?;
        if read == 0 {
            return Err(cut_short("it ends in the midst of a file"));
        }
        self.0.content -= read as u64;
        Ok(read)
    }
}

/// Whether content follows the header; for the others a size means nothing.
fn has_content(kind: EntryType) -> bool {
    !matches!(
        kind,
        EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
    )
}

pub(super) fn whole(size: u64) -> Vec<Extent> {
    if size == 0 { Vec::new() } else { vec![Extent { offset: 0, bytes: size }] }
}

/// A long name, which ends with a zero byte.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// PAX records: `LENGTH KEY=VALUE\n`, where the length counts all of it (POSIX.1-2017, pax).
fn records(mut bytes: &[u8]) -> Result<Records, Problem> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let (key, value, rest) =
            record(bytes).ok_or_else(|| unreadable("a PAX record is malformed"))?;
        records.insert(key.to_owned(), value.to_owned());
        bytes = rest;
    }
    Ok(records)
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(sparse::number(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

/// A number of a header. A field that was left empty is zero, as for Go.
pub(super) fn number(field: &[u8], read: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { read }
}

fn field(field: &'static str, error: &io::Error) -> Problem {
    Problem::Field { field, detail: error.to_string() }
}

fn odd(field: &'static str, value: &[u8]) -> Problem {
    Problem::Field { field, detail: format!("{:?}", String::from_utf8_lossy(value)) }
}

fn cut_short(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

pub(super) fn unreadable(what: &str) -> Problem {
    Problem::Unreadable(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_value_may_hold_any_bytes() {
        let read = records(b"12 a=x\n=\0z9\n8 b=one\n").unwrap();
        assert_eq!(read[&b"a"[..]], b"x\n=\0z9");
        assert_eq!(read[&b"b"[..]], b"one");
    }

    #[test]
    fn a_pax_record_that_lies_about_its_length_is_refused() {
        for bad in [&b"99 a=b\n"[..], b"5 a=b\n", b"a=b\n", b"6 ab=\n\n", b"4 a\n", b"0 a=b\n"] {
            assert!(records(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
