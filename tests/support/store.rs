//! A server of Valkey or Redis for a test, on a port or a socket of its own.

#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// After this a server that does not answer never will.
const WATCHDOG: Duration = Duration::from_secs(20);

/// What the program of the server is called, where one is installed.
pub fn program() -> Option<&'static str> {
    ["valkey-server", "redis-server"].into_iter().find(|name| {
        let started = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        started.is_ok_and(|status| status.success())
    })
}

/// A server that is killed when it goes out of scope.
pub struct Server {
    child: Option<Child>,
    folder: TempDir,
    pub port: u16,
    options: Vec<String>,
}

impl Server {
    /// A new server, with these options beside the usual ones. Nothing where none is installed:
    /// the test is then skipped, with a line on stderr that says so. Under CI that is a failure.
    pub fn start(options: &[&str]) -> Option<Self> {
        if program().is_none() {
            assert!(std::env::var_os("CI").is_none(), "valkey-server or redis-server must be installed under CI");
            eprintln!("SKIPPED: neither valkey-server nor redis-server is installed");
            return None;
        }
        let mut server = Server {
            child: None,
            folder: tempfile::tempdir().unwrap(),
            port: 0,
            options: options.iter().map(|&option| option.to_owned()).collect(),
        };
        // Another process may take a free port first.
        for _ in 0..10 {
            server.port = free_port();
            if server.try_run() {
                return Some(server);
            }
        }
        panic!("the server does not start: {}", server.log());
    }

    /// A sentinel that watches this server and calls it `main`, with these lines in its configuration
    /// too. It ends with the result.
    pub fn sentinel(&self, lines: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let path = folder.path().join("sentinel.conf");
        fs::write(&path, format!("port {port}\nsentinel monitor main 127.0.0.1 {} 1\n{lines}", self.port)).unwrap();
        let mut command = Command::new(program().unwrap());
        command.arg(&path).arg("--sentinel").current_dir(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let sentinel = Server { child: Some(child), folder, port, options: Vec::new() };
        let until = Instant::now() + WATCHDOG;
        while Raw::connect(port).is_err() {
            assert!(Instant::now() < until, "the sentinel does not start");
            std::thread::yield_now();
        }
        sentinel
    }

    /// Runs it again after [`kill`](Self::kill), without data.
    pub fn run_again(&mut self) {
        let until = Instant::now() + WATCHDOG;
        while !self.try_run() {
            assert!(Instant::now() < until, "the server does not start again: {}", self.log());
        }
    }

    fn try_run(&mut self) -> bool {
        let mut command = Command::new(program().unwrap());
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.args(["--dir", self.folder.path().to_str().unwrap(), "--logfile", "log", "--daemonize", "no"]);
        command.args(["--repl-diskless-sync-delay", "0"]).args(&self.options);
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + WATCHDOG;
        while Instant::now() < until {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(mut raw) = Raw::connect(self.port) {
                // A server with a password answers too.
                let answer = raw.try_call(&["PING"]);
                if answer.is_some_and(|answer| answer.contains("PONG") || answer.contains("NOAUTH")) {
                    return true;
                }
            }
            std::thread::yield_now();
        }
        false
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn url(&self) -> String {
        format!("valkey://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills it; its data is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Says something to it, and returns the answer as text, its parts in lines.
    pub fn call(&self, words: &[&str]) -> String {
        let mut raw = Raw::connect(self.port).unwrap();
        raw.try_call(words).expect("the server answers")
    }

    /// A number of its statistics, such as `used_cpu_user`.
    pub fn fact(&self, name: &str) -> f64 {
        let facts = self.call(&["INFO", "everything"]);
        let line = facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in INFO")).trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A connection that is spoken to without the code under test.
pub struct Raw(BufReader<TcpStream>);

impl Raw {
    pub fn connect(port: u16) -> std::io::Result<Raw> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(WATCHDOG))?;
        Ok(Raw(BufReader::new(stream)))
    }

    pub fn try_call(&mut self, words: &[&str]) -> Option<String> {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        self.try_call_bytes(&words)
    }

    pub fn try_call_bytes(&mut self, words: &[&[u8]]) -> Option<String> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.0.get_mut().write_all(&bytes).ok()?;
        self.answer()
    }

    fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        match line.split_at(1) {
            ("$", length) => {
                let Ok(length) = length.parse::<usize>() else { return Some(String::new()) };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).ok()?;
                Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
            }
            ("*", count) => {
                let parts: Option<Vec<_>> = (0..count.parse().unwrap_or(0)).map(|_| self.answer()).collect();
                Some(parts?.join("\n"))
            }
            _ => Some(line.to_owned()),
        }
    }
}

/// A port of the loopback address that is free. It is below those from which the system chooses, so
/// that no connection of another test takes it before a program listens there.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (first, count) = (20_000, 12_000);
    loop {
        // Test programs that run at the same time begin at different places.
        let place = std::process::id().wrapping_mul(101).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (first + place % count) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
