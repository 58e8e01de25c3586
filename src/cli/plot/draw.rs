//! Drawing one recorded run, or two to compare: rate, limit, states and buffer over time.

use jiff::tz::TimeZone;
use pcproxy::stats::{State, Status};
use pcproxy::units::{printable, show_number, show_record_rate, show_share, show_size, show_time};

use super::axis::Axis;
use super::read::{PlotError, Step, highest, nothing, states, steps, thinned, usual_peak};
use super::svg::{Anchor, Class, Svg, Theme};

/// Width and height of the picture in pixels.
const SIZE: (f64, f64) = (960.0, 560.0);

/// Left and right edge of all panels, in pixels.
const LEFT: f64 = 78.0;
const RIGHT: f64 = SIZE.0 - 26.0;

/// Upper and lower edges in pixels: of the panel of rates, of the bands of states, of the panel of
/// the buffer.
const RATES: (f64, f64) = (94.0, 300.0);
const BANDS: f64 = 308.0;
const BUFFER: (f64, f64) = (380.0, 506.0);

/// Height of a band, and the distance between the middles of two rows of text, in pixels.
const BAND: f64 = 10.0;
const ROW: f64 = 14.0;

/// Middle of the legend above a panel, in pixels above its upper edge.
const LEGEND: f64 = 14.0;

/// The rate of a run with more steps than this is drawn with a finer line.
const DENSE: usize = 400;

/// A limit above this multiple of the highest rate is not drawn, since it would leave the rate flat
/// at the bottom.
const FAR: f64 = 2.0;

/// The shortest distance in pixels between two marks of values that were cut.
const MARKS: f64 = 14.0;

/// The choices of the user for a picture.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Colours.
    pub theme: Theme,
    /// Label the axis with the time of day.
    pub time_of_day: bool,
}

/// A run to draw.
struct Run<'a> {
    last: &'a Status,
    steps: Vec<Step>,
}

impl Run<'_> {
    fn title(&self) -> String {
        let process = format!("pcproxy {}", self.last.pid);
        self.last.name.as_ref().map_or(process, |name| shortened(name, 60))
    }

    /// How much it has moved.
    fn summary(&self) -> String {
        let Status { done, bytes, elapsed, records, .. } = *self.last;
        let so_far = if done { "" } else { "so far " };
        let rate = self.last.show_mean_rate();
        let records = records
            .map_or_else(String::new, |records| format!("{} {}, ", show_number(records.delivered), records.kind));
        format!("{so_far}{records}{} in {}, {rate} on average", show_size(bytes), show_time(elapsed))
    }
}

/// Draws one run, or two to compare, as an SVG text of 960 by 560 pixels. Each run is its statuses in
/// the order of time.
///
/// The upper panel shows the rate of each interval between two statuses, the mean rate so far and the
/// limit. Below it a band shows what the run waited for. The lower panel shows the bytes in the buffer
/// and its size. A few rates far above all others are cut and marked, and a limit far above the rate
/// is only named. Of a long run the extremes are drawn.
///
/// # Errors
/// When a run has no status.
pub fn draw(runs: &[&[Status]], style: Style) -> Result<String, PlotError> {
    let runs: Option<Vec<_>> = runs.iter().map(|run| Some(Run { last: run.last()?, steps: steps(run) })).collect();
    let runs = runs.filter(|runs| !runs.is_empty()).ok_or_else(nothing)?;
    let end = highest(runs.iter().map(|run| run.last.elapsed));
    let mut picture = Picture { svg: Svg::new(SIZE, style.theme), time: time_axis(&runs, end, style) };
    match &runs[..] {
        [run] => picture.one(run),
        runs => picture.several(runs),
    }
    Ok(picture.svg.finish())
}

/// The time of day of the first run, or the time since the beginning.
fn time_axis(runs: &[Run], end: f64, style: Style) -> Axis {
    match runs {
        [Run { last, .. }, ..] if style.time_of_day => {
            Axis::time_of_day(last.time - last.elapsed, end, &TimeZone::system())
        }
        _ => {
            let axis = Axis::time(end);
            Axis { name: format!("time, {}", axis.name), ..axis }
        }
    }
}

/// A picture that is being drawn.
struct Picture {
    svg: Svg,
    time: Axis,
}

/// A panel: its edges and its axis of values.
struct Panel {
    edges: (f64, f64),
    values: Axis,
}

impl Panel {
    /// Where a value is. Values above the end of the axis are at the upper edge.
    fn y(&self, value: f64) -> f64 {
        let (top, bottom) = self.edges;
        bottom - (bottom - top) * (value / self.values.end).clamp(0.0, 1.0)
    }
}

