//! PostgreSQL, in a directory that goes with it.
//!
//! It listens on a Unix socket in that directory, which only its owner may enter, and on a port of
//! the loopback, where it asks for a password and speaks TLS under a certificate of its own.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Making a cluster and starting it, on two busy cores.
const START: Duration = Duration::from_secs(120);
/// Its password, on the loopback.
const PASSWORD: &str = "of-a-test";

/// Makes the cluster, runs the server, and ends it when nobody holds the other end of its standard
/// input any more. `$1` is the directory, `$2` PostgreSQL's programs, `$3` its port, and the rest is
/// put before each program, to run it as another user.
const SUPERVISE: &str = r#"
dir=$1 bin=$2 port=$3
shift 3
exec >"$dir/log" 2>&1
cd "$dir"
"$@" openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
  -keyout "$dir/key.pem" -out "$dir/cert.pem" &&
"$@" "$bin/initdb" -D "$dir/data" -U postgres -E UTF8 --locale=C.UTF-8 --no-sync --no-instructions \
  --auth-local=trust --auth-host=scram-sha-256 --pwfile="$dir/password" || exit
"$@" "$bin/postgres" -D "$dir/data" -c port="$port" -c unix_socket_directories="$dir" \
  -c listen_addresses=127.0.0.1 -c max_connections=400 -c fsync=off -c full_page_writes=off \
  -c ssl=on -c ssl_cert_file="$dir/cert.pem" -c ssl_key_file="$dir/key.pem" &
server=$!
trap 'kill -QUIT $server; wait $server; rm -rf "$dir"' EXIT
read -r _
"#;

/// A running server.
pub struct Postgres {
    dir: PathBuf,
    programs: PathBuf,
    port: u16,
    made: AtomicU32,
    /// Its standard input keeps the server running.
    supervisor: Child,
}

impl Postgres {
    /// The server of this process, started when it is first asked for.
    pub fn of_this_process() -> &'static Self {
        static SERVER: OnceLock<Postgres> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// Starts a server.
    ///
    /// # Panics
    /// PostgreSQL is not installed, or does not start.
    pub fn start() -> Self {
        let programs = programs();
        let only_the_owner = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("aepg").permissions(only_the_owner).tempdir();
        let dir = dir.unwrap().keep();
        fs::write(dir.join("password"), PASSWORD).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut supervise = Command::new("sh");
        supervise.args(["-c", SUPERVISE, "sh"]).arg(&dir).arg(&programs).arg(port.to_string());
        // PostgreSQL refuses to run as root.
        if fs::metadata("/proc/self").is_ok_and(|it| std::os::unix::fs::MetadataExt::uid(&it) == 0)
        {
            let (uid, gid) = postgres_user();
            for path in [&dir, &dir.join("password")] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
            supervise.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}")]);
            supervise.arg("--clear-groups");
        } else {
            supervise.arg("env");
        }
        // In a process group of its own: a Ctrl-C ends it by way of the pipe.
        let supervisor = supervise.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut server = Self { dir, programs, port, made: AtomicU32::new(0), supervisor };
        server.await_start();
        server
    }

    fn await_start(&mut self) {
        let deadline = Instant::now() + START;
        let ready = |program: &Path| {
            Command::new(program.join("pg_isready"))
                .args(["-q", "-h"])
                .arg(&self.dir)
                .args(["-p", &self.port.to_string()])
                .status()
                .unwrap()
                .success()
        };
        while !ready(&self.programs) {
            let ended = self.supervisor.try_wait().unwrap();
            let in_time = ended.is_none() && Instant::now() < deadline;
            assert!(in_time, "PostgreSQL does not start ({ended:?}):\n{}", self.log());
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Makes an empty database and returns its address, by way of the Unix socket.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.run("createdb", &[&name]);
        let dir = self.dir.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{dir}:{}/{name}", self.port)
    }

    /// The same database's address by way of the loopback, with the password.
    ///
    /// # Panics
    /// `database` is not the address of a database of this server.
    pub fn by_loopback(&self, database: &str) -> String {
        let (_, name) = database.rsplit_once('/').unwrap();
        format!("postgres://postgres:{PASSWORD}@localhost:{}/{name}", self.port)
    }

    /// The file with the certificate it shows on the loopback, which is for `localhost`.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("cert.pem")
    }

    /// Ends every connection to a database, as a restart of the server would.
    ///
    /// # Panics
    /// The server cannot be asked.
    pub fn cut_connections(&self, database: &str) {
        let (_, name) = database.rsplit_once('/').unwrap();
        let cut = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        self.run("psql", &["-q", "-c", &cut, "postgres"]);
    }

    fn run(&self, program: &str, args: &[&str]) {
        let ran = Command::new(self.programs.join(program))
            .args(["-U", "postgres", "-h"])
            .arg(&self.dir)
            .args(["-p", &self.port.to_string()])
            .args(args)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{program} {args:?}: {said}\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// The directory of the newest PostgreSQL that Debian and Ubuntu have installed, from 15 on.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| *version >= 15)
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")))
        .filter(|bin| bin.join("postgres").is_file())
        .unwrap_or_else(|| panic!("PostgreSQL is missing: run `scripts/install-deps test` first"))
}

/// The ids of the user that its package made.
fn postgres_user() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let user = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let mut fields = user.into_iter().flat_map(|it| it.split(':')).skip(1);
    let mut id = || fields.next().and_then(|it| it.parse().ok());
    let found = id().zip(id());
    found.unwrap_or_else(|| panic!("there is no user `postgres`, whom its package makes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_its_directory_go_with_whoever_started_it() {
        let server = Postgres::start();
        let dir = server.dir.clone();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_ne!(server.database(), server.database());
        let pid = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap();
        let process = Path::new("/proc").join(pid.lines().next().unwrap());
        assert!(process.exists());
        drop(server);
        assert!(!process.exists() && !dir.exists());
    }
}
