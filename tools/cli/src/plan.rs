// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the command line means, checked: nothing below this asks what was typed.

use std::time::Duration;

use precopy::encode::EncoderKind;
use precopy::engine::SourceOptions;
use precopy::limits;
use precopy::memory::MapOptions;
use precopy::policy::{GuardAction, Guards, NoProgress, StrategySpec};
use precopy::region::{Region, RegionTable};
use precopy::session::Shadow;
use precopy::units::{GuestAddress, PageSize};
use webvm::{Amount, GuestConfig, Pattern};

use crate::args::{GuestArgs, MigrationArgs, OnLimit, TrackerName};
use crate::exit::usage;
use crate::shadows;

/// Memory of a guest if nobody says otherwise.
pub(crate) const MEMORY_BYTES: u64 = 1 << 30;
/// By how much the residual must shrink to count as progress.
const PROGRESS_PERCENT: f64 = 5.0;

/// A guest to start.
#[derive(Clone, Debug)]
pub(crate) struct GuestPlan {
    pub(crate) config: GuestConfig,
    pub(crate) table: RegionTable,
    pub(crate) map: MapOptions,
}

impl GuestPlan {
    /// Checks the guest's flags.
    pub(crate) fn new(args: &GuestArgs, memory_bytes: u64) -> anyhow::Result<Self> {
        let line = format!(
            "vcpus={},pattern={},skew={},pages_per_s={},working_set={},fill={},filling={},\
             body={},body_bytes={},seed={}",
            args.vcpus,
            args.pattern,
            args.skew,
            args.rate,
            amount(&args.hot_set),
            amount(&args.fill),
            args.content,
            args.write_content,
            args.write_bytes,
            args.seed,
        );
        let config = line.parse().map_err(usage)?;
        let map = MapOptions::new(args.backing.into()).with_thp(args.thp);
        Ok(Self { config, table: regions(args, memory_bytes)?, map })
    }
}

impl GuestPlan {
    /// What the guest occupies once it has written everything that it will ever write.
    pub(crate) fn populated_bytes(&self) -> u64 {
        let all = self.table.bytes();
        let part = |amount| match amount {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a share of at most 2^44 bytes"
            )]
            Amount::Percent(percent) => (all as f64 * percent / 100.0) as u64,
            Amount::Bytes(bytes) => bytes.min(all),
        };
        match self.config.pattern {
            Pattern::Idle => part(self.config.fill),
            _ => part(self.config.fill).max(part(self.config.working_set)),
        }
    }
}

/// The guest's own notation has no `iB`.
fn amount(text: &str) -> &str {
    text.strip_suffix("iB").unwrap_or(text)
}

fn regions(args: &GuestArgs, bytes: u64) -> anyhow::Result<RegionTable> {
    let page = u64::from(PageSize::BASE.bytes_u32());
    if !bytes.is_multiple_of(page) || !args.hole.is_multiple_of(page) {
        return Err(usage("--memory and --hole must be multiples of 4 KiB"));
    }
    let (pages, regions) = (bytes / page, u64::from(args.regions));
    if regions == 0 || pages < regions || args.regions as usize > limits::REGIONS_MAX {
        let most = limits::REGIONS_MAX;
        return Err(usage(format!(
            "--regions {regions} of {pages} pages: from 1 to {most}, each with a page at least"
        )));
    }
    let mut list = Vec::new();
    let mut start = 0u64;
    for region in 0..regions {
        let own = pages * (region + 1) / regions - pages * region / regions;
        list.push(Region { start: GuestAddress::new(start), pages: own });
        let end = start.checked_add(own * page).and_then(|end| end.checked_add(args.hole));
        start = end.ok_or_else(|| usage("--hole: the last region would lie past 2^64"))?;
    }
    RegionTable::new(PageSize::BASE, &list).map_err(usage)
}

/// Downtime that policies aim at unless told otherwise: QEMU's and Cloud Hypervisor's default.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(300);

/// Longest time before the first page.
const PREFLIGHT_MAX: Duration = Duration::from_secs(86_400);

/// A migration to try.
#[derive(Clone, Debug)]
pub(crate) struct MigrationPlan {
    pub(crate) policy: StrategySpec,
    pub(crate) shadows: Vec<StrategySpec>,
    pub(crate) guards: Guards,
    pub(crate) downtime_limit: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) preflight: Duration,
    pub(crate) channels: u8,
    pub(crate) encoder: EncoderKind,
    pub(crate) delta_cache_bytes: Option<u64>,
    pub(crate) bandwidth_cap_bytes_per_s: Option<u64>,
    pub(crate) cap_paused: bool,
    pub(crate) tracker: TrackerName,
    pub(crate) verify: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) ready_timeout: Duration,
    pub(crate) commit_timeout: Duration,
    pub(crate) query_timeout: Duration,
}

