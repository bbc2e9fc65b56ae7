//! `strftime` for the clock of chat templates, in UTC.
//!
//! Templates ask for a date in a system prompt. The directives here are those of C99 that do not
//! depend on a locale or a time zone; any other is written out as it stands.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment in the Gregorian calendar, UTC.
struct Moment {
    year: u64,
    month: usize,
    day: u64,
    day_of_year: u64,
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Writes `time` as `format` says, as Python's `datetime.strftime` does.
pub fn strftime(time: SystemTime, format: &str) -> String {
    let moment = Moment::new(time);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        let directive = if c == '%' { chars.next() } else { None };
        match directive {
            None => out.push(c),
            Some('-') => {
                let unpadded = chars.next().map(|d| moment.directive(d)).unwrap_or_default();
                let digits = unpadded.trim_start_matches(['0', ' ']);
                out.push_str(if digits.is_empty() && !unpadded.is_empty() { "0" } else { digits });
            }
            Some(d) => out.push_str(&moment.directive(d)),
        }
    }
    out
}

impl Moment {
    /// Times before 1970 are taken as 1970.
    fn new(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        Self {
            year,
            month,
            day,
            day_of_year: days - days_before(year) + 1,
            weekday: ((days + 4) % 7) as usize,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    fn directive(&self, directive: char) -> String {
        let hour12 = (self.hour + 11) % 12 + 1;
        let mut out = String::new();
        let written = match directive {
            'Y' => write!(out, "{:04}", self.year),
            'y' => write!(out, "{:02}", self.year % 100),
            'm' => write!(out, "{:02}", self.month + 1),
            'd' => write!(out, "{:02}", self.day),
            'e' => write!(out, "{:2}", self.day),
            'j' => write!(out, "{:03}", self.day_of_year),
            'H' => write!(out, "{:02}", self.hour),
            'I' => write!(out, "{hour12:02}"),
            'M' => write!(out, "{:02}", self.minute),
            'S' => write!(out, "{:02}", self.second),
            'p' => write!(out, "{}", if self.hour < 12 { "AM" } else { "PM" }),
            'B' => write!(out, "{}", MONTHS[self.month]),
            'b' | 'h' => write!(out, "{}", &MONTHS[self.month][..3]),
            'A' => write!(out, "{}", DAYS[self.weekday]),
            'a' => write!(out, "{}", &DAYS[self.weekday][..3]),
            'w' => write!(out, "{}", self.weekday),
            'F' => write!(out, "{}-{}-{}", self.directive('Y'), self.directive('m'), self.directive('d')),
            'T' => write!(out, "{}:{}:{}", self.directive('H'), self.directive('M'), self.directive('S')),
            '%' => write!(out, "%"),
            other => write!(out, "%{other}"),
        };
        written.expect("a String takes any text");
        out
    }
}

/// Year, month from 0 and day of the month, of a number of days since 1970.
///
/// Counts in eras of 400 years that begin on the first of March, so that the leap day is last.
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let january_on = u64::from(month >= 10);
    (era * 400 + year + january_on, ((month + 2) % 12) as usize, day)
}

/// Days from 1970 to the first of January of `year`.
fn days_before(year: u64) -> u64 {
    let leaps = |y: u64| y / 4 - y / 100 + y / 400;
    365 * (year - 1970) + leaps(year - 1) - leaps(1969)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn check(seconds: u64, format: &str, expected: &str) {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(strftime(time, format), expected, "{seconds} {format}");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        check(0, "%Y-%m-%d %H:%M:%S %A", "1970-01-01 00:00:00 Thursday");
        check(951_782_400, "%d %b %Y, day %j", "29 Feb 2000, day 060");
        check(1_721_952_000, "%d %B %Y", "26 July 2024");
        check(1_735_689_599, "%F %T %a %j", "2024-12-31 23:59:59 Tue 366");
        check(1_735_689_600, "%F %j", "2025-01-01 001");
        check(4_107_542_400, "%F", "2100-03-01");
    }

    #[test]
    fn directives_follow_python() {
        check(1_721_952_000, "%y %e %p %I", "24 26 AM 12");
        check(46_800, "%I %p %-d %-m %-H %-M", "01 PM 1 1 13 0");
        check(0, "100%% %Q %", "100% %Q %");
    }
}
