//! How slots come and go.

use crate::host::{HOST, Host, on_a_host};
use aetherium_model::{
    Code, Fault, VmId,
    finding::Verdict,
    resources::NetworkMode::{Egress, Isolated},
};
use aetherium_net::{NetError, Slot, Slots, SlotsConfig, slot::preflight};
use futures::future::join_all;
use std::{
    collections::HashSet,
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn script(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// A pool whose `nft` refuses everything as soon as the file `refuse` is there.
async fn pool_with_a_fickle_nft(host: &Host) -> Slots {
    let refuse = host.dir.join("refuse");
    let text = format!(
        "#!/bin/sh\nif [ -e {} ]; then echo 'no such luck' >&2; exit 1; fi\nexec /usr/sbin/nft \"$@\"\n",
        refuse.display()
    );
    let nft = Some(script(host.dir.join("nft"), &text));
    Slots::new(SlotsConfig { nft, ..host.config("aet") }).await.unwrap()
}

#[test]
fn a_slot_survives_its_journal_and_is_released_once() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let slot = slots.acquire(VmId::new(), Isolated).await.unwrap();
        let kept: Slot = serde_json::from_str(&serde_json::to_string(&slot).unwrap()).unwrap();
        assert_eq!(kept, slot);
        assert_ne!(host.traces(), Vec::<String>::new());
        slots.release(&kept).await.unwrap();
        assert_eq!(host.traces(), Vec::<String>::new());
        slots.release(&kept).await.unwrap();
    });
}

#[test]
fn a_late_release_leaves_the_next_owner_of_the_number_alone() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let first = slots.acquire(VmId::new(), Isolated).await.unwrap();
        let orphans = slots.orphans(&[]).await.unwrap();
        slots.release(&first).await.unwrap();
        let second = slots.acquire(VmId::new(), Isolated).await.unwrap();
        assert_eq!(first.number, second.number);
        let before = host.traces();
        slots.release(&first).await.unwrap();
        slots.release_orphan(&orphans[0]).await.unwrap();
        assert_eq!(host.traces(), before);
    });
}

#[test]
fn a_hundred_slots_come_and_go_without_a_trace() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let slot = slots.acquire(VmId::new(), Egress).await.unwrap();
        slots.release(&slot).await.unwrap();
        let (files, tables) = (open_files(), host.tables());
        for _ in 0..100 {
            let slot = slots.acquire(VmId::new(), Egress).await.unwrap();
            slots.release(&slot).await.unwrap();
        }
        assert_eq!(host.traces(), Vec::<String>::new());
        assert_eq!(host.tables(), tables);
        // Other tests of this process open files for a while, too; a leak of a hundred would stay.
        let deadline = Instant::now() + Duration::from_secs(30);
        while open_files() >= files + 90 {
            assert!(Instant::now() < deadline, "{files} files, then {}", open_files());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        slots.close().await.unwrap();
        assert_eq!(host.tables(), Vec::<String>::new());
    });
}

#[test]
fn pools_that_share_a_range_never_share_an_address() {
    on_a_host(async |host| {
        let pools = [host.slots().await, Slots::new(host.config("beta")).await.unwrap()];
        let wanted = (0..20).map(|n| pools[n % 2].acquire(VmId::new(), Isolated));
        let slots: Vec<Slot> = join_all(wanted).await.into_iter().map(Result::unwrap).collect();
        let addresses: HashSet<_> = slots.iter().map(|slot| slot.address).collect();
        let names: HashSet<_> = slots.iter().map(|slot| &slot.host_link).collect();
        assert_eq!((addresses.len(), names.len()), (20, 20));
        // Each pool knows its own alone, and can be opened again beside the other's slots.
        assert_eq!(pools[0].orphans(&[]).await.unwrap().len(), 10);
        host.slots().await;
        for (n, slot) in slots.iter().enumerate() {
            pools[n % 2].release(slot).await.unwrap();
        }
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn a_pool_that_is_used_up_says_so_and_gives_again_what_it_gets_back() {
    on_a_host(async |host| {
        let config = SlotsConfig { range: "10.77.0.0/29".parse().unwrap(), ..host.config("aet") };
        let slots = Slots::new(config).await.unwrap();
        let first = slots.acquire(VmId::new(), Isolated).await.unwrap();
        let _second = slots.acquire(VmId::new(), Isolated).await.unwrap();
        let error = slots.acquire(VmId::new(), Isolated).await.unwrap_err();
        assert!(error.to_string().contains("all 2 slots of 10.77.0.0/29"), "{error}");
        assert_eq!(Fault::from(error).code, Code::NoCapacity);
        slots.release(&first).await.unwrap();
        slots.acquire(VmId::new(), Isolated).await.unwrap();
    });
}

#[test]
fn a_slot_that_fails_midway_leaves_nothing_and_says_why() {
    on_a_host(async |host| {
        let slots = pool_with_a_fickle_nft(host).await;
        fs::write(host.dir.join("refuse"), "").unwrap();
        let error = slots.acquire(VmId::new(), Isolated).await.unwrap_err();
        assert!(
            matches!(&error, NetError::NftRefused { message, .. } if message == "no such luck")
        );
        assert_eq!(host.traces(), Vec::<String>::new());
        fs::remove_file(host.dir.join("refuse")).unwrap();
        slots.acquire(VmId::new(), Isolated).await.unwrap();
    });
}

#[test]
fn a_slot_whose_caller_has_gone_away_is_taken_back() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let acquiring = slots.acquire(VmId::new(), Isolated);
        // Polled once: the work begins, and then nobody waits for it any more.
        assert!(futures::FutureExt::now_or_never(acquiring).is_none());
        let seen = tokio::time::timeout(crate::namespace::PATIENCE, async {
            let mut begun = false;
            while !begun || !host.traces().is_empty() {
                begun |= !host.traces().is_empty();
                tokio::task::yield_now().await;
            }
        });
        seen.await.expect("the slot is still there");
    });
}

