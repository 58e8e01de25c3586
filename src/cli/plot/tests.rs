//! Tests of the picture of a recorded run.

use pcproxy::stats::{RecordKind, RecordStatus, State, Status};
use proptest::prelude::*;

use super::draw::{self, Style};
use super::read::{PlotError, read};
use super::svg::Theme;
use crate::cli::fixture;

const MIB: u64 = 1 << 20;

/// The picture of one run.
fn draw(run: &[Status]) -> Result<String, PlotError> {
    draw::draw(&[run], Style::default())
}

/// A status of a run at a steady 10 MiB/s, without a limit.
fn status(elapsed: f64) -> Status {
    Status { time: 1.8e9 + elapsed, pid: 4711, buffer: 64 << 10, ..fixture::status(elapsed) }
}

/// Such a run with a status each second.
fn run(seconds: u32) -> Vec<Status> {
    (1..=seconds).map(|second| status(second.into())).collect()
}

/// What such a run counts in lines of 100 bytes.
fn in_lines(status: &Status) -> RecordStatus {
    RecordStatus {
        kind: RecordKind::Lines,
        delivered: status.bytes / 100,
        size: None,
        rate: status.rate / 100.0,
        mean_rate: status.mean_rate / 100.0,
        limit: Some(2e5),
    }
}

fn lines(run: &[Status]) -> String {
    run.iter().map(|status| serde_json::to_string(status).unwrap() + "\n").collect()
}

#[track_caller]
fn refuses(lines: &str, words: &[&str]) {
    let error = read(lines.as_bytes()).unwrap_err().to_string();
    assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
}

/// An element of an SVG: its tag with the attributes, and the text right after it.
struct Element {
    tag: String,
    text: String,
}

impl Element {
    /// The points of a line.
    fn points(&self) -> Vec<(i32, i32)> {
        let (_, points) = self.tag.split_once("points=\"").unwrap_or_default();
        let points = points.split('"').next().unwrap_or_default().split_whitespace();
        points
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| [x, y].map(|number| number.parse::<f64>().unwrap().round() as i32))
            .map(|[x, y]| (x, y))
            .collect()
    }
}

/// The elements of a picture, which is well-formed: every tag is closed in its turn, and there
/// is nothing that is not escaped.
#[track_caller]
fn elements(svg: &str) -> Vec<Element> {
    let mut open = Vec::new();
    let mut elements = Vec::new();
    assert!(svg.starts_with("<svg "), "{svg:.80}");
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap();
        let name = tag.split(' ').next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        assert!(tag.matches('"').count() % 2 == 0 && !text.contains('>'), "{piece}");
        for entity in piece.split('&').skip(1) {
            assert!(["lt;", "gt;", "amp;", "quot;", "apos;"].iter().any(|known| entity.starts_with(known)), "{piece}");
        }
        assert!(!piece.chars().any(|c| c.is_control() && c != '\n'), "{piece:?}");
        elements.push(Element { tag: tag.to_owned(), text: text.trim().to_owned() });
    }
    assert!(open.is_empty(), "{open:?}");
    elements
}

/// All that is written in the picture of a run.
#[track_caller]
fn texts(run: &[Status]) -> Vec<String> {
    let texts = elements(&draw(run).unwrap()).into_iter().map(|element| element.text);
    // The first one is the style.
    texts.filter(|text| !text.is_empty()).skip(1).collect()
}

/// The line of the rate of each interval.
#[track_caller]
fn rate(run: &[Status]) -> Vec<(i32, i32)> {
    [lines_of("rate", run), lines_of("dense", run)].concat().pop().unwrap()
}

/// The lines of a class in the panels, without their pieces in the legend.
#[track_caller]
fn lines_of(class: &str, run: &[Status]) -> Vec<Vec<(i32, i32)>> {
    let class = format!("polyline class=\"{class}\" points");
    let elements = elements(&draw(run).unwrap());
    elements.iter().filter(|element| element.tag.starts_with(&class)).map(Element::points).collect()
}

/// How far up it gets: 0 is the upper edge.
#[track_caller]
fn top(run: &[Status]) -> i32 {
    rate(run).into_iter().map(|(_, y)| y).min().unwrap()
}

