//! Which worker gets something new: a pure function over the workers' rows, given the dice.
//!
//! Of the workers that can have it and have room, a few are drawn, and the best of them are the answer,
//! best first: the one that is least full with it, by steps; among those about as full the one that is
//! liked more; then the one that is exactly less full. Drawing keeps many gateways, each with rows a
//! moment old, from all choosing the one worker that looked emptiest, and a few are enough to keep the
//! fleet even. Whether there still is room is decided by whoever writes the choice.

use aetherium_model::{
    TemplateRef,
    placement::{Placement, Preference},
    room::Room,
    worker::{Worker, WorkerState},
};
use rand::{Rng, seq::index};
use std::{cmp::Reverse, collections::BTreeSet};

/// How many workers are drawn, and again as many of those liked best.
pub const DRAWN: usize = 4;
/// Fullness by which workers count as equal, in parts of a worker: a twentieth.
const STEPS: f64 = 20.0;

/// Why no worker can take it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// None has ever joined, or all that did have stopped, take nothing or fell silent.
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
    /// Those that hold it are not where it must be.
    #[error("no worker that holds the template {template} is in {wanted}")]
    NoMatch {
        /// The template asked for.
        template: TemplateRef,
        /// The zone and labels asked for.
        wanted: String,
    },
    /// Those that may have it are full.
    #[error("none of {able} workers has room for {wanted}; the emptiest has {most} left")]
    Full {
        /// How many may have it.
        able: usize,
        /// What it takes.
        wanted: Room,
        /// What is left on the emptiest.
        most: Room,
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
            Self::NoMatch { .. } => {
                "ask for another zone or other labels; `aetherium worker list` shows those there are"
                    .to_owned()
            }
            Self::Full { .. } => {
                "end VMs or remove workspaces, ask for less, add a worker, or let it wait with \
                 when_full"
                    .to_owned()
            }
        }
    }
}

/// What it takes of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Need {
    /// What is reserved for it as it is made.
    pub now: Room,
    /// What it will take besides, once it runs: the worker must have that much in all.
    pub later: Room,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The template it starts from.
    pub template: &'a TemplateRef,
    /// What it takes.
    pub need: Need,
    /// Where it must be, and where it is liked.
    pub placement: &'a Placement,
}

/// Chooses workers for something new, best first; at least one.
///
/// # Errors
/// [`NoPlace`], with the first requirement that no worker meets.
pub fn place<'a>(
    workers: &'a [Worker],
    wanted: &Wanted<'_>,
    dice: &mut impl Rng,
) -> Result<Vec<&'a Worker>, NoPlace> {
    let Wanted { need, placement, .. } = *wanted;
    let mut able = holders(workers, wanted.template)?;
    able.retain(|worker| meets(worker, placement));
    if able.is_empty() {
        let template = wanted.template.clone();
        return Err(NoPlace::NoMatch { template, wanted: in_words(placement) });
    }
    let fits = |worker: &&Worker| {
        worker.free().holds(need.now) && worker.allocatable.holds(need.now.and(need.later))
    };
    let fitting: Vec<_> = able.iter().filter(|worker| fits(worker)).copied().collect();
    if fitting.is_empty() {
        let emptiest = able.iter().min_by(|a, b| full(a, need).total_cmp(&full(b, need)));
        let most = emptiest.map(|worker| worker.free()).unwrap_or_default();
        let wanted = need.now.and(need.later);
        return Err(NoPlace::Full { able: able.len(), wanted, most });
    }
    let mut drawn = draw(&fitting, dice);
    let liked = |worker: &Worker| liking(worker, &placement.preferred);
    let most = fitting.iter().map(|worker| liked(worker)).max().unwrap_or_default();
    if most > 0 {
        let liked_best: Vec<_> = fitting.into_iter().filter(|it| liked(it) == most).collect();
        drawn.extend(draw(&liked_best, dice));
    }
    // Fewer than a twentieth more is no reason to be somewhere else.
    #[expect(clippy::cast_possible_truncation, reason = "a worker is never that full")]
    let step = |worker: &Worker| (full(worker, need) * STEPS) as i64;
    drawn.sort_by(|a, b| {
        (step(a), Reverse(liked(a)))
            .cmp(&(step(b), Reverse(liked(b))))
            .then(full(a, need).total_cmp(&full(b, need)))
            .then(a.id.cmp(&b.id))
    });
    drawn.dedup_by_key(|worker| worker.id);
    Ok(drawn)
}

/// The workers that can run VMs at all; at least one.
///
/// # Errors
/// [`NoPlace`], with the first requirement that no worker meets.
pub fn able(workers: &[Worker]) -> Result<Vec<&Worker>, NoPlace> {
    let active: Vec<_> = workers.iter().filter(|it| it.state == WorkerState::Active).collect();
    if active.is_empty() {
        let state = |w: &Worker| format!("{} is {}", w.hostname, w.state.as_str());
        return Err(NoPlace::NoWorker { seen: workers.iter().map(state).collect() });
    }
    let (able, unable): (Vec<_>, Vec<_>) = active.into_iter().partition(|w| w.driver.is_some());
    if able.is_empty() {
        let reason = |w: &&Worker| format!("{}: {}", w.hostname, w.driver_reason);
        return Err(NoPlace::NoDriver { reasons: unable.iter().map(reason).collect() });
    }
    Ok(able)
}

/// The workers that can start VMs of this template; at least one.
///
/// # Errors
/// [`NoPlace`], with the first requirement that no worker meets.
pub fn holders<'a>(
    workers: &'a [Worker],
    template: &TemplateRef,
) -> Result<Vec<&'a Worker>, NoPlace> {
    let able = able(workers)?;
    let holders: Vec<_> = able.iter().filter(|it| it.can_start(template)).copied().collect();
    if holders.is_empty() {
        let known: BTreeSet<_> = able.iter().flat_map(|worker| &worker.templates).collect();
        let known = template.resembled(known.into_iter().map(|held| held.name().clone()));
        let known = known.iter().map(TemplateRef::to_string).collect();
        return Err(NoPlace::NoTemplate { template: template.clone(), known });
    }
    Ok(holders)
}

/// Draws some of them, each at most once.
fn draw<'a>(from: &[&'a Worker], dice: &mut impl Rng) -> Vec<&'a Worker> {
    index::sample(dice, from.len(), DRAWN.min(from.len())).into_iter().map(|it| from[it]).collect()
}

/// How full a worker is with it.
fn full(worker: &Worker, need: Need) -> f64 {
    worker.reserved.and(need.now).fullness_of(worker.allocatable)
}

fn meets(worker: &Worker, placement: &Placement) -> bool {
    placement.zone.as_ref().is_none_or(|zone| worker.zone.as_ref() == Some(zone))
        && placement.labels.iter().all(|(key, value)| worker.labels.get(key) == Some(value))
}

/// How much a worker is liked: its zone before any number of labels, which nobody gives 1,000 of.
fn liking(worker: &Worker, preferred: &Preference) -> usize {
    let zone = preferred.zone.is_some() && worker.zone == preferred.zone;
    let labels =
        preferred.labels.iter().filter(|(key, value)| worker.labels.get(*key) == Some(*value));
    usize::from(zone) * 1000 + labels.count()
}

fn in_words(placement: &Placement) -> String {
    let zone = placement.zone.iter().map(|zone| format!("zone {zone}"));
    let labels = placement.labels.iter().map(|(key, value)| format!("{key}={value}"));
    zone.chain(labels).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
