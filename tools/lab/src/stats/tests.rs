// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Estimates against data whose parameters are known.

#![expect(clippy::cast_sign_loss, reason = "generated values are positive")]

use precopy::sim::Rng;
use proptest::prelude::*;

use super::*;

/// Near a normal distribution: mean 0, deviation 1.
fn normal(rng: &mut Rng) -> f64 {
    (0..12).map(|_| rng.unit()).sum::<f64>() - 6.0
}

fn poisson(rng: &mut Rng, mean: f64) -> f64 {
    let (mut product, mut count) = (rng.unit(), 0.0);
    while product > (-mean).exp() {
        product *= rng.unit();
        count += 1.0;
    }
    count
}

fn zipf_draws(rng: &mut Rng, objects: usize, exponent: f64, draws: usize) -> Vec<u64> {
    let mut total = 0.0;
    let upto: Vec<f64> = (1..=objects)
        .map(|r| {
            total += (r as f64).powf(-exponent);
            total
        })
        .collect();
    let mut counts = vec![0; objects];
    for _ in 0..draws {
        let at = rng.unit() * total;
        counts[upto.partition_point(|&u| u <= at).min(objects - 1)] += 1;
    }
    counts
}

#[test]
fn lines_are_found() {
    let exact: Vec<_> = (0..10).map(|x| (f64::from(x), 3.0 - 2.0 * f64::from(x))).collect();
    let line = linear(&exact).unwrap();
    assert!((line.slope + 2.0).abs() < 1e-12 && (line.intercept - 3.0).abs() < 1e-12);
    assert!((line.r2 - 1.0).abs() < 1e-12 && (line.at(20.0) + 37.0).abs() < 1e-9);
    // By hand: slope 0.6, intercept 2.2, R2 0.6.
    let line = linear(&[(1.0, 2.0), (2.0, 4.0), (3.0, 5.0), (4.0, 4.0), (5.0, 5.0)]).unwrap();
    assert!((line.slope - 0.6).abs() < 1e-12 && (line.r2 - 0.6).abs() < 1e-12);
    assert!((line.intercept - 2.2).abs() < 1e-12);
    assert_eq!(linear(&[(1.0, 1.0)]).unwrap_err().to_string(), {
        "1 points are too few; at least 2 are needed"
    });
    assert!(matches!(linear(&[(1.0, 1.0), (1.0, 2.0)]), Err(StatsError::Flat { .. })));
    let bad = linear(&[(1.0, 1.0), (2.0, f64::NAN)]);
    assert!(matches!(bad, Err(StatsError::NotFinite { what: "ordinate", index: 1, .. })));
}

#[test]
fn ranks_fall_with_their_slope() {
    for slope in [0.5, 1.0, 1.2] {
        let mut counts: Vec<u64> =
            (1..=500).map(|r| (1e6 * f64::from(r).powf(-slope)) as u64).collect();
        counts.reverse();
        counts.extend([0; 100]);
        let fit = rank_frequency(&counts, None).unwrap();
        assert!((fit.slope - slope).abs() < 0.002, "{fit:?} for {slope}");
        assert_eq!((fit.first_rank, fit.last_rank), (1, 500));
        assert_eq!(rank_frequency(&counts, Some(40)).unwrap().last_rank, 40);
    }
    let flat = rank_frequency(&[7; 50], None).unwrap();
    assert!(flat.slope.abs() < 1e-9);
    assert!(rank_frequency(&[0, 3], None).is_err());
}

#[test]
fn zipf_exponents_are_recovered() {
    let mut rng = Rng::new(5);
    for exponent in [0.0, 0.6, 0.9, 1.1, 2.0] {
        let counts = zipf_draws(&mut rng, 2000, exponent, 40_000);
        let fit = zipf(&counts).unwrap();
        // Four standard errors, and never worse than the 0.05 that the check allows.
        assert!(fit.error < 0.0125, "{fit:?}");
        assert!((fit.exponent - exponent).abs() < 4.0 * fit.error, "{fit:?} for {exponent}");
    }
    // One object drawn alone: as steep as is tried.
    assert!((zipf(&[9, 0, 0]).unwrap().exponent - 8.0).abs() < 1e-6);
    // Drawn from the tail: not below even.
    assert!(zipf(&[0, 0, 9]).unwrap().exponent < 1e-6);
    assert!(zipf(&[5]).is_err() && zipf(&[0, 0]).is_err());
}

