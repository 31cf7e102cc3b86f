//! `[sinks.NAME] kind = "delta"`.

use std::path::PathBuf;

use anabranch_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use url::Url;

/// Where the tables are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaConfig {
    /// A folder, as a path or a `file://` URL. A table is `<root>/<schema>/<table>`.
    pub root: String,
    /// A local folder for the key indexes: a cache, rebuilt from the table at each start, of
    /// about 32 bytes a row. By default the system's folder for temporary files.
    #[serde(default)]
    pub index_dir: Option<PathBuf>,
}

impl DeltaConfig {
    /// The root as a URL that ends with a slash.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if `root` is neither a path nor a `file://` URL.
    pub(crate) fn root_url(&self) -> Result<Url> {
        let bad = |why: &str| {
            Error::new(
                ErrorKind::Config,
                format!("use {:?} as the root of Delta tables", self.root),
            )
            .with_source(why.to_owned())
            .with_help("set `root` to a folder, such as \"/var/lib/lake\" or \"file:///lake\"")
        };
        let path = match Url::parse(&self.root) {
            Ok(url) if url.scheme() == "file" => {
                url.to_file_path().map_err(|()| bad("the URL names no folder of this machine"))?
            }
            Ok(_) => return Err(bad("only folders of this machine are supported so far")),
            Err(_) => PathBuf::from(&self.root),
        };
        let path = std::path::absolute(path).map_err(|error| bad(&error.to_string()))?;
        Url::from_directory_path(path).map_err(|()| bad("it is no absolute path"))
    }

    /// The folder of key indexes.
    pub(crate) fn index_dir(&self) -> PathBuf {
        self.index_dir.clone().unwrap_or_else(|| std::env::temp_dir().join("anabranch-delta-index"))
    }
}

/// The URL of a table below `root`, which ends with a slash.
pub(crate) fn table_url(root: &Url, schema: &str, table: &str) -> Result<Url> {
    let mut url = root.clone();
    let pushed = url.path_segments_mut().map(|mut segments| {
        segments.pop_if_empty().push(schema).push(table).push("");
    });
    pushed.map(|()| url).map_err(|()| {
        Error::new(ErrorKind::Config, format!("name a table {schema}.{table} below {root}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(root: &str) -> DeltaConfig {
        DeltaConfig { root: root.to_owned(), index_dir: None }
    }

    #[test]
    fn paths_and_file_urls_are_roots() {
        for (root, url) in [
            ("/data/lake", "file:///data/lake/"),
            ("/data/my lake/", "file:///data/my%20lake/"),
            ("file:///data/lake", "file:///data/lake/"),
        ] {
            assert_eq!(config(root).root_url().unwrap().as_str(), url);
        }
        assert!(config("lake").root_url().unwrap().path().ends_with("/lake/"));
        let refused = config("s3://bucket/lake").root_url().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
    }

    #[test]
    fn a_table_is_two_folders_whatever_its_name() {
        let root = config("/lake").root_url().unwrap();
        assert_eq!(table_url(&root, "public", "t").unwrap().as_str(), "file:///lake/public/t/");
        let odd = table_url(&root, "a/b", "x ?#%").unwrap();
        assert_eq!(odd.as_str(), "file:///lake/a%2Fb/x%20%3F%23%25/");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let parse = |text: &str| serde_json::from_str::<DeltaConfig>(text);
        assert!(parse(r#"{"root": "/lake"}"#).is_ok());
        assert!(parse(r#"{"root": "/lake", "rot": 1}"#).is_err());
    }
}
