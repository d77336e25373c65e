// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Searches over predictions: up to which load a migration is safe, and how soon the next one is.

use serde::{Deserialize, Serialize};

use super::load::Load;
use super::risk::{Percentile, broken_by};
use super::run::{Interval, Prediction, Scenario, over_seeds, runs_of};
use super::{PredictError, within};

/// A load that was tried.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TriedLoad {
    /// Users.
    pub users: u32,
    /// Share of the runs that broke the ninetieth percentile, or did not hand over.
    pub p90_broken: f64,
    /// The same for the 99th.
    pub p99_broken: f64,
}

/// Up to which load a migration is safe.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SafeLoad {
    /// Most users under the ninetieth percentile; `None` if not even the fewest are safe.
    pub p90_users: Option<u32>,
    /// Most users under the 99th percentile.
    pub p99_users: Option<u32>,
    /// Most users that were tried: a result equal to it may be higher in truth.
    pub users_max: u32,
    /// What was tried, by users.
    pub tried: Vec<TriedLoad>,
}

/// The highest load at which a migration is safe, by bisection over multiples of `step` users up
/// to `users_max`. `family` says what the guest is like under so many users; its scenario must
/// have a load. Safe is a load at which at most `tolerated` of the runs break the percentile and
/// all others hand over.
///
/// # Errors
/// [`PredictError`] of the family, of a prediction, or if the range is empty.
pub fn highest_safe_load(
    family: impl Fn(u32) -> Result<Scenario, PredictError>,
    users_max: u32,
    step: u32,
    tolerated: f64,
) -> Result<SafeLoad, PredictError> {
    within("step", step.into(), 1.0, users_max.into(), "from 1 to the most users")?;
    within("tolerated", tolerated, 0.0, 1.0, "a share from 0 to 1")?;
    let mut tried = Vec::<TriedLoad>::new();
    let mut search = |which: Percentile| -> Result<Option<u32>, PredictError> {
        let mut safe = |multiple: u32| -> Result<bool, PredictError> {
            let users = multiple * step;
            let known = tried.iter().find(|t| t.users == users).copied();
            let found = known.map_or_else(|| try_load(&family, users), Ok)?;
            if known.is_none() {
                tried.push(found);
            }
            Ok(match which {
                Percentile::P90 => found.p90_broken,
                Percentile::P99 => found.p99_broken,
            } <= tolerated)
        };
        last_true(users_max / step, &mut safe).map(|found| found.map(|multiple| multiple * step))
    };
    let (p90_users, p99_users) = (search(Percentile::P90)?, search(Percentile::P99)?);
    tried.sort_by_key(|t| t.users);
    Ok(SafeLoad { p90_users, p99_users, users_max, tried })
}

fn try_load(
    family: impl Fn(u32) -> Result<Scenario, PredictError>,
    users: u32,
) -> Result<TriedLoad, PredictError> {
    let scenario = family(users)?;
    let Some(load) = &scenario.load else {
        let value = "missing".to_owned();
        let range = "a search over loads needs a load in every scenario";
        return Err(PredictError::Parameter { field: "load", value, range });
    };
    let (_, runs) = runs_of(&scenario)?;
    let broken = broken_by(load, &runs, &[0.0]);
    let stayed = over_seeds(runs.iter().filter(|run| !run.handed_over).count(), runs.len());
    Ok(TriedLoad {
        users,
        p90_broken: broken.of(Percentile::P90).max(stayed),
        p99_broken: broken.of(Percentile::P99).max(stayed),
    })
}

/// The largest number from 1 to `most` for which `holds`, if it holds up to a point.
fn last_true<E>(
    most: u32,
    holds: &mut dyn FnMut(u32) -> Result<bool, E>,
) -> Result<Option<u32>, E> {
    if holds(most)? {
        return Ok(Some(most));
    }
    let (mut low, mut high) = (0, most);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if holds(middle)? { low = middle } else { high = middle }
    }
    Ok((low > 0).then_some(low))
}

/// How soon after a migration the next one is safe.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SafeSpacing {
    /// The percentile to keep.
    pub percentile: Percentile,
    /// From the start of one migration to the start of the next, in whole seconds; `None` if one
    /// alone breaks the percentile.
    pub seconds: Option<u32>,
    /// Share of the runs in which one migration alone breaks it.
    pub broken_by_one: f64,
    /// How long a migration takes by itself.
    pub total_s: Interval,
}

/// The shortest time from the start of one migration to the start of the next that keeps a
/// percentile in all but `tolerated` of the runs, by bisection to a second. The second migration
/// takes as long as the first, and begins when that is over, at the earliest.
///
/// # Errors
/// [`PredictError`] if the load makes no sense.
pub fn shortest_safe_spacing(
    prediction: &Prediction,
    load: &Load,
    percentile: Percentile,
    tolerated: f64,
) -> Result<SafeSpacing, PredictError> {
    load.check()?;
    within("tolerated", tolerated, 0.0, 1.0, "a share from 0 to 1")?;
    let runs = &prediction.runs;
    let broken_by_one = broken_by(load, runs, &[0.0]).of(percentile);
    let longest = runs.iter().map(|run| run.total_s).fold(0.0, f64::max);
    let (first, last) = (seconds(longest), seconds(longest + 2.0 * load.window_s));
    // Too close is what holds up to a point: the spacing is one step past it.
    let mut too_close = |step: u32| -> Result<bool, PredictError> {
        let at = f64::from(first + step - 1);
        Ok(broken_by(load, runs, &[0.0, at]).of(percentile) > tolerated)
    };
    let seconds = match broken_by_one > tolerated {
        true => None,
        false => {
            let steps = last - first + 1;
            let close = last_true(steps, &mut too_close)?;
            close.map_or(Some(first), |step| (step < steps).then_some(first + step))
        }
    };
    Ok(SafeSpacing { percentile, seconds, broken_by_one, total_s: prediction.total_s })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and at most some hours"
)]
fn seconds(time: f64) -> u32 {
    time.ceil().max(1.0) as u32
}
