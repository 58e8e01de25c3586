//! Writing SVG: lines, areas and texts, with colours that follow the page.

use std::fmt::Write;

use clap::ValueEnum;

/// The colours of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Theme {
    /// Light or dark, as the viewer's page or desktop is
    #[default]
    Auto,
    /// Dark on white
    Light,
    /// Light on black
    Dark,
}

/// How something looks: a line, an area or a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The background.
    Page,
    /// Texts.
    Ink,
    /// Texts of less weight, and axes.
    Faint,
    /// Lines across a panel.
    Grid,
    /// The rate.
    Rate,
    /// The rate where many lines are close together.
    DenseRate,
    /// The mean rate.
    Mean,
    /// The limit.
    Limit,
    /// Bytes in the buffer: the area.
    HeldArea,
    /// Bytes in the buffer: the line above the area.
    Held,
    /// Size of the buffer.
    Buffer,
    /// The limit of the first of two runs.
    FirstLimit,
    /// The second of two runs.
    Second,
    /// The limit of the second of two runs.
    SecondLimit,
    /// Marks where a line leaves the panel.
    Cut,
    /// States, in the colours of the progress line.
    Flowing,
    ProducerSlow,
    ConsumerSlow,
    Limited,
    MachineBusy,
    Paused,
}

/// The shapes that are drawn with a class.
#[derive(Clone, Copy)]
enum Kind {
    /// A line of this width, with dashes of this length if it has any.
    Line(f64, Option<&'static str>),
    /// An area or a text.
    Fill,
}

/// Name, kind, and the colours on a light and on a dark page.
type Look = (&'static str, Kind, &'static str, &'static str);

impl Class {
    const ALL: [Class; 21] = [
        Class::Page,
        Class::Ink,
        Class::Faint,
        Class::Grid,
        Class::Rate,
        Class::DenseRate,
        Class::Mean,
        Class::Limit,
        Class::HeldArea,
        Class::Held,
        Class::Buffer,
        Class::FirstLimit,
        Class::Second,
        Class::SecondLimit,
        Class::Cut,
        Class::Flowing,
        Class::ProducerSlow,
        Class::ConsumerSlow,
        Class::Limited,
        Class::MachineBusy,
        Class::Paused,
    ];

    fn look(self) -> Look {
        use Kind::{Fill, Line};
        match self {
            Class::Page => ("page", Fill, "#ffffff", "#15181c"),
            Class::Ink => ("ink", Fill, "#222222", "#e2e2e2"),
            Class::Faint => ("faint", Fill, "#646464", "#a0a0a0"),
            Class::Grid => ("grid", Line(1.0, None), "#e2e2e2", "#33383e"),
            Class::Rate => ("rate", Line(2.0, None), "#1f5fa8", "#6fb0f5"),
            Class::DenseRate => ("dense", Line(1.0, None), "#1f5fa8", "#6fb0f5"),
            Class::Mean => ("mean", Line(1.0, None), "#222222", "#e2e2e2"),
            Class::Limit => ("limit", Line(2.0, Some("7 4")), "#c84614", "#ff8a5c"),
            Class::HeldArea => ("held-area", Fill, "#b7dad5", "#1d4f48"),
            Class::Held => ("held", Line(1.5, None), "#0f7d6e", "#48c9b5"),
            Class::Buffer => ("buffer", Line(1.0, Some("7 4")), "#222222", "#e2e2e2"),
            Class::FirstLimit => ("first-limit", Line(1.5, Some("2 3")), "#1f5fa8", "#6fb0f5"),
            Class::Second => ("second", Line(2.0, None), "#b3541e", "#f2a65a"),
            Class::SecondLimit => ("second-limit", Line(1.5, Some("2 3")), "#b3541e", "#f2a65a"),
            Class::Cut => ("cut", Fill, "#1f5fa8", "#6fb0f5"),
            Class::Flowing => ("flowing", Fill, "#4caf6d", "#3f9a5d"),
            Class::ProducerSlow => ("producer-slow", Fill, "#35b0c4", "#2f9db0"),
            Class::ConsumerSlow => ("consumer-slow", Fill, "#d9534f", "#d65c58"),
            Class::Limited => ("limited", Fill, "#e3b32b", "#d1a42a"),
            Class::MachineBusy => ("machine-busy", Fill, "#4a6fd0", "#5f83e0"),
            Class::Paused => ("paused", Fill, "#b05cc0", "#b868c8"),
        }
    }

    fn name(self) -> &'static str {
        self.look().0
    }

    /// The rule that gives this class its colours, and all that does not depend on the page.
    fn rule(self, dark: bool) -> String {
        let (name, kind, light_color, dark_color) = self.look();
        let color = if dark { dark_color } else { light_color };
        match kind {
            Kind::Fill => format!(".{name}{{fill:{color}}}"),
            Kind::Line(width, dashes) => {
                let dashes = dashes.map_or_else(String::new, |dashes| format!(";stroke-dasharray:{dashes}"));
                format!(".{name}{{fill:none;stroke:{color};stroke-width:{width}{dashes}}}")
            }
        }
    }
}

/// Where a text is in relation to its place.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG text that grows. Coordinates are in pixels, from the upper left corner.
pub struct Svg {
    text: String,
}

impl Svg {
    /// An empty page.
    pub fn new((width, height): (f64, f64), theme: Theme) -> Self {
        let rules = |dark| Class::ALL.map(|class| class.rule(dark)).concat();
        let style = match theme {
            Theme::Light => rules(false),
            Theme::Dark => rules(true),
            Theme::Auto => format!("{}\n@media(prefers-color-scheme:dark){{{}}}", rules(false), rules(true)),
        };
        let mut svg = Svg { text: String::new() };
        svg.add(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n<style>{style}</style>\n"
        ));
        svg.rect(Class::Page, (0.0, 0.0), (width, height));
        svg
    }

