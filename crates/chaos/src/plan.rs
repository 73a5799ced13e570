//! What is broken, and when: drawn from a seed, the same for the same seed and shape.
//!
//! Whatever is broken is mended before the plan ends. Nothing is broken twice at once, but several
//! things are broken together.

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

/// The first fault comes when prompts run.
const CALM_BEFORE: u64 = 2_000;
/// Between two faults, in milliseconds.
const GAP: std::ops::RangeInclusive<u64> = 500..=4_000;
/// How long something is left alone after it was mended, in milliseconds.
const REST: u64 = 1_000;
/// The furthest that a clock is set wrong, in seconds: past every timeout of the product but the day
/// for which requests may be repeated.
const MAX_SKEW: i64 = 7_200;

/// A process of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// A gateway, counted from 1.
    Gateway(u8),
    /// A worker, counted from 1.
    Worker(u8),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(number) => write!(f, "gateway-{number}"),
            Self::Worker(number) => write!(f, "worker-{number}"),
        }
    }
}

/// One thing that is done to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// `kill -9`.
    Kill(Node),
    /// Started again.
    Start(Node),
    /// `SIGSTOP`.
    Stop(Node),
    /// `SIGCONT`.
    Continue(Node),
    /// Its network is cut.
    Cut(Node),
    /// Its network is whole again.
    Join(Node),
    /// Its wall clock is set wrong.
    Skew {
        /// Whose.
        node: Node,
        /// By how many seconds; 0 sets it right.
        seconds: i64,
    },
    /// `kill -9` of Redis.
    KillRedis,
    /// Redis is started again, empty.
    StartRedis,
    /// PostgreSQL ends some of its connections.
    EndConnections {
        /// How many of a hundred.
        per_cent: u8,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "kill -9 {node}"),
            Self::Start(node) => write!(f, "start {node}"),
            Self::Stop(node) => write!(f, "stop {node}"),
            Self::Continue(node) => write!(f, "continue {node}"),
            Self::Cut(node) => write!(f, "cut the network of {node}"),
            Self::Join(node) => write!(f, "join the network of {node}"),
            Self::Skew { node, seconds: 0 } => write!(f, "set the clock of {node} right"),
            Self::Skew { node, seconds } => write!(f, "set the clock of {node} {seconds:+} s off"),
            Self::KillRedis => f.write_str("kill -9 redis"),
            Self::StartRedis => f.write_str("start redis"),
            Self::EndConnections { per_cent } => {
                write!(f, "end {per_cent} % of PostgreSQL's connections")
            }
        }
    }
}

/// When a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Milliseconds after the first prompt.
    pub at_ms: u64,
    /// What is done.
    pub step: Step,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:03} s  {}", self.at_ms / 1_000, self.at_ms % 1_000, self.step)
    }
}

/// What there is to break.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Gateways.
    pub gateways: u8,
    /// Workers.
    pub workers: u8,
    /// What may be done.
    pub kinds: Vec<Kind>,
    /// How long it goes on.
    pub lasts: Duration,
    /// The workers' lease: half of the faults are over before it, the others outlast it by far.
    pub lease: Duration,
}

/// What can be broken once at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Target {
    Process(Node),
    Clock(Node),
    Redis,
    Postgres,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `kill -9` of a process.
    Kill,
    /// `SIGSTOP` of one.
    Stop,
    /// Its network is cut.
    Cut,
    /// Its wall clock is set wrong.
    Skew,
    /// `kill -9` of Redis.
    Redis,
    /// PostgreSQL ends connections.
    Connections,
}

impl Kind {
    /// Every one there is.
    pub const ALL: [Self; 6] =
        [Self::Kill, Self::Stop, Self::Cut, Self::Skew, Self::Redis, Self::Connections];

    /// Whether no prompt may come to harm by it: every one is completed, however late.
    pub const fn is_harmless(self) -> bool {
        matches!(self, Self::Skew | Self::Redis | Self::Connections)
    }

