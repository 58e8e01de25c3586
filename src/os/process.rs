//! Which processes live.

use std::fs;

use serde::{Deserialize, Serialize};

/// Which process it is. A pid alone would come round again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id {
    /// Process id.
    pub pid: u32,
    /// When it started, in whatever unit tells two of the same pid apart.
    pub started: u64,
}

/// This process.
pub(crate) fn own_id() -> Id {
    let pid = std::process::id();
    Id { pid, started: started(pid).unwrap_or_default() }
}

/// Whether the very process still runs: not only its pid, which may be another's by now.
pub(crate) fn lives(id: Id) -> bool {
    started(id.pid) == Some(id.started)
}

/// When a process started, in clock ticks since the machine did; nothing if it has ended.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may itself hold brackets and spaces.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    if ended { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_from_an_earlier_one_of_the_same_pid() {
        let own = own_id();
        assert!(lives(own));
        assert!(!lives(Id { started: own.started + 1, ..own }));
    }
}
