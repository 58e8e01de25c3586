//! Inputs and outputs that have a name: files, and connections of our own.

mod support;

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use pcproxy::units::show_bytes;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::process::Signal;
use support::{
    End, Running, assert_arrived, needs, payload, pcproxy, read_exactly, read_to_end, start, start_command, unread,
    until,
};
use tempfile::TempDir;

/// A folder with some files in it.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    /// The full name of `name` in it.
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn fifo(&self, name: &str) {
        mknodat(CWD, self.path(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// Starts pcproxy here, with nothing on its stdin.
    fn start(&self, words: &[&str], stdout: impl Into<std::process::Stdio>) -> Running {
        let mut command: Command = pcproxy(words);
        command.current_dir(self.0.path());
        start_command(command, null(), stdout)
    }

    /// Runs pcproxy here. Returns what it wrote to stdout, and how it ended.
    fn run(&self, words: &[&str]) -> (Vec<u8>, End) {
        let (stdout, into) = pipe().unwrap();
        let pcproxy = self.start(words, into);
        (read_to_end(stdout), pcproxy.wait())
    }
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

/// The port that a pcproxy says it listens on.
#[track_caller]
fn port_of(pcproxy: &Running) -> u16 {
    let line = pcproxy.line();
    assert!(line.contains("listening on "), "{line}");
    line.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn several_inputs_are_passed_on_one_after_the_other() {
    let folder = Folder::new();
    let (one, two) = (payload(300_000), payload(70_001));
    folder.write("one", &one).write("two", &two).write("empty", "");
    folder.fifo("fifo");
    for options in [&[][..], &["--buffer", "7"], &["--buffer", "8M", "--rate", "50M"]] {
        let short = if options.contains(&"7") { 1000 } else { usize::MAX };
        let (one, two) = (&one[..one.len().min(short)], &two[..two.len().min(short)]);
        folder.write("one", one).write("two", two);
        let (stdin, mut ours) = pipe().unwrap();
        let (stdout, into) = pipe().unwrap();
        let words = ["one", "-", "empty", "fifo", "/proc/self/comm", "two", "one"];
        let mut command = pcproxy(&[options, &words].concat());
        command.current_dir(folder.0.path());
        let pcproxy = start_command(command, stdin, into);
        ours.write_all(b"from stdin").unwrap();
        drop(ours);
        let fifo = folder.path("fifo");
        let writer = std::thread::spawn(move || fs::write(fifo, "from the fifo").unwrap());
        let arrived = read_to_end(stdout);
        pcproxy.wait().succeeded("several inputs");
        writer.join().unwrap();
        let expected = [one, b"from stdin", b"from the fifo", b"pcproxy\n", two, one].concat();
        assert_arrived(&arrived, &expected, format!("{options:?}"));
    }
}

#[test]
fn more_files_than_there_are_descriptors_are_read() {
    let folder = Folder::new();
    folder.write("x", "x");
    let words = [&["-o", "all"][..], &["x"; 200]].concat();
    let (stdout, into) = pipe().unwrap();
    let mut command = support::shell(r#"ulimit -n 32; exec "$0" "$@""#);
    command.args(&words).current_dir(folder.0.path());
    start_command(command, null(), into).wait().succeeded("many files");
    assert_eq!((read_to_end(stdout).len(), folder.read("all").len()), (0, 200));
}

#[test]
fn a_missing_file_is_named_and_the_others_are_passed_on() {
    let folder = Folder::new();
    folder.write("one", "one").write("two", "two");
    fs::create_dir(folder.path("folder")).unwrap();
    for (missing, why) in [("gone", "gone: No such file"), ("folder", "folder: Is a directory")] {
        for (words, expected) in [
            (vec!["one", missing, "two"], "onetwo"),
            (vec![missing, "two"], "two"),
            (vec!["one", missing], "one"),
            (vec![missing], ""),
        ] {
            let (arrived, end) = folder.run(&words);
            end.failed(1, &[why]);
            assert_arrived(&arrived, expected.as_bytes(), format!("{words:?}"));
        }
    }
    let (arrived, end) = folder.run(&["gone", "one", "lost"]);
    assert_eq!((arrived.as_slice(), end.status.code(), end.stderr.lines().count()), (&b"one"[..], Some(1), 2));
}

#[test]
fn the_size_of_several_files_is_their_sum() {
    let folder = Folder::new();
    folder.write("one", payload(3000)).write("two", payload(500));
    for (words, size) in [(&["one", "two"][..], "\"size\":3500"), (&["one", "-"], "\"size\":null")] {
        let (_, end) = folder.run(&[words, &["--stats", "stats"]].concat());
        end.succeeded("a record");
        let record = String::from_utf8(folder.read("stats")).unwrap();
        assert!(record.contains(size), "{words:?}: {record}");
        fs::remove_file(folder.path("stats")).unwrap();
    }
}

#[test]
fn only_so_many_bytes_of_all_inputs_are_read() {
    let folder = Folder::new();
    folder.write("one", "abcd").write("two", "efgh");
    let (arrived, end) = folder.run(&["--stop-after", "6", "one", "two", "missing"]);
    end.succeeded("the third is not needed");
    assert_eq!(arrived, b"abcdef");
}

#[test]
fn an_output_file_is_created_emptied_or_appended_to_and_stdout_gets_nothing() {
    let folder = Folder::new();
    let data = payload(700_000);
    folder.write("in", &data);
    for (before, append, expected) in [
        (None, false, data.clone()),
        (Some(payload(2_000_000)), false, data.clone()),
        (Some(b"before\n".to_vec()), true, [b"before\n", &data[..]].concat()),
        (None, true, data.clone()),
    ] {
        for extra in [&[][..], &["--sync"], &["--rate", "50M"]] {
            let _ = fs::remove_file(folder.path("out"));
            before.iter().for_each(|before| fs::write(folder.path("out"), before).unwrap());
            let append: &[&str] = if append { &["--append"] } else { &[] };
            let (stdout, end) = folder.run(&[&["in", "-o", "out"], append, extra].concat());
            end.succeeded("to a file");
            assert_eq!(stdout, b"");
            assert_arrived(&folder.read("out"), &expected, format!("{append:?}, {extra:?}"));
        }
    }
}

#[test]
fn a_dash_is_stdout() {
    let folder = Folder::new();
    folder.write("in", "hello");
    let (stdout, end) = folder.run(&["-o", "-", "in"]);
    end.succeeded("-");
    assert_eq!(stdout, b"hello");
    assert!(!folder.path("-").exists());
}

#[test]
fn a_file_that_is_input_and_output_is_refused_and_stays_as_it_was() {
    let folder = Folder::new();
    folder.write("file", "precious").write("other", "other");
    symlink("file", folder.path("link")).unwrap();
    for words in [
        &["file", "-o", "file"][..],
        &["file", "-o", "./file"],
        &["file", "-o", "link"],
        &["other", "link", "-o", "file"],
        &["file", "-o", "file", "--append"],
    ] {
        let (stdout, end) = folder.run(words);
        end.failed(1, &["input and output are the same file"]);
        assert_eq!((stdout, folder.read("file")), (vec![], b"precious".to_vec()), "{words:?}");
    }
    let mut command = pcproxy(&["-o", "file"]);
    command.current_dir(folder.0.path());
    let end = start_command(command, File::open(folder.path("file")).unwrap(), null()).wait();
    end.failed(1, &["input and output are the same file"]);
    assert_eq!(folder.read("file"), b"precious");
}

#[test]
fn an_input_that_stdout_is_appended_to_is_passed_over() {
    let folder = Folder::new();
    folder.write("out", "before ").write("other", "other");
    let stdout = File::options().append(true).open(folder.path("out")).unwrap();
    folder.start(&["out", "other"], stdout).wait().failed(1, &["out: input and output are the same file"]);
    assert_eq!(folder.read("out"), b"before other");
}

#[test]
fn a_mistyped_command_is_no_missing_file() {
    let folder = Folder::new();
    for (word, command) in [("tpo", "top"), ("grup", "group"), ("plto", "plot"), ("clt", "ctl"), ("Top", "top")] {
        let (_, end) = folder.run(&[word, "x"]);
        end.failed(2, &[&format!("{word}: no such file; did you mean the command '{command}'?\n")]);
    }
    let (_, end) = folder.run(&["--rate", "1M", "top"]);
    end.failed(2, &["top: no such file; the command 'top' comes before all options: pcproxy top ..."]);
    let (_, end) = folder.run(&["holiday.img"]);
    end.failed(1, &["holiday.img: No such file"]);
    folder.write("tpo", "a file").write("top", "another");
    assert_eq!(folder.run(&["tpo"]).0, b"a file");
    assert_eq!(folder.run(&["./top"]).0, b"another");
}

#[test]
fn a_word_that_is_no_address_is_refused_as_typed() {
    let folder = Folder::new();
    for word in ["tcp://h", "tcp:h:1", "tcp://h:70000", "tcp-listen://x", "tcp://::1:80", "unix:", ""] {
        folder.run(&[word]).1.failed(2, &[&format!("'{word}'"), "--help"]);
        folder.run(&["-o", word]).1.failed(2, &[&format!("'{word}'"), "--output"]);
    }
    folder.run(&["--append"]).1.failed(2, &["--output"]);
    folder.run(&["--connect-timeout", "soon", "tcp://h:1"]).1.failed(2, &["--connect-timeout", "'soon'"]);
}

#[test]
fn an_output_file_that_cannot_be_opened_is_named_and_nothing_is_read() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder")).unwrap();
    folder.run(&["-o", "folder"]).1.failed(1, &["folder: Is a directory"]);
    folder.run(&["-o", "none/x"]).1.failed(1, &["none/x: No such file"]);
}

#[test]
fn a_disk_that_fills_up_keeps_what_arrived_and_the_message_says_how_much() {
    let folder = Folder::new();
    folder.write("in", payload(1_000_000));
    let (_, end) = folder.run(&["in", "-o", "/dev/full"]);
    end.failed(1, &["/dev/full: No space left", "0 bytes arrived", "read and not delivered"]);
    // A limit of 100 KiB, in blocks of 512 bytes or of 1 KiB.
    let mut command = support::shell(r#"ulimit -f 100; exec "$0" in -o out"#);
    command.current_dir(folder.0.path());
    let end = start_command(command, null(), null()).wait();
    let arrived = folder.read("out");
    end.failed(1, &["out: File too large", &format!("; {} arrived; ", show_bytes(arrived.len() as u64))]);
    assert!(arrived.len() >= 51_200);
    assert_arrived(&arrived, &payload(1_000_000)[..arrived.len()], "what arrived");
}

#[test]
fn a_file_that_cannot_be_synced_or_closed_is_an_error() {
    if !needs("strace") {
        return;
    }
    let folder = Folder::new();
    folder.write("in", "hello");
    for (call, sync) in [("fsync", &["--sync"][..]), ("close", &[])] {
        let program = env!("CARGO_BIN_EXE_pcproxy");
        let mut command = Command::new("strace");
        // The error of a file that is created: other descriptors are not looked at.
        command.args(["-f", "-o", "trace", "-P"]).arg(folder.path("out"));
        command.args(["-e", &format!("inject={call}:error=EIO"), program, "in", "-o", "out"]).args(sync);
        command.current_dir(folder.0.path());
        start_command(command, null(), null()).wait().failed(1, &["out: Input/output error"]);
    }
    assert_eq!(folder.read("out"), b"hello");
}

#[test]
fn a_fifo_is_waited_for_and_signals_are_heard_meanwhile() {
    let folder = Folder::new();
    folder.fifo("fifo");
    for words in [["fifo", "-o", "-"], ["-", "-o", "fifo"]] {
        let pcproxy = folder.start(&words, null());
        pcproxy.wait_heeding(Signal::TERM);
        pcproxy.settle();
        pcproxy.signal(Signal::TERM);
        pcproxy.wait().died_silently_by(Signal::TERM);
    }
    folder.write("in", "hello");
    let pcproxy = folder.start(&["in", "-o", "fifo"], null());
    assert_eq!(read_to_end(File::open(folder.path("fifo")).unwrap()), b"hello");
    pcproxy.wait().succeeded("to a FIFO");
}

#[test]
fn bytes_go_from_file_to_file_by_way_of_any_connection() {
    let data = payload(5_000_000);
    for listen in ["tcp-listen://:0", "tcp-listen://127.0.0.1:0", "tcp-listen://localhost:0", "tcp-listen://[::1]:0"] {
        for options in [&[][..], &["--buffer", "3M", "--rate", "500M"]] {
            let folder = Folder::new();
            folder.write("in", &data);
            let receiver = folder.start(&[&[listen, "-o", "out"], options].concat(), null());
            let port = port_of(&receiver);
            let host = if listen.contains("::1") { "[::1]" } else { "localhost" };
            folder.run(&[&["in", "-o", &format!("tcp://{host}:{port}")], options].concat()).1.succeeded(listen);
            receiver.wait().succeeded(listen);
            assert_arrived(&folder.read("out"), &data, listen);
        }
    }
    let folder = Folder::new();
    folder.write("in", &data);
    let receiver = folder.start(&["unix-listen:socket", "-o", "out"], null());
    until("the socket", || folder.path("socket").exists());
    folder.run(&["in", "-o", "unix:socket"]).1.succeeded("unix");
    receiver.wait().succeeded("unix-listen");
    assert_arrived(&folder.read("out"), &data, "unix");
    assert!(!folder.path("socket").exists());
}

#[test]
fn a_listener_gives_as_well_as_it_takes() {
    let folder = Folder::new();
    let data = payload(2_000_000);
    folder.write("in", &data);
    let giver = folder.start(&["in", "-o", "tcp-listen://:0"], null());
    let (arrived, end) = folder.run(&[&format!("tcp://localhost:{}", port_of(&giver))]);
    end.succeeded("taken");
    giver.wait().succeeded("given");
    assert_arrived(&arrived, &data, "from a listener");
}

#[test]
fn a_listener_serves_one_peer_and_its_end_is_the_end() {
    let folder = Folder::new();
    let (stdout, into) = pipe().unwrap();
    let pcproxy = folder.start(&["tcp-listen://:0"], into);
    let port = port_of(&pcproxy);
    let mut peer = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    peer.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&stdout, 5), b"hello");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "nobody listens any more");
    // A half-close is an end.
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(stdout), b"");
    pcproxy.wait().succeeded("the end");
}

#[test]
fn the_end_of_the_input_is_passed_on_as_a_half_close_and_success_waits_for_the_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_socket_recv_buffer_size(&listener, 4096).unwrap();
    let folder = Folder::new();
    // More than the receiver's buffer and less than the sender's.
    let data = payload(100_000);
    folder.write("in", &data);
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let pcproxy = folder.start(&["in", "-o", &address], null());
    let (mut peer, _) = listener.accept().unwrap();
    // All is written, and little of it acknowledged.
    pcproxy.settle();
    assert_arrived(&read_to_end(&peer), &data, "before the end");
    pcproxy.wait().succeeded("everything is acknowledged");
    // The other direction is none of its business, and open until it closes.
    let _ = peer.write_all(b"too late");
}

