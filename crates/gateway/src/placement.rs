//! Which worker gets a new VM: a pure function over the workers' rows.
//!
//! Today: an active worker with a driver that can start the template, the one with fewest VMs first,
//! then the lowest id. Reading rows and writing the choice is the routes' business.

use aetherium_model::{TemplateRef, Timestamp, worker::Worker, worker::WorkerState};
use std::collections::BTreeSet;

/// Why no worker can take a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// None has ever joined, or all that did have stopped, are draining or fell silent.
    #[error("no worker is active: {}", if seen.is_empty() { "none has joined".to_owned() } else { seen.join(", ") })]
    NoWorker {
        /// Each worker there is, with its state.
        seen: Vec<String>,
    },
    /// Those that are active have no driver.
    #[error("no active worker has a driver that works: {}", reasons.join("; "))]
    NoDriver {
        /// Each worker's own words.
        reasons: Vec<String>,
    },
    /// Those that could do not hold the template.
    #[error("no worker holds the template {template}; there is {}", if known.is_empty() { "none at all".to_owned() } else { known.join(", ") })]
    NoTemplate {
        /// The template asked for.
        template: TemplateRef,
        /// Those that there are: of the same name where there are any.
        known: Vec<String>,
    },
}

impl NoPlace {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoWorker { .. } => "start a worker, and try again once it is active".to_owned(),
            Self::NoDriver { .. } => {
                "run `aetherium doctor` on the worker's machine; it says what its drivers lack"
                    .to_owned()
            }
            Self::NoTemplate { template, .. } => {
                format!(
                    "build it on a worker's machine with `aetherium template build {template}`, or ask \
                     for one that there is"
                )
            }
        }
    }
}

/// Chooses a worker that can run VMs, whatever templates it holds.
///
/// # Errors
/// [`NoPlace`], with the first requirement that no worker meets.
pub fn place_anywhere(workers: &[Worker], now: Timestamp) -> Result<&Worker, NoPlace> {
    let able = able(workers, now)?;
    able.into_iter()
        .min_by_key(|worker| (worker.vms, worker.id))
        .ok_or(NoPlace::NoWorker { seen: Vec::new() })
}

/// Chooses the worker for a new VM from `template`.
///
/// # Errors
/// [`NoPlace`], with the first requirement that no worker meets.
pub fn place<'a>(
    workers: &'a [Worker],
    template: &TemplateRef,
    now: Timestamp,
) -> Result<&'a Worker, NoPlace> {
    let able = able(workers, now)?;
    let can = |worker: &&&Worker| worker.can_start(template);
    able.iter().filter(can).min_by_key(|worker| (worker.vms, worker.id)).copied().ok_or_else(|| {
        let known: BTreeSet<_> = able.iter().flat_map(|worker| &worker.templates).collect();
        let known = template.resembled(known.into_iter().map(|held| held.name().clone()));
        let known = known.iter().map(TemplateRef::to_string).collect();
        NoPlace::NoTemplate { template: template.clone(), known }
    })
}

/// The workers that are active and have a driver; at least one.
fn able(workers: &[Worker], now: Timestamp) -> Result<Vec<&Worker>, NoPlace> {
    let active: Vec<_> =
        workers.iter().filter(|worker| worker.state_at(now) == WorkerState::Active).collect();
    if active.is_empty() {
        let state = |w: &Worker| format!("{} is {}", w.hostname, w.state_at(now).as_str());
        return Err(NoPlace::NoWorker { seen: workers.iter().map(state).collect() });
    }
    let (able, unable): (Vec<_>, Vec<_>) = active.into_iter().partition(|w| w.driver.is_some());
    if able.is_empty() {
        let reason = |w: &&Worker| format!("{}: {}", w.hostname, w.driver_reason);
        return Err(NoPlace::NoDriver { reasons: unable.iter().map(reason).collect() });
    }
    Ok(able)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::{WorkerId, resources::DriverKind, worker::GONE_AFTER};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn named(text: &str) -> TemplateRef {
        text.parse().unwrap()
    }

    fn any_worker() -> impl Strategy<Value = Worker> {
        let state = prop_oneof![
            4 => Just(WorkerState::Active),
            1 => Just(WorkerState::Draining),
            1 => Just(WorkerState::Stopped),
        ];
        let templates = prop::sample::subsequence(vec!["default", "other"], 0..=2);
        let driver =
            prop::sample::select(vec![None, Some(DriverKind::Qemu), Some(DriverKind::Process)]);
        (state, driver, templates, 0u32..3, any::<bool>()).prop_map(
            |(state, driver, templates, vms, silent)| Worker {
                id: WorkerId::new(),
                hostname: "host".into(),
                version: "1".into(),
                driver,
                driver_reason: "no qemu".into(),
                internal_address: "unix:/x".into(),
                templates: templates.into_iter().map(|it| it.parse().unwrap()).collect(),
                vcpus: 2,
                memory_mib: 1024,
                vms,
                state,
                created_at: NOW,
                heartbeat_at: if silent {
                    Timestamp::from_millis(
                        NOW.as_millis() - i64::try_from(GONE_AFTER.as_millis()).unwrap() - 1,
                    )
                } else {
                    NOW
                },
            },
        )
    }

    proptest! {
        #[test]
        fn the_chosen_worker_can_take_it_and_none_better_was_passed_over(
            workers in prop::collection::vec(any_worker(), 0..6)
        ) {
            let template = named("default");
            let fits = |w: &Worker| {
                w.state_at(NOW) == WorkerState::Active
                    && w.driver.is_some()
                    && w.can_start(&template)
            };
            match place(&workers, &template, NOW) {
                Ok(chosen) => {
                    prop_assert!(fits(chosen));
                    for other in workers.iter().filter(|w| fits(w)) {
                        prop_assert!((chosen.vms, chosen.id) <= (other.vms, other.id));
                    }
                }
                Err(_) => prop_assert!(!workers.iter().any(fits)),
            }
        }

        #[test]
        fn the_reason_is_the_first_requirement_that_none_meets(
            workers in prop::collection::vec(any_worker(), 0..4)
        ) {
            let active = |w: &&Worker| w.state_at(NOW) == WorkerState::Active;
            let any_active = workers.iter().any(|w| active(&w));
            let any_able = workers.iter().any(|w| active(&w) && w.driver.is_some());
            // A plain process starts from no template, and so could take any.
            prop_assume!(!workers.iter().any(|w| w.driver == Some(DriverKind::Process)));
            match place(&workers, &named("absent"), NOW).unwrap_err() {
                NoPlace::NoWorker { seen } => {
                    prop_assert!(!any_active);
                    prop_assert_eq!(seen.len(), workers.len());
                }
                NoPlace::NoDriver { reasons } => {
                    prop_assert!(any_active && !any_able);
                    prop_assert!(!reasons.is_empty());
                }
                NoPlace::NoTemplate { known, .. } => {
                    prop_assert!(any_able);
                    prop_assert!(!known.contains(&"absent".to_owned()));
                }
            }
        }
    }

    #[test]
    fn the_reason_says_which_templates_there_are() {
        let error =
            NoPlace::NoTemplate { template: named("a"), known: vec!["b".into(), "c".into()] };
        assert_eq!(error.to_string(), "no worker holds the template a; there is b, c");
        let nobody = NoPlace::NoWorker { seen: vec![] };
        assert_eq!(nobody.to_string(), "no worker is active: none has joined");
    }
}
