//! What a program shows on a terminal, as lines of plain text.
//!
//! Sequences that colour, move or erase are left out; a link that a terminal would open is a line of its
//! own. An address that a program broke over several lines, at the width of the terminal or at the 80 columns
//! that programs take one for where they do not ask, is one line again. The output may be cut anywhere, and
//! what is kept of it is bounded.

/// The width that programs take a terminal to have where they do not ask.
const USUAL_COLUMNS: usize = 80;
/// The longest line, and the longest link, in bytes; what goes beyond is left out.
const MAX_LINE: usize = 16 * 1024;

/// Makes lines of a terminal's output.
#[derive(Debug)]
pub(super) struct Screen {
    columns: usize,
    mode: Mode,
    /// The row that is being written.
    row: Vec<u8>,
    /// Rows before it that end in the middle of an address.
    held: String,
    /// Whether the cursor was sent to the beginning of its row.
    returned: bool,
    lines: Vec<String>,
}

#[derive(Debug)]
enum Mode {
    Text,
    /// After ESC.
    Escape,
    /// After ESC and what says that one more byte belongs to it.
    Skip,
    /// A control sequence, with its parameters.
    Control(Vec<u8>),
    /// An operating system command, with what it says.
    Command(Vec<u8>),
    /// Another text for the terminal itself.
    Foreign,
    /// After ESC within one of the two.
    Ending(Option<Vec<u8>>),
}

/// How a row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// The next one follows below.
    Newline,
    /// The cursor goes elsewhere.
    Moved,
}

impl Screen {
    /// A terminal so many columns wide.
    pub(super) fn new(columns: usize) -> Self {
        let (row, held, lines) = (Vec::new(), String::new(), Vec::new());
        Self { columns, mode: Mode::Text, row, held, returned: false, lines }
    }

