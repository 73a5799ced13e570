//! Faults on demand: what goes wrong at which call.

use crate::refusal::Refusal;
use bytes::Bytes;
use serde::Deserialize;

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    /// Where: `start`, before the API socket is there, or a call such as `PUT /boot-source`. A call
    /// that can ask for several things may be followed by the one that is meant, as in
    /// `PUT /actions InstanceStart` and `PATCH /vm Paused`.
    at: String,
    /// What.
    r#do: Deed,
    /// How often; always if absent.
    #[serde(default)]
    times: Option<u32>,
}

/// What happens instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    /// Status 400 with this message.
    Refuse(String),
    /// No answer, ever, to this call and to any after it.
    Hang,
    /// The process is killed, as if from outside.
    Die,
    /// The process ends with this code.
    Exit(u8),
    /// Bytes that are no JSON, under status 200.
    Garbage,
}

/// The faults that are still to come.
#[derive(Debug)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn new(faults: Vec<Fault>) -> Self {
        Self(faults)
    }

    /// What happens at a call with these names, if anything does; counts it.
    fn take(&mut self, names: &[String]) -> Option<Deed> {
        let fault = self
            .0
            .iter_mut()
            .find(|fault| names.contains(&fault.at) && fault.times.is_none_or(|left| left > 0))?;
        fault.times = fault.times.map(|left| left - 1);
        Some(fault.r#do.clone())
    }

    /// Lets happen what is to happen at a call with these names.
    ///
    /// `None` if nothing is; the bytes to answer with, or the refusal. Does not return from a fault
    /// that gives no answer.
    pub(crate) async fn strike(&mut self, names: &[String]) -> Option<Result<Bytes, Refusal>> {
        match self.take(names)? {
            Deed::Refuse(message) => Some(Err(Refusal::bad_request(message))),
            Deed::Garbage => Some(Ok(Bytes::from_static(b"\x16\x03\x01 }{ not JSON"))),
            Deed::Hang => std::future::pending().await,
            Deed::Exit(code) => std::process::exit(code.into()),
            Deed::Die => die().await,
        }
    }
}

/// Ends this process as if it were killed from outside.
pub(crate) async fn die<T>() -> T {
    let own = rustix::process::getpid();
    // It cannot fail for a process's own number, and after it nothing runs.
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Faults {
        Faults::new(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn a_fault_strikes_at_its_call_as_often_as_it_is_told() {
        let mut faults = faults(r#"[{"at": "GET /", "do": "garbage", "times": 2}]"#);
        assert_eq!(faults.take(&["GET /version".into()]), None);
        for expected in [Some(Deed::Garbage), Some(Deed::Garbage), None] {
            assert_eq!(faults.take(&["GET /".into()]), expected);
        }
    }

    #[test]
    fn a_call_may_be_meant_by_what_it_asks_for() {
        let mut faults = faults(r#"[{"at": "PATCH /vm Paused", "do": {"refuse": "no"}}]"#);
        assert_eq!(faults.take(&["PATCH /vm".into(), "PATCH /vm Resumed".into()]), None);
        let names = ["PATCH /vm".into(), "PATCH /vm Paused".into()];
        assert_eq!(faults.take(&names), Some(Deed::Refuse("no".into())));
    }
}
