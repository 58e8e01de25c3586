//! `--spill`: what does not fit in memory is on a disk, and comes back.

mod support;

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use support::{Running, Session, assert_arrived, payload, read_exactly, read_to_end, start, start_in_shell, until};

const MIB: usize = 1 << 20;

/// A run that keeps 4 MiB in memory and the rest in a folder of the test.
struct Spilling {
    pcproxy: Running,
    folder: tempfile::TempDir,
    data: Vec<u8>,
    stdout: PipeReader,
    /// Ends when pcproxy has read everything.
    feeder: JoinHandle<()>,
}

fn words<'a>(folder: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    [&["--buffer", "1G", "--memory", "4M", "--spill", folder.to_str().unwrap()], options].concat()
}

fn feeder(stdin: PipeWriter, data: &[u8]) -> JoinHandle<()> {
    let (mut stdin, data) = (stdin, data.to_vec());
    thread::spawn(move || {
        // A run that is ended early takes no more.
        let _ = stdin.write_all(&data);
    })
}

/// Starts a run with so many bytes to read, and with nobody who reads what it writes.
fn spilling(options: &[&str], len: usize) -> Spilling {
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let data = payload(len);
    let pcproxy = start(&words(folder.path(), options), theirs, into);
    let feeder = feeder(ours, &data);
    Spilling { pcproxy, folder, data, stdout, feeder }
}

impl Spilling {
    /// Bytes that its files without names take up.
    fn on_disk(&self) -> u64 {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.pcproxy.pid())) else { return 0 };
        let folder = self.folder.path().to_str().unwrap();
        let files = open.flatten().map(|entry| entry.path());
        let files = files.filter(|path| {
            fs::read_link(path).is_ok_and(|link| link.to_str().is_some_and(|link| link.starts_with(folder)))
        });
        files.filter_map(|path| Some(fs::metadata(path).ok()?.blocks() * 512)).sum()
    }

    /// Waits until it has read everything, although nothing of that has been taken from it.
    fn read_all(&self) {
        until("everything to be written to its pipe", || self.feeder.is_finished());
        self.pcproxy.settle();
    }

    fn has_no_names(&self) {
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 0);
    }

    /// Files may be made no larger than this, as if the disk were full there.
    fn limit_files(&self, bytes: Option<u64>) {
        let pid = Pid::from_raw(self.pcproxy.pid() as i32);
        prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
    }
}

#[test]
fn a_producer_finishes_at_its_own_speed_and_every_byte_comes_back() {
    let run = spilling(&[], 30 * MIB);
    run.read_all();
    until("the disk to have it", || run.on_disk() >= 20 * MIB as u64);
    run.has_no_names();
    assert!(run.on_disk() <= 32 * MIB as u64, "{}", run.on_disk());
    let memory = run.pcproxy.status("VmRSS");
    let kib: usize = memory.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 40 * 1024, "{memory} in memory");
    assert_arrived(&read_to_end(run.stdout), &run.data, "from the disk");
    run.pcproxy.wait().succeeded("a run that spills");
    assert_eq!(fs::read_dir(run.folder.path()).unwrap().count(), 0);
}

#[test]
fn the_file_is_given_back_as_it_is_delivered() {
    let run = spilling(&[], 90 * MIB);
    run.read_all();
    until("the disk to have it", || run.on_disk() >= 80 * MIB as u64);
    let stdout = run.stdout.try_clone().unwrap();
    let first = read_exactly(&stdout, 70 * MIB);
    assert_arrived(&first, &run.data[..70 * MIB], "the first part");
    until("space to be given back", || run.on_disk() <= 30 * MIB as u64);
    let rest = read_to_end(stdout);
    assert_arrived(&rest, &run.data[70 * MIB..], "the rest");
    run.pcproxy.wait().succeeded("space");
}

#[test]
fn what_looks_at_bytes_sees_those_that_were_on_the_disk() {
    for options in [
        &["--hash", "sha256"][..],
        &["--lines"],
        &["--stop-after", "9M"],
        &["--lines", "--stop-after", "50000"],
        &["--null"],
    ] {
        let run = spilling(options, 12 * MIB);
        let sent = if options.contains(&"9M") {
            &run.data[..9 * MIB]
        } else if options.contains(&"50000") {
            let end = run.data.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(49_999).unwrap().0;
            &run.data[..=end]
        } else {
            &run.data
        };
        if !options.contains(&"--stop-after") {
            run.read_all();
        }
        until(&format!("the disk to have some of {options:?}"), || run.on_disk() > 0);
        // A slow consumer: the run is asked for more now and then.
        let mut all = Vec::new();
        let mut piece = vec![0; 300_000];
        let mut stdout = run.stdout;
        loop {
            match stdout.read(&mut piece).unwrap() {
                0 => break,
                read => all.extend_from_slice(&piece[..read]),
            }
        }
        assert_arrived(&all, sent, format!("{options:?}"));
        let end = run.pcproxy.wait();
        assert!(end.status.success(), "{options:?}: {end:?}");
        assert_eq!(end.stderr.is_empty(), !options.contains(&"--hash"), "{end:?}");
    }
}

