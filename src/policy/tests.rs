// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Each peer's rule against traces worked out by hand, and what holds for every policy.

use std::time::Duration;

use proptest::prelude::{Strategy, *};

use super::*;

const PAGE: u64 = 4096;
/// 1000 pages per second.
const BANDWIDTH: f64 = 4_096_000.0;

/// Something seen after `rounds` rounds with `residual` pages, on a guest of 10 000 pages.
pub(super) fn seen(moment: Moment, rounds: u32, residual: u64) -> Observation {
    Observation {
        moment,
        rounds_sent: rounds,
        total_pages: 10_000,
        populated_pages: 10_000,
        page_bytes: PAGE,
        residual_pages: residual,
        residual_wire_bytes: residual * PAGE,
        round_sent_pages: 1000,
        round_bandwidth_bytes_per_s: (rounds > 0).then_some(BANDWIDTH),
        downtime_limit: Duration::from_millis(300),
        fixed_switchover_cost: Duration::from_millis(10),
        ..Observation::default()
    }
}

pub(super) fn at_ms(mut seen: Observation, ms: u64) -> Observation {
    seen.now = Tick::from_nanos(ms * 1_000_000);
    seen.elapsed = Duration::from_millis(ms);
    seen
}

/// The same at a time, with bytes sent at [`BANDWIDTH`] until then.
pub(super) fn sending(seen: Observation, ms: u64) -> Observation {
    let round_bandwidth_bytes_per_s = Some(BANDWIDTH);
    Observation { sent_wire_bytes: ms * PAGE, round_bandwidth_bytes_per_s, ..at_ms(seen, ms) }
}

/// Plays rounds whose harvests are given (the first is the populated set) and returns how many
/// were sent live, and how many pages were dirty at the last harvest before the stop.
fn play(policy: &mut dyn StopPolicy, harvests: &[u64]) -> (u32, &'static str) {
    let mut sent = 0;
    for (round, pages) in (0u32..).zip(harvests) {
        let mut now = seen(Moment::Harvested, round, *pages);
        now.sent_pages = sent;
        match policy.judge(&now) {
            Verdict::Continue { .. } => {}
            other => return (round, other.word()),
        }
        sent += pages;
        let mut now = seen(Moment::Sent, round + 1, 0);
        (now.sent_pages, now.round_sent_pages) = (sent, *pages);
        match policy.judge(&now) {
            Verdict::Continue { .. } => {}
            other => return (round + 1, other.word()),
        }
    }
    (u32::MAX, "continue")
}

pub(super) fn play_named(text: &str, harvests: &[u64]) -> (u32, &'static str) {
    play(&mut *parse(text).unwrap(), harvests)
}

#[test]
fn fixed_rounds_counts_the_full_one() {
    assert_eq!(play_named("fixed-rounds", &[500; 9]), (3, "stop_and_copy"));
    assert_eq!(play_named("fixed-rounds:rounds=1", &[0; 9]), (1, "stop_and_copy"));
    assert_eq!(play_named("stop-at-once", &[500; 9]), (0, "stop_and_copy"));
}

#[test]
fn xen_sends_at_most_five_live_passes() {
    assert_eq!(play_named("xen", &[10_000, 900, 900, 900, 900, 900]), (5, "stop_and_copy"));
}

#[test]
fn xen_sends_a_small_set_live_before_it_stops() {
    assert_eq!(play_named("xen", &[10_000, 900, 49, 900]), (3, "stop_and_copy"));
    assert_eq!(play_named("xen", &[10_000, 900, 50, 900, 900]), (5, "stop_and_copy"));
    assert_eq!(play_named("xen", &[10, 900, 900]), (1, "stop_and_copy"));
    // "if dirty > 0": an empty set is not sent.
    assert_eq!(play_named("xen", &[10_000, 900, 0, 900]), (2, "stop_and_copy"));
    // One pass allowed is one full pass.
    assert_eq!(play_named("xen:max_rounds=1", &[10_000, 900]), (1, "stop_and_copy"));
}

