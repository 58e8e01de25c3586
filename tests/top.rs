//! `pcproxy top` in a terminal that the test has in its hands: one that is stopped, closed, or
//! larger than any. What it looks like in a real terminal is in `terminal.rs`.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::Signal;
use rustix::termios::{Action, LocalModes, OptionalActions, Winsize, tcflow, tcgetattr, tcsetattr, tcsetwinsize};
use support::{Kind, Running, Session, Side, connection, start_command, until};

/// A terminal, a transfer, and `top` in that terminal.
struct Top {
    session: Session,
    _transfer: (Running, File),
    top: Running,
    master: File,
    slave: OwnedFd,
    /// The modes of the terminal before.
    before: String,
}

fn modes(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

impl Top {
    fn new(columns: u16, rows: u16) -> Self {
        let session = Session::new();
        let (input, ends) = (connection(Kind::Pipe, Side::Stdin), connection(Kind::Terminal, Side::Stdout));
        let transfer = session.start(&["--name", "dump", "--rate", "1"], input.theirs, Stdio::null());
        session.connect(&transfer);
        tcsetwinsize(&ends.theirs, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let mut cooked = tcgetattr(&ends.theirs).unwrap();
        cooked.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(&ends.theirs, OptionalActions::Now, &cooked).unwrap();
        let before = modes(&ends.theirs);
        let command = session.command(&["top", "--interval", "50ms"]);
        let top = start_command(command, ends.theirs.try_clone().unwrap(), ends.theirs.try_clone().unwrap());
        top.wait_heeding(Signal::TERM);
        Top { session, _transfer: (transfer, input.ours), top, master: ends.ours, slave: ends.theirs, before }
    }

    /// All that appears on the screen from now on.
    fn screen(&self) -> Receiver<String> {
        let (sender, receiver) = channel();
        let mut master = self.master.try_clone().unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 65_536];
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                if sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned()).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// Waits until `text` has appeared.
#[track_caller]
fn wait_for(screen: &Receiver<String>, text: &str) {
    let mut shown = String::new();
    until(text, || {
        shown.extend(screen.try_iter());
        shown.contains(text)
    });
}

#[test]
fn top_whose_terminal_closes_ends_as_by_a_hangup_and_does_not_abort() {
    for drawn in [false, true] {
        let Top { mut master, slave, top, session, _transfer, .. } = Top::new(80, 24);
        let mut shown = Vec::new();
        while drawn && !String::from_utf8_lossy(&shown).contains("dump") {
            let mut bytes = [0; 4096];
            let count = master.read(&mut bytes).unwrap();
            shown.extend_from_slice(&bytes[..count]);
        }
        drop((master, slave));
        top.wait().died_silently_by(Signal::HUP);
        drop(session);
    }
}

#[test]
fn top_ends_on_a_signal_though_its_terminal_takes_nothing() {
    for stopped in [false, true] {
        // Nobody reads the screen, so it is full after some frames.
        let top = Top::new(200, 60);
        if stopped {
            // As Ctrl-S does.
            tcflow(&top.slave, Action::OOff).unwrap();
        }
        until("top to take the terminal", || modes(&top.slave) != top.before);
        top.top.signal(Signal::TERM);
        top.top.wait().died_silently_by(Signal::TERM);
        assert_eq!(modes(&top.slave), top.before, "stopped: {stopped}");
    }
}

#[test]
fn top_draws_on_a_terminal_that_claims_to_be_larger_than_any() {
    for (columns, rows) in [(u16::MAX, u16::MAX), (u16::MAX, 24), (80, u16::MAX), (0, 0), (1, 1)] {
        let top = Top::new(columns, rows);
        let screen = top.screen();
        if columns > 1 || columns == 0 {
            wait_for(&screen, "dump");
        }
        (&top.master).write_all(b"q").unwrap();
        top.top.wait().succeeded(format!("{columns} by {rows}"));
    }
}

#[test]
fn top_leaves_the_cursor_and_the_screen_as_they_were_whatever_was_being_drawn() {
    let top = Top::new(200, 60);
    let screen = top.screen();
    wait_for(&screen, "\x1b[?1049h\x1b[?25l");
    wait_for(&screen, "dump");
    (&top.master).write_all(b"\x1b").unwrap();
    (&top.master).write_all(b"q").unwrap();
    wait_for(&screen, "\x1b[0m\x1b[?1049l\x1b[?25h");
    top.top.wait().succeeded("top");
}