#[test]
fn a_peer_that_ends_its_own_side_early_still_gets_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    let data = payload(8_000_000);
    folder.write("in", &data);
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let pcproxy = folder.start(&["in", "-o", &address], null());
    let (peer, _) = listener.accept().unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_arrived(&read_to_end(&peer), &data, "half-closed");
    pcproxy.wait().succeeded("half-closed");
}

/// Closes a connection with a reset.
fn reset(peer: TcpStream) {
    set_socket_linger(&peer, Some(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn a_reset_in_the_middle_says_how_many_bytes_did_not_arrive() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    // While bytes are written, and after the last one.
    for size in [50_000_000, 100_000] {
        set_socket_recv_buffer_size(&listener, 4096).unwrap();
        folder.write("in", payload(size));
        let pcproxy = folder.start(&["in", "-o", &address], null());
        let (peer, _) = listener.accept().unwrap();
        read_exactly(&peer, 1000);
        pcproxy.settle();
        reset(peer);
        let end = pcproxy.wait();
        end.failed(1, &[&address, "reset", " bytes arrived; ", "read and not delivered"]);
        let number = |word: &str| {
            let before = end.stderr.split(word).next().unwrap();
            before.rsplit(' ').next().unwrap().replace(',', "").parse::<usize>().unwrap()
        };
        let (arrived, missing) = (number(" bytes arrived"), number(" bytes were read"));
        assert!(arrived >= 1000 && missing > 0, "{end:?}");
        if size == 100_000 {
            assert_eq!(arrived + missing, size, "{end:?}");
        }
    }
}

#[test]
fn an_input_that_is_reset_is_an_error_after_what_it_gave() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    folder.write("two", "two");
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    for (words, expected) in [(&[address.as_str()][..], ""), (&[&address, "two"], "two")] {
        let (stdout, into) = pipe().unwrap();
        let pcproxy = folder.start(words, into);
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"hello").unwrap();
        assert_eq!(read_exactly(&stdout, 5), b"hello");
        reset(peer);
        assert_eq!(read_to_end(stdout), expected.as_bytes());
        pcproxy.wait().failed(1, &[&address, "Connection reset"]);
    }
}