impl MigrationPlan {
    /// Checks the migration's flags.
    pub(crate) fn new(args: &MigrationArgs, verify: bool) -> anyhow::Result<Self> {
        let policy = StrategySpec::parse(&args.policy)
            .map_err(|error| usage(format!("--policy: {error}; see `precopy policies`")))?;
        let shadows = shadows::read(&args.shadow, &policy)?;
        let encoder: EncoderKind = args.encoder.parse().map_err(usage)?;
        let deltas = matches!(encoder, EncoderKind::Delta | EncoderKind::DeltaLz4);
        if args.delta_cache.is_some() && !deltas {
            return Err(usage(format!(
                "--delta-cache belongs to --encoder delta or delta+lz4, not {encoder}"
            )));
        }
        if args.delta_cache.is_some_and(|bytes| bytes < u64::from(PageSize::BASE.bytes_u32())) {
            return Err(usage("--delta-cache: at least a page, 4 KiB"));
        }
        if args.channels == 0 || args.channels > limits::CHANNELS_MAX {
            let most = limits::CHANNELS_MAX;
            return Err(usage(format!("--channels {}: from 1 to {most}", args.channels)));
        }
        if args.preflight.is_some_and(|time| time > PREFLIGHT_MAX) {
            return Err(usage("--preflight: at most a day"));
        }
        Ok(Self {
            policy,
            shadows,
            guards: guards(args)?,
            downtime_limit: args.downtime_limit.unwrap_or(DOWNTIME_LIMIT),
            deadline: args.deadline,
            preflight: args.preflight.unwrap_or(Duration::ZERO),
            channels: args.channels,
            encoder,
            delta_cache_bytes: args.delta_cache,
            bandwidth_cap_bytes_per_s: args.bandwidth_cap,
            cap_paused: !args.uncap_paused,
            tracker: args.tracker,
            verify,
            connect_timeout: args.connect_timeout,
            stall_timeout: args.stall_timeout,
            ready_timeout: args.ready_timeout,
            commit_timeout: args.commit_timeout,
            query_timeout: args.query_timeout,
        })
    }

    /// A plain migration by a policy, for measurements.
    pub(crate) fn plain(policy: &str, channels: u8) -> anyhow::Result<Self> {
        let time = Duration::from_secs;
        Ok(Self {
            policy: StrategySpec::parse(policy)?,
            shadows: Vec::new(),
            guards: Guards::default(),
            downtime_limit: DOWNTIME_LIMIT,
            deadline: None,
            preflight: Duration::ZERO,
            channels,
            encoder: EncoderKind::Raw,
            delta_cache_bytes: None,
            bandwidth_cap_bytes_per_s: None,
            cap_paused: true,
            tracker: TrackerName::Auto,
            verify: false,
            connect_timeout: time(5),
            stall_timeout: time(30),
            ready_timeout: time(60),
            commit_timeout: time(10),
            query_timeout: time(30),
        })
    }

    /// The engine's options for one attempt with a test guest.
    pub(crate) fn options(&self, guest: &GuestConfig) -> SourceOptions {
        self.options_for(crate::guest::describe(guest))
    }

    /// The engine's options for one attempt with a guest that is described so.
    pub(crate) fn options_for(&self, guest: String) -> SourceOptions {
        let mut options = SourceOptions::new(self.policy.build().guarded(&self.guards));
        let shadow = |spec: &StrategySpec| Shadow {
            text: spec.to_string(),
            strategy: spec.build().guarded(&self.guards),
        };
        options.shadows = self.shadows.iter().map(shadow).collect();
        options.policy_text = format!("{} ({})", self.policy, self.guards);
        options.channels = self.channels;
        options.encoder = self.encoder;
        options.delta_cache_bytes = self.delta_cache_bytes;
        options.bandwidth_cap_bytes_per_s = self.bandwidth_cap_bytes_per_s;
        options.cap_paused = self.cap_paused;
        options.verify = self.verify;
        options.guest = guest;
        options.downtime_limit = self.downtime_limit;
        options.deadline = self.deadline;
        options.preflight = self.preflight;
        options.connect_timeout = self.connect_timeout;
        options.stall_timeout = self.stall_timeout;
        options.ready_timeout = self.ready_timeout;
        options.commit_timeout = self.commit_timeout;
        options.query_timeout = self.query_timeout;
        options
    }
}

fn guards(args: &MigrationArgs) -> anyhow::Result<Guards> {
    if args.max_rounds == 0 || args.max_rounds > limits::ROUNDS_MAX {
        return Err(usage(format!("--max-rounds: from 1 to {}", limits::ROUNDS_MAX)));
    }
    if args.max_data.is_some_and(|factor| !(1.0..=1e6).contains(&factor)) {
        return Err(usage("--max-data: from 1 to 1000000 times the memory"));
    }
    if args.no_progress == Some(0) {
        return Err(usage("--no-progress: at least 1 harvest"));
    }
    let mut guards = Guards::default();
    guards.max_rounds = Some(args.max_rounds);
    guards.max_duration = args.max_time;
    guards.max_sent_factor = args.max_data;
    guards.no_progress =
        args.no_progress.map(|rounds| NoProgress { rounds, percent: PROGRESS_PERCENT });
    guards.action = match args.on_limit {
        OnLimit::Stop => GuardAction::Stop,
        OnLimit::GiveUp => GuardAction::GiveUp,
    };
    Ok(guards)
}
