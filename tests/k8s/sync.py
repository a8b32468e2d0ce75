"""Makes the copies that Kubernetes' tools cannot do without: the PrometheusRule of the alerts,
and the chart's own alerts and dashboards, for neither kustomize nor Helm looks outside of its
folder. `sync.py` writes them, `sync.py --check` fails if one is not as it would be written.
"""

import pathlib
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[2]
MONITORING = PROJECT / "k8s/monitoring"
CHART = PROJECT / "k8s/helm/serin"

HEAD = """\
# Made from rules/serin.yaml by `just k8s-sync`; change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: serin
spec:
"""


def copies():
    """Each path and the text that belongs there."""
    rules = (MONITORING / "rules/serin.yaml").read_text()
    groups = rules[rules.index("groups:") :]
    indented = "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(True))
    yield MONITORING / "prometheusrule.yaml", HEAD + indented
    if CHART.exists():
        yield CHART / "files/alerts.yaml", rules
        for board in sorted((MONITORING / "dashboards").glob("*.json")):
            yield CHART / "files" / board.name, board.read_text()


def main():
    stale = [
        path
        for path, text in copies()
        if not path.exists() or path.read_text() != text
    ]
    for path in stale:
        print(f"{path.relative_to(PROJECT)} is not as `just k8s-sync` would write it")
    if "--check" in sys.argv:
        return bool(stale)
    for path, text in copies():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
