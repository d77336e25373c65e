// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How often the residual falls below a level, and how far down it goes then.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Tick;

/// Most residuals remembered; past it the oldest go.
const POINTS_MAX: usize = 4096;
/// Lows fall if the later is less than this share of the earlier.
const LOWS_FALL: f64 = 0.95;
/// Levels tried.
const LEVELS: usize = 20;
/// Levels below the lowest residual, as shares of it.
const HOPES: [f64; 3] = [0.5, 0.25, 0.1];

/// Residuals over a sliding window, in milliseconds of link time.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Law {
    window: Duration,
    points: VecDeque<(Tick, f64)>,
}

impl Law {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, points: VecDeque::new() }
    }

    pub(super) fn add(&mut self, at: Tick, residual_ms: f64) {
        while let Some((first, _)) = self.points.front()
            && (at.since(*first) > self.window || self.points.len() >= POINTS_MAX)
        {
            self.points.pop_front();
        }
        self.points.push_back((at, residual_ms));
    }

    pub(super) fn forget(&mut self) {
        self.points.clear();
    }

    /// The lowest residual in the window.
    pub(super) fn lowest(&self) -> Option<f64> {
        self.points.iter().map(|(_, ms)| *ms).min_by(f64::total_cmp)
    }

    /// Whether the newest residual is lower than all before it, by more than the share `gain`.
    pub(super) fn is_new_low(&self, gain: f64) -> bool {
        let mut points = self.points.iter().rev().map(|(_, ms)| *ms);
        let Some(newest) = points.next() else { return false };
        points.all(|ms| newest < ms * (1.0 - gain))
    }

    /// Whether each of the last three residuals is lower than all before it: no lull is entered,
    /// the residual slides.
    pub(super) fn slides(&self) -> bool {
        let mut points = self.points.iter().rev().map(|(_, ms)| *ms);
        let (Some(last), Some(second), Some(third)) = (points.next(), points.next(), points.next())
        else {
            return false;
        };
        last < second && second < third && points.all(|ms| third < ms)
    }

    /// How much of the time watched it holds.
    pub(super) fn seconds(&self) -> f64 {
        let ends = self.points.front().zip(self.points.back());
        ends.map_or(0.0, |((first, _), (last, _))| last.since(*first).as_secs_f64())
    }

    /// What it would have come to, on average over all moments of the window as the beginning, to
    /// wait for a residual at or below a level and take it in this way.
    ///
    /// At once: the first such residual is taken. By a descent: from the first such residual on
    /// until one is not lower by the share `gain`, which is taken if it is still at or below the
    /// level; else the wait goes on. Waits that the window's end cuts off are continued by the mean
    /// of the others. `None` if no such residual was seen.
    fn waits(&self, level_ms: f64, how: Taken, gain: f64) -> Option<Wait> {
        let time =
            |from: usize, to: usize| self.points[to].0.since(self.points[from].0).as_secs_f64();
        let ms = |at: usize| self.points[at].1;
        let count = self.points.len();
        // From each moment: where it is taken, if it is.
        let mut taken = vec![None; count];
        // Where a descent from each moment lands.
        let mut lands = vec![None; count];
        let (mut sum, mut waits, mut cut_off) = (Wait::default(), 0.0, 0.0);
        for at in (0..count).rev() {
            let next = (at + 1 < count).then_some(at + 1);
            lands[at] = next.and_then(|next| {
                if ms(next) < ms(at) * (1.0 - gain) { lands[next] } else { Some(next) }
            });
            taken[at] =
                match (ms(at) <= level_ms, how) {
                    (false, _) => next.and_then(|next| taken[next]),
                    (true, Taken::AtOnce) => Some(at),
                    (true, Taken::Descent) => lands[at].and_then(|land: usize| {
                        if ms(land) <= level_ms { Some(land) } else { taken[land] }
                    }),
                };
            match taken[at] {
                Some(end) => {
                    sum.residual_ms += ms(end);
                    sum.seconds += time(at, end);
                    waits += 1.0;
                }
                None => cut_off += time(at, count - 1),
            }
        }
        if waits == 0.0 {
            return None;
        }
        // A wait that was cut off after t takes t and the mean again.
        let seconds = (sum.seconds + cut_off) / waits;
        Some(Wait { residual_ms: sum.residual_ms / waits, seconds })
    }

    /// Whether the lowest residual of the later half of the last `span` is lower, by more than a
    /// few percent, than that of the earlier half: then lower ones are to be expected.
    pub(super) fn lows_fall(&self, span: Duration) -> bool {
        let Some((now, _)) = self.points.back() else { return false };
        let mut lows = [f64::INFINITY; 2];
        for (at, ms) in self.points.iter().rev() {
            let age = now.since(*at);
            if age > span {
                break;
            }
            let low = &mut lows[usize::from(age * 2 > span)];
            *low = low.min(*ms);
        }
        lows[0] < lows[1] * LOWS_FALL
    }

    /// Whether the residual fell by more than `wait_ms_per_s` over the last `span`, compared by the
    /// means of its two halves: then going on wins more than it costs.
    pub(super) fn falls(&self, span: Duration, wait_ms_per_s: f64) -> bool {
        let Some((now, _)) = self.points.back() else { return false };
        let mut halves = [(0.0, 0.0); 2];
        for (at, ms) in self.points.iter().rev() {
            let age = now.since(*at);
            if age > span {
                break;
            }
            let half = &mut halves[usize::from(age * 2 > span)];
            *half = (half.0 + ms, half.1 + 1.0);
        }
        let [(late, late_count), (early, early_count)] = halves;
        if late_count == 0.0 || early_count == 0.0 {
            return false;
        }
        let fall_ms = early / early_count - late / late_count;
        fall_ms > wait_ms_per_s * span.as_secs_f64() / 2.0
    }

    /// The level in milliseconds that it is best to wait for, if a second of waiting costs
    /// `wait_ms_per_s` and `left` is left: the least of `(1 - m) g + m mean + c (1 - m) w` over
    /// levels, with g and w the residual got and the wait for it, and m = e^(-left / w) the chance
    /// to be forced to stop before.
    ///
    /// Levels below anything seen yet are reckoned to come after `hoped_wait_s` (infinite: never),
    /// which grows with the time watched: so the first lows are not taken for the law when they are
    /// all that was seen, and waiting for what never comes ends when it has cost about what it
    /// could win.
    pub(super) fn reservation(
        &self,
        wait_ms_per_s: f64,
        hoped_wait_s: f64,
        gain: f64,
        left: Option<Duration>,
    ) -> Option<(f64, Taken)> {
        if self.seconds() <= 0.0 {
            return None;
        }
        let mut sorted: Vec<f64> = self.points.iter().map(|(_, ms)| *ms).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        let left = left.map_or(f64::INFINITY, |left| left.as_secs_f64());
        let cost = |residual_ms: f64, wait_s: f64| {
            let missed = if wait_s > 0.0 { (-left / wait_s).exp() } else { 0.0 };
            let waited = wait_ms_per_s * wait_s * (1.0 - missed);
            (1.0 - missed) * residual_ms + missed * mean + waited
        };
        let seen = (0..LEVELS).flat_map(|step| {
            let level = quantile(&sorted, step);
            [Taken::AtOnce, Taken::Descent].map(|how| (level, how))
        });
        let seen = seen.filter_map(|(level, how)| {
            let wait = self.waits(level, how, gain)?;
            Some((level, how, cost(wait.residual_ms, wait.seconds)))
        });
        let lowest = sorted[0];
        let hoped = HOPES.iter().map(|share| lowest * share).filter(|_| hoped_wait_s.is_finite());
        let hoped = hoped.map(|level| (level, Taken::Descent, cost(level, hoped_wait_s)));
        let best = seen.chain(hoped).min_by(|a, b| a.2.total_cmp(&b.2));
        best.map(|(level, how, _)| (level, how))
    }
}

