//! Logs as lines for people: bounded tails, without control characters.

use std::{
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// How much of a log's end is looked at.
const TAIL_BYTES: u64 = 64 * 1024;
/// The most lines of evidence.
pub(crate) const MAX_LINES: usize = 12;
/// The most characters of a line.
const MAX_CHARS: usize = 400;

/// The last part of a log; empty if there is no log.
pub(crate) async fn read_tail(path: &Path) -> String {
    let from: PathBuf = path.to_owned();
    let read = tokio::task::spawn_blocking(move || tail(&from)).await;
    match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a log cannot be read");
            String::new()
        }
    }
}

/// The last lines of a log, cleaned.
pub(crate) async fn tail_lines(path: &Path) -> Vec<String> {
    last(&clean_lines(&read_tail(path).await))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines that have something to say, without terminal sequences, each cut to a bounded length.
pub(crate) fn clean_lines(text: &str) -> Vec<String> {
    text.split(['\n', '\r']).map(clean).filter(|line| !line.is_empty()).collect()
}

/// The last few of `lines`.
pub(crate) fn last(lines: &[String]) -> Vec<String> {
    lines[lines.len().saturating_sub(MAX_LINES)..].to_vec()
}

fn clean(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    let trimmed = out.trim();
    match trimmed.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}…", &trimmed[..at]),
        None => trimmed.to_owned(),
    }
}

/// Skips what follows an escape: `[` and parameters up to a final byte (ECMA-48, 5.4), or one
/// character.
fn skip_sequence(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    if chars.next() == Some('[') {
        for c in chars.by_ref() {
            if ('\u{40}'..='\u{7e}').contains(&c) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn colours_and_control_characters_are_gone() {
        let text = "\u{1b}[31mred\u{1b}[0m\r\n\u{1b}c\u{1b}[?7l\0\r\n[    0.1] a\tb\u{7}\r\n";
        assert_eq!(clean_lines(text), ["red", "[    0.1] a b"]);
    }

    #[test]
    fn a_log_that_is_not_there_reads_as_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(tail(&dir.path().join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    proptest! {
        #[test]
        fn whatever_a_guest_prints_evidence_is_bounded_and_printable(text in any::<String>()) {
            let lines = last(&clean_lines(&text));
            prop_assert!(lines.len() <= MAX_LINES);
            for line in lines {
                prop_assert!(line.chars().count() <= MAX_CHARS + 1);
                prop_assert!(!line.chars().any(char::is_control));
            }
        }
    }
}
