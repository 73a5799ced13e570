//! What is made, with which defaults, on which worker, and what a repeated request does.

use crate::server::{LONG, Server, now};
use aetherium_model::{
    WorkerId,
    page::PageRequest,
    task::{Task, TaskKind, TaskState},
    vm::Vm,
    worker::WorkerState,
    workspace::{Prompt, Workspace, WorkspaceState},
};
use aetherium_store::TaskFilter;
use http::StatusCode;
use serde_json::json;

async fn tasks(server: &Server) -> Vec<Task> {
    let all = PageRequest { limit: 200, after: None };
    server.queue.store().tasks(&TaskFilter::default(), &all).await.unwrap().items
}

#[tokio::test]
async fn a_workspace_needs_a_name_and_an_assistant_and_gets_the_templates_sizes() {
    let server = Server::start().await;
    let answer =
        server.post("/api/v1/workspaces", r#"{"name":"demo","ai_assistant":"shell"}"#).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    let workspace: Workspace = answer.parse();
    assert_eq!(workspace.spec.template.to_string(), "default");
    assert_eq!(workspace.spec.resources, crate::worker::template("default").defaults);
    assert_eq!(workspace.state, WorkspaceState::Creating);
    let tasks = tasks(&server).await;
    assert_eq!(tasks.len(), 1);
    assert_eq!(tasks[0].kind, TaskKind::WorkspaceCreate { workspace_id: workspace.id });
    let link = answer.json()["links"]["task"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&link).await.parse::<Task>(), tasks[0]);
    for by in [workspace.id.to_string(), "demo".to_owned()] {
        let got: Workspace = server.get(&format!("/api/v1/workspaces/{by}")).await.parse();
        assert_eq!(got, workspace);
    }
}

