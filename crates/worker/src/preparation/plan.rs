//! What a workspace's setup asks for, as steps in order, and which of them are still to be done. Pure.
//!
//! A step's digest is of what it does and of the digest of the step before it; the first follows one of
//! what all steps see: their user, place, variables, tools, and the names of their secrets. So a change
//! reaches every step that could see it, which are all from there on. A secret's value is in no digest: a
//! preparation that shall see a new one is forced.

use aetherium_model::{
    Digest, TaskId,
    recipe::{EnvName, Seconds},
    secret::SecretUses,
    setup::{
        Preparation, Repository, Script, Setup, SetupFile, Step, StepAction, StepReport, StepState,
    },
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

/// What a step may take where it does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// The longest name of a step that has none of its own, in characters.
const MAX_NAME: usize = 80;

/// The name of a step that another part of a preparation does before these.
pub(crate) const TOOLS: &str = "tools";

/// One step, as it is to be done.
#[derive(Debug, Clone)]
pub(super) struct Planned<'a> {
    /// What it is called.
    pub(super) name: String,
    /// What it does.
    pub(super) work: Work<'a>,
    /// The variables it gets: the setup's, and those of steps before it.
    pub(super) env: BTreeMap<EnvName, String>,
    /// What it may take.
    pub(super) timeout: Duration,
    /// Whether the next one is done though this one failed.
    pub(super) continue_on_error: bool,
    /// What it was made of.
    pub(super) inputs: Digest,
}

/// What a step does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work<'a> {
    Clone(&'a Repository),
    Script(&'a Script),
    Files(&'a [SetupFile]),
    Env(&'a BTreeMap<EnvName, String>),
}

impl<'a> From<&'a StepAction> for Work<'a> {
    fn from(action: &'a StepAction) -> Self {
        match action {
            StepAction::GitClone(repository) => Self::Clone(repository),
            StepAction::Script(script) => Self::Script(script),
            StepAction::Files(files) => Self::Files(files),
            StepAction::Env(env) => Self::Env(env),
        }
    }
}

impl Work<'_> {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Clone(_) => "git_clone",
            Self::Script(_) => "script",
            Self::Files(_) => "files",
            Self::Env(_) => "env",
        }
    }

    /// What a step that does it is called where nobody says.
    fn name(self) -> String {
        let whole = match self {
            Self::Clone(repository) => format!("clone {}", without_password(&repository.url)),
            Self::Script(script) => {
                let mut lines = script.run.lines().map(str::trim);
                let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
                format!("run {}", first.unwrap_or("nothing"))
            }
            Self::Files(files) => {
                let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
                format!("write {}", paths.join(", "))
            }
            Self::Env(env) => {
                let names: Vec<_> = env.keys().map(EnvName::as_str).collect();
                format!("set {}", names.join(", "))
            }
        };
        match whole.char_indices().nth(MAX_NAME) {
            Some((end, _)) => format!("{}…", &whole[..end]),
            None => whole,
        }
    }

    fn digest_after(self, before: &Digest) -> Digest {
        let what = match self {
            Self::Clone(repository) => json!(repository),
            Self::Script(script) => json!(script),
            Self::Files(files) => json!(files),
            Self::Env(env) => json!(env),
        };
        digest(&json!([before.hex(), self.as_str(), what]))
    }
}

