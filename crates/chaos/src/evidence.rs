//! What a run leaves for its checker: files in one directory, and their formats.
//!
//! ```text
//! plan.json    the seed, and what was broken when
//! sent.jsonl   a line for each prompt that a client sent
//! effects      two lines for each command that ran, which it wrote itself
//! lives.jsonl  a line for each VM whose process was seen
//! end.json     the rows at the end, and what was left
//! ```

use crate::plan::{Kind, Planned};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The file with [`Faults`].
pub const PLAN: &str = "plan.json";
/// The file with [`Sent`], one a line.
pub const SENT: &str = "sent.jsonl";
/// The file with [`Effect`], one a line.
pub const EFFECTS: &str = "effects";
/// The file with [`Life`], one a line.
pub const LIVES: &str = "lives.jsonl";
/// The file with [`End`].
pub const END: &str = "end.json";

/// What was done to the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// What it was drawn from.
    pub seed: u64,
    /// What could be drawn.
    pub kinds: Vec<Kind>,
    /// What was drawn.
    pub steps: Vec<Planned>,
}

/// A prompt as its client knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// What no other prompt's command writes.
    pub token: String,
    /// Where it was sent.
    pub workspace: String,
    /// What came of sending it.
    pub answer: Answer,
    /// How often it was sent, with one key, until that answer came.
    pub tries: u32,
}

/// What a client was told in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The prompt's id.
    Accepted(String),
    /// It was refused for good, with these words.
    Refused(String),
    /// Nothing by the deadline. It may have been accepted.
    Nothing,
}

/// Which end of a command wrote a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its first deed.
    Begin,
    /// Its last.
    End,
}

/// A line that a prompt's command wrote: `begin|end TOKEN WORKSPACE AGENT SECONDS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Which end of the command.
    pub moment: Moment,
    /// Which prompt's.
    pub token: String,
    /// Whose the prompt is.
    pub workspace: String,
    /// The VM's agent: its process id and when that started.
    pub agent: String,
    /// When, in milliseconds since the machine's start.
    pub at_ms: u64,
}

impl FromStr for Effect {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let parse = || {
            let mut words = line.split(' ').map(str::to_owned);
            let moment = match words.next()?.as_str() {
                "begin" => Moment::Begin,
                "end" => Moment::End,
                _ => return None,
            };
            let (token, workspace, agent) = (words.next()?, words.next()?, words.next()?);
            let at_ms = uptime_ms(&words.next()?)?;
            words.next().is_none().then_some(Self { moment, token, workspace, agent, at_ms })
        };
        parse().ok_or_else(|| format!("{line:?} is no effect"))
    }
}

/// `/proc/uptime`'s first word in milliseconds: the one clock that every process here has in common,
/// whatever is done to their wall clocks.
pub fn uptime_ms(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000 + hundredths.parse::<u64>().ok()? * 10)
}

/// A VM whose process was seen, on the same clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Its id.
    pub vm: String,
    /// When it was first seen.
    pub first_ms: u64,
    /// When it was last seen.
    pub last_ms: u64,
}

/// The rows once nothing was under way any more, and what was left when everything had been removed
/// and stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Every prompt on record.
    pub prompts: Vec<PromptRow>,
    /// Every VM on record.
    pub vms: Vec<VmRow>,
    /// Tasks without an end, as `id kind state`.
    pub unfinished_tasks: Vec<String>,
    /// Processes, files, namespaces, and capacity that is still promised, in words.
    pub leftovers: Vec<String>,
}

/// A prompt on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptRow {
    /// Its id.
    pub id: String,
    /// Read from its text.
    pub token: String,
    /// Its state in the database.
    pub state: String,
    /// The code of the fault that ended it, if one did.
    pub fault: Option<String>,
    /// Its state as a gateway tells it.
    pub shown: String,
    /// The event log's entries that tell of an end of it, in their order: `prompt.completed` and so on.
    pub ends: Vec<String>,
}

/// A VM on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRow {
    /// Its id.
    pub id: String,
    /// Whose it is; none for a VM by itself.
    pub workspace: Option<String>,
    /// Its state.
    pub state: String,
    /// Whether it has ended.
    pub ended: bool,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was done.
    pub faults: Faults,
    /// What clients sent.
    pub sent: Vec<Sent>,
    /// What commands wrote.
    pub effects: Vec<Effect>,
    /// Which VMs were seen.
    pub lives: Vec<Life>,
    /// What there was in the end.
    pub end: End,
}

/// A file that is missing, or says what cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it makes no sense.
    #[error("{}, line {line}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl Evidence {
    /// Reads what a run left in `dir`.
    ///
    /// # Errors
    /// A file is missing or malformed.
    pub fn read(dir: &Path) -> Result<Self, EvidenceError> {
        Ok(Self {
            faults: whole(&dir.join(PLAN))?,
            sent: lines(&dir.join(SENT), json)?,
            effects: lines(&dir.join(EFFECTS), Effect::from_str)?,
            lives: lines(&dir.join(LIVES), json)?,
            end: whole(&dir.join(END))?,
        })
    }
}

fn whole<T: DeserializeOwned>(path: &Path) -> Result<T, EvidenceError> {
    serde_json::from_str(&text(path)?).map_err(|error| EvidenceError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        problem: error.to_string(),
    })
}

fn json<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| error.to_string())
}

fn lines<T>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, EvidenceError> {
    let malformed =
        |line, problem| EvidenceError::Malformed { path: path.to_owned(), line, problem };
    let text = text(path)?;
    let numbered = text.lines().enumerate();
    numbered.map(|(at, line)| parse(line).map_err(|why| malformed(at + 1, why))).collect()
}

fn text(path: &Path) -> Result<String, EvidenceError> {
    fs::read_to_string(path)
        .map_err(|source| EvidenceError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_command_is_read_back_and_half_a_line_is_not() {
        let line = "begin t-1 ws_1 4711:99 12.34";
        let effect: Effect = line.parse().unwrap();
        let wanted = ("t-1", "ws_1", "4711:99", 12_340);
        assert_eq!((&*effect.token, &*effect.workspace, &*effect.agent, effect.at_ms), wanted);
        for half in ["begin t-1 ws_1 4711:99", "t-1 ws_1 4711:99 12.34", &format!("{line} end")] {
            assert!(half.parse::<Effect>().is_err(), "{half}");
        }
    }

    #[test]
    fn evidence_that_is_missing_or_cut_short_is_no_evidence() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Evidence::read(dir.path()), Err(EvidenceError::Unreadable { .. })));
        let plan = r#"{"seed":1,"kinds":[],"steps":[]}"#;
        for (file, content) in
            [(PLAN, plan), (SENT, ""), (EFFECTS, "begin t"), (LIVES, ""), (END, "{}")]
        {
            fs::write(dir.path().join(file), content).unwrap();
        }
        assert!(matches!(Evidence::read(dir.path()), Err(EvidenceError::Malformed { .. })));
    }
}
