use super::*;
use aetherium_model::{
    Name, Timestamp, WorkerId,
    resources::{DriverKind, Resources},
    worker::{Admission, Labels, Usage},
};
use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn named(text: &str) -> TemplateRef {
    text.parse().unwrap()
}

fn vm() -> Need {
    Need { now: Room::of_vm(Resources::default()), later: Room::default() }
}

/// A worker with room for so many VMs of the usual size, and that many taken.
fn worker(room_for: u32, taken: u32) -> Worker {
    let one = Room::of_vm(Resources::default());
    let of = |vms: u32| Room {
        vcpus: one.vcpus * vms,
        memory_mib: one.memory_mib * u64::from(vms),
        disk_mib: one.disk_mib * u64::from(vms),
        vms,
    };
    Worker {
        id: WorkerId::new(),
        hostname: "host".into(),
        version: "1".into(),
        driver: Some(DriverKind::Qemu),
        driver_reason: "no qemu".into(),
        internal_address: "unix:/x".into(),
        templates: vec!["default".parse().unwrap()],
        zone: None,
        labels: Labels::new(),
        capabilities: BTreeSet::new(),
        capacity: of(room_for),
        allocatable: of(room_for),
        reserved: of(taken),
        usage: Usage::default(),
        admission: Admission::Open,
        state: WorkerState::Active,
        created_at: NOW,
        heartbeat_at: NOW,
    }
}

fn any_worker() -> impl Strategy<Value = Worker> {
    let state = prop_oneof![
        6 => Just(WorkerState::Active),
        1 => Just(WorkerState::Draining),
        1 => Just(WorkerState::Gone),
        1 => Just(WorkerState::Cordoned),
    ];
    let templates = prop::sample::subsequence(vec!["default", "other"], 0..=2);
    let driver =
        prop::sample::select(vec![None, Some(DriverKind::Qemu), Some(DriverKind::Process)]);
    let zone = prop::sample::select(vec![None, Some("a"), Some("b")]);
    let label = prop::sample::select(vec!["nvme", "disk"]);
    (state, driver, templates, zone, label, 0u32..4, 0u32..4).prop_map(
        |(state, driver, templates, zone, label, room, taken)| Worker {
            driver,
            templates: templates.into_iter().map(|it| it.parse().unwrap()).collect(),
            zone: zone.map(name),
            labels: [(name("disk"), name(label))].into(),
            state,
            ..worker(room, taken.min(room))
        },
    )
}

fn any_placement() -> impl Strategy<Value = Placement> {
    let zone = || prop::sample::select(vec![None, Some("a")]);
    let labels = || prop::sample::select(vec![None, Some("nvme")]);
    let map = |label: Option<&str>| label.map(|it| (name("disk"), name(it))).into_iter().collect();
    (zone(), labels(), zone(), labels()).prop_map(move |(zone, labels, liked, liked_labels)| {
        Placement {
            zone: zone.map(name),
            labels: map(labels),
            preferred: Preference { zone: liked.map(name), labels: map(liked_labels) },
        }
    })
}

