//! What machines have used together of a quota. Pure; `plan.lua` is the same rule for a server.

use std::collections::BTreeMap;

/// Bytes that machines have used in one period of a quota.
///
/// Each machine reports all that it has used in the period, not what it has used since its latest
/// report: so a report that is lost, doubled or late changes nothing, and the largest one counts (a
/// grow-only counter; Shapiro et al., 2011). A store that has lost its data learns the total from what
/// each machine has heard before; what belongs to machines that have not reported anew is kept as
/// lost until they do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    machines: BTreeMap<u64, u64>,
    lost: u64,
}

impl Usage {
    /// A machine has used so many bytes in this period, and has heard that all have used `known`.
    /// Returns how many all have used.
    pub fn report(&mut self, machine: u64, used: u64, known: u64) -> u64 {
        match self.machines.get_mut(&machine) {
            Some(before) => *before = used.max(*before),
            None => {
                self.lost = self.lost.saturating_sub(used);
                self.machines.insert(machine, used);
            }
        }
        let sum = self.machines.values().fold(0, |sum: u64, used| sum.saturating_add(*used));
        self.lost = self.lost.max(known.saturating_sub(sum));
        sum.saturating_add(self.lost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Machines use bytes and report them; reports are lost, doubled and late, and the store is
        /// emptied: reports on connections from before do not reach it then. What it answers is never more than what was used, and once each machine has
        /// reported again it is exactly that.
        #[test]
        fn the_total_is_right_once_all_have_reported_and_never_too_high(
            events in prop::collection::vec((0..5u64, 0..1000u64, 0..6u8), 1..80),
        ) {
            let (mut store, mut used, mut heard) = (Usage::default(), [0_u64; 5], [0_u64; 5]);
            let mut late: Vec<(u64, u64, u64)> = Vec::new();
            for (who, bytes, what) in events {
                used[who as usize] += bytes;
                let report = (who, used[who as usize], heard[who as usize]);
                let all: u64 = used.iter().sum();
                match what {
                    0 => {
                        store = Usage::default();
                        late.clear();
                    }
                    1 => late.push(report),
                    2 if !late.is_empty() => {
                        let (who, used, known) = late.remove(0);
                        prop_assert!(store.report(who, used, known) <= all);
                    }
                    _ => {
                        let total = store.report(report.0, report.1, report.2);
                        prop_assert!(total <= all, "{} of {}", total, all);
                        prop_assert!(total >= heard[who as usize]);
                        heard[who as usize] = total;
                    }
                }
            }
            let mut total = 0;
            for who in 0..5 {
                total = store.report(who, used[who as usize], heard[who as usize]);
            }
            prop_assert_eq!(total, used.iter().sum::<u64>());
        }
    }

    #[test]
    fn what_a_machine_has_used_that_has_left_still_counts_after_the_store_was_emptied() {
        let mut store = Usage::default();
        store.report(1, 700, 0);
        let total = store.report(2, 200, 0);
        let mut anew = Usage::default();
        assert_eq!(anew.report(2, 250, total), 900);
        assert_eq!(anew.report(1, 700, 0), 950);
    }
}
