//! Bytes whose place in the stream shows, and how they get in and out.

use std::fs::File;
use std::io::{Read, Write};
use std::thread::{self, JoinHandle};

use rustix::io::Errno;

use super::descriptors::{END_OF_FILE, Kind};
use super::until;

/// The byte at one place of a stream: hard to mistake for its neighbours.
pub fn byte_of_stream(at: usize) -> u8 {
    ((at as u32).wrapping_mul(2_654_435_761) >> 24) as u8
}

/// Pseudo-random bytes. There is no Ctrl-D among them, and no line is longer than 512 bytes,
/// so that a terminal can carry them.
pub fn payload(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.iter_mut().filter(|byte| **byte == END_OF_FILE).for_each(|byte| *byte = b'.');
    bytes.iter_mut().skip(511).step_by(512).for_each(|byte| *byte = b'\n');
    if let Some(last) = bytes.last_mut() {
        *last = b'\n';
    }
    bytes
}

/// Fails, in few words, unless the bytes that arrived are those that were sent.
#[track_caller]
pub fn assert_arrived(arrived: &[u8], sent: &[u8], what: impl std::fmt::Display) {
    if arrived != sent {
        let differ = arrived.iter().zip(sent).position(|(one, other)| one != other);
        panic!("{what}: {} bytes of {} arrived, the first different one at {differ:?}", arrived.len(), sent.len());
    }
}

/// Writes `data` to pcproxy's stdin in the background, and then ends it. The result must be
/// kept until pcproxy has ended: a terminal that is closed hangs up.
pub fn feed(kind: Kind, mut ours: File, data: Vec<u8>) -> JoinHandle<Option<File>> {
    let feeder = thread::spawn(move || {
        ours.write_all(&data).expect("pcproxy takes its input");
        (kind == Kind::Terminal).then(|| {
            ours.write_all(&[END_OF_FILE]).expect("pcproxy takes its input");
            ours
        })
    });
    if kind == Kind::File {
        // A file that is still being written ends too early.
        until("the file to be written", || feeder.is_finished());
    }
    feeder
}

/// All that comes out, to the end.
pub fn read_to_end(mut ours: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    match ours.read_to_end(&mut all) {
        // How the master of a terminal says that nobody has the slave open any more.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => {}
        result => {
            result.unwrap();
        }
    }
    all
}

/// The next `count` bytes.
pub fn read_exactly(mut ours: impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ours.read_exact(&mut bytes).expect("pcproxy delivers");
    bytes
}
