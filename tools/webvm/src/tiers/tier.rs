// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A tier in virtual time.

use precopy::units::{PageIndex, Throttle, Tick};

use super::config::{TierConfig, TierError};
use super::memory::Shadow;
use super::model::Model;

/// A tier that tells which pages it writes, and keeps no memory but its own words.
#[derive(Debug)]
pub struct Tier {
    config: TierConfig,
    model: Model,
    cells: Vec<u64>,
    ops: u64,
    /// Hundredths of nanoseconds in which the vCPU ran: a throttle is in hundredths.
    worked: u128,
    now: Tick,
}

impl Tier {
    /// A populated tier at [`Tick::ZERO`].
    ///
    /// # Errors
    /// [`TierError`] names the field that is out of bounds.
    pub fn new(config: TierConfig) -> Result<Self, TierError> {
        let model = Model::new(&config)?;
        let cells = model.new_cells().expect("a shadow's memory does not fail");
        Ok(Self { config, model, cells, ops: 0, worked: 0, now: Tick::ZERO })
    }

    /// What the tier does.
    #[must_use]
    pub fn config(&self) -> &TierConfig {
        &self.config
    }

    /// Pages that the tier needs; the guest may have more.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.model.pages()
    }

    /// Operations done.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.ops
    }

    /// Goes on to `until`. A tier that is `running` does its operations at the pace that
    /// `throttle` leaves, and `write`s pages, some of them more than once; one that is not stands
    /// still, and what was asked of it meanwhile does not come back.
    pub fn run(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        let passed = until.since(self.now).as_nanos();
        self.now = self.now.max(until);
        if !running {
            return;
        }
        self.worked += passed * u128::from(100 - throttle.get());
        let due = self.worked * u128::from(self.config.ops_per_s()) / 100_000_000_000;
        let mut memory = Shadow { cells: &mut self.cells, wrote: write };
        while u128::from(self.ops) < due {
            self.model.run(self.ops, &mut memory).expect("a shadow's memory does not fail");
            self.ops += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tiers::MemcachedConfig;

    fn at_ms(ms: u64) -> Tick {
        Tick::from_nanos(ms * 1_000_000)
    }

    fn distinct(tier: &mut Tier, from_ms: u64, to_ms: u64) -> usize {
        let mut pages = BTreeSet::new();
        for ms in from_ms..to_ms {
            tier.run(at_ms(ms + 1), true, Throttle::NONE, &mut |page| {
                pages.insert(page);
            });
        }
        assert!(pages.iter().all(|page| page.get() < tier.pages()));
        pages.len()
    }

    fn tier(line: &str) -> Tier {
        Tier::new(line.parse().unwrap()).unwrap()
    }

    /// Sets of items all alike: n draws from m items, each with its own pages, and the buckets.
    #[test]
    fn sets_write_as_many_pages_as_chance_says() {
        // 4,032 and 64 bytes: an item is a page exactly.
        let mut tier = tier(
            "tier=memcached,items=20000,value_bytes=4032,set_share=1,skew=0,ops_per_s=10000,\
             kernel_pages=0",
        );
        let buckets = (16_384_u64 * 8 / 4096) as f64;
        for (from, to) in [(0, 500), (500, 2500)] {
            let n = ((to - from) * 10) as f64;
            let expected = |m: f64| m * (1.0 - (-n / m).exp());
            let expected = expected(20_000.0) + expected(buckets);
            let found = distinct(&mut tier, from, to) as f64;
            assert!((found / expected - 1.0).abs() < 0.02, "{found} instead of {expected}");
        }
    }

    /// Gets write an item's header once per bump interval, however often they come.
    #[test]
    fn gets_write_each_item_once_per_interval() {
        let mut tier = tier(
            "tier=memcached,items=100,value_bytes=4032,set_share=0,skew=0,ops_per_s=1000,\
             bump_s=10,kernel_pages=0",
        );
        let mut count = |from: u64, to: u64| {
            let mut writes = 0;
            for ms in from..to {
                tier.run(at_ms(ms + 1), true, Throttle::NONE, &mut |_| writes += 1);
            }
            writes
        };
        // Bucket and header; an item is asked for every 100 ms, so that ten seconds bump each
        // once, give or take the wait for the next get.
        let writes = count(0, 10_000) / 2;
        assert!((95..=100).contains(&writes), "{writes}");
        let writes = count(10_000, 110_000) / 2;
        assert!((960..=1000).contains(&writes), "{writes}");
    }

    /// The rates at which the database writes are those of the mix.
    #[test]
    fn the_database_writes_what_the_mix_asks_for() {
        let mut tier = tier("tier=database,kernel_pages=0,cleaner_s=0,ops_per_s=1000,skew=0");
        let log = 1..1 + (300_u64 << 20) / 4096;
        let (mut pool, mut logged) = (0_u64, BTreeSet::new());
        tier.run(at_ms(200_000), true, Throttle::NONE, &mut |page| {
            if log.contains(&page.get()) {
                logged.insert(page);
            } else if page.get() >= log.end {
                pool += 1;
            }
        });
        let (person, event, attend) = (0.00843, 0.02045, 0.024681);
        // Eight stores in four pages and a row; and the cleaner's two.
        let expected = 200_000.0 * 11.0 * (13.0 * (person + event) + 3.0 * attend);
        assert!((pool as f64 / expected - 1.0).abs() < 0.05, "{pool} instead of {expected}");
        let inserts = 200_000.0 * (2.0 * person + 8.0 * event + attend);
        let found = logged.len() as f64;
        assert!((found / (inserts / 2.0) - 1.0).abs() < 0.05, "{found} log pages");
    }

    #[test]
    fn a_pause_stops_and_a_throttle_slows() {
        let mut tier = tier("tier=memcached,items=100,ops_per_s=1000");
        tier.run(at_ms(1000), true, Throttle::NONE, &mut |_| {});
        assert_eq!(tier.ops(), 1000);
        tier.run(at_ms(3000), false, Throttle::NONE, &mut |_| panic!("paused"));
        assert_eq!(tier.ops(), 1000);
        tier.run(at_ms(4000), true, Throttle::percent(75), &mut |_| {});
        assert_eq!(tier.ops(), 1250);
        tier.run(at_ms(4000), true, Throttle::NONE, &mut |_| {});
        assert_eq!(tier.ops(), 1250);
    }

    #[test]
    fn same_seed_same_pages() {
        for line in ["tier=memcached,items=1000", "tier=database,pool_mib=1,log_mib=1"] {
            let pages = |line: &str, steps: u64| {
                let (mut tier, mut pages) = (tier(line), Vec::new());
                for step in 0..=steps {
                    tier.run(at_ms(2000 * step / steps), true, Throttle::NONE, &mut |page| {
                        pages.push(page);
                    });
                }
                pages
            };
            assert_eq!(pages(line, 1), pages(line, 7));
            assert_ne!(pages(line, 1), pages(&format!("{line},seed=2"), 1));
        }
    }

    /// Mean distinct pages in windows of 1, 5, 10 and 30 s of recordings of a whole guest with
    /// MariaDB and of one with memcached (the traces db-50 and memcached-95-5); kernel pages and
    /// writes by default are fitted to them. The recorded cache shows no LRU bumps.
    #[test]
    fn working_sets_are_those_of_recorded_tiers() {
        let cases = [
            ("tier=database,ops_per_s=24", [2035, 4970, 6720, 8892], 0.1),
            (
                "tier=memcached,items=300000,value_bytes=1000,ops_per_s=1462,set_share=0.05,\
                 skew=0.99,bump_s=3600",
                [1110, 2449, 3272, 4489],
                0.3,
            ),
        ];
        for (line, recorded, slack) in cases {
            let mut tier = tier(line);
            let mut from = 0;
            for (length, recorded) in [1000, 5000, 10_000, 30_000].into_iter().zip(recorded) {
                // About as many windows as fill half a minute.
                let windows = 30_000 / length;
                let mut total = 0.0;
                for _ in 0..windows {
                    total += distinct(&mut tier, from, from + length) as f64;
                    from += length;
                }
                let off = total / windows as f64 / f64::from(recorded) - 1.0;
                assert!(off.abs() < slack, "{line}: {off:+.2} in {length} ms");
            }
        }
    }

    /// Over a gigabit link (28,700 pages per second), the usual profile leaves a round of one
    /// second far less to send than that; with the write-heavy one no round becomes as short.
    #[test]
    fn the_write_heavy_profile_does_not_converge() {
        let pages = |config| {
            let mut tier = Tier::new(TierConfig::Memcached(config)).unwrap();
            [distinct(&mut tier, 0, 500), distinct(&mut tier, 500, 1500)]
        };
        let usual = pages(MemcachedConfig::default());
        let heavy = pages(MemcachedConfig::write_heavy());
        assert!(usual[1] < 28_700 / 3, "{usual:?}");
        assert!(heavy[0] > 28_700 / 2 && heavy[1] > 28_700, "{heavy:?}");
    }
}
