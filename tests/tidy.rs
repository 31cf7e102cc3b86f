//! The rules of the house that no lint knows: sizes, words that do not belong, a changelog.

use std::path::{Path, PathBuf};

/// A file that grows past this is two files.
const LINES_MAX: usize = 500;
/// The one loop is small, so that it can be read whole.
const PIPELINE_LINES_MAX: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of ours below `folder` with one of these endings.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "corpus" {
                found.extend(files(&path, endings));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn files_are_short() {
    let sources = files(root(), &[".rs"]);
    assert!(sources.len() > 50, "the walk finds the sources");
    let long: Vec<_> =
        sources.iter().filter(|path| read(path).lines().count() > LINES_MAX).collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:?}");
    let pipeline = read(&root().join("src/pipeline.rs"));
    assert!(pipeline.lines().count() <= PIPELINE_LINES_MAX);
}

#[test]
fn modules_say_what_they_are_for() {
    let bare: Vec<_> = files(root(), &[".rs"])
        .into_iter()
        .filter(|path| !read(path).starts_with("//! "))
        .collect();
    assert!(bare.is_empty(), "no module doc: {bare:?}");
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, so that this file does not find itself.
    let words = [["to", "do!("].concat(), ["FIX", "ME"].concat(), ["#[ig", "nore"].concat()];
    for path in files(root(), &[".rs", ".sh", ".md", ".sql"]) {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{word} in {}", path.display());
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    for entry in std::fs::read_dir(root().join("connectors")).unwrap() {
        let folder = entry.unwrap().path();
        let manifest = read(&folder.join("Cargo.toml"));
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let others = manifest.lines().filter(|line| line.starts_with("anabranch-"));
        for line in others {
            assert!(line.starts_with("anabranch-core"), "{name} depends on {line}");
            assert!(name != "core", "core depends on nothing of ours");
        }
    }
}

#[test]
fn the_changelog_begins_with_what_is_not_released() {
    let changelog = read(&root().join("CHANGELOG.md"));
    assert!(changelog.contains("## Unreleased"), "CHANGELOG.md has a section Unreleased");
}
