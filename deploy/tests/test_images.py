"""What the images are built from exists, and is built."""

import json
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

import yaml

import images
from chart import AETHERIUM, CHART, ROOT, schema, values

DOCKER = ROOT / "deploy/docker"
SYSTEMD = ROOT / "deploy/systemd"


class Dockerfile(unittest.TestCase):
    def test_what_is_copied_from_the_project_exists(self):
        context = [source for stage in images.stages().values() for origin, source, _ in images.copies(stage) if not origin]
        self.assertIn("deploy/docker/worker-entrypoint", context)
        for source in context:
            self.assertTrue((ROOT / source).exists(), source)

    def test_what_is_copied_from_a_stage_was_put_there(self):
        stages = images.stages()
        made = {name: json.dumps(stage.steps) for name, stage in stages.items()}
        for stage in stages.values():
            for origin, source, _ in images.copies(stage):
                if origin and source not in ("/", "/programs"):
                    self.assertIn(origin, stages)
                    name = source.rpartition("/")[2]
                    # The stage with the programs is a copy of what another has made.
                    self.assertIn(name, made[origin] + made["build" if origin == "programs" else origin])

    def test_packages_exist_in_the_distribution(self):
        asked = set()
        for stage in images.stages().values():
            for word, rest in stage.steps:
                for found in re.findall(r"apt-get install (.*?)(?:&&|$)", rest) if word == "RUN" else []:
                    asked |= {it for it in found.split() if not it.startswith("-")}
        self.assertIn("nftables", asked)
        for package in sorted(asked):
            shown = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, timeout=60)
            self.assertRegex(shown.stdout, r"Candidate: \d", package)

    def test_steps_and_the_entry_point_are_sound_shell(self):
        for stage in images.stages().values():
            for step in (rest for word, rest in stage.steps if word == "RUN"):
                subprocess.run(["sh", "-n"], input=step, text=True, check=True, timeout=10)
        subprocess.run(["sh", "-n", DOCKER / "worker-entrypoint"], check=True, timeout=10)

    def test_each_image_says_what_it_is_and_who_runs_it(self):
        for name in ("gateway", "worker", "worker-qemu"):
            labels = next(filter(None, (it.last("LABEL") for it in reversed(images.lineage(name)))))
            for label in ("title", "source", "licenses", "version", "revision"):
                self.assertIn(f"org.opencontainers.image.{label}=", labels)
            self.assertEqual(images.user(name), (65532, 65532) if name == "gateway" else (0, 0))
            paths = [path for it in images.lineage(name) for _, source, path in images.copies(it) if source == "sbom.cdx.json"]
            self.assertEqual(paths, ["/usr/share/doc/aetherium/"])

    def test_the_program_and_the_charts_paths_are_where_the_images_have_them(self):
        placed = {d + s.rpartition("/")[2] for it in images.lineage("worker-qemu") for _, s, d in images.copies(it)}
        self.assertIn(images.entrypoint("worker")[0], placed)
        self.assertIn(values("values.yaml")["worker"]["template"]["archive"], placed)
        self.assertLessEqual({"/usr/bin/aetherium", "/usr/bin/firecracker", "/usr/bin/jailer", "/usr/libexec/aetherium/fc-agent"}, placed)

    def test_versions_agree(self):
        version = schema()["version"]
        meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((meta["appVersion"], meta["version"]), (version, version))
        self.assertIn(f"ARG VERSION={version}\n", images.DOCKERFILE.read_text())
        bake = (DOCKER / "docker-bake.hcl").read_text()
        self.assertIn(f'variable "VERSION" {{ default = "{version}" }}', bake)
        for target in re.findall(r'target += +"([a-z-]+)"', bake):
            self.assertIn(target, images.stages())

    def test_a_release_of_firecracker_without_a_checksum_is_refused(self):
        [step] = [rest for word, rest in images.stages()["firecracker"].steps if "FIRECRACKER_SHA256:?" in rest]
        ran = subprocess.run(["sh", "-c", step], capture_output=True, text=True, env={"FIRECRACKER_SHA256": ""}, timeout=10)
        self.assertNotEqual(ran.returncode, 0)
        self.assertIn("--build-arg FIRECRACKER_SHA256", ran.stderr)


