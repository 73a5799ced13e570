//! Logs written by hand, with every kind of violation.

use super::*;
use crate::{
    evidence::{End, Faults, Life, Sent, VmRow},
    plan::Kind,
};

/// Two prompts of one workspace, in two VMs one after the other; nothing is wrong with any of it.
fn sound() -> Evidence {
    let effect = |line: &str| line.parse::<Effect>().unwrap();
    let sent = |token: &str| Sent {
        token: token.into(),
        workspace: "ws".into(),
        answer: Answer::Accepted(format!("prompt-{token}")),
        tries: 2,
    };
    let row = |token: &str, state: &str| PromptRow {
        id: format!("prompt-{token}"),
        token: token.into(),
        state: state.into(),
        fault: (state != "completed").then(|| "worker_lost".into()),
        shown: state.into(),
        ends: vec![format!("prompt.{state}")],
    };
    let vm = |id: &str| VmRow {
        id: id.into(),
        workspace: Some("ws".into()),
        state: "stopped".into(),
        ended: true,
    };
    let life = |vm: &str, first_ms, last_ms| Life { vm: vm.into(), first_ms, last_ms };
    Evidence {
        faults: Faults { kinds: Kind::ALL.to_vec(), ..Faults::default() },
        sent: vec![sent("a"), sent("b")],
        effects: vec![
            effect("begin a ws 10:1 1.00"),
            effect("end a ws 10:1 2.00"),
            // Cut short.
            effect("begin b ws 11:5 2.00"),
        ],
        lives: vec![life("vm-1", 900, 2_000), life("vm-2", 2_000, 3_000)],
        end: End {
            prompts: vec![row("a", "completed"), row("b", "interrupted")],
            vms: vec![vm("vm-1"), vm("vm-2")],
            unfinished_tasks: vec![],
            leftovers: vec![],
        },
    }
}

/// What the checker finds after this change to sound evidence.
fn found(change: impl FnOnce(&mut Evidence)) -> Vec<Violation> {
    let mut evidence = sound();
    change(&mut evidence);
    check(&evidence).violations
}

fn effect(line: &str) -> Effect {
    line.parse().unwrap()
}

#[test]
fn sound_evidence_is_good_and_counted() {
    let verdict = check(&sound());
    assert!(verdict.is_good(), "{verdict}");
    let counts = (verdict.sent, verdict.accepted, verdict.repeated, verdict.effects, verdict.vms);
    assert_eq!(counts, (2, 2, 2, 2, 2));
    assert_eq!((verdict.states["completed"], verdict.states["interrupted worker_lost"]), (1, 1));
}

#[test]
fn an_accepted_prompt_that_is_not_on_record_is_lost_and_its_effect_is_nobodys() {
    let found = found(|it| drop(it.end.prompts.remove(1)));
    let (token, prompt) = ("b".to_owned(), "prompt-b".to_owned());
    let nobody = Violation::EffectOfNobody { token: token.clone() };
    assert_eq!(found, [Violation::Lost { token, prompt }, nobody]);
}

#[test]
fn a_repeated_request_that_made_two_prompts_or_another_than_was_told_is_found() {
    let twice = |prompts: [&str; 2]| {
        let prompts = prompts.map(str::to_owned).to_vec();
        [Violation::AcceptedTwice { token: "a".into(), prompts }]
    };
    let second = found(|it| {
        let mut again = it.end.prompts[0].clone();
        again.id = "prompt-a2".into();
        it.end.prompts.push(again);
    });
    assert_eq!(second, twice(["prompt-a", "prompt-a2"]));
    let other = found(|it| it.sent[0].answer = Answer::Accepted("prompt-x".into()));
    assert_eq!(other, twice(["prompt-a", "prompt-x"]));
}

#[test]
fn a_prompt_that_was_refused_must_not_be_there_and_every_request_must_be_answered() {
    let taken = found(|it| it.sent[0].answer = Answer::Refused("no".into()));
    let wanted = Violation::RefusedButTaken { token: "a".into(), prompt: "prompt-a".into() };
    assert_eq!(taken, [wanted]);
    let nothing = found(|it| it.sent[0].answer = Answer::Nothing);
    assert_eq!(nothing, [Violation::NeverAnswered { token: "a".into() }]);
}