#[test]
fn what_was_written_is_read() {
    assert_eq!(read(lines(&run(3)).as_bytes()), Ok(run(3)));
}

#[test]
fn unknown_fields_and_empty_lines_are_skipped() {
    let text = lines(&run(2)).replace('}', ",\"mood\":{\"good\":[true]}}\n\n");
    assert_eq!(read(text.as_bytes()), Ok(run(2)));
}

#[test]
fn a_line_that_is_no_status_is_named() {
    let good = lines(&run(2));
    refuses(&format!("{good}oops\n{good}"), &["line 3", "not JSON", "column 1"]);
    refuses(&format!("{good}{{\"version\":1}}\n"), &["line 3", "not a status", "missing field"]);
    refuses("[]\n", &["line 1", "not a status"]);
    refuses("{}", &["line 1", "not a status", "version"]);
    refuses(&format!("{good}{}", &good[..40]).replacen('}', "", 1), &["line 1", "not JSON"]);
}

#[test]
fn another_version_is_named() {
    let text = lines(&run(3)).replacen("\"version\":1", "\"version\":2", 1);
    refuses(&text, &["line 1", "version 2", "knows version 1"]);
    refuses("{\"version\":2,\"all\":\"else\"}", &["line 1", "version 2"]);
}

#[test]
fn nothing_at_all_is_refused() {
    for text in ["", "\n\n", "{\"version\":1,\"ti"] {
        refuses(text, &["no status"]);
    }
    assert_eq!(draw(&[]).unwrap_err().to_string(), "no status in it");
}

#[test]
fn half_a_line_at_the_end_is_left_out() {
    let mut named = run(4);
    named[3].name = Some("Grüße".to_owned());
    let text = lines(&named);
    let fourth = lines(&run(3)).len();
    // Wherever the run was killed, also within a character.
    for end in fourth..text.len() - 1 {
        assert_eq!(read(&text.as_bytes()[..end]), Ok(run(3)), "{end}");
    }
    assert_eq!(read(text.trim_end().as_bytes()), Ok(named));
}

#[test]
fn the_last_run_is_read() {
    let (mut ended, mut other) = (run(2), run(6));
    ended[1].done = true;
    other.iter_mut().for_each(|status| status.pid = 1);
    for before in [&run(6), &other, &ended[..]] {
        let after = &run(5)[2..];
        let after = if before.len() == 2 { after } else { &run(5) };
        assert_eq!(read((lines(before) + &lines(after)).as_bytes()), Ok(after.to_vec()));
    }
}

#[test]
fn of_two_runs_at_the_same_time_the_one_that_wrote_last_is_read() {
    let mut mixed = run(5).into_iter().chain(run(5)).collect::<Vec<_>>();
    mixed.sort_by(|one, other| one.elapsed.total_cmp(&other.elapsed));
    mixed.iter_mut().step_by(2).for_each(|status| status.pid = 1);
    assert_eq!(read(lines(&mixed).as_bytes()), Ok(run(5)));
}

#[test]
fn the_title_says_what_moved() {
    let texts = texts(&run(150));
    assert!(texts.contains(&"pcproxy 4711".to_owned()), "{texts:?}");
    assert!(texts.contains(&"so far 1.46 GiB in 2 min 30 s, 10 MiB/s on average".to_owned()), "{texts:?}");
}

#[test]
fn a_name_is_escaped_and_cut() {
    let mut run = run(1);
    run[0].done = true;
    run[0].group = Some("\"R&D\"".to_owned());
    run[0].name = Some("<b> \u{1b}[1m & \u{0}\u{ffff} 'x'".to_owned());
    let shown = texts(&run);
    assert!(shown.contains(&"&lt;b&gt; ?[1m &amp; ?? &apos;x&apos;".to_owned()), "{shown:?}");
    let summary = "10 MiB in 1.00 s, 10 MiB/s on average; pcproxy 4711; group &quot;R&amp;D&quot;";
    assert!(shown.contains(&summary.to_owned()), "{shown:?}");
    run[0].name = Some("long ".repeat(50));
    assert!(texts(&run).iter().all(|text| text.len() < 90));
}

