//! pg_recvlogical to /dev/null: what a reader of the slot cannot beat without being another kind of
//! client, since it does nothing but receive.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::Result;
use crate::scene::{DATABASE, Scene};
use crate::source::walsender;
use crate::stage::Outcome;
use crate::usage::{Meter, cpu_seconds_of, peak_mib};

/// Between two looks at the processes: the last one is at most this old when they end.
const LOOK: Duration = Duration::from_millis(10);

/// Reads `slot` to the end of the workload.
pub(crate) async fn run(scene: &Scene, slot: &str) -> Result<Outcome> {
    let program = std::env::var("ANABRANCH_BENCH_PG_RECVLOGICAL")
        .unwrap_or_else(|_| "pg_recvlogical".to_owned());
    let server = anabranch_postgres::connect(&scene.server()?).await?;
    let end = scene.truth()?.end;
    let meter = Meter::start(None)?;
    let mut child = Command::new(&program)
        .arg("--dbname")
        .arg(scene.postgres_url(Some(DATABASE))?)
        .args(["--slot", slot, "--start", "--no-loop", "--file", "-", "--fsync-interval", "0"])
        .args(["--option", "proto_version=1", "--option"])
        .arg(format!("publication_names={DATABASE}"))
        .arg("--endpos")
        .arg(end.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let watched = watch(&mut child, &server, slot).await?;
    // The child's CPU is in this process's own figures once it has been waited for.
    let mut usage = meter.stop()?;
    (usage.peak_mib, usage.server_cpu) = watched;
    // It discards what it reads: what it has read is counted by the server.
    Ok(Outcome { tally: scene.truth()?.changes, usage })
}

/// Looks at the child and at the server process that feeds it until the child ends.
async fn watch(
    child: &mut Child,
    server: &tokio_postgres::Client,
    slot: &str,
) -> Result<(Option<f64>, Option<f64>)> {
    let pid = child.id().ok_or("pg_recvlogical ended at once")?;
    let (mut feeder, mut peak, mut cpu) = (None, None, None);
    loop {
        if let Ok(ended) = tokio::time::timeout(LOOK, child.wait()).await {
            let status = ended?;
            return match status.success() {
                true => Ok((peak, cpu)),
                false => Err(format!("pg_recvlogical ended with {status}").into()),
            };
        }
        if feeder.is_none() {
            feeder = walsender(server, slot).await?;
        }
        peak = peak_mib(pid).or(peak);
        cpu = feeder.and_then(|pid| cpu_seconds_of(pid, "postgres")).or(cpu);
    }
}
