//! Userlands of all kinds become templates and run commands in VMs: with glibc and without, merged and
//! not, of one layer and of five hundred, with a shell, with an init of their own, or with nothing.

use crate::{
    layout::{Image, Layer},
    world::{BOOT, Place, Server, id},
};
use aetherium_model::resources::DriverKind;
use futures::StreamExt as _;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// VMs that run at once: continuous integration has two processors.
const AT_ONCE: usize = 2;
/// Says its first argument, its user and its directory.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char cwd[4096];
    printf("%s %u %s\n", argc > 1 ? argv[1] : "-", getuid(), getcwd(cwd, sizeof cwd) ? cwd : "-");
    return 0;
}
"#;
const APPLETS: [&str; 9] = ["sh", "cat", "echo", "id", "ls", "readlink", "test", "touch", "wc"];

/// A template to be made and tried.
struct Userland {
    name: &'static str,
    image: Image,
    /// What a recipe says beside its base, where the template is made by one.
    recipe: Option<&'static str>,
    /// Commands, and what they print.
    tries: Vec<Try>,
}

/// What the images are made of.
struct Ground {
    dir: PathBuf,
}

impl Ground {
    /// Compiles [`PROGRAM`].
    fn compiled(&self, name: &str, options: &[&str]) -> PathBuf {
        let (source, program) = (self.dir.join("program.c"), self.dir.join(name));
        fs::write(&source, PROGRAM).unwrap();
        let compiler =
            Command::new("cc").args(options).arg("-o").args([&program, &source]).status();
        assert!(compiler.unwrap().success());
        program
    }

    fn scratch(&self) -> Userland {
        let alone = self.compiled("static", &["-static", "-Os"]);
        let config = json!({ "Entrypoint": ["/program"] });
        let layers = vec![Layer::new().program("program", &alone)];
        tried("scratch", config, layers, vec![program(["/program", "alone"], "alone 0 /\n")])
    }

    /// No shell; a program with its libraries, and a user of its own.
    fn distroless(&self) -> Userland {
        let app = self.compiled("dynamic", &["-Os"]);
        let layer = with_libraries(Layer::new(), &app, "")
            .dir("home/nonroot", 0o700, 65532)
            .file("etc/passwd", 0o644, "nonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n")
            .program("usr/bin/app", &app);
        let config = json!({ "User": "65532", "WorkingDir": "/home/nonroot" });
        let tries = vec![program(["app", "hi"], "hi 65532 /home/nonroot\n")];
        tried("distroless", config, vec![layer], tries)
    }

    /// Everything in `/usr`, `sbin` in `bin` too, libraries in `lib64`; a later layer writes through a
    /// link.
    fn fedora(&self) -> Userland {
        let later = self.compiled("rpath", &["-Os", "-Wl,-rpath,/usr/lib64"]);
        let first = os("fedora", Layer::new())
            .dir("usr/bin", 0o755, 0)
            .dir("usr/lib64", 0o755, 0)
            .link("bin", "usr/bin")
            .link("sbin", "usr/bin")
            .link("usr/sbin", "bin")
            .link("lib", "usr/lib")
            .link("lib64", "usr/lib64");
        let first = libraries(&later).into_iter().fold(first, |layer, library| {
            let name = library.file_name().unwrap().to_str().unwrap();
            layer.program(&format!("usr/lib64/{name}"), &library)
        });
        let layers = vec![shell(first, "usr/bin"), Layer::new().program("bin/later", &later)];
        let tries = vec![
            line(
                ". /etc/os-release; echo $ID; readlink /bin; readlink /usr/sbin",
                "fedora\nusr/bin\nbin\n",
            ),
            program(["/usr/sbin/later", "merged"], "merged 0 /\n"),
        ];
        tried("fedora", json!({}), layers, tries)
    }
}

/// A command, and what it prints.
struct Try {
    argv: Vec<&'static str>,
    printed: &'static str,
}

