//! One rule makes one kind of event of those lines, or of those entries of a list in them, that pass its
//! tests.

use aetherium_model::assistant::AssistantEvent;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What an assistant's output says, as rules. All that match a line are taken, in order.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rules {
    #[serde(default)]
    events: Vec<Rule>,
}

/// What a rule found.
#[derive(Debug)]
pub(crate) enum Said {
    /// An event.
    Event(AssistantEvent),
    /// Words that go on with those before.
    Piece(String),
}

/// Tests by pointers (RFC 6901): each must find one of these values.
type Tests = BTreeMap<String, OneOf>;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum OneOf {
    Any(Vec<Value>),
    This(Value),
}

impl OneOf {
    fn allows(&self, value: &Value) -> bool {
        match self {
            Self::Any(values) => values.contains(value),
            Self::This(this) => this == value,
        }
    }
}

fn pass(tests: &Tests, value: &Value) -> bool {
    tests
        .iter()
        .all(|(pointer, wanted)| wanted.allows(value.pointer(pointer).unwrap_or(&Value::Null)))
}

/// One rule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// What a line must be.
    #[serde(default)]
    when: Tests,
    /// The list in it whose entries are looked at one by one, in place of the line.
    #[serde(default)]
    each: Option<String>,
    /// What an entry must be.
    #[serde(default, rename = "where")]
    entry: Tests,
    /// What it makes of it.
    make: Make,
}

/// What a rule makes. Each value is a pointer, which begins with `/`; a list of pointers of which the
/// first that finds something counts; or a text that stands for itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Make {
    Session {
        session: Source,
    },
    Text {
        text: Source,
        /// Whether these are pieces of what is said, to be joined until something else is.
        #[serde(default)]
        pieces: bool,
    },
    ToolUse {
        name: Source,
        #[serde(default)]
        input: Input,
    },
    ToolResult {
        text: Source,
        #[serde(default)]
        failed: Option<Tests>,
    },
    Cost {
        #[serde(default)]
        usd: Option<Source>,
        #[serde(default)]
        input_tokens: Option<Source>,
        #[serde(default)]
        output_tokens: Option<Source>,
        /// Whether these are the whole conversation's, with the prompts before.
        #[serde(default)]
        of_conversation: bool,
    },
    /// Without a text the answer is what was said last.
    Result {
        #[serde(default)]
        text: Option<Source>,
        #[serde(default)]
        failed: Option<Tests>,
    },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Source {
    One(String),
    First(Vec<String>),
}

/// What a tool is given: a value, or an object of values.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
enum Input {
    #[default]
    Nothing,
    Value(Source),
    Object(BTreeMap<String, Source>),
}

impl Source {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::First(many) => many,
        }
    }

    fn find(&self, value: &Value) -> Option<Value> {
        self.all().iter().find_map(|source| {
            if source.starts_with('/') {
                value.pointer(source).filter(|found| !found.is_null()).cloned()
            } else {
                Some(Value::from(source.clone()))
            }
        })
    }

    fn text(&self, value: &Value) -> Option<String> {
        self.find(value).map(|found| as_text(&found))
    }

    fn number(&self, value: &Value) -> Option<u64> {
        self.find(value)?.as_u64()
    }
}

impl Input {
    fn find(&self, value: &Value) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Value(source) => source.find(value).unwrap_or(Value::Null),
            Self::Object(entries) => entries
                .iter()
                .filter_map(|(key, source)| Some((key.clone(), source.find(value)?)))
                .collect(),
        }
    }
}

/// A value as people read it: texts as they are, and lists of texts, or of blocks with a `text`, as lines.
fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(blocks) => {
            let lines: Vec<_> = blocks
                .iter()
                .map(|block| block.get("text").map_or_else(|| as_text(block), as_text))
                .collect();
            lines.join("\n")
        }
        other => other.to_string(),
    }
}

impl Rules {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether every pointer is one.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (index, rule) in self.events.iter().enumerate() {
            let pointers = rule.when.keys().chain(&rule.each).chain(rule.entry.keys());
            if let Some(bad) = pointers.chain(rule.make.tests()).find(|it| !it.starts_with('/')) {
                return Err(format!("events[{index}]: {bad:?} is no pointer: begin it with '/'"));
            }
            if rule.each.is_none() && !rule.entry.is_empty() {
                return Err(format!("events[{index}].where: is of the entries of each"));
            }
        }
        Ok(())
    }

    /// What a line says.
    pub(crate) fn read(&self, line: &Value) -> Vec<Said> {
        self.events.iter().flat_map(|rule| rule.read(line)).collect()
    }
}

impl Rule {
    fn read(&self, line: &Value) -> Vec<Said> {
        if !pass(&self.when, line) {
            return Vec::new();
        }
        let Some(pointer) = &self.each else { return self.make.of(line).into_iter().collect() };
        let entries = line.pointer(pointer).and_then(Value::as_array);
        let entries = entries.into_iter().flatten().filter(|entry| pass(&self.entry, entry));
        entries.filter_map(|entry| self.make.of(entry)).collect()
    }
}

impl Make {
    fn tests(&self) -> impl Iterator<Item = &String> {
        let tests = match self {
            Self::ToolResult { failed, .. } | Self::Result { failed, .. } => failed.as_ref(),
            _ => None,
        };
        tests.into_iter().flat_map(BTreeMap::keys)
    }

    fn of(&self, value: &Value) -> Option<Said> {
        let is_error = |tests: &Option<Tests>| tests.as_ref().is_some_and(|it| pass(it, value));
        Some(Said::Event(match self {
            Self::Session { session } => {
                let session = session.text(value).filter(|it| is_session(it))?;
                AssistantEvent::Session { session }
            }
            Self::Text { text, pieces } => {
                let text = text.text(value).filter(|it| !it.is_empty())?;
                if *pieces {
                    return Some(Said::Piece(text));
                }
                AssistantEvent::Text { text }
            }
            Self::ToolUse { name, input } => {
                AssistantEvent::ToolUse { name: name.text(value)?, input: input.find(value) }
            }
            Self::ToolResult { text, failed } => AssistantEvent::ToolResult {
                text: text.text(value).unwrap_or_default(),
                is_error: is_error(failed),
            },
            Self::Cost { usd, input_tokens, output_tokens, of_conversation } => {
                let count =
                    |source: &Option<Source>| source.as_ref().and_then(|it| it.number(value));
                let usd = usd.as_ref().and_then(|it| it.find(value)?.as_f64());
                let (input_tokens, output_tokens) = (count(input_tokens), count(output_tokens));
                if usd.is_none() && input_tokens.is_none() && output_tokens.is_none() {
                    return None;
                }
                let of_conversation = *of_conversation;
                AssistantEvent::Cost { usd, input_tokens, output_tokens, of_conversation }
            }
            Self::Result { text, failed } => AssistantEvent::Result {
                text: text.as_ref().and_then(|it| it.text(value)).unwrap_or_default(),
                is_error: is_error(failed),
            },
        }))
    }
}

/// Whether this can be a conversation's id, which becomes an argument and part of a file's name.
fn is_session(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=200).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(allowed)
}
