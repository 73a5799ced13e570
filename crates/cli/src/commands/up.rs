//! `aetherium up`: the server, until it is told to stop.

use crate::{
    args::{Args, UpArgs},
    datadir::DataDir,
    error::{CliError, local},
    server::{Server, ServerConfig},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) async fn up(args: &Args, up: &UpArgs) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    // Before anything is started, so that no Ctrl-C is missed.
    let mut signals = Signals::new()?;
    let server = tokio::select! {
        server = Server::start(ServerConfig {
            data: data.clone(),
            listen: up.listen,
            operations: up.operations_listen,
            driver: up.driver.clone(),
            database: up.database.clone(),
            keys: up.keys.clone(),
            catalog: up.catalog.clone(),
            events: up.events.clone(),
            grace: up.grace,
            boot_deadline: up.boot_deadline,
        }) => server?,
        () = signals.next() => return Ok(()),
    };
    greet(&server, &data);
    if !up.listen.ip().is_loopback() {
        tracing::warn!(listen = %up.listen, "the API is reachable from other machines, in clear text");
    }
    signals.next().await;
    eprintln!("stopping: commands have {} s to end (once more stops at once)", up.grace.as_secs());
    tokio::select! {
        () = server.stop() => eprintln!("stopped"),
        () = signals.next() => {
            eprintln!("stopped at once: the next start takes over or removes what still runs");
        }
    }
    Ok(())
}

fn greet(server: &Server, data: &DataDir) {
    eprintln!("aetherium {} listens on {}", env!("CARGO_PKG_VERSION"), server.url());
    eprintln!("  data     {}", data.path().display());
    eprintln!("  API key  {}", data.path().join("api-key").display());
    match server.driver() {
        Ok((_, reason)) => eprintln!("  driver   {reason}"),
        Err(fault) => {
            eprintln!("  driver   none: {}", fault.detail);
            eprintln!("           {}", fault.remedy);
        }
    }
    eprintln!("Ctrl-C stops it.");
}

/// Ctrl-C and the service manager's TERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, CliError> {
        let install =
            |kind| signal(kind).map_err(|error| local("cannot install a signal handler", error));
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
