// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fewer points for a drawing, chosen without chance, so that what a reader looks for stays:
//! the peaks.

use super::super::data::Point;

/// At most `most` points of a cloud, in order. The greatest tenth of what may stay is kept
/// whole; of the others every so-many-th.
pub(in super::super) fn thin_dots(points: &[Point], most: usize) -> Vec<Point> {
    if points.len() <= most || most == 0 {
        return points.get(..points.len().min(most)).unwrap_or_default().to_vec();
    }
    let mut by_height: Vec<usize> = (0..points.len()).collect();
    by_height.sort_by(|&a, &b| points[b].y.total_cmp(&points[a].y).then(a.cmp(&b)));
    let peaks = most.div_ceil(10);
    let mut keep = vec![false; points.len()];
    for &at in &by_height[..peaks] {
        keep[at] = true;
    }
    let rest: Vec<usize> = (0..points.len()).filter(|&at| !keep[at]).collect();
    let places = most - peaks;
    for place in 0..places {
        keep[rest[place * rest.len() / places]] = true;
    }
    points.iter().zip(keep).filter(|(_, kept)| *kept).map(|(point, _)| *point).collect()
}

/// At most about `most` points of a line, in order: first, least, greatest and last of each of
/// equal parts.
pub(in super::super) fn thin_line(points: &[Point], most: usize) -> Vec<Point> {
    let parts = (most / 4).max(1);
    if points.len() <= most {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(parts * 4);
    for part in 0..parts {
        let from = part * points.len() / parts;
        let to = (part + 1) * points.len() / parts;
        let Some(slice) = points.get(from..to) else { continue };
        let indexed = || slice.iter().enumerate();
        let least = indexed().min_by(|a, b| a.1.y.total_cmp(&b.1.y)).map(|(at, _)| at);
        let most = indexed().max_by(|a, b| a.1.y.total_cmp(&b.1.y)).map(|(at, _)| at);
        let mut chosen = [Some(0), least, most, slice.len().checked_sub(1)];
        chosen.sort_unstable();
        let mut last = None;
        for at in chosen.into_iter().flatten() {
            if last != Some(at) {
                kept.extend(slice.get(at));
                last = Some(at);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cloud(heights: &[f64]) -> Vec<Point> {
        heights.iter().zip(0u32..).map(|(&y, x)| Point::new(f64::from(x), y)).collect()
    }

    proptest! {
        #[test]
        fn peak_and_order_stay(
            heights in prop::collection::vec(0.0..1e3f64, 1..400),
            most in 1..200usize,
        ) {
            let points = cloud(&heights);
            let top = heights.iter().copied().fold(0.0, f64::max);
            let dots = thin_dots(&points, most);
            prop_assert_eq!(dots.len(), most.min(points.len()));
            prop_assert!(dots.iter().any(|p| p.y == top));
            prop_assert!(dots.windows(2).all(|w| w[0].x < w[1].x));
            let line = thin_line(&points, most);
            prop_assert!(line.len() <= most.max(4));
            prop_assert!(line.iter().any(|p| p.y == top));
            prop_assert!(line.windows(2).all(|w| w[0].x < w[1].x));
            prop_assert_eq!(line[0], points[0]);
            prop_assert_eq!(line[line.len() - 1], points[points.len() - 1]);
        }
    }
}
