"""Runs a rendered pod's containers on this machine, as a node would: the image's files and entry point,
the environment, mounts, user and capabilities of the object, and nothing else. Needs root.

A container is a process in mount, PID and IPC namespaces of its own, whose root is an overlay over this
machine's, where the distribution's packages are, with the files on top that the Dockerfile copies.
All containers share the network namespace of this process, which is to be one made for it.
"""

import os
import pathlib
import re
import shlex
import subprocess
import time

import images
from chart import ROOT, containers, secret_data

ASSETS = ROOT / "target/test-assets"
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]

# Puts a container into a cgroup of its own, where this machine has cgroup v2, and enters namespaces.
# $1 is the cgroup's name, $2 the script for what is inside, and the rest its arguments.
UNSHARE = r"""
name=$1 enter=$2
shift 2
cgroup=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
if [ -n "$cgroup" ]; then
  cgroup=$cgroup/$name
  mkdir "$cgroup"
  echo $$ > "$cgroup/cgroup.procs"
fi
export cgroup
exec unshare --mount --pid --ipc --cgroup --fork --kill-child=KILL -- sh -euc "$enter" sh "$@"
"""
# Inside. $1 is a directory for the overlay, $2 a script that fills the root, and the rest the command.
ENTER = r"""
over=$1 fill=$2
shift 2
mount --make-rprivate /
mount -t tmpfs tmpfs "$over"
mkdir "$over/upper" "$over/work" "$over/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$over/upper,workdir=$over/work" "$over/root"
root=$over/root
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
[ -z "$cgroup" ] || mount -t cgroup2 -o ro cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm" "$root/dev/net"
. "$fill"
mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mkdir -p "$root/.before"
cd "$root"
pivot_root . .before
umount -l /.before
mount -o remount,ro /
exec "$@"
"""


class Image:
    """Where the files of an image are on this machine. One without a target has no files of ours."""

    def __init__(self, target, template, firecracker=None):
        self.target = target
        self.sources = {
            ("programs", "aetherium"): pathlib.Path(os.environ["AETHERIUM_PROGRAM"]),
            ("programs", "fc-agent"): ASSETS / "fc-agent",
            ("programs", "vhost-device-vsock"): ASSETS / "tools/bin/vhost-device-vsock",
            ("template", "/default.tar"): template,
            ("firecracker", "/programs/firecracker"): firecracker,
            ("firecracker", "/programs/jailer"): firecracker and firecracker.with_name("jailer"),
        }

    def fill(self):
        """Shell commands that put the files into "$root"."""
        for stage in images.lineage(self.target) if self.target else []:
            for origin, source, destination in images.copies(stage):
                if source == "sbom.cdx.json":
                    continue
                file = self.sources[origin, source] if origin else ROOT / source
                if file:
                    yield f'mkdir -p "$root{destination}"'
                    yield f'cp {shlex.quote(str(file))} "$root{destination}{pathlib.Path(source).name}"'


