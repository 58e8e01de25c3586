//! The picture of a recorded run: its rate, its limit and its buffer over time, as SVG.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufRead};
use std::ops::Range;
use std::ptr;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::{CoordTranslate, Shift};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Deserialize;
use serde::de::IgnoredAny;

use pcproxy::stats::{Status, VERSION};
use pcproxy::units::{show_rate, show_size, show_time};

/// Width and height of the picture in pixels.
const SIZE: (u32, u32) = (960, 540);

/// Height of the title and what is below it, and where the lower panel begins, in pixels.
const HEADER: u32 = 66;
const LOWER: u32 = 346;

/// Left and right of both panels: the edge of the picture and the labels of the axis, and room
/// for half a label of time.
const EDGE: u32 = 14;
const LEFT: u32 = 78;
const RIGHT: u32 = 26;

/// Room for the legend above each panel.
const LEGEND: u32 = 28;

/// From so many points on, a column of the picture shows the extremes of what falls into it:
/// five points each, and a column is about two pixels wide.
const MOST: usize = 2000;
const COLUMNS: f64 = 400.0;

/// From so many points on, the rate is drawn with a finer line.
const CROWD: usize = 400;

/// A limit beyond so many times the highest rate is not drawn, since it would leave the rate
/// flat at the bottom.
const FAR: f64 = 2.0;

/// What is left free above the highest value, as a share of it.
const AIR: f64 = 0.06;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(100, 100, 100);
const GRID: RGBColor = RGBColor(226, 226, 226);

const RATE: Pen = Pen { color: RGBColor(31, 95, 168), width: 2, kind: Kind::Solid };
const CROWDED_RATE: Pen = Pen { color: RGBColor(90, 145, 210), width: 1, ..RATE };
const MEAN: Pen = Pen { color: INK, width: 1, kind: Kind::Solid };
const LIMIT: Pen = Pen { color: RGBColor(200, 70, 20), width: 2, kind: Kind::Dashed };
const HELD: Pen = Pen { color: RGBColor(15, 125, 110), width: 1, kind: Kind::Filled };
const BUFFER: Pen = Pen { color: INK, width: 1, kind: Kind::Dashed };

/// Why there is no picture, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlotError {
    /// What is wrong, for the user.
    reason: String,
}

impl fmt::Display for PlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for PlotError {}

/// What drawing returns: on a text in memory only plotters itself can fail.
type Drawn<T> = Result<T, DrawingAreaErrorKind<io::Error>>;

type Canvas<'a, C = Shift> = DrawingArea<SVGBackend<'a>, C>;

/// The statuses of the last run in `lines`, in their order: of the run that the last line is
/// from, when several were recorded into one file, one after the other or at the same time.
///
/// Fields that are not known are skipped, and so are empty lines. So is a last line without
/// its end, where the run was killed while it wrote.
///
/// # Errors
/// When a line cannot be read, is not JSON or no status, or one of another version; or when
/// there is no status at all.
///
/// ```
/// let error = pcproxy::report::plot::read("{\"version\":7}\n".as_bytes()).unwrap_err();
/// assert_eq!(error.to_string(), "line 1: a status of version 7; this pcproxy knows version 1");
/// ```
pub fn read(mut lines: impl BufRead) -> Result<Vec<Status>, PlotError> {
    let mut runs: HashMap<u32, Vec<Status>> = HashMap::new();
    let mut last = None;
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => {}
            Err(error) => return Err(PlotError { reason: error.to_string() }),
        }
        match parse(&line) {
            Ok(status) => {
                let run = runs.entry(status.pid).or_default();
                // In a container every run may have the same process number.
                if run.last().is_some_and(|before| before.done || before.elapsed > status.elapsed) {
                    run.clear();
                }
                last = Some(status.pid);
                run.push(status);
            }
            Err(_) if is_half(&line) => {}
            Err(reason) => return Err(PlotError { reason: format!("line {number}: {reason}") }),
        }
    }
    last.and_then(|pid| runs.remove(&pid)).ok_or_else(nothing)
}

/// There is nothing to draw.
fn nothing() -> PlotError {
    PlotError { reason: "no status in it".to_owned() }
}

/// Whether this is the last line, and its end is missing.
fn is_half(line: &[u8]) -> bool {
    !line.ends_with(b"\n") && serde_json::from_slice::<IgnoredAny>(line).is_err()
}