#[test]
fn the_axes_have_round_labels() {
    let mut run = run(60);
    run.iter_mut().for_each(|status| status.limit = Some(10 * MIB));
    let shown = texts(&run);
    let rate = ["0", "2", "4", "6", "8", "10", "rate, MiB/s"];
    let buffer = ["0", "16", "32", "48", "64", "buffer, KiB"];
    let time = ["0", "10", "20", "30", "40", "50", "60", "time, s"];
    for label in rate.iter().chain(&buffer).chain(&time) {
        assert!(shown.contains(&(*label).to_owned()), "{label} in {shown:?}");
    }
}

#[test]
fn any_run_can_be_drawn() {
    let mut none = run(10);
    for status in &mut none {
        (status.rate, status.mean_rate, status.buffered, status.bytes) = (0.0, 0.0, 0, 0);
    }
    let mut smaller = run(10);
    smaller[5].buffer = 16 << 10;
    let mut vast = run(2);
    (vast[1].rate, vast[1].elapsed, vast[1].buffer, vast[1].limit) = (1e300, 1e300, u64::MAX, Some(0));
    for run in [none, smaller, vast, run(1), vec![status(0.0)], vec![status(0.0), status(0.0), status(1e-9)]] {
        assert!(elements(&draw(&run).unwrap()).len() > 30);
    }
}

#[test]
fn a_long_run_is_thinned_and_keeps_its_peak() {
    let (mut short, mut long) = (run(100), run(100_000));
    short[40].rate *= 7.0;
    long[54_321].rate *= 7.0;
    assert_eq!(top(&short), top(&long));
    assert!(rate(&long).len() < 4000);
    let valley = |run: &[Status]| rate(run).into_iter().map(|(_, y)| y).max();
    short[41].rate = 0.0;
    long[54_323].rate = 0.0;
    assert_eq!(valley(&short), valley(&long));
}

#[test]
fn a_moment_is_no_peak() {
    let mut run = run(20);
    let before = top(&run);
    // The last status of a run may come right after another, with one large write between.
    run.push(Status { rate: 50.0 * run[0].rate, ..status(20.001) });
    assert!((top(&run) - before).abs() <= 12, "{} {before}", top(&run));
}

#[test]
fn a_limit_is_drawn_where_there_is_one() {
    let limit = |run: &[Status]| lines_of("limit", run);
    let mut run = run(100);
    assert!(limit(&run).is_empty());
    assert!(!texts(&run).iter().any(|text| text == "limit"));
    run[50..80].iter_mut().for_each(|status| status.limit = Some(12 * MIB));
    let (from, to) = (rate(&run)[50].0, rate(&run)[80].0);
    let line = limit(&run).pop().unwrap();
    assert!(line.len() >= 2 && line.iter().all(|(x, _)| (from - 1..=to + 1).contains(x)), "{from} {to} {line:?}");
    assert!(texts(&run).contains(&"limit".to_owned()));
}

#[test]
fn a_limit_far_above_the_rate_is_only_named() {
    let mut run = run(100);
    let before = top(&run);
    run[70..].iter_mut().for_each(|status| status.limit = Some(1 << 40));
    assert_eq!(top(&run), before);
    assert!(texts(&run).iter().any(|text| text.starts_with("limit (up to 1 TiB/s")));
}

#[test]
fn half_a_status_before_another_is_left_out() {
    let (first, second) = (lines(&run(1)), lines(&run(2)[1..]));
    for end in 1..first.len() - 1 {
        let text = format!("{first}{}{second}", &first[..end]);
        assert_eq!(read(text.as_bytes()), Ok(run(2)), "{end}");
    }
}

#[test]
fn a_line_without_an_end_takes_no_memory() {
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    assert_eq!(read(endless).unwrap_err().to_string(), "line 1: longer than any status");
}

#[test]
fn a_rate_beyond_all_bounds_is_drawn() {
    for (name, value) in
        [("rate", "1.75e308"), ("rate", "5e-324"), ("rate", "-1e300"), ("elapsed", "1e300"), ("elapsed", "-5")]
    {
        let text = lines(&run(20));
        let line = text.lines().nth(7).unwrap();
        let (before, after) = line.split_once(&format!("\"{name}\":")).unwrap();
        let hostile = format!("{before}\"{name}\":{value}{}", &after[after.find(',').unwrap()..]);
        let text = text.replace(line, &hostile);
        let svg = draw(&read(text.as_bytes()).unwrap()).unwrap();
        assert!(elements(&svg).len() > 30 && svg.len() < 100_000, "{name} {value}: {} bytes", svg.len());
    }
}