proptest! {
    #[test]
    fn whoever_is_chosen_may_have_it_and_has_room_and_nobody_is_named_in_vain(
        workers in prop::collection::vec(any_worker(), 0..9),
        placement in any_placement(),
        seed: u64,
    ) {
        let template = named("default");
        let wanted = Wanted { template: &template, need: vm(), placement: &placement };
        let may = |w: &Worker| {
            w.state == WorkerState::Active && w.driver.is_some() && w.can_start(&template)
                && meets(w, &placement)
        };
        let fits = |w: &Worker| may(w) && w.free().holds(vm().now);
        let chosen = place(&workers, &wanted, &mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(&chosen, &place(&workers, &wanted, &mut StdRng::seed_from_u64(seed)));
        match chosen {
            Ok(chosen) => {
                prop_assert!(!chosen.is_empty() && chosen.iter().all(|it| fits(it)));
                let ids: BTreeSet<_> = chosen.iter().map(|it| it.id).collect();
                prop_assert_eq!(ids.len(), chosen.len(), "one is named twice");
            }
            Err(NoPlace::Full { able, .. }) => {
                prop_assert!(!workers.iter().any(fits));
                prop_assert_eq!(able, workers.iter().filter(|it| may(it)).count());
            }
            Err(_) => prop_assert!(!workers.iter().any(may)),
        }
    }

    #[test]
    fn of_so_few_that_all_are_drawn_the_least_full_comes_first_and_the_liked_among_equals(
        taken in prop::collection::vec(0u32..40, 1..=DRAWN),
        liked in 0usize..DRAWN,
        seed: u64,
    ) {
        let mut workers: Vec<_> = taken.iter().map(|taken| worker(40, *taken)).collect();
        let preferred = Preference { zone: Some(name("a")), ..Preference::default() };
        let placement = Placement { preferred, ..Placement::default() };
        if let Some(liked) = workers.get_mut(liked) {
            liked.zone = Some(name("a"));
        }
        let template = named("default");
        let wanted = Wanted { template: &template, need: vm(), placement: &placement };
        let chosen = place(&workers, &wanted, &mut StdRng::seed_from_u64(seed)).unwrap();
        prop_assert_eq!(chosen.len(), workers.len());
        // A twentieth of such a worker is two VMs.
        let step = |w: &Worker| w.reserved.vms.div_ceil(2);
        for pair in chosen.windows(2) {
            let likes = |w: &Worker| u8::from(w.zone.is_none());
            let key = |w: &Worker| (step(w), likes(w), w.reserved.vms);
            prop_assert!(key(pair[0]) <= key(pair[1]));
        }
    }

    #[test]
    fn the_reason_is_the_first_requirement_that_none_meets(
        workers in prop::collection::vec(any_worker(), 0..4), seed: u64,
    ) {
        let active = |w: &&Worker| w.state == WorkerState::Active;
        let any_active = workers.iter().any(|w| active(&w));
        let any_able = workers.iter().any(|w| active(&w) && w.driver.is_some());
        // A plain process starts from no template, and so could take any.
        prop_assume!(!workers.iter().any(|w| w.driver == Some(DriverKind::Process)));
        let (template, placement) = (named("absent"), Placement::default());
        let wanted = Wanted { template: &template, need: vm(), placement: &placement };
        match place(&workers, &wanted, &mut StdRng::seed_from_u64(seed)).unwrap_err() {
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
            other => prop_assert!(false, "{}", other),
        }
    }
}

/// The target of a fleet of 1,000 workers with 50 VMs each, here with rows that are up to date.
#[test]
fn a_fleet_is_filled_evenly_by_drawing_a_few() {
    let mut workers: Vec<_> = (0..300).map(|_| worker(100, 0)).collect();
    let (template, placement) = (named("default"), Placement::default());
    let wanted = Wanted { template: &template, need: vm(), placement: &placement };
    let mut dice = StdRng::seed_from_u64(7);
    for _ in 0..300 * 50 {
        let chosen = place(&workers, &wanted, &mut dice).unwrap()[0].id;
        let chosen = workers.iter_mut().find(|it| it.id == chosen).unwrap();
        chosen.reserved = chosen.reserved.and(vm().now);
    }
    let most = workers.iter().map(|it| it.reserved.vms).max().unwrap();
    assert!(most <= 55, "one has {most} VMs where 50 are the mean");
}

#[test]
fn a_workspace_goes_where_its_vm_could_ever_run() {
    let workers = [worker(1, 1)];
    let (template, placement) = (named("default"), Placement::default());
    let size = Resources { vcpus: "2".parse().unwrap(), ..Resources::default() };
    let need = Need { now: Room::default(), later: Room::of_workspace_vm(Resources::default()) };
    let wanted = Wanted { template: &template, need, placement: &placement };
    let mut dice = StdRng::seed_from_u64(1);
    // It is full now, but will not be for ever.
    assert_eq!(place(&workers, &wanted, &mut dice).unwrap().len(), 1);
    let need = Need { later: Room::of_workspace_vm(size), ..need };
    let error = place(&workers, &Wanted { need, ..wanted }, &mut dice).unwrap_err();
    assert!(error.to_string().contains("room for 1 VMs, 2 vCPUs"), "{error}");
}

#[test]
fn the_reason_says_which_templates_there_are() {
    let error = NoPlace::NoTemplate { template: named("a"), known: vec!["b".into(), "c".into()] };
    assert_eq!(error.to_string(), "no worker holds the template a; there is b, c");
    let nobody = NoPlace::NoWorker { seen: vec![] };
    assert_eq!(nobody.to_string(), "no worker is active: none has joined");
}