#[test]
fn several_outputs_get_every_byte_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let spill = tempfile::tempdir().unwrap();
    let (theirs, ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let data = payload(20 * MIB);
    let options = ["--output", "-", "--output", copy.to_str().unwrap()];
    let pcproxy = start(&words(spill.path(), &options), theirs, into);
    let fed = feeder(ours, &data);
    until("everything to be read", || fed.is_finished());
    assert_arrived(&read_to_end(stdout), &data, "stdout");
    pcproxy.wait().succeeded("several outputs");
    assert_arrived(&fs::read(copy).unwrap(), &data, "the file");
}

#[test]
fn a_full_disk_pauses_the_producer_with_one_message_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (theirs, ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let script = format!("ulimit -f 6144; exec \"$0\" --buffer 1G --memory 4M --spill {}", folder.path().display());
    let pcproxy = start_in_shell(&script, theirs, into);
    let data = payload(40 * MIB);
    let fed = feeder(ours, &data);
    let said = pcproxy.line();
    assert!(said.starts_with("pcproxy: --spill ") && said.contains("File too large"), "{said}");
    assert!(!fed.is_finished(), "the producer waits");
    assert_arrived(&read_to_end(stdout), &data, "through a full disk");
    let end = pcproxy.wait();
    assert!(end.status.success() && end.stderr.is_empty(), "{end:?}");
}

#[test]
fn a_disk_that_has_room_again_is_used_again() {
    let run = spilling(&[], 20 * MIB);
    run.limit_files(Some(0));
    let said = run.pcproxy.line();
    assert!(said.contains("--spill"), "{said}");
    run.limit_files(None);
    run.read_all();
    assert_arrived(&read_to_end(run.stdout), &run.data, "after the disk had room again");
    assert!(run.pcproxy.wait().status.success());
}

#[test]
fn an_interrupt_delivers_what_is_on_the_disk_and_a_second_one_counts_it() {
    let run = spilling(&[], 20 * MIB);
    run.read_all();
    run.pcproxy.signal(Signal::INT);
    assert_arrived(&read_to_end(run.stdout), &run.data, "after an interrupt");
    run.pcproxy.wait().died_by(Signal::INT);

    let run = spilling(&[], 20 * MIB);
    run.read_all();
    run.pcproxy.signal(Signal::INT);
    let told = run.pcproxy.line();
    assert!(told.contains("interrupted: still delivering"), "{told}");
    run.pcproxy.signal(Signal::INT);
    let in_pipe = MIB;
    let end = run.pcproxy.wait();
    end.died_by(Signal::INT);
    let count: usize = end.stderr.replace(",", "").split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((20 * MIB - in_pipe..=20 * MIB).contains(&count), "{end:?}");
    assert_eq!(fs::read_dir(run.folder.path()).unwrap().count(), 0);
}

#[test]
fn nothing_is_left_behind_by_a_kill_and_a_consumer_that_leaves_is_no_news() {
    let run = spilling(&[], 20 * MIB);
    run.read_all();
    run.pcproxy.signal(Signal::KILL);
    run.pcproxy.wait().died_silently_by(Signal::KILL);
    assert_eq!(fs::read_dir(run.folder.path()).unwrap().count(), 0);

    let run = spilling(&[], 20 * MIB);
    run.read_all();
    drop(run.stdout);
    run.pcproxy.wait().died_silently_by(Signal::PIPE);
}

#[test]
fn the_statistics_say_how_much_is_on_the_disk() {
    let session = Session::new();
    let spill = session.path("spill");
    fs::create_dir(&spill).unwrap();
    let (theirs, ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = session.start(&words(&spill, &["--name", "dump"]), theirs, into);
    let data = payload(20 * MIB);
    let fed = feeder(ours, &data);
    until("everything to be read", || fed.is_finished());
    pcproxy.settle();
    let output = session.command(&["ctl", "dump", "stats", "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let spilled = status["spilled"].as_u64().unwrap() as usize;
    assert!((10 * MIB..20 * MIB).contains(&spilled), "{status}");
    let larger = session.command(&["ctl", "dump", "buffer", "100T"]).output().unwrap();
    assert!(larger.status.success(), "{larger:?}");
    assert_arrived(&read_to_end(stdout), &data, "with statistics");
    pcproxy.wait().succeeded("with statistics");
}

#[test]
fn what_cannot_spill_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    File::create(&file).unwrap();
    let (file, missing) = (file.to_str().unwrap().to_owned(), folder.path().join("missing").display().to_string());
    let folder = folder.path().to_str().unwrap();
    for (options, said) in [
        (&["--spill", &*missing][..], &["--spill", "missing", "No such file"][..]),
        (&["--spill", &file], &["--spill", "Not a directory"]),
        (&["--spill", folder, "--memory", "1M"], &["--memory", "'1M'", "must be at least 4 MiB"]),
        (&["--memory", "8M"], &["--spill"]),
        (&["--buffer", "100T"], &["--buffer", "'100T'", "memory"]),
        (&["--buffer", "0", "--spill", folder], &["--buffer", "'0'", "1 byte"]),
    ] {
        let (theirs, mut ours) = pipe().unwrap();
        ours.write_all(b"unread").unwrap();
        let (stdout, into) = pipe().unwrap();
        start(options, theirs.try_clone().unwrap(), into).wait().failed(2, said);
        assert_eq!(read_to_end(stdout), b"");
        drop(ours);
        assert_eq!(read_to_end(theirs), b"unread", "{options:?}");
    }
}
