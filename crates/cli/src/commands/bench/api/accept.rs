//! Prompts accepted, beside bare inserts: in turns, on the same database, committed as safely.
//!
//! What a gateway accepts with all of one core stands beside one loop that inserts, row after row, with a
//! commit for each. What it accepts in a second stands beside as many such loops as it has connections.

use super::Ground;
use crate::{
    args::ApiBenchArgs,
    client::Client,
    commands::bench::{Figure, database::Database, median},
    error::{CliError, local},
    progress::Bars,
};
use aetherium_gateway::api::CreatePrompt;
use aetherium_model::{Fault, WorkerId, workspace::Prompt};
use futures::future::join_all;
use sqlx::{AnyConnection, Connection};
use std::{
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime, sync::oneshot};

/// Requests under way at once, and loops that insert beside them: a process has so many connections to
/// PostgreSQL.
const AT_ONCE: usize = 16;
/// Turns of each kind.
const ROUNDS: u32 = 5;

/// What one turn of prompts came to.
struct Turn {
    per_second: f64,
    /// What the gateway used meanwhile, in cores.
    cores: f64,
}

/// Sends as many prompts as are taken, to workspaces whose worker is absent, in turns with inserts.
pub(super) async fn accept(
    ground: &Ground,
    wanted: &ApiBenchArgs,
    database: &Database,
) -> Result<Vec<Figure>, CliError> {
    let paths = ground.workspaces(WorkerId::new()).await?;
    let client = ground.front.client()?;
    let turn = wanted.seconds / (3 * ROUNDS);
    let inserter = Inserter::start(database).await?;
    let bars = Bars::new();
    bars.spin("prompts and inserts in turns");
    let (mut turns, mut one_loop, mut all_loops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        one_loop.push(inserter.insert_for(turn, 1).await?);
        all_loops.push(inserter.insert_for(turn, AT_ONCE).await?);
        turns.push(prompts_for(turn, ground, &client, &paths).await?);
    }
    bars.clear();
    let of = |value: fn(&Turn) -> f64| median(&mut turns.iter().map(value).collect::<Vec<_>>());
    let prompts = of(|it| it.per_second);
    Ok(vec![
        Figure::new("api.prompts", prompts, "/s").over(median(&mut all_loops)),
        Figure::new("api.gateway", of(|it| it.cores), "cores"),
        Figure::new("api.prompts_per_core", of(|it| it.per_second / it.cores), "/s")
            .over(median(&mut one_loop))
            .ratio_at_least(0.4),
    ])
}

async fn prompts_for(
    time: Duration,
    ground: &Ground,
    client: &Client,
    paths: &[String],
) -> Result<Turn, CliError> {
    let (before, began) = (ground.front.cpu(), Instant::now());
    let request = CreatePrompt::of("true");
    let senders = (0..AT_ONCE).map(|first| {
        let request = &request;
        async move {
            let mut sent = 0.0;
            for path in paths.iter().cycle().skip(first * paths.len() / AT_ONCE) {
                if began.elapsed() >= time {
                    break;
                }
                client.post::<Prompt>(path, request).await?;
                sent += 1.0;
            }
            Ok::<f64, CliError>(sent)
        }
    });
    let sent: Result<Vec<f64>, CliError> = join_all(senders).await.into_iter().collect();
    let (took, used) = (began.elapsed().as_secs_f64(), ground.front.cpu() - before);
    Ok(Turn { per_second: sent?.iter().sum::<f64>() / took, cores: used.as_secs_f64() / took })
}

/// A thread that inserts when it is told to.
struct Inserter {
    orders: std::sync::mpsc::Sender<Order>,
}

struct Order {
    time: Duration,
    loops: usize,
    done: oneshot::Sender<Result<f64, sqlx::Error>>,
}

/// As SQLite has it for the store: one writer, and a commit returns when it is on the disk.
const SQLITE: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA busy_timeout = 10000";
const TABLE: &str = "CREATE TABLE bare (id TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL, \
     created_at BIGINT NOT NULL)";

impl Inserter {
    async fn start(database: &Database) -> Result<Self, CliError> {
        let connections = if database.is_postgres() { AT_ONCE } else { 1 };
        let mut opened = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut connection = database.connect().await?;
            if !database.is_postgres() {
                let set = sqlx::raw_sql(SQLITE).execute(&mut connection).await;
                set.map_err(|error| local("SQLite's settings", error))?;
            }
            opened.push(connection);
        }
        let made = sqlx::raw_sql(TABLE).execute(&mut opened[0]).await;
        made.map_err(|error| local("the table for bare inserts", error))?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| local("the inserting thread", error))?;
        let (orders, received) = std::sync::mpsc::channel::<Order>();
        // It ends with the sender of its orders.
        thread::Builder::new()
            .name("ae-insert".to_owned())
            .spawn(move || {
                while let Ok(Order { time, loops, done }) = received.recv() {
                    // SQLite has one writer, whatever was asked for.
                    let connections = &mut opened[..loops.min(connections)];
                    let _ = done.send(runtime.block_on(insert(connections, time)));
                }
                runtime.block_on(join_all(opened.into_iter().map(Connection::close)));
            })
            .map_err(|error| local("the inserting thread", error))?;
        Ok(Self { orders })
    }

    /// Inserts for so long, with so many loops, and says how many rows a second that made.
    async fn insert_for(&self, time: Duration, loops: usize) -> Result<f64, CliError> {
        let (done, answer) = oneshot::channel();
        self.orders.send(Order { time, loops, done }).map_err(Fault::internal)?;
        let inserted = answer.await.map_err(Fault::internal)?;
        Ok(inserted.map_err(|error| local("a bare insert", error))?)
    }
}

async fn insert(connections: &mut [AnyConnection], time: Duration) -> Result<f64, sqlx::Error> {
    let began = Instant::now();
    let loops = connections.iter_mut().map(|connection| async move {
        let mut rows = 0.0;
        while began.elapsed() < time {
            sqlx::query("INSERT INTO bare (id, body, created_at) VALUES ($1, $2, $3)")
                .bind(WorkerId::new().to_string())
                .bind("{\"prompt\":\"true\"}")
                .bind(0_i64)
                .execute(&mut *connection)
                .await?;
            rows += 1.0;
        }
        Ok::<f64, sqlx::Error>(rows)
    });
    let rows: Result<Vec<f64>, sqlx::Error> = join_all(loops).await.into_iter().collect();
    Ok(rows?.iter().sum::<f64>() / began.elapsed().as_secs_f64())
}
