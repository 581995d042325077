//! When to try again.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::RegistryError;

/// Rounds over all places.
pub(crate) const ROUNDS: u32 = 4;
pub(crate) const FIRST: Duration = Duration::from_millis(250);
/// The longest that a registry's Retry-After is followed; the kubelet comes again by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The wait before another round after these failures; `None`: it would not help, or not soon.
pub(crate) fn pause(round: u32, failures: &[RegistryError]) -> Option<Duration> {
    let passing = failures.iter().filter(|error| error.passes());
    let soonest = passing.map(|error| error.after().unwrap_or_default()).min()?;
    if round + 1 >= ROUNDS || soonest > PATIENCE {
        return None;
    }
    Some(soonest.max(FIRST * 2_u32.pow(round)))
}

/// What the registry asks for, in seconds or as a date (RFC 9110, section 10.2.3).
pub(crate) fn after(headers: &HeaderMap, now: Duration) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(date(text)?.saturating_sub(now)),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as the time since 1970.
fn date(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|known| *known == month)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let time: Vec<i64> = words.next()?.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour @ 0..24, minute @ 0..60, second @ 0..=60] = time[..] else { return None };
    // Days since 1970 of the proleptic Gregorian calendar, whose years are taken to begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        let mut headers = HeaderMap::new();
        assert_eq!(after(&headers, Duration::ZERO), None);
        for (text, now, expected) in [
            ("7", 0, Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_770, Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_800, Some(0)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800, Some(0)),
            ("soon", 0, None),
            ("Sun, 06 Nov 1994 99:49:37 GMT", 0, None),
        ] {
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            assert_eq!(
                after(&headers, Duration::from_secs(now)),
                expected.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn only_what_passes_is_waited_for() {
        let limited = |seconds| RegistryError::Limited {
            host: String::new(),
            reference: String::new(),
            said: String::new(),
            after: Some(Duration::from_secs(seconds)),
        };
        let gone =
            || RegistryError::NotFound { host: String::new(), reference: String::new(), said: String::new() };
        let busy = || RegistryError::Stalled { host: String::new(), seconds: 1 };
        assert_eq!(pause(0, &[gone()]), None);
        assert_eq!(pause(0, &[limited(2)]), Some(Duration::from_secs(2)));
        assert_eq!(pause(0, &[limited(21)]), None);
        assert_eq!(pause(0, &[limited(600), busy()]), Some(FIRST));
        assert_eq!(pause(2, &[gone(), busy()]), Some(FIRST * 4));
        assert_eq!(pause(ROUNDS - 1, &[busy()]), None);
    }
}
