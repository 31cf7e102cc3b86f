//! `anabranch source accept`: a person decides how to go on without the history that is gone.

use anabranch_core::{Error, ErrorKind, Result};
use anabranch_postgres::{Acceptance, Diagnosis, WayOn};
use clap::{Args, Subcommand};

use super::{print, print_json};
use crate::config::Config;
use crate::control::Control;
use crate::guard::Traces;
use crate::supervisor::SOURCE;

#[derive(Debug, Subcommand)]
pub(super) enum SourceCommand {
    /// Goes on although history is gone; without --yes, says what is gone and what would happen.
    Accept(Accept),
}

#[derive(Debug, Args)]
pub(super) struct Accept {
    /// Goes on from where the slot is; what is missing stays missing in the stores.
    #[arg(long, conflicts_with = "snapshot")]
    gap: bool,
    /// Copies every table again, into the same log; the stores end equal.
    #[arg(long)]
    snapshot: bool,
    /// Does it.
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(config: &Config, json: bool, command: &SourceCommand) -> Result<()> {
    let SourceCommand::Accept(accept) = command;
    let Some(diagnosis) = diagnose(config).await? else {
        return Err(Error::new(ErrorKind::Config, "accept a gap")
            .with_source("there is none: slot and log agree")
            .with_help("`anabranch status` shows what stands still"));
    };
    if json {
        print_json(&diagnosis.gap)?;
    } else {
        print(&describe(&diagnosis))?;
    }
    let way = match (accept.gap, accept.snapshot) {
        (true, _) => WayOn::Gap,
        (_, true) => WayOn::Snapshot,
        (false, false) if accept.yes => {
            return Err(Error::new(ErrorKind::Config, "accept a gap")
                .with_help("say how to go on: --snapshot or --gap"));
        }
        (false, false) => return Ok(()),
    };
    if !diagnosis.ways.contains(&way) {
        return Err(Error::new(ErrorKind::Config, format!("accept it with {way}"))
            .with_source(diagnosis.error));
    }
    if !accept.yes {
        return if json { Ok(()) } else { print("nothing was done; add --yes\n") };
    }
    let control = Control::open(config).await?;
    control.accept(&Acceptance { gap: diagnosis.gap, way }).await?;
    control.set_paused(SOURCE, false).await?;
    if json { Ok(()) } else { print("accepted; the source goes on within a second or two\n") }
}

/// What keeps the source from going on after the log's position.
async fn diagnose(config: &Config) -> Result<Option<Diagnosis>> {
    let position = anabranch_kafka::admin::read_position(&config.kafka).await?;
    let Some(position) = position else {
        return Err(Error::new(ErrorKind::Config, "accept a gap")
            .with_source("the log has no position record: nothing was ever written to it, or it was wiped")
            .with_help("`anabranch run` begins a log; a slot that is left over goes with `anabranch teardown`"));
    };
    let traces = Traces(config.clone());
    anabranch_postgres::diagnose(&config.source, &position, Some(&traces)).await
}

fn describe(diagnosis: &Diagnosis) -> String {
    let mut text = format!("{}\n", diagnosis.error.report());
    for way in &diagnosis.ways {
        text.push_str(match way {
            WayOn::Snapshot => {
                "--snapshot  begins another epoch of the log with a new slot, and copies every table \
                 again: the stores lose each table's rows for a moment, and end equal to the source\n"
            }
            WayOn::Gap => {
                "--gap       begins another epoch where the slot is (a missing one is made): what was \
                 changed in the gap stays as it is in the log and in the stores until it changes again\n"
            }
        });
    }
    if diagnosis.ways.is_empty() {
        text.push_str("nothing of it can be accepted\n");
    }
    text
}
