//! Files for what does not fit into memory.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where files come from. Its calls block.
pub(crate) trait Disk: Debug + Send + Sync {
    fn create(&self) -> io::Result<Arc<dyn SpoolFile>>;
}

/// A file of nobody else; its space is free again when it is dropped. Its calls block.
pub(crate) trait SpoolFile: Debug + Send + Sync {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Exactly `length` bytes.
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    fn set_length(&self, length: u64) -> io::Result<()>;
}

/// A folder; its files have no name, so that they are gone with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

/// Whether what is written to `folder` stays in memory. What cannot be asked is taken for a disk.
pub(crate) fn is_memory(folder: &Path) -> bool {
    uapi::statfs(folder).is_ok_and(|system| system.f_type == uapi::c::TMPFS_MAGIC)
}

impl Disk for Folder {
    fn create(&self) -> io::Result<Arc<dyn SpoolFile>> {
        Ok(Arc::new(tempfile::tempfile_in(&self.0)?))
    }
}

impl SpoolFile for File {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_memory_is_told_from_one_on_disk() {
        let shared_memory = Path::new("/dev/shm");
        assert!(!shared_memory.exists() || is_memory(shared_memory));
        assert!(!is_memory(Path::new("/proc")));
        assert!(!is_memory(Path::new("/no/such/folder")));
    }
}
