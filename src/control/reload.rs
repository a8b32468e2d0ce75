//! Notices that the config file, or a certificate that it names, has changed, by reading
//! them every second.
//!
//! Never watches with inotify: a node has few instances to give, and the `..data` swap of
//! a mounted ConfigMap shows no write on the file itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::config::load::Source;
use crate::control::Command;
use crate::tls::files::{Content, hash as hash_of};

/// How often the file is read.
pub const POLL: Duration = Duration::from_secs(1);

/// A file that cannot be read is told after so many looks: while a ConfigMap is swapped,
/// its name may lead nowhere for a moment.
const MISSED_LOOKS_MAX: u32 = 2;

/// Files that could not be used are read again after so many looks, also when they are as they
/// were: a certificate may not have been valid yet, or half of it have been there.
const LOOKS_AGAIN: u32 = 5;

/// Warns if the config file is mounted by itself, as with `subPath`: a kubelet never changes
/// such a file, and a new one beside it is not seen.
pub fn warn_of_sub_path(path: &Path) {
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return };
    let Ok(file) = path.canonicalize() else { return };
    if is_mounted(&file, &mounts) {
        tracing::warn!(
            event = "config_never_changes",
            file = %path.display(),
            "the config file is mounted by itself (`subPath`): changes of its ConfigMap never \
             arrive; mount the folder instead"
        );
    }
}

/// Whether something is mounted at `path`, by the fifth field of each line of `mountinfo`.
fn is_mounted(path: &Path, mounts: &str) -> bool {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.map(|place| place.replace("\\040", " ")).any(|place| Path::new(&place) == path)
}

/// Asks for a reload whenever the file's content, or that of one of `files`, is not what it
/// was at the last look, until nobody listens. `hash` is that of the content in force.
pub async fn watch(
    path: PathBuf,
    hash: String,
    files: watch::Receiver<Vec<PathBuf>>,
    commands: mpsc::Sender<Command>,
) {
    let mut seen = (Some(hash), Vec::new());
    let (mut missed, mut looked) = (0, 0u32);
    let mut looks = tokio::time::interval(POLL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let content = |path: &PathBuf| Content::read(path).ok().map(|content| hash_of([&content]));
        let of_files: Vec<_> = files.borrow().iter().map(content).collect();
        let now = (Source::read(&path).map(|source| source.hash()).ok(), of_files);
        let missing = now.0.is_none() || now.1.contains(&None);
        missed = if missing { missed + 1 } else { 0 };
        looked = looked.wrapping_add(1);
        if now == seen || (missing && missed < MISSED_LOOKS_MAX) {
            let again = now == seen && looked.is_multiple_of(LOOKS_AGAIN);
            if again && commands.send(Command::LookAgain).await.is_err() {
                return;
            }
            continue;
        }
        seen = now;
        let (reply, done) = oneshot::channel();
        if commands.send(Command::Reload(reply)).await.is_err() {
            return;
        }
        // The controller tells what came of it.
        let _ = done.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_mounted_by_itself_is_told_from_one_in_a_mounted_folder() {
        let line = |root: &str, place: &str| {
            format!("612 590 8:1 {root} {place} ro,relatime - ext4 /dev/sda1 rw\n")
        };
        let folder = line("/volumes/config", "/etc/serin");
        let file = line("/volume-subpaths/config/serin/0", "/etc/serin/serin.yaml");
        let path = Path::new("/etc/serin/serin.yaml");
        assert!(!is_mounted(path, &folder));
        assert!(is_mounted(path, &(folder + &file)));
        assert!(is_mounted(Path::new("/etc/my serin"), &line("/x", "/etc/my\\040serin")));
        assert!(!is_mounted(path, ""));
    }
}
