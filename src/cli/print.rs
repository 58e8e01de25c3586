//! Printing to stdout: the one way for every command.

use std::fmt;

use pcproxy::os::closed::was_closed;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Stdout did not take everything that was printed.
#[derive(Debug)]
pub struct PrintError(Errno);

impl fmt::Display for PrintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stdout: {}", std::io::Error::from(self.0))
    }
}

impl std::error::Error for PrintError {}

/// Writes all of `text` to stdout.
///
/// A reader that has left, as in `pcproxy ctl --all stats | head -1`, has what it wanted: the rest
/// of the text is dropped, and that is no error.
///
/// # Errors
/// Every other error of stdout, and a stdout that was closed when the program started.
pub fn print(text: &str) -> Result<(), PrintError> {
    // Rust's runtime has opened /dev/null in its place. Its own `stdout()` also keeps silent about
    // a descriptor that cannot be written to.
    if was_closed(1) {
        return Err(PrintError(Errno::BADF));
    }
    let stdout = rustix::stdio::stdout();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(stdout, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::PIPE) => return Ok(()),
            Err(Errno::INTR) => {}
            // Somebody else has set O_NONBLOCK.
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(PrintError(error)),
            },
            Err(error) => return Err(PrintError(error)),
        }
    }
    Ok(())
}