impl Picture {
    /// All of one run.
    fn one(&mut self, run: &Run) {
        let last = run.last;
        self.svg.bold(Class::Ink, 24.0, Anchor::Start, (LEFT, 24.0), &run.title());
        let process = last.name.as_ref().map_or_else(String::new, |_| format!("; pcproxy {}", last.pid));
        let group = last.group.as_ref().map_or_else(String::new, |group| format!("; group {}", shortened(group, 40)));
        let summary = run.summary() + &process + &group;
        self.svg.text(Class::Faint, 17.0, Anchor::Start, (LEFT, 49.0), &summary);

        let kept = thinned(&run.steps);
        self.rates(run, &kept);
        let spans = states(&run.steps, self.time.end);
        self.band(BANDS, &spans);
        self.band_legend(&[spans], BANDS + BAND + ROW);
        self.buffer(run, &kept);
    }

    /// The rate, its mean and its limit.
    fn rates(&mut self, run: &Run, kept: &[&Step]) {
        let peak = highest(kept.iter().map(|step| step.rate.max(step.mean)));
        let usual = usual_peak(&run.steps);
        let highest_limit = highest(kept.iter().filter_map(|step| step.limit));
        let is_near = |limit: f64| peak == 0.0 || limit <= usual * FAR;
        let near_limit = |step: &Step| step.limit.filter(|limit| is_near(*limit));
        let is_cut = usual < highest(kept.iter().map(|step| step.rate));
        let mean = if is_cut { usual } else { peak };
        let top = highest(kept.iter().filter_map(|step| near_limit(step))).max(usual).max(mean);
        let values = rates(top, run.last);

        let rate = if kept.len() > DENSE { Class::DenseRate } else { Class::Rate };
        let mut legend = vec![("rate".to_owned(), rate), ("mean rate so far".to_owned(), Class::Mean)];
        if kept.iter().any(|step| step.limit.is_some()) {
            let far = format!(" (up to {}; not shown where far above the rate)", shown(run.last, highest_limit));
            legend.push((format!("limit{}", if is_near(highest_limit) { "" } else { &far }), Class::Limit));
        }
        self.legend(&legend, RATES.0);
        let name = format!("rate, {}/s", values.name);
        let panel = self.panel(RATES, values, &name, false);
        self.line(rate, &panel, kept.iter().flat_map(|step| step.at(step.rate)));
        let first = kept.iter().take(1).map(|step| (step.from, step.mean));
        self.line(Class::Mean, &panel, first.chain(kept.iter().map(|step| (step.to, step.mean))));
        for chunk in kept.chunk_by(|one, other| near_limit(one).is_some() == near_limit(other).is_some()) {
            let line: Vec<_> = chunk.iter().filter_map(|step| Some(step.at(near_limit(step)?))).flatten().collect();
            if !line.is_empty() {
                self.line(Class::Limit, &panel, line);
            }
        }
        self.marks(Class::Cut, &panel, kept, run.last);
    }

    /// Marks where rates are above the panel, and says how high the highest is.
    fn marks(&mut self, class: Class, panel: &Panel, kept: &[&Step], last: &Status) {
        let above: Vec<_> = kept.iter().filter(|step| step.rate > panel.values.end).collect();
        let Some(peak) = above.iter().max_by(|one, other| one.rate.total_cmp(&other.rate)) else { return };
        let middle = |step: &Step| self.x(f64::midpoint(step.from, step.to));
        let top = panel.edges.0;
        let mut marks = vec![middle(peak)];
        for x in above.iter().map(|step| middle(step)) {
            if marks.iter().all(|mark| (mark - x).abs() >= MARKS) {
                marks.push(x);
            }
        }
        let x = marks[0];
        for x in marks {
            self.svg.area(class, [(x - 5.0, top + 2.0), (x + 5.0, top + 2.0), (x, top - 6.0)]);
        }
        let (anchor, x) = if x > (LEFT + RIGHT) / 2.0 { (Anchor::End, x - 9.0) } else { (Anchor::Start, x + 9.0) };
        let text = format!("cut: up to {}", shown(last, peak.rate));
        self.svg.text(Class::Ink, 14.0, anchor, (x, top + 9.0), &text);
    }

