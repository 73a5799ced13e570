//! Secrets reach the commands that ask for them, and nothing that is written, logged or listed.

use crate::world::{AETHERIUM, Place, Server, id, state, text};
use aetherium_model::resources::DriverKind;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How many values are planted.
const PLANTED: usize = 20;
/// How long a command waits to be let go on, and the test for it to wait.
const SOON: Duration = Duration::from_secs(60);

/// Values that occur nowhere else, by the names of their secrets.
fn planted() -> BTreeMap<String, String> {
    let random = || format!("{:032x}", rand::random::<u128>());
    (0..PLANTED).map(|it| (format!("S{it:02}"), format!("planted-{}", random()))).collect()
}

fn digest(value: &str) -> String {
    Sha256::digest(value.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `aetherium secret …` with a value on its standard input.
fn secret(place: &Place, arguments: &[&str], value: &str) -> Output {
    let mut child = place
        .aetherium()
        .arg("secret")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn succeeded(ran: Output) -> String {
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// The names of those whose values are in `bytes`.
fn found_in<'a>(bytes: &[u8], values: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    // Most files have nothing of the kind, and are looked through once.
    let mark = b"planted-";
    if !bytes.windows(mark.len()).any(|window| window == mark) {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(bytes);
    values.iter().filter(|(_, it)| text.contains(it.as_str())).map(|(name, _)| &**name).collect()
}

/// The files under the data directory that have a value. Links lead to the template that all tests share.
fn files_with(place: &Place, values: &BTreeMap<String, String>) -> Vec<String> {
    // Disks are large, and mostly holes: with zeros as the ends of lines those are passed over.
    let search = ["-rlazF", "-D", "skip", "-e", "planted-"];
    let ran = Command::new("grep").args(search).arg(place.path()).output().unwrap();
    assert!(ran.status.code().is_some_and(|code| code <= 1), "{ran:?}");
    let marked = String::from_utf8(ran.stdout).unwrap();
    // A file may go while it is looked for.
    let has = |file: &&str| {
        !found_in(&fs::read(place.path().join(file)).unwrap_or_default(), values).is_empty()
    };
    marked.lines().filter(has).map(str::to_owned).collect()
}

/// Fails if a file under the data directory, the log and the database among them, has a value.
fn assert_no_file_has(place: &Place, values: &BTreeMap<String, String>) {
    assert_eq!(files_with(place, values), Vec::<String>::new());
    for needed in ["aetherium.db", "log"] {
        assert!(place.path().join(needed).exists(), "{needed} is not looked through");
    }
    // The search finds what there is to find.
    let control = place.path().join("control");
    fs::write(&control, format!("\0\u{1}{}", values["S07"])).unwrap();
    assert_eq!(files_with(place, values), [control.to_str().unwrap()]);
    fs::remove_file(control).unwrap();
}

/// Fails if the arguments of any process have a value, or the environment of one that is no guest's.
fn assert_no_process_shows(place: &Place, values: &BTreeMap<String, String>) {
    let agents: Vec<u32> =
        place.pids().map(|pid| u32::try_from(pid.as_raw_nonzero().get()).unwrap()).collect();
    let mut guests = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let arguments = found_in(&read("cmdline"), values);
        assert!(arguments.is_empty(), "the arguments of {pid} have {arguments:?}");
        let environment = found_in(&read("environ"), values);
        if environment.is_empty() {
            continue;
        }
        let is_guest = !agents.contains(&pid) && ancestors(pid).any(|it| agents.contains(&it));
        assert!(is_guest, "the environment of {pid} has {environment:?}");
        guests += 1;
    }
    assert!(guests > 0, "the command that has them was not looked at");
}

fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may have anything in it: state, parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    std::iter::successors(parent(&pid), move |pid| parent(pid))
}

fn until_it_exists(path: &Path) {
    let deadline = Instant::now() + SOON;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

async fn plant(server: &Server<'_>, workspace: &str, values: &BTreeMap<String, String>) {
    for (number, (name, value)) in values.iter().enumerate() {
        match number % 3 {
            0 => {
                let set = json!({ "name": name, "value": value });
                server.post("/secrets", set).await;
            }
            1 => {
                let set = json!({ "name": name, "value": value, "kind": "git_token" });
                server.post(&format!("{workspace}/secrets"), set).await;
            }
            _ => {
                succeeded(secret(server.place, &["set", name, "--workspace", "demo"], value));
            }
        }
    }
}

#[tokio::test]
async fn twenty_values_reach_their_commands_and_are_found_in_nothing_that_the_server_wrote() {
    let (place, values) = (Place::new(), planted());
    let server = Server::start(&place, DriverKind::Process).await;
    let workspace = server.workspace("demo").await;
    plant(&server, &workspace, &values).await;
    let listed = succeeded(secret(&place, &["list", "--workspace", "demo"], ""));
    assert!(listed.contains("S02") && found_in(listed.as_bytes(), &values).is_empty(), "{listed}");

    // A prompt gets all of them, proves it, prints them, and waits.
    let (here, go) = (place.path().join("here"), place.path().join("go"));
    let prompt = format!(
        "for v in $(env | cut -d= -f1 | grep '^S[0-9]' | sort); do \
         eval printf %s '\"$'$v'\"' | sha256sum | cut -c1-64; done; env; \
         touch {}; until [ -e {} ]; do sleep 0.05; done",
        here.display(),
        go.display(),
    );
    let names: Vec<&String> = values.keys().collect();
    let made = server
        .post(&format!("{workspace}/prompts"), json!({ "prompt": prompt, "secrets": names }))
        .await;
    let path = format!("{workspace}/prompts/{}", id(&made));
    until_it_exists(&here);
    assert_no_process_shows(&place, &values);
    fs::write(&go, "").unwrap();
    let (end, output) = server.ended(&path).await;
    assert_eq!(state(&end), "completed", "{end:#}\n{output}");
    let digests: Vec<String> = values.values().map(|it| digest(it)).collect();
    assert_eq!(output.lines().take(PLANTED).collect::<Vec<_>>(), digests);
    assert!(output.contains("S00=***\n") && found_in(output.as_bytes(), &values).is_empty());

    // So does a command that somebody waits for, in another variable.
    let vm = end["vm_id"].as_str().unwrap();
    let execute = json!({
        "argv": ["sh", "-c", "echo \"$OTHER\"; printf %s \"$OTHER\" | sha256sum"],
        "secrets": {"OTHER": {"secret": "S00"}},
    });
    let ran = server.post(&format!("/vms/{vm}/execute"), execute).await;
    assert_eq!(ran["stdout"], format!("***\n{}  -\n", digests[0]));
    let missing = json!({ "argv": ["true"], "secrets": ["NOWHERE"] });
    let (status, refused) =
        server.call(Method::POST, &format!("/vms/{vm}/execute"), Some(missing)).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("secret_missing"))
    );

    // Who read which for what is known.
    let reads = server.get("/events?type=secret.read&limit=100").await;
    let reads = reads["items"].as_array().unwrap();
    assert_eq!(reads.len(), PLANTED + 1);
    assert_eq!(reads[0]["actor"]["kind"], "worker");
    assert!(
        reads.iter().any(|it| it["data"]["run_id"] == id(&end) && it["data"]["secret"] == "S07")
    );
    assert_no_file_has(&place, &values);
    server.stop().await;
    assert_no_file_has(&place, &values);

    // With another master key it goes on.
    let keys = place.path().join("secrets-keys");
    let old = fs::read_to_string(&keys).unwrap();
    let new = aetherium_secrets::new_key_line(&"k2".parse().unwrap());
    fs::write(&keys, format!("{}{old}", *new)).unwrap();
    let rotated = succeeded(secret(&place, &["rotate"], ""));
    assert!(rotated.contains("under k2: 20 were not before"), "{rotated}");
    fs::write(&keys, &*new).unwrap();
    let server = Server::start(&place, DriverKind::Process).await;
    let again = json!({ "prompt": "printf %s \"$S19\" | sha256sum", "secrets": ["S19"] });
    let made = server.post(&format!("{workspace}/prompts"), again).await;
    let (_, output) = server.ended(&format!("{workspace}/prompts/{}", id(&made))).await;
    assert_eq!(output, format!("{}  -\n", digests[19]));
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_guest_has_a_secrets_file_in_memory_alone_while_its_command_runs() {
    let (place, values) = (Place::new(), planted());
    let server = Server::start(&place, DriverKind::Qemu).await;
    let body = json!({
        "name": "demo", "ai_assistant": "shell", "disk_mib": 300, "memory_mib": 192,
        "idle_action": "hibernate",
    });
    let workspace = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
    for (name, value) in &values {
        let (kind, value) = match name.as_str() {
            "S00" => ("file", format!("{value}\n")),
            _ => ("opaque", value.clone()),
        };
        let set = json!({ "name": name, "value": value, "kind": kind });
        server.post(&format!("{workspace}/secrets"), set).await;
    }
    let names: Vec<&String> = values.keys().collect();
    let look = "stat -c '%a %U' \"$S00\"; stat -f -c %T \"$S00\"; sha256sum < \"$S00\"; \
                cat \"$S00\"; env";
    let prompt = json!({ "prompt": look, "secrets": names });
    let made = server.post(&format!("{workspace}/prompts"), prompt).await;
    let (end, output) = server.ended(&format!("{workspace}/prompts/{}", id(&made))).await;
    assert_eq!(state(&end), "completed", "{end:#}\n{output}");
    let told: Vec<&str> = output.lines().take(4).collect();
    let whole = digest(&format!("{}\n", values["S00"]));
    assert_eq!(told, ["400 root", "tmpfs", &format!("{whole}  -"), "***"], "{output}");
    assert!(output.contains("S01=***\n") && found_in(output.as_bytes(), &values).is_empty());
    let left = server.answer(&workspace, "ls -A /run/aetherium/secrets").await;
    assert_eq!(left, "", "the file is gone with its command");
    let vm = end["vm_id"].as_str().unwrap();
    let snapshot = json!({ "name": "never", "kind": "full" });
    server.post(&format!("/vms/{vm}/pause"), json!({})).await;
    let (status, why) =
        server.call(Method::POST, &format!("/vms/{vm}/snapshot"), Some(snapshot)).await;
    assert_eq!(status, StatusCode::CONFLICT, "{why:#}");
    assert!(why["detail"].as_str().unwrap().contains("was given secrets"), "{why:#}");
    assert_no_file_has(&place, &values);
    server.stop().await;
    assert_no_file_has(&place, &values);
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn what_has_secrets_in_a_hibernated_vm_goes_on_and_its_memory_is_on_the_disk_encrypted_alone()
{
    let (place, values) = (Place::new(), planted());
    let server = Server::start(&place, DriverKind::Qemu).await;
    let body = json!({
        "name": "demo", "ai_assistant": "shell", "disk_mib": 300, "memory_mib": 192,
        "idle_action": "hibernate",
    });
    let workspace = format!("/workspaces/{}", id(&server.post("/workspaces", body).await));
    for (name, value) in &values {
        let set = json!({ "name": name, "value": value });
        server.post(&format!("{workspace}/secrets"), set).await;
    }
    let names: Vec<&String> = values.keys().collect();
    let sleeps = "setsid sleep 600 > /dev/null 2>&1 < /dev/null & printf %s $!";
    let prompt = json!({ "prompt": sleeps, "secrets": names });
    let made = server.post(&format!("{workspace}/prompts"), prompt).await;
    let (end, process) = server.ended(&format!("{workspace}/prompts/{}", id(&made))).await;
    assert_eq!(state(&end), "completed", "{end:#}");

    let workers = server.get("/workers").await;
    let worker = id(&workers["items"][0]);
    let in_memory = Path::new("/dev/shm").join(format!("aetherium-{worker}"));
    let in_clear = || {
        let dirs = fs::read_dir(&in_memory).unwrap().flatten();
        dirs.flat_map(|vm| fs::read_dir(vm.path()).unwrap().flatten()).count()
    };
    // Once woken, the next one has been given them, too.
    for _ in 0..2 {
        let asleep = server.post(&format!("{workspace}/hibernate"), json!({})).await;
        assert_eq!(asleep["lifecycle"], "hibernated", "{asleep:#}");
        assert_no_file_has(&place, &values);
        assert_eq!(in_clear(), 0);
        let look = format!(
            "tr '\\0' '\\n' < /proc/{process}/environ | grep '^S07=' | cut -c5- | tr -d '\\n' | sha256sum"
        );
        let shown = server.answer(&workspace, &look).await;
        assert_eq!(shown, format!("{}  -\n", digest(&values["S07"])));
        assert_eq!(in_clear(), 0);
    }

    // Killed while it is in the host's memory in clear, nothing of it is left there, and the VM goes on.
    let request = crate::world::http()
        .post(format!("{}/api/v1{workspace}/hibernate", server.url()))
        .bearer_auth(server.key())
        .json(&json!({}));
    let asked = tokio::spawn(request.send());
    let deadline = Instant::now() + SOON;
    while in_clear() == 0 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.kill();
    let _ = asked.await.unwrap();
    let server = Server::start(&place, DriverKind::Qemu).await;
    assert_eq!(in_clear(), 0);
    let alive = format!("kill -0 {process} && echo alive");
    assert_eq!(server.answer(&workspace, &alive).await, "alive\n");
    assert_no_file_has(&place, &values);

    // With a new master key it is woken, and what is damaged is not.
    server.post(&format!("{workspace}/hibernate"), json!({})).await;
    server.stop().await;
    assert!(!in_memory.exists(), "the worker took it along");
    let keys = place.path().join("secrets-keys");
    let old = fs::read_to_string(&keys).unwrap();
    let new = aetherium_secrets::new_key_line(&"k2".parse().unwrap());
    fs::write(&keys, format!("{}{old}", *new)).unwrap();
    Server::start(&place, DriverKind::Qemu).await.stop().await;
    succeeded(secret(&place, &["rotate"], ""));
    fs::write(&keys, &*new).unwrap();
    let server = Server::start(&place, DriverKind::Qemu).await;
    assert_eq!(server.answer(&workspace, &alive).await, "alive\n");
    server.post(&format!("{workspace}/hibernate"), json!({})).await;
    let manifest = place.path().join(format!("{}/hibernation/manifest.json", &workspace[1..]));
    let text = fs::read_to_string(&manifest).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    record["sealed"]["envelope"] = json!("AAAA.AAAA");
    fs::write(&manifest, record.to_string()).unwrap();
    let path = server.prompt(&workspace, "true").await;
    server.ended(&path).await;
    let (_, told) = server.call(Method::GET, &format!("{path}/events"), None).await;
    let told = told.as_str().unwrap();
    assert!(told.contains("hibernation_discarded") && told.contains("decrypted"), "{told}");
    assert_no_file_has(&place, &values);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[test]
fn a_role_without_a_good_master_key_does_not_start() {
    let place = Place::new();
    let fleet_key = place.path().join("fleet-key");
    fs::write(&fleet_key, "a fleet key of more than thirty-two bytes").unwrap();
    let weak = place.path().join("weak");
    fs::write(&weak, "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n").unwrap();
    let database = format!("sqlite://{}", place.path().join("fleet.db").display());
    for (more, why) in [
        (&[][..], "no master keys are named"),
        (&["--secrets-keys-file", weak.to_str().unwrap()], "the key k1 is weak"),
        (&["--secrets-keys-file", "/nowhere"], "/nowhere"),
        (&["--secrets-keys-file", AETHERIUM], AETHERIUM),
    ] {
        for role in ["gateway", "worker"] {
            let ran = place
                .aetherium()
                .env_remove("AETHERIUM_DEV")
                .args([role, "--listen", "127.0.0.1:0", "--database", &database])
                .arg("--fleet-key-file")
                .arg(&fleet_key)
                .args(more)
                .output()
                .unwrap();
            let said = text(&Value::String(String::from_utf8_lossy(&ran.stderr).into_owned()));
            assert!(!ran.status.success() && said.contains(why), "{role}: {said}");
        }
    }
}
