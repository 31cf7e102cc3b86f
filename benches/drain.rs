//! A backlog drained by the source and by pg_recvlogical, in pairs, for each shape of rows.
//!
//! ```text
//! shape ─▶ slot ─┬─ copy ─▶ pg_recvlogical ┐ five pairs; who begins changes with each
//!                └─ copy ─▶ source         ┘
//! ```
//!
//! The ratio is taken within a pair, so that what else the machine does weighs on both.

use std::fmt::Write as _;

use tokio_postgres::SimpleQueryMessage;

use crate::report::median_of;
use crate::scene::{DATABASE, Scene, TABLE};
use crate::stage::{Outcome, Stage};
use crate::workload::{self, Held, Tally, Truth};
use crate::{PAIRS, Result, on_slot, source};

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The tables and a procedure that fills them; `None` for the workload of the other stages.
    schema: Option<&'static str>,
    /// What the name of the procedure ends with.
    load: &'static str,
    pub(crate) tables: &'static [&'static str],
}

pub(crate) const SHAPES: [Shape; 4] = [
    Shape {
        name: "W1",
        about: "TPC-B-like, 4 rows a transaction",
        schema: Some(include_str!("shapes/w1.sql")),
        load: "w1",
        tables: &[
            "public.w1_accounts",
            "public.w1_tellers",
            "public.w1_branches",
            "public.w1_history",
        ],
    },
    Shape { name: "W2", about: "7 columns, 200 bytes", schema: None, load: "", tables: &[TABLE] },
    Shape {
        name: "W3",
        about: "16 columns, as lineitem",
        schema: Some(include_str!("shapes/w3.sql")),
        load: "w3",
        tables: &["public.w3"],
    },
    Shape {
        name: "W4",
        about: "1.6 kB, and 1 % 100 kB",
        schema: Some(include_str!("shapes/w4.sql")),
        load: "w4",
        tables: &["public.w4"],
    },
];

const REREADS: [Shape; 2] = [
    Shape {
        name: "re-read",
        about: "updates that leave 10 kB alone",
        schema: Some(include_str!("shapes/reread.sql")),
        load: "part",
        tables: &["public.part"],
    },
    Shape {
        name: "FULL",
        about: "the same, with the old row sent",
        schema: Some(include_str!("shapes/reread.sql")),
        load: "whole",
        tables: &["public.whole"],
    },
];

/// What the peer took of a shape and what we did, pair by pair.
pub(crate) struct Pairs {
    pub(crate) shape: Shape,
    pub(crate) peer: Vec<Outcome>,
    pub(crate) ours: Vec<Outcome>,
}

impl Pairs {
    /// Measures both in turn; who begins changes with each pair.
    pub(crate) async fn measure<
        P: Future<Output = Result<Outcome>>,
        O: Future<Output = Result<Outcome>>,
    >(
        shape: Shape,
        peer: impl Fn(u64) -> P,
        ours: impl Fn(u64) -> O,
    ) -> Result<Self> {
        let mut pairs = Self { shape, peer: Vec::new(), ours: Vec::new() };
        for round in 1..=crate::number("ANABRANCH_BENCH_PAIRS", PAIRS)? {
            if round % 2 == 1 {
                pairs.peer.push(peer(round).await?);
                pairs.ours.push(ours(round).await?);
            } else {
                pairs.ours.push(ours(round).await?);
                pairs.peer.push(peer(round).await?);
            }
        }
        Ok(pairs)
    }

    /// How much faster we were, by the median of the pairs, the lowest and the highest.
    pub(crate) fn ratios(&self) -> (f64, f64, f64) {
        let pairs = self.peer.iter().zip(&self.ours);
        let ratios: Vec<f64> = pairs.map(|(p, o)| p.usage.seconds / o.usage.seconds).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        (median_of(ratios), lowest, highest)
    }
}

/// The median of a figure.
pub(crate) fn median(runs: &[Outcome], figure: &dyn Fn(&Outcome) -> f64) -> f64 {
    median_of(runs.iter().map(figure).collect())
}

