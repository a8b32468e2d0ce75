//! Compares a config with the cluster that it is for: `serin check --k8s`.
//!
//! Never changes anything there.

use std::io;

use http::Uri;
use tokio::runtime::Builder;

use crate::config::Config;
use crate::config::defect::Defect;
use crate::control::kube;

/// What is not in the cluster as the config says; with `server`, asks there and not where the
/// config says. The places are left for who has the file. An error is that of the system.
pub fn survey(config: &Config, server: Option<Uri>) -> io::Result<Vec<Defect>> {
    let mut config = config.clone();
    if server.is_some() {
        config.kubernetes.server = server;
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(kube::survey::survey(&config)))
}
