//! The verdict: what was promised, held against what was seen. Pure.

use crate::evidence::{Answer, Effect, Evidence, Moment, PromptRow};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

/// States of prompts in which nothing changes any more.
const ENDS: [&str; 4] = ["completed", "failed", "interrupted", "cancelled"];

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Violation {
    /// A prompt was accepted, and is not on record.
    Lost {
        /// Its token.
        token: String,
        /// The id its client was given.
        prompt: String,
    },
    /// One request, repeated with its key, made several prompts, or another one than its client was told.
    AcceptedTwice {
        /// Its token.
        token: String,
        /// The prompts.
        prompts: Vec<String>,
    },
    /// A prompt that was refused is on record.
    RefusedButTaken {
        /// Its token.
        token: String,
        /// Its id.
        prompt: String,
    },
    /// Nothing came of a request, again and again, although the fleet was whole.
    NeverAnswered {
        /// Its token.
        token: String,
    },
    /// A prompt has no end.
    Unfinished {
        /// Its id.
        prompt: String,
        /// Where it stands.
        state: String,
    },
    /// A prompt was not completed, though nothing was done by which one may come to harm.
    Harmed {
        /// Its id.
        prompt: String,
        /// How it ended.
        state: String,
    },
    /// The event log tells of no end of a prompt, of several, or of another than its row.
    EndsDiffer {
        /// Its id.
        prompt: String,
        /// The end that its row has.
        state: String,
        /// The ends that the log has.
        ends: Vec<String>,
    },
    /// A gateway tells another state than the row has.
    ShownDiffers {
        /// Its id.
        prompt: String,
        /// In the row.
        state: String,
        /// As told.
        shown: String,
    },
    /// A command began more than once.
    RanTwice {
        /// Its prompt's token.
        token: String,
        /// How often.
        times: usize,
    },
    /// A prompt is completed, and its command did not begin, or did not end.
    CompletedWithoutEffect {
        /// Its token.
        token: String,
    },
    /// A command ran that no prompt on record asked for.
    EffectOfNobody {
        /// What it wrote for a token.
        token: String,
    },
    /// A command ran in another workspace than its prompt was sent to.
    WrongWorkspace {
        /// Its token.
        token: String,
        /// Where it ran.
        workspace: String,
    },
    /// Two VMs of one workspace lived at once.
    TwoVms {
        /// The workspace.
        workspace: String,
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// A VM's process was seen that is not on record.
    UnknownVm {
        /// Its id.
        vm: String,
    },
    /// A VM is on record as if it lived, after everything was removed.
    VmWithoutEnd {
        /// Its id.
        vm: String,
        /// Its state.
        state: String,
    },
    /// A task has no end.
    UnfinishedTask {
        /// Its id, kind and state.
        task: String,
    },
    /// Something was left.
    Leaked {
        /// What.
        what: String,
    },
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Requests with a prompt.
    pub sent: usize,
    /// Those that were accepted.
    pub accepted: usize,
    /// How often a request was repeated, over all of them.
    pub repeated: u64,
    /// Prompts on record, by their state and the code of what ended them.
    pub states: BTreeMap<String, usize>,
    /// Commands that began.
    pub effects: usize,
    /// VMs on record.
    pub vms: usize,
    /// VMs whose process was seen.
    pub vms_seen: usize,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub const fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, accepted, repeated, effects, vms, vms_seen, .. } = self;
        writeln!(f, "{sent} prompts sent, {accepted} accepted, {repeated} requests repeated")?;
        for (state, many) in &self.states {
            writeln!(f, "{many:>8} {state}")?;
        }
        writeln!(f, "{effects} commands began; {vms} VMs on record, {vms_seen} seen")?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION {violation:?}")?;
        }
        match self.violations.len() {
            0 => write!(f, "every promise was kept"),
            broken => write!(f, "{broken} promises were broken"),
        }
    }
}

