//! Gateway and worker in one process.

use crate::{
    args::{CatalogArgs, DatabaseArgs, DriverArgs, EventLogArgs, KeysArgs},
    client::Client,
    datadir::{DataDir, Lock},
    error::{CliError, local},
    operations::{Bound, Serving},
};
use aetherium_catalog::Catalog;
use aetherium_gateway::{ApiKeys, Gateway, GatewayConfig};
use aetherium_image::TemplateStore;
use aetherium_model::{
    Code, Fault, Name,
    resources::{DriverChoice, DriverKind},
    room::Overcommit,
    worker::{Labels, Lease},
};
use aetherium_queue::{Bus, Queue};
use aetherium_secrets::MasterKeys;
use aetherium_store::Store;
use aetherium_vmm::{Chosen, DriverConfig, Firecracker, ProbeGuest, VsockChoice};
use aetherium_worker::{Layout, Parts, Remote, Settings, SlotChoice, Worker};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// How a server is to be.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    pub(crate) data: DataDir,
    pub(crate) listen: SocketAddr,
    pub(crate) operations: Option<SocketAddr>,
    pub(crate) driver: DriverArgs,
    pub(crate) database: DatabaseArgs,
    pub(crate) keys: KeysArgs,
    pub(crate) catalog: CatalogArgs,
    pub(crate) events: EventLogArgs,
    pub(crate) grace: Duration,
    pub(crate) boot_deadline: Duration,
}

impl ServerConfig {
    /// A server for this process alone, at a free port of the loopback.
    pub(crate) fn private(data: DataDir, driver: DriverArgs) -> Self {
        Self {
            data,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            operations: None,
            driver,
            database: DatabaseArgs::default(),
            keys: KeysArgs::default(),
            catalog: CatalogArgs::default(),
            events: EventLogArgs::default(),
            grace: Duration::ZERO,
            boot_deadline: Duration::from_secs(90),
        }
    }
}

/// A running server.
pub(crate) struct Server {
    data: DataDir,
    url: String,
    key: String,
    driver: DriverFound,
    pub(crate) worker: Worker,
    gateway: JoinHandle<()>,
    stop_gateway: CancellationToken,
    operations: Option<Serving>,
    _lock: Lock,
}

impl Server {
    /// Starts a server and announces it in its data directory.
    pub(crate) async fn start(config: ServerConfig) -> Result<Self, CliError> {
        let data = config.data.clone();
        data.create()?;
        let lock = data.lock()?;
        let key = data.api_key()?;
        let catalog = config.catalog.load(&data)?;
        let layout = Layout::open(data.path()).map_err(Fault::from)?;
        let keys = match config.keys.load()? {
            Some(keys) => keys,
            None => data.secrets_keys()?,
        };
        let store = open_store(&data, &config.database, Some(keys)).await?;
        let bus = Bus::in_process();
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            local(format!("cannot listen on {}", config.listen), error)
                .remedy("choose another address with --listen")
        })?;
        let address =
            listener.local_addr().map_err(|error| local("the listener's address", error))?;

        let operations = match config.operations {
            Some(address) => Some(Bound::at(address).await?),
            None => None,
        };

        let parts = WorkerConfig {
            data: &data,
            layout,
            driver: &config.driver,
            catalog: catalog.clone(),
            grace: config.grace,
            boot_deadline: config.boot_deadline,
            remote: None,
            member: None,
        };
        let (worker, driver) = start_worker(parts, store.clone(), bus.clone()).await?;

        let keys = ApiKeys::new([key.as_str()]).map_err(Fault::internal)?;
        let gateway_config = GatewayConfig { catalog, ..GatewayConfig::new(keys) };
        let gateway_config = config.events.applied_to(gateway_config);
        let gateway = Gateway::new(gateway_config, Queue::new(store.clone(), bus));
        let operations = operations.map(|bound| {
            bound.serve("up", |parts| {
                parts.watch(store).watch(gateway.clone()).watch(worker.watched())
            })
        });
        let stop_gateway = CancellationToken::new();
        let gateway = tokio::spawn(serve(listener, gateway, stop_gateway.clone()));
        let url = format!("http://{address}");
        data.announce(&url)?;
        Ok(Self { data, url, key, driver, worker, gateway, stop_gateway, operations, _lock: lock })
    }

    /// The API's base URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The driver and why it, or why there is none.
    pub(crate) fn driver(&self) -> Result<&(DriverKind, String), &Fault> {
        self.driver.as_ref()
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Client::new(&self.url, &self.key)
    }

    /// Stops in order: commands get their grace, VMs are ended, nothing is left.
    pub(crate) async fn stop(self) {
        self.data.retract();
        // The gateway first stops taking requests, but readers may see how their runs end.
        self.worker.drain().await;
        self.stop_gateway.cancel();
        if let Err(error) = self.gateway.await {
            tracing::error!(%error, "the gateway did not end well");
        }
        if let Some(operations) = self.operations {
            operations.stop().await;
        }
    }
}

