//! What is asked of the plugin when replication starts.

use postgres_protocol::escape::{escape_identifier, escape_literal};

/// The options of `START_REPLICATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PluginOptions {
    /// `server_version_num`, which decides what may be asked for.
    pub(crate) server_version: u32,
    /// Send large transactions before they commit.
    pub(crate) streaming: bool,
    /// Send values in binary format where their types have one.
    pub(crate) binary: bool,
}

impl PluginOptions {
    /// As the command has them, in parentheses.
    pub(crate) fn sql(self, publications: &[String]) -> String {
        let names: Vec<String> = publications.iter().map(|name| escape_identifier(name)).collect();
        let mut options = vec![
            format!("proto_version '{}'", self.protocol()),
            format!("publication_names {}", literal(&names.join(","))),
            // Those of others, too: they show that the WAL before them was read.
            "messages 'true'".to_owned(),
        ];
        if self.binary {
            options.push("binary 'true'".to_owned());
        }
        if self.streaming {
            options.push("streaming 'on'".to_owned());
        }
        if self.server_version >= 160_000 {
            // What was replicated into the source from elsewhere is in its tables like all else.
            options.push("origin 'any'".to_owned());
        }
        format!("({})", options.join(", "))
    }

    /// The newest version of the protocol that both sides know.
    fn protocol(self) -> u8 {
        match self.server_version {
            160_000.. => 4,
            150_000.. => 3,
            _ => 2,
        }
    }
}

fn literal(text: &str) -> String {
    escape_literal(text).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_asked_for_what_it_has() {
        let sql = |server_version, streaming| {
            let publications = ["it's \"mine\"".to_owned(), "p".to_owned()];
            PluginOptions { server_version, streaming, binary: false }.sql(&publications)
        };
        let names = r#"publication_names '"it''s ""mine""","p"', messages 'true'"#;
        assert_eq!(sql(140_023, false), format!("(proto_version '2', {names})"));
        assert_eq!(sql(150_018, true), format!("(proto_version '3', {names}, streaming 'on')"));
        assert_eq!(sql(160_000, false), format!("(proto_version '4', {names}, origin 'any')"));
        let newest = format!("(proto_version '4', {names}, streaming 'on', origin 'any')");
        assert_eq!(sql(180_004, true), newest);
    }
}
