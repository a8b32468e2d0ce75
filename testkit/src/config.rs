//! A config file in a folder of its own: as it lies beside a program, or as a kubelet
//! mounts a `ConfigMap`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A config file. Its folder is removed when it is dropped.
#[derive(Debug)]
pub struct ConfigFile {
    folder: TempDir,
    path: PathBuf,
    mounts: Option<u32>,
}

impl ConfigFile {
    /// A plain file.
    pub fn plain(text: &str) -> Self {
        let folder = folder();
        let path = folder.path().join("serin.yaml");
        let file = Self { folder, path, mounts: None };
        fs::write(&file.path, text).expect("a file");
        file
    }

    /// As a kubelet mounts it: the file leads to `..data/serin.yaml`, `..data` to a folder
    /// named after a time.
    pub fn mounted(text: &str) -> Self {
        let folder = folder();
        let path = folder.path().join("serin.yaml");
        let mut file = Self { folder, path, mounts: Some(0) };
        file.swap(text);
        symlink("..data/serin.yaml", &file.path).expect("a link");
        file
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it says now.
    pub fn text(&self) -> String {
        fs::read_to_string(&self.path).expect("a config file")
    }

    /// Replaces its content, each kind in its way.
    pub fn write(&mut self, text: &[u8]) {
        if self.mounts.is_some() {
            self.swap(std::str::from_utf8(text).expect("a ConfigMap holds text"));
        } else {
            // In one step: a reader must not see half of it.
            let beside = self.folder.path().join("serin.yaml.new");
            fs::write(&beside, text).expect("a file");
            fs::rename(&beside, &self.path).expect("a new name");
        }
    }

    /// What a kubelet does: a new folder, `..data_tmp` to it, renamed over `..data`.
    fn swap(&mut self, text: &str) {
        let before = self.mounts.unwrap_or(0);
        let folder = self.folder.path();
        let name = format!("..2026_11_21_10_00_00.{}", before + 1);
        fs::create_dir(folder.join(&name)).expect("a folder");
        fs::write(folder.join(&name).join("serin.yaml"), text).expect("a file");
        symlink(&name, folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("a new name");
        // The first time there is none.
        let _ = fs::remove_dir_all(folder.join(format!("..2026_11_21_10_00_00.{before}")));
        self.mounts = Some(before + 1);
    }
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("serin-it-").tempdir().expect("a folder")
}

/// An example file of this project.
pub(crate) fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