#[tokio::test]
async fn sizes_that_are_given_are_kept_and_only_the_others_are_defaults() {
    let mut server = Server::start().await;
    let vm: Vm = server.post("/api/v1/vms", r#"{"memory_mib":100}"#).await.parse();
    assert_eq!(vm.spec.resources.memory_mib.get(), 100);
    assert_eq!(vm.spec.resources.disk_mib.get(), 4444);
    // A worker that cannot be asked leaves the general defaults.
    server.worker.kill().await;
    let vm: Vm = server.post("/api/v1/vms", r#"{"memory_mib":100}"#).await.parse();
    assert_eq!(vm.spec.resources.memory_mib.get(), 100);
    assert_eq!(
        vm.spec.resources.disk_mib,
        aetherium_model::resources::Resources::default().disk_mib
    );
}

#[tokio::test]
async fn what_a_vm_takes_beyond_its_size_is_kept_and_must_fit_it() {
    let server = Server::start().await;
    let body = r#"{"balloon_mib":64,"huge_pages":"none","limits":{"disk_bytes_per_s":1048576}}"#;
    let vm: Vm = server.post("/api/v1/vms", body).await.parse();
    assert_eq!(vm.spec.tuning.balloon_mib, Some(64));
    // The template's own, where nothing else was said.
    assert_eq!(
        serde_json::to_value(vm.spec.tuning.limits).unwrap(),
        serde_json::json!({
            "disk_bytes_per_s": 1_048_576, "net_rx_bytes_per_s": 2_097_152,
        })
    );
    // The template gives 333 MiB.
    for (body, field) in [
        (r#"{"balloon_mib":318}"#, "balloon_mib"),
        (r#"{"huge_pages":"2m"}"#, "huge_pages"),
        (r#"{"huge_pages":"1g"}"#, "huge_pages"),
        (r#"{"limits":{"disk_bytes_per_s":1}}"#, "limits.disk_bytes_per_s"),
        (r#"{"limits":{"disk":1}}"#, "limits.disk"),
        (r#"{"snapshot":"warm","balloon_mib":1}"#, "balloon_mib"),
    ] {
        let answer = server.post("/api/v1/vms", body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer:?}");
        assert_eq!(answer.problem().errors[0].field, field, "{body}");
    }
}

#[tokio::test]
async fn a_vm_goes_to_the_worker_with_fewest_and_that_worker_is_woken() {
    let server = Server::start().await;
    let mut idle = server.worker_row();
    idle.id = WorkerId::new();
    // What it has is on the record, and not what a row says of itself.
    for _ in 0..5 {
        server.vm().await;
    }
    server.put_worker(idle.clone()).await;
    let mut woken = server.queue.bus().work_of(idle.id);
    let answer = server.post("/api/v1/vms", "{}").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.parse::<Vm>().worker_id, idle.id);
    let begun = std::time::Instant::now();
    loop {
        let calls = woken.take();
        // Where nothing is told from one process to another, it looks by itself.
        let has_work = async || {
            let (store, later) = (server.queue.store(), now().after(LONG));
            !store.claim_waiting(idle.id, 1, now(), later).await.unwrap().is_empty()
        };
        if !calls.hints.is_empty() || (calls.look && has_work().await) {
            return;
        }
        assert!(begun.elapsed() < LONG, "the worker was not told of the task");
        woken.called(LONG).await;
    }
}

/// A worker with room for one VM, and no other.
async fn with_room_for_one() -> Server {
    let server = Server::start().await;
    let mut worker = server.worker_row();
    worker.allocatable.vms = 1;
    worker.capacity.vms = 1;
    server.put_worker(worker).await;
    server
}

#[tokio::test]
async fn what_nobody_has_room_for_is_refused_and_can_be_asked_for_again_later() {
    let server = with_room_for_one().await;
    let first: Vm = server.post("/api/v1/vms", "{}").await.parse();
    let answer = server.post("/api/v1/vms", r#"{"when_full":"fail"}"#).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers.contains_key("retry-after"));
    let problem = answer.problem();
    assert_eq!(problem.code.as_str(), "no_capacity");
    assert!(problem.detail.contains("0 VMs") && !problem.remedy.is_empty(), "{problem:?}");
    let bad = server.post("/api/v1/vms", r#"{"when_full":{"queue_for_s":301}}"#).await.problem();
    assert_eq!(bad.errors[0].field, "when_full.queue_for_s");
    let wait = server.post("/api/v1/vms", r#"{"when_full":{"queue_for_s":1}}"#).await;
    assert_eq!(wait.problem().code.as_str(), "no_capacity");
    assert_eq!(server.queue.store().live_vms(first.worker_id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_may_wait_for_room_is_made_once_there_is_some() {
    let server = with_room_for_one().await;
    let mut first: Vm = server.post("/api/v1/vms", "{}").await.parse();
    first.state = aetherium_model::vm::VmState::Stopped {
        termination: aetherium_model::Fault::internal("enough"),
    };
    let waiting = server.post("/api/v1/vms", r#"{"when_full":{"queue_for_s":20}}"#);
    let freed = async {
        // It is let wait at least once: with the room taken, it cannot have been made before.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        server.queue.update_vm(&first).await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, freed);
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
}

#[tokio::test]
async fn a_vm_goes_only_where_it_was_told_to_and_not_to_a_cordoned_worker() {
    let server = Server::start().await;
    let mut near = server.worker_row();
    near.id = WorkerId::new();
    near.zone = Some("near".parse().unwrap());
    near.labels = [("disk".parse().unwrap(), "nvme".parse().unwrap())].into();
    server.put_worker(near.clone()).await;
    let place = async |body: &str| server.post("/api/v1/vms", body).await;
    let there = r#"{"placement":{"zone":"near","labels":{"disk":"nvme"}}}"#;
    for _ in 0..3 {
        assert_eq!(place(there).await.parse::<Vm>().worker_id, near.id);
    }
    let nowhere =
        place(r#"{"placement":{"zone":"near","labels":{"disk":"tape"}}}"#).await.problem();
    assert!(nowhere.detail.contains("zone near, disk=tape"), "{nowhere:?}");
    let unknown = place(r#"{"placement":{"rack":"7"}}"#).await.problem();
    assert_eq!(unknown.errors[0].field, "placement.rack");

    let path = format!("/api/v1/workers/{}", near.id);
    for _ in 0..2 {
        let cordoned = server.post(&format!("{path}/cordon"), "").await;
        assert_eq!(cordoned.json()["state"], "cordoned", "{cordoned:?}");
    }
    assert_eq!(place(there).await.problem().code.as_str(), "no_capacity");
    let draining = server.post(&format!("{path}/drain"), r#"{"deadline_s":60}"#).await.json();
    assert_eq!((&draining["state"], &draining["reserved"]["vms"]), (&"draining".into(), &3.into()));
    assert!(draining["admission"]["deadline"].is_string(), "{draining}");
    let bad = server.post(&format!("{path}/drain"), r#"{"deadline":60}"#).await.problem();
    assert_eq!(bad.errors[0].field, "deadline");
    assert_eq!(server.post(&format!("{path}/activate"), "").await.json()["state"], "active");
    assert_eq!(place(there).await.parse::<Vm>().worker_id, near.id);
    let unknown = format!("/api/v1/workers/{}/cordon", WorkerId::new());
    assert_eq!(server.post(&unknown, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn without_a_worker_that_can_the_problem_says_which_requirement_none_meets() {
    let server = Server::start().await;
    let refused = async |body: &str| {
        let answer = server.post("/api/v1/vms", body).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers.contains_key("retry-after"));
        let problem = answer.problem();
        assert_eq!(problem.code.as_str(), "no_capacity");
        assert!(!problem.remedy.is_empty());
        problem.detail
    };
    let detail = refused(r#"{"template":"absent"}"#).await;
    assert!(detail.contains("absent") && detail.contains("there is default"), "{detail}");
    let mut worker = server.worker_row();
    worker.driver = None;
    worker.driver_reason = "qemu is not installed".into();
    server.put_worker(worker.clone()).await;
    assert!(refused("{}").await.contains("qemu is not installed"));
    worker.state = WorkerState::Draining;
    server.put_worker(worker).await;
    assert!(refused("{}").await.contains("testhost is draining"));
}

#[tokio::test]
async fn a_vm_is_made_of_the_tag_or_the_digest_that_was_asked_for() {
    let server = Server::start().await;
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let mut worker = server.worker_row();
    let held = ["default:latest", "base:v1"].map(|name| format!("{name}@{}", digest("0")));
    worker.templates = held.iter().map(|it| it.parse().unwrap()).collect();
    server.put_worker(worker).await;
    for asked in ["default".to_owned(), "base:v1".to_owned(), format!("x@{}", digest("0"))] {
        let body = json!({ "template": asked }).to_string();
        let vm = server.post("/api/v1/vms", &body).await.json();
        assert_eq!((&vm["template"], &vm["template_digest"]), (&json!(asked), &json!(digest("0"))));
        let path = format!("/api/v1/templates/{asked}");
        assert_eq!(server.get(&path).await.status, StatusCode::OK, "{asked}");
    }
    for (asked, there_is) in [
        ("base:v2".to_owned(), "there is base:v1"),
        ("base".to_owned(), "there is base:v1"),
        ("absent".to_owned(), "there is base:v1, default"),
        (format!("base@{}", digest("1")), "there is base:v1"),
    ] {
        let body = json!({ "template": asked }).to_string();
        let detail = server.post("/api/v1/vms", &body).await.problem().detail;
        assert!(detail.contains(&asked) && detail.ends_with(there_is), "{asked}: {detail}");
        let path = format!("/api/v1/templates/{asked}");
        assert_eq!(server.get(&path).await.status, StatusCode::NOT_FOUND, "{asked}");
    }
    let body =
        format!(r#"{{"name":"a@{}","recipe":{{"base":{{"template":"default"}}}}}}"#, digest("0"));
    let answer = server.post("/api/v1/templates", &body).await;
    assert_eq!(answer.json()["errors"][0]["field"], "name", "{answer:?}");
}

#[tokio::test]
async fn a_request_repeated_under_its_key_makes_nothing_twice() {
    let server = Server::start().await;
    let workspace = server.workspace("w").await;
    let vm = server.vm().await;
    let before = tasks(&server).await.len();
    let creates = [
        (
            "/api/v1/workspaces".to_owned(),
            r#"{"name":"x","ai_assistant":"shell"}"#,
            r#"{ "ai_assistant":"shell", "name" : "x" }"#,
        ),
        ("/api/v1/vms".to_owned(), r#"{"vcpus":1,"disk_mib":64}"#, r#"{"disk_mib":64, "vcpus":1}"#),
        (
            format!("/api/v1/workspaces/{}/prompts", workspace.id),
            r#"{"prompt":"a","timeout_ms":5}"#,
            r#"{"timeout_ms":5,"prompt":"\u0061"}"#,
        ),
        (
            format!("/api/v1/vms/{}/execute", vm.id),
            r#"{"argv":["a"],"async":true}"#,
            r#"{"async":true,"env":{},"argv":["a"]}"#,
        ),
    ];
    for (number, (path, body, respelled)) in creates.iter().enumerate() {
        let key = format!("key-{number}");
        let first = server.post_with_key(path, body, &key).await;
        assert!(first.status.is_success(), "{first:?}");
        let again = server.post_with_key(path, respelled, &key).await;
        assert_eq!(again.status, first.status, "{again:?}");
        assert_eq!(again.json()["id"], first.json()["id"], "{path}");
        assert_eq!(tasks(&server).await.len(), before + number + 1, "{path}");
    }
    for (number, (path, ..)) in creates.iter().enumerate() {
        // The next create's key, with this create's path.
        let key = format!("key-{}", (number + 1) % creates.len());
        let answer = server.post_with_key(path, creates[number].1, &key).await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "{path}");
        assert_eq!(answer.problem().code.as_str(), "idempotency_mismatch");
    }
    assert_eq!(tasks(&server).await.len(), before + creates.len());
    // The same words to another workspace are another request.
    server.workspace("other").await;
    let (_, words, _) = &creates[2];
    let elsewhere = server.post_with_key("/api/v1/workspaces/other/prompts", words, "key-2").await;
    assert_eq!(elsewhere.problem().code.as_str(), "idempotency_mismatch");
}

#[tokio::test]
async fn a_command_that_is_waited_for_does_not_pretend_to_honour_a_key() {
    let server = Server::start().await;
    let vm = server.vm().await;
    let path = format!("/api/v1/vms/{}/execute", vm.id);
    let answer = server.post_with_key(&path, r#"{"argv":["true"]}"#, "k").await;
    assert_eq!(answer.problem().errors[0].field, "Idempotency-Key");
    assert!(server.worker.seen.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn deleting_answers_with_the_task_and_again_with_the_same() {
    let server = Server::start().await;
    let vm = server.vm().await;
    server.workspace("w").await;
    for path in [format!("/api/v1/vms/{}", vm.id), "/api/v1/workspaces/w".to_owned()] {
        let answer = server.delete(&path).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        let task: Task = answer.parse();
        assert_eq!(server.delete(&path).await.parse::<Task>().id, task.id);
    }
}

#[tokio::test]
async fn a_prompt_is_recorded_with_its_task_before_it_is_answered_and_can_be_cancelled_twice() {
    let server = Server::start().await;
    server.workspace("w").await;
    let answer = server.post("/api/v1/workspaces/w/prompts", r#"{"prompt":"echo hi"}"#).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let prompt: Prompt = answer.parse();
    let task = server.queue.store().task(prompt.task_id).await.unwrap();
    assert_eq!((task.state, task.worker_id), (TaskState::Queued, server.worker_id));
    let json = answer.json();
    let links = &json["links"];
    for name in ["self", "task", "events"] {
        assert!(links[name].is_string(), "{links}");
    }
    let own = links["self"].as_str().unwrap();
    assert_eq!(server.get(own).await.json()["state"], "queued");
    for _ in 0..2 {
        let answer = server.post(links["cancel"].as_str().unwrap(), "").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.json()["state"], "cancelled");
    }
    let short = server.get(&format!("/api/v1/prompts/{}", prompt.id)).await;
    assert_eq!(short.json(), server.get(own).await.json());
}

#[tokio::test]
async fn a_prompt_is_found_below_its_own_workspace_only() {
    let server = Server::start().await;
    let mine = server.workspace("mine").await;
    server.workspace("other").await;
    let prompt = server.prompt(&mine).await;
    for rest in ["", "/events", "/output"] {
        let answer =
            server.get(&format!("/api/v1/workspaces/other/prompts/{}{rest}", prompt.id)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{rest}");
        answer.problem();
    }
}

#[tokio::test]
async fn a_recipe_becomes_a_task_of_a_worker_that_holds_its_base() {
    let server = Server::start().await;
    let body =
        r#"{"name":"app","recipe":{"base":{"template":"default"},"run":[{"command":"true"}]}}"#;
    let answer = server.post("/api/v1/templates", body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    let task: Task = answer.parse();
    assert!(
        matches!(&task.kind, TaskKind::TemplateBuild { template, recipe, replace: false }
            if template.to_string() == "app" && recipe.run.len() == 1),
        "{task:?}"
    );
    assert_eq!(tasks(&server).await, [task]);
    assert_eq!(answer.json()["links"]["self"], "/api/v1/templates/app");
    let body = r#"{"name":"app","recipe":{"base":{"template":"nowhere"}}}"#;
    let answer = server.post("/api/v1/templates", body).await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("nowhere"), "{answer:?}");
}

#[tokio::test]
async fn a_recipe_that_would_read_the_hosts_disk_is_refused_by_its_field() {
    let server = Server::start().await;
    let recipe = r#"{"base":{"image":"dir:/etc"},"files":[{"source":"/etc/shadow","dest":"/x"}]}"#;
    let body = format!(r#"{{"name":"app","recipe":{recipe}}}"#);
    let answer = server.post("/api/v1/templates", &body).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
    let fields: Vec<String> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(fields, ["recipe.base.image", "recipe.files[0].source"]);
    assert!(tasks(&server).await.is_empty());
}
