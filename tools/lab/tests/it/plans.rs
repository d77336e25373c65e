// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replays the fuzz corpus of plans on a stable compiler; reads the plans that come with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lab::tournament::fuzzing::fuzz_plan;
use lab::tournament::input::load;
use lab::tournament::plan::{EXAMPLE, Origin, Plan, QUICK, STANDARD, Split};
use lab::traces::{Recording, SHIPPED};

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

/// They are printed for use elsewhere, so none may hang on where it lies.
#[test]
fn the_plans_find_their_traces_wherever_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    for text in [EXAMPLE, QUICK] {
        let plan = Plan::parse(text).unwrap();
        assert_eq!(load(&plan, folder.path()).unwrap().len(), plan.traces.len());
    }
    // The standard plan takes long to read.
    let plan = Plan::parse(STANDARD).unwrap();
    let mut recordings = Split::ALL.map(|split| (split, BTreeSet::new()));
    for trace in &plan.traces {
        let Origin::Recording(shipped) = &trace.origin else { panic!("{trace:?}") };
        let of = recordings.iter_mut().find(|(split, _)| *split == trace.split);
        of.unwrap().1.insert(shipped.name);
    }
    // With fewer than three no ranking says anything.
    assert!(recordings.iter().all(|(_, names)| names.len() >= 3), "{recordings:?}");
}

#[test]
fn every_trace_of_the_folder_is_part_of_the_program() {
    let names: BTreeSet<_> = SHIPPED.iter().map(|shipped| shipped.name.to_owned()).collect();
    let files = fs::read_dir(Path::new(HERE).join("traces")).unwrap();
    let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let files: BTreeSet<_> =
        files.filter_map(|name| name.strip_suffix(".trace.zst").map(str::to_owned)).collect();
    assert_eq!(names, files);
    for recording in Recording::ALL {
        let shipped = SHIPPED.iter().find(|shipped| shipped.name == recording.name()).unwrap();
        assert!(shipped.bytes == recording.bytes(), "{recording:?}");
    }
}
