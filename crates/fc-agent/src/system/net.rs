//! The network's calls: an interface up, an IPv4 address, routes; by the classic ioctls.
//!
//! A static address needs a handful of calls; a netlink library would cost more than all of them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aetherium_agent_proto::config::{GuestNet, Ipv4Cidr};

/// The interface that leads out of the guest.
pub(crate) const INTERFACE: &str = "eth0";

/// A way to the kernel's network settings.
pub(crate) struct Control {
    socket: OwnedFd,
}

impl Control {
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: socket takes plain numbers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Takes an interface up.
    pub(crate) fn up(&self, name: &str) -> io::Result<()> {
        let mut request = request(name);
        self.ioctl(libc::SIOCGIFFLAGS, (&raw mut request).cast())?;
        // SAFETY: the call before has filled the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS, (&raw mut request).cast())
    }

    /// Gives [`INTERFACE`] its address and routes, in place of any it had.
    pub(crate) fn configure(&self, net: &GuestNet) -> io::Result<()> {
        // The kernel takes the unspecified address for "none": with the last address of an
        // interface go its routes.
        match self.set_address(libc::SIOCSIFADDR, Ipv4Addr::UNSPECIFIED) {
            Err(error) if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) => return Err(error),
            _ => {}
        }
        self.set_address(libc::SIOCSIFADDR, net.address_cidr.address())?;
        self.set_address(libc::SIOCSIFNETMASK, net.address_cidr.netmask())?;
        self.up(INTERFACE)?;
        if let Some(gateway) = net.gateway {
            self.add_route(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, gateway)?;
        }
        for route in &net.routes {
            let mask = route.to_cidr.netmask();
            self.add_route(network(route.to_cidr), mask, route.via)?;
        }
        Ok(())
    }

    fn set_address(&self, call: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
        let mut request = request(INTERFACE);
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.ioctl(call, (&raw mut request).cast())
    }

    fn add_route(&self, to: Ipv4Addr, mask: Ipv4Addr, via: Ipv4Addr) -> io::Result<()> {
        // SAFETY: an all-zero rtentry is a valid value.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(to);
        route.rt_genmask = socket_address(mask);
        route.rt_gateway = socket_address(via);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        self.ioctl(libc::SIOCADDRT, (&raw mut route).cast())
    }

    fn ioctl(&self, call: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<()> {
        // SAFETY: every caller passes the structure that its call reads and writes.
        if unsafe { libc::ioctl(self.socket.as_raw_fd(), call, argument) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// The network an address lies in. The kernel refuses a route whose address has bits beside it.
fn network(cidr: Ipv4Cidr) -> Ipv4Addr {
    Ipv4Addr::from_bits(cidr.address().to_bits() & cidr.netmask().to_bits())
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte less than the field, which ends in a zero.
    let last = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..last].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // An IPv4 socket address in its generic form: port in the first two bytes, address in the next four.
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_name_is_copied_and_ended() {
        let request = request("eth0");
        let bytes: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).collect();
        assert_eq!(&bytes[..5], b"eth0\0");
    }

    #[test]
    fn an_address_sits_behind_the_port() {
        let address = socket_address(Ipv4Addr::new(172, 16, 0, 2));
        let bytes: Vec<u8> = address.sa_data.iter().map(|byte| *byte as u8).collect();
        assert_eq!(&bytes[..8], &[0, 0, 172, 16, 0, 2, 0, 0]);
    }

    #[test]
    fn a_routes_network_has_no_bits_past_its_prefix() {
        let network = network("10.1.2.3/16".parse().unwrap());
        assert_eq!(network, Ipv4Addr::new(10, 1, 0, 0));
    }
}
