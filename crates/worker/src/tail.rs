//! The last lines of an output, for whoever is told that its command failed.

use std::collections::VecDeque;

/// The lines of output that a failure repeats.
const TAIL_LINES: usize = 20;
/// The bytes of a line that it repeats.
const TAIL_LINE_BYTES: usize = 1000;

/// The last lines of an output.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<String>,
    open: bool,
}

impl Tail {
    /// Adds what came next.
    pub(crate) fn push(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            if !self.open {
                if self.lines.len() == TAIL_LINES {
                    self.lines.pop_front();
                }
                self.lines.push_back(String::new());
            }
            self.open = !piece.ends_with('\n');
            if let Some(line) = self.lines.back_mut() {
                let room = TAIL_LINE_BYTES.saturating_sub(line.len());
                line.extend(piece.trim_end().chars().take(room));
            }
        }
    }

    /// The lines.
    pub(crate) fn lines(self) -> impl Iterator<Item = String> {
        self.lines.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_however_they_came_and_no_more_than_twenty() {
        let mut tail = Tail::default();
        for text in ["one\ntw", "o\n", "three"] {
            tail.push(text);
        }
        assert_eq!(tail.lines().collect::<Vec<_>>(), ["one", "two", "three"]);
        let mut tail = Tail::default();
        (0..100).for_each(|n| tail.push(&format!("{n}\n")));
        let lines: Vec<_> = tail.lines().collect();
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (20, "80", "99"));
        let mut tail = Tail::default();
        (0..100).for_each(|_| tail.push(&"x".repeat(100)));
        assert_eq!(tail.lines().map(|line| line.len()).collect::<Vec<_>>(), [TAIL_LINE_BYTES]);
    }
}