#[test]
fn a_peer_that_never_reads_or_says_nothing_is_waited_for_until_a_signal() {
    let folder = Folder::new();
    folder.write("in", payload(50_000_000));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Its window is smaller than what is held: not everything will ever be acknowledged.
    set_socket_recv_buffer_size(&listener, 4096).unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let pcproxy = folder.start(&["in", "-o", &address], null());
    let (peer, _) = listener.accept().unwrap();
    until("bytes", || unread(&peer) > 0);
    pcproxy.settle();
    pcproxy.signal(Signal::INT);
    pcproxy.line();
    pcproxy.signal(Signal::INT);
    let end = pcproxy.wait();
    end.died_by(Signal::INT);
    assert!(end.stderr.contains(" bytes arrived; ") && end.stderr.contains("not delivered"), "{end:?}");

    let pcproxy = folder.start(&[&address, "-o", "out"], null());
    let (_peer, _) = listener.accept().unwrap();
    pcproxy.settle();
    pcproxy.signal(Signal::TERM);
    pcproxy.wait().died_silently_by(Signal::TERM);
}

#[test]
fn a_listener_that_nobody_connects_to_ends_by_a_signal() {
    let folder = Folder::new();
    for words in [["tcp-listen://:0", "-o", "-"], ["-", "-o", "tcp-listen://:0"]] {
        let pcproxy = folder.start(&words, null());
        port_of(&pcproxy);
        pcproxy.signal(Signal::TERM);
        pcproxy.wait().died_silently_by(Signal::TERM);
    }
    for words in [["unix-listen:socket", "-o", "-"], ["-", "-o", "unix-listen:socket"]] {
        let pcproxy = folder.start(&words, null());
        until("the socket", || folder.path("socket").exists());
        pcproxy.settle();
        pcproxy.signal(Signal::TERM);
        pcproxy.wait().died_silently_by(Signal::TERM);
        assert!(!folder.path("socket").exists(), "{words:?}");
    }
}