    /// Takes the next bytes, and returns the lines that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        for byte in bytes {
            self.take(*byte);
        }
        std::mem::take(&mut self.lines)
    }

    /// What is there of the line that is not complete, such as a question that waits for its answer.
    pub(super) fn unfinished(&self) -> Option<String> {
        let row = String::from_utf8_lossy(&self.row);
        let joined = if goes_on(&row) { format!("{}{row}", self.held) } else { self.held.clone() };
        [joined, row.into_owned()].into_iter().find(|line| !line.is_empty())
    }

    /// Whatever is there, at the end of the output.
    pub(super) fn finish(&mut self) -> Vec<String> {
        self.end_row(Break::Moved);
        std::mem::take(&mut self.lines)
    }

    fn take(&mut self, byte: u8) {
        self.mode = match std::mem::replace(&mut self.mode, Mode::Text) {
            Mode::Text => return self.text(byte),
            Mode::Skip => Mode::Text,
            Mode::Escape => match byte {
                b'[' => Mode::Control(Vec::new()),
                b']' => Mode::Command(Vec::new()),
                b'P' | b'X' | b'^' | b'_' => Mode::Foreign,
                b' '..=b'/' => Mode::Skip,
                0x1b => Mode::Escape,
                _ => Mode::Text,
            },
            Mode::Control(mut parameters) => match byte {
                0x40..=0x7e => {
                    self.control(byte);
                    Mode::Text
                }
                0x1b => Mode::Escape,
                _ => {
                    keep(&mut parameters, byte);
                    Mode::Control(parameters)
                }
            },
            Mode::Command(mut said) => match byte {
                0x07 => self.command(&said),
                0x1b => Mode::Ending(Some(said)),
                _ => {
                    keep(&mut said, byte);
                    Mode::Command(said)
                }
            },
            Mode::Foreign if byte == 0x1b => Mode::Ending(None),
            Mode::Foreign => Mode::Foreign,
            Mode::Ending(Some(said)) if byte == b'\\' => self.command(&said),
            Mode::Ending(None) if byte == b'\\' => Mode::Text,
            // It was not the end of it but the beginning of something else.
            Mode::Ending(_) => {
                self.mode = Mode::Escape;
                return self.take(byte);
            }
        };
    }

    fn text(&mut self, byte: u8) {
        self.mode = Mode::Text;
        match byte {
            0x1b => self.mode = Mode::Escape,
            b'\n' => self.end_row(Break::Newline),
            b'\r' => self.returned = true,
            0x08 => {
                self.row.pop();
            }
            b'\t' => self.write(b' '),
            0..0x20 | 0x7f => {}
            _ => self.write(byte),
        }
    }

    fn write(&mut self, byte: u8) {
        if self.returned {
            // It writes over what is there.
            self.end_row(Break::Moved);
        }
        keep(&mut self.row, byte);
    }

    fn control(&mut self, last: u8) {
        match last {
            b'C' => self.write(b' '),
            b'A' | b'B' | b'D'..=b'H' | b'J' | b'L' | b'M' | b'S' | b'T' | b'd' | b'f' => {
                self.end_row(Break::Moved);
            }
            // Colours; and erasing to the end of a row, where there is nothing.
            _ => {}
        }
    }

    /// What a program tells the terminal: of all that, links (`8;parameters;address`).
    fn command(&mut self, said: &[u8]) -> Mode {
        let link = said.strip_prefix(b"8;").and_then(|rest| {
            let at = rest.iter().position(|byte| *byte == b';')?;
            Some(&rest[at + 1..])
        });
        if let Some(link) = link.filter(|link| !link.is_empty()) {
            self.lines.push(String::from_utf8_lossy(link).into_owned());
        }
        Mode::Text
    }

    fn end_row(&mut self, how: Break) {
        self.returned = false;
        let row = String::from_utf8_lossy(&std::mem::take(&mut self.row)).into_owned();
        let continues = !self.held.is_empty() && goes_on(&row);
        if !self.held.is_empty() && !continues {
            self.lines.push(std::mem::take(&mut self.held));
        }
        let width = row.chars().count();
        let is_full = width == self.columns || width == USUAL_COLUMNS;
        let mut line = std::mem::take(&mut self.held);
        line.push_str(&row);
        let fits = line.len() <= MAX_LINE;
        if how == Break::Newline && is_full && fits && ends_in_address(&line) {
            self.held = line;
        } else if !line.is_empty() {
            self.lines.push(line);
        }
    }
}

fn keep(bytes: &mut Vec<u8>, byte: u8) {
    if bytes.len() < MAX_LINE {
        bytes.push(byte);
    }
}

/// Whether a row can be the rest of an address.
fn goes_on(row: &str) -> bool {
    !row.is_empty() && row.bytes().all(|byte| byte.is_ascii_graphic())
}

