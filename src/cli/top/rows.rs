//! The lines of the table: runs, and groups above their members. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use pcproxy::control::{ControlError, RunId};
use pcproxy::stats::Status;
use pcproxy::units::printable;

use super::columns::Column;

/// A run.
#[derive(Debug)]
pub struct Row {
    pub id: RunId,
    /// Its latest status.
    pub status: Option<Status>,
    /// Why it has not answered since.
    pub trouble: Option<ControlError>,
    /// When it was found to have ended.
    pub ended: Option<Duration>,
    pub history: History,
}

/// The rates of the last minute, in bytes or records per second.
#[derive(Debug)]
pub struct History {
    /// The latest comes last; nothing where the run did not answer.
    pub rates: VecDeque<Option<f64>>,
    /// How many there have been before those.
    pub forgotten: usize,
    /// How many are kept, at least 1.
    pub samples: usize,
}

/// The subject of a line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Run(RunId),
    /// A group, by its path.
    Group(String),
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub item: Item,
    /// How many groups above it are shown.
    pub depth: usize,
}

/// The order of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub column: Column,
    pub reversed: bool,
}

/// The sum of the members of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    pub runs: usize,
    /// Bytes per second.
    pub rate: f64,
    /// Records per second, of those that count them.
    pub records: f64,
    pub bytes: u64,
}

impl Row {
    pub fn new(id: RunId, samples: usize) -> Self {
        let history = History { rates: VecDeque::new(), forgotten: 0, samples };
        Row { id, status: None, trouble: None, ended: None, history }
    }

    /// How it is called.
    pub fn label(&self) -> String {
        self.name().map_or_else(|| self.id.pid.to_string(), printable)
    }

    /// Whether its latest status still holds.
    pub fn is_well(&self) -> bool {
        self.trouble.is_none() && self.ended.is_none()
    }

    pub fn name(&self) -> Option<&str> {
        self.status.as_ref()?.name.as_deref()
    }

    pub fn group(&self) -> Option<&str> {
        self.status.as_ref()?.group.as_deref()
    }

    /// The share of the expected bytes that is delivered.
    pub fn share_done(&self) -> Option<f64> {
        let status = self.status.as_ref()?;
        let (delivered, size) = status.progress();
        Some(delivered as f64 / size.filter(|size| *size > 0)? as f64)
    }

    /// Seconds until it is finished.
    pub fn time_left(&self) -> Option<f64> {
        self.status.as_ref().filter(|_| self.is_well())?.time_left
    }

    /// Whether it is what the user looks for, in lower case.
    fn fits(&self, sought: &str) -> bool {
        let texts = [self.name(), self.group()].into_iter().flatten();
        self.id.pid.to_string().contains(sought) || texts.into_iter().any(|text| text.to_lowercase().contains(sought))
    }

    /// Compares two rows by what a column shows. The largest number comes first, and what is not
    /// known last.
    fn compare(&self, other: &Row, order: Order) -> Ordering {
        let number = |of: fn(&Row) -> Option<f64>| match (of(self), of(other)) {
            (Some(one), Some(two)) => two.total_cmp(&one),
            (one, two) => two.is_some().cmp(&one.is_some()),
        };
        let text = |of: fn(&Row) -> Option<&str>| match (of(self), of(other)) {
            (Some(one), Some(two)) => natural(one, two),
            (one, two) => two.is_some().cmp(&one.is_some()),
        };
        let status = |row: &Row, of: fn(&Status) -> f64| row.status.as_ref().map(of);
        let by_column = match order.column {
            Column::Name => text(Row::name),
            Column::Group => text(Row::group),
            Column::Pid => self.id.pid.cmp(&other.id.pid),
            Column::User => self.id.cmp(&other.id),
            Column::State => {
                let state = |row: &Row| row.status.as_ref().map(|status| status.state.to_string());
                state(self).cmp(&state(other))
            }
            Column::Done => number(Row::share_done),
            Column::Left => number(|row| row.time_left().map(|left| -left)),
            Column::Rate | Column::Minute => number(|row| Some(row.status.as_ref().filter(|_| row.is_well())?.rate)),
            Column::Limit => number(|row| row.status.as_ref()?.limit.map(|limit| limit as f64)),
            Column::Bytes => number(|row| Some(row.status.as_ref()?.bytes as f64)),
            Column::Time => number(|row| Some(row.status.as_ref()?.elapsed)),
            Column::Held => number(|row| {
                let status = row.status.as_ref()?;
                Some(status.buffered as f64 / status.buffer.max(1) as f64)
            }),
            Column::Buffer => status(other, |status| status.buffer as f64)
                .partial_cmp(&status(self, |status| status.buffer as f64))
                .unwrap_or(Ordering::Equal),
        };
        let by_column = if order.reversed { by_column.reverse() } else { by_column };
        by_column.then_with(|| text(Row::name)).then_with(|| self.id.cmp(&other.id))
    }
}

