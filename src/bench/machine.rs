//! What a figure was measured on and when.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::device::facts::Facts;

/// The commit that the binary was built from: of a release build in a git checkout, with `+changes` where sources differed from it.
pub const COMMIT: &str = env!("VAEBM_COMMIT");

/// Machine, build and date.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The device.
    #[serde(flatten)]
    pub device: Facts,
    /// What Linux calls the processor.
    pub processor: String,
    /// The machine's name in its network.
    pub host: String,
    /// Version of this program.
    pub vaebm: &'static str,
    /// [`COMMIT`].
    pub commit: &'static str,
    /// When, in UTC: `2026-11-29T04:05:06Z`.
    pub date: String,
}

impl Machine {
    /// This machine, now.
    pub fn now(device: Facts) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
        Machine {
            device,
            processor: crate::run::processor(),
            host: host.map_or_else(|_| "unknown".into(), |name| name.trim().to_owned()),
            vaebm: env!("CARGO_PKG_VERSION"),
            commit: COMMIT,
            date: date(seconds.map_or(0, |s| s.as_secs())),
        }
    }
}

/// Seconds since 1970 as a date and time of the Gregorian calendar.
fn date(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!(
        "{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        month + 1,
        days + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
