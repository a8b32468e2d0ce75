//! The proxies that are compared: where they are, and how they are told what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A proxy that is installed.
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) version: String,
    config: PathBuf,
}

/// What a config is filled in with.
pub(super) struct Ports {
    pub(super) listen: u16,
    pub(super) admin: u16,
    pub(super) stable: u16,
    pub(super) canary: u16,
}

impl Peer {
    /// `None` when it is not installed. Fails for a name that is no peer.
    pub(super) fn find(name: &str, serin: &Path, configs: &Path) -> anyhow::Result<Option<Self>> {
        let (program, config, version) = match name {
            "serin" => (serin.is_file().then(|| serin.to_owned()), "serin.yaml", "--version"),
            "haproxy" => (find_program(name), "haproxy.cfg", "-v"),
            "nginx" => (find_program(name), "nginx.conf", "-v"),
            _ => bail!("{name} is not a peer: use serin, haproxy or nginx"),
        };
        let Some(program) = program else { return Ok(None) };
        let version = first_line(&program, version).context(name.to_owned())?;
        Ok(Some(Self { name: name.to_owned(), program, version, config: configs.join(config) }))
    }

    /// Writes the peer's config into `folder` and returns its arguments.
    pub(super) fn prepare(&self, ports: &Ports, folder: &Path) -> anyhow::Result<Vec<String>> {
        let template = std::fs::read_to_string(&self.config)
            .with_context(|| self.config.display().to_string())?;
        let file = folder.join(&self.name);
        std::fs::write(&file, fill_in(&template, ports, folder))?;
        let file = file.to_string_lossy().into_owned();
        let folder = folder.to_string_lossy().into_owned();
        Ok(match self.name.as_str() {
            "haproxy" => vec!["-db".into(), "-f".into(), file],
            "nginx" => vec!["-p".into(), folder, "-c".into(), file],
            _ => vec!["run".into(), "-c".into(), file],
        })
    }
}

fn fill_in(template: &str, ports: &Ports, folder: &Path) -> String {
    template
        .replace("@PORT@", &ports.listen.to_string())
        .replace("@ADMIN_PORT@", &ports.admin.to_string())
        .replace("@STABLE_PORT@", &ports.stable.to_string())
        .replace("@CANARY_PORT@", &ports.canary.to_string())
        .replace("@DIR@", &folder.to_string_lossy())
}

/// Debian keeps servers in `sbin`, which is not on every user's path.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn first_line(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).output()?;
    // nginx tells its version on stderr.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_filled_in_completely() {
        let ports = Ports { listen: 1, admin: 2, stable: 3, canary: 4 };
        for name in ["serin.yaml", "haproxy.cfg", "nginx.conf"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
            let template = std::fs::read_to_string(file).unwrap();
            let filled = fill_in(&template, &ports, Path::new("/folder"));
            let settings = filled.lines().filter(|line| !line.trim_start().starts_with('#'));
            assert!(settings.into_iter().all(|line| !line.contains('@')), "{filled}");
            assert!(filled.contains("127.0.0.1:3") && filled.contains("127.0.0.1:4"), "{name}");
        }
    }
}