class Compose(unittest.TestCase):
    def services(self):
        class Loader(yaml.SafeLoader):
            pass
        Loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))
        for name in ("compose.yaml", "compose.emulated.yaml"):
            yield from yaml.load((DOCKER / name).read_text(), Loader)["services"].items()

    def test_variables_and_options_are_those_of_the_program(self):
        roles = schema()["roles"]
        for name, service in self.services():
            words = service.get("command", [])
            role = next((it for it in sorted(roles, key=len, reverse=True) if " ".join(words).startswith(it)), None)
            if role is None or "entrypoint" in service or "build" not in service:
                continue
            options = {it["option"]: it for it in roles[role]}
            for option in (it for it in words if it.startswith("--")):
                self.assertIn(option, options, name)
            every = {it["env"] for options in roles.values() for it in options} | {"PGPASSFILE"}
            self.assertLessEqual(set(service.get("environment", {})), every, name)

    def test_targets_exist_and_rights_are_those_of_the_chart(self):
        chart_text = (CHART / "templates/_worker.tpl").read_text()
        for name, service in self.services():
            if build := service.get("build"):
                self.assertIn(build["target"], images.stages())
            for capability in service.get("cap_add", []):
                self.assertIn(f"- {capability}\n", chart_text)
            self.assertFalse(service.get("privileged", False), name)


class Package(unittest.TestCase):
    def test_what_goes_into_it_exists(self):
        manifest = ROOT / "crates/cli/Cargo.toml"
        deb = tomllib.loads(manifest.read_text())["package"]["metadata"]["deb"]
        placed = set()
        for source, destination, mode in deb["assets"]:
            if "target/" in source:
                continue
            found = list(manifest.parent.glob(source))
            self.assertTrue(found, source)
            placed |= {f"/{destination}{it.name}" for it in found}
        self.assertLessEqual(set(deb["conf-files"]), placed)
        for unit in deb["systemd-units"]:
            self.assertTrue((manifest.parent / unit["unit-scripts"] / f"{unit['unit-name']}.service").exists())
            self.assertFalse(unit["enable"] or unit["start"])


class Systemd(unittest.TestCase):
    def units(self):
        return {it.name: it.read_text() for it in SYSTEMD.glob("*.service")}

    def test_units_run_the_program_as_it_can_be_run(self):
        roles = schema()["roles"]
        units = self.units()
        self.assertEqual(len(units), 3)
        for name, text in units.items():
            for line in re.findall(r"^Exec\w+=/usr/bin/aetherium (.*)", text, re.M):
                role = next(it for it in sorted(roles, key=len, reverse=True) if line.startswith(it))
                options = {it["option"] for it in roles[role]}
                self.assertLessEqual(set(re.findall(r"--[a-z-]+", line)), options, name)

    def test_variables_of_units_and_their_files_are_those_of_the_program(self):
        every = {it["env"] for options in schema()["roles"].values() for it in options} | set(schema()["environment"])
        every |= {"AETHERIUM_TEMPLATE", "AETHERIUM_PREPARE_OPTIONS"}
        texts = {**self.units(), **{it.name: it.read_text() for it in (SYSTEMD / "env").glob("*.env")}}
        for name, text in texts.items():
            for variable in re.findall(r"\b(AETHERIUM_[A-Z_]+)=", text):
                self.assertIn(variable, every, name)

    def test_units_may_do_what_the_charts_workers_may(self):
        chart_text = (CHART / "templates/_worker.tpl").read_text()
        allowed = set(re.findall(r"^\s+- ([A-Z_]+)$", chart_text, re.M))
        for name in ("aetherium.service", "aetherium-worker.service"):
            bounds = re.search(r"^CapabilityBoundingSet=(.*)", self.units()[name], re.M)[1]
            self.assertEqual({it.removeprefix("CAP_") for it in bounds.split()}, allowed)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not here")
    def test_systemd_takes_them(self):
        with tempfile.TemporaryDirectory() as place:
            paths = []
            for name, text in self.units().items():
                paths.append(f"{place}/{name}")
                with open(paths[-1], "w") as file:
                    file.write(text.replace("/usr/bin/aetherium", AETHERIUM))
            ran = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=60)
            self.assertEqual((ran.returncode, ran.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
