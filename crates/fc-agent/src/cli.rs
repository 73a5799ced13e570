//! The command line, for an agent that is not an init.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use aetherium_agent_proto::Token;

use crate::init;
use crate::serve::{self, Listen, Role, ServeConfig};
use crate::upgrade::{self, Estate};

const HELP: &str = "\
fc-agent: runs commands for a host, inside a guest

usage: fc-agent --listen ADDRESS [--listen ADDRESS]... [--token-file FILE] [--machine]
       fc-agent --installed
       fc-agent --version | --handover-format | --help

  --listen ADDRESS    unix:PATH, tcp:IP:PORT or vsock:PORT; may be given several times
  --token-file FILE   the secret that callers over TCP must prove; required with tcp:
  --machine           the machine is the agent's own: callers may set its clock, its host name and
                      its network, keep secrets in it, and end it
  --installed         the image's own init started the agent of this machine: its configuration is on
                      a disk labelled aetherium-config; without one it listens on vsock alone
  --handover-format   how this program takes over from the one before it in an upgrade

For each address a line `listening ADDRESS` is printed, with the port that was taken.
As PID 1 without --listen it is an init and reads /aetherium/guest.json.
";

/// A command line that cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum UsageError {
    #[error("`{0}` is no option of fc-agent; see --help")]
    Unknown(String),
    #[error("{0} needs a value; see --help")]
    MissingValue(&'static str),
    #[error("`{0}` is no address; write unix:PATH, tcp:IP:PORT or vsock:PORT")]
    BadAddress(String),
    #[error("nothing to listen on; give --listen at least once")]
    NoListen,
    #[error("tcp needs --token-file: anyone who reaches the port could run commands")]
    NoToken,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Help,
    Version,
    HandoverFormat,
    Installed,
    Resume { state: RawFd },
    Serve { listen: Vec<Listen>, token_file: Option<PathBuf>, estate: Option<Estate> },
}

/// Does what the command line says and returns the exit code.
pub(crate) fn run(args: Vec<String>) -> i32 {
    match parse(args.into_iter().skip(1)) {
        Ok(Action::Help) => print(HELP),
        Ok(Action::Version) => print(&format!("fc-agent {}\n", env!("CARGO_PKG_VERSION"))),
        Ok(Action::HandoverFormat) => print(&format!("{}\n", upgrade::FORMAT)),
        Ok(Action::Installed) => ended(init::installed::run()),
        Ok(Action::Resume { state }) => ended(upgrade::resume(state).map_err(|it| it.to_string())),
        Ok(Action::Serve { listen, token_file, estate }) => {
            ended(serve_by_hand(listen, token_file, estate))
        }
        Err(error) => {
            fail(&error.to_string());
            2
        }
    }
}

fn print(text: &str) -> i32 {
    print!("{text}");
    0
}

fn fail(text: &str) -> i32 {
    eprintln!("fc-agent: {text}");
    1
}

fn ended(outcome: Result<(), String>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(error) => fail(&error),
    }
}

fn serve_by_hand(
    listen: Vec<Listen>,
    token_file: Option<PathBuf>,
    estate: Option<Estate>,
) -> Result<(), String> {
    let token = token_file.map(|path| read_token(&path)).transpose()?;
    let config = ServeConfig {
        listen,
        token,
        role: Role::Process,
        estate,
        started_uptime_ms: crate::clock::uptime_ms(),
    };
    let ending = serve::run(config, |bound| println!("listening {bound}"));
    let ending = ending.map_err(|error| error.to_string())?;
    init::end_beside(ending, estate).map_err(|error| error.to_string())
}

fn read_token(path: &std::path::Path) -> Result<Token, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the token file {shown} cannot be read: {error}"))?;
    Token::new(text.trim()).map_err(|error| format!("the token file {shown}: {error}"))
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Action, UsageError> {
    let (mut listen, mut token_file, mut estate) = (Vec::new(), None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--help" | "-h" => return Ok(Action::Help),
            "--version" | "-V" => return Ok(Action::Version),
            "--machine" => estate = Some(Estate::default()),
            "--handover-format" => return Ok(Action::HandoverFormat),
            "--installed" => return Ok(Action::Installed),
            // An agent says this to the program that takes its place, and nobody else does.
            "--resume" => {
                let value = args.next().ok_or(UsageError::MissingValue("--resume"))?;
                let state = value.parse().map_err(|_| UsageError::Unknown(value))?;
                return Ok(Action::Resume { state });
            }
            "--listen" => {
                let value = args.next().ok_or(UsageError::MissingValue("--listen"))?;
                listen.push(parse_listen(&value).ok_or(UsageError::BadAddress(value))?);
            }
            "--token-file" => {
                let value = args.next().ok_or(UsageError::MissingValue("--token-file"))?;
                token_file = Some(PathBuf::from(value));
            }
            _ => return Err(UsageError::Unknown(arg)),
        }
    }
    if listen.is_empty() {
        return Err(UsageError::NoListen);
    }
    if token_file.is_none() && listen.iter().any(|it| matches!(it, Listen::Tcp(_))) {
        return Err(UsageError::NoToken);
    }
    Ok(Action::Serve { listen, token_file, estate })
}

fn parse_listen(text: &str) -> Option<Listen> {
    let (kind, rest) = text.split_once(':')?;
    match kind {
        "unix" if !rest.is_empty() => Some(Listen::Unix(PathBuf::from(rest))),
        "tcp" => rest.parse::<SocketAddr>().ok().map(Listen::Tcp),
        "vsock" => rest.parse().ok().map(Listen::Vsock),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Action, UsageError> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn every_kind_of_address_is_understood() {
        let args = ["--listen", "unix:/a", "--listen", "tcp:127.0.0.1:0", "--token-file", "/t"];
        let Ok(Action::Serve { listen, token_file, estate }) = parsed(&args) else {
            panic!("{args:?}")
        };
        assert_eq!(estate, None);
        assert_eq!(listen[0], Listen::Unix("/a".into()));
        assert_eq!(listen[1], Listen::Tcp(([127, 0, 0, 1], 0).into()));
        assert_eq!(token_file, Some("/t".into()));
        assert_eq!(parse_listen("vsock:9999"), Some(Listen::Vsock(9999)));
    }

    #[test]
    fn an_agent_in_an_image_is_told_by_a_disk_what_others_are_told_here() {
        assert_eq!(parsed(&["--installed"]), Ok(Action::Installed));
    }

    #[test]
    fn tcp_without_a_token_is_refused() {
        assert_eq!(parsed(&["--listen", "tcp:127.0.0.1:0"]), Err(UsageError::NoToken));
    }

    #[test]
    fn a_wrong_command_line_names_the_wrong_word() {
        assert_eq!(parsed(&["--lsten"]), Err(UsageError::Unknown("--lsten".into())));
        assert_eq!(parsed(&["--listen", "udp:1"]), Err(UsageError::BadAddress("udp:1".into())));
        assert_eq!(parsed(&[]), Err(UsageError::NoListen));
        assert_eq!(parsed(&["--listen"]), Err(UsageError::MissingValue("--listen")));
    }
}
