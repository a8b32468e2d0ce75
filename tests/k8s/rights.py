"""What a fleet's service account may with a real API server, and what it may not."""

NAMESPACE = "models"

# In the tables below, for the name of the ConfigMap and the Lease that a fleet agrees by.
AGREED = "(agreed)"

# Asked as a service account of replicas: what it may, and what it may not.
MAY = [
    ("list", "discovery.k8s.io", "endpointslices", NAMESPACE, None),
    ("watch", "discovery.k8s.io", "endpointslices", NAMESPACE, None),
    ("get", "", "services", NAMESPACE, "sentiment-v1"),
    ("update", "", "configmaps", NAMESPACE, AGREED),
    ("watch", "", "configmaps", NAMESPACE, AGREED),
    ("update", "coordination.k8s.io", "leases", NAMESPACE, AGREED),
    ("create", "coordination.k8s.io", "leases", NAMESPACE, None),
    ("create", "events.k8s.io", "events", NAMESPACE, None),
]
MAY_NOT = [
    ("list", "discovery.k8s.io", "endpointslices", None, None),
    ("list", "discovery.k8s.io", "endpointslices", "default", None),
    ("list", "", "configmaps", NAMESPACE, None),
    ("update", "", "configmaps", NAMESPACE, "another"),
    ("delete", "", "configmaps", NAMESPACE, AGREED),
    ("create", "", "configmaps", NAMESPACE, None),
    ("update", "coordination.k8s.io", "leases", NAMESPACE, "another"),
    ("delete", "coordination.k8s.io", "leases", NAMESPACE, AGREED),
    ("get", "", "secrets", NAMESPACE, None),
    ("list", "", "pods", NAMESPACE, None),
    ("get", "apps", "deployments", NAMESPACE, "serin"),
    ("create", "rbac.authorization.k8s.io", "rolebindings", NAMESPACE, None),
]


def count_rights(cluster, token, agreed):
    """Asks as that account. `agreed` is what its fleet's ConfigMap and Lease are called."""
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for wanted, table in ((True, MAY), (False, MAY_NOT)):
        for verb, group, resource, namespace, name in table:
            asked = {"verb": verb, "group": group, "resource": resource}
            name = agreed if name == AGREED else name
            asked |= {"namespace": namespace} if namespace else {}
            asked |= {"name": name} if name else {}
            review = {
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": asked},
            }
            allowed = cluster.call("POST", path, review, token)["status"]["allowed"]
            what = f"{verb} {group}/{resource} {name or ''} in {namespace}"
            assert allowed is wanted, f"{what}: allowed is {allowed}"
    return f"{len(MAY)} that it has, {len(MAY_NOT)} that it has not"