#[test]
fn xen_legacy_stops_by_each_of_its_three_limits() {
    // 10 000 + 28 * 700 = 29 600 pages, not more than 30 000: the round limit comes first.
    let mut rounds = vec![10_000];
    rounds.extend([700; 40]);
    assert_eq!(play_named("xen-legacy", &rounds), (29, "stop_and_copy"));
    // 10 000 + 2 * 10 000 is exactly 3 times the memory, which is not more than it.
    assert_eq!(play_named("xen-legacy", &[10_000; 9]), (4, "stop_and_copy"));
    assert_eq!(play_named("xen-legacy", &[10_000, 50, 49, 9]), (3, "stop_and_copy"));
}

#[test]
fn xen_legacy_counts_skipped_pages_and_skips_from_the_second_round_on() {
    let mut policy = parse("xen-legacy").unwrap();
    let mut now = seen(Moment::Sent, 2, 0);
    (now.sent_pages, now.round_sent_pages, now.round_skipped_pages) = (30, 30, 20);
    assert_eq!(policy.judge(&now).word(), "continue");
    (now.rounds_sent, now.sent_pages, now.round_skipped_pages) = (3, 60, 19);
    assert_eq!(policy.judge(&now).word(), "stop_and_copy");
    assert_eq!([0, 1, 2, 28].map(|round| policy.skips_redirtied(round)), [false, true, true, true]);
    assert!(!parse("xen-legacy:skip=false").unwrap().skips_redirtied(5));
    assert!(!parse("xen").unwrap().skips_redirtied(5));
}

#[test]
fn cloud_hypervisor_compares_with_the_last_round() {
    // 300 pages take exactly 300 ms, which is allowed; 301 do not.
    assert_eq!(play_named("cloud-hypervisor", &[10_000, 301, 300]), (2, "stop_and_copy"));
    assert_eq!(play_named("cloud-hypervisor:downtime_ms=50", &[9, 51, 50]).0, 2);
    // The first set has no bandwidth to be compared with, unless there is nothing to send.
    assert_eq!(play_named("cloud-hypervisor", &[1, 400, 400]).0, u32::MAX);
    assert_eq!(play_named("cloud-hypervisor", &[0]), (0, "stop_and_copy"));
    // 10 ms of fixed cost leave 290 ms.
    let counted = "cloud-hypervisor:count_fixed_cost=true";
    assert_eq!(play_named(counted, &[10_000, 291, 290]).0, 2);
    let hopeless = "cloud-hypervisor:count_fixed_cost=true,downtime_ms=9";
    assert_eq!(play_named(hopeless, &[10_000, 1, 1]).0, u32::MAX);
}

#[test]
fn cloud_hypervisor_looks_at_its_timeout_between_rounds_only() {
    for (strategy, word) in [("cancel", "give_up"), ("ignore", "stop_and_copy")] {
        let text = format!("cloud-hypervisor:timeout_s=2,timeout_strategy={strategy}");
        let mut policy = parse(&text).unwrap();
        let mut word_at = |moment, ms| policy.judge(&at_ms(seen(moment, 4, 900), ms)).word();
        assert_eq!(word_at(Moment::Harvested, 1999), "continue");
        assert_eq!(word_at(Moment::Cadence, 9000), "continue");
        assert_eq!(word_at(Moment::Sent, 9000), "continue");
        assert_eq!(word_at(Moment::Harvested, 2000), word);
        // Converged comes before timed out.
        assert_eq!(
            policy.judge(&at_ms(seen(Moment::Harvested, 4, 9), 9000)).word(),
            "stop_and_copy"
        );
    }
}

#[test]
fn qemu_stops_below_its_threshold_only() {
    // 300 pages take exactly 300 ms, which is not below.
    assert_eq!(play_named("qemu", &[10_000, 300, 299]), (2, "stop_and_copy"));
    assert_eq!(play_named("qemu", &[0]), (0, "stop_and_copy"));
    assert_eq!(play_named("qemu:downtime_ms=0", &[10_000, 1, 0]), (2, "stop_and_copy"));
    assert_eq!(play_named("qemu:count_fixed_cost=true", &[10_000, 290, 289]).0, 2);
    // A promised bandwidth needs no measurement.
    assert_eq!(play_named("qemu:switchover_bandwidth=40960000", &[2999]).0, 0);
    assert_eq!(play_named("qemu:switchover_bandwidth=40960000", &[3000, 9]).0, 1);
}

