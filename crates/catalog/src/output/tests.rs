//! What built-in assistants print, cut anywhere, and what is read from it.

use super::*;
use crate::Catalog;
use proptest::prelude::*;

fn parser(assistant: &str) -> OutputParser {
    let catalog = Catalog::built_in();
    catalog.assistant(&assistant.parse().unwrap()).unwrap().parser().unwrap()
}

fn read(assistant: &str, output: &str) -> Vec<AssistantEvent> {
    let mut parser = parser(assistant);
    let mut events = parser.push(output.as_bytes());
    events.extend(parser.finish());
    events
}

const CLAUDE: &str = concat!(
    r#"{"type":"system","subtype":"init","session_id":"5e-1","tools":["Bash"]}"#,
    "\n",
    r#"{"type":"assistant","message":{"content":[{"type":"text","text":"Look."},{"type":"tool_use","id":"t","name":"Bash","input":{"command":"ls"}}]}}"#,
    "\n",
    r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"ä"},{"type":"text","text":"b"}],"is_error":true}]}}"#,
    "\n",
    r#"{"type":"result","subtype":"success","is_error":false,"result":"Done.","total_cost_usd":0.5,"usage":{"input_tokens":7,"output_tokens":9}}"#,
);

fn text(text: &str) -> AssistantEvent {
    AssistantEvent::Text { text: text.to_owned() }
}

fn claude() -> Vec<AssistantEvent> {
    let input = serde_json::json!({ "command": "ls" });
    vec![
        AssistantEvent::Session { session: "5e-1".to_owned() },
        text("Look."),
        AssistantEvent::ToolUse { name: "Bash".to_owned(), input },
        AssistantEvent::ToolResult { text: "ä\nb".to_owned(), is_error: true },
        AssistantEvent::Cost {
            usd: Some(0.5),
            input_tokens: Some(7),
            output_tokens: Some(9),
            of_conversation: false,
        },
        AssistantEvent::Result { text: "Done.".to_owned(), is_error: false },
    ]
}

#[test]
fn what_is_no_json_or_not_known_says_nothing() {
    let noisy = format!("warning: x\n{{\"type\":\"news\"}}\n[1]\n{{\"type\":\n\u{7f}\n{CLAUDE}");
    assert_eq!(read("claude-code", &noisy), claude());
}

#[test]
fn a_line_with_a_gap_is_lost_and_the_next_is_read() {
    let mut parser = parser("claude-code");
    assert_eq!(parser.push(br#"{"type":"assistant","mess"#), []);
    parser.gap();
    assert_eq!(parser.push(br#"nt":[{"type":"text","text":"no"}]}}"#), []);
    assert_eq!(parser.push(b"\n"), []);
    assert_eq!(parser.push(CLAUDE.as_bytes()).len(), 4);
    assert_eq!(parser.session(), Some("5e-1"));
}

#[test]
fn a_line_that_is_too_long_is_lost_and_takes_no_memory() {
    let mut parser = parser("claude-code");
    for _ in 0..5 {
        assert_eq!(parser.push(&vec![b'x'; MAX_LINE / 2]), []);
        assert!(parser.line.len() <= MAX_LINE);
    }
    parser.push(b"\n");
    assert_eq!(parser.push(CLAUDE.as_bytes()).len(), 4);
}

#[test]
fn long_texts_are_cut_and_events_are_counted() {
    let line = |text: &str| {
        let text = Value::from(text);
        format!(
            "{{\"type\":\"assistant\",\"message\":{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}]}}}}\n"
        )
    };
    let events = read("claude-code", &line(&"ä".repeat(MAX_TEXT)));
    let [AssistantEvent::Text { text }] = events.as_slice() else {
        panic!("{} events", events.len())
    };
    assert!(text.len() <= MAX_TEXT + '…'.len_utf8() && text.ends_with("ä…"), "{}", text.len());
    let most = MAX_EVENTS_BYTES / (EVENT_BYTES + 1);
    assert_eq!(read("claude-code", &line("x").repeat(most + 5)).len(), most);
}

#[test]
fn a_session_that_could_be_an_option_or_leave_its_directory_is_none() {
    for bad in ["--help", "../x", "a b", "", "a/b"] {
        let line =
            format!("{{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"{bad}\"}}\n");
        assert_eq!(read("claude-code", &line), [], "{bad}");
    }
}

proptest! {
    #[test]
    fn wherever_the_output_is_cut_the_same_is_read(
        cuts in proptest::collection::vec(0..CLAUDE.len(), 0..8)
    ) {
        let mut cuts = cuts;
        cuts.extend([0, CLAUDE.len()]);
        cuts.sort_unstable();
        let mut parser = parser("claude-code");
        let pieces = cuts.windows(2).map(|it| &CLAUDE.as_bytes()[it[0]..it[1]]);
        let mut events: Vec<_> = pieces.flat_map(|piece| parser.push(piece)).collect();
        events.extend(parser.finish());
        prop_assert_eq!(events, claude());
    }

    #[test]
    fn no_output_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut parser = parser("codex");
        parser.push(&bytes);
        parser.finish();
    }
}
