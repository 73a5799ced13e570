//! Arguments with placeholders, and what they become.

use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// What a text of a definition can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placeholder {
    Prompt,
    Model,
    SystemPrompt,
    Session,
    McpConfig,
    /// Not a text but arguments: those of the permission mode.
    Permissions,
}

impl Placeholder {
    const ALL: [(&'static str, Self); 6] = [
        ("prompt", Self::Prompt),
        ("model", Self::Model),
        ("system_prompt", Self::SystemPrompt),
        ("session", Self::Session),
        ("mcp_config", Self::McpConfig),
        ("permissions", Self::Permissions),
    ];
}

/// What placeholders stand for in one command; what is absent was not asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Values<'a> {
    pub(crate) prompt: Option<&'a str>,
    pub(crate) model: Option<&'a str>,
    pub(crate) system_prompt: Option<&'a str>,
    pub(crate) session: Option<&'a str>,
    pub(crate) mcp_config: Option<&'a str>,
    pub(crate) permissions: Option<&'a [String]>,
}

impl<'a> Values<'a> {
    const fn of(&self, placeholder: Placeholder) -> Option<&'a str> {
        match placeholder {
            Placeholder::Prompt => self.prompt,
            Placeholder::Model => self.model,
            Placeholder::SystemPrompt => self.system_prompt,
            Placeholder::Session => self.session,
            Placeholder::McpConfig => self.mcp_config,
            Placeholder::Permissions => None,
        }
    }
}

/// A text with placeholders such as `{model}`. Any other brace stands for itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Text(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Words(String),
    Value(Placeholder),
}

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (mut parts, mut words, mut rest) = (Vec::new(), String::new(), text.as_str());
        while let Some((before, after)) = rest.split_once('{') {
            words.push_str(before);
            let word = after.split_once('}').filter(|(word, _)| is_word(word));
            let Some((word, after)) = word else {
                words.push('{');
                rest = after;
                continue;
            };
            let known = Placeholder::ALL.into_iter().find(|(name, _)| *name == word);
            let (_, placeholder) = known.ok_or_else(|| unknown(word))?;
            if !words.is_empty() {
                parts.push(Part::Words(std::mem::take(&mut words)));
            }
            parts.push(Part::Value(placeholder));
            rest = after;
        }
        words.push_str(rest);
        if !words.is_empty() || parts.is_empty() {
            parts.push(Part::Words(words));
        }
        Ok(Self(parts))
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn unknown(word: &str) -> String {
    let known = Placeholder::ALL.map(|(name, _)| format!("{{{name}}}")).join(", ");
    format!("{{{word}}} stands for nothing: give {known}")
}

impl Text {
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = Placeholder> + '_ {
        self.0.iter().filter_map(|part| match part {
            Part::Value(placeholder) => Some(*placeholder),
            Part::Words(_) => None,
        })
    }

    /// The text, where every placeholder of it has a value.
    pub(crate) fn fill(&self, values: &Values<'_>) -> Option<String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Words(words) => Some(words.as_str()),
                Part::Value(placeholder) => values.of(*placeholder),
            })
            .collect()
    }
}

/// An entry of a list of arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    /// One argument.
    One(Text),
    /// Arguments that are there only where all their placeholders have values.
    Group(Vec<Text>),
}

impl Argument {
    pub(crate) fn placeholders(&self) -> impl Iterator<Item = Placeholder> + '_ {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Group(texts) => texts,
        };
        texts.iter().flat_map(Text::placeholders)
    }

    /// Whether it can always be filled, or may be left out.
    pub(crate) fn check(&self) -> Result<(), String> {
        let alone = matches!(self, Self::One(text) if text.0.len() == 1);
        for placeholder in self.placeholders() {
            let allowed = match placeholder {
                Placeholder::Prompt => true,
                Placeholder::Permissions => alone,
                _ => matches!(self, Self::Group(_)),
            };
            if !allowed {
                let name = Placeholder::ALL.iter().find(|(_, it)| *it == placeholder);
                let name = name.map_or("", |(name, _)| name);
                return Err(if placeholder == Placeholder::Permissions {
                    format!("{{{name}}} must be an argument of its own")
                } else {
                    format!(
                        "{{{name}}} may be absent: put it, and the option before it, into a list of their own"
                    )
                });
            }
        }
        Ok(())
    }

    /// The arguments that it stands for.
    pub(crate) fn fill(&self, values: &Values<'_>) -> Vec<String> {
        match self {
            Self::One(text) if text.0 == [Part::Value(Placeholder::Permissions)] => {
                values.permissions.unwrap_or_default().to_vec()
            }
            Self::One(text) => text.fill(values).into_iter().collect(),
            Self::Group(texts) => {
                let filled: Option<Vec<_>> = texts.iter().map(|text| text.fill(values)).collect();
                filled.unwrap_or_default()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Argument;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an argument, or a list of arguments that belong together")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Argument, E> {
                Text::try_from(text.to_owned()).map(Argument::One).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Argument, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Argument::Group(texts))
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "these are tests")]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Text::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn braces_that_name_nothing_stand_for_themselves() {
        let values = Values { model: Some("m{prompt}"), ..Values::default() };
        for (given, filled) in [
            ("{\"a\": 1}", "{\"a\": 1}"),
            ("x={model}", "x=m{prompt}"),
            ("{{model}}", "{m{prompt}}"),
            ("{", "{"),
            ("", ""),
        ] {
            assert_eq!(text(given).fill(&values).as_deref(), Some(filled), "{given}");
        }
        assert!(Text::try_from("{modle}".to_owned()).unwrap_err().contains("{model}"));
    }

    #[test]
    fn a_text_is_whole_or_absent() {
        assert_eq!(text("{model}/{session}").fill(&Values::default()), None);
        let group = Argument::Group(vec![text("--model"), text("{model}")]);
        assert_eq!(group.fill(&Values::default()), Vec::<String>::new());
        let values = Values { model: Some("m"), ..Values::default() };
        assert_eq!(group.fill(&values), ["--model", "m"]);
    }

    #[test]
    fn an_argument_that_may_be_absent_is_in_a_list_of_its_own() {
        assert!(Argument::One(text("{model}")).check().unwrap_err().contains("{model}"));
        assert!(Argument::One(text("x{permissions}")).check().is_err());
        assert_eq!(Argument::One(text("{permissions}")).check(), Ok(()));
        assert_eq!(Argument::One(text("-p={prompt}")).check(), Ok(()));
    }
}
