//! What a fleet's rows and clocks come to.

use super::{Cores, drive::Driven};
use crate::{
    args::FleetBenchArgs,
    commands::bench::{Figure, database::Database, ms, percentile},
    error::CliError,
};
use aetherium_vmm::Model;

/// VMs of each worker that has any.
const SHARES: &str = "SELECT COUNT(*) FROM vms WHERE state = 'running' GROUP BY worker_id";
/// From a VM's acceptance until it ran.
const WAITS: &str = "SELECT updated_at - created_at FROM vms WHERE state = 'running'";
/// The same in the mean of each worker.
const WAITS_BY_WORKER: &str = "SELECT CAST(AVG(updated_at - created_at) AS BIGINT) FROM vms \
     WHERE state = 'running' GROUP BY worker_id";

pub(super) async fn figures(
    wanted: &FleetBenchArgs,
    database: &mut Database,
    driven: Driven,
    creating: Cores,
    resting: Cores,
) -> Result<Vec<Figure>, CliError> {
    let Driven { mut placed, refused, took } = driven;
    if let Some(error) = refused.first() {
        error.print();
    }
    let mut shares = database.numbers(SHARES).await?;
    let mut waits = database.numbers(WAITS).await?;
    let waits_by_worker = database.numbers(WAITS_BY_WORKER).await?;
    let running = waits.len() as f64;
    // Workers without a VM are in no group.
    shares.resize(wanted.workers as usize, 0.0);
    let model = Model::default();
    let modelled = ms(model.launch.median + model.boot.median);
    let missing = f64::from(wanted.vms) - running;
    let mut figures = vec![
        Figure::new("fleet.not_running", missing, "VMs").value_at_most(0.0),
        Figure::new("fleet.created", running / took.as_secs_f64(), "VMs/s"),
        Figure::new("fleet.placement.p50", percentile(&mut placed, 50.0), "ms"),
        Figure::new("fleet.placement.p99", percentile(&mut placed, 99.0), "ms").value_at_most(20.0),
        Figure::new("fleet.accepted_to_running.p50", percentile(&mut waits, 50.0), "ms")
            .over(modelled),
        Figure::new("fleet.accepted_to_running.p99", percentile(&mut waits, 99.0), "ms"),
        Figure::new("fleet.imbalance", imbalance(&shares) * 100.0, "%").value_at_most(10.0),
        Figure::new("fleet.fairness.vms", fairness(&shares), ""),
        Figure::new("fleet.fairness.waits", fairness(&waits_by_worker), ""),
    ];
    figures.extend(cores("fleet.creating", creating));
    figures.extend(cores("fleet.heartbeats", resting));
    Ok(figures)
}

/// What gateway and PostgreSQL used; the goal counts both, where both are known.
fn cores(name: &str, Cores { gateway, postgres }: Cores) -> Vec<Figure> {
    let figure = |part: &str, value| Figure::new(&format!("{name}.{part}"), value, "cores");
    let Some(postgres) = postgres else { return vec![figure("gateway", gateway)] };
    vec![
        figure("gateway", gateway),
        figure("postgres", postgres),
        figure("both", gateway + postgres).value_at_most(1.0),
    ]
}

/// By how much the fullest worker exceeds the mean, as a share of it.
fn imbalance(shares: &[f64]) -> f64 {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    shares.iter().copied().fold(0.0, f64::max) / mean - 1.0
}

/// Jain's index: 1 where all have the same, 1/n where one has everything.
fn fairness(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|it| it * it).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_worker_makes_the_imbalance_and_an_empty_one_counts() {
        assert_eq!(imbalance(&[5.0, 5.0]), 0.0);
        assert!((imbalance(&[11.0, 10.0, 9.0]) - 0.1).abs() < 1e-9);
        assert_eq!(imbalance(&[10.0, 0.0]), 1.0);
    }

    #[test]
    fn fairness_is_one_among_equals_and_small_where_one_has_all() {
        assert_eq!(fairness(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(fairness(&[3.0, 0.0, 0.0, 0.0]), 0.25);
    }
}
