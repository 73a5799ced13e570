//! The sockets, limits and balloon of a guest.

use super::*;

#[test]
fn vsock_goes_before_tcp_and_gives_way_where_the_kernel_has_no_driver() {
    let both = PlanRequest { network: Some(network()), ..request() };
    let plan = accepted("1.16.1", &kernel_but(&[]), &both);
    assert!(matches!(plan.agent[..], [AgentTransport::Vsock { .. }, AgentTransport::Tcp { .. }]));
    let plan = accepted("1.16.1", &kernel_but(&[(Option_::VirtioVsock, Setting::Off)]), &both);
    let AgentTransport::Tcp { netns, address } = &plan.agent[0] else { panic!("{:?}", plan.agent) };
    assert_eq!((netns, *address), (&network().netns, "172.16.0.2:9999".parse().unwrap()));
    assert!(!paths(&plan).contains(&"/vsock".to_owned()));
}

#[test]
fn limits_reach_each_device_and_huge_pages_the_machine() {
    let bucket = TokenBucket { size: 1 << 20, one_time_burst: None, refill_time: 100 };
    let limiter = RateLimiter { bandwidth: Some(bucket), ops: None };
    let limits = RateLimits { disk: Some(limiter), net_tx: Some(limiter), ..RateLimits::default() };
    let request = PlanRequest {
        limits,
        huge_pages: HugePages::TwoMib,
        network: Some(network()),
        ..request()
    };
    let host = HostFacts { free_huge_pages: 256, ..HostFacts::default() };
    let template = template(initramfs(&[]));
    let plan = plan(&host, version("1.7.0"), &kernel_but(&[]), &template, &request).unwrap();
    let expected = serde_json::json!({ "bandwidth": { "size": 1_048_576, "refill_time": 100 } });
    assert_eq!(body(&plan, "/drives/overlay")["rate_limiter"], expected);
    assert_eq!(body(&plan, "/network-interfaces/eth0")["tx_rate_limiter"], expected);
    assert!(body(&plan, "/network-interfaces/eth0").get("rx_rate_limiter").is_none());
    assert_eq!(body(&plan, "/machine-config")["huge_pages"], "2M");
}

#[test]
fn an_empty_balloon_is_done_without_where_the_kernel_has_none_and_a_full_one_refused() {
    let kernel = kernel_but(&[(Option_::VirtioBalloon, Setting::Off)]);
    let of = |amount_mib| {
        let balloon = BalloonRequest { amount_mib, deflate_on_oom: true, stats_interval_s: 0 };
        PlanRequest { balloon: Some(balloon), ..request() }
    };
    assert!(!paths(&accepted("1.16.1", &kernel, &of(0))).contains(&"/balloon".to_owned()));
    let error = refused("1.16.1", &kernel, &of(8));
    assert!(error.to_string().contains("CONFIG_VIRTIO_BALLOON"), "{error}");
}
