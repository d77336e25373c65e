// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A trace from some point on, again and again.

use std::time::Duration;

use super::OracleError;
use crate::trace::{TickSource, TraceTick};
use crate::units::Tick;

/// Ticks of a trace from an offset on; after its last tick it begins anew.
///
/// The ticks' ends count from the offset. The first tick is the one in which the offset lies:
/// all its pages count, since nobody knows which were written before.
#[derive(Debug)]
pub struct Looped<'s, S> {
    source: &'s mut S,
    offset: Tick,
    /// Where the present cycle began, counted from the beginning of the first one.
    cycle_began: Duration,
    last_end: Tick,
}

impl<'s, S: TickSource> Looped<'s, S> {
    /// Starts at `offset`.
    ///
    /// # Errors
    /// [`TraceOracleError::Trace`] as the source says.
    pub fn new(source: &'s mut S, offset: Tick) -> Result<Self, TraceOracleError<S::Error>> {
        source.seek(offset).map_err(TraceOracleError::Trace)?;
        Ok(Self { source, offset, cycle_began: Duration::ZERO, last_end: Tick::ZERO })
    }

    /// The next tick, and how long after the offset it ended.
    ///
    /// # Errors
    /// [`TraceOracleError::Trace`] as the source says; [`OracleError::Offset`] if the trace does
    /// not reach beyond the offset.
    pub fn next_tick(
        &mut self,
        into: &mut TraceTick,
    ) -> Result<Duration, TraceOracleError<S::Error>> {
        if !self.source.next_tick(into).map_err(TraceOracleError::Trace)? {
            if self.last_end == Tick::ZERO {
                return Err(OracleError::Offset { offset: self.offset }.into());
            }
            self.cycle_began += self.last_end.since(Tick::ZERO);
            self.source.seek(Tick::ZERO).map_err(TraceOracleError::Trace)?;
            if !self.source.next_tick(into).map_err(TraceOracleError::Trace)? {
                return Err(OracleError::Offset { offset: Tick::ZERO }.into());
            }
        }
        self.last_end = into.end;
        Ok((self.cycle_began + into.end.since(Tick::ZERO))
            .saturating_sub(self.offset.since(Tick::ZERO)))
    }
}

/// A trace cannot be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceOracleError<E: std::error::Error + 'static> {
    /// It cannot be read.
    #[error(transparent)]
    Trace(E),
    /// What it holds cannot be judged, or not with these parameters.
    #[error(transparent)]
    Oracle(#[from] OracleError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{MemoryTrace, TraceHeader};

    fn trace(ends_ms: &[u64]) -> MemoryTrace {
        let end = |ms: &u64| Tick::from_nanos(ms * 1_000_000);
        let ticks = ends_ms.iter().map(|ms| TraceTick::new(end(ms), Vec::new())).collect();
        MemoryTrace::new(TraceHeader::new(8, "test"), ticks)
    }

    #[test]
    fn time_goes_on_when_the_trace_begins_anew() {
        let mut trace = trace(&[10, 25, 30]);
        let mut looped = Looped::new(&mut trace, Tick::from_nanos(12_000_000)).unwrap();
        let mut tick = TraceTick::default();
        let after: Vec<u128> =
            (0..7).map(|_| looped.next_tick(&mut tick).unwrap().as_millis()).collect();
        assert_eq!(after, [13, 18, 28, 43, 48, 58, 73]);
    }

    #[test]
    fn an_offset_past_the_end_and_an_empty_trace_are_told() {
        for ends in [&[][..], &[10, 20]] {
            let mut trace = trace(ends);
            let mut looped = Looped::new(&mut trace, Tick::from_nanos(20_000_000)).unwrap();
            let error = looped.next_tick(&mut TraceTick::default()).unwrap_err();
            assert!(error.to_string().contains("no tick after 20 ms"), "{error}");
        }
    }
}
