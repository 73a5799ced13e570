//! `aetherium top`: what each VM uses, over and over.
//!
//! Rates are differences of two looks, so the first table takes two. The terminal is given back as it was,
//! however this ends but by SIGKILL.

use super::up::Signals;
use crate::{
    args::{Args, TopArgs, TopOrder},
    client::Client,
    error::CliError,
    print,
};
use aetherium_model::{
    Fault, VmId, WorkspaceId,
    metrics::VmMetrics,
    page::{MAX_PAGE, Page},
    vm::{Vm, VmState},
    workspace::Workspace,
};
use futures::{StreamExt as _, stream};
use serde::Serialize;
use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt::Write as _,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};
use tokio::time::sleep;

/// VMs asked at once.
const AT_ONCE: usize = 16;
/// Between the two looks of a table that is printed once.
const GLANCE: Duration = Duration::from_millis(500);
/// Lines of a terminal that does not tell its size.
const LINES: usize = 24;

/// What one VM uses.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    vm: VmId,
    state: &'static str,
    workspace: Option<String>,
    age_ms: u64,
    /// Of one processor of the host, in percent; absent until there are two looks.
    cpu_percent: Option<f64>,
    /// Resident on the host.
    memory_bytes: Option<u64>,
    /// Of the guest's memory.
    guest_memory_bytes: Option<u64>,
    /// Read and written, in a second.
    disk_bytes_per_s: Option<u64>,
    /// Received and sent, in a second.
    net_bytes_per_s: Option<u64>,
}

/// What was seen at one moment.
#[derive(Default)]
struct Look {
    vms: Vec<(Vm, Option<VmMetrics>)>,
    workspaces: HashMap<WorkspaceId, String>,
}

pub(crate) async fn top(args: &Args, top: &TopArgs) -> Result<(), CliError> {
    let client = Client::connect(args)?;
    let mut before = look(&client).await?;
    if top.once || args.json || !std::io::stdout().is_terminal() {
        sleep(GLANCE).await;
        let rows = rows(&look(&client).await?, &before, top.sort);
        if args.json {
            return print::json(&rows);
        }
        print!("{}", table(&rows));
        return Ok(());
    }
    let mut signals = Signals::new()?;
    let _screen = Screen::take()?;
    let mut pause = GLANCE;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            () = signals.next() => return Ok(()),
        }
        let now = tokio::select! {
            now = look(&client) => now?,
            () = signals.next() => return Ok(()),
        };
        Screen::show(&table(&rows(&now, &before, top.sort)))?;
        before = now;
        pause = top.every;
    }
}

/// The VMs that have not ended, the newest first and no more than a page, and what each uses. One that
/// does not say is shown without.
async fn look(client: &Client) -> Result<Look, CliError> {
    let vms: Page<Vm> = client.get(&format!("/vms?live=true&limit={MAX_PAGE}")).await?;
    let workspaces: Page<Workspace> = client.get(&format!("/workspaces?limit={MAX_PAGE}")).await?;
    let measured = stream::iter(vms.items).map(|vm| async move {
        let uses = match vm.state {
            VmState::Running | VmState::Paused => {
                client.get(&format!("/vms/{}/metrics", vm.id)).await.ok()
            }
            _ => None,
        };
        (vm, uses)
    });
    let workspaces = workspaces.items.into_iter().map(|it| (it.id, it.name.to_string()));
    Ok(Look {
        vms: measured.buffer_unordered(AT_ONCE).collect().await,
        workspaces: workspaces.collect(),
    })
}

fn rows(now: &Look, before: &Look, order: TopOrder) -> Vec<Row> {
    let earlier: HashMap<VmId, &VmMetrics> =
        before.vms.iter().filter_map(|(vm, uses)| Some((vm.id, uses.as_ref()?))).collect();
    let mut rows: Vec<Row> = now
        .vms
        .iter()
        .map(|(vm, uses)| row(vm, uses.as_ref(), earlier.get(&vm.id).copied(), now))
        .collect();
    let most = |row: &Row| match order {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share in percent"
        )]
        TopOrder::Cpu => row.cpu_percent.map_or(0, |share| (share * 1000.0) as u64),
        TopOrder::Memory => row.memory_bytes.unwrap_or(0),
        TopOrder::Disk => row.disk_bytes_per_s.unwrap_or(0),
        TopOrder::Net => row.net_bytes_per_s.unwrap_or(0),
        TopOrder::Age => row.age_ms,
    };
    rows.sort_by_key(|row| (Reverse(most(row)), row.vm.to_string()));
    rows
}

