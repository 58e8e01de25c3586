//! Where records end in a stream of bytes.

use memchr::{memchr_iter, memrchr};

/// The records that a buffer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Ends of records among the bytes held.
    pub ends: u64,
    /// The first byte held is not the first of its record: the rest has left already.
    pub begun: bool,
    /// Bytes held behind the last end.
    pub tail: usize,
}

/// Follows the bytes that enter and leave a buffer, and knows which records it holds.
#[derive(Clone, Copy, Debug)]
pub struct RecordIndex {
    end: u8,
    records: Records,
}

impl RecordIndex {
    /// An index of records that each end with the byte `end`, over an empty buffer.
    pub fn new(end: u8) -> Self {
        RecordIndex { end, records: Records::default() }
    }

    /// The byte that ends a record.
    pub fn end(&self) -> u8 {
        self.end
    }

    /// The records held.
    pub fn records(&self) -> Records {
        self.records
    }

    /// Ends of records in these bytes.
    pub fn ends_in(&self, bytes: &[u8]) -> u64 {
        memchr_iter(self.end, bytes).count() as u64
    }

    /// These bytes have entered, behind all others. Returns how many records end in them.
    pub fn enter(&mut self, bytes: &[u8]) -> u64 {
        match memrchr(self.end, bytes) {
            None => {
                self.records.tail += bytes.len();
                0
            }
            Some(last) => {
                let ends = self.ends_in(&bytes[..=last]);
                self.records.ends += ends;
                self.records.tail = bytes.len() - last - 1;
                ends
            }
        }
    }

    /// These bytes have left: they were the first of those held.
    pub fn leave(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.records.begun = *last != self.end;
        let ends = memchr_iter(self.end, bytes).count() as u64;
        self.records.ends -= ends;
        if self.records.ends == 0 {
            // Bytes behind the last end that leave were part of the tail.
            let behind =
                if ends == 0 { bytes.len() } else { bytes.len() - memrchr(self.end, bytes).map_or(0, |at| at + 1) };
            self.records.tail -= behind.min(self.records.tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_index_says_what_a_look_at_all_bytes_says(
            pieces in prop::collection::vec((prop::collection::vec(0..3u8, 0..12), 0..20usize), 0..30)
        ) {
            let mut index = RecordIndex::new(0);
            let (mut held, mut last) = (Vec::new(), 0);
            for (piece, leave) in pieces {
                index.enter(&piece);
                held.extend(piece);
                let left: Vec<u8> = held.drain(..leave.min(held.len())).collect();
                index.leave(&left);
                last = left.last().copied().unwrap_or(last);
                let expected = Records {
                    ends: held.iter().filter(|byte| **byte == 0).count() as u64,
                    begun: last != 0,
                    tail: held.iter().rev().take_while(|byte| **byte != 0).count(),
                };
                prop_assert_eq!(index.records(), expected);
            }
        }
    }
}
