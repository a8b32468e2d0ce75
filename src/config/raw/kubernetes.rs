//! What the file says of Kubernetes: where its API is, and which replicas decide as one.
//!
//! Never says whether it makes sense, as in the rest of the file as written.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::config::quantity::{
    Count, FilePath, Flag, KubernetesName, ServerUrl, ServicePort, Text,
};
use crate::config::read::{As, At, Keys, ObjectSchema, Read, maps};
use crate::config::tree::{Node, Report};

maps! {
    /// Where the Kubernetes API is, and how to ask it.
    Kubernetes later [] {
        /// `https://host:port`. Default: what a pod is told, with its service account.
        may server: As<ServerUrl>,
        /// A file with the token that every call carries; read for each call.
        may token_file: As<FilePath>,
        /// A PEM file of the authorities that vouch for the API.
        may ca: As<FilePath>,
        /// Endpoints that are hinted for this zone are preferred. Default: hints are ignored.
        may zone: As<Text>,
        /// Tell changes of rollouts, and a config that is refused, as events. Default: with
        /// `fleet`.
        may events: As<Flag>,
    }

    /// Replicas that decide as one: what one takes out is out everywhere.
    Fleet later [] {
        /// The ConfigMap that holds what they agreed on is called `serin-` and this.
        must name: As<KubernetesName>,
        /// Where that is. Default: the namespace of the pod.
        may namespace: As<KubernetesName>,
        /// There are never more of them, 1 to 1000: each is allowed so much less of
        /// `false_rollback`.
        may max_replicas: As<Count<1, 1000>> = 10,
        /// `namespace/name:port` of a headless service with the metrics port of every replica.
        /// One of them judges the counts of all, and promotes. Default: each judges its own, and
        /// there are no steps.
        may replicas: As<ServicePort>,
    }
}
