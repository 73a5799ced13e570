//! `aetherium gateway` and `aetherium worker`: the roles of a fleet, each a process of its own, with
//! one database between them.

use super::up::Signals;
use crate::{
    args::{Args, FleetArgs, GatewayArgs, WorkerArgs},
    datadir::DataDir,
    error::{CliError, local},
    operations::Bound,
    server::{self, Member, WorkerConfig},
};
use aetherium_gateway::{ApiKeys, Gateway, GatewayConfig};
use aetherium_model::{Code, Fault, pass::FleetKey, project::ProjectId};
use aetherium_queue::{Bus, Queue};
use aetherium_store::Store;
use aetherium_worker::{Layout, Remote};
use std::{
    fmt::Display, net::SocketAddr, os::unix::process::CommandExt as _, process::Command,
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often a process looks for what others have changed, without a Redis: the delay until a worker
/// begins, and until a reader sees output.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How often a database that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn gateway(args: &Args, role: &GatewayArgs) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let mut signals = Signals::new()?;
    data.create()?;
    let _lock = data.lock()?;
    let keys = role.keys(&data)?;
    let fleet_key = Some(role.fleet.key()?);
    let secrets = role.fleet.secrets.load()?;
    let store = server::open_store(&data, role.fleet.database()?, secrets).await?;
    let (listener, address) = listen(role.listen).await?;
    let operations = Bound::at(role.operations_listen).await?;
    let catalog = role.fleet.catalog.load(&data)?;
    let config = GatewayConfig { fleet_key, catalog, ..GatewayConfig::new(keys) };
    let config = role.events.applied_to(config);
    let gateway = Gateway::new(config, Queue::new(store.clone(), role.fleet.bus()?));
    let operations = operations.serve("gateway", |parts| parts.watch(store).watch(gateway.clone()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server::serve(listener, gateway, stop.clone()));
    let url = format!("http://{address}");
    data.announce(&url)?;
    eprintln!("aetherium {} is a gateway at {url}", env!("CARGO_PKG_VERSION"));
    signals.next().await;
    eprintln!("stopping (once more stops at once)");
    data.retract();
    stop.cancel();
    tokio::select! {
        ended = serving => ended.map_err(Fault::internal)?,
        () = signals.next() => return Ok(()),
    }
    operations.stop().await;
    Ok(())
}

pub(crate) async fn worker(args: &Args, role: &WorkerArgs) -> Result<(), CliError> {
    let data = DataDir::locate(args.data_dir.as_deref())?;
    let mut signals = Signals::new()?;
    data.create()?;
    let _lock = data.lock()?;
    let key = role.fleet.key()?;
    let secrets = role.fleet.secrets.load()?;
    let layout = Layout::open(data.path()).map_err(Fault::from)?;
    let store = server::open_store(&data, role.fleet.database()?, secrets).await?;
    let operations = Bound::at(role.operations_listen).await?;
    let (listener, address) = listen(role.listen).await?;
    let address = match &role.address {
        Some(named) => named.clone(),
        None if address.ip().is_unspecified() => return Err(nowhere(address).into()),
        None => address.to_string(),
    };
    let remote = Remote { listener, address: address.clone(), key };
    let registration = &role.registration;
    let member = Member {
        lease: role.lease,
        zone: registration.zone.clone(),
        labels: registration.labels.iter().cloned().collect(),
        overcommit: registration.overcommit(),
        max_vms: registration.max_vms,
    };
    let config = WorkerConfig {
        data: &data,
        layout,
        driver: &role.driver,
        catalog: role.fleet.catalog.load(&data)?,
        grace: role.grace,
        boot_deadline: role.boot_deadline,
        remote: Some(remote),
        member: Some(member),
    };
    let started = server::start_worker(config, store.clone(), role.fleet.bus()?);
    let (worker, _) = tokio::select! {
        started = started => started?,
        () = signals.next() => return Ok(()),
    };
    let operations =
        operations.serve("worker", |parts| parts.watch(store.clone()).watch(worker.watched()));
    let version = env!("CARGO_PKG_VERSION");
    eprintln!("aetherium {version} is worker {} at {address}", worker.id());
    tokio::select! {
        () = signals.next() => {}
        () = worker.fenced() => {
            eprintln!("the lease was lost and every VM was ended; beginning anew");
            tokio::select! {
                () = until_heard(&store) => return Err(begin_anew().into()),
                () = signals.next() => return Ok(()),
            }
        }
    }
    eprintln!(
        "stopping: commands have {} s to end (once more stops at once)",
        role.grace.as_secs()
    );
    tokio::select! {
        () = worker.drain() => {
            operations.stop().await;
            eprintln!("stopped");
        }
        () = signals.next() => {
            eprintln!("stopped at once: the next start takes over or removes what still runs");
        }
    }
    Ok(())
}

impl GatewayArgs {
    /// The keys of the file that was named, else the data directory's own.
    fn keys(&self, data: &DataDir) -> Result<ApiKeys, CliError> {
        let Some(path) = &self.api_keys_file else {
            return Ok(ApiKeys::new([data.api_key()?]).map_err(Fault::internal)?);
        };
        let refuse = |why: String| {
            Fault::new(Code::InvalidRequest, format!("{}: {why}", path.display())).remedy(
                "write one key per line, such as `openssl rand -hex 24` makes, after the name \
                     of its project if that is not `default`",
            )
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| local(format!("cannot read {}", path.display()), error))?;
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut keys = ApiKeys::default();
        for (number, line) in lines.filter(|(_, it)| !it.is_empty() && !it.starts_with('#')) {
            let refuse = |why: &dyn Display| refuse(format!("line {number}: {why}"));
            let (project, key) = match line.split_once(char::is_whitespace) {
                Some((project, key)) => {
                    (project.parse().map_err(|error| refuse(&error))?, key.trim_start())
                }
                None => (ProjectId::default(), line),
            };
            keys = keys.and(&project, [key]).map_err(|error| refuse(&error))?;
        }
        if keys.is_empty() {
            return Err(refuse("there is no API key in it, so nobody could speak".into()).into());
        }
        Ok(keys)
    }
}

/// Waits until the database answers.
async fn until_heard(store: &Store) {
    while let Err(error) = store.ping().await {
        tracing::warn!(%error, "waiting for the database");
        tokio::time::sleep(RETRY).await;
    }
}

/// Replaces this process by its own program, with the arguments and the environment it was given: of a
/// worker that has lost its lease nothing may go on. Returns only why it could not.
fn begin_anew() -> Fault {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    // Not what lies at the program's path by now: that may be another version.
    let error = Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
    Fault::new(
        Code::WorkerLost,
        format!("the lease was lost, and the worker cannot begin anew: {error}"),
    )
    .remedy("start it again")
}

impl FleetArgs {
    fn key(&self) -> Result<FleetKey, CliError> {
        let path = self.fleet_key_file.as_ref().ok_or_else(|| {
            Fault::new(Code::InvalidRequest, "no fleet key is named").remedy(
                "make one with `openssl rand -hex 32 > fleet-key`, and give the file to every \
                 gateway and worker with --fleet-key-file",
            )
        })?;
        let secret = std::fs::read_to_string(path)
            .map_err(|error| local(format!("cannot read {}", path.display()), error))?;
        FleetKey::new(&secret).map_err(|error| {
            Fault::new(Code::InvalidRequest, format!("{}: {error}", path.display())).into()
        })
    }

    /// What tells the fleet's processes of each other's work.
    fn bus(&self) -> Result<Bus, CliError> {
        let Some(url) = &self.redis else { return Ok(Bus::polling(LOOK_AGAIN)) };
        Bus::redis(url).map_err(|error| {
            Fault::new(Code::InvalidRequest, format!("--redis: {error}"))
                .remedy("name it as redis://:password@host:6379, or rediss:// for TLS")
                .into()
        })
    }

    /// The database, which a fleet must name: one in the data directory would be nobody else's.
    fn database(&self) -> Result<&crate::args::DatabaseArgs, CliError> {
        if self.database.database.is_some() {
            return Ok(&self.database);
        }
        Err(Fault::new(Code::InvalidRequest, "no database is named")
            .remedy("name the fleet's database with --database postgres://…, or use `aetherium up`")
            .into())
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), CliError> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        local(format!("cannot listen on {address}"), error)
            .remedy("choose another address with --listen")
    })?;
    let address = listener.local_addr().map_err(|error| local("the listener's address", error))?;
    Ok((listener, address))
}

fn nowhere(address: SocketAddr) -> Fault {
    Fault::new(
        Code::InvalidRequest,
        format!("{address} is every address of this machine, and none"),
    )
    .remedy("say with --address under which host and port gateways reach this worker")
}