/// Drains every shape; returns the table.
pub(crate) async fn measure(scene: &mut Scene, changes: u64) -> Result<String> {
    let mut all = Vec::new();
    for shape in SHAPES.into_iter().chain(REREADS) {
        crate::say(&format!("draining {}: {}", shape.name, shape.about));
        prepare(scene, shape, changes).await?;
        all.push(pairs(scene, shape).await?);
    }
    Ok(table(&all))
}

/// Writes the changes of a shape, behind a slot.
pub(crate) async fn prepare(scene: &mut Scene, shape: Shape, changes: u64) -> Result<()> {
    scene.tables = shape.tables.iter().map(|table| (*table).to_owned()).collect();
    workload::create(scene, shape.schema.unwrap_or(workload::SCHEMA)).await?;
    scene.begun = Some(source::begin(scene).await?);
    let truth = match shape.schema {
        Some(_) => load(scene, shape, changes).await?,
        None => workload::load(scene, changes).await?,
    };
    scene.truth = Some(truth);
    Ok(())
}

/// Runs the procedure of a shape, which counts what it writes.
async fn load(scene: &Scene, shape: Shape, changes: u64) -> Result<Truth> {
    let client = anabranch_postgres::connect(&scene.source(DATABASE)?).await?;
    let call = format!("CALL public.load_{}({changes}, NULL, NULL, NULL)", shape.load);
    let answer = client.simple_query(&call).await?;
    let row = answer.iter().find_map(|message| {
        if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None }
    });
    let field = |name: &str| {
        let field = row.and_then(|row| row.get(name));
        field.ok_or_else(|| format!("load_{} did not say {name}", shape.load))
    };
    let changes = Tally { events: field("events")?.parse()?, ids: field("ids")?.parse()? };
    let end = field("last")?.parse()?;
    // Every transaction that a shape writes has an event at least.
    Ok(Truth { changes, transactions: 1, held: Held::default(), end })
}

async fn pairs(scene: &Scene, shape: Shape) -> Result<Pairs> {
    let slot = |who: &str, round: u64| format!("{DATABASE}_{who}_{round}");
    let receive = async |round| {
        let slot = slot("peer", round);
        on_slot(scene, &slot, Stage::Receive { slot: slot.clone() }).await
    };
    let drain = async |round| {
        let slot = slot("ours", round);
        on_slot(scene, &slot, Stage::Null { slot: slot.clone() }).await
    };
    Pairs::measure(shape, receive, drain).await
}

/// A line a shape, and the geometric mean of the ratios of W1 to W4.
fn table(all: &[Pairs]) -> String {
    let mut text = String::from(
        "| shape | events | pg_recvlogical events/s | source events/s | ratio (lowest-highest) | \
         source CPU us/event | walsender CPU us/event | source/walsender CPU | peak RSS MiB |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut product = 1.0;
    for pairs in all {
        let (ratio, lowest, highest) = pairs.ratios();
        if SHAPES.iter().any(|shape| shape.name == pairs.shape.name) {
            product *= ratio;
        }
        let ours = |figure: &dyn Fn(&Outcome) -> f64| median(&pairs.ours, figure);
        let events = pairs.ours.first().map_or(0, |run| run.tally.events);
        let rate = |run: &Outcome| crate::report::count(run) / run.usage.seconds;
        let cpu = ours(&|run| run.usage.cpu * 1e6 / crate::report::count(run));
        let fed = |run: &Outcome| run.usage.server_cpu.unwrap_or(f64::NAN);
        let fed = ours(&|run| fed(run) * 1e6 / crate::report::count(run));
        let peer = median(&pairs.peer, &rate);
        // Writing to a string cannot fail.
        writeln!(
            text,
            "| {}: {} | {events} | {peer:.0} | {:.0} | {ratio:.2} ({lowest:.2}-{highest:.2}) | {cpu:.2} | {fed:.2} \
             | {:.2} | {:.0} |",
            pairs.shape.name,
            pairs.shape.about,
            ours(&rate),
            cpu / fed,
            ours(&|run| run.usage.peak_mib.unwrap_or(f64::NAN)),
        )
        .unwrap_or_default();
    }
    let shapes = f64::from(u32::try_from(SHAPES.len()).unwrap_or(u32::MAX));
    writeln!(text, "\nGeometric mean of W1 to W4: {:.2}", product.powf(1.0 / shapes))
        .unwrap_or_default();
    text
}
