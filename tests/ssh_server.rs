//! An SSH server of the tests' own on loopback: the real `sshd`, with a key of its own and for one key,
//! which serves a git repository.

use crate::{git_server, world::SOON};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// It must be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";
/// Where it shuts itself in as root; the package leaves that to the service.
const EMPTY_DIRECTORY: &str = "/run/sshd";
/// The host's loopback, as QEMU's guests see it.
const HOST: &str = "172.16.0.1";
/// How often it is tried to start on a free port: another may be quicker.
const TRIES: usize = 5;

/// A server with one repository, `demo.git`, as [`git_server::GitServer`] has it.
pub(crate) struct SshServer {
    dir: TempDir,
    sshd: Child,
    /// The repository, as guests reach it.
    pub(crate) url: String,
    /// How a guest is to know the server.
    pub(crate) known_hosts: String,
    /// The private key that it lets in.
    pub(crate) key: String,
}

impl SshServer {
    pub(crate) fn start() -> Self {
        assert!(Path::new(SSHD).is_file(), "{SSHD} is missing: run `make assets` first");
        let dir = tempfile::Builder::new().prefix("ssh").tempdir().unwrap();
        git_server::make(dir.path());
        let (key, public) = key_pair(&dir.path().join("key"));
        let (_, host) = key_pair(&dir.path().join("host"));
        let place = dir.path().display().to_string();
        let serve = dir.path().join("serve");
        // Holds what it is asked for until it may go on.
        let script = format!(
            "#!/bin/sh\n: >{place}/arrived\nuntil [ -e {place}/go ]; do sleep 0.05; done\n\
             exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n"
        );
        fs::write(&serve, script).unwrap();
        fs::set_permissions(&serve, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("go"), []).unwrap();
        let allowed = format!("restrict,command=\"{}\" {public}\n", serve.display());
        fs::write(dir.path().join("authorized"), allowed).unwrap();
        let (sshd, port) = (0..TRIES).find_map(|_| listen(dir.path())).expect("sshd has started");
        let user = output(Command::new("id").arg("-un"));
        Self {
            url: format!("ssh://{user}@{HOST}:{port}{place}/demo.git"),
            known_hosts: format!("[{HOST}]:{port} {host}"),
            dir,
            sshd,
            key,
        }
    }

    /// The line of `known_hosts` of another server at the same place.
    pub(crate) fn known_as_another(&self) -> String {
        let place = self.known_hosts.split(' ').next().unwrap();
        let (_, public) = key_pair(&self.dir.path().join("another"));
        format!("{place} {public}")
    }

    /// A key that it does not let in.
    pub(crate) fn strange_key(&self) -> String {
        key_pair(&self.dir.path().join("strange")).0
    }

    /// From now on who is let in waits.
    pub(crate) fn hold(&self) {
        fs::remove_file(self.dir.path().join("go")).unwrap();
    }

    /// Whoever waits goes on.
    pub(crate) fn let_go(&self) {
        fs::write(self.dir.path().join("go"), []).unwrap();
    }

    /// Whether it has let somebody in.
    pub(crate) fn was_entered(&self) -> bool {
        self.dir.path().join("arrived").exists()
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

/// The server on some port; nothing where another process was quicker to take it.
fn listen(dir: &Path) -> Option<(Child, u16)> {
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all(EMPTY_DIRECTORY).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let place = dir.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nHostKey {place}/host\n\
         AuthorizedKeysFile {place}/authorized\nAuthenticationMethods publickey\n\
         PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nLogLevel VERBOSE\n"
    );
    let file = dir.join("sshd_config");
    fs::write(&file, config).unwrap();
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut sshd = Command::new(SSHD)
        .args(["-D", "-e", "-f"])
        .arg(file)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + SOON;
    while !greets(port) {
        if let Some(status) = sshd.try_wait().unwrap() {
            eprintln!("{SSHD}: {status}: {}", fs::read_to_string(dir.join("log")).unwrap());
            return None;
        }
        assert!(Instant::now() < deadline, "{SSHD} does not listen on {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some((sshd, port))
}

/// Whether an SSH server is there.
fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut line = String::new();
    let greeted = BufReader::new(&stream).read_line(&mut line).is_ok() && line.starts_with("SSH-2");
    let _ = stream.write_all(b"SSH-2.0-test\r\n");
    greeted
}

/// A new key: the private one, and the public one without a comment.
fn key_pair(file: &Path) -> (String, String) {
    output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file));
    let public = fs::read_to_string(file.with_extension("pub")).unwrap();
    let public: Vec<_> = public.split(' ').take(2).collect();
    (fs::read_to_string(file).unwrap(), public.join(" "))
}

fn output(command: &mut Command) -> String {
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}
