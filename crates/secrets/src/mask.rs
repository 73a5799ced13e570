//! Values of secrets, replaced in a stream of output however the stream is cut.
//!
//! This is against accidents: what a command prints because it prints its environment. A command that
//! wants to show a value can, encoded in some way that nobody looks for.

use crate::SecretValue;
use std::{fmt, sync::Arc};
use zeroize::Zeroizing;

/// What stands in the place of a value.
pub const MASK: &str = "***";
/// Values shorter than this, in bytes, are not looked for: they would be found in words that have
/// nothing to do with them. So for the lines of a value of several.
pub const MIN_MASKED_BYTES: usize = 8;

/// The values that are looked for.
#[derive(Clone)]
pub struct Masks(Arc<Patterns>);

struct Patterns {
    /// The longest first.
    patterns: Vec<Zeroizing<Vec<u8>>>,
    /// Whether a pattern begins with this byte.
    begins: [bool; 256],
}

impl Masks {
    /// Looks for these values, and for each line of those that have several: a terminal ends them
    /// otherwise than the value does.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a SecretValue>) -> Self {
        let mut patterns = Vec::new();
        for value in values {
            let whole = value.reveal().trim_ascii_end();
            let lines = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            for found in std::iter::once(whole).chain(lines) {
                if found.len() >= MIN_MASKED_BYTES {
                    patterns.push(Zeroizing::new(found.to_vec()));
                }
            }
        }
        patterns.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        patterns.dedup();
        let mut begins = [false; 256];
        for pattern in &patterns {
            begins[usize::from(pattern[0])] = true;
        }
        Self(Arc::new(Patterns { patterns, begins }))
    }

    /// Nothing is looked for.
    pub fn none() -> Self {
        Self::of([])
    }

    /// Whether nothing is looked for.
    pub fn is_empty(&self) -> bool {
        self.0.patterns.is_empty()
    }

    /// Begins to look through a stream.
    pub fn masker(&self) -> Masker {
        Masker { masks: self.clone(), held: Zeroizing::default() }
    }
}

impl fmt::Debug for Masks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masks({})", self.0.patterns.len())
    }
}

/// What may be shown of the next part of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Masked {
    /// The bytes, with [`MASK`] in the place of values.
    pub bytes: Vec<u8>,
    /// By how many bytes what it stands for is longer.
    pub hidden: u64,
}

/// Looks through one stream. Holds back what may be the beginning of a value until more has come.
#[derive(Debug)]
pub struct Masker {
    masks: Masks,
    held: Zeroizing<Vec<u8>>,
}

/// What is known of the place that is looked at.
enum Here {
    /// A value of so many bytes.
    Value(usize),
    /// Nothing that is looked for.
    Other,
    /// What has come may be the beginning of a value.
    Unclear,
}

impl Masker {
    /// Takes the next bytes and returns what may be shown by now.
    pub fn push(&mut self, bytes: &[u8]) -> Masked {
        if self.masks.is_empty() {
            return Masked { bytes: bytes.to_vec(), hidden: 0 };
        }
        self.held.extend_from_slice(bytes);
        self.show(false)
    }

    /// The stream has ended, or goes on after a gap: returns what was held back. The beginning of a value
    /// is masked, too, where it is long enough to be told from other words.
    pub fn finish(&mut self) -> Masked {
        self.show(true)
    }

    fn show(&mut self, ended: bool) -> Masked {
        let mut masked = Masked::default();
        let mut at = 0;
        while let Some(rest) = self.held.get(at..).filter(|rest| !rest.is_empty()) {
            match self.masks.0.look(rest, ended) {
                Here::Value(bytes) => {
                    masked.bytes.extend_from_slice(MASK.as_bytes());
                    masked.hidden += (bytes - MASK.len()) as u64;
                    at += bytes;
                }
                Here::Other => {
                    masked.bytes.push(rest[0]);
                    at += 1;
                }
                Here::Unclear => break,
            }
        }
        self.held.drain(..at);
        masked
    }
}

