//! Promises that broke outside a quiet, plain shell. Each test is named after what a user saw.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write, pipe};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use support::*;

/// pcproxy below strace, which injects a fault: `CALL:error=ERRNO:when=N`. None without strace.
#[track_caller]
fn injected(faults: &[&str], options: &[&str]) -> Option<Command> {
    injected_at(&[], faults, options)
}

/// The same with more options for strace.
#[track_caller]
fn injected_at(extra: &[&str], faults: &[&str], options: &[&str]) -> Option<Command> {
    if !needs("strace") {
        return None;
    }
    let mut command = running::neutral("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]).args(extra);
    for fault in faults {
        command.arg("-e").arg(format!("inject={fault}"));
    }
    command.arg(env!("CARGO_BIN_EXE_pcproxy")).arg("--no-control").args(options);
    Some(command)
}

/// All bytes arrive although these faults are injected, and nothing is said.
#[track_caller]
fn arrives_despite(faults: &[&str], options: &[&str], len: usize) {
    let Some(command) = injected(faults, options) else { return };
    let sent = payload(len);
    let ((input, mut into), (out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = start_command(command, input, output);
    let feeder = std::thread::spawn({
        let sent = sent.clone();
        move || into.write_all(&sent)
    });
    assert_arrived(&read_to_end(out), &sent, format!("{faults:?}"));
    feeder.join().unwrap().unwrap();
    pcproxy.wait().succeeded(format!("{faults:?}"));
}

#[test]
fn a_clock_that_is_set_does_not_end_a_run_with_a_timetable() {
    for when in ["1", "2", "1+"] {
        let fault = format!("timerfd_settime:error=ECANCELED:when={when}");
        arrives_despite(&[&fault], &["--schedule", "00:00,50M 12:00,50M"], 1 << 20);
    }
}

#[test]
fn a_sandbox_that_refuses_a_call_costs_copies_and_no_bytes() {
    for errno in ["EPERM", "EACCES", "ENOSYS", "EINVAL"] {
        for call in ["splice", "preadv2", "pwritev2", "signalfd4", "timerfd_create", "pipe2", "pidfd_open"] {
            arrives_despite(&[&format!("{call}:error={errno}")], &["--rate", "500M"], 300_000);
        }
        let both = ["splice", "preadv2", "pwritev2"].map(|call| format!("{call}:error={errno}"));
        arrives_despite(&both.each_ref().map(String::as_str), &[], 300_000);
    }
}

#[test]
fn splice_that_is_refused_in_mid_run_loses_nothing_even_without_memory() {
    arrives_despite(&["splice:error=EINVAL:when=40+"], &["--buffer", "8M"], 12 << 20);
    let faults = ["splice:error=EINVAL:when=40+", "mmap:error=ENOMEM:when=60+"];
    let Some(command) = injected(&faults, &["--buffer", "8M"]) else { return };
    let sent = payload(4 << 20);
    let ((input, mut into), (out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = start_command(command, input, output);
    let feeder = std::thread::spawn(move || into.write_all(&sent));
    let arrived = read_to_end(out).len();
    let taken = feeder.join().unwrap().is_ok();
    let end = pcproxy.wait();
    assert!(end.status.success() == (taken && arrived == 4 << 20), "{arrived} arrived: {end:?}");
}

#[test]
fn a_network_file_system_that_is_full_tells_so_when_the_file_is_closed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    // strace names the file: only closing it fails.
    let Some(command) = injected_at(&["-P", path], &["close:error=EDQUOT"], &[]) else { return };
    let (input, mut into) = pipe().unwrap();
    let pcproxy = start_command(command, input, File::create(path).unwrap());
    into.write_all(b"hello").unwrap();
    drop(into);
    pcproxy.wait().failed(1, &["stdout", "quota"]);
    assert_eq!(fs::read(path).unwrap(), b"hello");
}

#[test]
fn two_readers_of_one_file_get_every_byte_once() {
    let sent = payload(20 << 20);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&sent).unwrap();
    for round in 0..4 {
        file.seek(SeekFrom::Start(0)).unwrap();
        let readers = [0, 1].map(|_| {
            let (out, output) = pipe().unwrap();
            (start(&["--no-control"], file.try_clone().unwrap(), output), out)
        });
        let parts = readers.map(|(pcproxy, out)| (pcproxy, std::thread::spawn(move || read_to_end(out))));
        let mut all = 0;
        let mut sum = [0u64; 256];
        for (pcproxy, part) in parts {
            let part = part.join().unwrap();
            pcproxy.wait().succeeded("a reader");
            all += part.len();
            part.iter().for_each(|byte| sum[usize::from(*byte)] += 1);
        }
        let mut wanted = [0u64; 256];
        sent.iter().for_each(|byte| wanted[usize::from(*byte)] += 1);
        assert_eq!(all, sent.len(), "round {round}");
        assert!(sum == wanted, "round {round}: bytes are lost or doubled");
    }
}

#[test]
fn two_writers_to_one_file_leave_every_byte() {
    let mut file = tempfile::tempfile().unwrap();
    let sent = payload(8 << 20);
    for round in 1..=4 {
        let writers = [0, 1].map(|_| {
            let (input, mut into) = pipe().unwrap();
            let pcproxy = start(&["--no-control"], input, file.try_clone().unwrap());
            let sent = sent.clone();
            (pcproxy, std::thread::spawn(move || into.write_all(&sent).unwrap()))
        });
        for (pcproxy, feeder) in writers {
            feeder.join().unwrap();
            pcproxy.wait().succeeded("a writer");
        }
        assert_eq!(file.metadata().unwrap().len(), round * 2 * sent.len() as u64, "round {round}");
        let at = file.stream_position().unwrap();
        assert_eq!(at, file.metadata().unwrap().len());
    }
}

#[test]
fn what_is_read_after_pcproxy_begins_where_it_stopped() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let (out, output) = pipe().unwrap();
    start(&["--stop-after", "4"], file.try_clone().unwrap(), output).wait().succeeded("the first part");
    assert_eq!(read_to_end(out), b"0123");
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "456789");
}

#[test]
fn sockets_that_keep_messages_apart_are_refused_before_the_first_byte() {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::io::write(&ours, &[7; 10]).unwrap();
    start(&[], theirs.try_clone().unwrap(), Stdio::null()).wait().failed(1, &["stdin", "messages"]);
    assert_eq!(rustix::io::ioctl_fionread(&theirs).unwrap(), 10, "nothing was read");
    let (_ours, theirs) = UnixDatagram::pair().unwrap();
    start(&[], Stdio::null(), std::os::fd::OwnedFd::from(theirs)).wait().failed(1, &["stdout", "messages"]);
}

#[test]
fn a_pipe_in_packet_mode_loses_nothing() {
    for kind in [Kind::Pipe, Kind::Append, Kind::File, Kind::Unix] {
        for buffer in ["1", "100", "5000", "64K"] {
            let output = connection(kind, Side::Stdout);
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::DIRECT).unwrap();
            let pcproxy = start(&["--buffer", buffer, "--no-control"], reader, output.theirs);
            let sent = payload(if buffer == "1" { 5_000 } else { 200_000 });
            let feeder = std::thread::spawn({
                let sent = sent.clone();
                // Packets of many sizes.
                move || {
                    let mut rest = &sent[..];
                    for size in (1..4096).step_by(701).cycle() {
                        let (packet, others) = rest.split_at(size.min(rest.len()));
                        rustix::io::write(&writer, packet).unwrap();
                        rest = others;
                        if rest.is_empty() {
                            break;
                        }
                    }
                }
            });
            // Packets go on as packets where they are spliced: the consumer reads them whole.
            let whole = |mut from: &File| {
                let (mut all, mut packet) = (Vec::new(), [0; 64 * KIB]);
                loop {
                    match from.read(&mut packet).unwrap() {
                        0 => break all,
                        read => all.extend_from_slice(&packet[..read]),
                    }
                }
            };
            let arrived = if kind.is_stream() { Some(whole(&output.ours)) } else { None };
            feeder.join().unwrap();
            pcproxy.wait().succeeded(format!("{kind:?} {buffer}"));
            let arrived = arrived.unwrap_or_else(|| whole(&output.ours));
            assert_arrived(&arrived, &sent, format!("{kind:?} {buffer}"));
        }
    }
}

