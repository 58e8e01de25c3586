//! Keys, from the bytes that a terminal sends. There is no terminal here and no clock.

/// A key, or several pressed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    /// A letter with Ctrl.
    Control(char),
    Enter,
    Backspace,
    Escape,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// A key that means nothing here.
    Other,
}

/// A longer sequence is none.
const LONGEST: usize = 32;

const ESCAPE: u8 = 0x1b;

/// Reads keys from bytes, which may be cut anywhere.
#[derive(Debug, Default)]
pub struct Keys {
    bytes: Vec<u8>,
}

impl Keys {
    /// The keys that are complete with these bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((key, len)) = first(&self.bytes) {
            self.bytes.drain(..len);
            keys.extend(key);
        }
        keys
    }

    /// Whether the bytes so far may be the begin of a key: the key Escape begins like many others.
    pub fn is_open(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The keys in what has not become any other key for a while.
    pub fn close(&mut self) -> Vec<Key> {
        let bytes = std::mem::take(&mut self.bytes);
        match bytes.split_first() {
            Some((&ESCAPE, rest)) => {
                let mut keys = vec![Key::Escape];
                keys.extend(self.feed(rest));
                self.bytes.clear();
                keys
            }
            _ => Vec::new(),
        }
    }
}

/// The first key in `bytes`, if it is one that matters, and how many bytes it takes up. Nothing if
/// it is not complete.
fn first(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let (&byte, rest) = bytes.split_first()?;
    Some(match byte {
        ESCAPE => match rest.first()? {
            b'[' | b'O' => return sequence(bytes),
            // Alt and a key come as these two.
            _ => (Some(Key::Escape), 1),
        },
        b'\r' | b'\n' => (Some(Key::Enter), 1),
        0x7f | 0x08 => (Some(Key::Backspace), 1),
        b'\t' | 0 | 0x1c..0x20 => (Some(Key::Other), 1),
        1..0x1b => (Some(Key::Control((byte - 1 + b'a').into())), 1),
        0x20..0x80 => (Some(Key::Char(byte.into())), 1),
        _ => {
            let len = match byte {
                0xc2..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0..0xf5 => 4,
                _ => return Some((None, 1)),
            };
            let whole = bytes.len().min(len);
            match str::from_utf8(&bytes[..whole]) {
                Ok(text) => (text.chars().next().map(Key::Char), len),
                Err(error) if error.error_len().is_none() => return None,
                Err(_) => (None, 1),
            }
        }
    })
}

/// The same of bytes that begin with ESC [ or ESC O.
fn sequence(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let (start, rest) = bytes.split_at(2);
    let parameters =
        if start[1] == b'O' { 0 } else { rest.iter().take_while(|byte| matches!(byte, 0x20..0x40)).count() };
    let len = 2 + parameters + 1;
    let Some(last) = rest.get(parameters) else {
        return if bytes.len() > LONGEST { Some((None, bytes.len())) } else { None };
    };
    let number = rest[..parameters].split(|byte| *byte == b';').next();
    let key = match (last, number) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', Some(b"1" | b"7")) => Key::Home,
        (b'F', _) | (b'~', Some(b"4" | b"8")) => Key::End,
        (b'~', Some(b"5")) => Key::PageUp,
        (b'~', Some(b"6")) => Key::PageDown,
        _ => Key::Other,
    };
    Some((Some(key), len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        Keys::default().feed(bytes)
    }

    #[test]
    fn knows_the_keys_of_usual_terminals() {
        for (bytes, key) in [
            (&b"q"[..], Key::Char('q')),
            ("ü".as_bytes(), Key::Char('ü')),
            ("👩".as_bytes(), Key::Char('👩')),
            (b"\x03", Key::Control('c')),
            (b"\x1a", Key::Control('z')),
            (b"\r", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[1;5D", Key::Left),
            (b"\x1b[C", Key::Right),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6~", Key::PageDown),
            (b"\x1b[1~", Key::Home),
            (b"\x1bOH", Key::Home),
            (b"\x1b[F", Key::End),
            (b"\x1b[8~", Key::End),
            (b"\x1b[15~", Key::Other),
            (b"\t", Key::Other),
        ] {
            assert_eq!(keys(bytes), [key], "{bytes:?}");
            // Cut anywhere, it is the same.
            let mut cut = Keys::default();
            let pieces: Vec<_> = bytes.iter().flat_map(|byte| cut.feed(&[*byte])).collect();
            assert_eq!((pieces, cut.is_open()), (vec![key], false), "{bytes:?}");
        }
    }

    #[test]
    fn escape_is_a_key_once_nothing_follows() {
        let mut keys = Keys::default();
        assert_eq!(keys.feed(b"\x1b"), []);
        assert!(keys.is_open());
        assert_eq!(keys.close(), [Key::Escape]);
        assert!(!keys.is_open());
        assert_eq!(keys.feed(b"\x1bq"), [Key::Escape, Key::Char('q')]);
        assert_eq!(keys.feed(b"\x1b["), []);
        assert_eq!(keys.close(), [Key::Escape, Key::Char('[')]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut keys = Keys::default();
            keys.feed(&bytes);
            keys.feed(&[b'x'; 8]);
            keys.close();
            prop_assert!(!keys.is_open());
            prop_assert_eq!(keys.feed(b"y"), [Key::Char('y')]);
        }
    }
}
