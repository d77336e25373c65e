// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes, rates and times as people write them.

use std::ops::Range;
use std::time::Duration;

use precopy::sim::Populated;
use precopy::sim::pair::{EncoderModel, LinkChange};

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

/// Where somebody listens: a name or an address, and a port.
pub(crate) fn peer(text: &str) -> Result<String, String> {
    let sound = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let port = port.parse::<u16>().is_ok_and(|port| port > 0);
        port && !host.is_empty() && (bracketed || !host.contains(':'))
    });
    let wrong = "not an address and a port such as 127.0.0.1:7700, host:7700 or [::1]:7700";
    if sound { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
}

/// A range of addresses in hexadecimal, as `/proc/PID/maps` has them.
pub(crate) fn addresses(text: &str) -> Result<Range<usize>, String> {
    let address = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let range = text.split_once('-').and_then(|(from, to)| Some(address(from)?..address(to)?));
    range.filter(|range| !range.is_empty()).ok_or_else(|| {
        "not a range of hexadecimal addresses such as 7f5a00000000-7f5a20000000".to_owned()
    })
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
            "ns" => 1e-9,
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

/// A link's rate, and what it becomes when.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LinkSteps(pub(crate) (f64, Vec<LinkChange>));

/// Steps of a link at most.
const STEPS_MAX: usize = 1000;

/// `RATE[@0],RATE@TIME,...`
pub(crate) fn link(text: &str) -> Result<LinkSteps, String> {
    let (mut first, mut changes) = (None, Vec::new());
    for part in text.split(',') {
        let (rate_text, time) = part.split_once('@').map_or((part, None), |(r, t)| (r, Some(t)));
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let bytes_per_s = match rate_text.trim() {
            "0" => 0.0,
            rate_text => rate(rate_text).map_err(|error| format!("{part:?}: {error}"))? as f64,
        };
        let after = time.map(|time| seconds(time.trim())).transpose();
        let after = after.map_err(|error| format!("{part:?}: {error}"))?;
        match (after, first) {
            (None, None) | (Some(Duration::ZERO), None) if bytes_per_s > 0.0 => {
                first = Some(bytes_per_s);
            }
            (None, _) => return Err(format!("{part:?}: say from when, as in 60MB/s@20s")),
            (Some(after), Some(_)) => {
                changes.push(LinkChange { after, bandwidth_bytes_per_s: bytes_per_s });
            }
            (Some(_), None) => {
                return Err(format!("{part:?}: the first rate holds from the start, above 0"));
            }
        }
        if changes.len() > STEPS_MAX {
            return Err(format!("more than {STEPS_MAX} changes"));
        }
    }
    if !changes.is_sorted_by(|a, b| a.after < b.after) {
        return Err("the changes must come in the order of time".to_owned());
    }
    Ok(LinkSteps((first.ok_or("no rate")?, changes)))
}

impl std::fmt::Display for LinkSteps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, changes) = &self.0;
        write!(f, "{}", crate::show::rate(*first))?;
        for change in changes {
            let rate = crate::show::rate(change.bandwidth_bytes_per_s);
            write!(f, ", {rate} from {}", crate::show::time(change.after))?;
        }
        Ok(())
    }
}

/// How pages are encoded.
pub(crate) fn encoder(text: &str) -> Result<EncoderModel, String> {
    match text.split_once(':') {
        None if text == "zero-aware" => Ok(EncoderModel::ZeroAware),
        None if text == "raw" => Ok(EncoderModel::Raw),
        None if text == "delta" => Ok(EncoderModel::Delta { unknown_bytes: 4096 }),
        Some(("delta", bytes)) if bytes.parse::<u16>().is_ok_and(|bytes| bytes <= 4096) => {
            Ok(EncoderModel::Delta { unknown_bytes: bytes.parse().unwrap_or(4096) })
        }
        _ => Err("not zero-aware, raw, delta or delta:BYTES with at most 4096 bytes".to_owned()),
    }
}

/// Which pages of a trace hold something.
pub(crate) fn populated(text: &str) -> Result<Populated, String> {
    match text {
        "header" => Ok(Populated::Header),
        "all" => Ok(Populated::All),
        "touched" => Ok(Populated::Touched),
        _ => text
            .strip_suffix('%')
            .and_then(|percent| percent.parse::<f64>().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(|percent| Populated::Share(percent / 100.0))
            .ok_or_else(|| "not header, all, touched or a share such as 20%".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_change_over_time() {
        let steps = link("125MB/s@0, 60MB/s@20,0@21.5s").unwrap();
        let (first, changes) = &steps.0;
        assert!((first - 125e6).abs() < 1.0 && changes.len() == 2, "{steps:?}");
        assert_eq!(changes[1].after, Duration::from_millis(21_500));
        assert!(changes[1].bandwidth_bytes_per_s.abs() < 1e-9);
        assert_eq!(steps.to_string(), "125.0 MB/s, 60.0 MB/s from 20.00 s, 0.0 MB/s from 21.50 s");
        for bad in ["", "0", "1gbit,2gbit", "1gbit@3s", "1gbit,2gbit@4s,1gbit@2s", "x@1"] {
            assert!(link(bad).is_err(), "{bad}");
        }
        assert_eq!(encoder("delta:400"), Ok(EncoderModel::Delta { unknown_bytes: 400 }));
        assert!(encoder("delta:5000").is_err() && encoder("zip").is_err());
        assert_eq!(populated("20%"), Ok(Populated::Share(0.2)));
        assert!(populated("some").is_err() && populated("120%").is_err());
    }

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