/// Holds the evidence against every promise.
pub fn check(evidence: &Evidence) -> Verdict {
    let mut violations = Vec::new();
    acceptance(evidence, &mut violations);
    evidence.end.prompts.iter().for_each(|row| ends(row, &mut violations));
    harm(evidence, &mut violations);
    effects(evidence, &mut violations);
    violations.extend(overlapping_agents(&evidence.effects));
    lives(evidence, &mut violations);
    remains(evidence, &mut violations);

    let accepted = |it: &Answer| matches!(it, Answer::Accepted(_));
    let mut states = BTreeMap::new();
    for row in &evidence.end.prompts {
        let state = match &row.fault {
            Some(code) => format!("{} {code}", row.state),
            None => row.state.clone(),
        };
        *states.entry(state).or_default() += 1;
    }
    Verdict {
        sent: evidence.sent.len(),
        accepted: evidence.sent.iter().filter(|it| accepted(&it.answer)).count(),
        repeated: evidence.sent.iter().map(|it| u64::from(it.tries.saturating_sub(1))).sum(),
        states,
        effects: evidence.effects.iter().filter(|it| it.moment == Moment::Begin).count(),
        vms: evidence.end.vms.len(),
        vms_seen: evidence.lives.len(),
        violations,
    }
}

/// What clients were told is what is on record.
fn acceptance(evidence: &Evidence, violations: &mut Vec<Violation>) {
    let mut recorded: HashMap<&str, Vec<&str>> = HashMap::new();
    for row in &evidence.end.prompts {
        recorded.entry(&row.token).or_default().push(&row.id);
    }
    for sent in &evidence.sent {
        let found = recorded.get(&*sent.token).map_or(&[][..], Vec::as_slice);
        let token = sent.token.clone();
        violations.extend(match (&sent.answer, found) {
            (Answer::Accepted(prompt), []) => {
                Some(Violation::Lost { token, prompt: prompt.clone() })
            }
            (Answer::Accepted(told), [one]) if told == one => None,
            (Answer::Accepted(told), several) => {
                let all: BTreeSet<_> = several.iter().copied().chain([told.as_str()]).collect();
                let prompts = all.into_iter().map(str::to_owned).collect();
                Some(Violation::AcceptedTwice { token, prompts })
            }
            (Answer::Refused(_), []) => None,
            (Answer::Refused(_), [prompt, ..]) => {
                Some(Violation::RefusedButTaken { token, prompt: (*prompt).to_owned() })
            }
            (Answer::Nothing, _) => Some(Violation::NeverAnswered { token }),
        });
    }
}

/// A prompt has one end, and everybody tells the same.
fn ends(row: &PromptRow, violations: &mut Vec<Violation>) {
    let PromptRow { id, state, shown, ends, .. } = row.clone();
    let prompt = id;
    if !ENDS.contains(&&*state) {
        violations.push(Violation::Unfinished { prompt, state });
        return;
    }
    if ends != [format!("prompt.{state}")] {
        let (prompt, state) = (prompt.clone(), state.clone());
        violations.push(Violation::EndsDiffer { prompt, state, ends });
    }
    if shown != state {
        violations.push(Violation::ShownDiffers { prompt, state, shown });
    }
}

/// Some faults may end no prompt.
fn harm(evidence: &Evidence, violations: &mut Vec<Violation>) {
    if !evidence.faults.kinds.iter().all(|it| it.is_harmless()) {
        return;
    }
    let harmed = evidence.end.prompts.iter();
    let harmed = harmed.filter(|it| ENDS.contains(&&*it.state) && it.state != "completed");
    violations.extend(harmed.map(|row| {
        let (prompt, state) = (row.id.clone(), row.state.clone());
        Violation::Harmed { prompt, state }
    }));
}

