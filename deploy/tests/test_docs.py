"""docs/kubernetes.md says only what the chart and the programs can do."""

import re
import shlex
import subprocess
import unittest

import test_chart
from chart import AETHERIUM, CHART, ROOT, render, values

PAGE = (ROOT / "docs/kubernetes.md").read_text()
KINDS = {"daemonset": "DaemonSet", "deployment": "Deployment", "statefulset": "StatefulSet", "job": "Job",
         "secret": "Secret", "networkpolicy": "NetworkPolicy", "service": "Service"}


def commands():
    """Every command of the page: of its blocks, and of its entries on troubles."""
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S):
        yield from (line for line in block.splitlines() if line)
    yield from re.findall(r"^- Command: `(.*)`$", PAGE, re.M)


class Page(unittest.TestCase):
    def test_objects_that_commands_name_are_the_charts(self):
        objects = {(it["kind"], it["metadata"]["name"]) for it in render()}
        theirs = {("Secret", "aetherium-database"), ("Secret", "aetherium-redis")}
        named = 0
        for command in commands():
            for kind, name in re.findall(r"\b(\w+)[/ ](aetherium-[a-z-]+)", command):
                if kind in KINDS:
                    named += 1
                    self.assertIn((KINDS[kind], name), objects | theirs, command)
        self.assertGreater(named, 10)

    def test_labels_and_containers_that_commands_name_are_the_charts(self):
        text = str(render())
        for command in commands():
            for label in re.findall(r"-l ([\w./-]+=[\w-]+)", command):
                key, _, value = label.partition("=")
                self.assertIn(f"'{key}': '{value}'", text)
            for container in re.findall(r"-c ([a-z]\S+)", command):
                self.assertIn(f"'name': '{container}'", text)

    def test_files_exist(self):
        for path in re.findall(r"\bdeploy/[\w./-]*\w", PAGE):
            self.assertTrue((ROOT / path).exists(), path)

    def test_values_exist(self):
        roots = "|".join(values("values.yaml"))
        named = set(re.findall(rf"(?<![@\w.])((?:{roots})\.[A-Za-z.]*[A-Za-z])\b", PAGE)) - {"worker.yaml"}
        self.assertGreater(len(named), 12)
        for path in named:
            at = values("values.yaml")
            for key in path.split("."):
                self.assertIn(key, at, path)
                at = at[key]

    def test_verbs_and_options_of_the_program_exist(self):
        asked = [it for it in commands() if it.startswith("aetherium ")]
        asked += re.findall(r"`(aetherium (?:host|template|vm|ws) [a-z ]+)`", PAGE)
        self.assertGreater(len(asked), 4)
        for command in asked:
            words = shlex.split(command)[1:]
            ran = subprocess.run([AETHERIUM, *words, "--help"], capture_output=True, text=True, timeout=60)
            self.assertEqual(ran.returncode, 0, f"{command}: {ran.stderr}")

    def test_each_trouble_has_its_symptom_cause_command_and_fix(self):
        troubles = PAGE.split("## Troubleshoot\n")[1].split("\n## ")[0].split("\n### ")[1:]
        self.assertGreaterEqual(len(troubles), 8)
        for trouble in troubles:
            found = re.findall(r"^- (\w+): ", trouble, re.M)
            self.assertEqual(found, ["Symptom", "Cause", "Command", "Fix"], trouble.splitlines()[0])

    def test_versions_are_those_that_the_tests_take(self):
        for version in test_chart.KUBERNETES:
            self.assertIn(version, PAGE)
        self.assertIn('kubeVersion: ">=1.30.0-0"', (CHART / "Chart.yaml").read_text())


if __name__ == "__main__":
    unittest.main()