#[test]
fn a_connection_that_cannot_be_made_is_one_line() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let _unix = UnixListener::bind(folder.path("taken")).unwrap();
    folder.write("file", "");
    for (word, why) in [
        ("tcp://127.0.0.1:1".to_owned(), "Connection refused"),
        ("tcp://no-such-host.invalid:9".to_owned(), "cannot find the address of 'no-such-host.invalid'"),
        (format!("tcp-listen://:{port}"), "Address already in use"),
        ("unix:none".to_owned(), "No such file"),
        ("unix-listen:taken".to_owned(), "Address already in use"),
        ("unix-listen:file".to_owned(), "Address already in use"),
    ] {
        let (_, end) = folder.run(&[&word]);
        end.failed(1, &[&format!("pcproxy: {word}: "), why]);
        let (_, end) = folder.run(&["-o", &word]);
        end.failed(1, &[&format!("pcproxy: {word}: "), why]);
    }
    assert_eq!(folder.read("file"), b"");
}

#[test]
fn a_socket_that_nobody_listens_to_any_more_is_replaced() {
    let folder = Folder::new();
    drop(UnixListener::bind(folder.path("socket")).unwrap());
    assert!(folder.path("socket").exists());
    let (stdout, into) = pipe().unwrap();
    let pcproxy = folder.start(&["unix-listen:socket"], into);
    let mut peer = None;
    until("the socket", || {
        peer = UnixStream::connect(folder.path("socket")).ok();
        peer.is_some()
    });
    peer.as_mut().unwrap().write_all(b"hello").unwrap();
    drop(peer);
    assert_eq!(read_to_end(stdout), b"hello");
    pcproxy.wait().succeeded("replaced");
}