/// The status in a line, or what is wrong with it.
fn parse(line: &[u8]) -> Result<Status, String> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }

    let reason = |error: serde_json::Error| {
        let text = error.to_string();
        // To serde_json each line is the first.
        let text = text.split(" at line ").next().unwrap_or_default();
        if error.is_data() {
            format!("not a status: {text}")
        } else {
            format!("not JSON: {text}, column {}", error.column())
        }
    };
    // First, since another version may have other fields.
    let Versioned { version } = serde_json::from_slice(line).map_err(reason)?;
    if version != VERSION {
        return Err(format!("a status of version {version}; this pcproxy knows version {VERSION}"));
    }
    serde_json::from_slice(line).map_err(reason)
}

/// Draws one run, its statuses in the order of time: an SVG text, 960 by 540 pixels.
///
/// The upper panel shows the rate of each interval between two statuses, the mean rate so far
/// and the limit, and the lower one the bytes held and the size of the buffer. A limit far
/// above the rate is only named. Of a long run the extremes are drawn.
///
/// # Errors
/// When there is no status.
pub fn draw(run: &[Status]) -> Result<String, PlotError> {
    let last = run.last().ok_or_else(nothing)?;
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw_run(&root, run, last).map_err(|error| PlotError { reason: format!("cannot draw: {error}") })?;
    drop(root);
    Ok(svg)
}

/// Draws all of a run, which ends with `last`.
fn draw_run(root: &Canvas<'_>, run: &[Status], last: &Status) -> Drawn<()> {
    let steps = steps(run);
    let steps = thinned(&steps);
    let time = Axis::time(last.elapsed);
    root.fill(&WHITE)?;
    let (header, panels) = root.split_vertically(HEADER);
    let (upper, lower) = panels.split_vertically(LOWER - HEADER);
    draw_header(&header, last)?;
    draw_rate(&upper, time, &steps)?;
    draw_buffer(&lower, time, &steps, last.peak_buffered)?;
    root.present()
}

/// What a status says of the interval that ends with it. Times in seconds, sizes in bytes,
/// rates in bytes a second.
struct Step {
    from: f64,
    to: f64,
    rate: f64,
    mean: f64,
    limit: Option<f64>,
    buffer: f64,
    held: f64,
}

impl Step {
    fn length(&self) -> f64 {
        self.to - self.from
    }

    /// The corners of this step of a line.
    fn at(&self, value: f64) -> [(f64, f64); 2] {
        [(self.from, value), (self.to, value)]
    }
}

/// The intervals of a run. One that is much shorter than the others, such as the last, is
/// joined with the one before it: over a moment any rate is possible, and says nothing.
fn steps(run: &[Status]) -> Vec<Step> {
    let starts = || std::iter::once(0.0).chain(run.iter().map(|status| status.elapsed));
    let mut lengths: Vec<f64> = run.iter().zip(starts()).map(|(status, from)| status.elapsed - from).collect();
    lengths.sort_by(f64::total_cmp);
    let least = lengths.get(lengths.len() / 2).map_or(0.0, |median| median / 10.0);

    let mut steps: Vec<Step> = Vec::with_capacity(run.len());
    for (status, from) in run.iter().zip(starts()) {
        let mut step = Step {
            from,
            to: status.elapsed,
            rate: status.rate,
            mean: status.mean_rate,
            limit: status.limit.map(|limit| limit as f64),
            buffer: status.buffer as f64,
            held: status.buffered as f64,
        };
        if step.length() < least
            && let Some(before) = steps.pop_if(|before| before.length() > 0.0)
        {
            let bytes = before.rate * before.length() + step.rate * step.length();
            step.from = before.from;
            step.rate = bytes / step.length();
        }
        steps.push(step);
    }
    steps
}

