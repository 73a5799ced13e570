//! The one-line JSON protocol.

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpStream, UnixStream};

use crate::harness::{Agent, TOKEN, story};

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    answer
}

#[test]
fn several_lines_on_one_unix_connection_are_answered_in_order() {
    let agent = Agent::start();
    story(async {
        let mut stream = BufReader::new(UnixStream::connect(agent.socket()).await.unwrap());
        assert_eq!(
            ask(&mut stream, r#"{"cmd":"echo","args":["hi"]}"#).await,
            "{\"exit_code\":0,\"stdout\":\"hi\\n\",\"stderr\":\"\"}\n"
        );
        let line =
            r#"{"cmd":"sh","args":["-c","echo $A >&2; pwd; exit 3"],"env":{"A":"b"},"cwd":"/"}"#;
        assert_eq!(
            ask(&mut stream, line).await,
            "{\"exit_code\":3,\"stdout\":\"/\\n\",\"stderr\":\"b\\n\"}\n"
        );
        let timed = ask(&mut stream, r#"{"cmd":"sleep","args":["60"],"timeout_ms":50}"#).await;
        assert!(
            timed.contains("\"exit_code\":124") && timed.contains("\"timed_out\":true"),
            "{timed}"
        );
        let failed = ask(&mut stream, r#"{"cmd":"no-such-program"}"#).await;
        assert!(failed.contains(r#""code":"not_found""#), "{failed}");
    });
}

#[test]
fn over_tcp_a_line_needs_the_token() {
    let agent = Agent::start();
    story(async {
        let mut stream = BufReader::new(TcpStream::connect(agent.tcp).await.unwrap());
        let line = format!(r#"{{"cmd":"echo","args":["hi"],"token":"{TOKEN}"}}"#);
        assert!(ask(&mut stream, &line).await.starts_with(r#"{"exit_code":0"#));

        for line in [r#"{"cmd":"echo"}"#, r#"{"cmd":"echo","token":"another-token-altogether"}"#] {
            let mut stream = BufReader::new(TcpStream::connect(agent.tcp).await.unwrap());
            let answer = ask(&mut stream, line).await;
            assert!(answer.contains(r#""code":"unauthenticated""#), "{answer}");
            let mut rest = Vec::new();
            assert_eq!(stream.read_to_end(&mut rest).await.unwrap_or(0), 0, "it hangs up");
        }
    });
}

#[test]
fn what_is_no_request_is_refused_and_so_is_a_line_without_end() {
    let agent = Agent::start();
    story(async {
        let mut stream = BufReader::new(UnixStream::connect(agent.socket()).await.unwrap());
        let answer = ask(&mut stream, r#"{"command":"echo"}"#).await;
        assert!(answer.contains(r#""code":"bad_request""#), "{answer}");

        let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
        // The agent may hang up before all of it is written.
        let _ = stream.write_all(&[b'{'; 70_000]).await;
        let mut answer = String::new();
        let _ = BufReader::new(stream).read_line(&mut answer).await;
        assert!(answer.contains(r#""code":"too_long""#), "{answer}");
    });
}

#[test]
fn long_output_is_cut_and_says_so() {
    let agent = Agent::start();
    story(async {
        let mut stream = BufReader::new(UnixStream::connect(agent.socket()).await.unwrap());
        let line = r#"{"cmd":"sh","args":["-c","head -c 3000000 /dev/zero | tr '\\0' x"]}"#;
        let answer = ask(&mut stream, line).await;
        assert!(answer.contains("\"truncated\":true"));
        assert!(answer.len() < 1_100_000, "{}", answer.len());
    });
}
