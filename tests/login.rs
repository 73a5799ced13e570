//! Assistants that their users log in to by a browser: the programs here are scripts that show an address as
//! those do, and what they leave reaches every workspace of the project and nothing that is written.

use crate::world::{BOOT, Place, SOON, Server, id, state};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Shows a long address in colour, over two lines of 80 columns, and a code; then waits for a file.
const DEVICE: &str = r#"
    echo $$ > "$HOME/pid"
    printf '\033[1mWelcome\033[0m\n\n  \033[2Kplease go to\n'
    printf '\033[36mhttps://id.example/device/authorize?client_id=0123456789abcdef0123456789abcdef01\033[0m\n'
    printf '\033[36m23456789&scope=all\033[0m\n\nand enter \033[1mABCD-EFGH\033[0m\n'
    until [ -e "$HOME/go" ]; do sleep 0.05; done
    mkdir -p "$HOME/.coder"
    printf '{"tokens": {"access": "%s"}}' "$(cat "$HOME/go")" > "$HOME/.coder/auth.json"
    echo "$(cat "$HOME/go") is yours"
"#;
const DEVICE_URL: &str = "https://id.example/device/authorize?client_id=0123456789abcdef0123456789abcdef0123456789&scope=all";

/// Asks for a code, and takes one alone.
const PASTE: &str = r#"
    printf 'Open https://id.example/authorize?code=true in a browser\n\nPaste code here if prompted > '
    read -r code
    if [ "$code" != right-code-4711 ]; then printf '\nInvalid code %s. Start again.\n' "$code"; exit 3; fi
    mkdir -p "$HOME/.coder"
    printf '{"tokens": {"access": "%s"}}' "$(cat "$HOME/token")" > "$HOME/.coder/auth.json"
    printf '\nLogin successful.\n'
"#;

/// The same, but asks again and does not end by itself.
const AGAIN: &str = r#"
    echo 'Open https://id.example/authorize?code=true'
    until read -r code && [ "$code" = right-code-4711 ]; do printf 'Nope: bad code %s\n' "$code"; done
    mkdir -p "$HOME/.coder"
    printf '{"tokens": {"access": "%s"}}' "$(cat "$HOME/token")" > "$HOME/.coder/auth.json"
    echo 'You are in.'
    while :; do sleep 1; done
"#;

/// What a token of these tests begins with, and nothing else has.
const PLANTED: &str = "planted-login-";

fn token() -> String {
    format!("{PLANTED}{:032x}", rand::random::<u128>())
}

/// A directory for homes, apart from what the server writes.
struct Homes(TempDir);

impl Homes {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("homes").tempdir().unwrap())
    }

    fn home(&self, name: &str) -> PathBuf {
        let home = self.0.path().join(name);
        fs::create_dir_all(&home).unwrap();
        home
    }
}

/// Defines the assistant `coder`, whose prompts are command lines, and whose login is `script`.
fn define(place: &Place, script: &str, more: &str) {
    let dir = place.path().join("catalog/assistants");
    fs::create_dir_all(&dir).unwrap();
    let definition = format!(
        "name = \"coder\"\ndescription = \"A script\"\n[prompt]\nargv = [\"/bin/sh\", \"-c\", \"{{prompt}}\"]\n\
         [login]\nargv = [\"/bin/sh\", \"-c\", '''{script}''']\nurl = 'https://id\\.example/\\S+'\n\
         credential_files = [\".coder/auth.json\"]\n{more}\n"
    );
    fs::write(dir.join("coder.toml"), definition).unwrap();
}

/// A workspace of that assistant with a home of its own; its path.
async fn workspace(server: &Server<'_>, name: &str, home: &Path) -> String {
    let body = json!({
        "name": name, "ai_assistant": "coder", "setup": {"env": {"HOME": home.to_str().unwrap()}},
    });
    let path = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
    server.until(&path, BOOT, |it| state(it) == "ready").await;
    path
}