/// The steps that make a difference to the picture: of many in one column the first, and the
/// extremes.
fn thinned(steps: &[Step]) -> Vec<&Step> {
    if steps.len() <= MOST {
        return steps.iter().collect();
    }
    let end = highest(steps.iter().map(|step| step.to));
    let column = |step: &Step| (step.to / end * COLUMNS) as u64;
    let mut kept = Vec::new();
    for chunk in steps.chunk_by(|one, other| column(one) == column(other)) {
        kept.extend(chunk.first());
        for value in [|step: &&Step| step.rate, |step: &&Step| step.held] {
            kept.extend(chunk.iter().min_by(|one, other| value(one).total_cmp(&value(other))));
            kept.extend(chunk.iter().max_by(|one, other| value(one).total_cmp(&value(other))));
        }
    }
    // Their addresses are in the order of time.
    kept.sort_unstable_by_key(|step| ptr::from_ref::<Step>(step));
    kept.dedup_by_key(|step| ptr::from_ref::<Step>(step));
    kept
}

/// The highest of some values that are not negative, or 0.
fn highest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().fold(0.0, f64::max)
}

/// Where an axis ends, and what is written along it.
#[derive(Clone, Copy)]
struct Axis {
    /// From 0 to here.
    end: f64,
    /// From one label to the next.
    step: f64,
    /// What the labels count, and its name.
    unit: f64,
    name: &'static str,
}

impl Axis {
    /// For a run of so many seconds.
    fn time(seconds: f64) -> Self {
        const UNITS: [(&str, f64, &[f64]); 5] = [
            ("ms", 0.001, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0]),
            ("s", 1.0, &[0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]),
            ("min", 60.0, &[0.5, 1.0, 2.0, 5.0, 10.0, 15.0]),
            ("h", 3600.0, &[0.5, 1.0, 2.0, 3.0, 6.0, 12.0]),
            ("days", 86400.0, &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
        ];
        let end = seconds.max(0.001);
        UNITS
            .iter()
            .flat_map(|&(name, unit, steps)| steps.iter().map(move |step| Axis { end, step: step * unit, unit, name }))
            .find(|axis| end / axis.step <= 8.0)
            .unwrap_or(Axis { end, step: end / 8.0, unit: 86400.0, name: "days" })
    }

    /// For bytes, or bytes a second, up to `top`: three to six labels, one of them at `top` if
    /// that is a round number.
    fn bytes(top: f64) -> Self {
        const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let top = if top > 0.0 { top } else { 1.0 };
        let power = (top.log2() / 10.0).clamp(0.0, 6.0).floor();
        let unit = 1024_f64.powf(power);
        let count = top / unit;
        // A limit is as likely to be 100 MiB as a buffer is to be 64 KiB.
        let binary = (count / 6.0).log2().ceil().exp2();
        let decimal = 10_f64.powf((count / 6.0).log10().floor());
        let step = [binary, 2.0 * decimal, 5.0 * decimal, 10.0 * decimal, 20.0 * decimal]
            .into_iter()
            .filter(|step| (3.0..=6.0).contains(&(count / step)))
            .min_by(|one, other| (count % one).total_cmp(&(count % other)))
            .unwrap_or(binary);
        Axis { end: top * (1.0 + AIR), step: step * unit, unit, name: NAMES[power as usize] }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + f64::from(to - from) * value / self.end).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Those between the labels would be light.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        // A rounding error must not cost the last one.
        let count = (self.end / self.step + 1e-9) as u32;
        (0..=count).map(|label| f64::from(label) * self.step).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.end
    }
}

impl ValueFormatter<f64> for Axis {
    /// A label without the traces of rounding.
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        ((value / self.unit * 1e4).round() / 1e4).to_string()
    }
}

/// How a series looks, so that it is told from the others without its colour too.
#[derive(Clone, Copy)]
struct Pen {
    color: RGBColor,
    width: u32,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Solid,
    Dashed,
    Filled,
}

