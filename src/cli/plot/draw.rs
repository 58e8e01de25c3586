//! Drawing a recorded run as SVG: rate, limit and buffer over time.

use std::io;

use pcproxy::stats::Status;
use pcproxy::units::{show_rate, show_size, show_time};
use plotters::coord::{CoordTranslate, Shift};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::read::{PlotError, Step, highest, nothing, steps, thinned};

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

/// From so many points on, the rate is drawn with a finer line.
const CROWD: usize = 400;

/// A limit beyond so many times the highest rate is not drawn, since it would leave the rate
/// flat at the bottom.
const FAR: f64 = 2.0;

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

/// What drawing returns: on a text in memory only plotters itself can fail.
type Drawn<T> = Result<T, DrawingAreaErrorKind<io::Error>>;

type Canvas<'a, C = Shift> = DrawingArea<SVGBackend<'a>, C>;

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
