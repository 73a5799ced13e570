//! What a workspace's setup asks for is in it before its first prompt, is done once, and says why if not.

mod ssh;

use crate::{
    git_server::{GitServer, git},
    world::{BOOT, Place, SOON, Server, id, state, text},
};
use aetherium_model::resources::DriverKind;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const TOKEN: &str = "planted-0123456789abcdef0123456789abcdef";

fn script(name: &str, run: &str) -> Value {
    json!({ "name": name, "do": { "script": { "run": run } } })
}

/// Makes a workspace with a setup, and returns its path.
async fn create(server: &Server<'_>, name: &str, setup: Value) -> String {
    let made = server.post("/workspaces", json!({ "name": name, "setup": setup })).await;
    format!("/workspaces/{}", id(&made))
}

/// Waits until a workspace is ready or has failed.
async fn settled(server: &Server<'_>, workspace: &str) -> Value {
    server.until(workspace, BOOT, |it| ["ready", "failed"].contains(&state(it))).await
}

/// Waits until its preparation has come to its end once more.
async fn prepared(server: &Server<'_>, workspace: &str, how: Value) -> Value {
    let task = server.post(&format!("{workspace}/prepare"), how).await;
    let task = format!("/tasks/{}", id(&task));
    server.until(&task, BOOT, |it| ["succeeded", "failed"].contains(&state(it))).await;
    settled(server, workspace).await
}

fn steps(workspace: &Value) -> Vec<&str> {
    let steps = workspace["preparation"]["steps"].as_array();
    steps.into_iter().flatten().map(state).collect()
}

/// What a workspace's last preparation told, as a reader sees it.
async fn log(server: &Server<'_>, workspace: &Value) -> String {
    let task = workspace["preparation"]["task_id"].as_str().unwrap();
    text(&server.get(&format!("/tasks/{task}/events")).await)
}