impl Pen {
    /// Draws a line through `points`, in the legend as in a panel. The area below one is the
    /// caller's to close.
    fn draw<C: CoordTranslate>(self, area: &Canvas<'_, C>, points: Vec<C::From>) -> Drawn<()>
    where
        C::From: Clone + 'static,
    {
        let style = self.color.stroke_width(self.width);
        match self.kind {
            Kind::Solid => area.draw(&PathElement::new(points, style))?,
            Kind::Dashed => area.draw(&DashedPathElement::new(points, 7, 4, style))?,
            Kind::Filled => {
                area.draw(&Polygon::new(points.clone(), self.color.mix(0.3)))?;
                area.draw(&PathElement::new(points, style))?;
            }
        }
        Ok(())
    }
}

/// Whose run it is, and how much it has moved.
fn draw_header(area: &Canvas<'_>, last: &Status) -> Drawn<()> {
    let process = format!("pcproxy {}", last.pid);
    let summary = [
        if last.done { String::new() } else { "so far ".to_owned() },
        format!("{} in {}", show_size(last.bytes), show_time(last.elapsed)),
        format!(", {} on average", show_rate(last.mean_rate)),
        last.name.as_ref().map_or_else(String::new, |_| format!("; {process}")),
        last.group.as_ref().map_or_else(String::new, |group| format!("; group {}", printable(group, 40))),
    ];
    let title = last.name.as_ref().map_or(process, |name| printable(name, 60));
    write(area, &title, (LEFT as i32, 24), (FONT, 24, FontStyle::Bold, &INK))?;
    write(area, &summary.concat(), (LEFT as i32, 49), (FONT, 17, &FAINT))
}

/// The rate and its limit.
fn draw_rate(area: &Canvas<'_>, time: Axis, steps: &[&Step]) -> Drawn<()> {
    let peak = highest(steps.iter().map(|step| step.rate.max(step.mean)));
    let most = highest(steps.iter().filter_map(|step| step.limit));
    let near = |limit: &f64| peak == 0.0 || *limit <= peak * FAR;
    let near_limit = |step: &Step| step.limit.filter(near);
    let top = highest(steps.iter().filter_map(|step| near_limit(step))).max(peak);

    let rate = if steps.len() > CROWD { CROWDED_RATE } else { RATE };
    let mut legend = vec![("rate".to_owned(), rate), ("mean rate so far".to_owned(), MEAN)];
    if steps.iter().any(|step| step.limit.is_some()) {
        let far = format!(" (up to {}; not shown where far above the rate)", show_rate(most));
        legend.push((format!("limit{}", if near(&most) { "" } else { &far }), LIMIT));
    }
    draw_legend(area, &legend)?;
    let values = Axis::bytes(top);
    let panel = draw_panel(area, time, values, &format!("rate, {}/s", values.name), false)?;
    rate.draw(&panel, steps.iter().flat_map(|step| step.at(step.rate)).collect())?;
    let first = steps.iter().take(1).map(|step| (step.from, step.mean));
    MEAN.draw(&panel, first.chain(steps.iter().map(|step| (step.to, step.mean))).collect())?;
    for chunk in steps.chunk_by(|one, other| near_limit(one).is_some() == near_limit(other).is_some()) {
        let line: Vec<_> = chunk.iter().filter_map(|step| Some(step.at(near_limit(step)?))).flatten().collect();
        if !line.is_empty() {
            LIMIT.draw(&panel, line)?;
        }
    }
    Ok(())
}

/// What is held in the buffer, and its size.
fn draw_buffer(area: &Canvas<'_>, time: Axis, steps: &[&Step], most: u64) -> Drawn<()> {
    let top = highest(steps.iter().map(|step| step.buffer.max(step.held)));
    let held = format!("held in the buffer (at most {})", show_size(most));
    draw_legend(area, &[(held, HELD), ("size of the buffer".to_owned(), BUFFER)])?;
    let values = Axis::bytes(top);
    let panel = draw_panel(area, time, values, &format!("buffer, {}", values.name), true)?;
    // Every run begins with nothing held.
    let held = steps.iter().map(|step| (step.to, step.held));
    let end = steps.last().map(|step| (step.to, 0.0));
    HELD.draw(&panel, std::iter::once((0.0, 0.0)).chain(held).chain(end).collect())?;
    BUFFER.draw(&panel, steps.iter().flat_map(|step| step.at(step.buffer)).collect())
}

/// The axes of a panel, time along the lowest one only. Returns what is between them.
fn draw_panel<'a>(
    area: &Canvas<'a>,
    time: Axis,
    values: Axis,
    name: &str,
    lowest: bool,
) -> Drawn<Canvas<'a, Cartesian2d<Axis, Axis>>> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(LEGEND)
        .margin_right(RIGHT)
        .margin_bottom(if lowest { EDGE } else { 0 })
        .margin_left(EDGE)
        .y_label_area_size(LEFT - EDGE)
        .x_label_area_size(if lowest { 40 } else { 8 })
        .build_cartesian_2d(time, values)?;
    let mut mesh = chart.configure_mesh();
    mesh.bold_line_style(GRID)
        .axis_style(FAINT)
        .label_style((FONT, 15, &INK))
        .axis_desc_style((FONT, 16, &INK))
        .set_all_tick_mark_size(4)
        .y_desc(name);
    if lowest {
        mesh.x_desc(format!("time, {}", time.name));
    } else {
        mesh.x_label_formatter(&|_| String::new());
    }
    mesh.draw()?;
    Ok(chart.plotting_area().clone())
}

