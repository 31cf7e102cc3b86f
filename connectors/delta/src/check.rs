//! `anabranch check` for Delta.

use std::path::{Path, PathBuf};

use anabranch_core::{Finding, Level, Result};
use uuid::Uuid;

use crate::config::DeltaConfig;

/// Looks whether tables can be written below the root.
///
/// # Errors
///
/// [`anabranch_core::ErrorKind::Config`] if the root is no folder of this machine.
pub async fn check(config: &DeltaConfig) -> Result<Vec<Finding>> {
    let root = config.root_url()?;
    let mut findings = Vec::new();
    if let Ok(folder) = root.to_file_path() {
        findings.push(look("root of the Delta tables", folder).await);
    }
    findings.push(look("folder of the key indexes", config.index_dir()).await);
    Ok(findings)
}

async fn look(what: &str, folder: PathBuf) -> Finding {
    let subject = format!("delta: {what} {}", folder.display());
    let tried = tokio::task::spawn_blocking(move || try_write(&folder)).await;
    match tried.map_err(std::io::Error::other).flatten() {
        Ok(()) => Finding::fine(subject, "can be written"),
        Err(error) => Finding::trouble(
            Level::Blocker,
            subject,
            error.to_string(),
            "create the folder, or give this user the right to write there",
        ),
    }
}

/// Writes a file in the nearest folder that exists, and links it, as a commit is made.
fn try_write(folder: &Path) -> std::io::Result<()> {
    let is_there = |folder: &&Path| folder.exists();
    let nearest = folder.ancestors().find(is_there).unwrap_or(folder);
    let name = format!(".anabranch-check-{}", Uuid::new_v4());
    let (first, second) = (nearest.join(&name), nearest.join(format!("{name}-link")));
    std::fs::write(&first, b"")?;
    let linked = std::fs::hard_link(&first, &second);
    std::fs::remove_file(&first)?;
    linked.and_then(|()| std::fs::remove_file(&second))
}