impl Patterns {
    /// What `rest`, which is not empty, begins with.
    fn look(&self, rest: &[u8], ended: bool) -> Here {
        if !self.begins[usize::from(rest[0])] {
            return Here::Other;
        }
        // The longest first: one that may still be coming goes before a shorter one that is there.
        for pattern in &self.patterns {
            if rest.starts_with(pattern) {
                return Here::Value(pattern.len());
            }
            if pattern.starts_with(rest) {
                match ended {
                    false => return Here::Unclear,
                    true if rest.len() >= MIN_MASKED_BYTES => return Here::Value(rest.len()),
                    true => {}
                }
            }
        }
        Here::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn masks(values: &[&str]) -> Masks {
        let values: Vec<_> =
            values.iter().map(|it| SecretValue::new(it.as_bytes().to_vec())).collect();
        Masks::of(&values)
    }

    fn shown(masks: &Masks, chunks: &[&str]) -> (String, u64) {
        let mut masker = masks.masker();
        let mut parts: Vec<_> = chunks.iter().map(|chunk| masker.push(chunk.as_bytes())).collect();
        parts.push(masker.finish());
        let bytes = parts.iter().flat_map(|part| part.bytes.clone()).collect();
        (String::from_utf8(bytes).unwrap(), parts.iter().map(|part| part.hidden).sum())
    }

    #[test]
    fn a_value_is_masked_in_one_piece_or_many_and_the_longest_one_is() {
        let masks = masks(&["hunter2hunter", "hunter2hunter3", "short"]);
        assert_eq!(shown(&masks, &["a hunter2hunter b"]), ("a *** b".into(), 10));
        assert_eq!(shown(&masks, &["a hunt", "er2hu", "nter3 b"]), ("a *** b".into(), 11));
        assert_eq!(shown(&masks, &["hunter2 short"]), ("hunter2 short".into(), 0));
        assert_eq!(shown(&masks, &["hunter2hun"]), ("***".into(), 7), "most of a value at the end");
    }

    #[test]
    fn a_value_of_several_lines_is_masked_line_by_line_too() {
        let masks = masks(&["-----BEGIN KEY-----\nb3BlbnNzaC1r\n-----END KEY-----\n"]);
        assert_eq!(shown(&masks, &["x b3BlbnNzaC1r\r\n"]).0, "x ***\r\n");
    }

    #[test]
    fn nothing_is_held_back_that_begins_no_value() {
        let mut masker = masks(&["hunter2hunter"]).masker();
        assert_eq!(masker.push(b"name: hunt").bytes, b"name: ");
        assert_eq!(masker.push(b"ing ").bytes, b"hunting ");
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_no_value_is_shown_and_no_other_byte_is_lost(
            values in proptest::collection::vec("[ab]{8,12}", 1..4),
            words in proptest::collection::vec(prop_oneof!["[abc \n]{0,9}", Just("@".to_owned())], 0..12),
            cuts in proptest::collection::vec(1..7usize, 1..60),
        ) {
            let text = words.join("").replace('@', &values[0]);
            let masks = masks(&values.iter().map(String::as_str).collect::<Vec<_>>());
            let whole = shown(&masks, &[&text]);
            let (mut rest, mut chunks) = (text.as_str(), Vec::new());
            for cut in cuts {
                let (chunk, left) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = left;
            }
            chunks.push(rest);
            let cut = shown(&masks, &chunks);
            prop_assert_eq!(&cut, &whole, "the cuts change nothing");
            prop_assert!(values.iter().all(|value| !cut.0.contains(value)));
            prop_assert_eq!(cut.0.len() as u64 + cut.1, text.len() as u64);
            let others = |text: &str| text.bytes().filter(|it| b"c \n".contains(it)).count();
            prop_assert_eq!(others(&cut.0), others(&text));
        }
    }
}
