//! Budgets as version 3 of the file had them: every limit and every member counts bytes.

use std::time::Duration;

use serde::Deserialize;

use super::{Budget, GroupLimit, Terms};
use crate::os::Id;
use crate::shaping::{Burst, Unit};

#[derive(Deserialize)]
struct Limit {
    rate: u64,
    burst: Option<Burst>,
    lasting: bool,
}

#[derive(Deserialize)]
struct Member {
    id: Id,
    weight: u32,
    guaranteed: u64,
    used: u64,
    asked: Duration,
    _tokens: u128,
    _room: u128,
    _waits_until: Duration,
}

#[derive(Deserialize)]
struct Whole {
    limit: Option<Limit>,
    last: Duration,
    _bucket: u128,
    _pool: u128,
    _lost: u128,
    members: Vec<Member>,
}

/// The budget that these bytes begin with, and the bytes behind it. Its tokens are forgotten.
pub(super) fn budget(bytes: &[u8]) -> Option<(Budget, &[u8])> {
    let (whole, rest): (Whole, _) = postcard::take_from_bytes(bytes).ok()?;
    let unit = Unit::Bytes;
    let limit = whole.limit.map(|Limit { rate, burst, lasting }| GroupLimit { rate, unit, burst, lasting });
    let members = whole.members.into_iter().map(|Member { id, weight, guaranteed, used, asked, .. }| {
        (id, Terms { weight, guaranteed, unit }, used, asked)
    });
    Some((Budget::restored(limit, whole.last, members), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a member of a group with `group set old 10M --burst 64K` and terms of its own had written.
    const WRITTEN: &[u8] = &[
        0x01, 0x80, 0x80, 0x80, 0x05, 0x01, 0x00, 0x80, 0x80, 0x04, 0x01, 0xcb, 0x64, 0x96, 0xae, 0x96, 0xc9, 0x01,
        0x00, 0x00, 0x00, 0x01, 0xea, 0x95, 0x01, 0xcc, 0x87, 0xd6, 0xea, 0x0a, 0xac, 0x02, 0x80, 0x80, 0x40, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff,
    ];

    #[test]
    fn a_file_of_the_version_before_is_read_as_one_of_bytes() {
        let (budget, rest) = budget(WRITTEN).unwrap();
        let limit = GroupLimit { rate: 10 << 20, unit: Unit::Bytes, burst: Some(Burst::Bytes(65_536)), lasting: true };
        assert_eq!(budget.limit(), Some(limit));
        let terms: Vec<_> = budget.members().iter().map(|account| account.terms).collect();
        assert_eq!(terms, [Terms { weight: 300, guaranteed: 1 << 20, unit: Unit::Bytes }]);
        assert_eq!(rest, [0xff]);
    }
}
