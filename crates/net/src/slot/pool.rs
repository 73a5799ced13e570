//! The pool: slots are acquired from it, released to it, and after a crash found again.
//!
//! ```text
//! acquire: claim ► namespace ► veth, TAP ► addresses ► the slot's rules ► the host's rules ► up
//! release: link ► namespace ► claim
//! ```
//!
//! The claim comes first and goes last, so that whatever else exists is always claimed. Owns names
//! and addresses of the pool's prefix on this host; must never touch any other.

use super::{
    NetError, Slot, SlotsConfig,
    claims::{Claim, Claims},
    config::{MAX_RESOLVERS, usable_resolver},
    firewall::{self, Nft},
    links::{Links, TAP, drive},
    namespace::{self, Namespace, on_thread},
    preflight, tap,
};
use crate::GuestNet;
use aetherium_model::{VmId, resources::NetworkMode};
use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// The most slots that are made or released at once: the kernel changes interfaces one by one, and
/// each more would only hold a thread.
const MAX_AT_ONCE: usize = 8;

/// A pool of slots.
#[derive(Debug, Clone)]
pub struct Slots {
    pool: Arc<Pool>,
    turns: Arc<Semaphore>,
}

/// A slot on this host that no journal knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its number in the pool.
    pub number: u32,
    /// Whose it was, where its claim still says so.
    pub vm_id: Option<VmId>,
}

impl Slots {
    /// Opens the pool of `config.prefix` on the host whose network namespace this thread is in, and
    /// lays the host's rules.
    ///
    /// # Errors
    /// [`NetError::NotPrivileged`], [`NetError::NftMissing`] or [`NetError::RangeTaken`] where this
    /// host can have no slots; a VM is then reached over vsock alone. Others name the file or rule
    /// that could not be had.
    pub async fn new(config: SlotsConfig) -> Result<Self, NetError> {
        preflight::privileged()?;
        let host = Namespace::current()?;
        let open = move || {
            host.enter()?;
            Pool::open(config, host)
        };
        let pool = Arc::new(on_thread("open the pool of slots", open, drop).await?);
        Ok(Self { pool, turns: Arc::new(Semaphore::new(MAX_AT_ONCE)) })
    }

    /// Makes a slot for a VM. What fails midway is undone; so is a slot whose caller has gone away.
    ///
    /// # Errors
    /// [`NetError::Exhausted`] when all are taken, [`NetError::ForwardingOff`] when a guest with
    /// egress would reach nothing, and whatever the kernel or `nft` refuses.
    pub async fn acquire(&self, vm_id: VmId, mode: NetworkMode) -> Result<Slot, NetError> {
        let undo = self.pool.clone();
        let unwanted = move |slot: Slot| undo.undo(&slot);
        self.work("make a slot", move |pool| pool.acquire(vm_id, mode), unwanted).await
    }

    /// Releases a slot. One that is released already, or has another VM's since, is left alone.
    ///
    /// # Errors
    /// What the kernel refuses; the slot then stays claimed, and can be released again.
    pub async fn release(&self, slot: &Slot) -> Result<(), NetError> {
        let slot = slot.clone();
        self.work("release a slot", move |pool| pool.release(&slot), drop).await
    }

    /// The slots on this host that are none of `known`, those of the VMs' journals.
    ///
    /// To be asked when no slot is being acquired: one that is still being made is in no journal.
    ///
    /// # Errors
    /// What cannot be listed.
    pub async fn orphans(&self, known: &[Slot]) -> Result<Vec<Orphan>, NetError> {
        let known: HashSet<(u32, VmId)> = known.iter().map(|it| (it.number, it.vm_id)).collect();
        let mut found = self.work("list slots", |pool| pool.list(), drop).await?;
        found.retain(|it| it.vm_id.is_none_or(|vm_id| !known.contains(&(it.number, vm_id))));
        Ok(found)
    }

