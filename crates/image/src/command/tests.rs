use super::*;
use crate::progress::Silent;
use aetherium_model::finding::Finding;
use std::{
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str, deadline: Duration) -> Tool<'static> {
    Tool::new("sh", "dash", deadline).args(["-c", script])
}

/// Waits until the process whose id is in `file` has gone, or is only waiting to be reaped.
async fn has_ended(file: &Path) -> bool {
    let began = Instant::now();
    while began.elapsed() < LONG {
        let pid = fs::read_to_string(file).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // The state follows the name in parentheses (proc_pid_stat(5)).
        if !pid.is_empty() && (stat.is_empty() || stat.contains(") Z ")) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn a_commands_output_is_given_and_its_words_are_passed_on() {
    #[derive(Default)]
    struct Steps(Mutex<Vec<String>>);
    impl Progress for Steps {
        fn step(&self, label: &str) {
            self.0.lock().unwrap().push(label.to_owned());
        }
        fn total(&self, _: &str, _: Option<u64>) {}
        fn advance(&self, _: u64) {}
        fn done(&self) {}
        fn warn(&self, _: &Finding) {}
    }
    let steps = Steps::default();
    let script = "echo out; echo 'I: one' >&2; echo noise >&2; printf 'I: two' >&2";
    let out = sh(script, LONG).narrate(&steps, |line| line.strip_prefix("I: ")).run().await;
    assert_eq!(out.unwrap(), "out\n");
    assert_eq!(*steps.0.lock().unwrap(), ["one", "two"]);
}

#[tokio::test]
async fn a_failed_command_is_named_with_its_status_and_last_lines() {
    let script = "for i in $(seq 100); do echo line $i >&2; done; exit 3";
    let error = sh(script, LONG).remedy("mend it").run().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("sh -c") && text.contains("status: 3"), "{text}");
    assert_eq!(error.remedy(), "mend it");
    let ImageError::CommandFailed { tail, .. } = error else { panic!("{error:?}") };
    assert_eq!(tail.len(), TAIL_LINES);
    assert_eq!(tail.last().unwrap(), "line 100");
}

#[tokio::test]
async fn a_missing_program_is_named_with_the_package_to_install() {
    let error = Tool::new("no-such-tool", "no-such-package", LONG).run().await.unwrap_err();
    assert!(error.to_string().contains("no-such-tool is not installed"), "{error}");
    assert!(error.remedy().contains("apt-get install no-such-package"));
}

#[tokio::test]
async fn past_its_deadline_a_command_ends_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; echo waiting >&2; wait", pid.display());
    let error = sh(&script, Duration::from_secs(1)).run().await.unwrap_err();
    assert!(matches!(error, ImageError::CommandTimedOut { .. }), "{error}");
    assert!(error.to_string().contains("waiting"), "{error}");
    assert!(has_ended(&pid).await);
}

#[tokio::test]
async fn a_cancelled_command_ends_with_everything_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
    {
        let running = sh(&script, LONG).narrate(&Silent, |_| None).run();
        tokio::pin!(running);
        while fs::read_to_string(&pid).unwrap_or_default().is_empty() {
            let still = timeout(Duration::from_millis(10), &mut running).await;
            assert!(still.is_err(), "it ended by itself: {still:?}");
        }
    }
    assert!(has_ended(&pid).await);
}
