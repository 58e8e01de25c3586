//! `--hash`: the checksum is that of the bytes that arrived, in the format of `sha256sum`.

mod support;

use std::fs;
use std::io::{Write, pipe};
use std::process::{Command, Stdio};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use support::{Kind, Side, assert_arrived, connection, feed, payload, read_exactly, read_to_end, start};

/// What the tool of this name prints for these bytes.
fn printed_by(tool: &str, bytes: &[u8]) -> String {
    let mut child = Command::new(tool).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, sent) = (child.stdin.take().unwrap(), bytes.to_vec());
    let feeder = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_checksum_is_that_of_the_tool_whatever_stands_on_both_sides() {
    let data = payload(700_001);
    for (hash, tool) in [("sha256", "sha256sum"), ("md5", "md5sum")] {
        let expected = printed_by(tool, &data);
        for (from, to) in [(Kind::Pipe, Kind::Pipe), (Kind::File, Kind::Pipe), (Kind::Unix, Kind::Tcp)] {
            for options in [&[][..], &["-l"], &["--buffer", "1000"], &["--rate", "20M"]] {
                let (mut input, output) = (connection(from, Side::Stdin), connection(to, Side::Stdout));
                if from == Kind::File {
                    input.ours.write_all(&data).unwrap();
                } else {
                    feed(from, input.ours, data.clone());
                }
                let pcproxy = start(&[&["--hash", hash], options].concat(), input.theirs, output.theirs);
                assert_arrived(&read_to_end(output.ours), &data, format!("{from:?} to {to:?}"));
                let end = pcproxy.wait();
                assert!(end.status.success(), "{end:?}");
                assert_eq!(end.stderr, expected, "{from:?} to {to:?} {options:?}");
            }
        }
    }
}

#[test]
fn the_last_record_of_the_statistics_has_the_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let stats = folder.path().join("stats");
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    ours.write_all(b"abc").unwrap();
    drop(ours);
    let pcproxy = start(&["--hash", "blake3", "--stats", stats.to_str().unwrap()], theirs, into);
    assert_eq!(read_to_end(stdout), b"abc");
    let end = pcproxy.wait();
    let digest = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    assert_eq!(end.stderr, format!("{digest}  -\n"));
    let text = fs::read_to_string(stats).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["hash"]["algorithm"], &last["hash"]["digest"]), (&"blake3".into(), &digest.into()));
}

#[test]
fn an_interrupted_run_tells_the_checksum_of_what_arrived() {
    let (theirs, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let data = payload(100_000);
    let pcproxy = start(&["--hash", "xxh3", "--buffer", "1M"], theirs, into);
    let sent = data.clone();
    let feeder = thread::spawn(move || ours.write_all(&sent).map(|()| ours).unwrap());
    let mut arrived = read_exactly(&stdout, 100_000);
    pcproxy.signal(Signal::TERM);
    arrived.extend(read_to_end(stdout));
    let end = pcproxy.wait();
    end.died_by(Signal::TERM);
    assert_arrived(&arrived, &data, "before the signal");
    let expected = xxhash_rust::xxh3::xxh3_64(&arrived);
    assert_eq!(end.stderr, format!("{expected:016x}  -\n"));
    drop(feeder.join().unwrap());
}

#[test]
fn a_checksum_that_nobody_knows_is_refused() {
    let (theirs, _ours) = pipe().unwrap();
    let (_stdout, into) = pipe().unwrap();
    start(&["--hash", "crc"], theirs, into).wait().failed(2, &["--hash", "'crc'", "sha256"]);
}

#[test]
fn the_output_of_a_command_has_a_checksum_too() {
    let (theirs, ours) = pipe().unwrap();
    drop(ours);
    let (stdout, into) = pipe().unwrap();
    let pcproxy = start(&["run", "--hash", "md5", "--", "printf", "abc"], theirs, into);
    assert_eq!(read_to_end(stdout), b"abc");
    let end = pcproxy.wait();
    assert!(end.status.success(), "{end:?}");
    assert_eq!(end.stderr, "900150983cd24fb0d6963f7d28e17f72  -\n");
}