impl History {
    pub fn push(&mut self, rate: Option<f64>) {
        if self.rates.len() == self.samples {
            self.rates.pop_front();
            self.forgotten += 1;
        }
        self.rates.push_back(rate);
    }
}

/// The rate in what the run counts, bytes or records.
pub fn rate_of(status: &Status) -> f64 {
    status.records.map_or(status.rate, |records| records.rate)
}

/// Brings the rows into order.
pub fn sort(rows: &mut [Row], order: Order) {
    rows.sort_by(|one, other| one.compare(other, order));
}

/// The lines of rows that are in order: one each, or below their groups with `by_group`. Members
/// of folded groups have none.
pub fn lines(rows: &[Row], by_group: bool, folded: &BTreeSet<String>) -> Vec<Line> {
    let run = |row: &Row, depth| Line { item: Item::Run(row.id), depth };
    if !by_group {
        return rows.iter().map(|row| run(row, 0)).collect();
    }
    let mut groups: Vec<String> = rows.iter().filter_map(Row::group).flat_map(levels).map(str::to_owned).collect();
    groups.sort_by(|one, other| by_level(one, other));
    groups.dedup();
    let mut lines = Vec::new();
    for group in groups {
        if levels(&group).any(|level| level != group && folded.contains(level)) {
            continue;
        }
        let depth = levels(&group).count() - 1;
        let is_folded = folded.contains(&group);
        lines.push(Line { item: Item::Group(group.clone()), depth });
        if !is_folded {
            let members = rows.iter().filter(|row| row.group() == Some(&group));
            lines.extend(members.map(|row| run(row, depth + 1)));
        }
    }
    lines.extend(rows.iter().filter(|row| row.group().is_none()).map(|row| run(row, 0)));
    lines
}

/// The next line after `from` that is what the user looks for, or the one before it with `back`.
/// The search goes on at the other end.
pub fn find(rows: &[Row], lines: &[Line], from: usize, sought: &str, back: bool) -> Option<usize> {
    let sought = sought.to_lowercase();
    let fits = |place: &usize| match &lines[*place].item {
        Item::Run(id) => rows.iter().any(|row| row.id == *id && row.fits(&sought)),
        Item::Group(group) => group.to_lowercase().contains(&sought),
    };
    let mut places = (from..lines.len()).chain(0..from.min(lines.len()));
    if back { places.rfind(fits) } else { places.find(fits) }
}

/// The sum of the members of a group and of the groups below it.
pub fn total(rows: &[Row], group: &str) -> Total {
    let is_member =
        |row: &&Row| row.ended.is_none() && row.group().is_some_and(|own| levels(own).any(|level| level == group));
    let mut total = Total::default();
    for row in rows.iter().filter(is_member) {
        total.runs += 1;
        if let Some(status) = &row.status {
            total.bytes = total.bytes.saturating_add(status.bytes);
            if row.is_well() {
                total.rate += status.rate;
                total.records += status.records.map_or(0.0, |records| records.rate);
            }
        }
    }
    total
}

/// The groups on the path to this one, the outermost first: `a/b` has `a` and `a/b`.
fn levels(group: &str) -> impl Iterator<Item = &str> {
    let ends = group.match_indices('/').map(|(at, _)| at).chain([group.len()]);
    ends.map(|end| &group[..end])
}

/// Groups below a group come right after it.
fn by_level(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => return natural(a, b).then_with(|| a.cmp(b)),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

/// Compares as people count: `disk9` comes before `disk10`.
fn natural(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (a, b) = (digits(one), digits(other));
        let compared = if a > 0 && b > 0 {
            let (x, y) = (one[..a].trim_start_matches('0'), other[..b].trim_start_matches('0'));
            let compared = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            (one, other) = (&one[a..], &other[b..]);
            compared
        } else {
            let (mut left, mut right) = (one.chars(), other.chars());
            let pair = (left.next(), right.next());
            (one, other) = (left.as_str(), right.as_str());
            match pair {
                (None, None) => return Ordering::Equal,
                (x, y) => x.cmp(&y),
            }
        };
        if compared != Ordering::Equal {
            return compared;
        }
    }
}

/// How many digits a text begins with.
fn digits(text: &str) -> usize {
    text.len() - text.trim_start_matches(|sign: char| sign.is_ascii_digit()).len()
}

#[cfg(test)]
mod tests {
    use super::super::app::tests::{id, status};
    use super::*;
    use proptest::prelude::*;

