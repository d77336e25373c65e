// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans that are right, and every kind of mistake.

use std::error::Error as _;

use super::*;

/// A plan with the least that there must be, where one line is replaced.
fn broken(line: &str, by: &str) -> PlanError {
    const LEAST: &str = "\
offsets = 30
seeds = [1, 2]
[[trace]]
recording = \"web-20\"
family = \"web\"
split = \"train\"
[[strategy]]
use = \"qemu\"
[[strategy]]
name = \"second\"
use = \"xen\"
[[link]]
name = \"fast\"
bandwidth_bytes_per_s = 125e6
changes = [
  { at_s = 1, bandwidth_bytes_per_s = 1e6 },
  { at_s = 2, bandwidth_bytes_per_s = 2e6 },
]
";
    assert!(Plan::parse(LEAST).is_ok(), "{:?}", Plan::parse(LEAST));
    assert!(LEAST.contains(line), "{line}");
    Plan::parse(&LEAST.replacen(line, by, 1)).unwrap_err()
}

#[test]
fn the_plans_that_come_with_it_are_read() {
    let plan = Plan::parse(EXAMPLE).unwrap();
    assert_eq!((plan.traces.len(), plan.strategies.len(), plan.links.len()), (3, 2, 2));
    assert!(matches!(&plan.traces[2].origin, Origin::Synth(s) if s.memory_mib == 256));
    assert_eq!(plan.strategies[0].name, "qemu");
    assert_eq!(plan.strategies[1].name, "xen+cold-first");
    assert_eq!(plan.links[1].changes[0].at_s, 20.0);
    assert_eq!(plan.weights[2].bytes_ms_per_gib, 5.0);
    assert_eq!((plan.reference, plan.offsets, plan.worst_phase), (0, 4, true));
    let quick = plan.quick();
    assert_eq!((quick.offsets, quick.links.len(), quick.worst_phase), (3, 1, false));
    let standard = Plan::parse(STANDARD).unwrap();
    assert!(
        standard.offsets as usize * standard.seeds.len() >= 30 && standard.strategies.len() >= 40
    );
    Plan::parse(QUICK).unwrap();
    Plan::parse(ADVERSARIAL).unwrap();
}

#[test]
fn mistakes_give_line_key_and_nearest_name() {
    for (line, by, at, words) in [
        ("offsets = 30", "ofsets = 30", 1, &["ofsets", "did you mean \"offsets\"?"][..]),
        ("offsets = 30", "offsets = 0", 1, &["offsets is 0", "from 1 to 10000"]),
        ("offsets = 30", "offsets = \"30\"", 1, &["of type string", "a whole number"]),
        ("offsets = 30", "t_max_s = nan", 1, &["t_max_s is nan", "from 0.1 to 36000"]),
        ("seeds = [1, 2]", "seeds = []", 2, &["seeds", "1 to 1000 whole numbers"]),
        ("recording = \"web-20\"", "recording = \"web-2\"", 4, &["did you mean \"web-20\"?"]),
        ("family = \"web\"\n", "", 3, &["trace[1].family is missing"]),
        ("split = \"train\"", "split = \"tset\"", 6, &["trace[1].split", "mean \"test\"?"]),
        ("recording = \"web-20\"", "file = \"a\"\nfolder = \"b\"", 3, &["exactly one of"]),
        ("use = \"qemu\"", "use = \"\"", 8, &["strategy[1].use is empty"]),
        ("use = \"qemu\"", "use = \"qmeu\"", 8, &["strategy[1].use", "mean \"qemu\"?"]),
        ("use = \"qemu\"", "use = \"qemu:downtme_ms=3\"", 8, &["mean \"downtime_ms\"?"]),
        ("use = \"qemu\"", "use = \"qemu:downtime_ms=x\"", 8, &["strategy[1].use"]),
        ("use = \"qemu\"", "use = \"qemu+cold-frist\"", 8, &["mean \"cold-first\"?"]),
        ("name = \"second\"", "name = \"qemu\"", 9, &["strategy[2].name", "as in line 7"]),
        ("name = \"second\"", "nam = \"qemu\"", 10, &["strategy[2].nam", "mean \"name\"?"]),
        ("offsets = 30", "reference = \"secnod\"", 1, &["mean \"second\"?"]),
        ("125e6", "1", 14, &["link[1].bandwidth_bytes_per_s is 1", "from 1000 to"]),
        ("= 2e6", "= 0", 17, &["changes[2].bandwidth_bytes_per_s is 0", "from 1000 to"]),
        ("at_s = 2", "at_s = 1", 17, &["link[1].changes[2].at_s is 1", "later than the 1"]),
        ("at_s = 2", "at = 2", 17, &["link[1].changes[2].at;", "mean \"at_s\"?"]),
        ("[[link]]", "[link]", 12, &["link is of type table", "[[link]]"]),
        ("[[link]]", "[[link]", 12, &["not TOML", "\"[[link]\""]),
        ("offsets = 30", "t_max_s = 3 s", 1, &["not TOML", "\"t_max_s = 3 s\""]),
        ("use = \"qemu\"", "use = \"xen\"\nuse = \"qemu\"", 9, &["\"use = ", "duplicate key"]),
        ("recording = \"web-20\"", "synth = \"zipf\"", 3, &["trace[1].memory_mib is missing"]),
        ("recording = \"web-20\"", "synth = \"zpif\"", 4, &["trace[1].synth", "mean \"zipf\"?"]),
        ("split = \"train\"", "split = \"train\"\nseed = 3", 3, &["seed belongs to a synthetic"]),
        ("offsets = 30", "title = \"a\\u0007b\"", 1, &["title", "on one line"]),
    ] {
        let error = broken(line, by);
        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
        let text = format!("{error}{cause}");
        assert_eq!(error.line(), at, "{by}: {text}");
        assert!(text.contains(&format!("Line {at} ")), "{text}");
        for word in words {
            assert!(text.contains(word), "{by}: no {word:?} in {text}");
        }
    }
    assert!(matches!(Plan::parse(""), Err(PlanError::Count { .. })));
    let long = Plan::parse(&" ".repeat(PLAN_BYTES_MAX + 1)).unwrap_err();
    assert_eq!((long.line(), matches!(long, PlanError::TooLong { .. })), (1, true));
}

#[test]
fn many_strategies_are_too_many() {
    let many = "[[strategy]]\nuse = \"xen\"\n".repeat(STRATEGIES_MAX + 1);
    let error = Plan::parse(&many).unwrap_err();
    assert!(error.to_string().contains("201 strategies"), "{error}");
}
