//! What an assistant says and does, as people read it: its words on standard output, what it does beside
//! them on standard error.

use crate::attach::Output;
use aetherium_model::{
    assistant::AssistantEvent,
    output::{EventBody, OutputEvent, Stream},
};
use serde_json::Value;

/// The longest part of a tool's input or result that is shown, in characters.
const SHOWN: usize = 200;
/// The longest line of output that is looked at before it is shown, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Shows a log whose standard output is read into events, in place of that output. What is no line of JSON
/// in it is shown all the same: an assistant that cannot begin says why.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What was said last.
    said: String,
    line: Vec<u8>,
    /// Whether the rest of a line is left out that was too long.
    skipping: bool,
}

impl Told {
    /// Shows an entry; false if it is none of an assistant's.
    pub(crate) fn show(&mut self, terminal: &mut impl Output, entry: &OutputEvent) -> bool {
        match &entry.body {
            EventBody::Assistant { event } => self.event(terminal, event),
            body => match body.output() {
                Some((Stream::Stdout, bytes)) => self.output(terminal, &bytes),
                _ => return false,
            },
        }
        true
    }

    /// Shows what was held back, at the end.
    pub(crate) fn finish(&mut self, terminal: &mut impl Output) {
        self.end_line(terminal);
    }

    fn event(&mut self, terminal: &mut impl Output, event: &AssistantEvent) {
        match event {
            AssistantEvent::Session { .. } => {}
            AssistantEvent::Text { text } => self.say(terminal, text),
            AssistantEvent::Result { text, is_error: false } if *text == self.said => {}
            AssistantEvent::Result { text, is_error: false } => self.say(terminal, text),
            AssistantEvent::Result { text, is_error: true } => {
                note(terminal, &format!("failed: {text}"));
            }
            AssistantEvent::ToolUse { name, input } => note(terminal, &tool(name, input)),
            AssistantEvent::ToolResult { text, is_error: true } => {
                note(terminal, &format!("  it failed: {}", on_a_line(text)));
            }
            AssistantEvent::ToolResult { .. } => {}
            AssistantEvent::Cost { usd, input_tokens, output_tokens, of_conversation } => {
                let what = if *of_conversation { "cost of the conversation" } else { "cost" };
                if let Some(cost) = cost(*usd, *input_tokens, *output_tokens) {
                    note(terminal, &format!("· {what}: {cost}"));
                }
            }
        }
    }

    fn say(&mut self, terminal: &mut impl Output, text: &str) {
        text.clone_into(&mut self.said);
        if !text.is_empty() {
            terminal.stdout(format!("{}\n", text.trim_end_matches('\n')).as_bytes());
        }
    }

    fn output(&mut self, terminal: &mut impl Output, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.skipping {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.end_line(terminal);
            } else if self.line.len() > MAX_LINE {
                // Nobody writes such a line for people.
                self.line.clear();
                self.skipping = true;
            }
        }
    }

    fn end_line(&mut self, terminal: &mut impl Output) {
        let line = std::mem::take(&mut self.line);
        let skipped = std::mem::take(&mut self.skipping);
        let is_json = serde_json::from_slice::<Value>(&line).is_ok_and(|value| value.is_object());
        if !skipped && !line.is_empty() && !is_json {
            terminal.stdout(&line);
        }
    }
}

fn note(terminal: &mut impl Output, text: &str) {
    terminal.stderr(format!("{text}\n").as_bytes());
}

/// `· Bash: ls -la`.
fn tool(name: &str, input: &Value) -> String {
    let shown = match input {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        // What most tools are about, else the only thing they are given.
        Value::Object(given) => ["command", "file_path", "path", "pattern", "query", "url"]
            .iter()
            .find_map(|key| given.get(*key)?.as_str().map(str::to_owned))
            .unwrap_or_else(|| if given.is_empty() { String::new() } else { input.to_string() }),
        other => other.to_string(),
    };
    let name = on_a_line(name);
    if shown.is_empty() {
        format!("· {name}")
    } else {
        format!("· {name}: {}", on_a_line(&shown))
    }
}

/// A text on one line, cut.
fn on_a_line(text: &str) -> String {
    let text = text.trim();
    let mut line: String =
        text.chars().take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}

fn cost(usd: Option<f64>, input: Option<u64>, output: Option<u64>) -> Option<String> {
    let usd = usd.map(|usd| format!("${usd:.4}"));
    let input = input.map(|tokens| format!("{tokens} tokens in"));
    let output = output.map(|tokens| format!("{tokens} tokens out"));
    let parts: Vec<_> = [usd, input, output].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::Timestamp;

    #[derive(Default)]
    struct Screen {
        out: String,
        err: String,
    }

    impl Output for Screen {
        fn stdout(&mut self, bytes: &[u8]) {
            self.out.push_str(&String::from_utf8_lossy(bytes));
        }

        fn stderr(&mut self, bytes: &[u8]) {
            self.err.push_str(&String::from_utf8_lossy(bytes));
        }
    }

    fn shown(bodies: Vec<EventBody>) -> Screen {
        let (mut told, mut screen) = (Told::default(), Screen::default());
        for body in bodies {
            let entry = OutputEvent { seq: 1, at: Timestamp::from_millis(0), body };
            assert!(told.show(&mut screen, &entry));
        }
        told.finish(&mut screen);
        screen
    }

    fn out(text: &str) -> EventBody {
        EventBody::Output { stream: Stream::Stdout, text: text.to_owned() }
    }

    fn event(event: AssistantEvent) -> EventBody {
        EventBody::Assistant { event }
    }

    #[test]
    fn an_answer_is_shown_once_and_what_it_was_read_from_not_at_all() {
        let text = || "Done.".to_owned();
        let input = serde_json::json!({ "command": "ls\n-la", "description": "x" });
        let screen = shown(vec![
            out("{\"type\":\"assi"),
            out("stant\"}\n{}\n"),
            event(AssistantEvent::ToolUse { name: "Bash".into(), input }),
            event(AssistantEvent::ToolResult { text: "no such\nfile".into(), is_error: true }),
            event(AssistantEvent::Text { text: text() }),
            event(AssistantEvent::Cost {
                usd: Some(0.5),
                input_tokens: Some(3),
                output_tokens: None,
                of_conversation: false,
            }),
            event(AssistantEvent::Result { text: text(), is_error: false }),
        ]);
        assert_eq!(screen.out, "Done.\n");
        assert_eq!(
            screen.err,
            "· Bash: ls -la\n  it failed: no such file\n· cost: $0.5000, 3 tokens in\n"
        );
    }

    #[test]
    fn what_is_no_json_is_shown_as_it_came() {
        let screen = shown(vec![out("cannot begin: "), out("no key\n{\"a\":1}\nend")]);
        assert_eq!(screen.out, "cannot begin: no key\nend");
        let long = "x".repeat(MAX_LINE + 1);
        assert_eq!(shown(vec![out(&long), out("y\nz\n")]).out, "z\n");
    }
}