    /// The bytes in the buffer, and its size.
    fn buffer(&mut self, run: &Run, kept: &[&Step]) {
        let top = highest(kept.iter().map(|step| step.buffer.max(step.held)));
        let held = format!("held in the buffer (at most {})", show_size(run.last.peak_buffered));
        self.legend(&[(held, Class::HeldArea), ("size of the buffer".to_owned(), Class::Buffer)], BUFFER.0);
        let values = Axis::bytes(top);
        let name = format!("buffer, {}", values.name);
        let panel = self.panel(BUFFER, values, &name, true);
        // Every run begins with an empty buffer.
        let held: Vec<_> = [(0.0, 0.0)].into_iter().chain(kept.iter().map(|step| (step.to, step.held))).collect();
        let end = kept.last().map(|step| (step.to, 0.0));
        let area: Vec<_> =
            held.iter().copied().chain(end).map(|(time, value)| (self.x(time), panel.y(value))).collect();
        self.svg.area(Class::HeldArea, area);
        self.line(Class::Held, &panel, held);
        self.line(Class::Buffer, &panel, kept.iter().flat_map(|step| step.at(step.buffer)));
    }

    /// Two runs to compare, each from its beginning.
    fn several(&mut self, runs: &[Run]) {
        const CLASSES: [(Class, Class); 2] = [(Class::Rate, Class::FirstLimit), (Class::Second, Class::SecondLimit)];
        let kept: Vec<_> = runs.iter().map(|run| thinned(&run.steps)).collect();
        let titles: Vec<_> = runs.iter().map(Run::title).collect();
        self.svg.bold(Class::Ink, 20.0, Anchor::Start, (LEFT, 20.0), &titles.join(" and "));
        for (row, (run, (class, _))) in runs.iter().zip(CLASSES).enumerate() {
            let y = 44.0 + 20.0 * row as f64;
            self.key(class, (LEFT, y));
            let text = format!("{}: {}", run.title(), run.summary());
            self.svg.text(Class::Ink, 15.0, Anchor::Start, (LEFT + 37.0, y), &text);
        }

        let top = highest(runs.iter().map(|run| usual_peak(&run.steps)));
        let limit = |step: &Step| step.limit.filter(|limit| top == 0.0 || *limit <= top * FAR);
        let highest_limit = highest(kept.iter().flatten().filter_map(|step| limit(step)));
        let values = rates(top.max(highest_limit), runs[0].last);
        let name = format!("rate, {}/s", values.name);
        let panel = self.panel(RATES, values, &name, false);
        for (kept, (class, limit_class)) in kept.iter().zip(CLASSES) {
            self.line(class, &panel, kept.iter().flat_map(|step| step.at(step.rate)));
            for chunk in kept.chunk_by(|one, other| limit(one).is_some() == limit(other).is_some()) {
                let line: Vec<_> = chunk.iter().filter_map(|step| Some(step.at(limit(step)?))).flatten().collect();
                if !line.is_empty() {
                    self.line(limit_class, &panel, line);
                }
            }
        }
        let highest_run = kept.iter().max_by(|one, other| {
            let peak = |kept: &[&Step]| highest(kept.iter().map(|step| step.rate));
            peak(one).total_cmp(&peak(other))
        });
        if let Some(kept) = highest_run {
            self.marks(Class::Ink, &panel, kept, runs[0].last);
        }

        let spans: Vec<_> = runs.iter().map(|run| states(&run.steps, self.time.end)).collect();
        for (row, (spans, (class, _))) in spans.iter().zip(CLASSES).enumerate() {
            let y = BANDS + row as f64 * (BAND + 2.0);
            self.band(y, spans);
            self.svg.straight(class, (LEFT - 26.0, y + BAND / 2.0), (LEFT - 6.0, y + BAND / 2.0));
        }
        self.band_legend(&spans, BANDS + 2.0 * BAND + ROW + 2.0);

        let values = Axis::bytes(highest(kept.iter().flatten().map(|step| step.held)));
        let name = format!("held, {}", values.name);
        let panel = self.panel(BUFFER, values, &name, true);
        for (kept, (class, _)) in kept.iter().zip(CLASSES) {
            self.line(class, &panel, [(0.0, 0.0)].into_iter().chain(kept.iter().map(|step| (step.to, step.held))));
        }
    }

    /// Where a time is.
    fn x(&self, time: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (time / self.time.end).clamp(0.0, 1.0)
    }

    /// A line through points of time and value.
    fn line(&mut self, class: Class, panel: &Panel, points: impl IntoIterator<Item = (f64, f64)>) {
        let points: Vec<_> = points.into_iter().map(|(time, value)| (self.x(time), panel.y(value))).collect();
        self.svg.line(class, points);
    }

