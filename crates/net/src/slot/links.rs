//! Interfaces, addresses, routes and neighbours over netlink, in the calling thread's namespace.
//!
//! Blocking: each call drives a small runtime of its own on the calling thread, since a netlink
//! socket belongs to the namespace in which it was opened. Every wait has a deadline.

use super::{NetError, Slot, VethRange, error::kernel_error, namespace::Namespace};
use crate::Mac;
use futures::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoVeth, LinkAttribute},
        neighbour::NeighbourState,
        route::{RouteAddress, RouteAttribute},
    },
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

/// The TAP's name inside its namespace, the same in each.
pub(super) const TAP: &str = "tap0";
/// The name of the slot's end of the veth pair, the same in each.
pub(super) const UPLINK: &str = "up0";
/// The gateway's hardware address, the same in each: a guest that wakes up in another slot still has
/// it in its neighbour table. Locally administered, like [`GuestNet::COMMON`](crate::GuestNet)'s.
const GATEWAY_MAC: Mac = Mac([0x06, 0x00, 172, 16, 0, 1]);
/// How long the kernel may take over one step. It waits for other changes of interfaces on the host.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Runs `work` to its end or the deadline, on a runtime made for it.
pub(super) fn drive<T>(
    action: &'static str,
    work: impl Future<Output = Result<T, NetError>>,
) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NetError::io("start a runtime for", "netlink"))?;
    runtime.block_on(async {
        let late = |_| NetError::Deadline { action, waited: DEADLINE };
        tokio::time::timeout(DEADLINE, work).await.map_err(late)?
    })
}

/// A netlink socket in the namespace where it was opened. Lives within [`drive`].
pub(super) struct Links {
    handle: Handle,
}

impl Links {
    /// Opens it. The connection's task ends with the runtime of [`drive`].
    pub(super) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(NetError::io("open a netlink socket in", "/proc/thread-self/ns/net"))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Makes the veth pair: this namespace gets [`UPLINK`], `host` the other end under `name`. Both
    /// come into being at once, each where it belongs.
    pub(super) async fn add_veth(&self, name: &str, host: &Namespace) -> Result<(), NetError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name)
            .setns_by_fd(host.as_fd().as_raw_fd())
            .build();
        let pair =
            LinkVeth::new(UPLINK, name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        let made = self.handle.link().add(pair).execute().await;
        made.map_err(NetError::netlink("make the veth pair", name))
    }

    /// Gives the slot's interfaces their addresses and its way out, and brings them up.
    ///
    /// The guest's hardware address is entered for good: packets to it must not wait for an answer
    /// that a guest still booting, or just woken, is late with.
    pub(super) async fn furnish(&self, slot: &Slot) -> Result<(), NetError> {
        let guest = &slot.guest;
        let (tap, uplink) = (self.index(TAP).await?, self.index(UPLINK).await?);
        let mac = LinkUnspec::new_with_index(tap).address(GATEWAY_MAC.0.to_vec()).up().build();
        self.set(mac, TAP).await?;
        self.add_address(tap, guest.gateway, guest.prefix).await?;
        self.add_address(tap, guest.dns, guest.prefix).await?;
        self.add_address(uplink, slot.address, VethRange::PAIR_PREFIX).await?;
        self.set(LinkUnspec::new_with_index(uplink).up().build(), UPLINK).await?;
        let neighbour = self
            .handle
            .neighbours()
            .add(tap, guest.address.into())
            .link_layer_address(&guest.mac.0)
            .state(NeighbourState::Permanent);
        let entered = neighbour.execute().await;
        entered.map_err(NetError::netlink("enter the neighbour", guest.address.to_string()))?;
        let way_out = RouteMessageBuilder::<Ipv4Addr>::new().gateway(slot.host_address).build();
        let added = self.handle.route().add(way_out).execute().await;
        added.map_err(NetError::netlink("add the route via", slot.host_address.to_string()))
    }

    /// Gives the host's end its address, notes whose it is, and brings it up.
    pub(super) async fn raise_host_end(&self, slot: &Slot) -> Result<(), NetError> {
        let index = self.index(&slot.host_link).await?;
        self.add_address(index, slot.host_address, VethRange::PAIR_PREFIX).await?;
        let up = LinkUnspec::new_with_index(index).alias(slot.vm_id.to_string()).up().build();
        self.set(up, &slot.host_link).await
    }

    /// Removes a link; one that is not there is no error. The other end of a veth goes with it.
    pub(super) async fn remove(&self, name: &str) -> Result<(), NetError> {
        let Some(index) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await.map_err(kernel_error) {
            Err(error) if !is_gone(&error) => {
                Err(NetError::Netlink { action: "remove", what: name.to_owned(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// The names of all links.
    pub(super) async fn names(&self) -> Result<Vec<String>, NetError> {
        let listed = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        let links = listed.map_err(NetError::netlink("list", "interfaces"))?;
        let name = |attribute: LinkAttribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        };
        Ok(links
            .into_iter()
            .filter_map(|link| link.attributes.into_iter().find_map(name))
            .collect())
    }

    /// The IPv4 addresses of all links.
    pub(super) async fn addresses(&self) -> Result<Vec<Ipv4Addr>, NetError> {
        let listed = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let addresses = listed.map_err(NetError::netlink("list", "addresses"))?;
        let own = |attribute: AddressAttribute| match attribute {
            AddressAttribute::Address(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        Ok(addresses.into_iter().filter_map(|it| it.attributes.into_iter().find_map(own)).collect())
    }

    /// The IPv4 networks that routes lead to, default routes and the host's own addresses left out.
    pub(super) async fn routes(&self) -> Result<Vec<(Ipv4Addr, u8)>, NetError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let listed = self.handle.route().get(all).execute().try_collect::<Vec<_>>().await;
        let routes = listed.map_err(NetError::netlink("list", "routes"))?;
        let network = |route: &rtnetlink::packet_route::route::RouteMessage| {
            let prefix = route.header.destination_prefix_length;
            let remote = route.header.table != libc::RT_TABLE_LOCAL && prefix > 0;
            remote.then_some(())?;
            route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(to)) => Some((*to, prefix)),
                _ => None,
            })
        };
        Ok(routes.iter().filter_map(network).collect())
    }

    async fn add_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetError> {
        let added = self.handle.address().add(link, address.into(), prefix).execute().await;
        added.map_err(NetError::netlink("add the address", address.to_string()))
    }

    async fn set(
        &self,
        link: rtnetlink::packet_route::link::LinkMessage,
        name: &str,
    ) -> Result<(), NetError> {
        let set = self.handle.link().set(link).execute().await;
        set.map_err(NetError::netlink("bring up", name))
    }

    async fn index(&self, name: &str) -> Result<u32, NetError> {
        self.find(name).await?.ok_or_else(|| NetError::Netlink {
            action: "find",
            what: name.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    async fn find(&self, name: &str) -> Result<Option<u32>, NetError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await.map_err(kernel_error) {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => {
                Err(NetError::Netlink { action: "look for", what: name.to_owned(), source })
            }
        }
    }
}

/// The kernel's answer for a link that is not there.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
