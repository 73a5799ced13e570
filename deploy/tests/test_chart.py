"""What the chart promises, whatever its values are."""

import json
import re
import unittest

import helm_python as helm
import kubernetes_validate

import chart
from chart import CHART, MATRIX, ROOT, containers, find, of_kind, own, pods, render

# The oldest that Chart.yaml admits, and the newest.
KUBERNETES = ["1.30", "1.37"]
# Kinds of the Prometheus operator, whose schemas Kubernetes does not have.
OPERATORS = {"ServiceMonitor", "PrometheusRule"}
# Variables that are for the chart itself, or for everything of its kind.
NOT_OURS = {"POD_IP", "NODE_NAME", "RUST_BACKTRACE"}
RELEASES = {name: render(given) for name, given in MATRIX.items()}


class Rendered(unittest.TestCase):
    """Tests that go over all releases, and say which it was where one fails."""

    release = None

    def each(self):
        for self.release, objects in RELEASES.items():
            yield objects

    def _formatMessage(self, msg, standardMsg):
        said = super()._formatMessage(msg, standardMsg)
        return f"{said} (with the values of {self.release!r})" if self.release else said


class Chart(Rendered):
    def test_lint_finds_nothing(self):
        for name, given in MATRIX.items():
            with self.subTest(values=name):
                report = helm.lint(str(CHART), given, strict=True, kube_version="v1.30.0")
                # Severity 1 recommends an icon.
                worse = [it for it in report["messages"] if it["severity"] > 1]
                self.assertEqual((worse, report["errors"]), ([], []))

    def test_every_object_is_one_that_kubernetes_knows(self):
        for objects in self.each():
            for it in objects:
                if it["kind"] in OPERATORS:
                    self.assertEqual(it["apiVersion"], "monitoring.coreos.com/v1")
                    continue
                for version in KUBERNETES:
                    with self.subTest(object=f"{it['kind']}/{it['metadata']['name']}", version=version):
                        kubernetes_validate.validate(it, version, strict=True)

    def test_no_two_objects_have_one_name(self):
        for objects in self.each():
            names = [(it["kind"], it["metadata"]["name"]) for it in objects]
            self.assertEqual(len(names), len(set(names)))

    def test_a_key_that_is_unknown_is_refused_wherever_it_is(self):
        free = {"annotations", "podAnnotations", "nodeSelector", "affinity", "labels", "requests", "limits"}

        def places(value, path=()):
            yield path
            for key, inner in value.items():
                if isinstance(inner, dict) and key not in free:
                    yield from places(inner, (*path, key))

        for path in places(chart.values("values.yaml")):
            given = {"mistyped": 1}
            for key in reversed(path):
                given = {key: given}
            with self.subTest(path=path), self.assertRaisesRegex(helm.HelmError, "mistyped"):
                render(given)

    def test_a_value_of_the_wrong_kind_is_refused(self):
        for given in [
            {"worker": {"kind": "StatefulSet"}},
            {"gateway": {"replicas": "two"}},
            {"worker": {"storage": {"hostPath": "relative"}}},
            {"log": {"format": "xml"}},
        ]:
            with self.subTest(given=given), self.assertRaises(helm.HelmError):
                render(given)

    def test_values_that_cannot_work_together_are_refused_with_what_to_do(self):
        for given, advice in [
            ({"worker": {"storage": {"type": "persistentVolumeClaim", "existingClaim": "x"}}}, "worker.kind=Deployment"),
            ({"postgresql": {"bundled": False}}, "postgresql.existingSecret"),
            ({"redis": {"bundled": False}}, "redis.existingSecret"),
        ]:
            with self.subTest(given=given), self.assertRaisesRegex(helm.HelmError, advice):
                render(given)


