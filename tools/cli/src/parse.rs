// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes, rates and times as people write them.

use std::time::Duration;

const SIZE: &str = "a size such as 512MiB, 2G or 4096 (K, M, G, T are powers of 1024; kB, MB, GB, \
                    TB of 1000)";
const RATE: &str = "a rate such as 1Gbit/s, 125MB/s or 64MiB/s";
const TIME: &str = "a time such as 300ms, 2s, 1.5m";

/// Splits into a number and a unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    Some((number.parse().ok()?, unit.trim()))
}

fn factor(unit: &str) -> Option<f64> {
    let two = |shift: i32| Some(1024f64.powi(shift));
    let ten = |shift: i32| Some(1000f64.powi(shift));
    match unit {
        "" | "B" => Some(1.0),
        "K" | "k" | "KiB" => two(1),
        "M" | "m" | "MiB" => two(2),
        "G" | "g" | "GiB" => two(3),
        "T" | "t" | "TiB" => two(4),
        "kB" | "KB" => ten(1),
        "MB" => ten(2),
        "GB" => ten(3),
        "TB" => ten(4),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "checked to be within bounds"
)]
fn whole(value: f64) -> Option<u64> {
    (0.0..=(1u64 << 52) as f64).contains(&value).then_some(value.round() as u64)
}

/// Bytes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bytes = split(text).and_then(|(number, unit)| whole(number * factor(unit)?));
    bytes.ok_or_else(|| format!("not {SIZE}"))
}

/// Bytes per second, at least 1.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let read = || {
        let (number, unit) = split(text)?;
        let unit = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps")).unwrap_or(unit);
        let bits = unit.strip_suffix("bit").or_else(|| unit.strip_suffix('b'));
        let factor = match bits {
            Some("") => 1.0 / 8.0,
            Some("k" | "K") => 1e3 / 8.0,
            Some("M" | "m") => 1e6 / 8.0,
            Some("G" | "g") => 1e9 / 8.0,
            Some(_) => return None,
            None => factor(unit)?,
        };
        whole(number * factor).filter(|rate| *rate > 0)
    };
    read().ok_or_else(|| format!("not {RATE}"))
}

/// A time; a number without a unit is in seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match split(text) {
        Some((number, "")) => {
            Duration::try_from_secs_f64(number).map_err(|_| format!("not {TIME}"))
        }
        _ => time(text),
    }
}

/// A time with a unit.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let read = || {
        let (number, unit) = split(text)?;
        let factor = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let seconds = number * factor;
        (seconds <= 31_536_000.0).then_some(seconds)
    };
    let time = read().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| format!("not {TIME}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_times() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("1.5K"), Ok(1536));
        assert_eq!(size("2GB"), Ok(2_000_000_000));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(rate("1Gbit/s"), Ok(125_000_000));
        assert_eq!(rate("1gbit"), Ok(125_000_000), "as tc writes it");
        assert_eq!(rate("100Mbps"), Ok(12_500_000));
        assert_eq!(rate("64MiB/s"), Ok(64 << 20));
        assert_eq!(time("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        for bad in ["", "x", "-1", "1QiB", "1e9", "9999999999999T", "1.2.3M"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(rate("0").is_err(), "a cap of nothing would never end");
        rate("1Xbit").unwrap_err();
        assert!(time("300").is_err(), "a downtime limit without a unit is a trap");
        time("99999999h").unwrap_err();
    }
}
