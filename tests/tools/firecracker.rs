//! Tools that are fetched, under the real Firecracker: the VMs in which they are installed reach what is
//! globally reachable, and nothing of their network outlives them.
//!
//! Each test has a network of its own, with an internet behind it. See [`crate::drivers`] for what the runs
//! need and how they say that it is missing.

use super::{BUILD, follow, ready, settled};
use crate::{
    drivers::Subject,
    indicators::leave_the_machines_network,
    world::{Place, SOON, Server, id, state},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A web server behind an uplink of the network that this thread is in.
struct Internet {
    server: Child,
}

/// Its address, which is no machine's here.
const SERVER: &str = "93.184.216.34";

impl Internet {
    fn serving(files: &Path) -> Self {
        let script = format!(
            "echo there && read -r _ && ip link set lo up && ip address add 5.5.5.1/24 dev net0 && \
             ip link set net0 up && ip address add {SERVER}/32 dev lo && \
             exec busybox httpd -f -p {SERVER}:80 -h {}",
            files.display()
        );
        let mut server = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "there\n");
        ip(&format!("link add wan0 type veth peer name net0 netns {}", server.id()));
        ip("address add 5.5.5.5/24 dev wan0");
        ip("link set wan0 up");
        ip("route add default via 5.5.5.1");
        server.stdin.take().unwrap().write_all(b"\n").unwrap();
        let deadline = Instant::now() + SOON;
        while TcpStream::connect((SERVER, 80)).is_err() {
            assert!(Instant::now() < deadline, "{SERVER} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { server }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn ip(arguments: &str) {
    let ran = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(ran.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// What fetches the tool `NAME` from the internet, in the guest's bash.
const FETCH: &str = r#"
cat >/tmp/fetch <<'END'
exec 3<>/dev/tcp/93.184.216.34/80
printf 'GET /tool HTTP/1.0\r\n\r\n' >&3
sed '1,/^\r*$/d' <&3 >/usr/local/bin/NAME
END
bash -eu /tmp/fetch
rm /tmp/fetch
chmod 755 /usr/local/bin/NAME
"#;

/// Adds a tool to the place's catalogue that is fetched; `then` it goes on.
fn tool(place: &Place, name: &str, then: &str) {
    let tools = place.path().join("catalog/tools");
    fs::create_dir_all(&tools).unwrap();
    let fetch = FETCH.replace("NAME", name);
    let definition = format!(
        "name = \"{name}\"\ndescription = \"Comes over the network\"\ncheck = \"{name}\"\n\
         [install]\nrun = \'\'\'{fetch}{then}\n\'\'\'\n"
    );
    fs::write(tools.join(format!("{name}.toml")), definition).unwrap();
}

/// Firecracker in a network of its own, with an internet that has the tool.
fn subject() -> Option<(Subject, Internet)> {
    let subject = Subject::real_with_network("mmio", &[])?;
    leave_the_machines_network();
    let files = subject.place.path().join("internet");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("tool"), "#!/bin/sh\necho fetched\n").unwrap();
    let internet = Internet::serving(&files);
    Some((subject, internet))
}

/// What there is of networks with these prefixes: namespaces, claims, rules of the host's.
fn traces(pools: &[String]) -> Vec<String> {
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    let tables = String::from_utf8(tables.stdout).unwrap();
    let mut found: Vec<String> = tables.lines().map(str::to_owned).collect();
    for dir in ["/run/netns", "/run/aetherium/slots"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let claim = fs::read_link(entry.path()).unwrap_or_default();
            found.push(format!("{} {}", entry.path().display(), claim.display()));
        }
    }
    found.retain(|it| pools.iter().any(|pool| it.contains(pool.as_str())));
    found
}

/// Waits for a network of a build's VM that is none of these.
async fn another(place: &Place, known: &[String]) -> Vec<String> {
    let deadline = Instant::now() + BUILD;
    loop {
        let found = place.pools_of_builds();
        if found.iter().any(|it| !known.contains(it)) && !traces(&found).is_empty() {
            return found;
        }
        assert!(Instant::now() < deadline, "there is no other than {known:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn workspace(server: &Server<'_>, tool: &str) -> Value {
    let body = json!({ "name": tool, "template": "lab", "setup": { "tools": [tool] } });
    server.post("/workspaces", body).await
}

#[tokio::test]
async fn a_tool_comes_over_the_network_though_its_workspace_has_none() {
    let Some((subject, _internet)) = subject() else { return };
    let place = &subject.place;
    tool(place, "fetched", "");
    let server = subject.server().await;
    let made = workspace(&server, "fetched").await;
    ready(&server, &made).await;
    let path = format!("/workspaces/{}", id(&made));
    assert_eq!(server.answer(&path, "fetched").await, "fetched\n");
    server.stop().await;
    place.assert_no_vm_is_left();

    // So does a build without a server.
    let file = place.path().join("recipe.toml");
    let fetch = FETCH.replace("NAME", "by-hand");
    let recipe = format!(
        "base = {{ template = \"lab\" }}\nbuild = {{ network = \"egress\" }}\n\
         [[run]]\ncommand = \'\'\'{fetch}\'\'\'\n[[run]]\ncommand = \"by-hand\"\n"
    );
    fs::write(&file, recipe).unwrap();
    let mut build = place.aetherium();
    build.args(["template", "build", "app", "-f"]).arg(file).args(["--driver", "firecracker"]);
    let built = build.args(subject.options()).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    assert_eq!(String::from_utf8(tables.stdout).unwrap(), "", "rules of the host's are left");
    assert_eq!(fs::read_dir(place.path().join("builds")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_network_of_a_killed_builds_vm_is_taken_away_by_the_next_server() {
    let Some((subject, _internet)) = subject() else { return };
    let place = &subject.place;
    tool(place, "endless", "echo here; sleep 1000");
    let server = subject.server().await;
    let made = workspace(&server, "endless").await;
    follow(&server, &made, "\"here\\n").await;
    let first = place.pools_of_builds();
    assert_eq!(traces(&first).len(), 3, "{:?}", traces(&first));
    server.kill();
    let vmm: Vec<_> = place.pids().collect();
    assert_eq!((vmm.len(), traces(&first).len()), (1, 3), "its VM outlives the server");

    let server = subject.server().await;
    let second = another(place, &first).await;
    assert_eq!(traces(&first), Vec::<String>::new());
    // Of one that has ended nobody may have taken note yet; it has no arguments then.
    let arguments = fs::read(format!("/proc/{}/cmdline", vmm[0].as_raw_nonzero()));
    assert_eq!(arguments.unwrap_or_default(), b"", "it runs on");
    let task = made["links"]["task"].as_str().unwrap().strip_prefix("/api/v1").unwrap();
    server.post(&format!("{task}/cancel"), json!({})).await;
    server.until(task, BUILD, |it| state(it) == "cancelled").await;
    assert_eq!(traces(&second), Vec::<String>::new());
    assert_eq!(place.pids().count(), 0);
    assert_eq!(fs::read_dir(place.path().join("builds")).unwrap().count(), 0);
    server.stop().await;
    place.assert_no_vm_is_left();
}

#[tokio::test]
async fn a_step_that_needs_a_network_says_why_it_has_none() {
    let Some(subject) = Subject::real_with_network("mmio", &["--no-slots"]) else { return };
    tool(&subject.place, "fetched", "");
    let server = subject.server().await;
    let made = workspace(&server, "fetched").await;
    let failed = settled(&server, &made).await;
    let detail = failed["fault"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("--no-slots"), "{failed:#}");
    assert!(failed["fault"]["remedy"].as_str().unwrap().contains("--driver qemu"), "{failed:#}");
    server.stop().await;
    subject.place.assert_no_vm_is_left();
}