#[test]
fn a_file_that_may_not_grow_is_an_error_with_a_word() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("ulimit -f 16; exec \"$0\" >{}", file.path().display());
    let (input, mut into) = pipe().unwrap();
    let pcproxy = start_in_shell(&script, input, Stdio::null());
    let _ = into.write_all(&payload(60_000));
    drop(into);
    pcproxy.wait().failed(1, &["stdout", "File too large", "not delivered"]);
}

#[test]
fn a_file_that_waits_hears_signals() {
    // The log of the kernel is a regular file that waits for the next message.
    let Ok(log) = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open("/proc/kmsg") else {
        return;
    };
    drop(log);
    let Ok(log) = File::open("/proc/kmsg") else { return };
    let (_out, output) = pipe().unwrap();
    let pcproxy = start(&[], log, output);
    pcproxy.wait_heeding(Signal::TERM);
    pcproxy.signal(Signal::TERM);
    let end = pcproxy.wait();
    end.died_by(Signal::TERM);
}

#[test]
fn a_container_with_little_memory_refuses_a_large_buffer_in_one_line() {
    // The limit of the machine stands in for that of a container: see os/memory.rs for the rest.
    let end = start(&["--buffer", "1024T"], Stdio::null(), Stdio::null()).wait();
    end.failed(2, &["--buffer", "1024T", "more than the memory of this"]);
}

#[test]
fn a_stopped_process_makes_up_for_nothing() {
    let ((input, mut into), (mut out, output)) = (pipe().unwrap(), pipe().unwrap());
    let pcproxy = start(&["--rate", "100K", "--buffer", "1M"], input, output);
    into.write_all(&payload(60_000)).unwrap();
    read_exactly(&mut out, 10_000);
    pcproxy.signal(Signal::STOP);
    pcproxy.wait_stopped();
    // As long as the machine may be late: what is due meanwhile is 20 KB.
    let since = std::time::Instant::now();
    until("a fifth of a second", || since.elapsed().as_millis() > 200);
    let before = unread(&out);
    pcproxy.signal(Signal::CONT);
    until("it to go on", || unread(&out) > before);
    let lump = unread(&out) - before;
    assert!(lump < 5000, "{lump} bytes at once");
}