#[test]
fn qemu_measures_by_slices_without_smoothing() {
    let mut policy = parse("qemu").unwrap();
    let mut ask = |ms, sent_pages: u64, residual| {
        let mut now = at_ms(seen(Moment::Cadence, 0, residual), ms);
        now.sent_wire_bytes = sent_pages * PAGE;
        if ms == 0 {
            now.moment = Moment::Harvested;
        }
        policy.judge(&now).word()
    };
    assert_eq!(ask(0, 0, 10_000), "continue");
    assert_eq!(ask(99, 990, 1), "continue", "no slice has ended");
    // 1000 pages in 100 ms: 3000 pages fit 300 ms.
    assert_eq!(ask(100, 1000, 3000), "continue");
    assert_eq!(ask(110, 1000, 2999), "harvest");
    // 10 pages in the next 100 ms, and the earlier slice counts for nothing any more.
    assert_eq!(ask(200, 1010, 30), "continue");
    assert_eq!(ask(201, 1010, 29), "harvest");
}

#[test]
fn qemu_does_not_harvest_in_a_storm() {
    let mut policy = parse("qemu").unwrap();
    let mut ask = |moment, ms, residual| policy.judge(&at_ms(seen(moment, 1, residual), ms)).word();
    assert_eq!(ask(Moment::Cadence, 0, 200), "continue", "never harvested");
    assert_eq!(ask(Moment::Harvested, 1, 400), "continue");
    assert_eq!(ask(Moment::Cadence, 10, 200), "continue", "the last one is 9 ms ago");
    assert_eq!(ask(Moment::Cadence, 11, 200), "harvest");
    assert_eq!(ask(Moment::Cadence, 11, 0), "continue", "the round ends by itself");
    assert_eq!(ask(Moment::Sent, 12, 0), "continue", "the next harvest comes by itself");
}

fn guarded(guards: &str, policy: &str) -> Guarded {
    Guards::parse(guards).unwrap().guard(parse(policy).unwrap())
}

#[test]
fn the_round_guard_stops_or_gives_up() {
    let never = "qemu:downtime_ms=0";
    assert_eq!(play(&mut guarded("max_rounds=7", never), &[500; 20]), (7, "stop_and_copy"));
    let give_up = "max_rounds=7,action=give-up";
    assert_eq!(play(&mut guarded(give_up, never), &[500; 20]), (7, "give_up"));
    assert_eq!(play(&mut guarded("", never), &[500; 2000]), (1000, "stop_and_copy"));
    assert_eq!(play(&mut guarded("max_rounds=off", never), &[500; 2000]).0, u32::MAX);
    // A policy that stops at the same moment keeps its own verdict.
    assert_eq!(play(&mut guarded(give_up, "fixed-rounds:rounds=7"), &[500; 20]).1, "stop_and_copy");
}

#[test]
fn the_time_guard_acts_within_a_round() {
    let mut policy = guarded("max_duration_ms=2500", "fixed-rounds");
    let now = |ms| at_ms(seen(Moment::Cadence, 0, 9000), ms);
    assert_eq!(policy.judge(&now(2499)).word(), "continue");
    assert_eq!(policy.judge(&now(2500)).word(), "stop_and_copy");
}

#[test]
fn the_data_guard_needs_a_complete_round() {
    let mut policy = guarded("max_sent_factor=2,action=give-up", "fixed-rounds:rounds=99");
    let mut now = seen(Moment::Cadence, 0, 900);
    now.sent_wire_bytes = 99_000 * PAGE;
    assert_eq!(policy.judge(&now).word(), "continue");
    now.rounds_sent = 1;
    assert_eq!(policy.judge(&now).word(), "give_up");
    now.sent_wire_bytes = 20_000 * PAGE;
    assert_eq!(policy.judge(&now).word(), "continue");
}

