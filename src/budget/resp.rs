//! The protocol of Valkey and Redis (RESP 2), as far as it takes to call a script.
//!
//! A client library would bring some forty crates and a fifth of the size of the program for this
//! page. Here every call has one deadline for all of it, which is what a lease needs.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// No answer that is expected is longer than this, in bytes: some thousands of machines.
const LONGEST: usize = 1 << 20;

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A status, such as OK.
    Status(String),
    /// The server refuses, and says why.
    Refusal(String),
    /// A whole number.
    Number(i64),
    /// Bytes, or nothing.
    Bytes(Option<Vec<u8>>),
    /// Several answers.
    List(Vec<Value>),
}

impl Value {
    /// The bytes, if it is some.
    pub fn bytes(self) -> Option<Vec<u8>> {
        if let Value::Bytes(bytes) = self { bytes } else { None }
    }

    /// The same as text.
    pub fn text(self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What carries the bytes.
trait Carrier: Read + Write + Send {
    fn set_deadline(&mut self, left: Duration) -> io::Result<()>;
}

impl Carrier for TcpStream {
    fn set_deadline(&mut self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

#[cfg(feature = "tls")]
impl Carrier for super::tls::Stream {
    fn set_deadline(&mut self, left: Duration) -> io::Result<()> {
        self.sock.set_deadline(left)
    }
}

impl Carrier for UnixStream {
    fn set_deadline(&mut self, left: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(left))?;
        self.set_write_timeout(Some(left))
    }
}

/// A connection to a server.
pub struct Connection {
    carrier: Box<dyn Carrier>,
    /// What was read and not yet used.
    read: Vec<u8>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Connects by TCP within `patience`, but for the time that it takes to find the host.
    ///
    /// # Errors
    /// When the host cannot be found, or none of its addresses accepts.
    pub fn tcp(host: &str, port: u16, patience: Duration) -> io::Result<Self> {
        Ok(Self::over(tcp(host, port, patience)?))
    }

    /// The same, encrypted.
    ///
    /// # Errors
    /// The same, and when certificates cannot be used.
    #[cfg(feature = "tls")]
    pub fn tls(host: &str, port: u16, binding: &super::valkey::Binding, patience: Duration) -> io::Result<Self> {
        Ok(Self::over(super::tls::encrypt(tcp(host, port, patience)?, host, binding)?))
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// When nothing accepts there.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::over(UnixStream::connect(path)?))
    }

    fn over(carrier: impl Carrier + 'static) -> Self {
        Connection { carrier: Box::new(carrier), read: Vec::new() }
    }

    /// Sends a command and waits for its answer, at most for `patience`. After an error the
    /// connection must not be used any more.
    ///
    /// # Errors
    /// When the connection fails, is too slow, or what comes is not an answer.
    pub fn call(&mut self, words: &[&[u8]], patience: Duration) -> io::Result<Value> {
        let until = Instant::now() + patience;
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.carrier.set_deadline(patience)?;
        self.carrier.write_all(&bytes)?;
        self.carrier.flush()?;
        self.value(until, 0)
    }

    fn value(&mut self, until: Instant, depth: u32) -> io::Result<Value> {
        let line = self.line(until)?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(strange)?;
        let number = || rest.parse::<i64>().map_err(|_| strange());
        Ok(match kind {
            "+" => Value::Status(rest.to_owned()),
            "-" => Value::Refusal(rest.to_owned()),
            ":" => Value::Number(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Value::Bytes(None),
                Ok(length) if length > LONGEST => return Err(strange()),
                Ok(length) => {
                    self.need(length + 2, until)?;
                    let bytes = self.read.drain(..length + 2).take(length).collect();
                    Value::Bytes(Some(bytes))
                }
            },
            "*" => {
                let count = number()?.max(0) as usize;
                if count > LONGEST || depth > 8 {
                    return Err(strange());
                }
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(until, depth + 1)?);
                }
                Value::List(list)
            }
            _ => return Err(strange()),
        })
    }

    /// The next line, without its end.
    fn line(&mut self, until: Instant) -> io::Result<String> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.read[searched..].windows(2).position(|two| two == b"\r\n") {
                let line = self.read.drain(..searched + end + 2).take(searched + end).collect();
                return String::from_utf8(line).map_err(|_| strange());
            }
            searched = self.read.len().saturating_sub(1);
            if searched > LONGEST {
                return Err(strange());
            }
            self.need(self.read.len() + 1, until)?;
        }
    }

    /// Reads until so many bytes are there.
    fn need(&mut self, count: usize, until: Instant) -> io::Result<()> {
        let mut piece = [0; 4096];
        while self.read.len() < count {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.carrier.set_deadline(left)?;
            match self.carrier.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.read.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn tcp(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let addresses = (host, port).to_socket_addrs().map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    for address in addresses {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what answers there is not Valkey or Redis")
}
