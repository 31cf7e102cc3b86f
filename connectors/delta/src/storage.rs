//! The bytes of one table: its data files, its deletion vectors and its log.
//!
//! What a commit names is on disk before the commit is, and a commit is on disk before anybody
//! hears of it. The object store of a local folder does not see to that, so here it is done.

use std::path::{Path as LocalPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use deltalake::Path;
use deltalake::logstore::object_store::{GetOptions, GetRange, ObjectStore, PutOptions};
use deltalake::logstore::{LogStoreRef, StorageConfig, logstore_for};
use futures::TryStreamExt;
use url::Url;
use uuid::Uuid;

use crate::error::Cause;

const LOG: &str = "_delta_log";

/// A table's folder.
#[derive(Clone)]
pub(crate) struct Storage {
    url: Url,
    folder: PathBuf,
    log_store: LogStoreRef,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is durable.
    Durable,
    /// Somebody else has that version.
    Taken,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Storage").field(&self.url.as_str()).finish()
    }
}

impl Storage {
    /// Opens the folder at `url`, which need not exist.
    pub(crate) fn open(url: Url) -> Result<Self, Cause> {
        let folder = url.to_file_path();
        let folder = folder.map_err(|()| Cause::Foreign(format!("{url} is not local")))?;
        let log_store = logstore_for(&url, StorageConfig::default())?;
        Ok(Self { url, folder, log_store })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The files below the table's root.
    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        self.log_store.object_store(None)
    }

    /// The names of the files of the log.
    pub(crate) async fn log_files(&self) -> Result<Vec<String>, Cause> {
        let files: Vec<_> = self.objects().list(Some(&Path::from(LOG))).try_collect().await?;
        Ok(files.iter().filter_map(|file| file.location.filename()).map(str::to_owned).collect())
    }

    /// The path of a file of the log.
    pub(crate) fn log_path(name: &str) -> Path {
        Path::from_iter([LOG, name])
    }

    /// The commit `version`, or `None` if there is none.
    pub(crate) async fn read_commit(&self, version: u64) -> Result<Option<Bytes>, Cause> {
        Ok(self.log_store.read_commit_entry(version).await?)
    }

    /// Whether the log has the commit `version`, still.
    pub(crate) async fn has_commit(&self, version: u64) -> Result<bool, Cause> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let path = Self::log_path(&commit_name(version));
        match self.objects().get_opts(&path, options).await.map_err(Cause::of_read) {
            Ok(_) => Ok(true),
            Err(Cause::FileGone(_)) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// `length` bytes of the file at `path` from `offset`.
    pub(crate) async fn read_range(
        &self,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, Cause> {
        let range = Some(GetRange::Bounded(offset..offset + length));
        let options = GetOptions { range, ..GetOptions::default() };
        let found = self.objects().get_opts(&Path::parse(path)?, options).await;
        let found = found.map_err(Cause::of_read)?;
        Ok(found.bytes().await?)
    }

    /// Writes a file that has no name yet in the log. [`Storage::sync`] makes it durable.
    pub(crate) async fn write(&self, path: &str, bytes: Bytes) -> Result<(), Cause> {
        let path = Path::parse(path)?;
        self.objects().put_opts(&path, bytes.into(), PutOptions::default()).await?;
        Ok(())
    }

    /// Makes files of the table's root durable.
    pub(crate) async fn sync(&self, paths: Vec<String>) -> Result<(), Cause> {
        let folder = self.folder.clone();
        let work = move || -> std::io::Result<()> {
            for path in paths {
                std::fs::File::open(folder.join(path))?.sync_all()?;
            }
            sync_folder(&folder)
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    }

    /// Makes `content` the commit `version`, unless there is one.
    pub(crate) async fn write_commit(
        &self,
        version: u64,
        content: Vec<u8>,
    ) -> Result<Written, Cause> {
        let log = self.folder.join(LOG);
        let work = move || create_durably(&log, version, &content);
        Ok(tokio::task::spawn_blocking(work).await??)
    }
}

fn create_durably(log: &LocalPath, version: u64, content: &[u8]) -> std::io::Result<Written> {
    let folder_is_new = !log.exists();
    std::fs::create_dir_all(log)?;
    if folder_is_new {
        log.ancestors().take(4).try_for_each(sync_folder)?;
    }
    // The name is one that the tools' clean-up of the log knows as left behind.
    let staged = log.join(format!("_commit_{}.json.tmp", Uuid::new_v4()));
    std::fs::write(&staged, content)?;
    std::fs::File::open(&staged)?.sync_all()?;
    let linked = std::fs::hard_link(&staged, log.join(commit_name(version)));
    std::fs::remove_file(&staged)?;
    match linked {
        Ok(()) => sync_folder(log).map(|()| Written::Durable),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Written::Taken),
        Err(error) => Err(error),
    }
}

fn commit_name(version: u64) -> String {
    format!("{version:020}.json")
}

fn sync_folder(folder: &LocalPath) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}
