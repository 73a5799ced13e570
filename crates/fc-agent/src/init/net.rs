//! The guest's network: `lo` and a static address on `eth0`, by the classic ioctls.
//!
//! A static address needs four calls; a netlink library would cost more than all of them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use aetherium_agent_proto::config::GuestNet;

use super::{note, poll};

const INTERFACE: &str = "eth0";
/// How long the network device may take to appear after its module was loaded.
const DEADLINE: Duration = Duration::from_secs(2);

/// Brings the network up. What fails is noted: a guest may be reached over vsock all the same.
pub(super) fn bring_up(net: Option<&GuestNet>) {
    let socket = match control_socket() {
        Ok(socket) => socket,
        Err(error) => return note(format!("no network, not even lo: {error}")),
    };
    if let Err(error) = up(&socket, "lo") {
        note(format!("lo is down: {error}"));
    }
    let Some(net) = net else { return };
    let device = Path::new("/sys/class/net").join(INTERFACE);
    if poll(DEADLINE, || device.exists().then_some(())).is_none() {
        return note(format!("{INTERFACE} is not there after {} ms", DEADLINE.as_millis()));
    }
    if let Err(error) = configure(&socket, net) {
        note(format!("{INTERFACE} has no address {}: {error}", net.address_cidr));
    }
}

fn configure(socket: &OwnedFd, net: &GuestNet) -> io::Result<()> {
    let cidr = net.address_cidr;
    set_address(socket, libc::SIOCSIFADDR, cidr.address())?;
    set_address(socket, libc::SIOCSIFNETMASK, cidr.netmask())?;
    up(socket, INTERFACE)?;
    match net.gateway {
        Some(gateway) => add_default_route(socket, gateway),
        None => Ok(()),
    }
}

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes plain numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
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

fn up(socket: &OwnedFd, name: &str) -> io::Result<()> {
    let mut request = request(name);
    ioctl(socket, libc::SIOCGIFFLAGS, (&raw mut request).cast())?;
    // SAFETY: the call before has filled the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ioctl(socket, libc::SIOCSIFFLAGS, (&raw mut request).cast())
}

fn set_address(socket: &OwnedFd, call: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
    let mut request = request(INTERFACE);
    request.ifr_ifru.ifru_addr = socket_address(address);
    ioctl(socket, call, (&raw mut request).cast())
}

fn add_default_route(socket: &OwnedFd, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: an all-zero rtentry is a valid value.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    ioctl(socket, libc::SIOCADDRT, (&raw mut route).cast())
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // An IPv4 socket address in its generic form: port in the first two bytes, address in the next four.
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn ioctl(socket: &OwnedFd, call: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: every caller passes the structure that its call reads and writes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), call, argument) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
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
}