#[test]
fn the_progress_guard_counts_harvests_without_a_new_minimum() {
    let guards = "no_progress_rounds=3,no_progress_percent=10";
    let never = "qemu:downtime_ms=0";
    let play = |harvests: &[u64]| play(&mut guarded(guards, never), harvests);
    // 1000 is the least; 901, 2000 and 950 are no progress from it.
    assert_eq!(play(&[10_000, 1000, 901, 2000, 950, 5]), (4, "stop_and_copy"));
    // 900 is 10 % less than 1000 and counts.
    assert_eq!(play(&[10_000, 1000, 950, 950, 900, 890, 889, 888]), (7, "stop_and_copy"));
    // Slow but steady: 4 % a round adds up to 10 % every third round.
    let slow: Vec<u64> = (0..20).map(|i| 10_000 - 400 * i).collect();
    assert_eq!(play(&slow).0, u32::MAX);
    // Nothing shrinks from zero, but zero is no lack of progress by rounding either.
    assert_eq!(play(&[0]), (0, "stop_and_copy"));
}

#[test]
fn the_progress_guard_does_not_count_early_harvests() {
    let mut policy = guarded("no_progress_rounds=1", "fixed-rounds:rounds=99");
    for _ in 0..5 {
        assert_eq!(policy.judge(&seen(Moment::Harvested, 1, 500)).word(), "continue");
    }
    assert_eq!(policy.judge(&seen(Moment::Harvested, 2, 500)).word(), "stop_and_copy");
}

#[test]
fn text_reads_back_in_its_canonical_form() {
    for (text, canonical) in [
        ("qemu", "qemu"),
        (" qemu : downtime_ms = 50 , ", "qemu:downtime_ms=50"),
        ("qemu:slice_ms=100", "qemu"),
        ("qemu:slice_ms=10,downtime_ms=50", "qemu:downtime_ms=50,slice_ms=10"),
        ("xen-legacy:skip=false", "xen-legacy:skip=false"),
        ("cloud-hypervisor:timeout_strategy=ignore", "cloud-hypervisor:timeout_strategy=ignore"),
    ] {
        let spec = PolicySpec::parse(text).unwrap();
        assert_eq!(spec.to_string(), canonical);
        assert_eq!(PolicySpec::parse(canonical).unwrap(), spec);
    }
    for text in [
        "",
        "max_duration_ms=9,max_sent_factor=2.5,no_progress_rounds=3,action=give-up",
        "max_rounds=off,no_progress_rounds=3,no_progress_percent=0.5",
    ] {
        let guards = Guards::parse(text).unwrap();
        assert_eq!(Guards::parse(&guards.to_string()), Ok(guards));
    }
}

#[test]
fn errors_say_what_there_is() {
    let say = |text: &str| PolicySpec::parse(text).unwrap_err().to_string();
    insta::assert_snapshot!(
        [
            say("nosuch"),
            say("qmeu"),
            say("qemu:downtime=1"),
            say("kubevirt-stall:progress_timeout=1"),
            say("itc:min_gain_percent=NaN"),
            say(""),
            say("qemu:foo=1"),
            say("stop-at-once:x=1"),
            say("qemu:downtime_ms"),
            say("qemu:downtime_ms=fast"),
            say("qemu:downtime_ms=-1"),
            say("qemu:downtime_ms=99999999999999999999"),
            say("qemu:downtime_ms=1,downtime_ms=2"),
            say("fixed-rounds:rounds=0"),
            say("xen-legacy:skip=yes"),
            say("cloud-hypervisor:timeout_strategy=wait"),
            Guards::parse("max_sent_factor=NaN").unwrap_err().to_string(),
            Guards::parse("max_sent_factor=inf").unwrap_err().to_string(),
            Guards::parse("max_sent_factor=0.5").unwrap_err().to_string(),
            say(&"x".repeat(5000)),
        ]
        .join("\n")
    );
}

