//! A disk in memory, for tests: one that can be full.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, SpoolFile};

/// Has room for so many bytes.
#[derive(Debug, Default)]
pub(crate) struct FakeDisk {
    pub(crate) room: AtomicUsize,
    pub(crate) used: AtomicUsize,
}

/// Gives out files on it.
#[derive(Debug, Default)]
struct FakeFolder(Arc<FakeDisk>);

#[derive(Debug)]
struct FakeFile {
    bytes: Mutex<Vec<u8>>,
    disk: Arc<FakeDisk>,
}

impl FakeDisk {
    pub(crate) fn with_room(room: usize) -> (Arc<dyn Disk>, Arc<Self>) {
        let disk = Arc::new(Self { room: room.into(), used: AtomicUsize::default() });
        (Arc::new(FakeFolder(Arc::clone(&disk))), disk)
    }
}

impl Disk for FakeFolder {
    fn create(&self) -> io::Result<Arc<dyn SpoolFile>> {
        Ok(Arc::new(FakeFile { bytes: Mutex::default(), disk: Arc::clone(&self.0) }))
    }
}

impl FakeFile {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(&self, bytes: &mut Vec<u8>, length: usize) -> io::Result<()> {
        let used = self.disk.used.load(Ordering::SeqCst) + length - bytes.len().min(length);
        if length > bytes.len() && used > self.disk.room.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.used.fetch_add(length, Ordering::SeqCst);
        self.disk.used.fetch_sub(bytes.len(), Ordering::SeqCst);
        bytes.resize(length, 0);
        Ok(())
    }
}

impl SpoolFile for FakeFile {
    fn write(&self, from: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        let start = size(offset)?;
        let end = start + from.len();
        let length = bytes.len().max(end);
        self.resize(&mut bytes, length)?;
        let range = bytes.get_mut(start..end).ok_or(io::ErrorKind::InvalidInput)?;
        range.copy_from_slice(from);
        Ok(())
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let start = size(offset)?;
        let bytes = self.bytes();
        let range = bytes.get(start..start + length).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(range.to_vec())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.resize(&mut self.bytes(), size(length)?)
    }
}

impl Drop for FakeFile {
    fn drop(&mut self) {
        let length = self.bytes().len();
        self.disk.used.fetch_sub(length, Ordering::SeqCst);
    }
}

fn size(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}
