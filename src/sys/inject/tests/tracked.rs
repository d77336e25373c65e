// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What becomes of the memory that is tracked from outside.

use super::*;

/// What a process that is killed held is released: no page stays protected.
#[test]
fn nothing_stays_protected_when_the_tracker_is_killed() {
    if !can_attach() {
        return;
    }
    let mut victim = start("wait");
    let base = usize::try_from(victim.numbers()[0]).unwrap();
    let process = victim.process();
    let mut keeper = start(&format!("keep {} {base}", victim.child.id()));
    assert_eq!(keeper.hear(), "protected");
    let addresses = base..base + (4 << 20);
    assert_eq!(protected(&process, addresses.clone()), 1024);
    keeper.signal(Signal::SIGKILL);
    keeper.child.wait().unwrap();
    let began = Instant::now();
    while protected(&process, addresses.clone()) > 0 && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(protected(&process, addresses), 0);
    let maps = std::fs::read_to_string(process.proc("smaps")).unwrap();
    assert!(!maps.lines().any(|line| line.starts_with("VmFlags:") && line.contains(" uw")));
    assert_untouched(&process);
    victim.tell("");
    let faults = victim.numbers()[0];
    assert!(faults < 100, "{faults} faults in writing 1024 pages");
}

/// A process that maps something else into tracked memory: an error, or followed if asked.
#[test]
fn remapped_memory_is_noticed() {
    if !can_attach() {
        return;
    }
    for follows in [false, true] {
        let mut victim = start("remap");
        let start = usize::try_from(victim.numbers()[0]).unwrap();
        let place = [(GuestAddress::new(0), start..start + (4 << 20))];
        let map = ProcessMap::new(Arc::new(victim.process()), PageSize::BASE, &place).unwrap();
        let mut tracker = ProcessTracker::attach(Arc::new(map)).unwrap().follow(follows);
        tracker.arm().unwrap();
        let mut set = DenseBitmap::new(1024);
        tracker.harvest(&mut set).unwrap();
        assert_eq!(set.count(), 0);
        victim.tell("");
        victim.hear();
        let answer = tracker.harvest(&mut set);
        if !follows {
            assert!(matches!(answer, Err(DirtyError::Remapped { .. })), "{answer:?}");
            continue;
        }
        answer.unwrap();
        let written = [256, 511].map(PageIndex::new);
        assert!(written.iter().all(|page| set.contains(*page)));
        assert_eq!(tracker.changes().load(SeqCst), 1);
        for _ in 0..2 {
            victim.tell("");
            victim.hear();
            set.clear_all();
            tracker.harvest(&mut set).unwrap();
            assert!(set.count() == 2 && written.iter().all(|page| set.contains(*page)), "{set:?}");
        }
        tracker.disarm().unwrap();
        assert_eq!(protected(&victim.process(), start..start + (4 << 20)), 0);
    }
}

/// What cannot be released keeps nothing else protected.
#[test]
fn memory_beside_unmapped_memory_is_released() {
    if !can_attach() {
        return;
    }
    let mut victim = start("unmap");
    let starts = victim.numbers().into_iter().map(|start| usize::try_from(start).unwrap());
    let parts = starts.map(|start| (GuestAddress::new(start as u64), start..start + (2 << 20)));
    let parts: Vec<_> = parts.collect();
    let map = ProcessMap::new(Arc::new(victim.process()), PageSize::BASE, &parts).unwrap();
    let mut tracker = ProcessTracker::attach(Arc::new(map)).unwrap();
    tracker.arm().unwrap();
    victim.tell("");
    victim.hear();
    let (process, released) = (victim.process(), tracker.disarm());
    assert_eq!(protected(&process, parts[1].1.clone()), 0, "{released:?}");
    assert!(released.is_err());
}
