"""A release comes up as Kubernetes would bring it up, container by container, with exactly the rendered
environment, files, user and rights, until a prompt has run in a VM.

Run by tests/deploy.rs, as root, in a network namespace of its own.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request

import chart
from chart import MATRIX, find, merged, pod_of, render
from nodes import Nodes
from pods import ASSETS, Image, Pod, until_nothing

# Emulation on two busy cores.
BOOT = 180
SOON = 60
# The kind of what the fleet shares: everything that a database server of ours would be.
SECRETS = {"their-keys": {"api-keys": "a-key-of-16-chars-or-more\n", "fleet-key": "0123456789abcdef" * 2,
                          "secrets-keys": "k1:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=\n"}}
SHARED = {
    "gateway": {"service": {"port": 7070}},
    "worker": {"labelNode": True},
    "keys": {"existingSecret": "their-keys"},
    "postgresql": {"bundled": False, "existingSecret": "their-database"},
}
CHECKLIST = ["kvm.device", "template.kernel", "template.initramfs", "kernel.image", "rootfs.filesystem", "rootfs.agent"]


def template(*words, data=ASSETS / "data"):
    """Runs `aetherium template …`."""
    command = [chart.AETHERIUM, "--data-dir", str(data), "template", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=BOOT).stdout


def test_template():
    """The template that `make assets` made: its files by name, and an archive as the image has one."""
    shown = [line.split() for line in template("inspect", "default").splitlines()]
    files = {words[1]: words[2] for words in shown if words[0] == "file"}
    [digest] = [words[1].removeprefix("sha256:") for words in shown if words[0] == "digest"]
    archive = ASSETS / f"default-{digest[:12]}.tar"
    if not archive.exists():
        for old in ASSETS.glob("default-*.tar"):
            old.unlink()
        template("export", "default", "--output", archive)
    return files, archive


def database():
    """Where PostgreSQL's socket is, and its address with this directory mounted as /pg."""
    url = os.environ["AETHERIUM_TEST_DATABASE"]
    directory = urllib.parse.unquote(urllib.parse.urlsplit(url).netloc.rpartition("@")[2].rpartition(":")[0])
    return directory, url.replace(urllib.parse.quote(directory, safe=""), "%2Fpg")


class Release:
    """A release's pods on this machine."""

    def __init__(self, place, values, template, worker_target, api, firecracker=None, devices=()):
        self.place, self.devices = pathlib.Path(place), devices
        self.objects = render(merged(values, SHARED))
        directory, url = database()
        shared = {
            "secrets": {**SECRETS, "their-database": {"url": url}},
            "hosts": ["aetherium-gateway", "aetherium-redis"],
            "outside": [("/pg", directory)],
            "api": api,
        }
        gateway, worker = Image("gateway", template), Image(worker_target, template, firecracker)

        def pod(kind, name, image):
            spec = pod_of(find(self.objects, kind, f"aetherium-{name}"))
            return Pod(spec, self.objects, image, self.place / name, **shared)

        self.migrate = pod("Job", "migrate", gateway)
        self.gateway = pod("Deployment", "gateway", gateway)
        self.worker = pod("DaemonSet", "worker", worker)
        self.test = pod("Pod", "test", gateway)
        # Somebody else's image, whose program is this machine's: it is the server under that name.
        self.redis = pod("StatefulSet", "redis", Image(None, links={"redis-server": "redis-check-rdb"}))

    def up(self, case):
        """Gateway and worker, ready as their probes say."""
        self.running = {}
        started = [("redis", self.redis, ()), ("gateway", self.gateway, ()), ("worker", self.worker, self.devices)]
        for name, pod, devices in started:
            log = case.enterContext(open(self.place / f"{name}.log", "w+"))
            running = pod.start(name, log, devices)
            case.addCleanup(running.kill)
            self.running[name] = running
        for name, pod in [("gateway", self.gateway), ("worker", self.worker)]:
            for probe in ("startupProbe", "readinessProbe"):
                asked = probe_url(pod.container(name)[probe], pod.container(name))
                until_nothing(lambda: unlike_200(asked), self.running.values(), BOOT)

    def down(self):
        """As a node is emptied: the worker first, the stores last."""
        return {name: self.running[name].terminate(SOON) for name in ("worker", "gateway", "redis")}


