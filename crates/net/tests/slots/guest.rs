//! A guest in a slot: a network stack of its own at the other end of the slot's TAP.
//!
//! The stack is a namespace with a TAP called `eth0`; a thread carries the frames between the two
//! TAPs, as a VMM does between a TAP and a virtio queue.

use crate::namespace::Namespace;
use aetherium_net::{GuestNet, Slot};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_setfl},
    pipe::pipe,
};
use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd},
    thread::JoinHandle,
};

pub(crate) struct Guest {
    pub(crate) network: Namespace,
    eth0: File,
    cable: Option<JoinHandle<()>>,
    plugged: Option<OwnedFd>,
}

impl Guest {
    /// A guest that was told what the slot says.
    pub(crate) fn plugged_into(slot: &Slot) -> Self {
        Self::told(slot, slot.guest)
    }

    /// A guest that takes itself for another than it is.
    pub(crate) fn told(slot: &Slot, net: GuestNet) -> Self {
        let network = Namespace::new();
        let eth0 = network.run(|| tap("eth0"));
        network.ip(&format!("link set eth0 address {} up", net.mac));
        network.ip(&format!("address add {}/{} dev eth0", net.address, net.prefix));
        network.ip(&format!("route add default via {}", net.gateway));
        let mut guest = Self { network, eth0, cable: None, plugged: None };
        guest.plug_into(slot);
        guest
    }

    /// The same guest in another slot: it keeps its addresses and what it knows of its neighbours,
    /// as one that was woken from a snapshot.
    pub(crate) fn moved_to(mut self, slot: &Slot) -> Self {
        self.unplug();
        self.plug_into(slot);
        self
    }

    fn plug_into(&mut self, slot: &Slot) {
        let near = Namespace::open(&slot.netns).run(|| tap(&slot.tap));
        let far = self.eth0.try_clone().unwrap();
        let (unplugged, plugged) = pipe().unwrap();
        self.cable = Some(std::thread::spawn(move || carry(near, far, &unplugged)));
        self.plugged = Some(plugged);
    }

    fn unplug(&mut self) {
        drop(self.plugged.take());
        if let Some(cable) = self.cable.take() {
            cable.join().unwrap();
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.unplug();
    }
}

/// Opens a TAP of the calling thread's namespace, as a VMM does.
fn tap(name: &str) -> File {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes the ifreq, which outlives the call.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(answer, 0, "{name}: {}", std::io::Error::last_os_error());
    fcntl_setfl(&device, OFlags::NONBLOCK).unwrap();
    device
}

/// Carries frames both ways until the other end of `unplugged` is closed.
fn carry(mut near: File, mut far: File, unplugged: &OwnedFd) {
    loop {
        let mut watched = [
            PollFd::new(unplugged, PollFlags::IN),
            PollFd::new(&near, PollFlags::IN),
            PollFd::new(&far, PollFlags::IN),
        ];
        poll(&mut watched, None).unwrap();
        if !watched[0].revents().is_empty() {
            return;
        }
        drain(&mut near, &mut far);
        drain(&mut far, &mut near);
    }
}

fn drain(from: &mut File, to: &mut File) {
    let mut frame = [0; 65_600];
    while let Ok(length) = from.read(&mut frame) {
        // An interface that is down, or going away, loses frames.
        let _ = to.write(&frame[..length]);
    }
}
