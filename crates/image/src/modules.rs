//! Which kernel modules a guest needs to find its disks and its agent, and in which order.
//!
//! This file is the decision, pure and without I/O: from what is [`WANTED`] and what a kernel
//! [`Provision`]s, [`plan`] makes the load order. [`tree`] reads a `/lib/modules/<release>`, [`file`]
//! one module of it. Nothing here runs `depmod`, and no index of it is needed: a kernel package has
//! none before it is installed.

pub(crate) mod file;
pub(crate) mod tree;

use crate::error::{ImageError, Result};
use std::collections::BTreeSet;

/// How badly a driver is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// No VM starts without it.
    Required,
    /// At least one of the drivers that share this need: they do the same over different buses.
    AnyTransport,
    /// VMs start, but less well.
    Recommended,
    /// Taken along where there is one.
    Optional,
}

/// A driver that guests use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) module: &'static str,
    pub(crate) need: Need,
    pub(crate) purpose: &'static str,
}

/// Every driver that guests use, in the order in which they should come up: disks first.
pub(crate) const WANTED: &[Wanted] = &[
    wanted("virtio_pci", Need::AnyTransport, "no device of the VM would be seen"),
    wanted("virtio_mmio", Need::AnyTransport, "no device of the VM would be seen"),
    wanted("virtio_blk", Need::Required, "the guest would find no disk"),
    // Checksums of ext4: the fast one where the processor has it, else the plain one.
    wanted("crc32c_intel", Need::Optional, ""),
    wanted("crc32c_generic", Need::Optional, ""),
    wanted("ext4", Need::Required, "the root filesystem could not be mounted"),
    wanted("overlay", Need::Required, "the root filesystem could not be made writable"),
    wanted(
        "vmw_vsock_virtio_transport",
        Need::Recommended,
        "the agent is reached over TCP only, which needs a network device",
    ),
    wanted("virtio_net", Need::Recommended, "VMs have no network, nor an agent reached over TCP"),
    wanted("virtio_rng", Need::Optional, ""),
    wanted("virtio_balloon", Need::Optional, ""),
];

const fn wanted(module: &'static str, need: Need, purpose: &'static str) -> Wanted {
    Wanted { module, need, purpose }
}

/// How a kernel has a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provision {
    /// It is part of the kernel.
    BuiltIn,
    /// It is a file, which needs others loaded before it.
    Loadable(Needs),
    /// It is not there.
    Absent,
}

/// What a module needs loaded before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Needs {
    /// It does not load without these.
    pub(crate) hard: Vec<String>,
    /// It loads without these, but may then lack something: an alias, or a module not there, is
    /// passed over.
    pub(crate) soft: Vec<String>,
}

/// What to load, in order, and which drivers there are not.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Each after all it needs, none twice.
    pub(crate) load_order: Vec<String>,
    /// Wanted drivers that the kernel does not have.
    pub(crate) absent: Vec<Wanted>,
}

/// Makes the load order of what is wanted. `provision` says how the kernel has a module, by its
/// normalized name.
///
/// # Errors
/// If a module's hard needs are absent or form a circle, or `provision` fails.
pub(crate) fn plan(
    wanted: &[Wanted],
    mut provision: impl FnMut(&str) -> Result<Provision>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut settled = BTreeSet::new();
    for driver in wanted {
        match provision(driver.module)? {
            Provision::BuiltIn => {}
            Provision::Absent => plan.absent.push(*driver),
            Provision::Loadable(_) => {
                let order = &mut plan.load_order;
                Walk { provision: &mut provision, settled: &mut settled, order, way: Vec::new() }
                    .visit(driver.module)?;
            }
        }
    }
    Ok(plan)
}

/// A walk over needs, depth first: what is needed is settled before what needs it.
struct Walk<'a, P> {
    provision: &'a mut P,
    settled: &'a mut BTreeSet<String>,
    order: &'a mut Vec<String>,
    way: Vec<String>,
}

impl<P: FnMut(&str) -> Result<Provision>> Walk<'_, P> {
    fn visit(&mut self, module: &str) -> Result<()> {
        if self.settled.contains(module) {
            return Ok(());
        }
        if let Some(start) = self.way.iter().position(|on_the_way| on_the_way == module) {
            let circle = self.way[start..].iter().cloned().chain([module.to_owned()]).collect();
            return Err(ImageError::ModuleCircle { circle });
        }
        let needs = match (self.provision)(module)? {
            Provision::BuiltIn => return Ok(()),
            Provision::Loadable(needs) => needs,
            Provision::Absent => {
                let by = self.way.last().cloned().unwrap_or_default();
                let detail = format!("it needs {module}, which the kernel does not have");
                return Err(ImageError::ModuleUnusable { path: by.into(), detail });
            }
        };
        self.way.push(module.to_owned());
        for soft in &needs.soft {
            self.try_visit(soft)?;
        }
        for hard in &needs.hard {
            self.visit(hard)?;
        }
        self.way.pop();
        self.settled.insert(module.to_owned());
        self.order.push(module.to_owned());
        Ok(())
    }

    /// Visits what is wanted but not needed: if it cannot be loaded, it is passed over.
    fn try_visit(&mut self, module: &str) -> Result<()> {
        let depth = self.way.len();
        match self.visit(module) {
            Err(ImageError::ModuleCircle { .. } | ImageError::ModuleUnusable { .. }) => {
                self.way.truncate(depth);
                Ok(())
            }
            other => other,
        }
    }
}

/// The drivers without which no VM of this kernel can start, of those that are absent.
pub(crate) fn fatal(wanted: &[Wanted], absent: &[Wanted]) -> Option<Wanted> {
    let of_transport =
        |list: &[Wanted]| list.iter().filter(|w| w.need == Need::AnyTransport).count();
    let no_transport = of_transport(absent) > 0 && of_transport(absent) == of_transport(wanted);
    absent
        .iter()
        .find(|w| w.need == Need::Required || (w.need == Need::AnyTransport && no_transport))
        .copied()
}

/// The one spelling of a module's name: the kernel takes `-` and `_` for the same.
pub(crate) fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
pub(crate) mod tests;
