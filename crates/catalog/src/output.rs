//! How an assistant's own output is read: rules over lines of JSON, which turn each into events.
//!
//! A line that is no JSON, or that no rule knows, says nothing: it is in the log as it came.

mod rules;

pub(crate) use rules::Rules;

use aetherium_model::assistant::AssistantEvent;
use rules::Said;
use serde_json::Value;

/// The longest line that is read; what is longer says nothing.
const MAX_LINE: usize = 4 * 1024 * 1024;
/// The longest text of an event, in bytes; what is longer is cut, and whole in the log's output.
const MAX_TEXT: usize = 64 * 1024;
/// What the events of one prompt may take together, in bytes; those after them are in the log's output
/// alone.
const MAX_EVENTS_BYTES: usize = 4 * 1024 * 1024;
/// What an event takes besides its texts, at most.
const EVENT_BYTES: usize = 200;

/// Reads an assistant's standard output as it comes.
#[derive(Debug)]
pub struct OutputParser {
    rules: Rules,
    /// The line that is not at its end yet.
    line: Vec<u8>,
    /// Whether that was too long, and its end is waited for.
    skipping: bool,
    /// Words that came in pieces, and may go on.
    joined: String,
    /// What was said last, for an assistant whose answer is that.
    last_said: String,
    session: Option<String>,
    /// What the events so far take.
    events_bytes: usize,
}

impl OutputParser {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            line: Vec::new(),
            skipping: false,
            joined: String::new(),
            last_said: String::new(),
            session: None,
            events_bytes: 0,
        }
    }

    /// What the next bytes say.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<AssistantEvent> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.hold(&rest[..end]);
            self.read_line(&mut events);
            rest = &rest[end + 1..];
        }
        self.hold(rest);
        events
    }

    /// Bytes of the stream are missing here: the line that they are in is lost.
    pub fn gap(&mut self) {
        self.line.clear();
        self.skipping = true;
    }

    /// The output has ended: what was held back.
    pub fn finish(&mut self) -> Vec<AssistantEvent> {
        let mut events = Vec::new();
        self.read_line(&mut events);
        self.say_joined(&mut events);
        events
    }

    /// The conversation that it said it works in last.
    pub fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.line.len() + bytes.len() > MAX_LINE {
            return self.gap();
        }
        self.line.extend_from_slice(bytes);
    }

    fn read_line(&mut self, events: &mut Vec<AssistantEvent>) {
        let line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.skipping) {
            return;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { return };
        for said in self.rules.read(&value) {
            self.take(said, events);
        }
    }

    fn take(&mut self, said: Said, events: &mut Vec<AssistantEvent>) {
        match said {
            Said::Piece(text) => {
                self.joined.push_str(&text);
                if self.joined.len() >= MAX_TEXT {
                    self.say_joined(events);
                }
            }
            Said::Event(event) => {
                self.say_joined(events);
                self.say(event, events);
            }
        }
    }

    fn say_joined(&mut self, events: &mut Vec<AssistantEvent>) {
        let text = std::mem::take(&mut self.joined);
        if !text.is_empty() {
            self.say(AssistantEvent::Text { text }, events);
        }
    }

    fn say(&mut self, mut event: AssistantEvent, events: &mut Vec<AssistantEvent>) {
        let texts = match &mut event {
            AssistantEvent::Session { session } => {
                // Told again by every line of some.
                if self.session.as_ref() == Some(session) {
                    return;
                }
                self.session = Some(session.clone());
                session.len()
            }
            AssistantEvent::Text { text } => {
                cut(text);
                self.last_said.clone_from(text);
                text.len()
            }
            AssistantEvent::Result { text, .. } => {
                if text.is_empty() {
                    text.clone_from(&self.last_said);
                }
                cut(text);
                text.len()
            }
            AssistantEvent::ToolResult { text, .. } => {
                cut(text);
                text.len()
            }
            AssistantEvent::ToolUse { name, input } => {
                cut(name);
                let mut size = input.to_string().len();
                if size > MAX_TEXT {
                    *input = Value::from(format!("{size} bytes, which are in the output"));
                    size = 0;
                }
                name.len() + size
            }
            AssistantEvent::Cost { .. } => 0,
        };
        let with_it = self.events_bytes + EVENT_BYTES + texts;
        if with_it <= MAX_EVENTS_BYTES {
            self.events_bytes = with_it;
            events.push(event);
        }
    }
}

/// Cuts a text at [`MAX_TEXT`], and shows that it was.
fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests;
