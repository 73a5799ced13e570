//! Notices that a boot is lost.

use super::{Phase, console, explain, gather, read_tail, text};
use crate::{Machine, VmmExit};
use aetherium_model::Fault;
use std::{path::Path, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often the console is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a guest whose end is decided may take to end, so that its last lines are complete.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Resolves, with the reason, as soon as the console or the VMM's end shows that the guest will not
/// come up; never otherwise. It has no deadline of its own: whoever waits for the agent has one,
/// and drops this then.
pub async fn watch_boot(machine: &dyn Machine) -> Fault {
    let footprint = machine.footprint();
    let exit: Option<VmmExit> = tokio::select! {
        exit = machine.wait() => Some(exit),
        () = lost_by_console(&footprint.console) => timeout(LAST_WORDS, machine.wait()).await.ok(),
    };
    explain(&gather(footprint, Phase::Booting, exit, None).await)
}

async fn lost_by_console(console: &Path) {
    let mut ticks = interval(LOOK_AGAIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen_bytes = 0;
    loop {
        ticks.tick().await;
        // Only growth is worth reading; a console that is not there yet has none.
        let bytes = tokio::fs::metadata(console).await.map_or(0, |meta| meta.len());
        if bytes == seen_bytes {
            continue;
        }
        seen_bytes = bytes;
        let tail = read_tail(console).await;
        // The last line may be half printed.
        let whole = tail.rsplit_once('\n').map_or("", |it| it.0);
        if console::verdict(&text::clean_lines(whole)).is_some() {
            return;
        }
    }
}
