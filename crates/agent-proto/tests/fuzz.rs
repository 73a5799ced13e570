//! The fuzz targets' functions, over their corpus and over a bounded number of random inputs, with
//! any toolchain. `make fuzz` runs them for longer, led by coverage.
// A failed step fails its test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// There it is a library's face.
#[allow(unreachable_pub)]
#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

use proptest::prelude::*;

/// Runs a function over each file of a corpus.
fn replay(corpus: &str, run: impl Fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let mut seen = 0;
    for entry in dir.read_dir().expect("the corpus is part of the repository") {
        let path = entry.expect("the corpus can be listed").path();
        run(&std::fs::read(&path).expect("the corpus can be read"));
        seen += 1;
    }
    assert!(seen > 0, "{} is empty", dir.display());
}

#[test]
fn the_corpus_makes_no_reader_fail() {
    replay("rpc_messages", fuzz::rpc_message);
    replay("line_request", fuzz::line_request);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn no_bytes_make_the_rpc_reader_fail(which: u8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz::rpc_message(&[vec![which], bytes].concat());
    }

    #[test]
    fn a_message_with_a_few_bytes_changed_makes_no_reader_fail(
        file in 0_usize..1024,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/rpc_messages");
        let mut files: Vec<_> = dir.read_dir().unwrap().map(|it| it.unwrap().path()).collect();
        files.sort();
        let mut bytes = std::fs::read(&files[file % files.len()]).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        fuzz::rpc_message(&bytes);
    }

    #[test]
    fn no_text_makes_the_line_reader_fail(text in "\\{?[\"a-z:,\\[\\]{}0-9\\\\u]{0,120}\\}?") {
        fuzz::line_request(text.as_bytes());
    }
}
