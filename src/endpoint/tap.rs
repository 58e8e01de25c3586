//! A checksum of the bytes that a consumer takes.

use std::fmt::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::{fmt, io, mem};

use sha2::Digest;

/// Bytes are handed to the thread in pieces of this size: large enough that the cost of handing
/// them over does not count.
const PIECE: usize = 128 * 1024;

/// Pieces that may wait for the thread. With more of them waiting, the checksum is slower than the
/// pipe, and the run goes at its speed.
const WAITING: usize = 8;

/// A kind of checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256, as `sha256sum` computes it.
    Sha256,
    /// BLAKE3, as `b3sum` computes it.
    Blake3,
    /// MD5, as `md5sum` computes it. Not safe against forgery.
    Md5,
    /// XXH3 with 64 bits, as `xxhsum -H3` computes it. Not safe against forgery.
    Xxh3,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Blake3 => "blake3",
            Algorithm::Md5 => "md5",
            Algorithm::Xxh3 => "xxh3",
        })
    }
}

enum Hasher {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
    Md5(md5::Md5),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Blake3 => Hasher::Blake3(Box::default()),
            Algorithm::Md5 => Hasher::Md5(md5::Md5::new()),
            Algorithm::Xxh3 => Hasher::Xxh3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => _ = hasher.update(bytes),
            Hasher::Md5(hasher) => hasher.update(bytes),
            Hasher::Xxh3(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Hasher::Sha256(hasher) => hex(&hasher.finalize()),
            Hasher::Blake3(hasher) => hex(hasher.finalize().as_bytes()),
            Hasher::Md5(hasher) => hex(&hasher.finalize()),
            Hasher::Xxh3(hasher) => hex(&hasher.digest().to_be_bytes()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Computes the checksum of all bytes that it sees, in a thread of its own.
#[derive(Debug)]
pub struct Checksum {
    algorithm: Algorithm,
    /// Bytes on their way to the thread.
    piece: Vec<u8>,
    pieces: SyncSender<Vec<u8>>,
    /// Pieces that the thread is done with, to be filled again.
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<String>,
}

impl Checksum {
    /// A checksum of no bytes yet.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(algorithm: Algorithm) -> io::Result<Self> {
        let (pieces, filled) = sync_channel::<Vec<u8>>(WAITING);
        let (done, empty) = sync_channel(WAITING + 2);
        let thread = thread::Builder::new().name("checksum".to_owned()).spawn(move || {
            let mut hasher = Hasher::new(algorithm);
            for mut piece in filled {
                hasher.update(&piece);
                piece.clear();
                // There is room for all pieces; after the end nobody wants them.
                let _ = done.try_send(piece);
            }
            hasher.finish()
        })?;
        Ok(Checksum { algorithm, piece: Vec::new(), pieces, empty, thread })
    }

    /// Sees the next bytes.
    pub fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.piece.capacity() == 0 {
                self.piece = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
            }
            let taken = bytes.len().min(PIECE - self.piece.len());
            self.piece.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.piece.len() == PIECE {
                // The thread lives until this end of the channel is gone.
                let _ = self.pieces.send(mem::take(&mut self.piece));
            }
        }
    }

    /// The kind of checksum, and its value in hexadecimal digits. None if the thread has died.
    pub fn finish(self) -> Option<(Algorithm, String)> {
        let Checksum { algorithm, piece, pieces, thread, .. } = self;
        let _ = pieces.send(piece);
        drop(pieces);
        Some((algorithm, thread.join().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(algorithm: Algorithm, pieces: &[&[u8]]) -> String {
        let mut checksum = Checksum::new(algorithm).unwrap();
        pieces.iter().for_each(|piece| checksum.see(piece));
        checksum.finish().unwrap().1
    }

    /// The values that the specifications give for no bytes and for `abc`.
    #[test]
    fn the_checksums_are_those_of_the_specifications() {
        for (algorithm, empty, abc) in [
            (
                Algorithm::Sha256,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Blake3,
                "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
                "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
            ),
            (Algorithm::Md5, "d41d8cd98f00b204e9800998ecf8427e", "900150983cd24fb0d6963f7d28e17f72"),
            (Algorithm::Xxh3, "2d06800538d394c2", "78af5f94892f3950"),
        ] {
            assert_eq!(of(algorithm, &[]), empty, "{algorithm}");
            assert_eq!(of(algorithm, &[b"a", b"bc"]), abc, "{algorithm}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn how_the_bytes_are_cut_does_not_matter(
            cuts in prop::collection::vec(0..300_000usize, 0..8),
            algorithm in prop::sample::select(vec![Algorithm::Sha256, Algorithm::Blake3, Algorithm::Md5, Algorithm::Xxh3]),
        ) {
            let bytes: Vec<u8> = (0..cuts.iter().sum::<usize>()).map(|at| (at * 7 % 251) as u8).collect();
            let mut rest = &bytes[..];
            let pieces: Vec<&[u8]> = cuts.iter().map(|cut| rest.split_off(..*cut).unwrap()).collect();
            prop_assert_eq!(of(algorithm, &pieces), of(algorithm, &[&bytes]));
        }
    }
}