/// How a worker is to be.
pub(crate) struct WorkerConfig<'a> {
    pub(crate) data: &'a DataDir,
    pub(crate) layout: Layout,
    pub(crate) driver: &'a DriverArgs,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) grace: Duration,
    pub(crate) boot_deadline: Duration,
    pub(crate) remote: Option<Remote>,
    /// What it tells of itself; nothing beside its own gateway, which also needs no lease of it.
    pub(crate) member: Option<Member>,
}

/// A worker as a member of a fleet.
pub(crate) struct Member {
    pub(crate) lease: Lease,
    pub(crate) zone: Option<Name>,
    pub(crate) labels: Labels,
    pub(crate) overcommit: Overcommit,
    pub(crate) max_vms: u32,
}

/// The driver that a worker uses and why, or why there is none.
type DriverFound = Result<(DriverKind, String), Fault>;

/// Chooses a driver and starts a worker with it.
pub(crate) async fn start_worker(
    config: WorkerConfig<'_>,
    store: Store,
    bus: Bus,
) -> Result<(Worker, DriverFound), CliError> {
    let WorkerConfig { data, layout, driver: args, catalog, grace, boot_deadline, remote, member } =
        config;
    let driver = Box::pin(choose_driver(data, &layout, args)).await;
    let found = match &driver {
        Ok(chosen) => Ok((chosen.vmm.kind(), chosen.reason.clone())),
        Err(fault) => Err(fault.clone()),
    };
    let settings = match member {
        Some(Member { lease, zone, labels, overcommit, max_vms }) => Settings {
            lease: Some(lease),
            zone,
            labels,
            overcommit,
            max_vms,
            ..Settings::default()
        },
        None => Settings::default(),
    };
    let settings = Settings {
        boot_deadline,
        drain_grace: grace,
        vsock: if args.no_vsock { VsockChoice::Off } else { VsockChoice::Auto },
        slots: if args.no_slots { SlotChoice::Off } else { SlotChoice::Auto },
        hibernation_budget: u64::from(args.hibernation_mib) << 20,
        volatile_dir: args.volatile_dir.clone(),
        agent_binary: agent_binary(args),
        catalog,
        ..settings
    };
    let parts = Parts { layout, store, bus, driver, remote, settings };
    Ok((Box::pin(Worker::start(parts)).await.map_err(Fault::from)?, found))
}

impl CatalogArgs {
    /// The directory that was named, which must be there, else the data directory's own; with what comes with
    /// the program.
    pub(crate) fn load(&self, data: &DataDir) -> Result<Arc<Catalog>, Fault> {
        let directory = match &self.catalog {
            Some(named) if !named.is_dir() => {
                let detail = format!("--catalog: there is no directory {}", named.display());
                return Err(
                    Fault::new(Code::InvalidRequest, detail).remedy("make it, or name another")
                );
            }
            Some(named) => named.clone(),
            None => data.path().join("catalog"),
        };
        let loaded = Catalog::with_directory(&directory).map_err(|error| {
            Fault::new(Code::InvalidRequest, error.to_string())
                .remedy("correct the file, or move it out of the catalogue")
        })?;
        Ok(Arc::new(loaded))
    }
}