    /// Its name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Cut => "cut",
            Self::Skew => "skew",
            Self::Redis => "redis",
            Self::Connections => "connections",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or_else(|| {
            format!("{text:?} is no fault: give {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// How often each comes, against the others.
const WEIGHTS: [(Kind, u32); 6] = [
    (Kind::Kill, 5),
    (Kind::Stop, 4),
    (Kind::Cut, 4),
    (Kind::Skew, 3),
    (Kind::Redis, 1),
    (Kind::Connections, 3),
];

/// The steps of a run, by time.
pub fn plan(seed: u64, shape: &Shape) -> Vec<Planned> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let end = millis(shape.lasts);
    let mut free_from: HashMap<Target, u64> = HashMap::new();
    let mut steps = Vec::new();
    let mut at = CALM_BEFORE;
    loop {
        at += random.random_range(GAP);
        // Everything is drawn before anything is decided: what is skipped moves nothing else.
        let Some(kind) = draw_kind(&mut random, &shape.kinds) else { return steps };
        let node = draw_node(&mut random, shape);
        let length = draw_length(&mut random, millis(shape.lease));
        let seconds = random.random_range(1..=MAX_SKEW) * if random.random() { 1 } else { -1 };
        let per_cent = random.random_range(10..=100);
        if at >= end {
            break;
        }
        let (target, broken, mended) = match kind {
            Kind::Kill => (Target::Process(node), Step::Kill(node), Some(Step::Start(node))),
            Kind::Stop => (Target::Process(node), Step::Stop(node), Some(Step::Continue(node))),
            Kind::Cut => (Target::Process(node), Step::Cut(node), Some(Step::Join(node))),
            Kind::Skew => {
                let right = Step::Skew { node, seconds: 0 };
                (Target::Clock(node), Step::Skew { node, seconds }, Some(right))
            }
            Kind::Redis => (Target::Redis, Step::KillRedis, Some(Step::StartRedis)),
            Kind::Connections => (Target::Postgres, Step::EndConnections { per_cent }, None),
        };
        if free_from.get(&target).is_some_and(|free| at < *free) {
            continue;
        }
        let over = (at + length).min(end);
        free_from.insert(target, over + REST);
        steps.push(Planned { at_ms: at, step: broken });
        steps.extend(mended.map(|step| Planned { at_ms: over, step }));
    }
    steps.sort_by_key(|it| it.at_ms);
    steps
}

/// One of those that may be done, if there are any.
fn draw_kind(random: &mut Xoshiro256PlusPlus, kinds: &[Kind]) -> Option<Kind> {
    let possible = || WEIGHTS.into_iter().filter(|(kind, _)| kinds.contains(kind));
    let all: u32 = possible().map(|it| it.1).sum();
    if all == 0 {
        return None;
    }
    let mut left = random.random_range(0..all);
    for (kind, weight) in possible() {
        if left < weight {
            return Some(kind);
        }
        left -= weight;
    }
    None
}

/// Workers twice as often as gateways, which have nothing to lose.
fn draw_node(random: &mut Xoshiro256PlusPlus, shape: &Shape) -> Node {
    let of = |random: &mut Xoshiro256PlusPlus, many: u8| random.random_range(1..=many);
    if random.random_range(0..3) == 0 {
        Node::Gateway(of(random, shape.gateways))
    } else {
        Node::Worker(of(random, shape.workers))
    }
}

fn draw_length(random: &mut Xoshiro256PlusPlus, lease: u64) -> u64 {
    let within = random.random_range(lease / 8..=lease);
    let beyond = random.random_range(2 * lease..=4 * lease);
    if random.random() { within } else { beyond }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn shape(kinds: &[Kind]) -> Shape {
        let (lasts, lease) = (Duration::from_secs(600), Duration::from_secs(6));
        Shape { gateways: 2, workers: 3, kinds: kinds.to_vec(), lasts, lease }
    }

    #[test]
    fn a_seed_always_gives_the_same_plan_and_another_seed_another() {
        let shape = shape(&Kind::ALL);
        assert_eq!(plan(7, &shape), plan(7, &shape));
        assert_ne!(plan(7, &shape), plan(8, &shape));
        // Plans of old reports must be the same in later versions.
        let first: Vec<_> = plan(7, &shape).iter().take(2).map(ToString::to_string).collect();
        assert_eq!(first, ["     2.693 s  kill -9 worker-2", "     3.592 s  kill -9 worker-1"]);
    }

    #[test]
    fn whatever_is_broken_is_mended_before_the_end_and_not_broken_again_before_that() {
        let shape = shape(&Kind::ALL);
        for seed in 0..50 {
            let mut broken = HashSet::new();
            for planned in plan(seed, &shape) {
                assert!(u128::from(planned.at_ms) <= shape.lasts.as_millis());
                let (what, breaks) = match planned.step {
                    Step::Kill(node) | Step::Stop(node) | Step::Cut(node) => {
                        (node.to_string(), true)
                    }
                    Step::Start(node) | Step::Continue(node) | Step::Join(node) => {
                        (node.to_string(), false)
                    }
                    Step::Skew { node, seconds } => (format!("{node}'s clock"), seconds != 0),
                    Step::KillRedis => ("redis".into(), true),
                    Step::StartRedis => ("redis".into(), false),
                    Step::EndConnections { .. } => continue,
                };
                let changed = if breaks { broken.insert(what) } else { broken.remove(&what) };
                assert!(changed, "seed {seed}: {planned}");
            }
            assert!(broken.is_empty(), "seed {seed} leaves {broken:?}");
        }
    }

    #[test]
    fn a_long_plan_has_every_step_and_one_of_few_faults_has_those_alone() {
        let all = |kinds: &[Kind]| -> HashSet<String> {
            let steps = plan(1, &shape(kinds)).into_iter().map(|it| format!("{:?}", it.step));
            steps.map(|it| it.split(['(', ' ']).next().unwrap().to_owned()).collect()
        };
        assert_eq!(all(&Kind::ALL).len(), 10, "{:?}", all(&Kind::ALL));
        let few = all(&[Kind::Skew, Kind::Redis]);
        assert_eq!(few, ["Skew", "KillRedis", "StartRedis"].map(str::to_owned).into());
    }
}
