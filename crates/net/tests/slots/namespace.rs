//! A network namespace of a test: whoever it is, and how to do something inside it.

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::{
    fs::File,
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

/// How long something that must come may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    /// The calling thread's.
    pub(crate) fn current() -> Self {
        Self::open("/proc/thread-self/ns/net")
    }

    pub(crate) fn open(path: impl AsRef<Path>) -> Self {
        Self(Arc::new(File::open(path).unwrap()))
    }

    /// A new one, with its loopback up.
    pub(crate) fn new() -> Self {
        let made = std::thread::scope(|threads| {
            let maker = threads.spawn(|| {
                // SAFETY: the thread that leaves its namespace ends here.
                unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
                Self::current()
            });
            maker.join().unwrap()
        });
        made.ip("link set lo up");
        made
    }

    /// Does it on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|threads| {
            let worker = threads.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .unwrap();
                work()
            });
            worker.join().unwrap()
        })
    }

    /// Runs `ip` inside; the words are apart by blanks.
    pub(crate) fn ip(&self, words: &str) {
        let status = self.run(|| Command::new("ip").args(words.split_whitespace()).status());
        assert!(status.unwrap().success(), "ip {words}");
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// Greets every caller of `port`, on every address, with the address it is seen under.
    pub(crate) fn greet(&self, port: u16) {
        self.greet_at((Ipv4Addr::UNSPECIFIED, port));
    }

    /// The same on one address.
    pub(crate) fn greet_at(&self, at: impl Into<SocketAddr>) {
        let at = at.into();
        let listener = self.run(|| std::net::TcpListener::bind(at)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            while let Ok((mut caller, from)) = listener.accept().await {
                // A caller that has gone away again hears nothing.
                let _ = caller.write_all(from.ip().to_string().as_bytes()).await;
            }
        });
    }

    /// Sends every datagram to `address`, port 53, back.
    pub(crate) fn echo_datagrams(&self, address: Ipv4Addr) {
        let socket = self.run(|| UdpSocket::bind((address, 53))).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let _ = socket.send_to(&buffer[..length], from).await;
            }
        });
    }

    /// Calls from inside and returns the greeting: the address under which the caller was seen.
    pub(crate) async fn call(&self, to: impl Into<SocketAddr>) -> io::Result<String> {
        self.call_within(to, PATIENCE).await
    }

    pub(crate) async fn call_within(
        &self,
        to: impl Into<SocketAddr>,
        patience: Duration,
    ) -> io::Result<String> {
        let (inside, to) = (self.clone(), to.into());
        let call = move || -> io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting)?;
            Ok(greeting)
        };
        tokio::task::spawn_blocking(move || inside.run(call)).await.unwrap()
    }

    /// Sends a datagram from inside and returns the answer.
    pub(crate) async fn ask(&self, to: impl Into<SocketAddr>) -> io::Result<Vec<u8>> {
        let (inside, to) = (self.clone(), to.into());
        let ask = move || -> io::Result<Vec<u8>> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(b"who is it?")?;
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer)?;
            Ok(buffer[..length].to_vec())
        };
        tokio::task::spawn_blocking(move || inside.run(ask)).await.unwrap()
    }

    /// Pings from inside.
    pub(crate) async fn ping(&self, to: Ipv4Addr) -> io::Result<()> {
        let inside = self.clone();
        tokio::task::spawn_blocking(move || inside.run(move || ping(to))).await.unwrap()
    }
}

/// One echo request, by the kernel's own ping sockets.
fn ping(to: Ipv4Addr) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket, sockopt};
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::ICMP))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    let socket = UdpSocket::from(socket);
    socket.connect((to, 0))?;
    // Type 8 is an echo request, 0 its reply; the kernel fills in identity and checksum.
    socket.send(&[8, 0, 0, 0, 0, 0, 0, 1])?;
    let mut answer = [0; 64];
    socket.recv(&mut answer)?;
    if answer[0] == 0 { Ok(()) } else { Err(io::Error::other(format!("type {}", answer[0]))) }
}
