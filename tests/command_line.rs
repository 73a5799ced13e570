//! The command line, as a person meets it.

use crate::world::{Place, Server};
use aetherium_model::resources::DriverKind;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Output, Stdio},
};

fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

fn run(place: &Place, args: &[&str], input: &str) -> (String, String, Option<i32>) {
    let mut child = place
        .aetherium()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_bytes().to_owned();
    // Beside the reading: a pipe holds little, and a program may answer before it has read all.
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let over = kill_after(&child, crate::world::BOOT);
    let output = child.wait_with_output().unwrap();
    drop(over);
    // A program that does not read its input is no failure.
    let _ = feeding.join().unwrap();
    said(&output)
}

/// Ends a program that hangs, unless what this returns is dropped before.
fn kill_after(
    child: &std::process::Child,
    time: std::time::Duration,
) -> std::sync::mpsc::Sender<()> {
    let pid = rustix::process::Pid::from_child(child);
    let (over, dropped) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if dropped.recv_timeout(time) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    over
}

#[test]
fn a_plan_tells_what_firecracker_would_be_asked_and_starts_nothing() {
    let place = Place::new();
    let plan = |more: &[&str]| {
        let args = ["vm", "plan", "--memory-mib", "256", "--no-slots"];
        run(&place, &[&args[..], more].concat(), "")
    };
    // This version loads the kernel however the template has it.
    let (out, err, code) = plan(&["--json", "--firecracker-version", "1.17.0"]);
    assert_eq!(code, Some(0), "{err}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["firecracker"], "1.17.0");
    assert_eq!(json["calls"][0]["body"]["mem_size_mib"], 256);
    assert_eq!(json["agent"][0]["transport"], "vsock");
    let reasons = json["reasons"].as_array().unwrap();
    assert!(
        reasons.iter().all(|it| it["why"].as_str().is_some_and(|why| !why.is_empty())),
        "{out}"
    );

    let (out, err, code) = plan(&["--firecracker-version", "1.17.0"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("PUT /boot-source") && out.contains("transport"), "{out}");

    let tuned = ["--balloon-mib", "32", "--disk-bandwidth", "20M", "--huge-pages", "transparent"];
    let (out, err, code) = plan(&[&["--firecracker-version", "1.17.0"][..], &tuned].concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("20971520 bytes in 1000 ms") && out.contains("32 MiB"), "{out}");
    assert!(out.contains(r#""huge_pages":"Transparent""#), "{out}");
    let (_, err, code) = plan(&["--balloon-mib", "250"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("balloon_mib") && err.contains("0 to 240"), "{err}");

    if rustix::process::geteuid().is_root() {
        let (out, err, code) = run(&place, &["vm", "plan", "--firecracker-version", "1.17.0"], "");
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("in a network namespace assigned at the start"), "{out}");
    }

    let (_, err, code) = plan(&["--firecracker-version", "1.12.0", "--transport", "pci"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("1.13.0") && err.contains("what to do"), "{err}");
    place.assert_no_vm_is_left();
}

#[test]
fn run_boots_a_vm_feeds_it_and_exits_as_the_command_did() {
    let place = Place::new();
    let script = "read line; echo got $line; echo oops >&2; uname -n; exit 42";
    let (out, err, code) =
        run(&place, &["run", "--driver", "qemu", "--", "sh", "-c", script], "input\n");
    assert_eq!(code, Some(42), "{err}");
    assert!(out.starts_with("got input\nvm-"), "{out}");
    assert!(err.contains("oops"), "{err}");
    place.assert_no_vm_is_left();
}

#[test]
fn run_tells_its_own_failures_from_the_commands() {
    let place = Place::new();
    let driver = ["run", "--driver", "process"];
    let with = |more: &[&str]| run(&place, &[&driver[..], more].concat(), "");
    assert_eq!(with(&["--", "no-such-program"]).2, Some(127));
    let text = place.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    assert_eq!(with(&["--", text.to_str().unwrap()]).2, Some(126));
    assert_eq!(with(&["--", "sh", "-c", "kill -9 $$"]).2, Some(137));
    assert_eq!(with(&["--timeout", "300ms", "--", "sleep", "60"]).2, Some(124));
    let missing = ["run", "--driver", "qemu", "--template", "none-such", "--", "true"];
    let (_, err, code) = run(&place, &missing, "");
    assert_eq!(code, Some(125));
    assert!(err.contains("none-such") && err.contains("what to do"), "{err}");
    let (_, err, code) = with(&["--cwd", "relative", "--", "true"]);
    assert_eq!(code, Some(2), "{err}");
    place.assert_no_vm_is_left();
}

#[test]
fn a_large_stream_goes_through_whole() {
    let place = Place::new();
    let input = "0123456789abcdef".repeat(200_000);
    let (out, err, code) = run(&place, &["run", "--driver", "process", "--", "cat"], &input);
    assert_eq!(code, Some(0), "{err}");
    assert!(out == input, "{} bytes of {}", out.len(), input.len());
}

#[tokio::test]
async fn a_workspace_is_made_prompted_and_removed_by_its_name() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    let (_, err, code) = run(&place, &["ws", "create", "demo"], "");
    assert_eq!(code, Some(0), "{err}");
    let (out, err, code) =
        run(&place, &["ws", "prompt", "demo", "echo hello; echo bad >&2; exit 3"], "");
    assert_eq!((out.as_str(), code), ("hello\n", Some(3)), "{err}");
    assert!(err.contains("bad"), "{err}");
    assert!(run(&place, &["ws", "list"], "").0.contains("demo"));
    assert!(run(&place, &["ws", "prompts", "demo"], "").0.contains("completed"));
    assert!(run(&place, &["worker", "list"], "").0.contains("active"));
    assert_eq!(run(&place, &["ws", "delete", "demo"], "").2, Some(0));
    server.stop().await;
}

#[test]
fn without_a_server_a_verb_says_how_to_start_one() {
    let place = Place::new();
    let (_, err, code) = run(&place, &["ws", "list"], "");
    assert_eq!(code, Some(1));
    assert!(err.contains("aetherium up"), "{err}");
}

#[test]
fn doctor_names_what_it_checked_for_people_and_programs() {
    let place = Place::new();
    let (out, err, _) = run(&place, &["doctor"], "");
    assert!(out.contains("qemu.binary") && out.contains("kvm.device"), "{out}{err}");
    let (out, _, _) = run(&place, &["doctor", "--json"], "");
    let findings: serde_json::Value = serde_json::from_str(&out).unwrap();
    for finding in findings.as_array().unwrap() {
        assert!(finding["check"].is_string() && finding["why"].is_string(), "{finding:#}");
        assert!(finding["verdict"] == "ok" || finding["remedy"].is_string(), "{finding:#}");
    }
}

/// Runs a program whose reader goes after so many lines, or before the first.
fn run_unread(place: &Place, args: &[&str], lines: usize) -> (Vec<String>, String, Option<i32>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = (lines > 0).then_some(reader);
    let child = place
        .aetherium()
        .args(args)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let over = kill_after(&child, crate::world::BOOT);
    let read = reader.into_iter().flat_map(|it| BufReader::new(it).lines()).take(lines);
    let read = read.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    drop(over);
    let (_, err, code) = said(&output);
    (read, err, code)
}

#[tokio::test]
async fn whoever_reads_no_further_ends_a_program_quietly() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Process).await;
    server.workspace("unread").await;
    for verb in [
        &["tool", "list"][..],
        &["--json", "tool", "list"],
        &["ws", "list"],
        &["ws", "get", "unread"],
        &["openapi"],
        &["completion", "bash"],
        &["config", "schema"],
        &["status"],
        &["ws", "exec", "unread", "--", "yes"],
        &["events", "--follow", "--after", "0"],
    ] {
        let (_, err, code) = run_unread(&place, verb, 0);
        assert_eq!((err.as_str(), code), ("", Some(141)), "{verb:?}");
    }
    // These have more to say on standard error.
    for verb in [&["template", "list"][..], &["template", "export", "default"]] {
        let (_, err, code) = run_unread(&place, verb, 0);
        let is_quiet = !err.contains("error") && !err.contains("panicked");
        assert!(is_quiet && code == Some(141), "{verb:?}: {code:?} {err}");
    }
    // What cannot be written for another reason is told.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let told = place.aetherium().args(["tool", "list"]).stdout(full).output().unwrap();
    let (_, err, code) = said(&told);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("error: cannot write to standard output"), "{err}");
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[test]
fn a_vm_whose_output_nobody_reads_any_more_is_ended() {
    let place = Place::new();
    let run = ["run", "--driver", "process", "--", "sh", "-c", "echo first; exec yes"];
    let (read, err, code) = run_unread(&place, &run, 1);
    assert_eq!((read, code), (vec!["first".to_owned()], Some(141)), "{err}");
    assert!(!err.contains("panicked") && !err.contains("error"), "{err}");
    place.assert_no_vm_is_left();
    let prompt = ["quickstart", "--driver", "process", "--prompt", "echo first; exec yes"];
    let (read, err, code) = run_unread(&place, &prompt, 1);
    assert_eq!((read, code), (vec!["first".to_owned()], Some(141)), "{err}");
    place.assert_no_vm_is_left();
}

#[test]
fn every_verb_has_help_and_every_shell_a_completion() {
    for verb in [
        "up", "run", "exec", "ws", "vm", "task", "template", "worker", "doctor", "bench", "kernel",
        "host",
    ] {
        let help = Command::new(crate::world::AETHERIUM).args([verb, "--help"]).output().unwrap();
        assert!(help.status.success() && !help.stdout.is_empty(), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script =
            Command::new(crate::world::AETHERIUM).args(["completion", shell]).output().unwrap();
        assert!(String::from_utf8(script.stdout).unwrap().contains("aetherium"), "{shell}");
    }
}