async fn log_in(server: &Server<'_>, workspace: &str, body: Value) -> String {
    let login = server.post(&format!("{workspace}/logins"), body).await;
    assert_eq!((state(&login), &login["assistant"]), ("starting", &json!("coder")));
    format!("{workspace}/logins/{}", id(&login))
}

async fn until_it_is(server: &Server<'_>, login: &str, wanted: &str) -> Value {
    server
        .until(login, BOOT, |it| {
            let over = ["succeeded", "failed", "expired", "cancelled"].contains(&state(it));
            assert!(!over || state(it) == wanted, "not {wanted}: {it:#}\n{}", server.log());
            state(it) == wanted
        })
        .await
}

/// Fails if what the server wrote, or the arguments of a process, has a token.
fn assert_nothing_has_a_token(place: &Place) {
    let search = ["-rlazF", "-D", "skip", "-e", PLANTED];
    let found = |dir: &Path| {
        let ran = Command::new("grep").args(search).arg(dir).output().unwrap();
        assert!(ran.status.code().is_some_and(|code| code <= 1), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    assert_eq!(found(place.path()), "");
    let control = place.path().join("control");
    fs::write(&control, token()).unwrap();
    assert!(!found(place.path()).is_empty(), "the search finds what there is to find");
    fs::remove_file(control).unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        // Searches have the mark alone.
        let shows =
            |(at, _)| arguments[at + PLANTED.len()..].starts_with(|c: char| c.is_ascii_hexdigit());
        assert!(!arguments.match_indices(PLANTED).any(shows), "{arguments}");
    }
}

fn until_it_ends(pid: &str) {
    let (process, deadline) = (Path::new("/proc").join(pid.trim()), Instant::now() + SOON);
    while process.exists() {
        assert!(Instant::now() < deadline, "{pid} goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_device_code_is_shown_and_the_login_reaches_every_workspace_and_comes_back_renewed() {
    let (place, homes) = (Place::new(), Homes::new());
    define(&place, DEVICE, "code = '\\b([A-Z]{4}-[A-Z]{4})\\b'\naccepts = \"none\"");
    let server = Server::start(&place, DriverKind::Process).await;
    let (one, two) = (homes.home("one"), homes.home("two"));
    let first = workspace(&server, "first", &one).await;
    let login = log_in(&server, &first, json!({})).await;

    let events = format!("{login}/events");
    let act = async {
        let waiting = until_it_is(&server, &login, "waiting").await;
        assert_eq!((&waiting["url"], &waiting["code"]), (&json!(DEVICE_URL), &json!("ABCD-EFGH")));
        let again = server.call(Method::POST, &format!("{first}/logins"), Some(json!({}))).await;
        assert_eq!(again.0, StatusCode::CONFLICT, "{}", again.1);
        let code = Some(json!({"code": "not-wanted"}));
        let (status, why) = server.call(Method::POST, &format!("{login}/code"), code).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{why}");
        let (part, whole) = (one.join("part"), one.join("go"));
        fs::write(&part, token()).unwrap();
        fs::rename(part, whole).unwrap();
        until_it_is(&server, &login, "succeeded").await
    };
    let ((_, told), end) = tokio::join!(server.call(Method::GET, &events, None), act);
    let told = told.as_str().unwrap();
    for wanted in ["event: waiting", "event: succeeded", "ABCD-EFGH"] {
        assert!(told.contains(wanted), "{wanted} is not among\n{told}");
    }
    assert!(end.get("url").is_none(), "what is over shows no address: {end:#}");
    let seen = format!("{events}?after={}", end["revision"]);
    assert_eq!(server.call(Method::GET, &seen, None).await.0, StatusCode::NO_CONTENT);
    let stored = server.get("/logins").await;
    assert_eq!(stored[0]["assistant"], "coder");

    // Another workspace has it without a login, in a file of its own, and does not show it.
    let second = workspace(&server, "second", &two).await;
    let shown =
        server.answer(&second, "cat ~/.coder/auth.json; stat -c ' %a' ~/.coder/auth.json").await;
    assert_eq!(shown, "{\"tokens\": {\"access\": \"***\"}} 600\n");
    let file = |home: &Path| fs::read_to_string(home.join(".coder/auth.json")).unwrap();
    assert_eq!(file(&two), file(&one));

    // What it renews is stored, and given to the first.
    let renewed = token();
    fs::write(two.join("new"), &renewed).unwrap();
    let renew = "printf '{\"tokens\": {\"access\": \"%s\"}}' \"$(cat ~/new)\" > ~/.coder/auth.json";
    server.answer(&second, renew).await;
    assert!(file(&two).contains(&renewed) && !file(&one).contains(&renewed));
    assert_eq!(
        server.answer(&first, "cat ~/.coder/auth.json; echo .").await,
        "{\"tokens\": {\"access\": \"***\"}}.\n"
    );
    assert_eq!(file(&one), file(&two));
    server.answer(&second, "true").await;
    assert!(file(&two).contains(&renewed), "what was put into the first is not newer");

    let reads = server.get("/events?type=secret.read&limit=100").await;
    assert!(reads["items"].as_array().unwrap().iter().all(|it| it["data"]["secret"] == "coder"));
    assert_nothing_has_a_token(&place);

    // Whoever logs out is not logged in again by a workspace that still has the file.
    let (status, _) = server.call(Method::DELETE, "/logins/coder", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    server.answer(&second, "true").await;
    assert_eq!(server.get("/logins").await, json!([]));
    server.stop().await;
    assert_nothing_has_a_token(&place);
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_pasted_code_logs_in_and_a_wrong_one_fails_with_the_programs_own_words() {
    let (place, homes) = (Place::new(), Homes::new());
    define(&place, PASTE, "accepts = \"code\"");
    let server = Server::start(&place, DriverKind::Process).await;
    let home = homes.home("one");
    fs::write(home.join("token"), token()).unwrap();
    let demo = workspace(&server, "demo", &home).await;

    let login = log_in(&server, &demo, json!({})).await;
    until_it_is(&server, &login, "waiting").await;
    let wrong = format!("{PLANTED}0wrong-code");
    let given = server.post(&format!("{login}/code"), json!({ "code": wrong })).await;
    assert_eq!(state(&given), "submitting");
    let failed = until_it_is(&server, &login, "failed").await;
    let detail = failed["fault"]["detail"].as_str().unwrap();
    assert_eq!(failed["fault"]["code"], "login_failed");
    assert!(detail.contains("exit code 3") && detail.contains("Invalid code ***"), "{failed:#}");
    let over =
        server.call(Method::POST, &format!("{login}/code"), Some(json!({"code": "x"}))).await;
    assert_eq!(over.0, StatusCode::CONFLICT, "{}", over.1);

    // On the command line, where the code comes from standard input.
    let mut child = place
        .aetherium()
        .args(["ws", "login", "demo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"right-code-4711\n").unwrap();
    let ran = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}\n{}", server.log());
    for wanted in ["  https://id.example/authorize?code=true\n", "coder is logged in"] {
        assert!(said.contains(wanted), "{wanted} is not in\n{said}");
    }
    let listed = place.aetherium().args(["ws", "logins"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("coder"), "{listed:?}");
    assert_nothing_has_a_token(&place);
    assert!(!server.log().contains("right-code-4711"));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_program_that_asks_again_is_given_another_code_and_ended_when_it_is_done() {
    let (place, homes) = (Place::new(), Homes::new());
    let more = "accepts = \"code\"\nfailure = '^Nope'\nsuccess = '^You are in'";
    define(&place, AGAIN, more);
    let server = Server::start(&place, DriverKind::Process).await;
    let home = homes.home("one");
    fs::write(home.join("token"), token()).unwrap();
    let demo = workspace(&server, "demo", &home).await;
    let login = log_in(&server, &demo, json!({"assistant": "coder"})).await;
    until_it_is(&server, &login, "waiting").await;
    server.post(&format!("{login}/code"), json!({"code": "wrong-code"})).await;
    let again = until_it_is(&server, &login, "waiting").await;
    assert_eq!(again["refusal"], "Nope: bad code ***");
    server.post(&format!("{login}/code"), json!({"code": "right-code-4711"})).await;
    until_it_is(&server, &login, "succeeded").await;
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_callback_is_asked_of_the_programs_own_server_and_of_no_other_machine() {
    let (place, homes) = (Place::new(), Homes::new());
    // A guest of the process driver has its host's loopback.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "echo 'https://id.example/authorize?redirect_uri=http://localhost:{port}/callback'\n\
         until [ -e \"$HOME/.coder/auth.json\" ]; do sleep 0.05; done"
    );
    define(&place, &script, "accepts = \"callback\"");
    let server = Server::start(&place, DriverKind::Process).await;
    let home = homes.home("one");
    let demo = workspace(&server, "demo", &home).await;
    let login = log_in(&server, &demo, json!({})).await;
    until_it_is(&server, &login, "waiting").await;
    let elsewhere = format!("http://127.0.0.1.evil.example:{port}/callback?code=x");
    for refused in ["http://169.254.169.254/", elsewhere.as_str(), "https://localhost/"] {
        let body = Some(json!({ "url": refused }));
        let (status, why) = server.call(Method::POST, &format!("{login}/callback"), body).await;
        assert_eq!(
            (status, &why["errors"][0]["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("url"))
        );
    }
    let code = token();
    let wanted = format!("GET /callback?code={code}&state=s HTTP/1.1");
    let serving = std::thread::spawn(move || {
        let (mut browser, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(browser.try_clone().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), wanted);
        assert!(lines.any(|line| line.unwrap().is_empty()));
        fs::create_dir(home.join(".coder")).unwrap();
        fs::write(home.join("auth.json"), "{\"a\": 1}").unwrap();
        fs::rename(home.join("auth.json"), home.join(".coder/auth.json")).unwrap();
        browser
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .unwrap();
        let _ = browser.shutdown(std::net::Shutdown::Write);
        let _ = browser.read_to_end(&mut Vec::new());
    });
    let url = format!("http://localhost:{port}/callback?code={code}&state=s#done");
    server.post(&format!("{login}/callback"), json!({ "url": url })).await;
    serving.join().unwrap();
    until_it_is(&server, &login, "succeeded").await;
    assert_nothing_has_a_token(&place);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_login_ends_with_its_time_its_cancellation_and_its_worker_and_so_does_its_program() {
    let (place, homes) = (Place::new(), Homes::new());
    define(&place, DEVICE, "accepts = \"none\"");
    let home = homes.home("one");
    let server = Server::start(&place, DriverKind::Process).await;
    let demo = workspace(&server, "demo", &home).await;
    let pid = || fs::read_to_string(home.join("pid")).unwrap();

    let body = Some(json!({"timeout_s": 1}));
    let (status, why) = server.call(Method::POST, &format!("{demo}/logins"), body).await;
    assert_eq!(
        (status, &why["errors"][0]["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("timeout_s"))
    );
    let login = log_in(&server, &demo, json!({"timeout_s": 15})).await;
    until_it_is(&server, &login, "waiting").await;
    until_it_is(&server, &login, "expired").await;
    until_it_ends(&pid());

    let login = log_in(&server, &demo, json!({})).await;
    until_it_is(&server, &login, "waiting").await;
    assert_eq!(state(&server.delete(&login).await), "cancelled");
    assert_eq!(state(&server.delete(&login).await), "cancelled", "once more");
    until_it_ends(&pid());

    let login = log_in(&server, &demo, json!({})).await;
    until_it_is(&server, &login, "waiting").await;
    server.kill();
    let server = Server::start(&place, DriverKind::Process).await;
    let failed = server.get(&login).await;
    assert_eq!((state(&failed), &failed["fault"]["code"]), ("failed", &json!("interrupted")));
    until_it_ends(&pid());
    let login = log_in(&server, &demo, json!({})).await;
    until_it_is(&server, &login, "waiting").await;
    fs::write(home.join("go"), token()).unwrap();
    until_it_is(&server, &login, "succeeded").await;
    assert_nothing_has_a_token(&place);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn an_assistant_without_a_login_says_so_and_who_has_one() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let demo = server.workspace("demo").await;
    server.until(&demo, BOOT, |it| state(it) == "ready").await;
    let (status, why) = server.call(Method::POST, &format!("{demo}/logins"), Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(why["detail"].as_str().unwrap().contains("shell is not logged in to"), "{why:#}");
    assert!(why["remedy"].as_str().unwrap().contains("claude-code"), "{why:#}");
    server.stop().await;
}

#[tokio::test]
async fn a_vm_that_has_a_login_keeps_it_out_of_its_memorys_files_and_the_next_vm_has_it_too() {
    let place = Place::new();
    // Nothing of it is planted from outside: the guest makes its own token.
    let script = r#"
        echo 'Open https://id.example/authorize?x=1'; read -r code; mkdir -p ~/.coder
        printf '{"tokens": {"access": "planted-login-%s"}}' "$code$code" > ~/.coder/auth.json
    "#;
    define(&place, script, "accepts = \"code\"");
    let server = Server::start(&place, DriverKind::Qemu).await;
    let make = async |name: &str| {
        let body = json!({
            "name": name, "ai_assistant": "coder", "disk_mib": 300, "memory_mib": 192,
            "idle_action": "hibernate",
        });
        let path = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
        server.until(&path, BOOT, |it| state(it) == "ready").await;
        path
    };
    let (first, second) = (make("first").await, make("second").await);
    let login = log_in(&server, &first, json!({})).await;
    until_it_is(&server, &login, "waiting").await;
    server.post(&format!("{login}/code"), json!({"code": "0123456789abcdef"})).await;
    until_it_is(&server, &login, "succeeded").await;
    let hibernated = async |path: &str| {
        let asleep = server.post(&format!("{path}/hibernate"), json!({})).await;
        assert_eq!(asleep["lifecycle"], "hibernated", "{asleep:#}");
        let place = place.path().join(format!("{}/hibernation", &path[1..]));
        for file in ["memory", "state"] {
            let bytes = fs::read(place.join(file)).unwrap();
            let has = bytes.windows(15).any(|it| it == b"planted-login-0");
            assert!(!has, "{file} of {path} has the token");
        }
    };
    hibernated(&first).await;
    let look = "cat ~/.coder/auth.json; grep -c 'planted-login-[0-9a-f]*' ~/.coder/auth.json; \
                stat -c '%a %U' ~/.coder/auth.json";
    let shown = server.answer(&second, look).await;
    assert_eq!(shown, "{\"tokens\": {\"access\": \"***\"}}1\n600 root\n");
    hibernated(&second).await;
    // A command of a VM that was woken shows as little of it.
    let woken = server.post(&format!("{second}/wake"), json!({})).await;
    let cat = json!({"argv": ["sh", "-c", "cat ~/.coder/auth.json"]});
    let vm = woken["vm_id"].as_str().unwrap();
    let ran = server.post(&format!("/vms/{vm}/execute"), cat).await;
    assert_eq!(ran["stdout"], "{\"tokens\": {\"access\": \"***\"}}", "{ran:#}");
    for file in ["aetherium.db", "aetherium.db-wal", "log"] {
        let bytes = fs::read(place.path().join(file)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("planted-login-0"), "{file} has the token");
        assert!(!text.contains("0123456789abcdef"), "{file} has the code");
    }
    server.stop().await;
    place.assert_no_vm_is_left();
}
