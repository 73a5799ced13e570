//! What a VM takes of its host beyond its size, in Firecracker's terms. Pure.

use super::plan::{self, BalloonRequest, RateLimiter, RateLimits, TokenBucket};
use aetherium_model::tuning::{ByteRate, HugePages, IoLimits, OpRate, Tuning};

/// How often a guest tells its balloon of its memory, in seconds: a question that wakes it, so not
/// often. It cannot be switched on later.
const STATS_INTERVAL_S: u32 = 5;
/// The time in which a bucket is filled, in milliseconds: limits are given by the second.
const REFILL_MS: u64 = 1000;
/// What lifts a limit; see `get_bucket_update` in Firecracker's `src/vmm/src/vmm_config/mod.rs`.
const LIFTED: TokenBucket = TokenBucket { size: 0, one_time_burst: None, refill_time: 0 };

/// The balloon that each VM has: empty, unless more was asked for.
pub(super) fn balloon(tuning: &Tuning) -> BalloonRequest {
    BalloonRequest {
        amount_mib: tuning.balloon_mib.unwrap_or(0),
        deflate_on_oom: true,
        stats_interval_s: STATS_INTERVAL_S,
    }
}

/// The pages of its memory.
pub(super) fn pages(tuning: &Tuning) -> plan::HugePages {
    match tuning.huge_pages {
        None | Some(HugePages::None) => plan::HugePages::None,
        Some(HugePages::TwoMib) => plan::HugePages::TwoMib,
        Some(HugePages::Transparent) => plan::HugePages::Transparent,
    }
}

/// What its I/O is held to from the start, when there is nothing to lift.
pub(super) fn limits(limits: &IoLimits) -> RateLimits {
    rate_limits(limits, None)
}

/// How limits change while it runs: absent ones stay as they are.
pub(super) fn change(limits: &IoLimits) -> RateLimits {
    rate_limits(limits, Some(LIFTED))
}

fn rate_limits(limits: &IoLimits, lifted: Option<TokenBucket>) -> RateLimits {
    let bytes = |rate: Option<ByteRate>| rate.and_then(|it| bucket(it.limit()).or(lifted));
    let ops = |rate: Option<OpRate>| rate.and_then(|it| bucket(it.limit()).or(lifted));
    RateLimits {
        disk: limiter(bytes(limits.disk_bytes_per_s), ops(limits.disk_ops_per_s)),
        net_rx: limiter(bytes(limits.net_rx_bytes_per_s), None),
        net_tx: limiter(bytes(limits.net_tx_bytes_per_s), None),
        entropy: None,
    }
}

fn bucket(limit: Option<u64>) -> Option<TokenBucket> {
    limit.map(|size| TokenBucket { size, one_time_burst: None, refill_time: REFILL_MS })
}

fn limiter(bandwidth: Option<TokenBucket>, ops: Option<TokenBucket>) -> Option<RateLimiter> {
    (bandwidth.is_some() || ops.is_some()).then_some(RateLimiter { bandwidth, ops })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_nothing_is_none_at_the_start_and_lifts_one_later() {
        let said = IoLimits {
            disk_bytes_per_s: Some("0".parse().unwrap()),
            net_tx_bytes_per_s: Some("1M".parse().unwrap()),
            ..IoLimits::default()
        };
        let limited = TokenBucket { size: 1 << 20, one_time_burst: None, refill_time: 1000 };
        let net_tx = Some(RateLimiter { bandwidth: Some(limited), ops: None });
        assert_eq!(limits(&said), RateLimits { net_tx, ..RateLimits::default() });
        let disk = Some(RateLimiter { bandwidth: Some(LIFTED), ops: None });
        assert_eq!(change(&said), RateLimits { disk, net_tx, ..RateLimits::default() });
    }
}