#[test]
fn the_list_of_policies() {
    use std::fmt::Write as _;
    let mut list = String::new();
    let mut add = |parameters: &[ParameterInfo]| {
        for p in parameters {
            writeln!(list, "  {} = {} ({}): {}", p.name, p.default, p.kind, p.doc).unwrap();
        }
        std::mem::take(&mut list)
    };
    let mut all = String::new();
    for group in policy_groups() {
        writeln!(all, "# {}", group.title).unwrap();
        for info in group.policies {
            writeln!(all, "{}: {}\n  [{}]", info.name, info.rule, info.source).unwrap();
            all += &add(info.parameters);
        }
    }
    all += "guards:\n";
    all += &add(GUARD_PARAMETERS);
    insta::assert_snapshot!(all);
}

#[test]
fn every_policy_can_be_built_and_has_its_own_name() {
    for info in policies() {
        let built = parse(info.name).unwrap();
        assert_eq!(built.name(), info.name);
        assert_eq!(policies().iter().filter(|other| other.name == info.name).count(), 1);
    }
    assert_eq!(Guards::parse(""), Ok(Guards::default()));
    for name in USUAL_POLICIES {
        assert!(parse(name).is_ok(), "{name}");
    }
}

#[test]
fn a_name_and_pairs_are_a_spec() {
    for text in MORE_VARIANTS {
        let spec = PolicySpec::parse(text).unwrap();
        let table = spec.parameters();
        let pairs = table.iter().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(PolicySpec::new(spec.info().name, pairs), Ok(spec), "{text}");
    }
    assert!(PolicySpec::parse("qemu:slice_ms=100").unwrap().parameters().is_empty());
}

/// What a session could show a policy, and some things that it could not.
fn any_seen() -> impl Strategy<Value = Observation> {
    let moment = prop_oneof![Just(Moment::Harvested), Just(Moment::Cadence), Just(Moment::Sent)];
    let bandwidth = prop_oneof![
        Just(None),
        (0.0..1e10).prop_map(Some),
        Just(Some(f64::NAN)),
        Just(Some(f64::INFINITY)),
    ];
    let pages = prop_oneof![0u64..200, 0u64..1_000_000, any::<u64>()];
    (moment, 0u64..10_000, 0u32..40, (pages.clone(), pages), bandwidth, any::<u64>()).prop_map(
        |(moment, ms, rounds, (residual, sent), bandwidth, bytes)| {
            let mut now = at_ms(seen(moment, rounds, 0), ms);
            now.residual_pages = residual;
            now.residual_wire_bytes = residual.saturating_mul(PAGE);
            now.sent_pages = sent;
            now.round_sent_pages = sent;
            now.round_bandwidth_bytes_per_s = bandwidth;
            now.sent_wire_bytes = bytes;
            now.smooth_bandwidth_bytes_per_s = bandwidth;
            now.dirty_pages_per_s = bandwidth.map(|b| b / 4096.0);
            now
        },
    )
}

/// Parameters that reach more of a policy than its defaults do.
const MORE_VARIANTS: &[&str] = &[
    "qemu:switchover_bandwidth=1000,count_fixed_cost=true",
    "cloud-hypervisor:timeout_s=2,timeout_strategy=ignore",
    "xen-legacy:growth=dirty",
    "xen-adaptive:max_mbit=120,max_rounds=1000,max_factor=1000000",
    "go-criu:first_counts=false",
    "nova:delay_ms_per_gib=100,completion_timeout_ms_per_gib=3000,timeout_action=force-complete",
    "ovirt:poll_ms=100,schedule=suspend-workload",
    "ovirt:poll_ms=100,count=stalls",
    "kubevirt-ramp:cooldown_ms=100,completion_timeout_ms_per_gb=9000",
    "kubevirt-stall:progress_timeout_ms=1000,poll_ms=10",
    "kubevirt-stall:progress_timeout_ms=0,poll_ms=1,allow_disruption=true",
    "cloudnet:window=2,min_pages=0",
    "no-progress:window=2,steady_percent=1000",
    "reservation-sqrt:max_pages=9999",
    "mccall:learn_looks=1,window=3",
    "secretary:horizon=9",
];