#[tokio::test]
async fn steps_are_done_in_order_before_the_first_prompt_which_has_their_variables() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let dir = place.path().join("work").display().to_string();
    let setup = json!({
        "working_directory": dir,
        "env": { "A": "one", "B": "two" },
        "preparation": [
            script("first", "echo \"first $A $B\" > log; echo said-by-first"),
            { "do": { "env": { "B": "three" } } },
            { "do": { "files": [
                { "path": format!("{dir}/deep/file"), "content": { "text": "content\n" }, "mode": "0750" },
                { "path": format!("{dir}/bytes"), "content": { "base64": "AP8=" } },
            ] } },
            script("second", "echo \"second $A $B\" >> log; stat -c %a deep/file bytes >> log"),
        ],
    });
    let workspace = create(&server, "order", setup).await;
    // It waits for the preparation.
    let answer = server.answer(&workspace, "pwd; cat log deep/file; echo $A $B").await;
    let wanted = format!("{dir}\nfirst one two\nsecond one three\n750\n644\ncontent\none three\n");
    assert_eq!(answer, wanted);
    assert_eq!(fs::read(Path::new(&dir).join("bytes")).unwrap(), [0, 0xff]);
    let now = server.get(&workspace).await;
    assert_eq!(state(&now), "ready", "{now:#}");
    assert_eq!(steps(&now), ["done"; 4], "{now:#}");
    let told = log(&server, &now).await;
    let places = ["step_started", "said-by-first", "step_done", "second"].map(|it| told.find(it));
    assert!(places.is_sorted() && places[0].is_some(), "{places:?} {told}");
    let own = json!({ "prompt": "echo $B; pwd", "env": { "B": "four" }, "working_directory": "/" });
    let prompt = server.post(&format!("{workspace}/prompts"), own).await;
    let (_, output) = server.ended(&format!("{workspace}/prompts/{}", id(&prompt))).await;
    assert_eq!(output, "four\n/\n", "what a prompt says goes before");
    let command = json!({ "argv": ["/bin/sh", "-c", "echo $B; pwd"] });
    let ran = server.post(&format!("{workspace}/execute"), command).await;
    assert_eq!(ran["stdout"], format!("three\n{dir}\n"), "{ran:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_step_that_fails_says_why_and_runs_nothing_until_it_is_mended_and_then_only_what_is_left()
{
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let path = |name: &str| place.path().join(name).display().to_string();
    let (effects, mended) = (path("effects"), path("mended"));
    let setup = json!({ "preparation": [
        script("before", &format!("echo before >> {effects}")),
        script("breaks", &format!("echo breaks >> {effects}; echo a reason >&2; [ -e {mended} ]")),
        script("after", &format!("echo after >> {effects}")),
    ] });
    let workspace = create(&server, "breaks", setup).await;
    let waiting = server.prompt(&workspace, &format!("echo ran >> {effects}")).await;
    let failed = settled(&server, &workspace).await;
    assert_eq!(steps(&failed), ["done", "failed", "waiting"], "{failed:#}");
    let fault = &failed["fault"];
    assert_eq!(fault["code"], "step_failed", "{failed:#}");
    assert_eq!(fault["detail"], "step 2 (breaks): ended with exit code 1");
    assert_eq!(fault["evidence"], json!(["a reason"]));
    assert!(fault["remedy"].as_str().unwrap().contains("retry"), "{failed:#}");

    let (end, _) = server.ended(&waiting).await;
    assert_eq!((state(&end), &end["fault"]["code"]), ("failed", &json!("step_failed")), "{end:#}");
    assert!(end["fault"]["detail"].as_str().unwrap().contains("(breaks)"), "{end:#}");
    let prompts = format!("{workspace}/prompts");
    let (status, problem) =
        server.call(Method::POST, &prompts, Some(json!({ "prompt": "true" }))).await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("conflict")), "{problem:#}");

    fs::write(&mended, []).unwrap();
    let ready = prepared(&server, &workspace, json!({})).await;
    assert_eq!(steps(&ready), ["unchanged", "done", "done"], "{ready:#}");
    assert_eq!(server.answer(&workspace, "echo on").await, "on\n");
    let done = || fs::read_to_string(&effects).unwrap();
    assert_eq!(done(), "before\nbreaks\nbreaks\nafter\n");

    let ready = prepared(&server, &workspace, json!({})).await;
    assert_eq!(steps(&ready), ["unchanged"; 3], "{ready:#}");
    let ready = prepared(&server, &workspace, json!({ "force": true })).await;
    assert_eq!(steps(&ready), ["done"; 3], "{ready:#}");
    assert_eq!(done(), "before\nbreaks\nbreaks\nafter\nbefore\nbreaks\nafter\n");

    let setup = json!({ "preparation": [
        script("before", &format!("echo before >> {effects}")),
        script("other", &format!("echo other >> {effects}")),
    ] });
    let ready = prepared(&server, &workspace, json!({ "setup": setup })).await;
    assert_eq!(steps(&ready), ["unchanged", "done"], "{ready:#}");
    assert!(done().ends_with("after\nother\n"), "{}", done());
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_step_may_fail_or_run_out_of_time_without_holding_up_the_next() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let setup = json!({ "preparation": [
        { "name": "may fail", "do": { "script": { "run": "exit 3" } }, "continue_on_error": true },
        { "name": "slow", "do": { "script": { "run": "sleep 600" } }, "timeout_s": 1, "continue_on_error": true },
        script("last", "true"),
    ] });
    let workspace = create(&server, "goes-on", setup).await;
    let ready = settled(&server, &workspace).await;
    assert_eq!(
        (state(&ready), steps(&ready)),
        ("ready", vec!["failed", "failed", "done"]),
        "{ready:#}"
    );
    let why = |step: usize| {
        ready["preparation"]["steps"][step]["fault"]["detail"].as_str().unwrap().to_owned()
    };
    assert_eq!(why(0), "step 1 (may fail): ended with exit code 3");
    assert_eq!(why(1), "step 2 (slow): did not end within its time");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_preparation_outlives_a_killed_worker_and_begins_no_earlier_than_with_the_step_it_was_at()
{
    let place = Place::new();
    let path = |name: &str| place.path().join(name).display().to_string();
    let (effects, go) = (path("effects"), path("go"));
    let setup = json!({ "preparation": [
        script("first", &format!("echo first >> {effects}")),
        script("second", &format!("echo $$ >> {effects}; until [ -e {go} ]; do sleep 0.1; done; echo end >> {effects}")),
    ] });
    let done = || fs::read_to_string(&effects).unwrap_or_default();
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = create(&server, "killed", setup).await;
    server.until(&workspace, BOOT, |it| steps(it) == ["done", "running"]).await;
    while done().lines().count() < 2 {
        tokio::task::yield_now().await;
    }
    server.kill();

    let server = Server::start(&place, DriverKind::Process).await;
    while done().lines().count() < 3 {
        server.until(&workspace, SOON, |it| state(it) == "preparing").await;
    }
    let all = done();
    let [first, before, again] = all.lines().collect::<Vec<_>>()[..] else { panic!("{all}") };
    assert_eq!(first, "first");
    assert_ne!(before, again);
    assert!(
        !Path::new("/proc").join(before).exists(),
        "the first try still runs beside the second"
    );
    fs::write(&go, []).unwrap();
    let ready = settled(&server, &workspace).await;
    assert_eq!((state(&ready), steps(&ready)), ("ready", vec!["done", "done"]), "{ready:#}");
    assert_eq!(done(), format!("first\n{before}\n{again}\nend\n"));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_preparation_that_is_cancelled_ends_its_step_and_can_be_taken_up_again() {
    let place = Place::new();
    let path = |name: &str| place.path().join(name).display().to_string();
    let server = Server::start(&place, DriverKind::Process).await;
    let go = path("go");
    let setup = json!({ "preparation": [script("waits", &format!("[ -e {go} ] || sleep 600"))] });
    let workspace = create(&server, "cancelled", setup).await;
    let running = server.until(&workspace, BOOT, |it| steps(it) == ["running"]).await;
    let task = format!("/tasks/{}", running["preparation"]["task_id"].as_str().unwrap());
    let (status, problem) = server
        .call(Method::POST, &format!("{workspace}/prepare"), Some(json!({ "force": true })))
        .await;
    assert_eq!((status.as_u16(), &problem["code"]), (409, &json!("conflict")), "{problem:#}");
    let same = server.post(&format!("{workspace}/prepare"), json!({})).await;
    assert_eq!(task, format!("/tasks/{}", id(&same)), "it is on its way already");
    server.post(&format!("{task}/cancel"), json!({})).await;
    server.until(&task, BOOT, |it| state(it) == "cancelled").await;
    let failed = settled(&server, &workspace).await;
    assert_eq!(failed["fault"]["code"], "cancelled", "{failed:#}");
    fs::write(&go, []).unwrap();
    assert_eq!(state(&prepared(&server, &workspace, json!({})).await), "ready");
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// The processes of this machine whose arguments, or environment, have a text: their numbers and arguments.
fn processes_with(file: &str, text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let read = |it: &fs::DirEntry, file: &str| {
        let bytes = fs::read(it.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let found = processes.filter(|it| read(it, file).contains(text));
    found.map(|it| format!("{} {}", it.file_name().display(), read(&it, "cmdline"))).collect()
}

#[tokio::test]
async fn a_repository_is_cloned_with_a_token_that_is_in_no_argument_and_is_written_nowhere() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let repository = GitServer::start(Some(TOKEN)).await;
    let secret = json!({ "name": "GIT", "value": TOKEN, "kind": "git_token" });
    server.post("/secrets", secret).await;
    let path = place.path().join("clone");
    let setup = json!({
        "repository": { "url": repository.url, "path": path, "credential": "GIT" },
        "preparation": [script("look", "cat .git/config; env; cat file; git log --format=%s")],
    });
    repository.hold();
    let workspace = create(&server, "clones", setup).await;
    let with_token = Some(format!("x-access-token:{TOKEN}"));
    let deadline = Instant::now() + BOOT;
    while !repository.asked().contains(&with_token) {
        assert!(Instant::now() < deadline, "{:?}\n{}", repository.asked(), server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let under_way = [("cmdline", repository.url.as_str()), ("environ", TOKEN)];
    assert!(under_way.iter().all(|(file, text)| !processes_with(file, text).is_empty()));
    assert_eq!(processes_with("cmdline", TOKEN), Vec::<String>::new());
    repository.let_go();
    let ready = settled(&server, &workspace).await;
    assert_eq!(state(&ready), "ready", "{ready:#}\n{}", log(&server, &ready).await);
    assert_eq!(
        server.answer(&workspace, "pwd; cat file").await,
        format!("{}\ntwo\n", path.display())
    );
    let asked = repository.asked();
    assert!(asked.contains(&None), "it is given only where it is asked for: {asked:?}");
    assert_eq!(git(&path, &["remote", "get-url", "origin"]), repository.url);
    let told = log(&server, &ready).await;
    assert!(told.contains("two"), "{told}");
    assert!(!told.contains(TOKEN), "{told}");
    let search = std::process::Command::new("grep")
        .args(["-rlazF", "-D", "skip", TOKEN])
        .arg(place.path())
        .output()
        .unwrap();
    assert_eq!(text(&json!(String::from_utf8(search.stdout).unwrap())), "", "files have the token");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_branch_a_tag_or_a_commit_is_checked_out_and_what_is_there_already_is_left_as_it_is() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let repository = GitServer::start(None).await;
    let at = |name: &str| place.path().join(name);
    let clone = |name: &str, branch: &str, depth: Option<u32>| {
        let mut wanted = json!({ "url": repository.url, "path": at(name), "branch": branch });
        if let Some(depth) = depth {
            wanted["depth"] = json!(depth);
        }
        json!({ "name": name, "do": { "git_clone": wanted } })
    };
    let setup = json!({ "preparation": [
        clone("side", "side", None),
        clone("tag", "v1", Some(1)),
        clone("commit", &repository.first, Some(1)),
        clone("short", &repository.first[..8], None),
        clone("shallow", "main", Some(1)),
    ] });
    let workspace = create(&server, "branches", setup).await;
    let ready = settled(&server, &workspace).await;
    assert_eq!(state(&ready), "ready", "{ready:#}\n{}", log(&server, &ready).await);
    for (name, commits) in [("side", 1), ("tag", 1), ("commit", 1), ("short", 1), ("shallow", 1)] {
        let content = fs::read_to_string(at(name).join("file")).unwrap();
        assert_eq!(content, if name == "shallow" { "two\n" } else { "one\n" }, "{name}");
        assert_eq!(git(&at(name), &["rev-list", "--count", "HEAD"]), commits.to_string(), "{name}");
        assert_eq!(git(&at(name), &["status", "--porcelain"]), "", "{name}");
    }
    assert_eq!(git(&at("side"), &["branch", "--show-current"]), "side");

    repository.commit("later");
    fs::write(at("shallow").join("own"), "mine").unwrap();
    let ready = prepared(&server, &workspace, json!({ "force": true })).await;
    assert_eq!(state(&ready), "ready", "{ready:#}");
    assert_eq!(fs::read_to_string(at("shallow").join("own")).unwrap(), "mine");
    assert!(!at("shallow").join("later").exists());
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_clone_that_cannot_be_says_what_git_said_and_a_half_made_one_is_made_whole() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let repository = GitServer::start(None).await;
    let path = place.path().join("clone");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("own"), "mine").unwrap();
    let setup = json!({ "repository": { "url": repository.url, "path": path } });
    let workspace = create(&server, "half", setup).await;
    let failed = settled(&server, &workspace).await;
    let evidence = failed["fault"]["evidence"].to_string();
    assert!(evidence.contains("is not empty"), "{failed:#}");
    assert_eq!(fs::read_to_string(path.join("own")).unwrap(), "mine");

    // As it was killed: in the middle of the clone, then just before its files came.
    fs::remove_file(path.join("own")).unwrap();
    fs::create_dir_all(path.join(".aetherium-clone/.git/objects")).unwrap();
    assert_eq!(state(&prepared(&server, &workspace, json!({})).await), "ready");
    fs::remove_file(path.join("file")).unwrap();
    fs::write(path.join(".git/aetherium-unfinished"), []).unwrap();
    assert_eq!(state(&prepared(&server, &workspace, json!({ "force": true })).await), "ready");
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "two\n");
    assert!(!path.join(".git/aetherium-unfinished").exists());

    let other = json!({ "repository": { "url": format!("{}x", repository.url), "path": path } });
    let failed = prepared(&server, &workspace, json!({ "setup": other })).await;
    assert!(failed["fault"]["evidence"].to_string().contains("another repository"), "{failed:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_guest_gets_the_user_that_its_setup_names_and_says_so_if_it_has_no_git() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Qemu).await;
    let setup = json!({
        "user": "dev",
        "working_directory": "/srv/work/place",
        "preparation": [
            script("whoami", "id -un > who; id -gn >> who; echo $HOME >> who; [ -w \"$HOME\" ]"),
            { "do": { "script": { "run": "id -un > /root/root", "user": "root" } } },
            { "do": { "files": [{ "path": "/home/dev/.config/x/file", "content": { "text": "x" }, "mode": "0600" }] } },
            { "do": { "files": [{ "path": "/opt/other/file", "content": { "text": "x" }, "owner": "other" }] } },
        ],
    });
    let workspace = create(&server, "people", setup).await;
    let ready = settled(&server, &workspace).await;
    assert_eq!(state(&ready), "ready", "{ready:#}\n{}", log(&server, &ready).await);
    let look = "cat who; pwd; id -un; stat -c '%U %G %a %n' /home/dev/.config/x/file /home/dev/.config /srv/work /opt/other/file /home/dev";
    let wanted = "dev\ndev\n/home/dev\n/srv/work/place\ndev\n\
                  dev dev 600 /home/dev/.config/x/file\ndev dev 755 /home/dev/.config\n\
                  dev dev 755 /srv/work\nother other 644 /opt/other/file\ndev dev 755 /home/dev\n";
    assert_eq!(server.answer(&workspace, look).await, wanted);
    let ids = "id -u dev other; tail -n 2 /etc/passwd";
    let ran = server
        .post(
            &format!("{workspace}/execute"),
            json!({ "argv": ["/bin/sh", "-c", ids], "user": "root" }),
        )
        .await;
    assert!(ran["stdout"].as_str().unwrap().starts_with("1000\n1001\n"), "{ran:#}");

    let has_git = json!({ "argv": ["/bin/sh", "-c", "command -v git"], "user": "root" });
    let ran = server.post(&format!("{workspace}/execute"), has_git).await;
    assert_ne!(ran["result"]["exit_code"], 0, "the template has git now: test that it clones");
    let setup = json!({ "repository": { "url": "https://git.example.org/demo.git" } });
    let failed = prepared(&server, &workspace, json!({ "setup": setup })).await;
    assert!(
        failed["fault"]["detail"].as_str().unwrap().ends_with("the guest has no git"),
        "{failed:#}"
    );
    assert!(failed["fault"]["remedy"].as_str().unwrap().contains("tool git"), "{failed:#}");
    server.stop().await;
    place.assert_no_vm_is_left();
}
