//! The words by which a user names an endpoint.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{ffi, fmt};

/// Where an endpoint is to be found. Nothing has been opened yet.
///
/// ```
/// use pcproxy::endpoint::Address;
///
/// let address = Address::parse("tcp://[::1]:9000".as_ref())?;
/// assert!(matches!(address, Address::Tcp { ref host, port: 9000, .. } if host == "::1"));
/// assert_eq!(address.to_string(), "tcp://[::1]:9000");
/// # Ok::<(), pcproxy::endpoint::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `-`: stdin or stdout.
    Standard,
    /// A path in the file system.
    File(PathBuf),
    /// `tcp://HOST:PORT`: a connection that this side makes.
    Tcp {
        /// The word as typed.
        word: String,
        /// A name or an address, without brackets.
        host: String,
        /// From 1.
        port: u16,
    },
    /// `tcp-listen://[ADDR]:PORT`: the first connection that another side makes.
    TcpListen {
        /// The word as typed.
        word: String,
        /// A name or an address, without brackets.
        host: String,
        /// 0 leaves the choice to the system.
        port: u16,
    },
    /// `unix:PATH`: a connection to a socket in the file system.
    Unix(PathBuf),
    /// `unix-listen:PATH`: the first connection to a socket that this side makes.
    UnixListen(PathBuf),
}

/// A listener without an address can be reached from this machine only.
const LOOPBACK: &str = "127.0.0.1";

impl Address {
    /// Reads a word of the command line. Every word without a scheme is a path, and so is a word
    /// with a slash before the scheme, such as `./tcp://x`.
    ///
    /// # Errors
    /// When the word begins like an address and is none.
    pub fn parse(word: &OsStr) -> Result<Self, AddressError> {
        let wrong = |why: &str| AddressError { word: word.to_string_lossy().into_owned(), why: why.to_owned() };
        let bytes = word.as_bytes();
        let path = |rest: &[u8]| match rest {
            [] => Err(wrong("a path is missing, as in unix:/run/x.sock")),
            rest => Ok(PathBuf::from(ffi::OsString::from_vec(rest.to_vec()))),
        };
        if bytes == b"-" {
            return Ok(Address::Standard);
        }
        if bytes.is_empty() {
            return Err(wrong("a name of a file cannot be empty"));
        }
        if let Some(rest) = bytes.strip_prefix(b"unix:") {
            return path(rest).map(Address::Unix);
        }
        if let Some(rest) = bytes.strip_prefix(b"unix-listen:") {
            return path(rest).map(Address::UnixListen);
        }
        let listens = bytes.starts_with(b"tcp-listen:");
        if !listens && !bytes.starts_with(b"tcp:") {
            return Ok(Address::File(PathBuf::from(word)));
        }
        let example = if listens { "tcp-listen://127.0.0.1:9000" } else { "tcp://HOST:9000" };
        let word = word.to_str().ok_or_else(|| wrong("is no text"))?;
        let rest = word.split_once("://").map(|(_, rest)| rest.strip_suffix('/').unwrap_or(rest));
        let rest = rest.ok_or_else(|| wrong(&format!("two slashes are missing, as in {example}")))?;
        let (host, port) = match rest.strip_prefix('[').map(|rest| rest.split_once("]:")) {
            Some(inside) => inside.ok_or_else(|| wrong("an address in brackets has the form [ADDRESS]:PORT"))?,
            None => rest.rsplit_once(':').ok_or_else(|| wrong(&format!("a port is missing, as in {example}")))?,
        };
        if host.contains(':') && !rest.starts_with('[') {
            return Err(wrong("an IPv6 address needs brackets, as in [::1]:9000"));
        }
        let port = port.parse().map_err(|_| wrong("a port is a number from 0 to 65535"))?;
        let word = word.to_owned();
        match (listens, host) {
            (true, "") => Ok(Address::TcpListen { word, host: LOOPBACK.to_owned(), port }),
            (true, host) => Ok(Address::TcpListen { word, host: host.to_owned(), port }),
            (false, "") => Err(wrong(&format!("a host is missing, as in {example}"))),
            (false, _) if port == 0 => Err(wrong("a port to connect to is at least 1")),
            (false, host) => Ok(Address::Tcp { word, host: host.to_owned(), port }),
        }
    }

    /// The path, if it is that of a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Address::File(path) => Some(path),
            _ => None,
        }
    }

    /// Whether it is a socket.
    pub fn is_socket(&self) -> bool {
        !matches!(self, Address::Standard | Address::File(_))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Standard => f.write_str("-"),
            Address::File(path) => path.display().fmt(f),
            Address::Tcp { word, .. } | Address::TcpListen { word, .. } => f.write_str(word),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::UnixListen(path) => write!(f, "unix-listen:{}", path.display()),
        }
    }
}

/// A word that begins like an address and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    /// The word as typed.
    pub word: String,
    why: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The word stands in front already.
        f.write_str(&self.why)
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(word: &str) -> Result<Address, String> {
        Address::parse(word.as_ref()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_without_a_scheme_is_a_path() {
        for word in ["disk.img", "./top", "./tcp://x", "tcp", "unix", "/dev/fd/63", "C:x", "http://x"] {
            assert_eq!(parse(word), Ok(Address::File(word.into())), "{word}");
        }
        assert_eq!(parse("-"), Ok(Address::Standard));
    }

    #[test]
    fn hosts_and_ports_are_read_with_and_without_brackets() {
        for (word, host, port) in
            [("tcp://h:1", "h", 1), ("tcp://[::1]:65535", "::1", 65535), ("tcp://10.0.0.1:80/", "10.0.0.1", 80)]
        {
            let is = Address::Tcp { word: word.to_owned(), host: host.to_owned(), port };
            assert_eq!(parse(word), Ok(is));
        }
        for (word, host, port) in [
            ("tcp-listen://:0", "127.0.0.1", 0),
            ("tcp-listen://0.0.0.0:9", "0.0.0.0", 9),
            ("tcp-listen://[::]:9", "::", 9),
        ] {
            let is = Address::TcpListen { word: word.to_owned(), host: host.to_owned(), port };
            assert_eq!(parse(word), Ok(is));
        }
        assert_eq!(parse("unix:/run/x"), Ok(Address::Unix("/run/x".into())));
        assert_eq!(parse("unix-listen:x"), Ok(Address::UnixListen("x".into())));
    }

    #[test]
    fn a_word_that_begins_like_an_address_and_is_none_is_refused() {
        for (word, why) in [
            ("tcp:h:1", "two slashes"),
            ("tcp://h", "port is missing"),
            ("tcp://:80", "host is missing"),
            ("tcp://h:http", "a number"),
            ("tcp://h:65536", "a number"),
            ("tcp://h:0", "at least 1"),
            ("tcp://::1:80", "brackets"),
            ("tcp://[::1]", "brackets"),
            ("tcp-listen://9000", "port is missing"),
            ("unix:", "path is missing"),
            ("", "empty"),
        ] {
            let error = parse(word).unwrap_err();
            assert!(error.contains(why), "{word}: {error}");
        }
    }
}