    fn row(pid: u32, name: Option<&str>, group: Option<&str>) -> Row {
        let mut row = Row::new(id(pid), 4);
        row.status = Some(Status { group: group.map(str::to_owned), ..status(pid, name) });
        row
    }

    /// The lines, as indented names.
    fn shown(rows: &[Row], folded: &[&str]) -> Vec<String> {
        let folded = folded.iter().map(|group| (*group).to_owned()).collect();
        let text = |line: Line| {
            let name = match line.item {
                Item::Run(id) => rows.iter().find(|row| row.id == id).unwrap().label(),
                Item::Group(group) => format!("{group}/"),
            };
            format!("{}{name}", " ".repeat(line.depth))
        };
        lines(rows, true, &folded).into_iter().map(text).collect()
    }

    #[test]
    fn names_are_in_the_order_in_which_people_count() {
        let mut names = ["disk10", "disk9", "disk", "disk09b", "a", "disk9a", "Z", "disk010"];
        names.sort_by(|one, other| natural(one, other));
        assert_eq!(names, ["Z", "a", "disk", "disk9", "disk9a", "disk09b", "disk10", "disk010"]);
    }

    proptest! {
        #[test]
        fn the_order_of_names_is_an_order(names in proptest::collection::vec("[a0-2é]{0,5}", 3)) {
            let [a, b, c] = [&names[0], &names[1], &names[2]];
            prop_assert_eq!(natural(a, b), natural(b, a).reverse());
            if natural(a, b).is_le() && natural(b, c).is_le() {
                prop_assert!(natural(a, c).is_le());
            }
        }
    }

    #[test]
    fn groups_stand_above_their_members_and_fold() {
        let mut rows = [
            row(1, Some("x"), None),
            row(2, Some("b"), Some("site/db")),
            row(3, Some("a"), Some("site/db")),
            row(4, Some("c"), Some("site")),
            row(5, Some("d"), Some("site-2")),
        ];
        sort(&mut rows, Order { column: Column::Name, reversed: false });
        let all = ["site/", " c", " site/db/", "  a", "  b", "site-2/", " d", "x"];
        assert_eq!(shown(&rows, &[]), all);
        assert_eq!(shown(&rows, &["site/db"]), ["site/", " c", " site/db/", "site-2/", " d", "x"]);
        assert_eq!(shown(&rows, &["site"]), ["site/", "site-2/", " d", "x"]);
        assert_eq!(
            total(&rows, "site"),
            Total { runs: 3, rate: 3.0 * 4_194_304.0, records: 0.0, bytes: 3 * (240 << 20) }
        );
    }

    #[test]
    fn the_largest_number_comes_first_and_the_unknown_last() {
        let mut rows = [row(1, None, None), row(2, None, None), row(3, None, None)];
        for (row, rate) in rows.iter_mut().zip([5.0, 9.0, 7.0]) {
            row.status.as_mut().unwrap().rate = rate;
        }
        rows[1].status = None;
        let mut pids = |column, reversed| {
            sort(&mut rows, Order { column, reversed });
            rows.iter().map(|row| row.id.pid).collect::<Vec<_>>()
        };
        assert_eq!(pids(Column::Rate, false), [3, 1, 2]);
        assert_eq!(pids(Column::Pid, false), [1, 2, 3]);
        assert_eq!(pids(Column::Pid, true), [3, 2, 1]);
    }

    #[test]
    fn a_run_that_does_not_answer_has_no_time_left() {
        let mut row = row(1, None, None);
        assert_eq!(row.time_left(), None);
        let status = row.status.as_mut().unwrap();
        (status.bytes, status.size, status.time_left) = (100, Some(1100), Some(50.0));
        assert_eq!((row.time_left(), row.share_done()), (Some(50.0), Some(100.0 / 1100.0)));
        row.trouble = Some(ControlError::Silent);
        assert_eq!(row.time_left(), None);
    }

    #[test]
    fn a_search_goes_round() {
        let rows = [row(11, Some("Alpha"), None), row(22, Some("beta"), Some("x")), row(33, None, None)];
        let lines = lines(&rows, false, &BTreeSet::new());
        let find = |from, sought, back| find(&rows, &lines, from, sought, back);
        assert_eq!(find(0, "alpha", false), Some(0));
        assert_eq!(find(1, "alpha", false), Some(0));
        assert_eq!(find(0, "33", false), Some(2));
        assert_eq!(find(0, "x", false), Some(1));
        assert_eq!(find(0, "a", true), Some(1));
        assert_eq!(find(1, "a", true), Some(0));
        assert_eq!(find(0, "none", false), None);
        assert_eq!(super::find(&[], &[], 0, "a", false), None);
    }
}