fn program<const N: usize>(argv: [&'static str; N], printed: &'static str) -> Try {
    Try { argv: argv.to_vec(), printed }
}

/// A line for the userland's own shell.
fn line(line: &'static str, printed: &'static str) -> Try {
    program(["/bin/sh", "-c", line], printed)
}

fn tried(name: &'static str, config: Value, layers: Vec<Layer>, tries: Vec<Try>) -> Userland {
    Userland { name, image: Image { config, layers }, recipe: None, tries }
}

/// glibc and a shell of this host, laid out as Debian's derivatives do.
fn ubuntu() -> Userland {
    let links = ["bin", "lib", "lib64", "sbin"];
    let mut layer = os("ubuntu", Layer::new());
    for link in links {
        layer = layer.dir(&format!("usr/{link}"), 0o755, 0).link(link, &format!("usr/{link}"));
    }
    for program in ["/usr/bin/dash", "/usr/bin/cat", "/usr/bin/id"] {
        let program = Path::new(program);
        layer = with_libraries(layer, program, "usr/");
        layer = layer.program(program.strip_prefix("/").unwrap().to_str().unwrap(), program);
    }
    let layer = layer
        .link("usr/bin/sh", "dash")
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/root:/bin/sh\nubuntu:x:1000:1000::/home/ubuntu:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\nubuntu:x:1000:\n")
        .dir("home/ubuntu", 0o750, 1000);
    tried(
        "ubuntu",
        json!({ "Env": ["LANG=C.UTF-8"] }),
        vec![layer],
        vec![line(". /etc/os-release; echo $ID $(id -un)", "ubuntu root\n")],
    )
}

/// One program under many names, by symbolic links.
fn alpine() -> Userland {
    let layer = shell(os("alpine", Layer::new()).dir("bin", 0o755, 0), "bin");
    tried(
        "alpine",
        json!({ "Cmd": ["/bin/sh"] }),
        vec![layer],
        vec![line(". /etc/os-release; echo $ID; readlink /bin/cat", "alpine\nbusybox\n")],
    )
}

/// The same by hard links.
fn busybox() -> Userland {
    let layer = Layer::new().dir("bin", 0o755, 0).program("bin/busybox", &busybox_program());
    let layer = APPLETS
        .iter()
        .fold(layer, |layer, name| layer.hard_link(&format!("bin/{name}"), "bin/busybox"));
    tried(
        "busybox",
        json!({ "Cmd": ["sh"] }),
        vec![layer],
        vec![line("test /bin/sh -ef /bin/busybox && echo one file", "one file\n")],
    )
}

/// 400 layers that add a file each, 99 that hide one each.
fn five_hundred_layers() -> Userland {
    let mut layers = vec![shell(Layer::new().dir("bin", 0o755, 0), "bin")];
    layers.extend(
        (1..=400).map(|n| Layer::new().file(&format!("layers/{n}"), 0o644, format!("{n}\n"))),
    );
    layers.extend((1..=99).map(|n| Layer::new().file(&format!("layers/.wh.{n}"), 0o644, "")));
    assert_eq!(layers.len(), 500);
    tried(
        "layers",
        json!({}),
        layers,
        vec![line("ls /layers | wc -l; cat /layers/100 /layers/400", "301\n100\n400\n")],
    )
}

fn with_a_user() -> Userland {
    let layer = shell(Layer::new().dir("bin", 0o755, 0), "bin")
        .file("etc/passwd", 0o644, "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/data:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\napp:x:1000:\n")
        .dir("data", 0o700, 1000);
    let config = json!({ "User": "app", "WorkingDir": "/data" });
    tried(
        "user",
        config,
        vec![layer],
        vec![line(
            "id -un; touch mine && echo written; touch /etc/x 2>/dev/null || echo refused",
            "app\nwritten\nrefused\n",
        )],
    )
}

/// Absolute links, directories that nobody may write, and none of those that systems are said to need.
fn odd() -> Userland {
    let layer = shell(Layer::new().dir("usr/bin", 0o755, 0), "usr/bin")
        .dir("usr/bin", 0o555, 0)
        .dir("usr", 0o555, 0)
        .link("bin", "/usr/bin");
    tried(
        "odd",
        json!({}),
        vec![layer],
        vec![line(
            "readlink /bin; echo made >/usr/bin/new; cat /bin/new; cat /proc/1/comm",
            "/usr/bin\nmade\ninit\n",
        )],
    )
}

/// Its own init is the first process, and says so.
fn with_an_init() -> Userland {
    let layer = shell(Layer::new().dir("bin", 0o755, 0), "bin")
        .link("sbin/init", "/bin/busybox")
        .file("etc/inittab", 0o644, "::sysinit:/bin/touch /run/init-was-here\n");
    let recipe = "init = \"/sbin/init\"\n[ready]\ncommand = \"test -e /run/init-was-here\"\n";
    let userland =
        tried("init", json!({}), vec![layer], vec![line("readlink /proc/1/exe", "/bin/busybox\n")]);
    Userland { recipe: Some(recipe), ..userland }
}

fn os(name: &str, layer: Layer) -> Layer {
    layer.dir("etc", 0o755, 0).file("etc/os-release", 0o644, format!("ID={name}\n"))
}

/// A shell and its kin in a directory that is there.
fn shell(layer: Layer, dir: &str) -> Layer {
    let layer = layer.program(&format!("{dir}/busybox"), &busybox_program());
    APPLETS.iter().fold(layer, |layer, name| layer.link(&format!("{dir}/{name}"), "busybox"))
}

fn busybox_program() -> PathBuf {
    let places = ["/usr/bin/busybox", "/bin/busybox"];
    let found = places.iter().map(PathBuf::from).find(|path| path.is_file());
    found.expect("busybox-static is installed: run `make assets`")
}

/// The libraries of a program of this host, with the program that loads them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

/// Adds them where the program looks for them, below `prefix`.
fn with_libraries(layer: Layer, program: &Path, prefix: &str) -> Layer {
    libraries(program).into_iter().fold(layer, |layer, library| {
        let path = format!("{prefix}{}", library.to_str().unwrap().trim_start_matches('/'));
        // Hosts with a merged /usr name them with it or without.
        layer.program(&path.replace("usr/usr/", "usr/"), &library)
    })
}

/// Makes the template: kernel and modules are the test template's.
fn make(place: &Place, name: &str, recipe: Option<&str>, layout: &Path) {
    let mut command = place.aetherium();
    command.args(["template", "build", name, "--kernel-of", "default"]);
    let from = format!("oci:{}", layout.display());
    match recipe {
        None => command.arg("--from").arg(from),
        Some(rest) => {
            let file = layout.join("template.toml");
            fs::write(&file, format!("base = {{ image = \"{from}\" }}\n{rest}")).unwrap();
            command.args(["--driver", "qemu", "--file"]).arg(file)
        }
    };
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
}

async fn try_in_a_vm(server: &Server<'_>, template: &str, tries: &[Try]) {
    let size = json!({ "template": template, "memory_mib": 192, "disk_mib": 64 });
    let vm = server.vm(size).await;
    for Try { argv, printed } in tries {
        let path = format!("/vms/{}/execute", id(&vm));
        let ran = server.post(&path, json!({ "argv": argv })).await;
        assert_eq!(ran["stdout"], *printed, "{template} {argv:?}: {ran:#}");
        assert_eq!(ran["result"]["exit_code"], 0, "{template} {argv:?}: {ran:#}");
    }
    server.delete(&format!("/vms/{}", id(&vm))).await;
    server
        .until(&format!("/vms/{}", id(&vm)), BOOT, |vm| {
            ["stopped", "failed"].contains(&vm["state"].as_str().unwrap())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn userlands_of_all_kinds_become_templates_and_run_commands_in_vms() {
    let place = Place::new();
    let ground = Ground { dir: place.path().join("ground") };
    fs::create_dir_all(&ground.dir).unwrap();
    let userlands = vec![
        ground.scratch(),
        ground.distroless(),
        ground.fedora(),
        ubuntu(),
        alpine(),
        busybox(),
        five_hundred_layers(),
        with_a_user(),
        odd(),
        with_an_init(),
    ];
    // Debian itself, from its packages, is there already.
    let mut made = vec![("default", vec![line(". /etc/os-release; echo $ID", "debian\n")])];
    for Userland { name, image, recipe, tries } in userlands {
        let layout = ground.dir.join(name);
        image.write(&layout);
        make(&place, name, recipe, &layout);
        made.push((name, tries));
    }

    let server = Server::start(&place, DriverKind::Qemu).await;
    futures::stream::iter(&made)
        .for_each_concurrent(AT_ONCE, |(name, tries)| try_in_a_vm(&server, name, tries))
        .await;
    server.stop().await;
    place.assert_no_vm_is_left();
}

/// Needs the distribution's mirror: `cargo test -p aetherium --test system -- --ignored systemd`.
#[tokio::test]
#[ignore = "downloads systemd and boots it under emulation: a minute or more"]
async fn a_system_with_systemd_as_its_init_comes_up_and_runs_commands() {
    let place = Place::new();
    let file = place.path().join("template.toml");
    let recipe = r#"
        base = { packages = ["systemd-sysv", "dbus"] }
        init = "/sbin/init"
        [ready]
        command = "systemctl is-system-running --wait | grep -E 'running|degraded'"
        deadline_s = 300
        [resources]
        memory_mib = 512
    "#;
    fs::write(&file, recipe).unwrap();
    let mut command = place.aetherium();
    command.args([
        "template",
        "build",
        "systemd",
        "--kernel-of",
        "default",
        "--driver",
        "qemu",
        "-f",
    ]);
    let output = command.arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::start_with(&place, DriverKind::Qemu, &["--boot-deadline", "300s"]).await;
    try_in_a_vm(&server, "systemd", &[program(["cat", "/proc/1/comm"], "systemd\n")]).await;
    server.stop().await;
    place.assert_no_vm_is_left();
}
