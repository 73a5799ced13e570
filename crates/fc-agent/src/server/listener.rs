//! Listening sockets of every transport.
//!
//! Vsock is done by hand: it needs three system calls to listen, and a connected vsock stream can be
//! read and written like a Unix one.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;

use aetherium_agent_proto::AgentTransport;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::socket::{Socket, Stream};
use crate::serve::Listen;

const BACKLOG: u32 = 128;

enum Kind {
    Unix(UnixListener),
    Tcp(TcpListener),
    Vsock(AsyncFd<OwnedFd>),
}

/// A bound listener.
pub(crate) struct Listener {
    kind: Kind,
    address: Listen,
}

impl Listener {
    /// Binds and listens. Must run inside the runtime.
    pub(crate) fn bind(listen: &Listen) -> io::Result<Self> {
        let mut address = listen.clone();
        let kind = match listen {
            Listen::Unix(path) => {
                // A socket file left by a dead agent would be in the way; a live one's is too, and
                // whoever starts a second agent there means to replace it.
                match std::fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let listener = UnixListener::bind(path)?;
                // Whoever may connect may run commands.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                Kind::Unix(listener)
            }
            Listen::Tcp(at) => {
                let listener = std::net::TcpListener::bind(at)?;
                listener.set_nonblocking(true)?;
                address = Listen::Tcp(listener.local_addr()?);
                Kind::Tcp(TcpListener::from_std(listener)?)
            }
            Listen::Vsock(port) => {
                let socket = bind_vsock(*port)?;
                // SAFETY: an OwnedFd names the same open descriptor all its life.
                Kind::Vsock(unsafe { AsyncFd::register(socket) }?)
            }
        };
        Ok(Self { kind, address })
    }

    /// Takes a listener that the program before has left open. Must run inside the runtime.
    pub(crate) fn adopt(address: Listen, fd: RawFd) -> io::Result<Self> {
        // SAFETY: the program before left it open for this one and named it once.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        let kind = match &address {
            Listen::Unix(_) => Kind::Unix(UnixListener::from_std(socket.into())?),
            Listen::Tcp(_) => Kind::Tcp(TcpListener::from_std(socket.into())?),
            // SAFETY: an OwnedFd names the same open descriptor all its life.
            Listen::Vsock(_) => Kind::Vsock(unsafe { AsyncFd::register(socket) }?),
        };
        Ok(Self { kind, address })
    }

    /// The number of its descriptor, which it keeps.
    pub(crate) fn descriptor(&self) -> RawFd {
        match &self.kind {
            Kind::Unix(listener) => listener.as_raw_fd(),
            Kind::Tcp(listener) => listener.as_raw_fd(),
            Kind::Vsock(listener) => listener.as_raw_fd(),
        }
    }

    /// Where it listens, with the port that was taken.
    pub(crate) fn address(&self) -> &Listen {
        &self.address
    }

    pub(crate) fn transport(&self) -> AgentTransport {
        match self.kind {
            Kind::Unix(_) => AgentTransport::Unix,
            Kind::Tcp(_) => AgentTransport::Tcp,
            Kind::Vsock(_) => AgentTransport::Vsock,
        }
    }

    /// The next connection. Safe to drop.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        let stream = match &self.kind {
            Kind::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            Kind::Tcp(listener) => Stream::Tcp(without_delay(listener.accept().await?.0)),
            Kind::Vsock(listener) => Stream::Unix(accept_vsock(listener).await?),
        };
        Ok(Socket::new(stream))
    }
}

fn without_delay(stream: TcpStream) -> TcpStream {
    // Slower without, not wrong.
    let _ = stream.set_nodelay(true);
    stream
}

/// Whether this kernel has a vsock that leads to a host. A module alone does not make one.
pub(crate) fn vsock_is_there() -> bool {
    const GET_LOCAL_CID: libc::Ioctl = 0x7b9;
    let Ok(device) = std::fs::File::open("/dev/vsock") else { return false };
    let mut cid: u32 = libc::VMADDR_CID_ANY;
    // SAFETY: the request writes one u32, and `cid` is valid for it.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), GET_LOCAL_CID, &raw mut cid) };
    // Host and loopback ids mean that no device gave this guest an id of its own.
    answer == 0 && cid != libc::VMADDR_CID_ANY && cid > libc::VMADDR_CID_HOST
}

fn bind_vsock(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes plain numbers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero address is a valid value; the fields that matter are set below.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = libc::VMADDR_CID_ANY;
    address.svm_port = port;
    let len = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is valid for its length.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
    // SAFETY: listen takes plain numbers.
    if bound != 0 || unsafe { libc::listen(fd, BACKLOG as libc::c_int) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

async fn accept_vsock(listener: &AsyncFd<OwnedFd>) -> io::Result<UnixStream> {
    loop {
        let mut ready = listener.readable().await?;
        let accepted = ready.try_io(|listener| {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let none = std::ptr::null_mut();
            // SAFETY: no address is asked for.
            let fd =
                unsafe { libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: `fd` was just opened and belongs to nobody else.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        });
        if let Ok(accepted) = accepted {
            return UnixStream::from_std(std::os::unix::net::UnixStream::from(accepted?));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_listener_taken_by_hand_accepts_streams_that_carry_bytes() {
        // Any listening stream socket takes the same calls as a vsock, which few machines have.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        // SAFETY: an OwnedFd names the same open descriptor all its life.
        let listener = unsafe { AsyncFd::register(OwnedFd::from(listener)) }.unwrap();
        let (accepted, connected) =
            tokio::join!(accept_vsock(&listener), UnixStream::connect(&path));
        let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        connected.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        accepted.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
    }

    #[test]
    fn a_vsock_without_a_device_is_no_way_to_a_host() {
        if !std::path::Path::new("/dev/vsock").exists() {
            assert!(!vsock_is_there());
        }
    }
}