/// What the lines mean, above a panel. No font is known here, so each entry gets a little more
/// room than its text needs in any usual one.
fn draw_legend(area: &Canvas<'_>, entries: &[(String, Pen)]) -> Drawn<()> {
    let (mut x, y) = (LEFT as i32, LEGEND as i32 / 2);
    for (text, pen) in entries {
        let (right, above, below) = (x + 29, y - 5, y + 5);
        pen.draw(
            area,
            match pen.kind {
                Kind::Filled => vec![(x, below), (x, above), (right, above), (right, below), (x, below)],
                Kind::Solid | Kind::Dashed => vec![(x, y), (right, y)],
            },
        )?;
        write(area, text, (right + 8, y), (FONT, 16, &INK))?;
        x = right + 30 + 8 * text.len() as i32;
    }
    Ok(())
}

/// Writes `text`, which begins at the first coordinate and has its middle at the second.
fn write<'a>(area: &Canvas<'_>, text: &str, place: (i32, i32), style: impl IntoTextStyle<'a>) -> Drawn<()> {
    let style = style.into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw_text(text, &style, place)
}

/// At most so many characters of `text`, without those that no XML may hold, even escaped.
fn printable(text: &str, most: usize) -> String {
    let forbidden = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    let mut chars = text.chars().map(|c| if forbidden(c) { char::REPLACEMENT_CHARACTER } else { c });
    let mut shown: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use plotters::coord::ranged1d::BoldPoints;

    use super::*;

    #[track_caller]
    fn labels(axis: Axis, name: &str, labels: &str) {
        let shown: Vec<_> = axis.key_points(BoldPoints(10)).iter().map(|value| axis.format_ext(value)).collect();
        assert_eq!((axis.name, shown.join(" ").as_str()), (name, labels));
    }

    #[test]
    fn sizes_are_labelled_in_steps_that_meet_the_top() {
        const KIB: f64 = 1024.0;
        labels(Axis::bytes(0.0), "B", "0 0.25 0.5 0.75 1");
        labels(Axis::bytes(64.0 * KIB), "KiB", "0 16 32 48 64");
        labels(Axis::bytes(10.0 * KIB * KIB), "MiB", "0 2 4 6 8 10");
        labels(Axis::bytes(100.0 * KIB * KIB), "MiB", "0 20 40 60 80 100");
        labels(Axis::bytes(1000.0 * KIB * KIB), "MiB", "0 200 400 600 800 1000");
        labels(Axis::bytes(1.5 * KIB.powi(3)), "GiB", "0 0.25 0.5 0.75 1 1.25 1.5");
        labels(Axis::bytes(96.0 * KIB.powi(3)), "GiB", "0 16 32 48 64 80 96");
        labels(Axis::bytes(u64::MAX as f64), "EiB", "0 4 8 12 16");
    }

    #[test]
    fn no_size_has_few_labels_or_many() {
        for power in -40..700 {
            let axis = Axis::bytes(1.1_f64.powi(power));
            let count = axis.key_points(BoldPoints(10)).len();
            assert!((4..=8).contains(&count), "{count} labels up to {}", axis.end);
        }
    }

    #[test]
    fn time_is_counted_in_what_suits_the_length() {
        labels(Axis::time(0.0), "ms", "0 1");
        labels(Axis::time(0.3), "ms", "0 50 100 150 200 250 300");
        labels(Axis::time(2.5), "s", "0 0.5 1 1.5 2 2.5");
        labels(Axis::time(150.0), "s", "0 20 40 60 80 100 120 140");
        labels(Axis::time(1800.0), "min", "0 5 10 15 20 25 30");
        labels(Axis::time(86400.0), "h", "0 3 6 9 12 15 18 21 24");
        labels(Axis::time(7.5 * 86400.0), "days", "0 1 2 3 4 5 6 7");
    }
}
