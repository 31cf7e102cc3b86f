//! The one place that says what a failure asks of whoever handles it.
//!
//! ```text
//! Failure (what happened) ─▶ kind() ─▶ Error { kind, action, source, help }
//! ```

use std::error::Error as StdError;

use anabranch_core::{Error, ErrorKind};

/// What can go wrong between us and the server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No answer: connection, TLS, a lost or late reply.
    #[error("no answer")]
    Transport(#[source] elasticsearch::Error),
    /// An HTTP status other than 2xx, or such a status of one item.
    #[error("HTTP {status} {kind}: {reason}")]
    Answer {
        /// The HTTP status.
        status: u16,
        /// The server's name of the error, or an empty text.
        kind: String,
        /// The server's words, without the values it quotes.
        reason: String,
    },
    /// A document that the server will never take.
    #[error("document {id:?}: HTTP {status} {kind}: {reason}")]
    Refused {
        /// The document's `_id`: the key's text or its hash.
        id: String,
        /// The HTTP status of the item.
        status: u16,
        /// The server's name of the error.
        kind: String,
        /// The server's words, without the values it quotes.
        reason: String,
    },
    /// A reply that is no answer to what was asked.
    #[error("the reply is not Elasticsearch's: {0}")]
    Reply(String),
    /// No request may be sent any more.
    #[error("the time of the batch is over; the last answer was: {0}")]
    Deadline(String),
    /// Some shards did not take part.
    #[error("{0} shards did not answer")]
    Shards(u64),
    /// The cursor is not the one that this worker left there.
    #[error("the index was restored or made anew, or another worker writes it")]
    Moved,
    /// A cursor document that cannot be read or written.
    #[error("{0}")]
    Cursor(String),
    /// Rows of a partition keep appearing below a delete-below.
    #[error("rows were still there after {0} rounds")]
    Endless(usize),
}

impl Failure {
    /// Adds what was being done, where it was done to rows.
    pub(crate) fn during(self, sink: &str, action: impl Into<String>) -> Error {
        let kind = self.kind();
        self.classified(sink, kind, action)
    }

    /// The same for what is done once, before any row: the data is not to blame, a person is
    /// needed.
    pub(crate) fn during_setup(self, sink: &str, action: impl Into<String>) -> Error {
        let kind = match self.kind() {
            ErrorKind::Rejected => ErrorKind::Config,
            // Whatever is at that address, it is not Elasticsearch.
            ErrorKind::Transient if matches!(self, Self::Reply(_)) => ErrorKind::Config,
            kind
            @ (ErrorKind::Transient | ErrorKind::Config | ErrorKind::Lost | ErrorKind::Bug) => kind,
        };
        self.classified(sink, kind, action)
    }

    /// Whether the server knows no such index (or alias).
    pub(crate) fn is_missing_index(&self) -> bool {
        matches!(self, Self::Answer { status: 404, kind, .. } if kind == "index_not_found_exception" || kind == "aliases_not_found_exception")
    }

    /// Whether the body was larger than the server reads.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Answer { status: 413, .. })
    }

    /// Whether the server is busy and wants the same request again, a little later.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Answer { status, kind, .. } if is_busy(*status, kind))
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Transport(error) if is_bad_certificate(error) => ErrorKind::Config,
            Self::Transport(_)
            | Self::Reply(_)
            | Self::Deadline(_)
            | Self::Shards(_)
            | Self::Moved
            | Self::Endless(_) => ErrorKind::Transient,
            Self::Answer { status, kind, .. } => kind_of_answer(*status, kind),
            Self::Refused { .. } => ErrorKind::Rejected,
            Self::Cursor(_) => ErrorKind::Config,
        }
    }

    fn help(&self, sink: &str) -> Option<String> {
        match self {
            Self::Transport(error) if is_bad_certificate(error) => {
                Some(format!("set [sinks.{sink}] ca_file to the server's certificate authority"))
            }
            Self::Reply(_) => Some(format!("check [sinks.{sink}] url")),
            Self::Answer { status: 401, .. } => {
                Some(format!("check username and password, or api_key, of [sinks.{sink}]"))
            }
            Self::Answer { kind, .. } if kind == "index_closed_exception" => {
                Some("open the index: POST /INDEX/_open".to_owned())
            }
            Self::Answer { kind, .. } if kind == "cluster_block_exception" => Some(
                "see GET /INDEX/_settings for the block, and the disk space of the nodes"
                    .to_owned(),
            ),
            Self::Answer { status: 403, .. } => Some(format!(
                "give the user of [sinks.{sink}] the privileges monitor (cluster), create_index, \
                 manage, read and write (indexes)"
            )),
            Self::Answer { .. }
            | Self::Transport(_)
            | Self::Refused { .. }
            | Self::Deadline(_)
            | Self::Shards(_)
            | Self::Moved
            | Self::Cursor(_)
            | Self::Endless(_) => None,
        }
    }

    fn classified(self, sink: &str, kind: ErrorKind, action: impl Into<String>) -> Error {
        let help = self.help(sink);
        let error = Error::new(kind, action).with_source(self);
        match help {
            Some(help) => error.with_help(help),
            None => error,
        }
    }
}

