//! Whether slot, tables and log fit together: what a source finds when it starts.

use anabranch_core::{Phase, Result};

use crate::accept::foresee;
use crate::blind;
use crate::catalog::RawTable;
use crate::error::history_lost;
use crate::history::{Decision, Plan};
use crate::loss::Loss;
use crate::slot::Slot;

use super::{Facts, Findings};

const SUBJECT: &str = "log";

pub(super) async fn look(
    facts: &Facts<'_>,
    tables: &[RawTable],
    findings: &mut Findings,
) -> Result<()> {
    let (config, Some(log)) = (facts.config, facts.log) else { return Ok(()) };
    let slot = Slot::read(&facts.session, &config.slot).await?;
    // What is wrong with the slot alone was said of it.
    let database = config.database()?;
    if slot.as_ref().is_some_and(|slot| slot.check_usable(&database).is_err()) {
        return Ok(());
    }
    let Some(position) = &log.position else {
        match slot {
            None => findings.fine(SUBJECT, "nothing was written to it yet"),
            Some(_) => findings.blocker(SUBJECT, &history_lost(&config.slot, Loss::LogWiped)),
        }
        return Ok(());
    };
    // The numbers of another system's tables say nothing here.
    if position.phase == Phase::Streaming && position.system_id == facts.server.system_id {
        match blind::missed(tables, &facts.known, position) {
            Err(error) => findings.blocker(SUBJECT, &error),
            Ok(missed) => missed.into_iter().for_each(|(_, table)| {
                findings.fine(
                    format!("table {table}"),
                    "it is new to the log: it will be read beside the stream",
                );
            }),
        }
    }
    if slot.is_some_and(|slot| slot.in_use().is_some()) {
        findings.fine(SUBJECT, "the slot is being read: `anabranch status` says how far it is");
        return Ok(());
    }
    match foresee(config, position).await? {
        Decision::Lost(loss) => findings.blocker(SUBJECT, &history_lost(&config.slot, loss)),
        Decision::Go(Plan::Begin { .. }) => {
            findings.fine(SUBJECT, "the tables were not copied to the end: that begins again");
        }
        Decision::Go(Plan::Finish) => {
            findings.fine(SUBJECT, "a copy was cut off: the rest will be read beside the stream");
        }
        Decision::Go(_) => {
            findings
                .fine(SUBJECT, format!("it is at {}, and the slot fits to it", position.confirm));
        }
    }
    Ok(())
}