/// Serves the gateway until it is told to stop.
pub(crate) async fn serve(listener: TcpListener, gateway: Gateway, stop: CancellationToken) {
    if let Err(error) = aetherium_gateway::serve(listener, gateway, stop).await {
        tracing::error!(%error, "the gateway ended");
    }
}

/// Opens the store for a role: with its schema up to date, and with keys that open what is encrypted.
pub(crate) async fn open_store(
    data: &DataDir,
    args: &DatabaseArgs,
    keys: Option<MasterKeys>,
) -> Result<Store, CliError> {
    let store = open_database(data, args).await?;
    let store = match keys {
        Some(keys) => store.with_keys(keys),
        None => store,
    };
    store.check_keys().await.map_err(Fault::from)?;
    Ok(store)
}

/// Opens the store and brings its schema up to date.
pub(crate) async fn open_database(data: &DataDir, args: &DatabaseArgs) -> Result<Store, CliError> {
    let url = args.database.clone().unwrap_or_else(|| data.database_url());
    let url = url
        .parse()
        .map_err(|error| Fault::new(Code::InvalidRequest, format!("--database: {error}")))?;
    let store = Box::pin(Store::open(&url)).await.map_err(Fault::from)?;
    Box::pin(store.migrate()).await.map_err(Fault::from)?;
    Ok(store)
}

/// Where drivers find what they need.
pub(crate) fn driver_config(data: &DataDir, layout: &Layout, args: &DriverArgs) -> DriverConfig {
    DriverConfig {
        firecracker: args.firecracker.clone(),
        jailer: args.jailer.clone(),
        no_jailer: args.no_jailer,
        qemu: args.qemu.clone(),
        vsock_helper: args.vsock_helper.clone(),
        agent: agent_binary(args),
        data_dir: data.path().to_owned(),
        cache_dir: layout.probes(),
    }
}

/// Chooses the driver that the arguments ask for.
pub(crate) async fn choose_driver(
    data: &DataDir,
    layout: &Layout,
    args: &DriverArgs,
) -> Result<Chosen, Fault> {
    let config = driver_config(data, layout, args);
    if args.driver == DriverChoice::Only(DriverKind::Process) {
        tracing::warn!(
            "the process driver isolates nothing: commands run on this host as this user"
        );
    }
    let probe = match args.driver {
        DriverChoice::Auto if Firecracker::is_installed(&config) => probe_guest(layout).await?,
        // Each template's kernel is probed before its first VM.
        _ => None,
    };
    let chosen = aetherium_vmm::choose(args.driver, &config, probe.as_ref()).await;
    if let Some(guest) = probe {
        let _ = std::fs::remove_file(guest.initrd);
    }
    chosen
}

/// A guest of the newest template, for the choice of a driver; there may be no template yet.
async fn probe_guest(layout: &Layout) -> Result<Option<ProbeGuest>, Fault> {
    let templates = TemplateStore::open(layout.templates())?;
    let Some(newest) = templates.list()?.into_iter().max_by_key(|it| it.created_at) else {
        return Ok(None);
    };
    let initrd = layout.probes().join("choice.initrd");
    aetherium_worker::probe_guest(&templates.get(&newest.name)?, initrd).await.map(Some)
}

/// The agent's binary: the one that was named, or the one beside this program.
pub(crate) fn agent_binary(args: &DriverArgs) -> Option<PathBuf> {
    args.agent.clone().or_else(|| beside_this_program("fc-agent"))
}

/// A file in the directory of this program, or in the directory that `make` puts static binaries.
pub(crate) fn beside_this_program(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let dir = program.parent()?;
    [dir.join(name), dir.join("../libexec/aetherium").join(name)]
        .into_iter()
        .find(|path| path.is_file())
}
