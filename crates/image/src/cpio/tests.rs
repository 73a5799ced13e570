use super::*;
use proptest::prelude::*;

#[derive(Debug, PartialEq, Eq)]
struct Record {
    path: String,
    mode: u32,
    uid: u32,
    mtime: u32,
    rdev: (u32, u32),
    data: Vec<u8>,
}

/// Reads a concatenation of archives the way the kernel does: zeros between them are skipped, and a
/// header must begin at a multiple of four.
fn read_back(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == 0 {
            at += 1;
            continue;
        }
        assert_eq!(at % 4, 0, "a header begins at {at}");
        assert_eq!(&bytes[at..at + 6], b"070701");
        let field = |n: usize| {
            let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name = at + 110;
        let data = (name + name_size).next_multiple_of(4);
        let path = std::str::from_utf8(&bytes[name..name + name_size - 1]).unwrap().to_owned();
        assert_eq!(bytes[name + name_size - 1], 0, "the name ends with a NUL");
        if path != TRAILER {
            records.push(Record {
                path,
                mode: field(1),
                uid: field(2),
                mtime: field(5),
                rdev: (field(9), field(10)),
                data: bytes[data..data + size].to_vec(),
            });
        }
        at = (data + size).next_multiple_of(4);
    }
    records
}

#[test]
fn an_archive_reads_back_with_kinds_modes_and_devices() {
    let bytes = segment(&[
        Entry::directory("/dev", 0o755),
        Entry::char_device("dev/console", 0o600, 5, 1),
        Entry::file("init", 0o755, *b"#!"),
    ]);
    let records = read_back(&bytes);
    let summary: Vec<_> =
        records.iter().map(|r| (r.path.as_str(), r.mode, r.rdev, r.data.len())).collect();
    assert_eq!(
        summary,
        [
            ("dev", 0o040_755, (0, 0), 0),
            ("dev/console", 0o020_600, (5, 1), 0),
            ("init", 0o100_755, (0, 0), 2),
        ]
    );
    assert!(records.iter().all(|r| r.uid == 0 && r.mtime == 0));
}

proptest! {
    #[test]
    fn concatenated_segments_read_back_as_all_their_files(
        segments in prop::collection::vec(
            prop::collection::vec(("[a-z]{1,20}", prop::collection::vec(any::<u8>(), 0..700)), 0..5),
            1..4,
        )
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for files in segments {
            let entries: Vec<_> =
                files.iter().map(|(path, data)| Entry::file(path, 0o600, data.clone())).collect();
            bytes.extend(segment(&entries));
            prop_assert_eq!(bytes.len() % SEGMENT_ALIGN, 0);
            expected.extend(files);
        }
        let found: Vec<_> = read_back(&bytes).into_iter().map(|r| (r.path, r.data)).collect();
        prop_assert_eq!(found, expected);
    }
}
