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

/// A share as whole percent, with a digit more below ten.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent.abs() < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{} %", sig(percent.round()))
    }
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