    /// Releases an orphan, unless its number has another VM's slot since.
    ///
    /// # Errors
    /// As [`release`](Self::release).
    pub async fn release_orphan(&self, orphan: &Orphan) -> Result<(), NetError> {
        let orphan = orphan.clone();
        self.work("release an orphan", move |pool| pool.release_orphan(&orphan), drop).await
    }

    /// Removes the host's rules of this pool, for good: a slot that is left reaches nothing more.
    ///
    /// # Errors
    /// What `nft` refuses.
    pub async fn close(self) -> Result<(), NetError> {
        self.work("remove the host's rules", |pool| pool.remove_host_rules(), drop).await
    }

    /// Does work of the pool on a thread of its own, in the host's namespace.
    async fn work<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Pool) -> Result<T, NetError> + Send + 'static,
        unwanted: impl FnOnce(T) + Send + 'static,
    ) -> Result<T, NetError> {
        let turn = self.turns.clone().acquire_owned().await;
        let pool = self.pool.clone();
        let work = move || {
            let _turn = turn.map_err(|_| NetError::ThreadLost { action })?;
            pool.host.enter()?;
            work(&pool)
        };
        on_thread(action, work, unwanted).await
    }
}

/// What the threads work with. All methods block, and are called in the host's namespace.
#[derive(Debug)]
struct Pool {
    config: SlotsConfig,
    host: Namespace,
    claims: Claims,
    nft: Nft,
}

impl Pool {
    fn open(mut config: SlotsConfig, host: Namespace) -> Result<Self, NetError> {
        config.resolvers.retain(usable_resolver);
        config.resolvers.truncate(MAX_RESOLVERS);
        let nft = Nft::find(config.nft.as_deref())?;
        let claims = Claims::at(&config.claims_dir);
        preflight::range_is_free(config.range, &claims)?;
        claims.create_dir()?;
        namespace::prepare_dir(&config.netns_dir)?;
        let pool = Self { config, host, claims, nft };
        pool.lay_host_rules()?;
        Ok(pool)
    }