#[test]
fn chi_square_agrees_with_tables() {
    // At 3 degrees of freedom 16.266 is the 0.1 % point; 17.5 is beyond it.
    let test = chi_square_uniform(&[20, 30, 5, 25]).unwrap();
    assert!((test.chi_square - 17.5).abs() < 1e-9 && test.degrees == 3);
    assert!((test.p_value - 0.000_558).abs() < 1e-6, "{test:?}");
    assert!((chi_square_uniform(&[10; 8]).unwrap().p_value - 1.0).abs() < 1e-12);
    assert!(matches!(chi_square_uniform(&[4; 8]), Err(StatsError::TooFew { least: 40, .. })));
}

#[test]
fn uniform_draws_pass_and_zipf_draws_fail() {
    let mut rng = Rng::new(11);
    // p-values of true uniforms are themselves uniform: few are small.
    let small = (0..200)
        .filter(|_| {
            let counts = zipf_draws(&mut rng, 50, 0.0, 5000);
            chi_square_uniform(&counts).unwrap().p_value < 0.05
        })
        .count();
    assert!((2..=22).contains(&small), "{small} of 200 below 0.05");
    let counts = zipf_draws(&mut rng, 50, 0.3, 5000);
    assert!(chi_square_uniform(&counts).unwrap().p_value < 1e-6);
}

#[test]
fn poisson_counts_have_dispersion_one_on_every_scale() {
    let mut rng = Rng::new(3);
    let counts: Vec<f64> = (0..16_000).map(|_| poisson(&mut rng, 6.0)).collect();
    for factor in [1, 4, 16] {
        let index = index_of_dispersion(&aggregate(&counts, factor)).unwrap();
        assert!((index - 1.0).abs() < 0.13, "{index} at {factor}");
    }
    assert_eq!(aggregate(&[1.0, 2.0, 3.0, 4.0, 5.0], 2), [3.0, 7.0]);
    assert_eq!(aggregate(&[1.0, 2.0], 0), [1.0, 2.0]);
    // Batches of 50: fifty times as dispersed.
    let batches: Vec<f64> = counts.iter().map(|c| c * 50.0).collect();
    assert!((index_of_dispersion(&batches).unwrap() - 50.0).abs() < 3.0);
    assert!(index_of_dispersion(&[0.0, 0.0]).is_err() && index_of_dispersion(&[1.0]).is_err());
}

#[test]
fn independent_values_have_a_hurst_parameter_of_one_half() {
    let mut rng = Rng::new(9);
    let noise: Vec<f64> = (0..16_384).map(|_| 100.0 + normal(&mut rng)).collect();
    let fit = hurst(&noise, 64).unwrap();
    assert!((fit.h - 0.5).abs() < 0.05, "{fit:?}");
    assert_eq!(fit.points.len(), 7);
    // Fractional noise by on-off sources whose periods are heavy-tailed (Pareto 1.4): H = 0.8.
    let mut load = vec![0.0; 16_384];
    for _ in 0..200 {
        let (mut at, mut on) = (0.0, rng.one_in(2));
        while at < load.len() as f64 {
            let end = at + 2.0 * (1.0 - rng.unit()).powf(-1.0 / 1.4);
            if on {
                let stop = load.len().min(end as usize);
                for value in &mut load[at as usize..stop] {
                    *value += 1.0;
                }
            }
            (at, on) = (end, !on);
        }
    }
    let fit = hurst(&load, 256).unwrap();
    assert!(fit.h > 0.7 && fit.h < 1.0, "{fit:?}");
    assert!(matches!(hurst(&[3.0; 64], 16), Err(StatsError::Flat { .. })));
    assert!(hurst(&[1.0; 7], 4).is_err());
}

#[test]
fn entropy_of_known_bytes() {
    assert!(entropy_bits(&[]).abs() < 1e-12 && entropy_bits(&[0; 4096]).abs() < 1e-12);
    let all: Vec<u8> = (0..=255).collect();
    assert!((entropy_bits(&all) - 8.0).abs() < 1e-12);
    assert!((entropy_bits(b"abababab") - 1.0).abs() < 1e-12);
    let mut rng = Rng::new(1);
    let random: Vec<u8> = (0..4096).map(|_| rng.below(256) as u8).collect();
    assert!((entropy_bits(&random) - 7.95).abs() < 0.02);
}

