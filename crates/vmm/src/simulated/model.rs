//! How long modelled VMs take for what. Pure: a seed and a VM's number decide all of its times, whatever
//! the order in which things happen.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{f64::consts::TAU, time::Duration};

/// Times that scatter as those of machines do: around a median, with a tail to the right (log-normal).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Half of all times are below.
    pub median: Duration,
    /// The standard deviation of the times' logarithm: with 0.3 one time in a hundred is more than
    /// twice the median. 0 is no scatter.
    pub sigma: f64,
}

impl Spread {
    fn draw(self, rng: &mut StdRng) -> Duration {
        // Box and Muller: two even numbers make a normal one. The first must not be 0.
        let (even, turn): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        let normal = (-2.0 * even.ln()).sqrt() * (TAU * turn).cos();
        self.median.mul_f64((self.sigma * normal).exp())
    }
}

/// How long VMs and their commands take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// What the draws begin with: the same seed, the same times.
    pub seed: u64,
    /// Starting the VMM.
    pub launch: Spread,
    /// From there until the agent answers.
    pub boot: Spread,
    /// A command.
    pub command: Spread,
}

impl Default for Model {
    /// A VMM that starts in 20 ms, a guest that boots in the 125 ms that Firecracker's
    /// SPECIFICATION.md promises, commands of 50 ms that differ much.
    fn default() -> Self {
        let spread = |ms, sigma| Spread { median: Duration::from_millis(ms), sigma };
        Self { seed: 0, launch: spread(20, 0.2), boot: spread(125, 0.3), command: spread(50, 0.8) }
    }
}

impl Model {
    /// What the VM of this number takes.
    pub(super) fn times(&self, number: u32) -> Times {
        let rng = &mut StdRng::seed_from_u64(self.seed ^ u64::from(number).rotate_left(32));
        let (launch, boot) = (self.launch.draw(rng), self.boot.draw(rng));
        Times { launch, boot, command: self.command, seed: rng.random() }
    }
}

/// What one VM takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) launch: Duration,
    pub(super) boot: Duration,
    command: Spread,
    seed: u64,
}

impl Times {
    /// What its command of this number takes.
    pub(super) fn command(&self, number: u32) -> Duration {
        self.command.draw(&mut StdRng::seed_from_u64(self.seed ^ u64::from(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_all_times_and_another_seed_other_ones() {
        let drawn = |seed| {
            let times = Model { seed, ..Model::default() }.times(7);
            (times.launch, times.boot, times.command(0), times.command(1))
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let (launch, boot, first, second) = drawn(1);
        assert!(launch != boot && first != second);
    }

    #[test]
    fn half_of_the_times_are_below_the_median_and_few_are_twice_as_long() {
        let model = Model::default();
        let boots: Vec<Duration> = (0..10_000).map(|number| model.times(number).boot).collect();
        let longer_than =
            |times: u32| boots.iter().filter(|boot| **boot > model.boot.median * times).count();
        assert!((4700..5300).contains(&longer_than(1)), "{}", longer_than(1));
        assert!((50..200).contains(&longer_than(2)), "{}", longer_than(2));
    }
}
