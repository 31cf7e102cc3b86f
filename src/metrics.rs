//! `/metrics`: the figures of [`Report`] in Prometheus' text format.
//!
//! ```text
//! scrape ──▶ Report ──▶ a family of samples each ──▶ text
//! ```
//!
//! Nothing is counted here: what is scraped is what `/status` says, so the two cannot disagree. A
//! figure that is not known is left out, since a 0 would be a claim. Names end in their unit.

mod snapshots;
mod source;

use std::borrow::Cow;
use std::fmt;

use anabranch_core::{Error, ErrorKind, Result};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::status::Report;

/// What all names begin with.
const PREFIX: &str = "anabranch";
/// What the text is, for whoever scrapes it.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole page.
///
/// # Errors
///
/// [`ErrorKind::Bug`] if a figure cannot be written.
pub fn render(report: &Report) -> Result<String> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Page { families: families(report) }));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)
        .map_err(|error| Error::new(ErrorKind::Bug, "write the metrics").with_source(error))?;
    Ok(text)
}

fn families(report: &Report) -> Vec<Family> {
    let Some(source) = &report.source else { return Vec::new() };
    let mut families = source::families(source);
    families.extend(snapshots::families(report));
    families
}

/// All that is scraped at once.
#[derive(Debug)]
struct Page {
    families: Vec<Family>,
}

/// A metric with its samples.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, Cow<'static, str>)>,
    value: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Unsigned(u64::from(value))
    }
}

impl Family {
    /// A figure that goes up and down; `None` if it is not known.
    fn gauge(name: &'static str, help: &'static str, value: Option<impl Into<Value>>) -> Self {
        Self::new(Kind::Gauge, name, help).with(value)
    }

    /// A figure that only grows; `_total` is appended to its name.
    fn counter(name: &'static str, help: &'static str, value: impl Into<Value>) -> Self {
        Self::new(Kind::Counter, name, help).with(Some(value))
    }

    /// One sample for each of `words`, 1 for the one that holds.
    fn state(
        (name, label): (&'static str, &'static str),
        help: &'static str,
        words: impl IntoIterator<Item = &'static str>,
        holds: Option<&str>,
    ) -> Self {
        let sample = |word: &'static str| Sample {
            labels: vec![(label, Cow::Borrowed(word))],
            value: (holds == Some(word)).into(),
        };
        let samples = words.into_iter().map(sample).collect();
        Self { samples, ..Self::new(Kind::Gauge, name, help) }
    }

    fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, samples: Vec::new() }
    }

    fn with(mut self, value: Option<impl Into<Value>>) -> Self {
        let sample = |value: Value| Sample { labels: Vec::new(), value };
        self.samples.extend(value.map(Into::into).map(sample));
        self
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            family.encode(metric)?;
        }
        Ok(())
    }
}

impl EncodeMetric for Family {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for sample in &self.samples {
            let labels: Vec<(&str, &str)> =
                sample.labels.iter().map(|(name, value)| (*name, value.as_ref())).collect();
            let mut one = encoder.encode_family(&labels)?;
            let none = None::<&prometheus_client::metrics::exemplar::Exemplar<NoLabelSet, f64>>;
            match (self.kind, sample.value) {
                (Kind::Counter, Value::Unsigned(value)) => one.encode_counter(&value, none)?,
                (Kind::Counter, Value::Float(value)) => one.encode_counter(&value, none)?,
                // A counter never goes below 0.
                (Kind::Counter, Value::Signed(value)) => {
                    one.encode_counter(&value.max(0).unsigned_abs(), none)?;
                }
                (Kind::Gauge, Value::Unsigned(value)) => one.encode_gauge(&value)?,
                (Kind::Gauge, Value::Signed(value)) => one.encode_gauge(&value)?,
                (Kind::Gauge, Value::Float(value)) => one.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        }
    }
}
