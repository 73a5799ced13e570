//! Redis, in a directory that goes with it, on a port of the loopback where it asks for a password. It
//! keeps nothing on the disk: killed and started again, it has forgotten all.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Starting it, on two busy cores.
const START: Duration = Duration::from_secs(60);
/// How long it may take to answer, unless it was paused.
const ANSWER: Duration = Duration::from_secs(10);
/// Its password.
const PASSWORD: &str = "of-a-test";

/// Starts and kills the server as it is told, line by line, and ends it when nobody holds the other end of
/// its standard input any more. `$1` is the directory, `$2` the port, `$3` the password.
const SUPERVISE: &str = r#"
dir=$1 port=$2 password=$3
exec >"$dir/log" 2>&1
cd "$dir" || exit
# Debian's program is in one package, and its name as a server in another, which would start a service.
program=$(command -v redis-server) || {
  program=$dir/redis-server
  ln -s "$(command -v redis-check-rdb)" "$program"
}
trap 'kill -KILL $server; wait $server; rm -rf "$dir"' EXIT
while read -r word; do
  case $word in
    start)
      "$program" --bind 127.0.0.1 --port "$port" --requirepass "$password" --dir "$dir" \
        --save '' --appendonly no --daemonize no &
      server=$!
      echo "$server" >"$dir/pid" ;;
    kill) kill -KILL $server; wait $server ;;
  esac
done
"#;

/// A server: running, paused or killed.
pub struct Redis {
    dir: PathBuf,
    port: u16,
    /// Its standard input says what the server is to do, and that it may live.
    supervisor: Child,
}

impl Redis {
    /// Starts a server.
    ///
    /// # Panics
    /// Redis is not installed, or does not start.
    pub fn start() -> Self {
        let mut server = Self::absent();
        server.restart();
        server
    }

    /// A server that has not been started yet, whose address is known.
    ///
    /// # Panics
    /// There is no `sh`.
    pub fn absent() -> Self {
        let only_the_owner = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("aerd").permissions(only_the_owner).tempdir();
        let dir = dir.unwrap().keep();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut supervise = Command::new("sh");
        supervise.args(["-c", SUPERVISE, "sh"]).arg(&dir).arg(port.to_string()).arg(PASSWORD);
        // In a process group of its own: a Ctrl-C ends it by way of the pipe.
        let supervisor = supervise.stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        Self { dir, port, supervisor }
    }

    /// Its address, with the password.
    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// Starts it, after [`Self::absent`] or [`Self::kill`], and waits until it answers.
    ///
    /// # Panics
    /// Redis is not installed, or does not start.
    pub fn restart(&mut self) {
        self.tell("start");
        let deadline = Instant::now() + START;
        while self.ask("PING").is_none_or(|said| !said.contains("+PONG")) {
            let ended = self.supervisor.try_wait().unwrap();
            let in_time = ended.is_none() && Instant::now() < deadline;
            assert!(
                in_time,
                "Redis does not start (`scripts/install-deps test` installs it):\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Panics
    /// It does not die.
    pub fn kill(&mut self) {
        let process = PathBuf::from(format!("/proc/{}", self.pid()));
        self.tell("kill");
        let deadline = Instant::now() + START;
        while process.exists() {
            assert!(Instant::now() < deadline, "Redis does not die");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has it stand still: it keeps its connections, takes what is sent, and answers nothing.
    ///
    /// # Panics
    /// It does not run.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Has it go on after [`Self::pause`].
    ///
    /// # Panics
    /// It does not run.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Has it forget everything.
    ///
    /// # Panics
    /// It does not answer.
    pub fn flush(&self) {
        assert!(self.command("FLUSHALL").starts_with("+OK"));
    }

    /// Its answer to a command on one line, as it is sent.
    ///
    /// # Panics
    /// It does not answer.
    pub fn command(&self, line: &str) -> String {
        let said = self.ask(line);
        said.unwrap_or_else(|| panic!("Redis does not answer {line}:\n{}", self.log()))
    }

    fn ask(&self, line: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        write!(stream, "AUTH {PASSWORD}\r\n{line}\r\nQUIT\r\n").ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said.strip_prefix("+OK\r\n")?.to_owned())
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.supervisor.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid()]).status().unwrap();
        assert!(sent.success(), "Redis does not run:\n{}", self.log());
    }

    fn pid(&self) -> String {
        fs::read_to_string(self.dir.join("pid")).unwrap().trim().to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_forgets_when_killed_and_goes_with_its_directory() {
        let mut server = Redis::start();
        assert!(server.command("SET key value").starts_with("+OK"));
        server.kill();
        assert!(server.ask("PING").is_none());
        server.restart();
        assert!(server.command("GET key").starts_with("$-1"));
        let (dir, process) = (server.dir.clone(), PathBuf::from("/proc").join(server.pid()));
        server.pause();
        drop(server);
        assert!(!process.exists() && !dir.exists());
    }
}
