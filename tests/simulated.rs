//! The simulated driver, as benchmarks use it: the real program around VMs that are only times.

use crate::world::{Place, SOON, Server, id, state};
use aetherium_model::resources::DriverKind;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[tokio::test]
async fn a_simulated_vm_lives_as_any_other_and_leaves_no_process() {
    let place = Place::new();
    let server = Server::start(&place, DriverKind::Simulated).await;
    // Its VMs take nothing of the machine: it has room for all that it may have.
    let workers = server.get("/workers").await;
    let capacity = &workers["items"][0]["capacity"];
    assert_eq!(capacity["vms"], capacity["vcpus"], "{capacity}");
    let vm = server.vm(json!({})).await;
    assert_eq!(vm["driver"], "simulated");
    let workspace = server.workspace("modelled").await;
    let prompt = server.prompt(&workspace, "exit 7").await;
    let (ended, output) = server.ended(&prompt).await;
    // Nothing was run: a command takes its time and ends well.
    assert_eq!(ended["state"], "completed", "{ended}");
    assert_eq!(ended["result"]["exit_code"], 0, "{ended}");
    assert_eq!(output, "simulated\n");
    let path = format!("/vms/{}", id(&vm));
    server.delete(&path).await;
    server.until(&path, SOON, |it| state(it) == "stopped").await;
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// The figures of a benchmark, by name, whatever their goals: this machine may be busy.
fn bench(place: &Place, arguments: &[&str]) -> BTreeMap<String, f64> {
    let ran = place.aetherium().args(["--json", "bench"]).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    let figures: Vec<Value> =
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{told}"));
    // Its database goes last: nobody misses it.
    assert!(told.lines().all(|line| line.starts_with('…')), "{told}");
    let named =
        |it: &Value| (it["name"].as_str().unwrap().to_owned(), it["value"].as_f64().unwrap());
    figures.iter().map(named).collect()
}

#[test]
fn a_fleet_in_one_process_runs_every_vm() {
    let database = test_servers::Postgres::of_this_process().database();
    let size = ["--workers", "3", "--vms", "12", "--rate", "20", "--seconds", "1s"];
    let figures =
        bench(&Place::new(), &[&["fleet"], &size[..], &["--database", &database]].concat());
    assert_eq!(figures["fleet.not_running"], 0.0, "{figures:?}");
    // No VM runs before its model lets it.
    assert!(figures["fleet.accepted_to_running.p50"] > 50.0, "{figures:?}");
}

#[test]
fn prompts_and_inserts_are_counted_on_postgres_in_a_database_that_goes_again() {
    let server = test_servers::Postgres::of_this_process();
    let database = server.database();
    let arguments = ["api", "--seconds", "2s", "--rate", "20", "--database", &database];
    let figures = bench(&Place::new(), &arguments);
    assert!(figures["api.prompts"] > 1.0, "{figures:?}");
    assert!(figures["api.gateway"] > 0.0, "{figures:?}");
    assert!(figures["api.dispatch.p50"] < 10_000.0, "{figures:?}");
}
