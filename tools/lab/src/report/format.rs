// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers as text: three digits that mean something, never more.

use super::spread::Spread;

/// What stands where there is no value.
pub(super) const NONE: &str = "\u{2013}";

/// A number with three significant digits; whole numbers from 100 on are kept whole.
pub(super) fn sig(value: f64) -> String {
    if value.is_nan() {
        return NONE.to_owned();
    }
    if value.is_infinite() {
        return (if value > 0.0 { "\u{221e}" } else { "-\u{221e}" }).to_owned();
    }
    let size = value.abs();
    let text = if size == 0.0 {
        return "0".to_owned();
    } else if size >= 99.95 {
        return grouped(value);
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else if size >= 0.0995 {
        format!("{value:.3}")
    } else if size >= 0.0001 {
        format!("{value:.4}")
    } else {
        return format!("{value:.1e}");
    };
    // 2.00 users are 2 users, and 0.500 s are 0.5 s.
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(digits.len() * 2);
    if value < 0.0 {
        text.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its thousands apart.
pub(super) fn count(value: u64) -> String {
    if value < 100 { value.to_string() } else { grouped(value as f64) }
}

/// A number as somebody gave it, if that is short: 117.5 stays so.
pub(super) fn given(value: f64) -> String {
    let text = value.to_string();
    if text.len() <= 6 { text } else { sig(value) }
}

/// A moment in a run, s: to a tenth.
pub(super) fn moment(value: f64) -> String {
    if value.is_finite() { ((value * 10.0).round() / 10.0).to_string() } else { sig(value) }
}

/// A share as whole percent, with a digit more below ten.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let places = if percent.abs() < 9.95 { 10.0 } else { 1.0 };
    format!("{} %", sig((percent * places).round() / places))
}

/// Seconds as the paper prints them: two decimals.
pub(super) fn seconds(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { sig(value) }
}

/// Median with its range.
pub(super) fn spread(spread: &Spread) -> String {
    let (Some(median), Some(min), Some(max)) = (spread.median(), spread.min(), spread.max()) else {
        return NONE.to_owned();
    };
    if min == max {
        sig(median)
    } else {
        format!("{} ({}\u{2026}{})", sig(median), sig(min), sig(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_that_mean_something() {
        let cases = [
            (0.0, "0"),
            (0.05, "0.05"),
            (0.123_45, "0.123"),
            (0.012_345, "0.0123"),
            (0.999_9, "1"),
            (2.0, "2"),
            (2.857, "2.86"),
            (45.44, "45.4"),
            (99.96, "100"),
            (120.8, "121"),
            (524_288.0, "524,288"),
            (-1_234.0, "-1,234"),
            (0.000_012, "1.2e-5"),
            (f64::INFINITY, "\u{221e}"),
            (f64::NAN, "\u{2013}"),
        ];
        for (value, text) in cases {
            assert_eq!(sig(value), text, "{value}");
        }
        assert_eq!(percent(0.34), "34 %");
        assert_eq!(percent(0.02), "2 %");
        assert_eq!(percent(-0.0344), "-3.4 %");
        assert_eq!(given(117.5), "117.5");
        assert_eq!(moment(342.6), "342.6");
        assert_eq!(count(1_048_576), "1,048,576");
    }
}
