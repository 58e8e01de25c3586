//! Sizes, rates and times: as people write them, and as they read them.

mod change;
mod parse;
mod show;

pub use change::RateChange;
pub use parse::{
    GivenRate, RateUnit, Speed, UnitError, parse_interval, parse_rate, parse_size, parse_speed, parse_time,
};
pub use show::{
    printable, show_briefly, show_bytes, show_count, show_number, show_of, show_rate, show_rate_briefly, show_rate_in,
    show_record_rate, show_share, show_size, show_time, show_timeout,
};
