//! What a failure means: the only place that classifies.

use anabranch_core::{Error, ErrorKind};
use redis::RedisError;

/// Why a script was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("another worker has taken it over")]
    Taken,
    #[error("the unit's key is gone: Redis was emptied, or restored")]
    Gone,
    #[error("the cursor in Redis is not where this worker left it")]
    Moved,
    #[error("an earlier write may still arrive: the unit must be taken over first")]
    InDoubt,
    #[error("key {0:?} holds something that is no row of this sink")]
    Foreign(String),
    #[error("generation {0} of the sink is at work there")]
    Generation(String),
    #[error("it was written in format {0}")]
    Format(String),
    #[error("the cursor does not parse")]
    Cursor(#[from] serde_json::Error),
    #[error("it is a cluster")]
    Cluster,
    #[error("{0}")]
    Bug(String),
}

impl Failure {
    /// `action` is what failed: a verb, and the thing by name.
    pub(crate) fn at(self, action: impl Into<String>) -> Error {
        let (kind, help) = self.classify();
        let error = Error::new(kind, action).with_source(self);
        if help.is_empty() { error } else { error.with_help(help) }
    }

    fn classify(&self) -> (ErrorKind, &'static str) {
        match self {
            Self::Redis(error) => classify(error),
            Self::Taken | Self::Gone | Self::Moved | Self::InDoubt => (ErrorKind::Transient, ""),
            Self::Foreign(_) => (
                ErrorKind::Rejected,
                "delete or rename that key, or choose another [sinks] key template or database",
            ),
            Self::Generation(_) => {
                (ErrorKind::Config, "stop this worker, or start it with that generation")
            }
            Self::Format(_) | Self::Cursor(_) => {
                (ErrorKind::Config, "it takes a newer release to read it")
            }
            Self::Cluster => (ErrorKind::Config, NO_CLUSTER),
            Self::Bug(_) => (ErrorKind::Bug, ""),
        }
    }
}

fn classify(error: &RedisError) -> (ErrorKind, &'static str) {
    if let Some(code) = error.code() {
        return classify_answer(code, &error.to_string());
    }
    let kind = error.kind();
    if kind == redis::ErrorKind::InvalidClientConfig {
        (ErrorKind::Config, "the [sinks] url must be redis://user:password@host:port/db")
    } else if kind == redis::ErrorKind::Parse {
        (ErrorKind::Config, "does a Redis server listen there?")
    } else if [redis::ErrorKind::UnexpectedReturnType, redis::ErrorKind::Client].contains(&kind) {
        (ErrorKind::Bug, "")
    } else {
        (ErrorKind::Transient, "")
    }
}

/// The first word of an error that the server answered with, and the whole of it.
fn classify_answer(code: &str, text: &str) -> (ErrorKind, &'static str) {
    match code {
        "OOM" => (
            ErrorKind::Transient,
            "Redis has reached maxmemory: raise it or free memory; writing goes on by itself then",
        ),
        "MISCONF" => (
            ErrorKind::Transient,
            "Redis cannot save to its disk and refuses writes: see its log; writing goes on by \
             itself then",
        ),
        "READONLY" => (
            ErrorKind::Transient,
            "if this lasts, the [sinks] url leads to a replica, not to a master",
        ),
        "LOADING" | "MASTERDOWN" | "BUSY" | "NOREPLICAS" | "TRYAGAIN" | "NOSCRIPT" => {
            (ErrorKind::Transient, "")
        }
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Config, "check user and password in the [sinks] url"),
        "NOPERM" => (
            ErrorKind::Config,
            "allow the user `+@read +@write +@scripting +info +select` on the sink's keys (ACL \
             SETUSER)",
        ),
        "DENIED" => (
            ErrorKind::Config,
            "Redis is in protected mode: set a password there, and in the [sinks] url",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" => (ErrorKind::Config, NO_CLUSTER),
        "WRONGTYPE" => (ErrorKind::Rejected, "a key of the sink holds something else: delete it"),
        "ERR" if text.contains("max number of clients") => (
            ErrorKind::Transient,
            "Redis has reached maxclients: raise it, or close other connections",
        ),
        "ERR" if text.contains("user_script") => (ErrorKind::Bug, ""),
        _ => (ErrorKind::Config, "check the [sinks] url and the settings of that server"),
    }
}

/// Why a cluster is refused, and what to use.
const NO_CLUSTER: &str = "Redis Cluster keeps a cursor and its rows in different slots, where no script can change \
     both: use a server without cluster mode";

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        value.and_then(redis::Value::extract_error).unwrap_err()
    }

    #[test]
    fn answers_of_the_server_say_what_to_do() {
        for (line, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Transient),
            ("READONLY You can't write against a read only replica.", ErrorKind::Transient),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Transient),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Transient),
            ("BUSY Redis is busy running a script.", ErrorKind::Transient),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Transient),
            ("ERR max number of clients reached", ErrorKind::Transient),
            ("NOAUTH Authentication required.", ErrorKind::Config),
            ("WRONGPASS invalid username-password pair", ErrorKind::Config),
            ("NOPERM this user has no permissions", ErrorKind::Config),
            ("ERR DB index is out of range", ErrorKind::Config),
            ("SOMETHING new", ErrorKind::Config),
            ("WRONGTYPE Operation against a key", ErrorKind::Rejected),
            ("ERR user_script:7: attempt to index a nil value", ErrorKind::Bug),
        ] {
            let error = Failure::from(answered(line)).at("write");
            assert_eq!(error.kind(), kind, "{line}");
            let helps = error.help().is_some_and(|help| !help.is_empty());
            assert!(kind != ErrorKind::Config || helps, "{line}");
        }
    }

    #[test]
    fn a_lost_connection_is_transient() {
        let lost = RedisError::from(std::io::Error::other("reset"));
        assert_eq!(Failure::from(lost).at("write").kind(), ErrorKind::Transient);
    }

    #[test]
    fn a_key_in_the_way_is_named() {
        let report = Failure::Foreign("orders:7".to_owned()).at("write public.orders").report();
        assert!(report.contains("orders:7"), "{report}");
    }
}
