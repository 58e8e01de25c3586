//! The terminal belongs to others too: to password prompts, to programs that read keys, to a user
//! who wants nothing from the background.

mod support;

use std::fs::{self, File};
use std::io::Write;

use rustix::fs::{CWD, FileType, Mode, fstat, mknodat};
use rustix::process::{Signal, kill_process};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use support::terminal::{PROMPT, STARTED};
use support::{KIB, Screen, until};

/// A transfer without an end.
const DUMP: &str = "pcproxy --name dump --rate 1M --interval 20ms </dev/zero >/dev/null";

/// Switches these modes of the terminal on or off, as a password prompt or `less` does.
fn set(screen: &Screen, modes: LocalModes, on: bool) {
    let terminal = screen.terminal();
    let mut attributes = tcgetattr(&terminal).unwrap();
    attributes.local_modes.set(modes, on);
    tcsetattr(&terminal, OptionalActions::Now, &attributes).unwrap();
}

/// Waits until the run of this name has had time for ten drawings.
fn ten_drawings(screen: &Screen, name: &str) {
    let elapsed = || screen.stats(name)["elapsed"].as_f64().unwrap();
    let start = elapsed();
    until("ten drawings", || elapsed() > start + 0.2);
}

#[test]
fn a_password_prompt_is_not_drawn_over() {
    let Some(screen) = Screen::new(140, 24) else { return };
    screen.run(DUMP);
    let pcproxy = screen.pcproxy();
    for modes in [LocalModes::ECHO, LocalModes::ICANON, LocalModes::ECHO | LocalModes::ICANON] {
        screen.wait_line("dump: ", &["limited"]);
        set(&screen, modes, false);
        // A drawing that had begun is over.
        ten_drawings(&screen, "dump");
        (&File::from(screen.terminal())).write_all(b"\r\x1b[KPassword: ").unwrap();
        screen.wait("the prompt", |lines| lines.ends_with(&["Password:".to_owned()]));
        kill_process(pcproxy, Signal::USR1).unwrap();
        ten_drawings(&screen, "dump");
        assert_eq!(screen.lines().last().unwrap(), "Password:", "{modes:?}");
        // The message was kept.
        set(&screen, modes, true);
        screen.wait("the summary, and the line below it", |lines| {
            let [.., verdict, line] = lines else { return false };
            verdict.starts_with("pcproxy: limited: ") && line.starts_with("dump: ")
        });
        screen.tmux(&["clear-history"]);
    }
    screen.press(&["C-c"]);
    screen.wait("the prompt", |lines| lines.ends_with(&[PROMPT.to_owned()]));
}

#[test]
fn a_run_that_ends_while_less_has_the_screen_leaves_it_alone() {
    let Some(screen) = Screen::new(80, 24) else { return };
    screen.run(DUMP);
    screen.wait_line("dump: ", &["limited"]);
    set(&screen, LocalModes::ECHO | LocalModes::ICANON, false);
    ten_drawings(&screen, "dump");
    (&File::from(screen.terminal())).write_all(b"\r\x1b[K(END)").unwrap();
    screen.ctl(&["dump", "stop"]);
    let lines = screen.wait("the shell", |lines| lines.last().is_some_and(|line| line.ends_with(PROMPT)));
    assert_eq!(lines, [STARTED, "(END)$"]);
}

#[test]
fn before_the_first_byte_there_is_no_line() {
    let Some(screen) = Screen::new(80, 24) else { return };
    let fifo = screen.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    screen.run("pcproxy --name dump --interval 10ms <fifo >/dev/null");
    let mut input = File::options().read(true).write(true).open(&fifo).unwrap();
    let pcproxy = screen.pcproxy();
    until("a socket", || screen.path(&format!("pcproxy/{}.sock", pcproxy.as_raw_nonzero())).exists());
    ten_drawings(&screen, "dump");
    assert_eq!(screen.lines(), [STARTED]);
    input.write_all(&[b'x'; KIB]).unwrap();
    screen.wait_line("dump: 1.00 KiB", &["producer slow"]);
    drop(input);
    assert!(screen.wait_done()[0].ends_with("done"));
}

#[test]
fn a_message_from_the_background_does_not_stop_the_transfer() {
    for options in ["--interval 20ms", "-q"] {
        let Some(screen) = Screen::new(140, 24) else { return };
        screen.run(&format!("stty tostop; pcproxy {options} --name dump --rate 1M --summary </dev/zero >/dev/null &"));
        let pcproxy = screen.pcproxy();
        until("a socket", || screen.path(&format!("pcproxy/{}.sock", pcproxy.as_raw_nonzero())).exists());
        let bytes = || screen.stats("dump")["bytes"].as_u64().unwrap();
        let verdicts = |lines: &[String]| lines.iter().filter(|line| line.contains("pcproxy: limited: ")).count();
        // A run that is too short has another verdict.
        ten_drawings(&screen, "dump");
        for asked in 1..=3 {
            kill_process(pcproxy, Signal::USR1).unwrap();
            screen.wait("a summary", |lines| verdicts(lines) == asked);
            let before = bytes();
            until("more bytes", || bytes() > before);
        }
        screen.ctl(&["dump", "stop"]);
        screen.wait("the summary at the end", |lines| verdicts(lines) == 4);
        until("the end", || !screen.path(&format!("pcproxy/{}.sock", pcproxy.as_raw_nonzero())).exists());
    }
}

#[test]
fn a_huge_file_of_rows_does_not_abort_the_transfer() {
    let Some(screen) = Screen::new(80, 24) else { return };
    let device = fstat(screen.terminal()).unwrap().st_rdev;
    let folder = screen.path("pcproxy");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let rows = folder.join(format!("terminal-{device}.rows"));
    File::create(&rows).unwrap().set_len(1 << 40).unwrap();
    fs::set_permissions(&rows, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    screen.run(DUMP);
    screen.wait_line("dump: ", &["limited"]);
    screen.press(&["C-c"]);
    let lines = screen.wait_done();
    assert!(lines.len() == 1 && lines[0].ends_with("interrupted"), "{lines:?}");
}

#[test]
fn a_run_that_waits_for_someone_to_type_says_so() {
    let Some(screen) = Screen::new(100, 24) else { return };
    screen.run("pcproxy");
    screen.wait_line("pcproxy: waiting for bytes from the terminal; Ctrl-D ends them", &["--help"]);
    screen.press(&["hello", "Enter"]);
    screen.wait("the echo and the copy", |lines| lines.iter().filter(|line| *line == "hello").count() == 2);
    screen.press(&["C-d"]);
    assert_eq!(screen.wait_done()[1..], ["hello", "hello"]);
    screen.press(&["clear", "Enter"]);
    // One that is to be quiet does not.
    screen.wait("a clear screen", |lines| lines == [PROMPT]);
    screen.run("pcproxy -q");
    screen.press(&["hello", "Enter"]);
    screen.wait("the echo and the copy", |lines| lines.iter().filter(|line| *line == "hello").count() == 2);
    screen.press(&["C-d"]);
    assert_eq!(screen.wait_done(), ["hello", "hello"]);
}