/// A number that is likely to break something.
fn hostile_number() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("5e-324".to_owned()),
        Just("1.75e308".to_owned()),
        Just("1e400".to_owned()),
        Just("-0.0".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("null".to_owned()),
        any::<f64>().prop_map(|number| format!("{number:e}")),
        any::<u64>().prop_map(|number| number.to_string()),
        any::<i32>().prop_map(|number| number.to_string()),
    ]
}

/// Reads a recording from outside and draws it if it is one. The picture has a bounded size.
fn read_and_draw(text: &[u8]) -> Result<(), TestCaseError> {
    let Ok(run) = read(text) else { return Ok(()) };
    let mut before = 0.0;
    for status in &run {
        prop_assert!((before..=1e10).contains(&status.elapsed), "{} after {}", status.elapsed, before);
        before = status.elapsed;
        let records = status.records.map(|records| (records.rate, records.mean_rate, records.limit.unwrap_or(0.0)));
        let (rate, mean_rate, limit) = records.unwrap_or_default();
        for rate in [status.rate, status.mean_rate, status.peak_rate, rate, mean_rate, limit] {
            prop_assert!((0.0..=u64::MAX as f64).contains(&rate), "a rate of {}", rate);
        }
    }
    for style in [Style::default(), Style { time_of_day: true, ..Style::default() }] {
        let svg = draw::draw(&[&run], style).unwrap();
        prop_assert!(svg.len() < 1_000_000, "{} bytes", svg.len());
        elements(&svg);
    }
    Ok(())
}

#[test]
fn one_spike_does_not_flatten_the_rest() {
    for (length, at) in [(10, 4), (100, 50), (100, 0), (5000, 2500)] {
        let mut run = run(length);
        run[at].rate *= 60.0;
        // The other rates are above the middle of the panel, and the spike is marked with its height.
        let usual = rate(&run).iter().map(|(_, y)| *y).max().unwrap();
        assert!(usual < 200, "{usual}");
        assert!(texts(&run).contains(&"cut: up to 600 MiB/s".to_owned()), "{:?}", texts(&run));
        assert!(draw(&run).unwrap().contains("polygon class=\"cut\""));
    }
}

#[test]
fn a_run_that_is_fast_half_of_the_time_is_not_cut() {
    let mut run = run(100);
    run.iter_mut().step_by(2).for_each(|status| status.rate /= 100.0);
    assert!(!texts(&run).iter().any(|text| text.starts_with("cut")));
}