fn ends_in_address(line: &str) -> bool {
    line.rsplit(char::is_whitespace).next().is_some_and(|word| word.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COLUMNS: usize = 200;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let mut screen = Screen::new(COLUMNS);
        let mut lines: Vec<_> = parts.iter().flat_map(|part| screen.push(part)).collect();
        lines.extend(screen.finish());
        lines
    }

    fn address(bytes: usize) -> String {
        let query: String = "abcdefghij&=%-_.~0123456789".chars().cycle().take(bytes).collect();
        format!("https://id.example/authorize?{query}")
    }

    #[test]
    fn colours_are_left_out_and_what_is_written_over_is_another_line() {
        assert_eq!(lines(&[b"\x1b[1;32mOpen\x1b[0m \x1b[4mthis\x1b[24m\r\n"]), ["Open this"]);
        assert_eq!(lines(&[b"10%\r20%\rdone\r\n"]), ["10%", "20%", "done"]);
        assert_eq!(lines(&[b"a\x1b[3Cb\x1b[2K\x1b[1Gc\x1b(Bd"]), ["a b", "cd"]);
        assert_eq!(lines(&["wörter ✻\x1b[K\r\n".as_bytes()]), ["wörter ✻"]);
        assert_eq!(lines(&[b"\x1bP1$r0m\x1b\\x\x1b]0;title\x07y"]), ["xy"]);
    }

    #[test]
    fn a_link_is_a_line_of_its_own() {
        let link = b"see \x1b]8;id=1;https://id.example/a?b\x1b\\here\x1b]8;;\x1b\\\r\n";
        assert_eq!(lines(&[link]), ["https://id.example/a?b", "see here"]);
    }

    #[test]
    fn a_word_below_an_address_that_fills_no_row_is_not_part_of_it() {
        let short = b"https://id.example/device\r\nABCD-EFGH\r\n";
        assert_eq!(lines(&[short]), ["https://id.example/device", "ABCD-EFGH"]);
        let url = address(80 - 29);
        assert_eq!(url.len(), 80);
        let full = format!("{url}\r\n\r\nABCD-EFGH\r\n");
        assert_eq!(lines(&[full.as_bytes()]), [url.as_str(), "ABCD-EFGH"]);
        let sentence = format!("{url}\r\nor paste it\r\n");
        assert_eq!(lines(&[sentence.as_bytes()]), [url.as_str(), "or paste it"]);
    }

    #[test]
    fn a_question_without_an_end_can_be_read() {
        let mut screen = Screen::new(COLUMNS);
        assert_eq!(screen.push(b"hello\r\nPaste it: "), ["hello"]);
        assert_eq!(screen.unfinished().as_deref(), Some("Paste it: "));
        assert_eq!(screen.push(b"x\r\n"), ["Paste it: x"]);
        assert_eq!(screen.unfinished(), None);
    }

    #[test]
    fn what_never_ends_takes_no_more_memory() {
        let mut screen = Screen::new(COLUMNS);
        for endless in [&b"x"[..], b"\x1b]", b"y", b"\x1b\\\x1b[", b"1", b"m\x1bP", b"z"] {
            for _ in 0..MAX_LINE + 10 {
                screen.push(endless);
            }
            assert!(screen.row.len() <= MAX_LINE);
        }
        let row = format!("https://{}\r\n", "a".repeat(COLUMNS - 8));
        let rest = format!("{}\r\n", "a".repeat(COLUMNS));
        screen.push(row.as_bytes());
        for _ in 0..1000 {
            screen.push(rest.as_bytes());
            assert!(screen.held.len() <= MAX_LINE);
        }
    }

    proptest! {
        #[test]
        fn an_address_is_found_whole_however_it_is_wrapped_coloured_and_cut(
            length in 1..900usize,
            at_80 in any::<bool>(),
            before in "[A-Za-z]{0,10}",
            colours in proptest::collection::vec(0..80usize, 0..4),
            cuts in proptest::collection::vec(1..50usize, 0..80),
        ) {
            let url = address(length);
            let text = if before.is_empty() { url } else { format!("{before} {url}") };
            let columns = if at_80 { USUAL_COLUMNS } else { COLUMNS };
            let mut shown = Vec::from(&b"\x1b[2J\x1b[HWelcome\r\n"[..]);
            for (index, byte) in text.bytes().enumerate() {
                if index > 0 && index % columns == 0 {
                    shown.extend_from_slice(b"\x1b[0m\r\n\x1b[36m");
                }
                if colours.contains(&(index % 80)) {
                    shown.extend_from_slice(b"\x1b[38;5;12m");
                }
                shown.push(byte);
            }
            shown.extend_from_slice(b"\x1b[0m\r\n\r\nPaste code here if prompted > ");
            let whole = lines(&[&shown]);
            prop_assert_eq!(&whole, &["Welcome", &text, "Paste code here if prompted > "]);
            let (mut rest, mut parts) = (&shown[..], Vec::new());
            for cut in cuts {
                let (part, left) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = left;
            }
            parts.push(rest);
            prop_assert_eq!(lines(&parts), whole);
        }

        #[test]
        fn any_bytes_are_read_alike_however_they_are_cut(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), Just(b']'), Just(b'\r'), Just(b'\n'), Just(b'\\')], 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            let (one, two) = bytes.split_at(at.index(bytes.len() + 1));
            prop_assert_eq!(lines(&[one, two]), lines(&[&bytes]));
        }
    }
}
