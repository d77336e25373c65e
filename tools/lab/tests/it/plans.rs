// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replays the fuzz corpus of plans on a stable compiler; reads the plans that come with it.

use std::fs;
use std::path::Path;

use lab::tournament::fuzzing::fuzz_plan;
use lab::tournament::input::load;
use lab::tournament::plan::{EXAMPLE, Plan, QUICK, STANDARD, Split};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_corpus_of_plans_holds() {
    let corpus = Path::new(HERE).join("../../fuzz/corpus/plan");
    let mut inputs = 0;
    for entry in fs::read_dir(corpus).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        fuzz_plan(&fs::read(&path).expect("a readable file"));
        inputs += 1;
    }
    assert!(inputs >= 10, "the corpus has only {inputs} inputs");
}

#[test]
fn every_prefix_and_every_lost_byte_is_told() {
    for at in (0..EXAMPLE.len()).filter(|at| EXAMPLE.is_char_boundary(*at)).step_by(7) {
        fuzz_plan(&EXAMPLE.as_bytes()[..at]);
        let mut lost = EXAMPLE.to_owned();
        lost.remove(at);
        fuzz_plan(lost.as_bytes());
    }
}

#[test]
fn the_plans_find_their_traces() {
    let folder = Path::new(HERE).join("plans");
    for text in [EXAMPLE, QUICK] {
        let plan = Plan::parse(text).unwrap();
        assert_eq!(load(&plan, &folder).unwrap().len(), plan.traces.len());
    }
    // The standard plan takes long to read; its files are there, and its families are in both
    // splits as far as there is more than one recording.
    let plan = Plan::parse(STANDARD).unwrap();
    for trace in &plan.traces {
        let lab::tournament::plan::Origin::File(path) = &trace.origin else { continue };
        assert!(folder.join(path).is_file(), "{}", path.display());
    }
    for split in Split::ALL {
        assert!(plan.traces.iter().filter(|trace| trace.split == split).count() >= 4);
    }
}
