//! `anabranch snapshot`: reads a table again beside the stream.

use anabranch_core::{Error, ErrorKind, Result, SnapshotState, TableSnapshot};
use anabranch_postgres::{SnapshotRequest, SnapshotScope};
use clap::{Args, Subcommand};
use serde::Serialize;
use uuid::Uuid;

use super::{print, print_json, status};
use crate::config::Config;
use crate::control::{Control, SnapshotChange};
use crate::status::snapshot_line;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Snapshot {
    #[command(subcommand)]
    command: Option<SnapshotCommand>,
    /// The tables, as schema.table.
    #[arg(value_name = "TABLE", required = true)]
    tables: Vec<String>,
    /// Reads only rows that meet this condition, in SQL; nothing is removed from the stores.
    #[arg(long = "where", value_name = "SQL", conflicts_with = "keys")]
    condition: Option<String>,
    /// Reads only the row with this key, and removes it from the stores if it is not there. Several
    /// columns are a JSON array of texts. May be repeated.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Shows what was asked for, and how far it is.
    Status,
    /// Lets it stand still.
    Pause(Which),
    /// Lets it go on where it was.
    Resume(Which),
    /// Ends it: what was read stays, and nothing is removed from the stores.
    Cancel(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// The table, as schema.table; all of them if none is named.
    table: Option<String>,
}

/// A snapshot that was asked for, and what became of it.
#[derive(Debug, Serialize)]
struct Asked {
    table: String,
    id: Uuid,
    /// `waiting`, `paused`, `cancelling`, or as the log has it.
    state: &'static str,
    /// As the log has it, once it has begun.
    progress: Option<TableSnapshot>,
}

pub(super) async fn run(config: &Config, json: bool, snapshot: Snapshot) -> Result<()> {
    match snapshot.command {
        None => ask(config, snapshot).await,
        Some(SnapshotCommand::Status) => show(config, json).await,
        Some(SnapshotCommand::Pause(which)) => change(config, which, SnapshotChange::Pause).await,
        Some(SnapshotCommand::Resume(which)) => change(config, which, SnapshotChange::Resume).await,
        Some(SnapshotCommand::Cancel(which)) => change(config, which, SnapshotChange::Cancel).await,
    }
}

async fn ask(config: &Config, snapshot: Snapshot) -> Result<()> {
    let Snapshot { tables, condition, keys, .. } = snapshot;
    for table in &tables {
        require_known(config, table).await?;
        if config.source.append_only.contains(table) {
            return Err(refused(table).with_source(
                "it is append-only: without a key its rows cannot be told from those of the stream",
            ));
        }
    }
    let scope = match (condition, keys.is_empty()) {
        (Some(condition), _) => SnapshotScope::Where(condition),
        (None, true) => SnapshotScope::Table,
        (None, false) => {
            SnapshotScope::Keys(keys.iter().map(|key| texts(key)).collect::<Result<_>>()?)
        }
    };
    let control = Control::open(config).await?;
    require_none(config, &control, &tables).await?;
    for table in &tables {
        let (id, scope) = (Uuid::new_v4(), scope.clone());
        let table = table.clone();
        let request = SnapshotRequest { id, table, scope, paused: false, cancelled: false };
        control.ask_snapshot(&config.source.slot, &request).await?;
    }
    print("asked for; `anabranch snapshot status` shows how far it is\n")
}

/// One that waits or is under way is not replaced, least of all a whole table by a few of its keys.
async fn require_none(config: &Config, control: &Control, tables: &[String]) -> Result<()> {
    // Without the log nobody knows what has ended.
    let Ok(records) = records(config).await else { return Ok(()) };
    let requests = control.snapshots(&config.source.slot).await?;
    let (asked, _) = open(requests, &records, SnapshotChange::Cancel);
    match asked.iter().find(|request| tables.contains(&request.table)) {
        None => Ok(()),
        Some(SnapshotRequest { table, .. }) => Err(refused(table)
            .with_source("a snapshot of it waits, or is under way")
            .with_help(format!(
                "`anabranch snapshot status` shows how far that is; `anabranch snapshot cancel {table}` ends it"
            ))),
    }
}

/// The texts of a key's columns.
fn texts(key: &str) -> Result<Vec<String>> {
    if !key.starts_with('[') {
        return Ok(vec![key.to_owned()]);
    }
    serde_json::from_str(key).map_err(|error| {
        Error::new(ErrorKind::Config, format!("read the key {key}"))
            .with_source(error)
            .with_help("several columns are an array of texts: --key '[\"eu\", \"42\"]'")
    })
}

async fn require_known(config: &Config, table: &String) -> Result<()> {
    if !config.source.takes_in(table) {
        let help =
            "name single tables, as \"schema.table\", of those that [source] tables takes in";
        return Err(refused(table).with_help(help));
    }
    if config.source.tables.contains(table) {
        return Ok(());
    }
    let tables = anabranch_kafka::admin::tables(&config.kafka).await?;
    if tables.iter().any(|record| record.table.full_name() == *table) {
        return Ok(());
    }
    let error = refused(table).with_source("the log has no such table");
    Err(error.with_help("`anabranch check` says which tables of a schema are left out, and why"))
}

fn refused(table: &str) -> Error {
    Error::new(ErrorKind::Config, format!("read {table} again"))
}

async fn change(config: &Config, which: Which, change: SnapshotChange) -> Result<()> {
    let (slot, table) = (&config.source.slot, which.table.as_deref());
    let control = Control::open(config).await?;
    let (asked, own) = open(control.snapshots(slot).await?, &records(config).await?, change);
    let is_meant = |request: &&SnapshotRequest| table.is_none_or(|table| request.table == table);
    // One that nobody has asked for can be told nothing until somebody does.
    for request in own.iter().filter(is_meant) {
        control.ask_snapshot(slot, request).await?;
    }
    let ids: Vec<Uuid> =
        asked.iter().chain(&own).filter(is_meant).map(|request| request.id).collect();
    let changed = control.change_snapshots(slot, &ids, change).await?;
    if changed.is_empty() {
        let what = table.map_or("a snapshot".to_owned(), |table| format!("a snapshot of {table}"));
        return Err(Error::new(ErrorKind::Config, format!("find {what}"))
            .with_source("none waits or is under way")
            .with_help("`anabranch snapshot status` shows those there are"));
    }
    let word = match change {
        SnapshotChange::Pause => "will stand still",
        SnapshotChange::Resume => "will go on",
        SnapshotChange::Cancel => "will end",
    };
    print(&format!("{}: {word} within a second or two\n", changed.join(", ")))
}

/// The last snapshot of each table.
async fn records(config: &Config) -> Result<Vec<TableSnapshot>> {
    match status::daemon(config).await? {
        Some(report) if report.source.is_some() => Ok(report.snapshots),
        Some(_) | None => anabranch_kafka::admin::snapshots(&config.kafka).await,
    }
}

/// Of what was asked for, that which has not ended; and what the source has begun by itself and `change`
/// is to concern: a table stands still as a whole, but what ends is one or the other.
fn open(
    mut requests: Vec<SnapshotRequest>,
    records: &[TableSnapshot],
    change: SnapshotChange,
) -> (Vec<SnapshotRequest>, Vec<SnapshotRequest>) {
    let is_open = |record: &TableSnapshot| record.state == SnapshotState::Running;
    let has_ended = |id: Uuid| records.iter().any(|record| record.id == id && !is_open(record));
    requests.retain(|request| !request.cancelled && !has_ended(request.id));
    let is_changed = |record: &TableSnapshot| {
        let is_asked = requests.iter().any(|open| open.table == record.table);
        change == SnapshotChange::Cancel || !is_asked
    };
    let own =
        records.iter().filter(|record| record.by_itself && is_open(record) && is_changed(record));
    let request = |record: &TableSnapshot| SnapshotRequest {
        id: record.id,
        table: record.table.clone(),
        scope: SnapshotScope::Table,
        paused: false,
        cancelled: false,
    };
    let own = own.map(request).collect();
    (requests, own)
}

async fn show(config: &Config, json: bool) -> Result<()> {
    let requests = Control::open(config).await?.snapshots(&config.source.slot).await?;
    let records = records(config).await?;
    let mut asked: Vec<Asked> =
        requests.iter().map(|request| Asked::of(request, &records)).collect();
    let is_asked = |record: &&TableSnapshot| requests.iter().any(|asked| asked.id == record.id);
    asked.extend(records.iter().filter(|record| !is_asked(record)).map(Asked::own));
    if json {
        return print_json(&asked);
    }
    if asked.is_empty() {
        return print("there is none\n");
    }
    let lines: Vec<String> = asked.iter().map(Asked::line).collect();
    print(&format!("{}\n", lines.join("\n")))
}

impl Asked {
    fn of(request: &SnapshotRequest, records: &[TableSnapshot]) -> Self {
        let progress = records.iter().find(|record| record.id == request.id).cloned();
        let state = match progress.as_ref().map(|record| record.state) {
            None if request.cancelled => "cancelled",
            Some(SnapshotState::Running) if request.cancelled => "cancelling",
            None | Some(SnapshotState::Running) if request.paused => "paused",
            None => "waiting",
            Some(state) => state.word(),
        };
        Self { table: request.table.clone(), id: request.id, state, progress }
    }

    /// One that nobody asks for: the source began it by itself, or its request is gone.
    fn own(record: &TableSnapshot) -> Self {
        let (table, state) = (record.table.clone(), record.state.word());
        Self { table, id: record.id, state, progress: Some(record.clone()) }
    }

    fn line(&self) -> String {
        match &self.progress {
            Some(progress) => snapshot_line(progress, self.state),
            None => format!("{:<34}  {}", self.table, self.state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_text_or_an_array_of_texts() {
        assert_eq!(texts("a,b").unwrap(), ["a,b"]);
        assert_eq!(texts("[\"eu\", \"4]2\"]").unwrap(), ["eu", "4]2"]);
        let error = texts("[eu, 42]").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.report().contains("array of texts"), "{error:?}");
    }

    #[test]
    fn what_has_ended_is_not_changed_and_what_nobody_asked_for_can_be() {
        let table = |name: &str| format!("public.{name}");
        let request = |id, name| SnapshotRequest {
            id: Uuid::from_u128(id),
            table: table(name),
            scope: SnapshotScope::Where("true".into()),
            paused: false,
            cancelled: false,
        };
        let record = |id, name, by_itself, state| TableSnapshot {
            by_itself,
            state,
            ..TableSnapshot::begin((Uuid::from_u128(id), Uuid::nil()), 1, table(name))
        };
        let (running, done) = (SnapshotState::Running, SnapshotState::Done);
        let requests = vec![
            request(1, "done"),
            request(2, "running"),
            request(3, "waits"),
            SnapshotRequest { cancelled: true, ..request(4, "cancelled") },
        ];
        let records = vec![
            record(1, "done", false, done),
            record(2, "running", false, running),
            record(5, "waits", true, running),
            record(6, "own", true, running),
            record(7, "copied", true, done),
        ];
        let own_of =
            |id, name| SnapshotRequest { scope: SnapshotScope::Table, ..request(id, name) };
        let (asked, own) = open(requests.clone(), &records, SnapshotChange::Pause);
        assert_eq!(asked, [request(2, "running"), request(3, "waits")]);
        assert_eq!(own, [own_of(6, "own")], "what waits stands still with what is before it");
        let (asked, own) = open(requests, &records, SnapshotChange::Cancel);
        assert_eq!(asked, [request(2, "running"), request(3, "waits")]);
        assert_eq!(own, [own_of(5, "waits"), own_of(6, "own")]);
    }

    #[test]
    fn what_is_asked_shows_before_it_has_begun() {
        let request = SnapshotRequest {
            id: Uuid::from_u128(1),
            table: "public.t".into(),
            scope: SnapshotScope::Table,
            paused: false,
            cancelled: false,
        };
        let state = |request: &SnapshotRequest| Asked::of(request, &[]).state;
        assert_eq!(state(&request), "waiting");
        assert_eq!(state(&SnapshotRequest { paused: true, ..request.clone() }), "paused");
        assert_eq!(state(&SnapshotRequest { cancelled: true, ..request }), "cancelled");
    }
}