proptest! {
    #[test]
    fn summaries_hold_for_any_values(values in prop::collection::vec(-1e6..1e6_f64, 1..60)) {
        let s = summary(&values).unwrap();
        let below = values.iter().filter(|&&v| v < s.median).count();
        let above = values.iter().filter(|&&v| v > s.median).count();
        prop_assert!(below * 2 <= values.len() && above * 2 <= values.len());
        prop_assert!(values.iter().all(|&v| v >= s.min && v <= s.max));
        prop_assert!(values.contains(&s.min) && values.contains(&s.max));
        prop_assert!(s.range() >= 0.0 && s.count == values.len());
        prop_assert!(s.mean >= s.min - 1e-6 && s.mean <= s.max + 1e-6);
    }
}

#[test]
fn summaries_need_values() {
    assert!((summary(&[3.0, 1.0, 2.0, 10.0]).unwrap().median - 2.5).abs() < 1e-12);
    assert!(summary(&[]).is_err() && summary(&[f64::INFINITY]).is_err());
}

#[test]
fn quantiles_agree_with_numpy() {
    // numpy.quantile([3, 1, 4, 1, 5, 9, 2, 6], [0, .25, .5, .95, 1])
    let sorted = Sorted::new(vec![3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]).unwrap();
    for (share, value) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.5), (0.95, 7.95), (1.0, 9.0)] {
        assert!((sorted.quantile(share) - value).abs() < 1e-12, "{share}");
    }
    assert!((sorted.mean_of_worst(0.05) - 9.0).abs() < 1e-12);
    assert!((sorted.mean_of_worst(0.25) - 7.5).abs() < 1e-12);
    assert!((sorted.mean_of_worst(1.0) - 31.0 / 8.0).abs() < 1e-12);
    assert!(Sorted::new(vec![]).is_err() && Sorted::new(vec![f64::NAN]).is_err());
}

#[test]
fn sign_flips_by_hand() {
    // All of one sign: only the two extremes of 2^n are as far out.
    assert!((sign_flip(&[1.0, 2.0, 3.0, 4.0, 5.0], 1).unwrap() - 2.0 / 32.0).abs() < 1e-12);
    // |1 - 1| = 0: every flip is as far out.
    assert!((sign_flip(&[1.0, -1.0], 1).unwrap() - 1.0).abs() < 1e-12);
    // 3 + 2 - 1 = 4: of 8 sums 6 4 2 0 0 -2 -4 -6, four are at least as far out.
    assert!((sign_flip(&[3.0, 2.0, -1.0], 1).unwrap() - 0.5).abs() < 1e-12);
    assert!((sign_flip(&[7.0], 1).unwrap() - 1.0).abs() < 1e-12);
    // Past the exact limit the random flips agree with what must be rare.
    assert!(sign_flip(&[1.0; 20], 1).unwrap() < 1e-3);
    assert!(sign_flip(&[], 1).is_err());
}

#[test]
fn holm_by_hand() {
    // Sorted 0.005 0.01 0.03 0.04 times 4 3 2 1, then never falling.
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
    for (is, should) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
        assert!((is - should).abs() < 1e-12, "{adjusted:?}");
    }
    assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    assert!(holm(&[]).is_empty());
}

#[test]
fn bootstrap_intervals_cover_the_mean() {
    // Of 95 % intervals from 30 normal values about 93 in 100 hold the true mean.
    let mut rng = Rng::new(4);
    let covered = (0..400).filter(|seed| {
        let values: Vec<f64> = (0..30).map(|_| 5.0 + normal(&mut rng)).collect();
        let interval = bootstrap(&values, 500, *seed).unwrap();
        assert!(interval.low <= interval.mean && interval.mean <= interval.high);
        interval.low <= 5.0 && 5.0 <= interval.high
    });
    let covered = covered.count();
    assert!((355..=395).contains(&covered), "{covered} of 400");
    let one = bootstrap(&[3.0], 100, 1).unwrap();
    assert_eq!((one.low, one.mean, one.high), (3.0, 3.0, 3.0));
    assert_eq!(bootstrap(&[1.0, 2.0], 50, 9), bootstrap(&[1.0, 2.0], 50, 9));
}
