//! What the demo is at: bars in a terminal, a line every few seconds elsewhere.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::say;
use crate::shop::SINKS;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// The display.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    bars: Option<Bars>,
    last_line: Option<Instant>,
}

/// A terminal's part.
#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    head: ProgressBar,
    time: ProgressBar,
    sinks: [ProgressBar; SINKS.len()],
}

/// What there is to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// How far the traffic is.
    pub(crate) elapsed: Duration,
    /// How long it lasts; zero while there is none.
    pub(crate) whole: Duration,
    /// Rows that the source changed in the last second, and since the traffic began.
    pub(crate) rate: u64,
    /// All of them.
    pub(crate) rows: u64,
    /// In the order of [`SINKS`].
    pub(crate) sinks: [SinkView; SINKS.len()],
}

/// One sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct SinkView {
    /// `running`, or what keeps it.
    pub(crate) state: String,
    /// How many events it is behind; none while the daemon does not answer.
    pub(crate) events: Option<u64>,
    /// How many seconds.
    pub(crate) seconds: f64,
}

impl Progress {
    /// Bars if standard error is a terminal.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Self { begun: Instant::now(), bars: is_terminal.then(Bars::new), last_line: None }
    }

    /// The next thing begins.
    pub(crate) fn step(&mut self, what: &str) {
        match &self.bars {
            Some(bars) => {
                bars.head.set_message(what.to_owned());
                drop(bars.all.println(self.stamped(what)));
            }
            None => say(&self.stamped(what)),
        }
        self.last_line = None;
    }

    /// Something happens by the way.
    pub(crate) fn event(&self, what: &str) {
        let line = self.stamped(&format!("  {what}"));
        match &self.bars {
            Some(bars) => drop(bars.all.println(line)),
            None => say(&line),
        }
    }

    /// Shows how things stand.
    pub(crate) fn show(&mut self, view: &View) {
        if let Some(bars) = &self.bars {
            bars.show(view);
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            say(&self.stamped(&format!("  {}", line(view))));
            self.last_line = Some(Instant::now());
        }
    }

    /// Leaves the screen to the verdict.
    pub(crate) fn finish(&mut self) {
        if let Some(bars) = self.bars.take() {
            drop(bars.all.clear());
        }
    }

    fn stamped(&self, what: &str) -> String {
        format!("{:>4} s  {what}", self.begun.elapsed().as_secs())
    }
}

fn line(view: &View) -> String {
    let sink = |(name, view): (&&str, &SinkView)| format!("{name} {}", behind(view));
    let sinks: Vec<_> = SINKS.iter().zip(&view.sinks).map(sink).collect();
    format!("source {}; behind: {}", source(view), sinks.join(", "))
}

fn source(view: &View) -> String {
    format!("{:>6} changes/s, {} in all", grouped(view.rate), grouped(view.rows))
}

fn behind(sink: &SinkView) -> String {
    match sink.events {
        None if sink.state.is_empty() => "no answer".to_owned(),
        None => sink.state.clone(),
        Some(events) => {
            let state = if sink.state == "running" { "" } else { sink.state.as_str() };
            let text = format!("{:>7} events {:>5.1} s {state}", grouped(events), sink.seconds);
            text.trim_end().to_owned()
        }
    }
}

/// A number in groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let bar = |template: &str| {
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(ProgressBar::new(1).with_style(style.progress_chars("━━╌")))
        };
        let head = bar("{spinner} {msg}");
        head.enable_steady_tick(Duration::from_millis(100));
        let time = bar("  source  {bar:30.green} {msg}");
        let sinks = SINKS.map(|name| bar("  {prefix:7} {bar:30.yellow} {msg}").with_prefix(name));
        Self { all, head, time, sinks }
    }

    fn show(&self, view: &View) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.time.set_length(millis(view.whole).max(1));
        self.time.set_position(millis(view.elapsed.min(view.whole)));
        self.time.set_message(source(view));
        for (bar, sink) in self.sinks.iter().zip(&view.sinks) {
            let events = sink.events.unwrap_or(0);
            // Full is the furthest it ever was behind.
            bar.set_length(bar.length().unwrap_or(1).max(events));
            bar.set_position(events);
            bar.set_message(format!("behind {}", behind(sink)));
        }
    }
}
