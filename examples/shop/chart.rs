//! `CHART=FILE`: draws how far each store was behind, for README.
//!
//! ```text
//! samples ─▶ a line a sink, broken while nobody knows      marks ─▶ a dashed line each
//! ```

use std::fmt::Write as _;

use crate::progress::View;
use crate::shop::SINKS;

/// Size of the whole picture, and of the frame in it (left, top, right, bottom).
const SIZE: (f64, f64) = (760.0, 300.0);
const FRAME: (f64, f64, f64, f64) = (36.0, 60.0, 744.0, 258.0);
/// Seconds between two figures below, and without a sample that are a gap.
const TICK: u32 = 5;
const GAP: f64 = 1.0;
/// Readable on white, also by those who tell red from green with difficulty.
const COLORS: [&str; SINKS.len()] = ["#0072b2", "#d55e00", "#009e73"];

/// What happened, in seconds since the traffic began.
#[derive(Debug, Default)]
pub(crate) struct Chart {
    samples: Vec<(f64, [Option<f64>; SINKS.len()])>,
    marks: Vec<(f64, &'static str)>,
}

impl Chart {
    /// How things stood.
    pub(crate) fn sample(&mut self, at: f64, view: &View) {
        let behind = view.sinks.each_ref().map(|sink| {
            // Behind by events and by no seconds: the daemon does not know their age yet.
            let is_known = |events: u64| events == 0 || sink.seconds > 0.0;
            sink.events.filter(|events| is_known(*events)).map(|_| sink.seconds)
        });
        self.samples.push((at, behind));
    }

    /// Something that happened.
    pub(crate) fn mark(&mut self, at: f64, what: &'static str) {
        self.marks.push((at, what));
    }

    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        self.draw(&mut out).unwrap_or_default();
        out
    }

    fn draw(&self, out: &mut String) -> std::fmt::Result {
        let (width, height) = SIZE;
        let (left, top, right, bottom) = FRAME;
        let end = self.samples.last().map_or(1.0, |(at, _)| at.max(1.0));
        let all = self.samples.iter().flat_map(|(_, behind)| behind.iter().flatten());
        let worst = (all.fold(1.0_f64, |a, b| a.max(*b)) / 5.0).ceil() * 5.0;
        let x = |at: f64| left + (right - left) * at / end;
        let y = |behind: f64| bottom - (bottom - top) * behind / worst;
        writeln!(
            out,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#444">
<rect width="{width}" height="{height}" rx="6" fill="#fff"/>
<text x="12" y="20" font-size="13" fill="#222">Seconds behind PostgreSQL, while the daemon is killed and started again (grey)</text>"##
        )?;
        for (from, to) in self.gaps() {
            let (from, to) = (x(from), x(to));
            writeln!(
                out,
                r##"<rect x="{from:.1}" y="{top}" width="{:.1}" height="{:.0}" fill="#eee"/>"##,
                to - from,
                bottom - top
            )?;
        }
        for step in 0..=5_u8 {
            let behind = worst * f64::from(step) / 5.0;
            let up = y(behind);
            writeln!(
                out,
                r##"<path d="M{left} {up:.1}H{right}" stroke="#ddd"/><text x="{:.0}" y="{:.1}" text-anchor="end">{behind:.0}</text>"##,
                left - 6.0,
                up + 4.0
            )?;
        }
        for at in (0..).map(|step: u32| f64::from(step * TICK)).take_while(|at| *at <= end) {
            let (over, under) = (x(at), bottom + 18.0);
            writeln!(
                out,
                r##"<text x="{over:.1}" y="{under:.0}" text-anchor="middle">{at:.0} s</text>"##
            )?;
        }
        for (place, (at, what)) in self.marks.iter().enumerate() {
            let height = if place % 2 == 0 { top - 6.0 } else { top - 20.0 };
            writeln!(
                out,
                r##"<path d="M{0:.1} {1:.0}V{bottom}" stroke="#777" stroke-dasharray="4 3"/><text x="{2:.1}" y="{height:.0}" font-size="11">{what}</text>"##,
                x(*at),
                height + 4.0,
                x(*at) - 14.0
            )?;
        }
        for (place, (name, color)) in SINKS.iter().zip(COLORS).enumerate() {
            let path = self.path(place, &x, &y);
            let key = 36.0 + 80.0 * f64::from(u8::try_from(place).unwrap_or(0));
            writeln!(
                out,
                r##"<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8" stroke-linejoin="round"/><path d="M{key} 289h16" stroke="{color}" stroke-width="3"/><text x="{}" y="293">{name}</text>"##,
                key + 22.0
            )?;
        }
        writeln!(out, "</svg>")
    }

    /// From when to when nobody knew of any sink, because the daemon was on its way up.
    fn gaps(&self) -> Vec<(f64, f64)> {
        let mut gaps = Vec::new();
        let mut from = 0.0;
        for (at, behind) in &self.samples {
            if behind.iter().any(Option::is_some) {
                if at - from > GAP {
                    gaps.push((from, *at));
                }
                from = *at;
            }
        }
        gaps
    }

    /// The line of one sink: it begins anew after a gap.
    fn path(&self, place: usize, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) -> String {
        let (mut path, mut is_open) = (String::new(), false);
        for (at, behind) in &self.samples {
            let Some(behind) = behind.get(place).copied().flatten() else {
                is_open = false;
                continue;
            };
            let verb = if is_open { 'L' } else { 'M' };
            is_open = true;
            write!(path, "{verb}{:.1} {:.1}", x(*at), y(behind)).unwrap_or_default();
        }
        path
    }
}