/// What commands wrote is what their prompts came to.
fn effects(evidence: &Evidence, violations: &mut Vec<Violation>) {
    let mut begun: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
    for effect in &evidence.effects {
        let counted = if effect.moment == Moment::Begin { &mut begun } else { &mut ended };
        *counted.entry(&effect.token).or_default() += 1;
    }
    let sent: HashMap<_, _> = evidence.sent.iter().map(|it| (&*it.token, &*it.workspace)).collect();
    let recorded: BTreeSet<_> = evidence.end.prompts.iter().map(|it| &*it.token).collect();
    for (token, times) in &begun {
        let token = (*token).to_owned();
        if *times > 1 {
            violations.push(Violation::RanTwice { token: token.clone(), times: *times });
        }
        if !recorded.contains(&*token) {
            violations.push(Violation::EffectOfNobody { token });
        }
    }
    for row in evidence.end.prompts.iter().filter(|it| it.state == "completed") {
        if !(begun.contains_key(&*row.token) && ended.contains_key(&*row.token)) {
            violations.push(Violation::CompletedWithoutEffect { token: row.token.clone() });
        }
    }
    for effect in evidence.effects.iter().filter(|it| it.moment == Moment::Begin) {
        if sent.get(&*effect.token).is_some_and(|wanted| *wanted != effect.workspace) {
            let (token, workspace) = (effect.token.clone(), effect.workspace.clone());
            violations.push(Violation::WrongWorkspace { token, workspace });
        }
    }
}

/// Something that was alive from its first sign to its last.
struct Span<'a> {
    name: &'a str,
    first: u64,
    last: u64,
}

/// An agent lived at least from the first line of its commands to the last.
fn overlapping_agents(effects: &[Effect]) -> Vec<Violation> {
    let mut agents: BTreeMap<(&str, &str), Span<'_>> = BTreeMap::new();
    for effect in effects {
        let fresh = || Span { name: &effect.agent, first: effect.at_ms, last: effect.at_ms };
        let span = agents.entry((&effect.workspace, &effect.agent)).or_insert_with(fresh);
        span.first = span.first.min(effect.at_ms);
        span.last = span.last.max(effect.at_ms);
    }
    let mut spans: BTreeMap<&str, Vec<Span<'_>>> = BTreeMap::new();
    for ((workspace, _), span) in agents {
        spans.entry(workspace).or_default().push(span);
    }
    overlapping(spans)
}

/// What was seen of VMs' processes.
fn lives(evidence: &Evidence, violations: &mut Vec<Violation>) {
    let workspaces: HashMap<_, _> =
        evidence.end.vms.iter().map(|it| (&*it.id, it.workspace.as_deref())).collect();
    let mut spans: BTreeMap<&str, Vec<Span<'_>>> = BTreeMap::new();
    for life in &evidence.lives {
        match workspaces.get(&*life.vm) {
            None => violations.push(Violation::UnknownVm { vm: life.vm.clone() }),
            Some(None) => {}
            Some(Some(workspace)) => {
                let span = Span { name: &life.vm, first: life.first_ms, last: life.last_ms };
                spans.entry(*workspace).or_default().push(span);
            }
        }
    }
    violations.extend(overlapping(spans));
}

/// Two of one workspace that were alive at one moment. Where one was last seen just when the other was first
/// seen, they were not.
fn overlapping(spans: BTreeMap<&str, Vec<Span<'_>>>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (workspace, mut spans) in spans {
        spans.sort_by_key(|it| (it.first, it.last));
        // The one that was seen last of those before.
        let mut longest: Option<Span<'_>> = None;
        for span in spans {
            if let Some(before) = &longest
                && span.first < before.last
            {
                found.push(Violation::TwoVms {
                    workspace: workspace.to_owned(),
                    first: before.name.to_owned(),
                    second: span.name.to_owned(),
                });
            }
            if longest.as_ref().is_none_or(|before| before.last < span.last) {
                longest = Some(span);
            }
        }
    }
    found
}

/// Nothing is left.
fn remains(evidence: &Evidence, violations: &mut Vec<Violation>) {
    for vm in evidence.end.vms.iter().filter(|it| !it.ended) {
        violations.push(Violation::VmWithoutEnd { vm: vm.id.clone(), state: vm.state.clone() });
    }
    let tasks = evidence.end.unfinished_tasks.iter().cloned();
    violations.extend(tasks.map(|task| Violation::UnfinishedTask { task }));
    let left = evidence.end.leftovers.iter().cloned();
    violations.extend(left.map(|what| Violation::Leaked { what }));
}

#[cfg(test)]
mod tests;