fn row(vm: &Vm, uses: Option<&VmMetrics>, before: Option<&VmMetrics>, now: &Look) -> Row {
    let workspace = vm
        .workspace_id
        .map(|id| now.workspaces.get(&id).cloned().unwrap_or_else(|| id.to_string()));
    let between = uses.zip(before);
    let age = uses.map_or(vm.updated_at, |uses| uses.taken_at).since(vm.created_at);
    Row {
        vm: vm.id,
        state: vm.state.as_str(),
        workspace,
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        // Of a second, a thousandth is a millisecond.
        cpu_percent: rate(between, |uses| Some(uses.host.cpu_ms))
            .map(|in_a_second| in_a_second / 10.0),
        memory_bytes: uses.map(|uses| uses.host.resident_bytes),
        guest_memory_bytes: uses.and_then(|uses| {
            let guest = uses.guest?;
            Some(guest.memory_total_bytes.saturating_sub(guest.memory_available_bytes))
        }),
        disk_bytes_per_s: whole(rate(between, |uses| {
            uses.vmm.disk.map(|disk| disk.read_bytes + disk.written_bytes)
        })),
        net_bytes_per_s: whole(rate(between, |uses| {
            uses.vmm.net.map(|net| net.rx_bytes + net.tx_bytes)
        })),
    }
}

/// By how much in a second something grew between two looks.
#[expect(clippy::cast_precision_loss, reason = "bytes and milliseconds of a few seconds")]
fn rate(
    between: Option<(&VmMetrics, &VmMetrics)>,
    of: impl Fn(&VmMetrics) -> Option<u64>,
) -> Option<f64> {
    let (now, before) = between?;
    let took = now.taken_at.since(before.taken_at).as_secs_f64();
    let grew = of(now)?.saturating_sub(of(before)?) as f64;
    (took > 0.0).then(|| grew / took)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes in a second")]
fn whole(rate: Option<f64>) -> Option<u64> {
    rate.map(|rate| rate as u64)
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let heading =
        ["VM", "WORKSPACE", "STATE", "AGE", "CPU", "MEMORY", "IN GUEST", "DISK/S", "NET/S"];
    let bytes = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), size);
    let cells = rows.iter().map(|row| {
        [
            row.vm.to_string(),
            row.workspace.clone().unwrap_or_else(|| "-".to_owned()),
            row.state.to_owned(),
            print::millis(row.age_ms),
            row.cpu_percent.map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %")),
            bytes(row.memory_bytes),
            bytes(row.guest_memory_bytes),
            bytes(row.disk_bytes_per_s),
            bytes(row.net_bytes_per_s),
        ]
    });
    let lines: Vec<_> = [heading.map(str::to_owned)].into_iter().chain(cells).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<_> = (0..heading.len()).map(|column| width(column).unwrap_or(0)).collect();
    for line in &lines {
        let cells: Vec<_> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// Bytes as people read them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// The terminal's other screen, without a cursor, until this is dropped (xterm's private modes 1049
/// and 25). Nothing is read from the terminal, so its modes stay as they are.
struct Screen;

impl Screen {
    fn take() -> Result<Self, CliError> {
        Self::write("\x1b[?1049h\x1b[?25l")?;
        Ok(Self)
    }

    /// Shows as many lines of `text` as the terminal has.
    fn show(text: &str) -> Result<(), CliError> {
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        // A terminal that does not know its size says that it has none.
        let known = |cells: u16, unknown| if cells == 0 { unknown } else { usize::from(cells) };
        let (lines, columns) = size.map_or((LINES, usize::MAX), |size| {
            (known(size.ws_row, LINES), known(size.ws_col, usize::MAX))
        });
        let shown = text.lines().take(lines).map(|line| {
            // Up to the line's end, what was there before is wiped out.
            format!("{}\x1b[K", line.chars().take(columns).collect::<String>())
        });
        Self::write(&format!("\x1b[H{}\x1b[J", shown.collect::<Vec<_>>().join("\r\n")))
    }

    fn write(text: &str) -> Result<(), CliError> {
        let mut terminal = std::io::stdout().lock();
        let written = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
        Ok(written.map_err(|error| Fault::internal(format!("the terminal: {error}")))?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = Self::write("\x1b[?25h\x1b[?1049l");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aetherium_model::{
        Timestamp,
        metrics::{HostUsage, NetUsage, VmmMetrics},
    };

    fn uses(at: i64, cpu_ms: u64, rx_bytes: u64) -> VmMetrics {
        VmMetrics {
            taken_at: Timestamp::from_millis(at),
            host: HostUsage { cpu_ms, resident_bytes: 5 << 20, threads: 3 },
            vmm: VmmMetrics {
                net: Some(NetUsage { rx_bytes, ..NetUsage::default() }),
                ..VmmMetrics::default()
            },
            guest: None,
        }
    }

    #[test]
    fn rates_are_what_grew_between_two_looks() {
        let (before, now) = (uses(0, 100, 10), uses(2000, 1100, 4010));
        let cpu = rate(Some((&now, &before)), |it| Some(it.host.cpu_ms));
        assert_eq!(cpu.map(|it| it / 10.0), Some(50.0));
        let net = rate(Some((&now, &before)), |it| it.vmm.net.map(|net| net.rx_bytes));
        assert_eq!(whole(net), Some(2000));
        // A count that began anew, and a look at the same moment, are no rates.
        assert_eq!(whole(rate(Some((&before, &now)), |it| Some(it.host.cpu_ms))), None);
        assert_eq!(rate(None, |it| Some(it.host.cpu_ms)), None);
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        assert_eq!([1023, 1536, 5 << 20].map(size), ["1023 B", "1.5 KiB", "5.0 MiB"]);
    }
}
