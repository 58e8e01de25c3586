//! How a run comes to its end: signals, and errors that are kept until all is delivered.

use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGQUIT};

/// A signal that comes sooner after the first may be the same news again: the shell and the kernel
/// both send SIGHUP when a terminal closes, and a service manager sends two different ones.
const SAME_NEWS: Duration = Duration::from_secs(1);

/// The effect of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// The input ends, and what is held is still delivered.
    Finish,
    /// Nothing changes.
    Nothing,
    /// The run ends at once.
    Abandon,
}

/// The signals that have asked a run to end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interrupts {
    first: Option<(i32, Duration)>,
}

impl Interrupts {
    /// The signal that ended the input, if one did.
    pub(super) fn interrupted_by(&self) -> Option<i32> {
        self.first.map(|(signal, _)| signal)
    }

    /// The effect of `signal`, which came at `now`.
    pub(super) fn on(&mut self, signal: i32, now: Duration) -> Reaction {
        match self.first {
            // Ctrl-\ asks for an end without delay.
            _ if signal == SIGQUIT => {
                self.first.get_or_insert((signal, now));
                Reaction::Abandon
            }
            None => {
                self.first = Some((signal, now));
                Reaction::Finish
            }
            Some((_, since)) if signal == SIGINT || now.saturating_sub(since) >= SAME_NEWS => Reaction::Abandon,
            Some(_) => Reaction::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::consts::{SIGHUP, SIGTERM};

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_terminal_that_closes_sends_sighup_twice_and_nothing_is_dropped() {
        let mut interrupts = Interrupts::default();
        assert_eq!(interrupts.on(SIGHUP, ms(10)), Reaction::Finish);
        assert_eq!(interrupts.on(SIGHUP, ms(11)), Reaction::Nothing);
        assert_eq!(interrupts.on(SIGTERM, ms(12)), Reaction::Nothing);
        assert_eq!(interrupts.interrupted_by(), Some(SIGHUP));
    }

    #[test]
    fn a_second_ctrl_c_and_a_later_signal_end_the_run_at_once() {
        let mut interrupts = Interrupts::default();
        assert_eq!(interrupts.on(SIGINT, ms(10)), Reaction::Finish);
        assert_eq!(interrupts.on(SIGINT, ms(11)), Reaction::Abandon);
        let mut interrupts = Interrupts::default();
        assert_eq!(interrupts.on(SIGTERM, ms(10)), Reaction::Finish);
        assert_eq!(interrupts.on(SIGTERM, ms(1010)), Reaction::Abandon);
        assert_eq!(Interrupts::default().on(SIGQUIT, ms(0)), Reaction::Abandon);
    }
}
