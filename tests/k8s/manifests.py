"""Reads manifests, as they are written and as kustomize renders them."""

import pathlib
import re
import subprocess
import sys

import yaml

PROJECT = pathlib.Path(__file__).resolve().parents[2]
K8S = PROJECT / "k8s"


def load(text):
    return [document for document in yaml.safe_load_all(text) if document]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def pods(documents):
    """Each pod template with the name of what makes it."""
    for document in documents:
        template = document.get("spec", {}).get("template")
        if template and document["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield name_of(document), template


def containers(spec):
    return spec.get("initContainers", []) + spec.get("containers", [])


def is_serin(container):
    image = container.get("image", "").rsplit("/", 1)[-1]
    return re.match(r"(.*/)?serin(:|@)", image) is not None


def configs(documents):
    """Serin's config in each ConfigMap that holds one."""
    for document in documents:
        if document["kind"] == "ConfigMap" and "serin.yaml" in document.get("data", {}):
            yield document


def kustomize(folder):
    done = subprocess.run(
        ["kubectl", "kustomize", K8S / folder], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"k8s/{folder}: {done.stderr}")
    return load(done.stdout)
