//! One error type. Its kind names what the caller must do, not where it came from.

use std::error::Error as StdError;
use std::fmt;

/// A result of this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a failure asks of whoever handles it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The same call may succeed later: retry with backoff.
    Transient,
    /// The target refuses this data: dead-letter it, or park.
    Rejected,
    /// A person must change something first: park.
    Config,
    /// The history this part needs is gone: park; only a new snapshot helps.
    Lost,
    /// An invariant of ours is broken: park.
    Bug,
}

impl ErrorKind {
    /// The exit code of a process that was asked to run just the part that failed.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config => 2,
            Self::Lost => 3,
            Self::Rejected => 4,
            Self::Bug => 70,
            Self::Transient => 75,
        }
    }
}

/// A classified failure: what was being done, why it failed, what helps.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    action: String,
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// `action` is a verb and its object, and names the thing: `"write index orders-1"`.
    #[must_use]
    pub fn new(kind: ErrorKind, action: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, action: action.into(), help: None, source: None }))
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Attaches what the user can do, as a sentence or a command.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// Calls the setting `from` by the name `to`, in what was done and in what helps.
    #[must_use]
    pub fn renaming(mut self, from: &str, to: &str) -> Self {
        self.0.action = self.0.action.replace(from, to);
        self.0.help = self.0.help.map(|help| help.replace(from, to));
        self
    }

    /// What the caller must do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What the user can do.
    #[must_use]
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// The whole chain in one line: action, causes, and what helps.
    #[must_use]
    pub fn report(&self) -> String {
        match self.help() {
            Some(help) => format!("{}; {help}", self.chain()),
            None => self.chain(),
        }
    }

    /// Action and causes.
    pub(crate) fn chain(&self) -> String {
        let mut line = format!("cannot {}", self.0.action);
        let mut last = String::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string().replace('\n', " ");
            if !last.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            last = text;
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.action)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.source.as_deref()?;
        Some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_one_line_with_cause_and_help() {
        let error = Error::new(ErrorKind::Config, "connect to PostgreSQL at db:5432")
            .with_source(std::io::Error::other("password\nwrong"))
            .with_help("check [source] url");
        assert_eq!(
            error.report(),
            "cannot connect to PostgreSQL at db:5432: password wrong; check [source] url"
        );
    }
}
