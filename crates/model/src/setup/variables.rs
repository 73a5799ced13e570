//! `${NAME}` in the texts of MCP servers, as MCP clients write it.
//!
//! `${NAME}` stands for the variable's value, and `${NAME:-text}` for the text where there is no such variable
//! or it is empty. A dollar sign stands for itself, but of a row of them before `{` each two stand for one:
//! `$${` is `${` itself.

use super::McpServer;
use std::collections::BTreeMap;

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// What stands for itself.
    Text(&'a str),
    /// What stands for a value.
    Variable {
        /// The variable.
        name: &'a str,
        /// What stands for it where it is missing or empty.
        default: Option<&'a str>,
    },
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unexpanded {
    /// Something begins like a variable and is none.
    #[error("{0:?} is not a variable: write ${{NAME}} or ${{NAME:-text}}, and $${{ for ${{ itself")]
    Malformed(String),
    /// There is no variable of this name.
    #[error("there is no variable or secret named {0}")]
    Unknown(String),
}

/// Takes a text apart.
///
/// # Errors
/// [`Unexpanded::Malformed`].
pub fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Unexpanded> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(brace) = rest.find("${").map(|dollar| dollar + 1) {
        let before = rest[..brace].trim_end_matches('$').len();
        let dollars = brace - before;
        let kept = &rest[..before + dollars / 2];
        if !kept.is_empty() {
            pieces.push(Piece::Text(kept));
        }
        if dollars.is_multiple_of(2) {
            pieces.push(Piece::Text("{"));
            rest = &rest[brace + 1..];
            continue;
        }
        let malformed = || Unexpanded::Malformed(rest[brace - 1..].chars().take(40).collect());
        let (inside, after) = rest[brace + 1..].split_once('}').ok_or_else(malformed)?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if !is_name(name) {
            return Err(malformed());
        }
        pieces.push(Piece::Variable { name, default });
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && text.starts_with(|first: char| !first.is_ascii_digit())
}

/// The text with its variables' values.
///
/// # Errors
/// Why it cannot be.
pub fn expand<'v>(
    text: &str,
    value: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, Unexpanded> {
    let mut expanded = String::new();
    for piece in pieces(text)? {
        match piece {
            Piece::Text(text) => expanded.push_str(text),
            Piece::Variable { name, default } => {
                let value = value(name);
                let filled = value.filter(|value| !value.is_empty());
                let unknown = || Unexpanded::Unknown(name.to_owned());
                expanded.push_str(filled.or(default).or(value).ok_or_else(unknown)?);
            }
        }
    }
    Ok(expanded)
}

impl McpServer {
    /// Its texts in which variables may stand, each with where it is.
    pub fn texts(&self) -> Vec<(String, &str)> {
        let named = |field: &str, text| (field.to_owned(), text);
        match self {
            Self::Stdio { command, args, env } => {
                let args = args.iter().enumerate();
                let args = args.map(|(index, text)| (format!("args[{index}]"), text.as_str()));
                let env = env.iter().map(|(name, text)| (format!("env.{name}"), text.as_str()));
                [named("command", command.as_str())].into_iter().chain(args).chain(env).collect()
            }
            Self::Http { url, headers } => {
                let headers =
                    headers.iter().map(|(name, text)| (format!("headers.{name}"), text.as_str()));
                [named("url", url.as_str())].into_iter().chain(headers).collect()
            }
        }
    }

    /// The server with its variables' values.
    ///
    /// # Errors
    /// Why one of its texts cannot be expanded.
    pub fn expanded<'v>(
        &self,
        value: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<Self, Unexpanded> {
        fn map<K: Ord + Clone>(
            texts: &BTreeMap<K, String>,
            one: impl Fn(&str) -> Result<String, Unexpanded>,
        ) -> Result<BTreeMap<K, String>, Unexpanded> {
            texts.iter().map(|(name, text)| Ok((name.clone(), one(text)?))).collect()
        }
        let one = |text: &str| expand(text, &value);
        Ok(match self {
            Self::Stdio { command, args, env } => Self::Stdio {
                command: one(command)?,
                args: args.iter().map(|text| one(text)).collect::<Result<_, _>>()?,
                env: map(env, one)?,
            },
            Self::Http { url, headers } => {
                Self::Http { url: one(url)?, headers: map(headers, one)? }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn known(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("one"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn a_variable_stands_for_its_value_and_dollars_for_themselves() {
        for (text, expanded) in [
            ("", ""),
            ("Bearer ${A}", "Bearer one"),
            ("${A}${A}", "oneone"),
            ("$A $ $$ a$", "$A $ $$ a$"),
            ("$${A}", "${A}"),
            ("$$${A}", "$one"),
            ("$$$${A}", "$${A}"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("${A:-two}", "one"),
            ("${B:-}", ""),
            ("${B:-http://x:1/}", "http://x:1/"),
            ("{}}", "{}}"),
            ("ä${A}ö", "äoneö"),
        ] {
            assert_eq!(expand(text, known).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_named() {
        for text in ["${", "${A", "${}", "${1}", "${a b}", "x ${A-b}", "${A:b}", "${:-b}"] {
            let error = expand(text, known).unwrap_err();
            assert!(matches!(error, Unexpanded::Malformed(_)), "{text}: {error}");
        }
        assert_eq!(expand("${B}", known), Err(Unexpanded::Unknown("B".to_owned())));
        let error = expand("a ${B c}", known).unwrap_err().to_string();
        assert!(error.contains("\"${B c}\"") && error.contains("$${ for ${"), "{error}");
    }

    /// What stands for a text as it is.
    fn escaped(text: &str) -> String {
        let mut escaped = String::new();
        let mut row = 0;
        for c in text.chars() {
            if c == '{' {
                escaped.extend(std::iter::repeat_n('$', row));
            }
            row = if c == '$' { row + 1 } else { 0 };
            escaped.push(c);
        }
        escaped
    }

    proptest! {
        #[test]
        fn every_text_can_be_written_as_itself(text in "[${}A:ä-]{0,12}") {
            prop_assert_eq!(expand(&escaped(&text), known), Ok(text));
        }

        #[test]
        fn values_are_not_looked_into(value in "[${}A]{0,8}", before in "[$ ä}]{0,4}x") {
            let text = format!("{before}${{V}}");
            prop_assert_eq!(expand(&text, |_| Some(value.as_str())), Ok(before + &value));
        }

        #[test]
        fn no_text_is_too_odd_to_be_taken_apart(text in "\\PC*") {
            let _ = pieces(&text);
        }
    }
}
