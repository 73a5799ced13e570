//! Recipes become templates: steps run in VMs, what they leave is kept, and what fails leaves nothing.

use crate::world::{BOOT, Place, Server, id, state};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

/// The worked example of the documentation, as it stands there.
fn documented() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/templates.md");
    let text = fs::read_to_string(path).unwrap();
    let begin = text.find("# template.toml\n").expect("the example is there");
    text[begin..].split("```").next().unwrap().to_owned()
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `template build app -f`, with the recipe in a directory of its own.
fn build(place: &Place, recipe: &str) -> Command {
    let dir = place.path().join("recipe");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("template.toml"), recipe).unwrap();
    let mut command = place.aetherium();
    command.args(["--json", "template", "build", "app", "--driver", "qemu", "--replace", "-f"]);
    command.arg(dir.join("template.toml"));
    command
}

fn events(output: &Output) -> Vec<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

/// Processes and files of a build's VMs.
fn left_of_builds(place: &Place) -> (usize, usize) {
    let builds = place.path().join("builds");
    let processes = aetherium_vmm::strays(&builds).unwrap().len();
    (processes, fs::read_dir(&builds).map_or(0, Iterator::count))
}

#[tokio::test]
async fn the_documented_recipe_becomes_a_template_whose_vms_start_its_command_by_themselves() {
    let place = Place::new();
    let app = place.path().join("recipe/app");
    fs::create_dir_all(&app).unwrap();
    script(&app.join("setup"), "echo \"$1 $(id -un) $APP_CONFIG\" | tee /var/lib/app/setup");
    script(&app.join("serve"), "while :; do date >/var/lib/app/up; sleep 1; done");
    let first = events(&build(&place, &documented()).output().unwrap());
    assert_eq!((count(&first, "step_started"), count(&first, "step_cached")), (4, 0), "{first:#?}");
    let printed = json!({
        "event": "output", "step": 4, "stream": "stdout", "text": "--quick app /etc/app.conf\n",
    });
    assert!(first.contains(&printed), "{first:#?}");
    let template = &first.last().unwrap()["template"];
    assert_eq!(template["ready"]["deadline_ms"], 30_000);
    assert_eq!(left_of_builds(&place), (0, 0));

    let again = events(&build(&place, &documented()).output().unwrap());
    assert_eq!((count(&again, "step_started"), count(&again, "step_cached")), (0, 4), "{again:#?}");
    assert_eq!(
        again.last().unwrap()["template"]["digest"],
        template["digest"],
        "the same template"
    );

    let server = Server::start(&place, DriverKind::Qemu).await;
    let vm = server.vm(json!({ "template": "app" })).await;
    assert_eq!(vm["memory_mib"], 256, "{vm:#}");
    let line = "id -un; pwd; cat /var/lib/app/setup /etc/app.conf; \
                stat -c '%U:%G %a' /etc/app.conf /opt/app/serve; \
                test -s /var/lib/app/up && pgrep -u app -f /opt/app/serve >/dev/null && echo serving";
    let body = json!({ "argv": ["sh", "-c", line], "env": { "LC_ALL": "C" } });
    let ran = server.post(&format!("/vms/{}/execute", id(&vm)), body).await;
    let expected = "app\n/opt/app\n--quick app /etc/app.conf\ngreeting = hello\n\
                    root:www-data 640\nroot:root 755\nserving\n";
    assert_eq!(ran["stdout"], expected, "{ran:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// Begins a build whose step takes for ever, and waits until that step runs.
fn endless(place: &Place) -> Child {
    let recipe =
        "base = { template = \"default\" }\n[[run]]\ncommand = \"echo here; sleep 1000\"\n";
    let log = place.path().join("build.log");
    let errors = fs::File::create(&log).unwrap();
    let mut child = build(place, recipe).stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    let runs = lines.any(|line| line.contains("here\\n"));
    assert!(runs, "the step does not run: {}", fs::read_to_string(log).unwrap());
    child
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_build_that_is_killed_interrupted_or_fails_leaves_nothing_and_no_template() {
    let place = Place::new();
    let mut killed = endless(&place);
    signal(&killed, rustix::process::Signal::KILL);
    killed.wait().unwrap();
    assert_eq!(left_of_builds(&place), (1, 1), "its VM outlives it");

    let mut interrupted = endless(&place);
    assert_eq!(left_of_builds(&place), (1, 1), "the next build has ended the VM of the killed one");
    signal(&interrupted, rustix::process::Signal::INT);
    assert_eq!(interrupted.wait().unwrap().code(), Some(130));
    assert_eq!(left_of_builds(&place), (0, 0));

    let failing = "base = { template = \"default\" }\n\
                   [[run]]\ncommand = \"echo why >&2; exit 7\"\n[[run]]\ncommand = \"true\"\n";
    let failed = build(&place, failing).output().unwrap();
    let errors = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{errors}");
    assert!(
        errors.contains("step 1 (run echo why >&2; exit 7) ended with exit code 7"),
        "{errors}"
    );
    assert!(errors.contains("| why") && errors.contains("[step_failed]"), "{errors}");
    assert_eq!(left_of_builds(&place), (0, 0));
    let kept = fs::read_dir(place.path().join("cache/steps")).map_or(0, Iterator::count);
    assert_eq!(kept, 0, "what failed is not kept");
    let templates = fs::read_dir(place.path().join("templates")).unwrap();
    let templates = templates.map(|it| it.unwrap().file_name().into_string().unwrap());
    let made: Vec<_> =
        templates.filter(|it| it.contains("app") && !it.ends_with(".lock")).collect();
    assert_eq!(made, Vec::<String>::new());
}

#[test]
fn a_recipe_that_is_wrong_is_refused_with_its_line_before_anything_is_done() {
    let place = Place::new();
    let recipe = "base = { template = \"default\" }\n\n[[run]]\ncmd = \"true\"\n";
    let output = build(&place, recipe).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("template.toml:4: run[0].cmd: unknown field `cmd`"), "{errors}");
}

#[tokio::test]
async fn a_vm_whose_ready_command_does_not_succeed_has_failed_and_says_why() {
    let place = Place::new();
    place.template("never", |manifest| {
        let command = json!({ "argv": ["sh", "-c", "echo not yet; exit 3"] });
        manifest["ready"] = json!({ "command": command, "deadline_ms": 1500 });
    });
    let server = Server::start(&place, DriverKind::Qemu).await;
    let made = server.post("/vms", json!({ "template": "never" })).await;
    let path = format!("/vms/{}", id(&made));
    let failed = server.until(&path, BOOT, |vm| {
        assert_ne!(state(vm), "running", "{vm:#}");
        state(vm) == "failed"
    });
    let failed = failed.await;
    let why = &failed["termination"];
    assert_eq!(why["code"], "not_ready", "{failed:#}");
    assert!(why["detail"].as_str().unwrap().contains("within 1500 ms: exit code 3"), "{failed:#}");
    assert_eq!(why["evidence"], json!(["not yet"]), "{failed:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// `template build … --remote`, with the recipe in a directory of its own.
async fn build_remote(place: &Place, recipe: &str, name: &str) -> Output {
    let file = place.path().join("recipe/template.toml");
    fs::write(&file, recipe).unwrap();
    let mut command = place.aetherium();
    command.args(["--json", "template", "build", name, "--remote", "-f"]).arg(file);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The events of an ended task after the one numbered `after`.
async fn told(server: &Server<'_>, task: &Value, after: usize) -> Vec<Value> {
    let path = format!("/tasks/{}/events?after={after}", id(task));
    let (status, stream) = server.call(Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{stream}");
    let stream = stream.as_str().unwrap().to_owned();
    let data = stream.lines().filter_map(|line| line.strip_prefix("data:"));
    data.map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[tokio::test]
async fn a_recipe_sent_to_the_api_becomes_a_template_and_a_failing_one_says_why() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let recipe = json!({
        "base": { "template": "default" },
        "files": [{ "source": { "base64": "aGk=" }, "dest": "/etc/greeting" }],
        "run": [{ "command": "test \"$(cat /etc/greeting)\" = hi" }],
    });
    let ended = async |body: Value| {
        let task = server.post("/templates", body).await;
        let path = format!("/tasks/{}", id(&task));
        server.until(&path, BOOT, |it| ["succeeded", "failed"].contains(&state(it))).await
    };
    let task = ended(json!({ "name": "greeter", "recipe": recipe })).await;
    assert_eq!(state(&task), "succeeded", "{task:#}\n{}", server.log());
    assert_eq!(server.get("/templates/greeter").await["rootfs"]["origin"], "debian bookworm");

    let mut failing = recipe.clone();
    failing["run"].as_array_mut().unwrap().push(json!({ "command": "echo because; exit 4" }));
    let task = ended(json!({ "name": "never", "recipe": failing })).await;
    assert_eq!(
        (state(&task), &task["fault"]["code"]),
        ("failed", &json!("step_failed")),
        "{task:#}"
    );
    assert_eq!(task["fault"]["evidence"], json!(["because"]), "{task:#}");
    // All of it can be read from the API, from any event on.
    let log = told(&server, &task, 0).await;
    let of = |kind: &str| log.iter().filter(|it| it["event"] == kind).count();
    assert_eq!((of("planned"), of("step_cached"), of("step_started")), (1, 2, 1), "{log:#?}");
    let printed = log.iter().position(|it| it["text"] == "because\n").unwrap();
    let end = log.last().unwrap();
    assert_eq!((&end["type"], &end["fault"]["code"]), (&json!("end"), &json!("step_failed")));
    assert_eq!(told(&server, &task, printed).await, log[printed..]);
    let (status, _) = server.call(Method::GET, "/templates/never", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // The command line sends the same recipe, with the file beside it, and follows its build.
    let beside = place.path().join("recipe");
    fs::create_dir_all(&beside).unwrap();
    fs::write(beside.join("greeting"), "hi").unwrap();
    let text = "base = { template = \"default\" }\n\
                [[files]]\nsource = \"greeting\"\ndest = \"/etc/greeting\"\n\
                [[run]]\ncommand = \"test \\\"$(cat /etc/greeting)\\\" = hi\"\n";
    let followed = build_remote(&place, text, "app:sent").await;
    let lines = events(&followed);
    assert_eq!((count(&lines, "step_started"), count(&lines, "step_cached")), (0, 2), "{lines:#?}");
    let built = &lines.last().unwrap()["template"];
    assert_eq!(built["digest"], server.get("/templates/greeter").await["digest"]);
    assert_eq!(server.get("/templates/app:sent").await["digest"], built["digest"]);
    let followed =
        build_remote(&place, &format!("{text}[[run]]\ncommand = \"exit 9\"\n"), "never").await;
    let errors = String::from_utf8_lossy(&followed.stderr);
    assert_eq!(followed.status.code(), Some(1), "{errors}");
    assert!(errors.contains("exit code 9") && errors.contains("[step_failed]"), "{errors}");

    server.delete("/templates/greeter").await;
    let (status, _) = server.call(Method::GET, "/templates/greeter", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    server.stop().await;
    assert_eq!(left_of_builds(&place), (0, 0));
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_vm_taken_over_before_it_was_ready_is_not_used_before_it_is_and_starts_nothing_twice() {
    let place = Place::new();
    place.template("slow", |manifest| {
        let say = |line: &str| json!({ "argv": ["sh", "-c", line] });
        manifest["start"] = say("echo begun >/dev/console; exec sleep 1000");
        let check = "echo asked >/dev/console; exit 3";
        manifest["ready"] = json!({ "command": say(check), "deadline_ms": 12_000 });
    });
    let server = Server::start(&place, DriverKind::Qemu).await;
    let made = server.post("/vms", json!({ "template": "slow" })).await;
    let path = format!("/vms/{}", id(&made));
    let console = place.path().join("vms").join(id(&made)).join("console.log");
    let said = |word: &str| fs::read_to_string(&console).map_or(0, |it| it.matches(word).count());
    let deadline = std::time::Instant::now() + BOOT;
    while said("asked") == 0 {
        assert!(std::time::Instant::now() < deadline, "{:#}", server.get(&path).await);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    server.kill();
    let asked = said("asked");

    let server = Server::start(&place, DriverKind::Qemu).await;
    assert_eq!(state(&server.get(&path).await), "booting", "{}", server.log());
    let failed = server.until(&path, BOOT, |vm| {
        assert_ne!(state(vm), "running", "{vm:#}");
        state(vm) == "failed"
    });
    assert_eq!(failed.await["termination"]["code"], "not_ready");
    assert!(said("asked") > asked, "the server that took it over asked, too");
    assert_eq!(said("begun"), 1, "its start command");
    server.stop().await;
    place.assert_no_vm_is_left();
}
