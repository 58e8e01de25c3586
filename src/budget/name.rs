//! What groups are called.

use std::fmt;
use std::str::FromStr;

/// The longest name: a file is named after it.
const LONGEST: usize = 200;

/// Name of a group: words of letters, digits, `.`, `_` and `-`, set apart by `/`. Each prefix is
/// the name of a group above it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A text is no name of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameError;

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "is not the name of a group: use letters, digits, '.', '_', '-', such as uplink, or a path such as \
             site/backup, at most {LONGEST} characters"
        )
    }
}

impl std::error::Error for NameError {}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('.')
                && word.chars().all(|sign| sign.is_ascii_alphanumeric() || "._-".contains(sign))
        };
        if text.len() > LONGEST || !text.split('/').all(is_word) { Err(NameError) } else { Ok(Name(text.to_owned())) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    /// The groups that a member of this one belongs to: the widest first, this one last.
    pub fn levels(&self) -> impl Iterator<Item = Name> {
        let ends = self.0.match_indices('/').map(|(end, _)| end).chain([self.0.len()]);
        ends.map(|end| Name(self.0[..end].to_owned()))
    }

    /// What its file is called, but for the ending.
    pub(super) fn stem(&self) -> String {
        self.0.replace('/', "+")
    }

    /// The group whose file is called so.
    pub(super) fn of_stem(stem: &str) -> Option<Name> {
        stem.replace('+', "/").parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_a_level() {
        let name: Name = "site/backup/db-1".parse().unwrap();
        let levels: Vec<_> = name.levels().map(|level| level.to_string()).collect();
        assert_eq!(levels, ["site", "site/backup", "site/backup/db-1"]);
    }

    #[test]
    fn refuses_what_could_lead_elsewhere() {
        for text in ["", "/", "a/", "/a", "a//b", "..", "a/../b", ".a", "a b", "a+b", "a\nb", "ü", &"a".repeat(201)] {
            assert_eq!(text.parse::<Name>(), Err(NameError), "{text:?}");
        }
    }

    #[test]
    fn comes_back_from_the_name_of_its_file() {
        let name: Name = "site/backup".parse().unwrap();
        assert_eq!(Name::of_stem(&name.stem()), Some(name));
    }
}