/// What a status says of a request or of an item of a bulk.
pub(crate) fn kind_of_answer(status: u16, kind: &str) -> ErrorKind {
    match (status, kind) {
        // Somebody deleted, closed or blocked the index; a person may be restoring it just now.
        (_, "index_not_found_exception" | "index_closed_exception" | "cluster_block_exception") => {
            ErrorKind::Transient
        }
        (401 | 403 | 404 | 405, _) => ErrorKind::Config,
        _ if is_busy(status, kind) => ErrorKind::Transient,
        _ => ErrorKind::Rejected,
    }
}

/// Whether the same thing may be accepted a little later.
pub(crate) fn is_busy(status: u16, kind: &str) -> bool {
    let lasting = kind == "cluster_block_exception";
    !lasting && (matches!(status, 408 | 429) || status >= 500)
}

/// `reqwest` tells a refused certificate from a refused connection only in words.
fn is_bad_certificate(error: &elasticsearch::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("invalid peer certificate") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The server's words up to where it quotes values of the row, which are nobody's to log.
pub(crate) fn without_values(reason: &str) -> String {
    const REASON_CHARS_MAX: usize = 300;
    const QUOTES: [&str; 4] =
        [". Preview of field's value", "\n at [Source", " at [Source", "For input string"];
    let end = QUOTES.iter().filter_map(|quote| reason.find(quote)).min().unwrap_or(reason.len());
    let (kept, _) = reason.split_at_checked(end).unwrap_or((reason, ""));
    kept.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, kind: &str) -> Failure {
        Failure::Answer { status, kind: kind.to_owned(), reason: "why".to_owned() }
    }

    #[test]
    fn statuses_say_what_to_do() {
        let cases = [
            (401, "security_exception", ErrorKind::Config),
            (403, "security_exception", ErrorKind::Config),
            (403, "cluster_block_exception", ErrorKind::Transient),
            (404, "index_not_found_exception", ErrorKind::Transient),
            (400, "index_closed_exception", ErrorKind::Transient),
            (400, "document_parsing_exception", ErrorKind::Rejected),
            (400, "mapper_parsing_exception", ErrorKind::Rejected),
            (413, "", ErrorKind::Rejected),
            (429, "es_rejected_execution_exception", ErrorKind::Transient),
            (429, "circuit_breaking_exception", ErrorKind::Transient),
            (500, "", ErrorKind::Transient),
            (503, "unavailable_shards_exception", ErrorKind::Transient),
            (418, "", ErrorKind::Rejected),
        ];
        for (status, kind, wanted) in cases {
            let error = answer(status, kind).during("search", "write index orders-1");
            assert_eq!(error.kind(), wanted, "{status} {kind}");
        }
        let setup =
            answer(400, "mapper_parsing_exception").during_setup("search", "create index x");
        assert_eq!(setup.kind(), ErrorKind::Config);
    }

    #[test]
    fn a_wrong_password_says_where_to_look() {
        let report = answer(401, "security_exception").during("search", "read index x").report();
        assert_eq!(
            report,
            "cannot read index x: HTTP 401 security_exception: why; \
             check username and password, or api_key, of [sinks.search]"
        );
    }

    #[test]
    fn quoted_values_are_cut_off() {
        let reason = "[1:68] failed to parse field [s] of type [short] in document with id 'b5'. \
                      Preview of field's value: 'secret'";
        assert_eq!(
            without_values(reason),
            "[1:68] failed to parse field [s] of type [short] in document with id 'b5'"
        );
        let reason =
            "failed to parse: Duplicate field 'a'\n at [Source: (byte[])\"{\"x\":\"secret\"";
        assert_eq!(without_values(reason), "failed to parse: Duplicate field 'a'");
        assert_eq!(without_values(&"ж".repeat(400)).chars().count(), 300);
    }
}
