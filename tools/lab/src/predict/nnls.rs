// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Least squares with coefficients that are not negative (Lawson and Hanson's active set).

/// Gradients and coefficients below this share of the largest count as nothing.
const TINY: f64 = 1e-10;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Coefficients, none negative, for which the sum of `columns` is nearest to `target`. Columns
/// that add nothing get 0. At most `3 n + 3` columns are taken in, so that it always ends.
pub(super) fn solve(columns: &[Vec<f64>], target: &[f64]) -> Vec<f64> {
    let norms: Vec<f64> = columns.iter().map(|c| dot(c, c).sqrt()).collect();
    let scaled = |column: &Vec<f64>, norm: &f64| {
        let by = if *norm > 0.0 { norm.recip() } else { 0.0 };
        column.iter().map(|v| v * by).collect::<Vec<_>>()
    };
    let unit: Vec<Vec<f64>> = columns.iter().zip(&norms).map(|(c, n)| scaled(c, n)).collect();
    let least = TINY * dot(target, target).sqrt();
    let mut x = vec![0.0; unit.len()];
    let mut passive = Vec::<usize>::new();
    for _ in 0..3 * unit.len() + 3 {
        let residual = residual_of(&unit, &x, target);
        let gradient = |j: &usize| dot(&unit[*j], &residual);
        let best = (0..unit.len())
            .filter(|j| !passive.contains(j))
            .max_by(|a, b| gradient(a).total_cmp(&gradient(b)));
        let Some(best) = best.filter(|j| gradient(j) > least) else { break };
        passive.push(best);
        settle(&unit, target, &mut passive, &mut x);
        if !passive.contains(&best) {
            // It came in and went out again: rounding is all that is left.
            break;
        }
    }
    for (x, norm) in x.iter_mut().zip(&norms) {
        *x = if *norm > 0.0 { *x / norm } else { 0.0 };
    }
    x
}

fn residual_of(unit: &[Vec<f64>], x: &[f64], target: &[f64]) -> Vec<f64> {
    let mut residual = target.to_vec();
    for (column, x) in unit.iter().zip(x).filter(|(_, x)| **x != 0.0) {
        residual.iter_mut().zip(column).for_each(|(r, c)| *r -= c * x);
    }
    residual
}

/// Goes from `x` towards the least squares over the passive columns, and drops those that would
/// become negative, until none would.
fn settle(unit: &[Vec<f64>], target: &[f64], passive: &mut Vec<usize>, x: &mut [f64]) {
    while !passive.is_empty() {
        let z = least_squares(unit, target, passive);
        if z.iter().all(|z| *z > 0.0) {
            x.fill(0.0);
            passive.iter().zip(z).for_each(|(j, z)| x[*j] = z);
            return;
        }
        let steps = passive.iter().zip(&z).filter(|(_, z)| **z <= 0.0);
        let step = steps.map(|(j, z)| x[*j] / (x[*j] - z).max(f64::MIN_POSITIVE));
        let step = step.fold(1.0, f64::min);
        let mut kept = Vec::new();
        for (j, z) in passive.iter().zip(&z) {
            x[*j] += step * (z - x[*j]);
            if *z > 0.0 || x[*j] > TINY {
                kept.push(*j);
            } else {
                x[*j] = 0.0;
            }
        }
        if kept.len() == passive.len() {
            // Rounding kept the one that should have gone: drop the most negative.
            let worst = (0..z.len()).min_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap_or(0);
            x[kept.remove(worst)] = 0.0;
        }
        *passive = kept;
    }
}

/// Least squares over the chosen columns by modified Gram-Schmidt; a column that depends on the
/// ones before it gets 0.
fn least_squares(unit: &[Vec<f64>], target: &[f64], chosen: &[usize]) -> Vec<f64> {
    let k = chosen.len();
    let mut base = Vec::<Vec<f64>>::with_capacity(k);
    let mut r = vec![vec![0.0; k]; k];
    let (mut rest, mut y) = (target.to_vec(), vec![0.0; k]);
    for (at, column) in chosen.iter().enumerate() {
        let mut q = unit[*column].clone();
        for (before, b) in base.iter().enumerate() {
            let part = dot(b, &q);
            r[before][at] = part;
            q.iter_mut().zip(b).for_each(|(q, b)| *q -= part * b);
        }
        let norm = dot(&q, &q).sqrt();
        if norm > TINY.sqrt() * 1e-2 {
            q.iter_mut().for_each(|q| *q /= norm);
            r[at][at] = norm;
        } else {
            q.fill(0.0);
        }
        y[at] = dot(&q, &rest);
        rest.iter_mut().zip(&q).for_each(|(t, q)| *t -= y[at] * q);
        base.push(q);
    }
    let mut z = vec![0.0; k];
    for at in (0..k).rev() {
        let known: f64 = (at + 1..k).map(|j| r[at][j] * z[j]).sum();
        z[at] = if r[at][at] > 0.0 { (y[at] - known) / r[at][at] } else { 0.0 };
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_what_a_sum_was_made_of() {
        let columns = vec![vec![1.0, 0.0, 1.0], vec![0.0, 2.0, 1.0], vec![1.0, 1.0, -1.0]];
        let target = [3.0, 8.0, 7.0];
        let x = solve(&columns, &target);
        for (x, expected) in x.iter().zip([3.0, 4.0, 0.0]) {
            assert!((x - expected).abs() < 1e-9, "{x} {expected}");
        }
        assert_eq!(solve(&columns, &[-1.0, -1.0, 0.0]), [0.0; 3], "nothing fits a negative sum");
        assert_eq!(solve(&[vec![0.0; 2]], &[1.0, 1.0]), [0.0], "an empty column is left out");
    }

    proptest! {
        /// No coefficient is negative, and no single one can be changed for the better (the
        /// conditions of Karush, Kuhn and Tucker).
        #[test]
        fn the_best_there_is(
            columns in prop::collection::vec(prop::collection::vec(-5.0f64..5.0, 6), 1..8),
            target in prop::collection::vec(-5.0f64..5.0, 6),
        ) {
            let x = solve(&columns, &target);
            let residual = residual_of(&columns, &x, &target);
            for (column, x) in columns.iter().zip(&x) {
                prop_assert!(*x >= 0.0);
                let gradient = dot(column, &residual);
                prop_assert!(gradient < 1e-5, "more of a column would help: {gradient}");
                prop_assert!(*x == 0.0 || gradient.abs() < 1e-5, "less would help: {gradient}");
            }
        }
    }
}
