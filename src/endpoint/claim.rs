//! Parts of a file whose place other processes share.

use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::Endpoint;
use crate::os::Kind;

/// Whether this is a file whose place other processes share.
pub(super) fn shares_place(endpoint: &Endpoint) -> bool {
    endpoint.kind() == Kind::File && endpoint.is_shared()
}

/// The part of a file that is ours to read: other processes that share its place go on behind it.
///
/// `lseek` takes the lock that a read takes. A splice that moves the place itself does not, and
/// bytes would be lost or doubled.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim(Range<u64>);

impl Claim {
    /// Claims at most `limit` bytes of `file` if nothing is claimed. Returns where the claimed
    /// bytes begin, and how many of them there are up to `limit`. Nothing at the end of the file.
    ///
    /// No part is claimed beyond the end of the file: what is appended later is for whoever reads
    /// next.
    ///
    /// # Errors
    /// Those of `fstat` and `lseek`.
    pub(super) fn make(&mut self, file: &Endpoint, limit: usize) -> Result<Option<(u64, usize)>, Errno> {
        if self.0.is_empty() {
            let size = rustix::fs::fstat(file)?.st_size as u64;
            let at = rustix::fs::tell(file)?;
            let wanted = size.saturating_sub(at).min(limit as u64);
            if wanted == 0 {
                return Ok(None);
            }
            let end = rustix::fs::seek(file, SeekFrom::Current(wanted as i64))?;
            self.0 = end - wanted..end;
        }
        Ok(Some((self.0.start, self.unread().min(limit as u64) as usize)))
    }

    /// So many of the claimed bytes have been read.
    pub(super) fn use_up(&mut self, read: usize) {
        self.0.start += read as u64;
    }

    /// Copies claimed bytes to `into`. Returns how many: 0 if the file was cut meanwhile, and
    /// nothing if none are claimed.
    ///
    /// # Errors
    /// Those of `pread`.
    pub(super) fn read(&mut self, file: &Endpoint, into: &mut [u8]) -> Result<Option<usize>, Errno> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let limit = into.len().min(self.unread() as usize);
        let read = rustix::io::pread(file, &mut into[..limit], self.0.start)?;
        self.use_up(read);
        if read == 0 {
            self.forget();
        }
        Ok(Some(read))
    }

    /// Claims nothing any more.
    pub(super) fn forget(&mut self) {
        self.0 = 0..0;
    }

    /// Gives back what was claimed and not read, unless another process went on behind it.
    pub(super) fn give_back(&mut self, file: &Endpoint) {
        if !self.0.is_empty() && rustix::fs::tell(file) == Ok(self.0.end) {
            let _ = rustix::fs::seek(file, SeekFrom::Current(-(self.unread() as i64)));
        }
        self.forget();
    }

    fn unread(&self) -> u64 {
        self.0.end - self.0.start
    }
}
