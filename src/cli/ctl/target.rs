//! Which runs are meant.

use anyhow::{Result, bail};
use pcproxy::budget::Name;
use pcproxy::control::{ControlError, Request, Run, ask};
use pcproxy::os::RuntimeFolder;
use pcproxy::stats::Status;
use pcproxy::units::printable;

/// The runs that a command is for.
#[derive(Debug)]
pub enum Target<'a> {
    /// The run with this pid; runs of this name, if there is none.
    PidOrName(u32, &'a str),
    /// Runs whose name is this, or fits this pattern.
    Name(&'a str),
    /// Members of this group and of those below it.
    Group(&'a Name),
    All,
}

impl<'a> Target<'a> {
    /// The target that the words of the command line name. With `all_by_default`, none of them
    /// means all.
    pub fn new(words: &[&'a str], all: bool, group: Option<&'a Name>, all_by_default: bool) -> Result<Self> {
        match (words, all, group) {
            ([word], false, None) => Ok(word.parse().map_or(Target::Name(word), |pid| Target::PidOrName(pid, word))),
            ([], true, None) => Ok(Target::All),
            ([], false, Some(group)) => Ok(Target::Group(group)),
            ([], false, None) if all_by_default => Ok(Target::All),
            ([], false, None) => bail!("which transfer? Give a PID, a name, --group NAME, or --all"),
            _ => bail!("give one of these: a PID, a name, --group NAME, or --all"),
        }
    }

    /// The runs that are meant, with their status, and what is to be said of others. The interval
    /// whose rate `stats` shows begins here.
    pub fn find(&self, mut runs: Vec<Run>) -> (Vec<(Run, Status)>, Vec<String>) {
        if let Target::PidOrName(pid, _) = self
            && runs.iter().any(|run| run.id().pid == *pid)
        {
            runs.retain(|run| run.id().pid == *pid);
        }
        let (mut found, mut failures) = (Vec::new(), Vec::new());
        for (answer, run) in ask(&mut runs, &Request::Stats {}).into_iter().zip(runs) {
            match answer {
                Ok(status) if self.means(&status) => found.push((run, status)),
                Ok(_) | Err(ControlError::Ended) => {}
                Err(error) => failures.push(format!("{} {error}{}", run.id().pid, self.doubt(run.id().pid))),
            }
        }
        if found.is_empty() && failures.is_empty() {
            failures.push(self.miss(""));
        } else if found.is_empty() && failures.iter().all(|failure| failure.ends_with(DOUBT)) {
            failures.push(self.miss(" other"));
        }
        (found, failures)
    }

    /// Whether this run is meant.
    fn means(&self, status: &Status) -> bool {
        let is_named =
            |pattern: &str| status.name.as_deref().is_some_and(|name| name == pattern || fits(pattern, name));
        match self {
            Target::All => true,
            Target::PidOrName(pid, name) => status.pid == *pid || is_named(name),
            Target::Name(name) => is_named(name),
            Target::Group(group) => {
                let own = status.group.as_ref().and_then(|own| own.parse::<Name>().ok());
                own.is_some_and(|own| own.levels().any(|level| level == **group))
            }
        }
    }

    /// The words to add about a run with this pid that could not be identified.
    fn doubt(&self, pid: u32) -> &'static str {
        match self {
            Target::All => "",
            Target::PidOrName(own, _) if *own == pid => "",
            _ => DOUBT,
        }
    }

    /// Says that there is none, or no other.
    pub fn miss(&self, other: &str) -> String {
        let which = match self {
            Target::PidOrName(_, word) => format!(" has pid {word}, or is named so"),
            Target::Name(name) => format!(" is named '{}'", printable(name)),
            Target::Group(group) => format!(" is in group {group}"),
            Target::All => String::new(),
        };
        let folder = RuntimeFolder::place().map_or(String::new(), |folder| format!(" in {}", folder.display()));
        format!("no{other} running pcproxy{which}{folder}")
    }
}

/// The end of what is said of a run that may be meant.
const DOUBT: &str = ", and may be meant";

/// How a run is called in messages.
pub fn label(status: &Status) -> String {
    match &status.name {
        Some(name) => format!("{} ({})", printable(name), status.pid),
        None => status.pid.to_string(),
    }
}

/// Whether a name fits a pattern, in which `*` stands for any characters and `?` for any one.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut read) = (0, 0);
    // Where to go on if the last star has to stand for one character more.
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(one) if *one == '?' || *one == name[read] => (at, read) = (at + 1, read + 1),
            _ => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (at, read) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|one| *one == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_characters_and_a_question_mark_for_one() {
        for (pattern, name, expected) in [
            ("backup-*", "backup-home", true),
            ("backup-*", "backup-", true),
            ("backup-*", "backup", false),
            ("*", "", true),
            ("?", "", false),
            ("?", "ü", true),
            ("*-db-*", "x-db-y", true),
            ("*-db-*", "db", false),
            ("a*b*c", "axbxbxc", true),
            ("a*b*c", "axbxbx", false),
            ("", "", true),
            ("", "a", false),
            ("a?c", "abc", true),
            ("[a]", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} and {name}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_it_was_made_of(parts in proptest::collection::vec("[ab]{0,4}", 1..5), fill in "[ab]{0,4}") {
            prop_assert!(fits(&parts.join("*"), &parts.join(&fill)));
            let longer = parts.join(&fill) + "x";
            let ends_open = parts.len() > 1 && parts.last().is_some_and(String::is_empty);
            prop_assert_eq!(fits(&parts.join("*"), &longer), ends_open);
        }
    }

    #[test]
    fn the_words_name_one_target() {
        let group: Name = "site".parse().unwrap();
        let target =
            |words: &[&str], all, group, default| Target::new(words, all, group, default).map(|t| format!("{t:?}"));
        assert_eq!(target(&["db"], false, None, false).unwrap(), "Name(\"db\")");
        assert_eq!(target(&["7"], false, None, false).unwrap(), "PidOrName(7, \"7\")");
        assert_eq!(target(&[], true, None, false).unwrap(), "All");
        assert_eq!(target(&[], false, None, true).unwrap(), "All");
        assert!(target(&[], false, None, false).unwrap_err().to_string().starts_with("which transfer?"));
        for (words, all, group) in [(&["a", "b"][..], false, None), (&["a"], true, None), (&[], true, Some(&group))] {
            assert!(target(words, all, group, true).is_err(), "{words:?}");
        }
    }
}
