//! The guest's network: a namespace with an `eth0`, and the cable from there to the host's TAP.
//!
//! `eth0` is a TAP as well, and frames are carried from one to the other, as a VMM does between a TAP
//! and a virtio queue. Only root can have it.

use crate::files;
use aetherium_agent_proto::config::GuestNet;
use futures::TryStreamExt as _;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
    os::fd::AsFd as _,
};
use tokio::{io::unix::AsyncFd, sync::watch};

/// The longest frame, with the virtio header before it: 64 KiB and some.
const MAX_FRAME: usize = 65_600;

/// A network with nobody in it yet.
pub(crate) struct Cable {
    eth0: File,
    netlink: Handle,
}

impl Cable {
    /// Makes the network and lets `inside` be done in it. Nothing else of this process may run
    /// meanwhile, which is sure as it has one thread and this does not wait.
    pub(crate) fn lay<T>(inside: impl FnOnce() -> io::Result<T>) -> io::Result<(Self, T)> {
        let home = File::open("/proc/thread-self/ns/net")?;
        // SAFETY: only the network namespace changes, and below it is changed back.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        let made = Self::here().and_then(|cable| Ok((cable, inside()?)));
        move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
        made
    }

    fn here() -> io::Result<Self> {
        let eth0 = files::open_tap("eth0").map_err(|refusal| io::Error::other(refusal.message))?;
        let (connection, netlink, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { eth0, netlink })
    }

    /// Gives `eth0` its address, as the guest's init does.
    pub(crate) async fn configure(&self, net: &GuestNet, mac: Option<[u8; 6]>) -> io::Result<()> {
        let (lo, eth0) = (self.index("lo").await?, self.index("eth0").await?);
        let mut up = LinkUnspec::new_with_index(eth0).up();
        if let Some(mac) = mac {
            up = up.address(mac.to_vec());
        }
        let links = self.netlink.link();
        links
            .set(LinkUnspec::new_with_index(lo).up().build())
            .execute()
            .await
            .map_err(io::Error::other)?;
        links.set(up.build()).execute().await.map_err(io::Error::other)?;
        let cidr = net.address_cidr;
        let address = self.netlink.address().add(eth0, cidr.address().into(), cidr.prefix());
        address.execute().await.map_err(io::Error::other)?;
        if let Some(gateway) = net.gateway {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
            self.netlink.route().add(route).execute().await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    async fn index(&self, name: &str) -> io::Result<u32> {
        let mut links = self.netlink.link().get().match_name(name).execute();
        let found = links.try_next().await.map_err(io::Error::other)?;
        found.map(|link| link.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Carries frames both ways while the guest runs, until it is dropped.
    pub(crate) async fn carry(self, tap: File, runs: watch::Receiver<bool>) -> io::Result<()> {
        for file in [&tap, &self.eth0] {
            fcntl_setfl(file, OFlags::NONBLOCK)?;
        }
        // SAFETY: a file keeps its one descriptor open for as long as it lives, and each lives in its
        // AsyncFd until that is dropped.
        let (tap, eth0) = unsafe { (AsyncFd::register(tap)?, AsyncFd::register(self.eth0)?) };
        tokio::try_join!(one_way(&tap, &eth0, runs.clone()), one_way(&eth0, &tap, runs))?;
        Ok(())
    }
}

async fn one_way(
    from: &AsyncFd<File>,
    to: &AsyncFd<File>,
    mut runs: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut frame = vec![0; MAX_FRAME];
    loop {
        runs.wait_for(|runs| *runs).await.map_err(io::Error::other)?;
        let mut ready = from.readable().await?;
        if let Ok(length) = ready.try_io(|file| file.get_ref().read(&mut frame)) {
            // An interface that is down, or whose queue is full, loses frames.
            let _ = to.get_ref().write(&frame[..length?]);
        }
    }
}