/// Every policy with its defaults, and those.
fn variants() -> Vec<String> {
    let all = policies().iter().map(|info| info.name).chain(MORE_VARIANTS.iter().copied());
    all.map(str::to_owned).collect()
}

proptest! {
    /// Same observations, same verdicts; a fork goes on like its original wherever it is taken;
    /// and a guarded policy judges the same as the one within until a guard speaks.
    #[test]
    fn policies_replay(
        history in prop::collection::vec(any_seen(), 1..60),
        fork_at in 0usize..60,
        variant in prop::sample::select(variants()),
    ) {
        let (mut one, mut two) = (parse(&variant).unwrap(), parse(&variant).unwrap());
        let mut guarded = Guards::none().guard(parse(&variant).unwrap());
        let mut fork = None;
        for (at, now) in history.iter().enumerate() {
            if at == fork_at {
                fork = Some(one.fork());
            }
            let verdict = one.judge(now);
            prop_assert_eq!(&verdict, &two.judge(now));
            prop_assert_eq!(&verdict, &guarded.judge(now));
            if let Some(fork) = &mut fork {
                prop_assert_eq!(&verdict, &fork.judge(now));
            }
            if let Verdict::Harvest { .. } = verdict {
                prop_assert_ne!(now.moment, Moment::Harvested);
            }
            prop_assert!(!verdict.reason().is_empty());
        }
    }

    /// Whatever the policy and the guest do, no guarded run goes past its round or time limit,
    /// and a guarded policy forks with its guards.
    #[test]
    fn guards_hold(
        history in prop::collection::vec(any_seen(), 1..60),
        variant in prop::sample::select(variants()),
        max_rounds in 1u32..40,
        max_ms in 1u64..10_000,
    ) {
        let text = format!("max_rounds={max_rounds},max_duration_ms={max_ms},no_progress_rounds=2");
        let mut policy = guarded(&text, &variant);
        let mut fork = policy.fork();
        for now in &history {
            let verdict = policy.judge(now);
            prop_assert_eq!(&verdict, &fork.judge(now));
            if now.rounds_sent >= max_rounds || now.elapsed >= Duration::from_millis(max_ms) {
                prop_assert!(["stop_and_copy", "give_up"].contains(&verdict.word()));
            }
            fork = policy.fork();
        }
    }

    /// No text panics, and what is read is written back in a form that reads the same.
    #[test]
    fn any_text_is_read_or_refused(text in "(qemu|xen|guards|[a-z-]{0,9}):?[a-z_=,0-9.]{0,40}") {
        if let Ok(spec) = PolicySpec::parse(&text) {
            prop_assert_eq!(PolicySpec::parse(&spec.to_string()), Ok(spec));
        }
        if let Ok(guards) = Guards::parse(&text) {
            prop_assert_eq!(Guards::parse(&guards.to_string()), Ok(guards));
        }
    }
}

/// `docs/heuristics.md` is what doc lines cite: it knows every name, and has every section cited.
#[test]
fn the_catalogue_is_in_the_notes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/heuristics.md");
    let notes = std::fs::read_to_string(path).unwrap();
    let parts = [
        policies().iter().map(|info| (info.name, info.source)).collect::<Vec<_>>(),
        order::orders().iter().map(|info| (info.name, info.source)).collect(),
        rate::rates().iter().map(|info| (info.name, info.source)).collect(),
        throttle::throttles().iter().map(|info| (info.name, info.source)).collect(),
    ];
    let mut cited = 0;
    for (name, source) in parts.concat() {
        assert!(
            notes.contains(&format!("`{name}`")) || notes.contains(&format!("`{name}:")),
            "{name} is not in {path}"
        );
        let Some((_, sections)) = source.split_once("heuristics.md ") else { continue };
        let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let words = sections.split([' ', ',', ';']);
        for section in words.filter(is_number).filter(|word| word.len() < 4) {
            cited += 1;
            let begins = [format!("**{section} "), format!("### {section} ")];
            assert!(begins.iter().any(|b| notes.contains(b)), "{name} cites {section}: {path}");
        }
    }
    assert!(cited >= 8, "{cited} sections cited");
}