/// A sum or a mean over waits.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Wait {
    /// The residual that was taken.
    residual_ms: f64,
    /// How long it took to come.
    seconds: f64,
}

/// How an entry below the reservation is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// The guest is paused at once: such entries are over soon.
    AtOnce,
    /// The residual is followed down to where it no longer falls.
    Descent,
}

/// Quantiles crowded towards the low end, where the choice is made.
fn quantile(sorted: &[f64], step: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = (step as f64 / (LEVELS - 1) as f64).powi(2);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index below the length"
    )]
    let at = (share * (sorted.len() - 1) as f64) as usize;
    sorted[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn law_of(residuals: impl IntoIterator<Item = f64>) -> Law {
        let mut law = Law::new(Duration::from_secs(3600));
        for (step, ms) in (0..).zip(residuals) {
            law.add(Tick::from_nanos(step * 100_000_000), ms);
        }
        law
    }

    /// Every ten seconds a lull to 5 ms, else 100 ms.
    fn lulls() -> Law {
        law_of((0..1000).map(|step| if step % 100 == 50 { 5.0 } else { 100.0 }))
    }

    #[test]
    fn a_lull_is_waited_for_if_it_comes_often_enough() {
        let law = lulls();
        // Ten seconds cost 30 ms: a lull wins 95.
        let level = |wait_ms_per_s, left_s: Option<u64>| {
            law.reservation(wait_ms_per_s, f64::INFINITY, 0.1, left_s.map(Duration::from_secs))
                .unwrap()
        };
        // A lull of one harvest is over when a descent has looked: it is taken at once.
        assert_eq!(level(3.0, None), (5.0, Taken::AtOnce));
        // Ten seconds cost 200 ms.
        assert_eq!(level(20.0, None).0, 100.0);
        // In the one second that is left none will come, most likely; there is none to lose.
        assert_eq!(level(3.0, Some(1)).0, 5.0);
        assert_eq!(level(200.0, Some(1)).0, 100.0);
    }

    #[test]
    fn lulls_of_different_depth_are_descended_into() {
        // Every second lull is deeper, which nobody can tell at its beginning.
        let law = law_of((0..1000).map(|step| match step % 200 {
            50 | 150 => 60.0,
            51 | 151 => 20.0,
            52 => 6.0,
            53 => 6.1,
            152 => 21.0,
            _ => 100.0,
        }));
        assert_eq!(law.reservation(3.0, f64::INFINITY, 0.1, None).unwrap().1, Taken::Descent);
    }

    #[test]
    fn hope_waits_for_what_it_could_win_and_no_longer() {
        // A second of 600 ms is no law: 600 ms are worth a minute at 10 ms a second.
        let short = law_of((0..10).map(|_| 600.0));
        assert!(short.reservation(10.0, 1.8, 0.1, None).unwrap().0 <= 300.0);
        let long = law_of((0..1000).map(|_| 600.0));
        assert_eq!(long.reservation(10.0, 199.8, 0.1, None).unwrap().0, 600.0);
    }

    #[test]
    fn a_fall_is_told_from_a_plateau() {
        let span = Duration::from_secs(1);
        assert!(law_of((0..20).map(|step| 500.0 - 10.0 * f64::from(step))).falls(span, 10.0));
        assert!(!law_of((0..20).map(|_| 500.0)).falls(span, 10.0));
        assert!(!law_of((0..20).map(|step| 100.0 + f64::from(step))).falls(span, 10.0));
    }

    #[test]
    fn the_window_slides() {
        let mut law = Law::new(Duration::from_secs(1));
        law.add(Tick::ZERO, 1.0);
        law.add(Tick::from_nanos(900_000_000), 2.0);
        assert_eq!(law.lowest(), Some(1.0));
        law.add(Tick::from_nanos(1_800_000_000), 3.0);
        assert_eq!(law.lowest(), Some(2.0));
    }
}