#[test]
fn an_address_that_does_not_answer_is_given_up_in_time() {
    // A queue that is full takes no more connections, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _full = TcpStream::connect(address).unwrap();
    let folder = Folder::new();
    let word = format!("tcp://{address}");
    let (_, end) = folder.run(&["--connect-timeout", "200ms", "-o", &word]);
    end.failed(1, &[&word, "no connection within 200ms"]);
    // A signal does not wait for it.
    let pcproxy = folder.start(&["--connect-timeout", "1h", &word], null());
    pcproxy.wait_heeding(Signal::TERM);
    pcproxy.settle();
    pcproxy.signal(Signal::TERM);
    pcproxy.wait().died_silently_by(Signal::TERM);
}

#[test]
fn a_peer_may_connect_to_a_later_input_while_the_first_is_read() {
    let folder = Folder::new();
    let (stdin, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let mut command = pcproxy(&["-", "unix-listen:socket"]);
    command.current_dir(folder.0.path());
    let running = start_command(command, stdin, into);
    until("the socket", || folder.path("socket").exists());
    let mut peer = UnixStream::connect(folder.path("socket")).unwrap();
    peer.write_all(b"second").unwrap();
    drop(peer);
    ours.write_all(b"first ").unwrap();
    drop(ours);
    assert_eq!(read_to_end(stdout), b"first second");
    running.wait().succeeded("in order");
}

#[test]
fn nothing_wakes_a_connection_with_nothing_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pcproxy = start(&["-o", &format!("tcp://{}", listener.local_addr().unwrap())], pipe().unwrap().0, null());
    let (mut peer, _) = listener.accept().unwrap();
    // Its input has ended at once, and everything is acknowledged.
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    pcproxy.wait().succeeded("an empty input");

    let (stdin, mut ours) = pipe().unwrap();
    let pcproxy = start(&["-o", &format!("tcp://{}", listener.local_addr().unwrap())], stdin, null());
    let (peer, _) = listener.accept().unwrap();
    ours.write_all(b"hello").unwrap();
    assert_eq!(read_exactly(&peer, 5), b"hello");
    pcproxy.settle();
    let switches = || pcproxy.status("voluntary_ctxt_switches");
    let before = switches();
    // The thing to be seen is that nothing happens.
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    rustix::event::poll(&mut [], Some(&pause)).unwrap();
    assert_eq!(switches(), before);
}

#[test]
fn a_named_pipe_whose_reader_leaves_ends_the_run_as_in_a_pipeline() {
    let folder = Folder::new();
    folder.fifo("fifo");
    let pcproxy = folder.start(&["/dev/zero", "-o", "fifo"], null());
    let mut reader = File::open(folder.path("fifo")).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    drop(reader);
    pcproxy.wait().died_silently_by(Signal::PIPE);
}

/// What an end with a name can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    File,
    Fifo,
    Tcp,
    Unix,
    UnixListen,
    /// Not named at all, or `-`.
    Standard,
}

const NAMED: [Named; 6] = [Named::File, Named::Fifo, Named::Tcp, Named::Unix, Named::UnixListen, Named::Standard];

/// What the other side of an end has to do, and what it got.
type Other = std::thread::JoinHandle<Vec<u8>>;

/// Connects to the socket at `path` as soon as it is there.
fn connect(path: &std::path::Path) -> UnixStream {
    let mut peer = None;
    until("the socket", || {
        peer = UnixStream::connect(path).ok();
        peer.is_some()
    });
    peer.unwrap()
}

