// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks 4, 5 and 6: skew, burstiness and content of what is written.

use crate::stats::{
    aggregate, chi_square_uniform, hurst, index_of_dispersion, rank_frequency, zipf,
};

use super::Check;

/// How users choose among events, persons or tags.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the popularity models of workload.md, 6.6")]
pub enum Popularity<'a> {
    /// As Olio does: all objects are equally likely. How often each was chosen.
    Uniform(&'a [u64]),
    /// By Zipf's law.
    Zipf {
        /// The exponent that was set.
        exponent: f64,
        /// How often the object of each rank was chosen, in order of rank.
        counts: &'a [u64],
    },
}

/// Check 4. `whole` and `heaps` hold for each page (of the guest, of the workers' heaps) in how
/// many epochs of 0.5 s it was written: record 60 to 180 s, since the slope depends on the length.
#[must_use]
pub fn skew(whole: &[u64], heaps: &[u64], popularity: Popularity<'_>) -> Vec<Check> {
    let slope = |counts: &[u64]| rank_frequency(counts, None).map(|fit| fit.slope);
    let mut checks = vec![
        Check::of(
            4,
            "rank-frequency slope, whole guest",
            slope(whole),
            (1.0, 1.2),
            "real site 1.12 (300 users)",
        ),
        Check::of(
            4,
            "rank-frequency slope, heaps",
            slope(heaps),
            (0.4, 0.6),
            "real site 0.42 to 0.55",
        ),
    ];
    checks.push(match popularity {
        Popularity::Uniform(counts) => Check::of(
            4,
            "objects uniform: p-value",
            chi_square_uniform(counts).map(|test| test.p_value),
            (0.001, f64::INFINITY),
            "chi-square test",
        ),
        Popularity::Zipf { exponent, counts } => Check::of(
            4,
            "objects: Zipf exponent",
            zipf(counts).map(|fit| fit.exponent),
            (exponent - 0.05, exponent + 0.05),
            format!("maximum likelihood; {exponent} was set"),
        ),
    });
    checks
}

/// Check 5. `pages` are the pages written in each successive window of 0.5 s; 64 s or more of
/// them, so that there are four windows of 16 s to compare.
#[must_use]
pub fn burstiness(pages: &[f64]) -> Vec<Check> {
    let index = |factor| index_of_dispersion(&aggregate(pages, factor));
    let ratio = |a: usize, b: usize| Ok::<_, crate::stats::StatsError>(index(a)? / index(b)?);
    let length = pages.len() as f64 / 2.0;
    let over = |least| (least, f64::INFINITY);
    vec![
        Check::new(5, "length recorded, s", length, over(64.0), "four windows of 16 s"),
        Check::of(5, "dispersion at 0.5 s", index(1), over(50.0), "real site 277"),
        Check::of(5, "dispersion at 2 s / 0.5 s", ratio(4, 1), over(1.0), "real site 3.0"),
        Check::of(5, "dispersion at 8 s / 2 s", ratio(16, 4), over(1.0), "real site 3.1"),
        Check::of(
            5,
            "Hurst parameter, 0.5 to 16 s",
            hurst(pages, 32).map(|fit| fit.h),
            (0.7, f64::INFINITY),
            "aggregated variance; real site 0.89",
        ),
    ]
}

/// What a region of the guest should hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "the content profiles of workload.md, 6.1")]
pub enum RegionKind {
    /// Text and records: heaps, sessions, logs.
    Text,
    /// Compressed content: pictures and uploads in the page cache.
    Compressed,
    /// Never written.
    Zero,
}

/// Sampled pages of one region.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a name and figures")]
pub struct RegionContent<'a> {
    /// Name of the region.
    pub name: &'a str,
    /// What it should hold.
    pub kind: RegionKind,
    /// Mean entropy of its pages in bits a byte ([`crate::stats::entropy_bits`] of each page).
    pub entropy_bits: f64,
}

/// Check 6. Of `dirtied` pages that were compared over a second, `unchanged` had the same bytes
/// after it as before. The entropy of each region must be what its content has: at most 6.5 bits
/// for text (English prose has 4.2), 7.5 and more for compressed bytes (random pages have 7.95).
#[must_use]
pub fn content(dirtied: u64, unchanged: u64, regions: &[RegionContent<'_>]) -> Vec<Check> {
    let mut checks = vec![Check::new(
        6,
        "share of dirtied pages unchanged",
        unchanged as f64 / dirtied as f64,
        (0.2, 0.4),
        "real site 0.24 to 0.39",
    )];
    for region in regions {
        let (range, what) = match region.kind {
            RegionKind::Text => ((0.5, 6.5), "text and records"),
            RegionKind::Compressed => ((7.5, 8.0), "compressed content"),
            RegionKind::Zero => ((0.0, 0.0), "zero pages"),
        };
        let name = format!("entropy of {}, bits/byte", region.name);
        checks.push(Check::new(6, name, region.entropy_bits, range, what));
    }
    for (kind, what) in [(RegionKind::Text, "text"), (RegionKind::Compressed, "compressed")] {
        if !regions.iter().any(|r| r.kind == kind) {
            let name = format!("a region of {what} content");
            let range = (f64::NEG_INFINITY, f64::INFINITY);
            checks.push(Check::new(6, name, f64::NAN, range, "none was sampled"));
        }
    }
    checks
}
