"""Builds the images for real, with buildah, from a base that mmdebstrap makes here: no registry is asked.

The programs are those that `make build` has made, given as `programs` in the Dockerfile's words; what
compiles them in the Dockerfile is what the Makefile does. Run by tests/deploy.rs, when it is asked for.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from chart import ROOT

ASSETS = ROOT / "target/test-assets"
VERSION = "1.16.1"
BASE = "localhost/debian:bookworm-slim"


class Build(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        for tool in ("buildah", "mmdebstrap"):
            assert shutil.which(tool), f"{tool} is missing: apt-get install {tool}"
        cls.place = pathlib.Path(tempfile.mkdtemp(prefix="aeimg"))
        cls.addClassCleanup(shutil.rmtree, cls.place, ignore_errors=True)
        cls.buildah_command = ["buildah", "--storage-driver=vfs", f"--root={cls.place}/root", f"--runroot={cls.place}/run"]
        archive = cls.place / "base/base.tar"
        archive.parent.mkdir()
        cls.succeed(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", archive])
        (archive.parent / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        cls.buildah("bud", "--isolation=chroot", "-t", BASE, archive.parent)
        programs = cls.place / "programs"
        programs.mkdir()
        release = pathlib.Path(os.environ.get("AETHERIUM_RELEASE", ROOT / "target/release/aetherium"))
        shutil.copy(release if release.exists() else os.environ["AETHERIUM_PROGRAM"], programs / "aetherium")
        shutil.copy(ASSETS / "fc-agent", programs)
        shutil.copy(ASSETS / "tools/bin/vhost-device-vsock", programs)
        (programs / "sbom.cdx.json").write_text("{}")

    @staticmethod
    def succeed(command):
        ran = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1200)
        assert ran.returncode == 0, f"{command}: {ran.stdout[-4000:]}"
        return ran.stdout

    @classmethod
    def buildah(cls, *words):
        return cls.succeed([*cls.buildah_command, *words])

    def firecracker(self):
        """An archive such as a release of Firecracker has."""
        program = pathlib.Path(os.environ.get("AETHERIUM_FIRECRACKER", "/usr/local/bin/firecracker"))
        directory = self.place / "firecracker" / f"release-v{VERSION}-x86_64"
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("firecracker", "jailer"):
            shutil.copy(program.with_name(name), directory / f"{name}-v{VERSION}-x86_64")
        archive = self.place / "firecracker/release.tgz"
        self.succeed(["tar", "-czf", archive, "-C", directory.parent, directory.name])
        return archive, hashlib.sha256(archive.read_bytes()).hexdigest()

    def build(self, target):
        archive, digest = self.firecracker()
        self.buildah(
            "bud", "--isolation=chroot", "--network=host", "-t", f"localhost/{target}", "--target", target,
            "-f", ROOT / "deploy/docker/Dockerfile", "--ignorefile", ROOT / "deploy/docker/Dockerfile.dockerignore",
            "--build-context", f"programs={self.place}/programs",
            "--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", f"RUST_IMAGE={BASE}",
            "--volume", f"{archive.parent}:/firecracker:ro",
            "--build-arg", "FIRECRACKER_URL=file:///firecracker/release.tgz",
            "--build-arg", f"FIRECRACKER_SHA256={digest}", ROOT,
        )
        return self.buildah("from", "--pull=never", f"localhost/{target}").strip().splitlines()[-1]

    def test_the_gateway_is_built_and_starts_as_nobody(self):
        container = self.build("gateway")
        said = self.buildah("run", "--isolation=chroot", container, "sh", "-c", "id -u; aetherium --version")
        self.assertIn("65532", said)
        self.assertIn("aetherium 0.1.0", said)

    def test_the_worker_is_built_with_firecracker_and_a_template_that_is_whole(self):
        container = self.build("worker")
        said = self.buildah("run", "--isolation=chroot", container, "sh", "-c", "firecracker --version; jailer --version; nft --version")
        self.assertIn(f"Firecracker v{VERSION}", said)
        prepared = self.buildah(
            "run", "--isolation=chroot", container, "aetherium", "--data-dir", "/tmp/data", "host", "prepare",
            "--template", "default", "--import", "/usr/share/aetherium/default.tar", "--allow-no-kvm", "--no-probe",
        )
        self.assertIn("✓ rootfs.filesystem", prepared)
        self.assertIn("ready", prepared)


if __name__ == "__main__":
    unittest.main()