impl Folder {
    /// An end of this kind called `name`, and the thread that does `with` to its other side.
    fn end(
        &self,
        kind: Named,
        name: &str,
        with: impl FnOnce(Box<dyn ReadWrite>) -> Vec<u8> + Send + 'static,
    ) -> (String, Other) {
        let path = self.path(name);
        match kind {
            Named::File | Named::Standard => unreachable!("no other side"),
            Named::Fifo => {
                self.fifo(name);
                let (reads, path) = (name.starts_with("out"), path);
                let open = move || File::options().read(reads).write(!reads).open(path).unwrap();
                (name.to_owned(), std::thread::spawn(move || with(Box::new(open()))))
            }
            Named::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let address = format!("tcp://{}", listener.local_addr().unwrap());
                (address, std::thread::spawn(move || with(Box::new(listener.accept().unwrap().0))))
            }
            Named::Unix => {
                let listener = UnixListener::bind(path).unwrap();
                (format!("unix:{name}"), std::thread::spawn(move || with(Box::new(listener.accept().unwrap().0))))
            }
            Named::UnixListen => {
                (format!("unix-listen:{name}"), std::thread::spawn(move || with(Box::new(connect(&path)))))
            }
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Sends `data` from an end of one kind to ends of other kinds, and compares byte by byte.
fn passes(data: &[u8], from: Named, to: &[Named], options: &[&str]) {
    let what = format!("{from:?} to {to:?}, {options:?}");
    let folder = Folder::new();
    let (stdin, mut ours) = pipe().unwrap();
    let (stdout, into) = pipe().unwrap();
    let mut words: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
    let sent = data.to_vec();
    let feeder = match from {
        Named::File => {
            folder.write("in", data);
            words.push("in".to_owned());
            None
        }
        Named::Standard => Some(std::thread::spawn(move || {
            ours.write_all(&sent).unwrap();
            Vec::new()
        })),
        from => {
            let (word, feeder) = folder.end(from, "in", move |mut peer| {
                peer.write_all(&sent).unwrap();
                Vec::new()
            });
            words.push(word);
            Some(feeder)
        }
    };
    let mut takers = Vec::new();
    for (at, kind) in to.iter().enumerate() {
        let name = format!("out{at}");
        let (word, taker) = match kind {
            Named::File => (name, None),
            Named::Standard => {
                let stdout = stdout.try_clone().unwrap();
                ("-".to_owned(), Some(std::thread::spawn(move || read_to_end(stdout))))
            }
            kind => {
                let (word, taker) = folder.end(*kind, &name, |mut peer| {
                    let mut all = Vec::new();
                    peer.read_to_end(&mut all).unwrap();
                    all
                });
                (word, Some(taker))
            }
        };
        words.extend(["-o".to_owned(), word]);
        takers.push(taker);
    }
    let mut command = pcproxy(&words.iter().map(String::as_str).collect::<Vec<_>>());
    command.current_dir(folder.0.path());
    start_command(command, stdin, into).wait().succeeded(&what);
    feeder.into_iter().for_each(|feeder| drop(feeder.join().unwrap()));
    for (at, taker) in takers.into_iter().enumerate() {
        let arrived = taker.map_or_else(|| folder.read(&format!("out{at}")), |taker| taker.join().unwrap());
        assert_arrived(&arrived, data, format!("{what}: output {at}"));
    }
}

/// From this kind to every kind, and to two and three at once, with every buffer.
fn passes_to_every_named_end(from: Named) {
    let buffers: [(&[&str], usize); 5] = [
        (&["--buffer", "1"], 2_000),
        (&["--buffer", "7"], 9_000),
        (&["--buffer", "4096", "--pipe-size", "keep"], 150_000),
        (&[], 1_500_000),
        (&["--buffer", "8M", "--pipe-size", "keep", "--rate", "100M"], 700_000),
    ];
    let several: [&[Named]; 5] = [
        &[Named::Fifo, Named::Standard],
        &[Named::File, Named::Tcp],
        &[Named::Tcp, Named::Tcp],
        &[Named::Unix, Named::Fifo, Named::File],
        &[Named::Standard, Named::File],
    ];
    for (options, len) in buffers {
        let data = payload(len);
        for to in NAMED {
            passes(&data, from, &[to], options);
        }
        for to in several {
            passes(&data, from, to, options);
        }
        // One that is appended to does not splice: all of them are written to.
        passes(&data, from, &[Named::File, Named::Standard], &[options, &["--append"]].concat());
    }
    passes(b"", from, &[Named::File], &[]);
    passes(b"", from, &[Named::Tcp, Named::Fifo], &[]);
}

#[test]
fn what_a_named_file_gives_arrives() {
    passes_to_every_named_end(Named::File);
}

#[test]
fn what_a_named_fifo_gives_arrives() {
    passes_to_every_named_end(Named::Fifo);
}

#[test]
fn what_a_tcp_connection_of_our_own_gives_arrives() {
    passes_to_every_named_end(Named::Tcp);
}

#[test]
fn what_a_unix_socket_of_our_own_gives_arrives() {
    passes_to_every_named_end(Named::Unix);
}

#[test]
fn what_a_peer_of_a_unix_listener_gives_arrives() {
    passes_to_every_named_end(Named::UnixListen);
}

#[test]
fn what_stdin_gives_arrives_at_every_named_end() {
    passes_to_every_named_end(Named::Standard);
}

#[test]
fn several_inputs_of_different_kinds_arrive_at_several_outputs() {
    let folder = Folder::new();
    let data = payload(400_000);
    folder.write("file", &data);
    let sent = data.clone();
    let (word, feeder) = folder.end(Named::Tcp, "in", move |mut peer| {
        peer.write_all(&sent).unwrap();
        Vec::new()
    });
    let words = ["file", &word, "/proc/self/comm", "file", "-o", "one", "-o", "-"];
    let (stdout, end) = folder.run(&words);
    end.succeeded("several of both");
    feeder.join().unwrap();
    let expected = [&data, &data, &b"pcproxy\n"[..], &data].concat();
    assert_arrived(&stdout, &expected, "stdout");
    assert_arrived(&folder.read("one"), &expected, "file");
}

/// Checks that the run went on without an output: one line when it failed, and one with its count
/// of `total` bytes.
#[track_caller]
fn left_out(end: &End, label: &str, why: &str, total: usize) {
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    let lines: Vec<_> = end.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{end:?}");
    assert!(lines[0].starts_with(&format!("pcproxy: {label}: ")) && lines[0].contains(why), "{end:?}");
    let count = |line: &str, before: &str| -> usize {
        let text = line.split(before).next().unwrap();
        text.rsplit(' ').next().unwrap().replace(',', "").parse().unwrap()
    };
    assert!(lines[1].starts_with(&format!("pcproxy: {label}: ")), "{end:?}");
    assert_eq!(count(lines[1], " bytes arrived") + count(lines[1], " bytes were read"), total, "{end:?}");
}

#[test]
fn an_output_that_fails_is_left_out_and_the_others_get_everything() {
    let folder = Folder::new();
    let data = payload(3_000_000);
    folder.write("in", &data);
    fs::create_dir(folder.path("folder")).unwrap();
    for (bad, why) in [("/dev/full", "No space left"), ("folder", "Is a directory"), ("tcp://127.0.0.1:1", "refused")] {
        for order in [[bad, "good"], ["good", bad]] {
            let _ = fs::remove_file(folder.path("good"));
            let (_, end) = folder.run(&["in", "-o", order[0], "-o", order[1]]);
            left_out(&end, bad, why, data.len());
            assert_arrived(&folder.read("good"), &data, bad);
        }
    }
    // The last of all fails the run.
    let (_, end) = folder.run(&["in", "-o", "/dev/full", "-o", "/dev/full"]);
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    assert!(end.stderr.contains("not delivered"), "{end:?}");
    let (_, end) = folder.run(&["in", "-o", "folder", "-o", "none/x"]);
    assert_eq!((end.status.code(), end.stderr.lines().count()), (Some(1), 2), "{end:?}");
}

#[test]
fn an_output_whose_reader_leaves_or_resets_is_left_out_with_its_count() {
    let data = payload(20_000_000);
    for kind in [Named::Fifo, Named::Tcp, Named::Unix] {
        let folder = Folder::new();
        folder.write("in", &data);
        let (word, reader) = folder.end(kind, "out", |mut peer| {
            let mut some = vec![0; 100_000];
            peer.read_exact(&mut some).unwrap();
            some
        });
        let (stdout, end) = folder.run(&["in", "-o", &word, "-o", "-", "-o", "file"]);
        left_out(&end, &word, "", data.len());
        assert_arrived(&reader.join().unwrap(), &data[..100_000], format!("{kind:?}"));
        assert_arrived(&stdout, &data, "stdout");
        assert_arrived(&folder.read("file"), &data, "file");
    }
}

#[test]
fn an_output_that_stalls_holds_up_the_others_and_nothing_is_lost() {
    let folder = Folder::new();
    let data = payload(8_000_000);
    folder.write("in", &data);
    folder.fifo("slow");
    let (stdout, into) = pipe().unwrap();
    let pcproxy = folder.start(&["in", "-o", "-", "-o", "slow"], into);
    let slow = File::open(folder.path("slow")).unwrap();
    let mut got = read_exactly(&stdout, 1_000_000);
    pcproxy.settle();
    // The pipe of the slow one and the buffer, and not everything.
    let ahead = unread(&stdout) + got.len();
    assert!(ahead < 3_000_000, "{ahead} bytes");
    let rest = std::thread::spawn(move || read_to_end(slow));
    got.extend(read_to_end(stdout));
    pcproxy.wait().succeeded("a slow output");
    assert_arrived(&got, &data, "the fast one");
    assert_arrived(&rest.join().unwrap(), &data, "the slow one");
}

#[test]
fn the_same_file_is_not_written_to_twice() {
    let folder = Folder::new();
    folder.write("in", "in").write("out", "precious");
    symlink("out", folder.path("link")).unwrap();
    folder.run(&["in", "-o", "out", "-o", "link"]).1.failed(1, &["link: two outputs are the same file"]);
    assert_eq!(folder.read("out"), b"precious");
}

#[test]
fn two_outputs_hold_no_more_than_the_buffer() {
    let folder = Folder::new();
    folder.fifo("one");
    folder.fifo("two");
    for (size, buffer) in [("4096", 4096), ("64K", 65_536), ("3M", 3 << 20)] {
        for piece in [100, 5000] {
            let data = payload(buffer + 800_000);
            let (theirs, ours, stdin) = support::input_pipe();
            let mut command = pcproxy(&["--buffer", size, "--pipe-size", "keep", "-o", "one", "-o", "two"]);
            command.current_dir(folder.0.path());
            let running = start_command(command, theirs, null());
            let [one, two] = ["one", "two"].map(|name| File::open(folder.path(name)).unwrap());
            // Both are there once the first byte has arrived.
            (&ours).write_all(&data[..1]).unwrap();
            until("the first byte", || unread(&one) == 1 && unread(&two) == 1);
            let accepted = 1 + running.feed_until_paused(&ours, &data[1..], piece);
            let held = accepted - unread(&stdin) - unread(&one).max(unread(&two));
            assert!(held <= buffer, "{held} bytes in a buffer of {buffer}, pieces of {piece}");
            assert!(held >= (buffer * 9).div_ceil(10), "only {held} bytes of {buffer}, pieces of {piece}");
            drop((ours, stdin));
            let other = std::thread::spawn(move || read_to_end(two));
            assert_arrived(&read_to_end(one), &data[..accepted], size);
            assert_arrived(&other.join().unwrap(), &data[..accepted], size);
            running.wait().succeeded(size);
        }
    }
}

#[test]
fn the_checksum_of_several_outputs_is_that_of_what_all_of_them_got() {
    let folder = Folder::new();
    let data = payload(1_000_003);
    folder.write("in", &data);
    let expected = {
        let output = Command::new("sha256sum").arg(folder.path("in")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
    };
    for options in [&[][..], &["--buffer", "1000"], &["-l"], &["--append"]] {
        let words = ["--hash", "sha256", "in", "-o", "one", "-o", "-", "-o", "two"];
        let (stdout, end) = folder.run(&[options, &words].concat());
        assert!(end.status.success(), "{options:?}: {end:?}");
        assert_eq!(end.stderr, format!("{expected}  -\n"));
        for arrived in [stdout, folder.read("one"), folder.read("two")] {
            assert_arrived(&arrived, &data, format!("{options:?}"));
        }
        ["one", "two"].iter().for_each(|name| fs::remove_file(folder.path(name)).unwrap());
    }
    // One that fails does not spoil it for the others.
    let (_, end) = folder.run(&["--hash", "sha256", "in", "-o", "one", "-o", "/dev/full"]);
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    assert_eq!(end.stderr.lines().filter(|line| line.starts_with(&expected)).count(), 1, "{end:?}");
    assert_arrived(&folder.read("one"), &data, "the one that did not fail");
    // Where all fail, it is that of what arrived.
    let (_, end) = folder.run(&["--hash", "sha256", "in", "-o", "/dev/full", "-o", "/dev/full"]);
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert!(end.stderr.contains(nothing), "{end:?}");
}

/// Reads a pipe in whole writes, as one in packet mode keeps them.
#[test]
fn several_outputs_get_whole_records_at_the_rate_of_records() {
    let folder = Folder::new();
    folder.fifo("one");
    folder.fifo("two");
    let lines: Vec<u8> = (0..40).flat_map(|at| format!("{at} {}\n", "x".repeat(at * 50)).into_bytes()).collect();
    folder.write("in", &lines);
    let begun = std::time::Instant::now();
    let pcproxy = folder.start(&["-l", "--rate", "200", "--buffer", "3000", "in", "-o", "one", "-o", "two"], null());
    let takers = ["one", "two"].map(|name| {
        let path = folder.path(name);
        std::thread::spawn(move || {
            let (mut pipe, mut all, mut space) = (File::open(path).unwrap(), Vec::new(), [0; 65_536]);
            loop {
                let read = pipe.read(&mut space).unwrap();
                if read == 0 {
                    return all;
                }
                // It is never seen in the middle of a line.
                assert_eq!(space[read - 1], b'\n', "{read} bytes");
                all.extend_from_slice(&space[..read]);
            }
        })
    });
    for taker in takers {
        assert_arrived(&taker.join().unwrap(), &lines, "lines");
    }
    pcproxy.wait().succeeded("lines");
    assert!(begun.elapsed().as_millis() >= 180, "{:?}", begun.elapsed());
}
