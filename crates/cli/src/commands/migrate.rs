//! `aetherium migrate`: the database's schema, brought up to date before servers need it.

use crate::{
    args::{Args, MigrateArgs},
    datadir::DataDir,
    error::CliError,
    print,
};
use aetherium_model::{Code, Fault};
use aetherium_store::{DatabaseUrl, Store, StoreError};
use serde::Serialize;
use std::time::{Duration, Instant};

/// The pause before a database that does not answer is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Migrated {
    /// The version that was found; 0 where there was no schema.
    from: i64,
    /// The version that is there now.
    to: i64,
}

pub(crate) async fn migrate(args: &Args, wanted: &MigrateArgs) -> Result<(), CliError> {
    let url = match &wanted.database.database {
        Some(named) => named
            .parse()
            .map_err(|error| Fault::new(Code::InvalidRequest, format!("--database: {error}")))?,
        None => {
            let data = DataDir::locate(args.data_dir.as_deref())?;
            data.create()?;
            data.database_url().parse().map_err(Fault::internal)?
        }
    };
    let store = Box::pin(connect(&url, wanted.wait)).await.map_err(Fault::from)?;
    let from = store.schema_version().await.map_err(Fault::from)?;
    let to = Box::pin(store.migrate()).await.map_err(Fault::from)?;
    store.close().await;
    if args.json {
        return print::json(&Migrated { from, to });
    }
    if from == to {
        println!("the schema is at version {to}: there was nothing to do");
    } else {
        println!("the schema is at version {to}: it was at version {from}");
    }
    Ok(())
}

/// Connects, and tries again for as long as `patience` where the database does not answer yet.
async fn connect(url: &DatabaseUrl, patience: Duration) -> Result<Store, StoreError> {
    let began = Instant::now();
    loop {
        match Box::pin(Store::connect(url)).await {
            Err(error @ StoreError::Database(_)) if began.elapsed() < patience => {
                tracing::warn!(%error, "the database does not answer yet");
                tokio::time::sleep(TRY_AGAIN).await;
            }
            other => return other,
        }
    }
}