def probe_url(probe, container):
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    port, path = ports[probe["httpGet"]["port"]], probe["httpGet"]["path"]
    return f"http://127.0.0.1:{port}{path}"


def unlike_200(url):
    """What a server answers instead of 200, if it does."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError as error:
        return str(error)


class Pods(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.mkdtemp(prefix="aepod")
        self.addCleanup(shutil.rmtree, self.place)
        self.api = Nodes(self.place)
        self.addCleanup(self.api.close)

    def brought_up(self, release, first_time="taken in now"):
        """Every step of an installation, ending in the prompt that `helm test` sends."""
        first = json.loads(release.migrate.run("migrate", SOON))
        again = json.loads(release.migrate.run("migrate", SOON))
        self.assertEqual((first["from"], again["from"]), (0, first["to"]))

        prepared = release.worker.run("prepare-rootfs", BOOT, release.devices)
        self.assertIn(first_time, prepared)
        for check in CHECKLIST:
            self.assertRegex(prepared, rf"[✓!] {check} ")
        self.assertNotIn("✗", prepared)
        again = release.worker.run("prepare-rootfs", BOOT, release.devices)
        self.assertNotIn("taken in now", again)
        self.assertIn("ready: there was nothing to do", again)

        release.worker.run("label-node", BOOT, release.devices)
        self.assertEqual(set(self.api.labels), {"node-1"})
        kvm = self.api.labels["node-1"]["aetherium.dev/kvm"]
        self.assertEqual(kvm, "true" if release.devices else "false")
        self.assertTrue(all(self.api.labels["node-1"].values()))

        release.up(self)
        said = release.test.run("prompt", BOOT)
        self.assertIn("Hello from VM\n", said)
        return release.down()

    def test_a_prompt_runs_in_an_emulated_vm_of_the_local_release(self):
        _, archive = test_template()
        release = Release(self.place, MATRIX["local"], archive, "worker-qemu", self.api)
        ended = self.brought_up(release)
        self.assertIn("stopped", ended["worker"])
        left = list((pathlib.Path(self.place) / "worker/data/vms").glob("*/journal.json"))
        self.assertEqual(left, [], "VMs are left")

    def test_a_prompt_runs_under_firecracker_with_the_rights_of_the_default_release(self):
        firecracker = os.environ.get("AETHERIUM_FIRECRACKER")
        kernel = os.environ.get("AETHERIUM_TEST_KERNEL_FIRECRACKER")
        if not (firecracker and kernel):
            self.skipTest("no Firecracker, or no kernel that boots under it, is named")
        # The template is in the node's directory already, as it would be without an archive.
        values = {"worker": {"driver": "firecracker", "template": {"archive": ""}}}
        files, archive = test_template()
        devices = ["kvm", "net/tun"]
        release = Release(self.place, values, archive, "worker", self.api, pathlib.Path(firecracker), devices)
        build = ["--rootfs", files["rootfs.ext4"], "--kernel", kernel, "--agent", ASSETS / "fc-agent"]
        for word in os.environ.get("AETHERIUM_TEST_KERNEL_FIRECRACKER_ARGS", "").split():
            build += ["--kernel-arg", word]
        cpu = pathlib.Path(kernel).with_name("cpu-template.json")
        build += ["--cpu-template", cpu] if cpu.exists() else []
        template("build", "default", *build, data=pathlib.Path(self.place) / "worker/data")
        self.brought_up(release, "there was nothing to do")


if __name__ == "__main__":
    unittest.main()