/// The rectangles of a class in the band: their beginnings and widths.
fn band(class: &str, svg: &str) -> Vec<(f64, f64)> {
    let attribute = |tag: &str, name: &str| -> f64 {
        let (_, rest) = tag.split_once(&format!(" {name}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    let class = format!("rect class=\"{class}\"");
    let found = elements(svg).into_iter().filter(|element| element.tag.starts_with(&class));
    let wide = found.map(|element| (attribute(&element.tag, "x"), attribute(&element.tag, "width")));
    // The one of the legend is 14 pixels wide.
    wide.filter(|(_, width)| *width != 14.0).collect()
}

#[test]
fn pauses_and_the_slow_side_are_a_band_below_the_curve() {
    for length in [100, 10_000] {
        let mut run = run(length);
        let tenth = length as usize / 10;
        run[3 * tenth..5 * tenth].iter_mut().for_each(|status| status.state = State::Paused);
        run[5 * tenth..].iter_mut().for_each(|status| status.state = State::ConsumerSlow);
        let svg = draw(&run).unwrap();
        let [(paused, width)] = band("paused", &svg)[..] else { panic!("{:?}", band("paused", &svg)) };
        assert!((paused - 334.8).abs() < 4.0 && (width - 171.2).abs() < 4.0, "{paused} {width}");
        let texts = texts(&run);
        for text in ["flowing 30 %", "paused 20 %", "consumer slow 50 %"] {
            assert!(texts.contains(&text.to_owned()), "{texts:?}");
        }
        assert!(band("limited", &svg).is_empty() && !texts.iter().any(|text| text.starts_with("limited")));
    }
}

#[test]
fn a_line_and_its_piece_in_the_legend_have_the_same_class() {
    let mut run = run(500);
    run.iter_mut().for_each(|status| status.limit = Some(12 * MIB));
    let svg = draw(&run).unwrap();
    for class in ["dense", "mean", "limit", "held", "buffer"] {
        assert_eq!(svg.matches(&format!("polyline class=\"{class}\"")).count(), 2, "{class}");
    }
}

#[test]
fn the_theme_follows_the_page_unless_it_is_chosen() {
    let svg = |theme| draw::draw(&[&run(5)], Style { theme, ..Style::default() }).unwrap();
    let (auto, light, dark) = (svg(Theme::Auto), svg(Theme::Light), svg(Theme::Dark));
    assert!(auto.contains("@media(prefers-color-scheme:dark)") && auto.contains(".page{fill:#ffffff}"));
    assert!(!light.contains("@media") && light.contains(".page{fill:#ffffff}"));
    assert!(!dark.contains("@media") && !dark.contains("#ffffff"));
}

#[test]
fn two_runs_are_compared_in_one_picture() {
    let (mut one, mut other) = (run(100), run(50));
    one.iter_mut().for_each(|status| status.name = Some("before".to_owned()));
    other.iter_mut().for_each(|status| (status.name, status.rate) = (Some("after".to_owned()), 2.0 * status.rate));
    let svg = draw::draw(&[&one, &other], Style::default()).unwrap();
    let elements = elements(&svg);
    let line = |class: &str| {
        let class = format!("polyline class=\"{class}\" points");
        elements.iter().find(|element| element.tag.starts_with(&class)).unwrap().points()
    };
    let (first, second) = (line("rate"), line("second"));
    assert!(first[1].1 > second[1].1, "the second one is faster: {first:?} {second:?}");
    assert!(first.last().unwrap().0 - 78 > 2 * (second.last().unwrap().0 - 78) - 3, "and half as long");
    for text in ["before and after", "so far 1000 MiB in 1 min 40 s", "so far 500 MiB in 50.0 s"] {
        assert!(elements.iter().any(|element| element.text.contains(text)), "{text}");
    }
}

#[test]
fn the_axis_shows_the_time_of_day_when_asked() {
    let style = Style { time_of_day: true, ..Style::default() };
    let svg = draw::draw(&[&run(60)], style).unwrap();
    assert!(elements(&svg).iter().any(|element| element.text.starts_with("2027-01-1")), "{svg}");
    assert!(!svg.contains("time, s"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_the_plot_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
        read_and_draw(&text)?;
    }

    #[test]
    fn no_numbers_make_the_plot_panic(
        changes in prop::collection::vec((0_usize..40, 0_usize..60, hostile_number()), 1..30),
        of_records: bool,
    ) {
        let mut run = run(40);
        run.iter_mut().step_by(3).for_each(|status| status.limit = Some(12 * MIB));
        if of_records {
            run.iter_mut().for_each(|status| status.records = Some(in_lines(status)));
        }
        let mut lines: Vec<_> = lines(&run).lines().map(str::to_owned).collect();
        for (line, field, number) in changes {
            let mut fields: Vec<_> = lines[line].split(',').map(str::to_owned).collect();
            let at = field % fields.len();
            // Never the pid, the version or the name, so that most of the run stays one run.
            if let Some((key, _)) = fields[at].clone().split_once(':')
                && !["pid", "version", "name"].iter().any(|kept| key.contains(kept))
                && !fields[at].contains('}')
            {
                fields[at] = format!("{key}:{number}");
                lines[line] = fields.join(",");
            }
        }
        // One line that is refused would hide the others.
        lines.retain(|line| serde_json::from_str::<Status>(line).is_ok());
        read_and_draw((lines.join("\n") + "\n").as_bytes())?;
    }

    #[test]
    fn no_damage_makes_the_plot_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..12),
    ) {
        let mut text = lines(&run(6)).into_bytes();
        for (at, byte, kind) in changes {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => _ = text.remove(at),
            }
        }
        read_and_draw(&text)?;
    }
}
