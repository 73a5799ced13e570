"""The chart as Helm renders it, and words to speak of what it renders.

Helm's own engine does it, in this process, without a cluster. Nothing here judges; the tests do.
"""

import base64
import functools
import json
import os
import pathlib
import subprocess

import helm_python as helm
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/aetherium"
AETHERIUM = os.environ.get("AETHERIUM_PROGRAM", str(ROOT / "target/debug/aetherium"))


def values(name):
    """The values of one of the chart's files."""
    return yaml.safe_load((CHART / name).read_text())


def merged(*layers):
    """Later values over earlier ones, as `helm -f a -f b` has it."""
    result = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


EXTERNAL = {
    "postgresql": {"bundled": False, "existingSecret": "their-database"},
    "redis": {"bundled": False, "existingSecret": "their-redis"},
}
EVERYTHING = {
    "log": {"level": "debug", "format": "text"},
    "otlpEndpoint": "http://collector:4318",
    "image": {"pullSecrets": ["registry"], "tag": "9.9.9", "worker": {"digest": "sha256:" + "0" * 64}},
    "gateway": {
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a": "b"}},
        "autoscaling": {"enabled": True},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
    },
    "worker": {
        "allowEmulation": True,
        "zone": "a",
        "labels": {"rack": "7"},
        "labelNode": True,
        "podAnnotations": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
        "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "4Gi"}},
    },
    "postgresql": {"storage": {"storageClassName": "fast"}, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    "redis": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    "networkPolicy": {
        "gatewayFrom": [{"namespaceSelector": {}}],
        "monitoringFrom": [{"namespaceSelector": {}}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"a": "b"}},
        "prometheusRule": {"enabled": True, "labels": {"a": "b"}},
        "dashboard": {"enabled": True},
    },
}
NOTHING = {
    "gateway": {"podDisruptionBudget": {"enabled": False}, "topologySpread": False},
    "worker": {
        "podDisruptionBudget": {"enabled": False},
        "devicePlugin": {"enabled": False},
        "jailer": False,
        "network": False,
        "template": {"archive": ""},
    },
    "keys": {"existingSecret": "their-keys"},
    "redis": {"enabled": False},
    "networkPolicy": {"enabled": False},
    **{"postgresql": EXTERNAL["postgresql"]},
}
DEPLOYMENT = {"worker": {"kind": "Deployment", "replicas": 3}}

# Each row is a release that somebody may want; every test that speaks of "any values" goes over them.
MATRIX = {
    "default": {},
    "local": values("values-local.yaml"),
    "production": values("values-production.yaml"),
    "deployment": DEPLOYMENT,
    "deployment on a claim": {
        "worker": {
            "kind": "Deployment",
            "storage": {"type": "persistentVolumeClaim", "existingClaim": "theirs"},
        }
    },
    "ephemeral disks": {
        "worker": {"storage": {"type": "ephemeral", "ephemeral": {"storageClassName": "fast"}}}
    },
    "privileged": {"worker": {"devices": {"mode": "privileged"}, "updateStrategy": "OnDelete"}},
    "no jailer": {"worker": {"jailer": False}},
    "zones": {"worker": {"zoneFromTopology": True}},
    "external stores": EXTERNAL,
    "everything on": EVERYTHING,
    "everything on, deployment": merged(EVERYTHING, DEPLOYMENT),
    "everything off": NOTHING,
}


def render(given=None, name="aetherium", chart=CHART, **more):
    """The objects of a release, in the namespace of the same name."""
    with helm.Chart.load(chart) as loaded:
        texts = loaded.render(given or {}, name=name, namespace=name, **more)
    documents = (yaml.safe_load_all(text) for path, text in sorted(texts.items()) if path.endswith(".yaml"))
    return [it for document in documents for it in document if it]


def notes(given=None, name="aetherium"):
    with helm.Chart.load(CHART) as loaded:
        texts = loaded.render(given or {}, name=name, namespace=name)
    return next(text for path, text in texts.items() if path.endswith("NOTES.txt"))


def find(objects, kind, name):
    [found] = [it for it in objects if it["kind"] == kind and it["metadata"]["name"] == name]
    return found


def of_kind(objects, kind):
    return [it for it in objects if it["kind"] == kind]


def pod_of(it):
    """The pod's spec of an object that has pods."""
    if it["kind"] == "Pod":
        return it["spec"]
    return it.get("spec", {}).get("template", {}).get("spec")


def pods(objects):
    """Each object with pods, with the spec of these."""
    return [(it, pod_of(it)) for it in objects if pod_of(it)]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def own(container):
    """Whether it runs this project's program."""
    return "aetherium-gateway" in container["image"] or "aetherium-worker" in container["image"]


def secret_data(it):
    return {key: base64.b64decode(value).decode() for key, value in it.get("data", {}).items()}


@functools.cache
def schema():
    """What the program says can be configured."""
    ran = subprocess.run([AETHERIUM, "config", "schema"], capture_output=True, check=True, timeout=60)
    return json.loads(ran.stdout)


def role_of(words):
    """The role that a command line runs, and its options."""
    for role in sorted(schema()["roles"], key=len, reverse=True):
        if words[: len(role.split())] == role.split():
            return role, words[len(role.split()) :]
    raise AssertionError(f"{words} runs no role that the schema has")