    fn acquire(&self, vm_id: VmId, mode: NetworkMode) -> Result<Slot, NetError> {
        if mode == NetworkMode::Egress && !preflight::forwards()? {
            return Err(NetError::ForwardingOff);
        }
        let slot = self.claim(vm_id, mode)?;
        match self.build(&slot) {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.undo(&slot);
                Err(error)
            }
        }
    }

    /// Takes the lowest number whose addresses nobody has.
    fn claim(&self, vm_id: VmId, mode: NetworkMode) -> Result<Slot, NetError> {
        let range = self.config.range;
        let taken = self.claims.all()?;
        for number in 0..range.slots() {
            let pair = range.pair(number);
            let claim = Claim::new(&self.config.prefix, number, vm_id);
            if taken.contains_key(&pair.block) || !self.claims.take(pair.block, &claim)? {
                continue;
            }
            return Ok(Slot {
                number,
                vm_id,
                mode,
                netns: self.netns(number),
                tap: TAP.to_owned(),
                host_link: claim.slot,
                host_address: pair.host,
                address: pair.slot,
                guest: GuestNet::COMMON,
            });
        }
        Err(NetError::Exhausted { range, most: range.slots() })
    }

    /// Makes all of a claimed slot. The rules stand before the first packet can pass.
    fn build(&self, slot: &Slot) -> Result<(), NetError> {
        namespace::create(&slot.netns)?;
        set_sysctl("ipv4/ip_forward", "1")?;
        for interfaces in ["all", "default"] {
            // A kernel without IPv6 has nothing to switch off.
            ignoring_missing(set_sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "1"))?;
        }
        tap::create(&slot.tap)?;
        drive("make the slot's links", async {
            let links = Links::open()?;
            links.add_veth(&slot.host_link, &self.host).await?;
            let SlotsConfig { resolvers, max_connections, .. } = &self.config;
            let rules = firewall::slot_rules(slot, resolvers, *max_connections);
            self.nft.apply(&rules, &slot.host_link).await?;
            links.furnish(slot).await
        })?;
        self.host.enter()?;
        // A firewall that was reloaded meanwhile has thrown the host's rules away.
        self.lay_host_rules()?;
        drive("bring the host's end up", async { Links::open()?.raise_host_end(slot).await })
    }

    /// Takes back a slot that its caller will never hear of. What stays is an orphan.
    fn undo(&self, slot: &Slot) {
        if let Err(error) = self.host.enter().and_then(|()| self.release(slot)) {
            tracing::warn!(slot = slot.host_link, %error, "a slot could not be taken back");
        }
    }

    fn release(&self, slot: &Slot) -> Result<(), NetError> {
        let block = self.config.range.pair(slot.number).block;
        match self.claims.of(block)? {
            Some(claim) if claim.slot == slot.host_link && claim.vm_id == slot.vm_id => {
                self.clear(slot.number)
            }
            _ => Ok(()),
        }
    }

    fn release_orphan(&self, orphan: &Orphan) -> Result<(), NetError> {
        let now = self.claims.of(self.config.range.pair(orphan.number).block)?;
        let own = now.filter(|claim| claim.slot == self.config.prefix.name(orphan.number));
        if own.is_none_or(|claim| Some(claim.vm_id) == orphan.vm_id) {
            self.clear(orphan.number)
        } else {
            Ok(())
        }
    }

    /// Removes all that a number stands for. The link goes first: whatever still runs in the
    /// namespace is cut off at once.
    fn clear(&self, number: u32) -> Result<(), NetError> {
        let name = self.config.prefix.name(number);
        drive("remove the slot's link", async { Links::open()?.remove(&name).await })?;
        namespace::remove(&self.netns(number))?;
        let block = self.config.range.pair(number).block;
        match self.claims.of(block)? {
            Some(claim) if claim.slot == name => self.claims.give_up(block),
            _ => Ok(()),
        }
    }

    /// All slots of the pool that have left a trace on the host, each once.
    fn list(&self) -> Result<Vec<Orphan>, NetError> {
        let mut found: BTreeMap<u32, Option<VmId>> = BTreeMap::new();
        let links = drive("list links", async { Links::open()?.names().await })?;
        let number = |name: &str| self.config.prefix.number(name);
        for number in
            links.iter().chain(&file_names(&self.config.netns_dir)?).filter_map(|it| number(it))
        {
            found.insert(number, None);
        }
        for claim in self.claims.all()?.into_values() {
            if let Some(number) = number(&claim.slot) {
                found.insert(number, Some(claim.vm_id));
            }
        }
        Ok(found.into_iter().map(|(number, vm_id)| Orphan { number, vm_id }).collect())
    }

    fn lay_host_rules(&self) -> Result<(), NetError> {
        let SlotsConfig { prefix, range, resolvers, .. } = &self.config;
        self.apply(&firewall::host_rules(prefix, *range, resolvers))
    }

    fn remove_host_rules(&self) -> Result<(), NetError> {
        self.apply(&firewall::host_rules_removed(&self.config.prefix))
    }

    fn apply(&self, rules: &str) -> Result<(), NetError> {
        drive("lay the host's rules", self.nft.apply(rules, self.config.prefix.as_str()))
    }

    fn netns(&self, number: u32) -> PathBuf {
        self.config.netns_dir.join(self.config.prefix.name(number))
    }
}

fn file_names(dir: &Path) -> Result<Vec<String>, NetError> {
    let failed = || NetError::io("list", dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        names.extend(entry.map_err(failed())?.file_name().into_string());
    }
    Ok(names)
}

/// Sets a kernel parameter of the calling thread's network namespace.
fn set_sysctl(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys/net").join(name);
    fs::write(&path, value).map_err(NetError::io("write", path))
}

fn ignoring_missing(outcome: Result<(), NetError>) -> Result<(), NetError> {
    match outcome {
        Err(NetError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
