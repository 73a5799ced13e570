"""What an upgrade finds of the release before: Helm's `lookup` asks a stand-in for Kubernetes' API."""

import base64
import http.server
import json
import threading
import unittest

import helm_python as helm
import yaml

import chart
from chart import CHART, find, of_kind, render, secret_data

SECRETS = "/api/v1/namespaces/aetherium/secrets/"
DISCOVERY = {
    "/version": {"major": "1", "minor": "37", "gitVersion": "v1.37.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get"]}],
    },
}


class Cluster:
    """Answers what a chart may ask of a cluster: its version, and the secrets that it has."""

    def __init__(self):
        self.secrets = {}
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                found = DISCOVERY.get(path) or cluster.secrets.get(path.removeprefix(SECRETS))
                missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                body = json.dumps(found or missing).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def release(self, given=None, **how):
        """Renders as an installation would, and keeps the secrets as the cluster would."""
        address = f"http://127.0.0.1:{self.server.server_port}"
        with helm.Config(kube_apiserver=address, namespace="aetherium", storage_driver="memory") as config:
            with helm.Chart.load(CHART) as loaded:
                texts = config.render(loaded, given or {}, name="aetherium", namespace="aetherium", **how)
        documents = (yaml.safe_load_all(text) for path, text in texts.items() if path.endswith(".yaml"))
        objects = [it for document in documents for it in document if it]
        self.secrets.update({it["metadata"]["name"]: it for it in of_kind(objects, "Secret")})
        return objects

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Upgrade(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster()
        self.addCleanup(self.cluster.close)

    def test_generated_secrets_are_kept(self):
        first = of_kind(self.cluster.release(is_install=True), "Secret")
        self.assertEqual(len(first), 3)
        again = of_kind(self.cluster.release(is_upgrade=True, revision=2), "Secret")
        self.assertEqual(again, first)
        # Without a cluster that has them, each is a new one: what was equal is not a constant.
        self.assertNotEqual(of_kind(render(), "Secret"), first)

    def test_a_key_that_somebody_changed_is_kept_too(self):
        self.cluster.release(is_install=True)
        changed = base64.b64encode(b"first-key-of-two-00\nsecond-key-of-two-0\n").decode()
        self.cluster.secrets["aetherium-keys"]["data"]["api-keys"] = changed
        again = self.cluster.release(is_upgrade=True, revision=2)
        self.assertEqual(find(again, "Secret", "aetherium-keys")["data"]["api-keys"], changed)

    def test_secrets_outlive_the_release_as_the_databases_disk_does(self):
        for it in of_kind(render(), "Secret"):
            self.assertEqual(it["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")

    def test_an_address_has_the_password_of_its_server(self):
        objects = render()
        for name, scheme in [("postgresql", "postgres://aetherium:"), ("redis", "redis://:")]:
            secret = secret_data(find(objects, "Secret", f"aetherium-{name}"))
            self.assertTrue(secret["url"].startswith(f"{scheme}{secret['password']}@aetherium-{name}:"))
            find(objects, "Service", f"aetherium-{name}")

    def test_a_new_version_changes_no_name_and_no_selector(self):
        def fixed(objects):
            kinds = ("Deployment", "DaemonSet", "StatefulSet", "Service", "Secret")
            return {
                (it["kind"], it["metadata"]["name"]): it.get("spec", {}).get("selector")
                for it in objects if it["kind"] in kinds
            }
        self.assertEqual(
            fixed(self.cluster.release(is_install=True)),
            fixed(self.cluster.release({"image": {"tag": "2.0.0"}}, is_upgrade=True, revision=2)),
        )


if __name__ == "__main__":
    unittest.main()