class Pod:
    """A pod of an object, with its volumes in a directory."""

    def __init__(self, spec, objects, image, place, secrets=None, hosts=(), outside=(), api=None):
        self.spec, self.image, self.place = spec, image, pathlib.Path(place)
        self.secrets = dict(secrets or {})
        self.secrets |= {it["metadata"]["name"]: secret_data(it) for it in objects if it["kind"] == "Secret"}
        self.hosts, self.outside, self.api = hosts, outside, api
        self.group = spec.get("securityContext", {}).get("fsGroup")
        self.place.mkdir(parents=True, exist_ok=True)
        for volume in spec.get("volumes", []):
            self._volume(volume)

    def _volume(self, volume):
        directory = self.place / volume["name"]
        directory.mkdir(exist_ok=True)
        if "emptyDir" in volume:
            directory.chmod(0o777)
        if secret := volume.get("secret"):
            data = self.secrets[secret["secretName"]]
            items = secret.get("items", [{"key": key, "path": key} for key in data])
            for item in items:
                file = directory / item["path"]
                file.write_text(data[item["key"]])
                file.chmod(secret.get("defaultMode", 0o644))
                os.chown(file, 0, self.group or 0)
        elif "projected" in volume:
            (directory / "token").write_text(self.api.token)
            (directory / "ca.crt").write_text(self.api.certificate)
        elif self.group:
            os.chown(directory, 0, self.group)
            directory.chmod(0o2777)

    def container(self, name):
        [found] = [it for it in containers(self.spec) if it["name"] == name]
        return found

    def environment(self, container):
        fields = {"status.podIP": "127.0.0.1", "spec.nodeName": "node-1"}
        known = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        if self.api:
            known |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.api.port)}
        for entry in container.get("env", []):
            origin = entry.get("valueFrom", {})
            if "secretKeyRef" in origin:
                value = self.secrets[origin["secretKeyRef"]["name"]][origin["secretKeyRef"]["key"]]
            elif "fieldRef" in origin:
                value = fields[origin["fieldRef"]["fieldPath"]]
            else:
                value = re.sub(r"\$\((\w+)\)", lambda it: known[it[1]], entry["value"])
            known[entry["name"]] = value
        return known

    def _as_its_user(self, container):
        """`setpriv`'s arguments for a container's user and rights."""
        pod, own = self.spec.get("securityContext", {}), container["securityContext"]
        uid, gid = images.user(self.image.target) if self.image.target else (0, 0)
        uid = own.get("runAsUser", pod.get("runAsUser", uid))
        gid = own.get("runAsGroup", pod.get("runAsGroup", gid))
        if pod.get("runAsNonRoot"):
            assert uid, f"{container['name']} would run as root"
        words = ["setpriv", f"--reuid={uid}", f"--regid={gid}"]
        words += [f"--groups={self.group}"] if self.group else ["--clear-groups"]
        if not own.get("privileged"):
            assert own["capabilities"]["drop"] == ["ALL"]
            added = [f"+{it.lower()}" for it in own["capabilities"].get("add", [])]
            words += ["--bounding-set=" + ",".join(["-all", *added]), "--inh-caps=-all"]
        if not own["allowPrivilegeEscalation"]:
            words.append("--no-new-privs")
        return [*words, "--"]

    def _fill(self, container, devices):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        yield from self.image.fill()
        yield from ('printf "%s\\n" ' + shlex.quote(f"127.0.0.1 {it}") + ' >> "$root/etc/hosts"' for it in self.hosts)
        for device in [*DEVICES, *devices]:
            yield f'touch "$root/dev/{device}"; mount --bind /dev/{device} "$root/dev/{device}"'
        mounts = [(m["mountPath"], self.place / m["name"]) for m in container.get("volumeMounts", [])]
        for path, source in [*mounts, *self.outside]:
            yield f'mkdir -p "$root{path}"; mount --bind {shlex.quote(str(source))} "$root{path}"'

    def start(self, name, log, devices=(), out=None):
        """Starts a container, whose output goes to the file `log`, or what it prints to `out`."""
        container = self.container(name)
        over = self.place / f".{name}"
        over.mkdir(exist_ok=True)
        fill = self.place / f".{name}.sh"
        fill.write_text("\n".join(self._fill(container, devices)) + "\n")
        command = container.get("command") or images.entrypoint(self.image.target)
        command = command + container.get("args", [])
        cgroup = f"{self.place.parent.name}-{self.place.name}-{name}"
        # Whatever ends this process ends its containers.
        words = ["setpriv", "--pdeathsig=KILL", "--", "sh", "-euc", UNSHARE, "sh", cgroup, ENTER]
        words += [str(over), str(fill)]
        variables = [f"{key}={value}" for key, value in self.environment(container).items()]
        words += self._as_its_user(container) + ["env", "-i", *variables, *command]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out or log, stderr=log)
        return Running(name, process, log, cgroup)

    def run(self, name, deadline, devices=()):
        """Runs a container to its end, which is to be a good one, and returns its standard output."""
        printed = self.place / f".{name}.out"
        with open(self.place / f".{name}.log", "w+") as log, open(printed, "w") as out:
            try:
                self.start(name, log, devices, out).ended(deadline)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{printed.read_text()}") from None
        return printed.read_text()


class Running:
    """A container that runs."""

    def __init__(self, name, process, log, cgroup):
        self.name, self.process, self.log, self.cgroup = name, process, log, cgroup

    def said(self):
        return pathlib.Path(self.log.name).read_text()[-4000:]

    def first_process(self):
        """The container's first process, as this machine counts."""
        pid = self.process.pid
        return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def ended(self, deadline):
        """Waits for the end, and returns what was printed."""
        try:
            code = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} has not ended after {deadline} s:\n{self.said()}") from None
        self._remove_cgroup()
        assert code == 0, f"{self.name} ended with {code}:\n{self.said()}"
        return self.said()

    def terminate(self, deadline):
        """What a kubelet does first."""
        os.kill(self.first_process(), 15)
        return self.ended(deadline)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._remove_cgroup()

    def _remove_cgroup(self):
        """Removes what the container had, whose processes end with its first one, soon if not at once."""
        for root in (pathlib.Path("/sys/fs/cgroup", it, self.cgroup) for it in ("", "unified")):
            end = time.monotonic() + 10
            while root.exists():
                try:
                    for directory in sorted(root.glob("**/"), reverse=True):
                        directory.rmdir()
                except OSError:
                    assert time.monotonic() < end, f"{root} is still in use"
                    time.sleep(0.1)


def until_nothing(lacks, containers_running, deadline):
    """Waits until nothing is lacking, which `lacks` says in words, while the containers run."""
    end = time.monotonic() + deadline
    while lacking := lacks():
        ended = [it.name for it in containers_running if it.process.poll() is not None]
        said = "\n".join(f"{it.name}:\n{it.said()}" for it in containers_running)
        assert not ended, f"{ended} ended:\n{said}"
        assert time.monotonic() < end, f"not ready: {lacking}\n{said}"
        time.sleep(0.5)