/// The URL without a password that has no business there.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// Every step of a setup: the clone of its repository first. `secrets` are the names of those that each of
/// its scripts gets.
pub(super) fn plan<'a>(setup: &'a Setup, secrets: &SecretUses) -> Vec<Planned<'a>> {
    let mut env = setup.env.clone();
    let mut before =
        digest(&json!([setup.user, setup.working_directory, setup.env, setup.tools, secrets,]));
    let clone = setup.repository.as_ref().map(|it| (Work::Clone(it), None));
    let steps = setup.preparation.iter().map(|step| (Work::from(&step.action), Some(step)));
    let mut planned = Vec::new();
    for (work, step) in clone.into_iter().chain(steps) {
        let step: Option<&Step> = step;
        before = work.digest_after(&before);
        let timeout = step.and_then(|step| step.timeout_s).map(Seconds::as_millis);
        planned.push(Planned {
            name: step.and_then(|step| step.name.clone()).unwrap_or_else(|| work.name()),
            work,
            env: env.clone(),
            timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
            continue_on_error: step.is_some_and(|step| step.continue_on_error),
            inputs: before.clone(),
        });
        if let Work::Env(more) = work {
            env.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    planned
}

/// The variables of a workspace's prompts, but for what each brings itself.
pub(crate) fn environment(setup: &Setup) -> BTreeMap<EnvName, String> {
    let mut env = setup.env.clone();
    for step in setup.preparation.iter() {
        if let StepAction::Env(more) = &step.action {
            env.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    env
}

/// Where each step stands as `task` begins: what was done before with the same inputs stays done, up to
/// the first that was not; that one waits, and all after it, since they may see what it does.
pub(super) fn outset(plan: &[Planned<'_>], last: &Preparation, task: TaskId) -> Vec<StepReport> {
    let goes_on = last.task_id == Some(task);
    let mut is_behind = true;
    let report = |step: &Planned<'_>| {
        let before = last.steps.iter().find(|before| before.inputs == step.inputs);
        let before = before.filter(|before| match before.state {
            StepState::Done | StepState::Unchanged => true,
            // An earlier process of the worker had gone past it.
            StepState::Failed { .. } => goes_on && step.continue_on_error,
            StepState::Waiting | StepState::Running => false,
        });
        is_behind &= before.is_some();
        match before.filter(|_| is_behind) {
            Some(before) => StepReport {
                name: step.name.clone(),
                state: match &before.state {
                    StepState::Done if !goes_on => StepState::Unchanged,
                    state => state.clone(),
                },
                ..before.clone()
            },
            None => StepReport {
                name: step.name.clone(),
                action: step.work.as_str().to_owned(),
                inputs: step.inputs.clone(),
                state: StepState::Waiting,
                started_at: None,
                finished_at: None,
            },
        }
    };
    plan.iter().map(report).collect()
}

fn digest(of: &serde_json::Value) -> Digest {
    Digest::of(of.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::{Code, Fault, Timestamp};
    use proptest::prelude::*;

    fn setup(json: serde_json::Value) -> Setup {
        serde_json::from_value(json).unwrap()
    }

    fn planned(setup: &Setup) -> Vec<Planned<'_>> {
        plan(setup, &SecretUses::default())
    }

    /// Steps of every kind, some of which may fail.
    fn some_steps() -> impl Strategy<Value = Vec<serde_json::Value>> {
        let action = prop_oneof![
            "[a-z ]{1,8}".prop_map(|run| json!({ "script": { "run": run } })),
            "[A-C]".prop_map(|name| json!({ "env": { name: "1" } })),
            "/[a-c]"
                .prop_map(|path| json!({ "files": [{ "path": path, "content": { "text": "" } }] })),
            "[a-c]".prop_map(|it| json!({ "git_clone": { "url": format!("https://{it}/x") } })),
        ];
        let step = (action, any::<bool>())
            .prop_map(|(action, goes_on)| json!({ "do": action, "continue_on_error": goes_on }));
        proptest::collection::vec(step, 1..8)
    }

    fn failed() -> StepState {
        StepState::Failed { fault: Fault::new(Code::StepFailed, "it failed") }
    }

    /// What is on record after a preparation in which each step came to this state.
    fn record(setup: &Setup, task: TaskId, states: impl Fn(usize) -> StepState) -> Preparation {
        let mut steps = outset(&planned(setup), &Preparation::default(), task);
        for (number, step) in steps.iter_mut().enumerate() {
            step.state = states(number);
            step.finished_at = Some(Timestamp::from_millis(7));
        }
        Preparation { task_id: Some(task), steps, template: None }
    }

    fn waiting(steps: &[StepReport]) -> Vec<bool> {
        steps.iter().map(|step| step.state == StepState::Waiting).collect()
    }

    proptest! {
        #[test]
        fn what_was_done_is_not_done_again_and_a_change_reaches_all_from_there_on(
            steps in some_steps(), at in any::<proptest::sample::Index>(),
        ) {
            let before = setup(json!({ "preparation": steps }));
            let last = record(&before, TaskId::new(), |_| StepState::Done);
            let same = outset(&planned(&before), &last, TaskId::new());
            prop_assert!(same.iter().all(|step| step.state == StepState::Unchanged));
            prop_assert!(same.iter().all(|step| step.finished_at.is_some()), "when it was done is kept");

            let at = at.index(steps.len());
            let mut changed = steps.clone();
            changed[at]["do"] = json!({ "script": { "run": "SOMETHING ELSE" } });
            let after = setup(json!({ "preparation": changed }));
            let wanted: Vec<_> = (0..steps.len()).map(|number| number >= at).collect();
            prop_assert_eq!(waiting(&outset(&planned(&after), &last, TaskId::new())), wanted);

            let other = setup(json!({ "preparation": steps, "env": { "NEW": "1" } }));
            let all = outset(&planned(&other), &last, TaskId::new());
            prop_assert!(waiting(&all).iter().all(|it| *it), "all see the variables");
        }

        #[test]
        fn a_retry_begins_with_the_first_that_failed_and_a_restart_after_the_last_that_ended(
            steps in some_steps(), at in any::<proptest::sample::Index>(),
        ) {
            let setup = setup(json!({ "preparation": steps }));
            let at = at.index(steps.len());
            let task = TaskId::new();
            let last = record(&setup, task, |number| match number {
                _ if number == at => failed(),
                _ if number < at => StepState::Done,
                _ => StepState::Waiting,
            });
            let from = |first: usize| (0..steps.len()).map(|it| it >= first).collect::<Vec<_>>();
            let retried = outset(&planned(&setup), &last, TaskId::new());
            prop_assert_eq!(waiting(&retried), from(at));
            let goes_on = steps[at]["continue_on_error"] == true;
            let restarted = outset(&planned(&setup), &last, task);
            prop_assert_eq!(waiting(&restarted), from(if goes_on { at + 1 } else { at }));
            let running = record(&setup, task, |number| match number {
                _ if number == at => StepState::Running,
                _ if number < at => StepState::Done,
                _ => StepState::Waiting,
            });
            prop_assert_eq!(waiting(&outset(&planned(&setup), &running, task)), from(at));
        }

        #[test]
        fn what_a_step_is_called_and_how_long_it_may_take_do_not_have_it_done_again(steps in some_steps()) {
            let before = setup(json!({ "preparation": steps }));
            let last = record(&before, TaskId::new(), |_| StepState::Done);
            let named = steps.iter().map(|step| json!({ "name": "n", "do": step["do"], "timeout_s": 5 }));
            let after = setup(json!({ "preparation": named.collect::<Vec<_>>() }));
            let same = outset(&planned(&after), &last, TaskId::new());
            prop_assert!(waiting(&same).iter().all(|waits| !waits));
            prop_assert!(same.iter().all(|step| step.name == "n"));
        }
    }

    #[test]
    fn the_repository_comes_first_and_variables_are_for_what_follows() {
        let setup = setup(json!({
            "repository": { "url": "https://me:word@example.org/a.git" },
            "env": { "A": "1" },
            "preparation": [
                { "do": { "script": { "run": "# why\n\nmake all\n" } } },
                { "do": { "env": { "A": "2" } }, "timeout_s": 5 },
                { "do": { "script": { "run": "x".repeat(200) } } },
            ],
        }));
        let plan = planned(&setup);
        let names: Vec<_> = plan.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names[..3], ["clone https://me@example.org/a.git", "run make all", "set A"]);
        assert_eq!(names[3].chars().count(), MAX_NAME + 1);
        let seen: Vec<_> =
            plan.iter().map(|step| step.env.values().next().unwrap().as_str()).collect();
        assert_eq!(seen, ["1", "1", "1", "2"]);
        assert_eq!(environment(&setup), plan[3].env);
        assert_eq!(plan[1].timeout, DEFAULT_TIMEOUT);
        assert_eq!(plan[2].timeout, Duration::from_secs(5));
    }
}
