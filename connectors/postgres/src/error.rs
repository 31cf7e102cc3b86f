//! The one place that decides what a failure of PostgreSQL asks of us.
//!
//! Unknown I/O is transient; an unknown SQLSTATE is not.

use std::error::Error as StdError;
use std::io;

use anabranch_core::{Error, ErrorKind, Result};
use tokio_postgres::error::SqlState;

use crate::loss::Loss;
use crate::pgwire::WireError;

/// The classes of SQLSTATEs for values that do not fit: a domain's check is an integrity constraint.
const UNFIT: [&str; 2] = ["22", "23"];

/// Names what was being done when a call failed.
pub(crate) trait Context<T> {
    /// `action` is a verb and its object.
    fn doing(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| from_sql(error, action()))
    }
}

impl<T> Context<T> for Result<T, WireError> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| from_wire(error, action()))
    }
}

/// `undefined_file`: of a walsender, that WAL was removed which somebody asked it for.
const UNDEFINED_FILE: &str = "58P01";

/// A mistake in our own reasoning about the protocol or the data.
pub(crate) fn bug(action: impl Into<String>, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Bug, action).with_source(why.into())
}

/// History that is gone in a way that no acceptance helps: the only way out is to begin anew.
pub(crate) fn lost(action: impl Into<String>, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Lost, action)
        .with_source(why.into())
        .with_help("the stores need a new snapshot: run `anabranch teardown`, then start again")
}

/// History that is gone, for a cause with a name.
pub(crate) fn history_lost(slot: &str, loss: Loss) -> Error {
    let help = loss.help();
    Error::new(ErrorKind::Lost, format!("go on with slot {slot}")).with_source(loss).with_help(help)
}

/// What the server or the connection said, if that is what an error is about.
pub(crate) fn sql_cause(error: &Error) -> Option<&tokio_postgres::Error> {
    StdError::source(error)?.downcast_ref()
}

/// Whether a query failed for a value in it that its type cannot have any more: an enum's label that
/// was renamed, a domain that was narrowed.
pub(crate) fn is_unfit(error: &tokio_postgres::Error) -> bool {
    let code = error.code().map(SqlState::code).unwrap_or_default();
    UNFIT.iter().any(|class| code.starts_with(class))
}

pub(crate) fn from_sql(error: tokio_postgres::Error, action: String) -> Error {
    if let Some(server) = error.as_db_error() {
        let code = server.code().code().to_owned();
        return with_sqlstate(Error::new(kind_of(&code), action).with_source(error), &code);
    }
    let kind = if error.is_closed() { ErrorKind::Transient } else { kind_of_chain(&error) };
    with_certificate_help(Error::new(kind, action).with_source(error))
}

pub(crate) fn from_wire(error: WireError, action: String) -> Error {
    match &error {
        WireError::Server(server) if server.code == UNDEFINED_FILE => {
            lost(action, format!("WAL that it needs is gone: {server}"))
        }
        WireError::Server(_) if error.is_unmapped() => {
            Error::new(ErrorKind::Transient, action).with_source(error)
        }
        WireError::Server(server) => {
            let code = server.code.clone();
            with_sqlstate(Error::new(kind_of(&code), action).with_source(error), &code)
        }
        WireError::Io(_) => {
            let kind = kind_of_chain(&error);
            with_certificate_help(Error::new(kind, action).with_source(error))
        }
        WireError::Closed | WireError::Ended => {
            Error::new(ErrorKind::Transient, action).with_source(error)
        }
        WireError::TlsRefused | WireError::Authentication(_) => {
            Error::new(ErrorKind::Config, action)
                .with_source(error)
                .with_help("check user, password and sslmode in [source] url")
        }
        WireError::PublicationSkipped(_) => lost(action, error.to_string()),
        WireError::Malformed(_) | WireError::FrameTooLong(_) | WireError::Unexpected { .. } => {
            Error::new(ErrorKind::Bug, action).with_source(error)
        }
    }
}

/// The same, of a connection that does not replicate: a file that is missing there has no WAL in it.
pub(crate) fn from_plain(error: WireError, action: String) -> Error {
    let WireError::Server(server) = &error else { return from_wire(error, action) };
    let code = server.code.clone();
    with_sqlstate(Error::new(kind_of(&code), action).with_source(error), &code)
}

/// A failure below the protocol passes by itself, except a certificate that is not trusted.
fn kind_of_chain(error: &(dyn StdError + 'static)) -> ErrorKind {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut kind = ErrorKind::Config;
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return ErrorKind::Config;
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                return ErrorKind::Config;
            }
            kind = ErrorKind::Transient;
        }
        cause = error.source();
    }
    kind
}

fn with_certificate_help(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Config => {
            error.with_help("check [source] url, its sslmode, and [source] ca_file")
        }
        ErrorKind::Transient | ErrorKind::Rejected | ErrorKind::Lost | ErrorKind::Bug => error,
    }
}

/// What a SQLSTATE asks for, by itself.
fn kind_of(code: &str) -> ErrorKind {
    match code {
        // Shutting down, starting up, crashed; too many clients; in use; timeouts and conflicts.
        "57P01" | "57P02" | "57P03" | "57014" | "55006" | "55P03" | "25006" => ErrorKind::Transient,
        other => match other.get(..2) {
            Some("08" | "53" | "40" | "58") => ErrorKind::Transient,
            Some(_) | None => ErrorKind::Config,
        },
    }
}

fn with_sqlstate(error: Error, code: &str) -> Error {
    match code {
        "28P01" | "28000" => error.with_help(
            "check user and password in [source] url, that the role has LOGIN and REPLICATION, \
             and that pg_hba.conf lets it in",
        ),
        "3D000" => error.with_help("check the database in [source] url"),
        "42501" => error.with_help("grant it to the role in [source] url"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::ServerError;

    #[test]
    fn sqlstates_say_what_to_do_next() {
        let cases = [
            ("28P01", ErrorKind::Config),
            ("42P01", ErrorKind::Config),
            ("42501", ErrorKind::Config),
            ("XX000", ErrorKind::Config),
            ("57P01", ErrorKind::Transient),
            ("53300", ErrorKind::Transient),
            ("55006", ErrorKind::Transient),
            ("40001", ErrorKind::Transient),
            (UNDEFINED_FILE, ErrorKind::Transient),
        ];
        for (code, kind) in cases {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }

    #[test]
    fn a_walsender_that_looked_too_early_is_no_reason_to_stand_still() {
        let said = |message: &str| {
            let (severity, code, detail) = ("ERROR".into(), "XX000".into(), String::new());
            let server = ServerError { severity, code, message: message.into(), detail };
            from_wire(WireError::Server(Box::new(server)), "read".into()).kind()
        };
        let early = "could not map filenumber \"base/5/16390\" to relation OID";
        assert_eq!(said(early), ErrorKind::Transient);
        assert_eq!(said(&early.replace("number", "node")), ErrorKind::Transient);
        assert_eq!(said("cache lookup failed for relation 5"), ErrorKind::Config);
    }

    #[test]
    fn unknown_io_is_transient_and_a_bad_certificate_is_not() {
        let reset = WireError::Io(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(from_wire(reset, "read".into()).kind(), ErrorKind::Transient);
        let refused = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer),
        );
        let error = from_wire(WireError::Io(refused), "connect".into());
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.help().unwrap().contains("ca_file"));
    }
}
