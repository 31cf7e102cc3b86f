//! What the user can ask for, a module for each command.

mod check;
mod requests;
mod run;
mod snapshot;
mod source;
mod status;
mod teardown;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anabranch_core::{Error, ErrorKind, Result};
use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::control::Control;

/// Keeps Elasticsearch, Redis and Delta Lake equal to PostgreSQL, through Kafka.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration.
    #[arg(long, global = true, default_value = "anabranch.toml", value_name = "FILE")]
    config: PathBuf,
    /// Prints data as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the daemon: every part, or only the one that is named.
    Run {
        #[command(subcommand)]
        part: Option<RunPart>,
    },
    /// Looks at everything the daemon needs, and says what to mend.
    Check,
    /// Shows how far each sink is behind, and what is parked.
    Status {
        /// Adds a line for each partition: its offset and lag.
        #[arg(long)]
        partitions: bool,
    },
    /// Lets a sink stand still, outside its consumer group.
    Pause {
        /// The sink's name in the configuration.
        sink: String,
    },
    /// Lets a sink (or `source`) go on, and tries its parked parts again.
    Resume {
        /// The sink's name in the configuration, or `source`.
        sink: String,
    },
    /// Reads tables again beside the stream, whole or in part, and shows how far that is.
    Snapshot(snapshot::Snapshot),
    /// What only the source needs: see its subcommands.
    Source {
        #[command(subcommand)]
        command: source::SourceCommand,
    },
    /// Removes slot, publication, topics, groups and control schema; stores keep their data.
    Teardown {
        /// Removes them; without it the command only says what it would remove.
        #[arg(long)]
        yes: bool,
    },
    /// Brings the control schema up to date.
    Migrate,
}

#[derive(Debug, Subcommand)]
enum RunPart {
    /// PostgreSQL → log.
    Source,
    /// Log → one store.
    Sink {
        /// The sink's name in the configuration.
        name: String,
    },
}

/// Does what was asked, and says how it went.
pub async fn run(arguments: Arguments) -> ExitCode {
    match dispatch(arguments).await {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

/// One line on standard error, and the exit code of the error's kind.
pub fn failed(error: &Error) -> ExitCode {
    let line = format!("anabranch: {}\n", error.report());
    // If standard error is gone there is nobody to tell.
    drop(std::io::stderr().write_all(line.as_bytes()));
    ExitCode::from(error.kind().exit_code())
}

/// The process could not start its threads.
#[must_use]
pub fn no_runtime(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Transient, "start the threads of the daemon").with_source(error)
}

async fn dispatch(arguments: Arguments) -> Result<ExitCode> {
    let config = Config::read(&arguments.config)?;
    let json = arguments.json;
    match arguments.command {
        Command::Run { part } => Box::pin(run::run(config, part)).await?,
        Command::Check => return check::run(&config, json).await,
        Command::Status { partitions } => status::run(&config, json, partitions).await?,
        Command::Pause { sink } => requests::set_paused(&config, &sink, true).await?,
        Command::Resume { sink } => requests::set_paused(&config, &sink, false).await?,
        Command::Snapshot(snapshot) => snapshot::run(&config, json, snapshot).await?,
        Command::Source { command } => source::run(&config, json, &command).await?,
        Command::Teardown { yes } => teardown::run(&config, yes).await?,
        Command::Migrate => {
            Control::open(&config).await?;
            print("the control schema is up to date\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes to standard output; a reader that has gone away is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(ErrorKind::Transient, "write to standard output").with_source(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::new(ErrorKind::Bug, "write JSON").with_source(error))?;
    print(&format!("{text}\n"))
}