    /// The axes of a panel. Only the lowest one has labels of time.
    fn panel(&mut self, edges: (f64, f64), values: Axis, name: &str, lowest: bool) -> Panel {
        let panel = Panel { edges, values };
        let (top, bottom) = edges;
        for (value, label) in &panel.values.labels {
            let y = panel.y(*value);
            self.svg.straight(Class::Grid, (LEFT, y), (RIGHT, y));
            self.svg.text(Class::Ink, 14.0, Anchor::End, (LEFT - 8.0, y), label);
        }
        for (time, label) in self.time.labels.clone() {
            let x = self.x(time);
            self.svg.straight(Class::Grid, (x, top), (x, bottom));
            if lowest {
                let is_at_edge = x + 4.0 * label.len() as f64 > SIZE.0;
                let (anchor, x) = if is_at_edge { (Anchor::End, RIGHT) } else { (Anchor::Middle, x) };
                self.svg.text(Class::Ink, 14.0, anchor, (x, bottom + 14.0), &label);
            }
        }
        if lowest {
            let middle = ((LEFT + RIGHT) / 2.0, bottom + 38.0);
            self.svg.text(Class::Ink, 15.0, Anchor::Middle, middle, &self.time.name);
        }
        self.svg.upward(Class::Ink, 15.0, (20.0, f64::midpoint(top, bottom)), name);
        panel
    }

    /// The state of a run over time.
    fn band(&mut self, y: f64, spans: &[(f64, f64, State)]) {
        for (from, to, state) in spans {
            let (from, to) = (self.x(*from), self.x(*to));
            self.svg.rect(class(*state), (from, y), (to - from, BAND));
        }
    }

    /// What the colours of the bands mean: the states that there are. Of a single run also for how much
    /// of the time.
    fn band_legend(&mut self, bands: &[Vec<(f64, f64, State)>], y: f64) {
        let mut x = LEFT;
        for state in STATES {
            let shares: Vec<_> = bands.iter().map(|spans| share(spans, state)).collect();
            if shares.iter().any(|share| *share > 0.0) {
                let text = match shares[..] {
                    [share] => format!("{state} {}", show_share(share, 1.0)),
                    _ => state.to_string(),
                };
                self.svg.rect(class(state), (x, y - 5.0), (14.0, 10.0));
                self.svg.text(Class::Ink, 14.0, Anchor::Start, (x + 20.0, y), &text);
                x += 40.0 + 7.2 * text.len() as f64;
            }
        }
    }

    /// The legend above a panel. No font is known here, so each entry gets a little more
    /// room than its text needs in any usual one.
    fn legend(&mut self, entries: &[(String, Class)], top: f64) {
        let (mut x, y) = (LEFT, top - LEGEND);
        for (text, class) in entries {
            self.key(*class, (x, y));
            self.svg.text(Class::Ink, 15.0, Anchor::Start, (x + 37.0, y), text);
            x += 59.0 + 7.7 * text.len() as f64;
        }
    }

    /// A piece of a line or an area, for a legend.
    fn key(&mut self, class: Class, (x, y): (f64, f64)) {
        match class {
            Class::HeldArea => {
                self.svg.rect(class, (x, y - 5.0), (29.0, 10.0));
                self.svg.straight(Class::Held, (x, y - 5.0), (x + 29.0, y - 5.0));
            }
            class => self.svg.straight(class, (x, y), (x + 29.0, y)),
        }
    }
}

/// All states, in the order of the legend.
const STATES: [State; 6] =
    [State::Flowing, State::Limited, State::ProducerSlow, State::ConsumerSlow, State::MachineBusy, State::Paused];

fn class(state: State) -> Class {
    match state {
        State::Flowing => Class::Flowing,
        State::ProducerSlow => Class::ProducerSlow,
        State::ConsumerSlow => Class::ConsumerSlow,
        State::Limited => Class::Limited,
        State::MachineBusy => Class::MachineBusy,
        State::Paused => Class::Paused,
    }
}

/// The share of the time that was spent in `state`, from 0 to 1.
fn share(spans: &[(f64, f64, State)], state: State) -> f64 {
    let length = |(from, to, _): &(f64, f64, State)| to - from;
    let total: f64 = spans.iter().map(length).sum();
    let within: f64 = spans.iter().filter(|(.., other)| *other == state).map(length).sum();
    if total > 0.0 { within / total } else { 0.0 }
}

/// At most `most` characters of `text`, without those that are harmful, or that XML cannot hold even
/// escaped.
fn shortened(text: &str, most: usize) -> String {
    let text = printable(text);
    let mut chars = text.chars().map(|c| if matches!(c, '\u{fffe}' | '\u{ffff}') { '?' } else { c });
    let mut shown: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The axis of rates of a run: of records where it counts these, else of bytes.
fn rates(top: f64, last: &Status) -> Axis {
    match last.records {
        None => Axis::rates(top, last.rate_unit),
        Some(records) => {
            let axis = Axis::counts(top);
            Axis { name: format!("{}{}", axis.name, records.kind), ..axis }
        }
    }
}

/// A rate of that axis, for people.
fn shown(last: &Status, rate: f64) -> String {
    if last.records.is_some() { show_record_rate(rate) } else { last.show_bytes_rate(rate) }
}