class Pods(Rendered):
    def test_every_variable_and_option_is_one_that_the_program_has(self):
        roles = chart.schema()["roles"]
        everywhere = set(chart.schema()["environment"]) | NOT_OURS
        for objects in self.each():
            for it, spec in pods(objects):
                for container in filter(own, containers(spec)):
                    names = {entry["name"] for entry in container.get("env", [])}
                    if container.get("command"):
                        # Scripts, whose commands are a client's.
                        self.assertLessEqual(names, {"AETHERIUM_URL", "AETHERIUM_DATA_DIR", "NODE_NAME"})
                        continue
                    role, options = chart.role_of(container["args"])
                    known = {option["option"]: option for option in roles[role]}
                    variables = {option["env"] for option in roles[role]}
                    self.assertLessEqual(names, variables | everywhere, container["name"])
                    while options:
                        option = options.pop(0)
                        self.assertIn(option, known, container["name"])
                        if known[option]["type"] != "flag":
                            options.pop(0)

    def test_every_variable_refers_to_one_before_it(self):
        for objects in self.each():
            for _, spec in pods(objects):
                for container in containers(spec):
                    before = set()
                    for entry in container.get("env", []):
                        for name in re.findall(r"\$\((\w+)\)", entry.get("value", "")):
                            self.assertIn(name, before)
                        before.add(entry["name"])

    def test_probes_ask_what_a_server_answers(self):
        for objects in self.each():
            for kind, name, port in [("Deployment", "gateway", 7072), (None, "worker", 7073)]:
                [spec] = [s for it, s in pods(objects) if it["metadata"]["name"] == f"aetherium-{name}" and it["kind"] != "Job"]
                [container] = spec["containers"]
                ports = {p["name"]: p["containerPort"] for p in container["ports"]}
                env = {e["name"]: e.get("value") for e in container["env"]}
                self.assertEqual(env["AETHERIUM_OPERATIONS_LISTEN"], f"0.0.0.0:{port}")
                for probe, path in [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")]:
                    asked = container[probe]["httpGet"]
                    self.assertEqual((ports[asked["port"]], asked["path"]), (port, path))
                self.assertGreater(container["readinessProbe"]["timeoutSeconds"], 2)

    def test_files_that_options_name_are_in_what_is_mounted(self):
        named = {"AETHERIUM_FLEET_KEY_FILE", "AETHERIUM_API_KEYS_FILE", "AETHERIUM_SECRETS_KEYS_FILE", "AETHERIUM_DATA_DIR"}
        for objects in self.each():
            for _, spec in pods(objects):
                volumes = {volume["name"] for volume in spec.get("volumes", [])}
                volumes |= {"data"} if "PGDATA" in json.dumps(spec) else set()
                for container in containers(spec):
                    mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
                    self.assertLessEqual({m["name"] for m in container.get("volumeMounts", [])}, volumes)
                    for entry in container.get("env", []):
                        if entry["name"] in named:
                            inside = [m for m in mounts if entry["value"].startswith(m)]
                            self.assertTrue(inside, f"{container['name']}: {entry} is in no mount")
                    self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                    if own(container) and "worker" in container["args"][:1]:
                        # Names of network namespaces, claims on slots, and what tools write.
                        self.assertLessEqual({"/run", "/tmp"}, set(mounts))

    def test_secrets_that_are_named_exist_with_their_keys(self):
        keys = {"api-keys", "fleet-key", "secrets-keys"}
        theirs = {"their-database": {"url"}, "their-redis": {"url"}, "their-keys": keys,
                  "aetherium-database": {"url"}, "aetherium-redis": {"url"}, "aetherium-keys": keys}
        for objects in self.each():
            made = {s["metadata"]["name"]: set(s["data"]) for s in of_kind(objects, "Secret")}
            there = {**theirs, **made}
            for _, spec in pods(objects):
                for volume in spec.get("volumes", []):
                    if secret := volume.get("secret"):
                        for item in secret.get("items", []):
                            self.assertIn(item["key"], there[secret["secretName"]])
                        self.assertIn(secret["secretName"], there)
                for container in containers(spec):
                    for entry in container.get("env", []):
                        if ref := entry.get("valueFrom", {}).get("secretKeyRef"):
                            self.assertIn(ref["key"], there[ref["name"]])

    def test_no_secret_is_in_an_argument_or_a_plain_value(self):
        for objects in self.each():
            secrets = [v for s in of_kind(objects, "Secret") for v in chart.secret_data(s).values()]
            text = json.dumps([it for it in objects if it["kind"] != "Secret"])
            for secret in secrets:
                self.assertNotIn(secret, text)

    def test_workers_never_see_the_api_keys(self):
        for objects in self.each():
            for it, spec in pods(objects):
                if it["metadata"]["name"].endswith("-worker"):
                    [keys] = [v["secret"] for v in spec["volumes"] if v["name"] == "keys"]
                    self.assertEqual({item["key"] for item in keys["items"]}, {"fleet-key", "secrets-keys"})

    def test_only_the_container_that_labels_its_node_has_an_account(self):
        for name, objects in RELEASES.items():
            having = {
                container["name"]
                for _, spec in pods(objects)
                for container in containers(spec)
                if any(mount["name"] == "account" for mount in container.get("volumeMounts", []))
            }
            labels = name.startswith("everything on")
            self.assertEqual(having, {"label-node"} if labels else set(), name)
            self.assertEqual([it["rules"][0]["verbs"] for it in of_kind(objects, "ClusterRole")], [["patch"]] if labels else [])

    def test_only_a_chosen_worker_is_privileged_and_nobody_else_has_rights(self):
        for name, objects in RELEASES.items():
            for it, spec in pods(objects):
                for container in containers(spec):
                    with self.subTest(values=name, container=container["name"]):
                        security = container["securityContext"]
                        workers = ("worker", "prepare-rootfs", "label-node")
                        chosen = name == "privileged" and container["name"] in workers
                        self.assertEqual(security.get("privileged", False), chosen)
                        if chosen:
                            continue
                        self.assertFalse(security["allowPrivilegeEscalation"])
                        self.assertEqual(security["capabilities"]["drop"], ["ALL"])
                        if container["name"] not in workers:
                            self.assertNotIn("add", security["capabilities"])
                self.assertFalse(spec["automountServiceAccountToken"])
                for host in ("hostNetwork", "hostPID", "hostIPC"):
                    self.assertNotIn(host, spec)

    def test_a_worker_gives_up_the_rights_of_what_it_does_without(self):
        def added(given):
            worker = find(render(given), "DaemonSet", "aetherium-worker")["spec"]["template"]["spec"]
            return worker["containers"][0]["securityContext"]
        full = set(added({})["capabilities"]["add"])
        for without, gone in [("jailer", {"SYS_CHROOT", "MKNOD", "SETUID", "SETGID"}), ("network", {"NET_ADMIN"})]:
            self.assertEqual(full - set(added({"worker": {without: False}})["capabilities"]["add"]), gone)
        least = added({"worker": {"jailer": False, "network": False}})
        self.assertNotIn("SYS_ADMIN", least["capabilities"]["add"])
        self.assertEqual(least["seccompProfile"], {"type": "RuntimeDefault"})

    def test_each_capability_says_what_it_is_for(self):
        lines = (CHART / "templates/_worker.tpl").read_text().splitlines()
        documented = (ROOT / "docs/kubernetes.md").read_text()
        for at, line in enumerate(lines):
            if added := re.fullmatch(r"\s+- ([A-Z_]+)", line):
                above = next(it.strip() for it in reversed(lines[:at]) if not re.fullmatch(r"\s+- [A-Z_]+", it))
                self.assertTrue(above.startswith("#"), line)
                self.assertIn(f"`{added[1]}`", documented)

    def test_the_end_of_a_pod_waits_for_longer_than_its_drain(self):
        for name, objects in RELEASES.items():
            for it, spec in pods(objects):
                if it["metadata"]["name"].endswith("-worker"):
                    words = spec["containers"][0]["args"]
                    grace = int(words[words.index("--grace") + 1].removesuffix("s"))
                    self.assertGreaterEqual(spec["terminationGracePeriodSeconds"], grace + 60, name)

    def test_a_first_install_with_a_database_of_its_own_waits_for_it(self):
        for objects in self.each():
            bundled = any(it["metadata"]["name"] == "aetherium-postgresql" for it in of_kind(objects, "StatefulSet"))
            hook = find(objects, "Job", "aetherium-migrate")["metadata"]["annotations"]["helm.sh/hook"]
            self.assertEqual(hook, "post-install,pre-upgrade" if bundled else "pre-install,pre-upgrade")
            for it, spec in pods(objects):
                if it["metadata"]["name"] in ("aetherium-gateway", "aetherium-worker"):
                    first = spec.get("initContainers", [{}])[0].get("name")
                    self.assertEqual(first == "wait-for-database", bundled)

    def test_devices_come_by_a_plugins_resource_unless_chosen_otherwise(self):
        for name, objects in RELEASES.items():
            [worker] = [s for it, s in pods(objects) if it["metadata"]["name"].endswith("-worker")]
            asked = [c["resources"].get("limits", {}).get("aetherium.dev/kvm") for c in worker["containers"]]
            self.assertEqual(asked == ["1"], name not in ("local", "privileged"), name)


class Names(Rendered):
    def test_services_disruption_budgets_and_policies_select_pods_that_exist(self):
        for objects in self.each():
            labels = [it["spec"]["template"]["metadata"]["labels"] for it in objects if "template" in it.get("spec", {})]
            labels += [it["metadata"]["labels"] for it in of_kind(objects, "Pod")]

            def selects(selector):
                return any(selector.items() <= own.items() for own in labels)

            for it in of_kind(objects, "Service"):
                self.assertTrue(selects(it["spec"]["selector"]), it["metadata"]["name"])
            for it in of_kind(objects, "PodDisruptionBudget"):
                self.assertTrue(selects(it["spec"]["selector"]["matchLabels"]), it["metadata"]["name"])
            for it in of_kind(objects, "NetworkPolicy"):
                self.assertTrue(selects(it["spec"]["podSelector"]["matchLabels"]), it["metadata"]["name"])

    def test_policies_open_the_ports_that_containers_have(self):
        ports = {}
        for it, spec in pods(RELEASES["default"]):
            component = it["metadata"]["labels"]["app.kubernetes.io/component"]
            ports[component] = {p["containerPort"] for c in containers(spec) for p in c.get("ports", [])}
        for it in of_kind(RELEASES["default"], "NetworkPolicy"):
            to = it["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            opened = {p["port"] for rule in it["spec"].get("ingress", []) for p in rule["ports"]}
            self.assertEqual(opened, ports[to])

    def test_selectors_are_what_they_were_in_the_first_release(self):
        # A selector cannot be changed: an upgrade would be refused. Nor may what names claims.
        for name, release in [("aetherium", "aetherium"), ("prod", "prod-aetherium")]:
            for objects in (render({}, name=name), render(chart.merged(EVERYTHING_ONCE, {}), name=name)):
                for it in objects:
                    if it["kind"] in ("Deployment", "DaemonSet", "StatefulSet"):
                        component = it["metadata"]["name"].removeprefix(f"{release}-")
                        self.assertEqual(
                            it["spec"]["selector"],
                            {"matchLabels": {
                                "app.kubernetes.io/name": "aetherium",
                                "app.kubernetes.io/instance": name,
                                "app.kubernetes.io/component": component,
                            }},
                        )
                    if it["kind"] == "StatefulSet":
                        claims = [c["metadata"]["name"] for c in it["spec"].get("volumeClaimTemplates", [])]
                        self.assertEqual(claims, ["data"] if component == "postgresql" else [])

    def test_notes_name_what_exists(self):
        objects = RELEASES["default"]
        text = chart.notes()
        for kind, name in re.findall(r"\b(service|secret|daemonset)[/ ](aetherium-[a-z-]+)", text):
            find(objects, {"service": "Service", "secret": "Secret", "daemonset": "DaemonSet"}[kind], name)
        self.assertIn("deployment/aetherium-worker", chart.notes(chart.DEPLOYMENT))


EVERYTHING_ONCE = chart.merged(chart.EVERYTHING, {"image": {"tag": "2.0.0"}})


class Monitoring(unittest.TestCase):
    def metrics(self):
        """Names that docs/operations.md has, with what a histogram makes of them."""
        page = (ROOT / "docs/operations.md").read_text()
        rows = re.findall(r"^\| `(aetherium_\w+)` \| (\w+)", page, re.M)
        self.assertTrue(rows)
        endings = {"histogram": ["_bucket", "_sum", "_count"]}
        return {name + ending for name, kind in rows for ending in endings.get(kind, [""])}

    def test_alerts_and_dashboard_ask_for_metrics_that_exist(self):
        known = self.metrics()
        rules = find(RELEASES["production"], "PrometheusRule", "aetherium")
        dashboard = find(RELEASES["production"], "ConfigMap", "aetherium-dashboard")
        asked = re.findall(r"\baetherium_\w+", json.dumps(rules["spec"]) + dashboard["data"]["aetherium.json"])
        self.assertGreater(len(set(asked)), 15)
        self.assertLessEqual(set(asked), known)

    def test_each_alert_says_what_to_do(self):
        rules = find(RELEASES["production"], "PrometheusRule", "aetherium")
        for rule in rules["spec"]["groups"][0]["rules"]:
            self.assertIn("NAMESPACE", (CHART / "alerts.yaml").read_text())
            self.assertIn('namespace="aetherium"', rule["expr"])
            self.assertLessEqual({"summary", "description"}, set(rule["annotations"]))
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))

    def test_the_monitor_selects_services_with_the_port_it_reads(self):
        objects = RELEASES["production"]
        monitor = find(objects, "ServiceMonitor", "aetherium")["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        chosen = [it for it in of_kind(objects, "Service") if wanted <= it["metadata"]["labels"].items()]
        self.assertEqual(len(chosen), 2)
        for it in chosen:
            self.assertIn(monitor["endpoints"][0]["port"], [p["name"] for p in it["spec"]["ports"]])

    def test_the_dashboard_is_one(self):
        dashboard = json.loads((CHART / "dashboards/aetherium.json").read_text())
        self.assertTrue(all(it["targets"] for it in dashboard["panels"] if it["type"] != "row"))
        ids = [it["id"] for it in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))


if __name__ == "__main__":
    unittest.main()