#[test]
fn a_prompt_without_an_end_or_with_two_or_with_another_than_is_told_is_found() {
    let prompt = "prompt-b".to_owned();
    let open = found(|it| it.end.prompts[1].state = "running".into());
    assert_eq!(open, [Violation::Unfinished { prompt: prompt.clone(), state: "running".into() }]);

    let state = "interrupted".to_owned();
    for ends in [vec![], vec!["prompt.interrupted".to_owned(), "prompt.completed".to_owned()]] {
        let told = ends.clone();
        let found = found(|it| it.end.prompts[1].ends = told);
        let (prompt, state) = (prompt.clone(), state.clone());
        assert_eq!(found, [Violation::EndsDiffer { prompt, state, ends }]);
    }
    let shown = "running".to_owned();
    let found = found(|it| it.end.prompts[1].shown = shown.clone());
    assert_eq!(found, [Violation::ShownDiffers { prompt, state, shown }]);
}

#[test]
fn a_prompt_that_is_not_completed_is_found_where_nothing_may_have_harmed_it() {
    let found = found(|it| it.faults.kinds = vec![Kind::Skew, Kind::Redis, Kind::Connections]);
    let (prompt, state) = ("prompt-b".to_owned(), "interrupted".to_owned());
    assert_eq!(found, [Violation::Harmed { prompt, state }]);
}

#[test]
fn a_command_that_began_twice_is_found_however_its_prompt_ended() {
    for (token, line) in [("a", "begin a ws 10:1 1.50"), ("b", "begin b ws 11:5 2.50")] {
        let found = found(|it| it.effects.push(effect(line)));
        assert_eq!(found, [Violation::RanTwice { token: token.into(), times: 2 }]);
    }
}

#[test]
fn a_completed_prompt_whose_command_did_not_begin_or_end_is_found() {
    for missing in [Moment::Begin, Moment::End] {
        let found =
            found(|it| it.effects.retain(|effect| effect.token != "a" || effect.moment != missing));
        assert_eq!(found, [Violation::CompletedWithoutEffect { token: "a".into() }]);
    }
    let interrupted = found(|it| it.effects.retain(|effect| effect.token == "a"));
    assert_eq!(interrupted, [], "an interrupted prompt need not have begun");
}

#[test]
fn a_command_in_another_workspace_is_found() {
    let found = found(|it| it.effects[2].workspace = "other".into());
    let wanted = Violation::WrongWorkspace { token: "b".into(), workspace: "other".into() };
    assert_eq!(found, [wanted]);
}

#[test]
fn two_vms_of_a_workspace_at_once_are_found_by_what_their_commands_wrote() {
    let found = found(|it| it.effects.push(effect("begin c ws 10:1 2.01")));
    let (first, second) = ("10:1".to_owned(), "11:5".to_owned());
    let two = Violation::TwoVms { workspace: "ws".into(), first, second };
    // The older one is still busy after the younger one has begun.
    assert!(found.contains(&two), "{found:?}");
}

#[test]
fn two_vms_of_a_workspace_at_once_are_found_by_their_processes() {
    let (first, second) = ("vm-1".to_owned(), "vm-2".to_owned());
    let two = Violation::TwoVms { workspace: "ws".into(), first, second };
    let at_the_edge = found(|it| it.lives[0].last_ms = 2_001);
    // Also where one is within the other's time.
    let within = found(|it| {
        it.lives[0].last_ms = 5_000;
        it.lives[1] = Life { vm: "vm-2".into(), first_ms: 4_000, last_ms: 4_500 };
    });
    assert_eq!((at_the_edge, within), (vec![two.clone()], vec![two]));
    let apart = found(|it| {
        it.lives[0].last_ms = 5_000;
        it.end.vms[1].workspace = Some("other".into());
    });
    assert_eq!(apart, [], "VMs of two workspaces may live together");
}

#[test]
fn a_vm_that_nobody_knows_or_that_has_no_end_is_found() {
    let unknown = found(|it| drop(it.end.vms.remove(1)));
    assert_eq!(unknown, [Violation::UnknownVm { vm: "vm-2".into() }]);
    let open = found(|it| it.end.vms[0].ended = false);
    assert_eq!(open, [Violation::VmWithoutEnd { vm: "vm-1".into(), state: "stopped".into() }]);
}

#[test]
fn what_is_left_is_found() {
    let task = "task-1 vm:create queued".to_owned();
    let found_task = found(|it| it.end.unfinished_tasks.push(task.clone()));
    assert_eq!(found_task, [Violation::UnfinishedTask { task }]);
    let what = "process 4711 of vm-1".to_owned();
    let found = found(|it| it.end.leftovers.push(what.clone()));
    assert_eq!(found, [Violation::Leaked { what }]);
}