#[test]
fn a_firewall_that_was_flushed_is_whole_again_with_the_next_slot() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        let before = host.tables();
        let flushed = host
            .network
            .run(|| std::process::Command::new("nft").args(["flush", "ruleset"]).status());
        assert!(flushed.unwrap().success() && host.tables().is_empty());
        slots.acquire(VmId::new(), Isolated).await.unwrap();
        assert_eq!(host.tables(), before);
    });
}

#[test]
fn a_range_that_the_host_has_a_route_to_is_refused_with_the_route() {
    on_a_host(async |host| {
        host.network.ip("route add 198.19.64.0/18 via 5.5.5.1");
        let error = Slots::new(host.config("aet")).await.unwrap_err();
        assert!(error.to_string().contains("198.19.64.0/18"), "{error}");
        let findings = preflight(&host.config("aet")).await;
        let range = findings.iter().find(|it| it.check == "net.range").unwrap();
        assert_eq!(range.verdict, Verdict::Warn);
        assert!(range.found.contains("198.19.64.0/18") && !range.remedy.is_empty(), "{range:?}");
    });
}

#[test]
fn egress_from_a_host_that_does_not_forward_is_refused_with_the_remedy() {
    on_a_host(async |host| {
        let slots = host.slots().await;
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let fault = Fault::from(slots.acquire(VmId::new(), Egress).await.unwrap_err());
        assert_eq!(fault.code, Code::NetworkFailed);
        assert!(fault.remedy.contains("sysctl -w net.ipv4.ip_forward=1"), "{fault}");
        slots.acquire(VmId::new(), Isolated).await.unwrap();
    });
}

#[test]
fn a_host_that_is_ready_has_nothing_to_remedy() {
    on_a_host(async |host| {
        let findings = preflight(&host.config("aet")).await;
        assert!(findings.iter().all(|it| it.verdict == Verdict::Ok), "{findings:#?}");
        assert_eq!(findings.len(), 7);
    });
}

#[test]
fn another_firewall_that_drops_what_is_forwarded_is_named() {
    on_a_host(async |host| {
        let _own = host.slots().await;
        let other = "add table ip engine; add chain ip engine FORWARD \
            { type filter hook forward priority filter; policy drop; }";
        let laid = host.network.run(|| std::process::Command::new("nft").arg(other).status());
        assert!(laid.unwrap().success());
        let findings = preflight(&host.config("aet")).await;
        let firewall = findings.iter().find(|it| it.check == "net.firewall").unwrap();
        assert_eq!(firewall.verdict, Verdict::Warn);
        assert!(firewall.found.contains("chain FORWARD of table ip engine"), "{firewall:?}");
        assert!(firewall.remedy.contains("aet-*"), "{firewall:?}");
    });
}

#[test]
fn a_resolver_that_no_guest_could_reach_is_named() {
    on_a_host(async |host| {
        for (resolvers, says) in [
            (vec![HOST], "5.5.5.5 is this host's own address"),
            (vec![Ipv4Addr::LOCALHOST], "none that a VM could be redirected to"),
            (vec![], "none that a VM could be redirected to"),
        ] {
            let findings = preflight(&SlotsConfig { resolvers, ..host.config("aet") }).await;
            let finding = findings.iter().find(|it| it.check == "net.resolvers").unwrap();
            assert_eq!(finding.verdict, Verdict::Warn);
            assert!(finding.found.contains(says) && !finding.remedy.is_empty(), "{finding:?}");
        }
    });
}

#[test]
fn without_privileges_it_is_vsock_only_and_said_so() {
    on_a_host(async |host| {
        let config = host.config("aet");
        let nobody = std::thread::spawn(move || {
            let uid = rustix::process::Uid::from_raw(65_534);
            // SAFETY: this thread alone becomes nobody, and ends with what it has to say.
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { (preflight(&config).await, Slots::new(config).await) })
        });
        let (findings, refused) = nobody.join().unwrap();
        let privilege = findings.iter().find(|it| it.check == "net.privilege").unwrap();
        assert!(privilege.found.ends_with("vsock only"), "{privilege:?}");
        assert!(findings.iter().all(|it| it.verdict != Verdict::Fail), "{findings:#?}");
        assert!(matches!(refused, Err(NetError::NotPrivileged { .. })));
        assert!(!Path::new(&host.dir.join("claims")).exists());
    });
}