    /// A line through `points`.
    pub fn line(&mut self, class: Class, points: impl IntoIterator<Item = (f64, f64)>) {
        self.shape("polyline", "", class, points);
    }

    /// A straight line along an axis. It is as dark as its class says, also where it is between two
    /// pixels.
    pub fn straight(&mut self, class: Class, from: (f64, f64), to: (f64, f64)) {
        self.shape("polyline", " shape-rendering=\"crispEdges\"", class, [from, to]);
    }

    /// The area inside of `points`.
    pub fn area(&mut self, class: Class, points: impl IntoIterator<Item = (f64, f64)>) {
        self.shape("polygon", "", class, points);
    }

    fn shape(&mut self, element: &str, more: &str, class: Class, points: impl IntoIterator<Item = (f64, f64)>) {
        self.add(format_args!("<{element} class=\"{}\"{more} points=\"", class.name()));
        let mut before = None;
        for (x, y) in points {
            let point = (round(x), round(y));
            if before != Some(point) {
                self.add(format_args!("{}{},{}", if before.is_some() { " " } else { "" }, point.0, point.1));
            }
            before = Some(point);
        }
        self.add(format_args!("\"/>\n"));
    }

    /// A filled rectangle by its upper left corner and its size.
    pub fn rect(&mut self, class: Class, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let [x, y, width, height] = [x, y, width, height].map(round);
        let class = class.name();
        self.add(format_args!("<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>\n"));
    }

    /// A text of so many pixels in height. `place` is the middle of its height.
    pub fn text(&mut self, class: Class, size: f64, anchor: Anchor, place: (f64, f64), text: &str) {
        self.write(class, size, anchor, place, "", text);
    }

    /// The same in bold.
    pub fn bold(&mut self, class: Class, size: f64, anchor: Anchor, place: (f64, f64), text: &str) {
        self.write(class, size, anchor, place, " font-weight=\"bold\"", text);
    }

    /// The same from bottom to top. `place` is the middle of the text.
    pub fn upward(&mut self, class: Class, size: f64, (x, y): (f64, f64), text: &str) {
        let rotation = format!(" transform=\"rotate(-90 {} {})\"", round(x), round(y));
        self.write(class, size, Anchor::Middle, (x, y), &rotation, text);
    }

    fn write(&mut self, class: Class, size: f64, anchor: Anchor, (x, y): (f64, f64), more: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        // Not every viewer knows dominant-baseline.
        let (x, y, class) = (round(x), round(y + size * 0.35), class.name());
        self.add(format_args!(
            "<text class=\"{class}\" font-size=\"{size}\" text-anchor=\"{anchor}\" x=\"{x}\" y=\"{y}\"{more}>{}</text>\n",
            escaped(text)
        ));
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(text);
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// Rounded to a tenth of a pixel.
fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            c => escaped.push(c),
        }
    }
    escaped
}
