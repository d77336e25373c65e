// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many runs on all processors, in any order, with results in the order of the jobs.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How far a batch of runs has come, and whether it is to go on.
pub trait Watch: Sync {
    /// A run of the batch `what` is over: `done` of `all`.
    fn progress(&self, what: &str, done: usize, all: usize);

    /// Whether no further run is to begin.
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl Watch for () {
    fn progress(&self, _what: &str, _done: usize, _all: usize) {}
}

/// Does every job, on as many threads as there are processors. A job that was not begun because
/// of a cancel, or after another has failed, leaves `None`.
///
/// # Errors
/// The first error of a job, by the order of the jobs.
pub fn each<J: Sync, T: Send, E: Send>(
    what: &str,
    jobs: &[J],
    watch: &dyn Watch,
    job: impl Fn(&J) -> Result<T, E> + Sync,
) -> Result<Vec<Option<T>>, E> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    each_on(threads, what, jobs, watch, job)
}

/// The same on at most so many threads.
///
/// # Errors
/// As [`each`].
pub fn each_on<J: Sync, T: Send, E: Send>(
    threads: usize,
    what: &str,
    jobs: &[J],
    watch: &dyn Watch,
    job: impl Fn(&J) -> Result<T, E> + Sync,
) -> Result<Vec<Option<T>>, E> {
    let threads = threads.min(jobs.len().max(1));
    let (next, done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let results: Vec<Mutex<Option<Result<T, E>>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while !failed.load(Ordering::Relaxed) && !watch.is_cancelled() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(input) = jobs.get(at) else { return };
            let result = job(input);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            *results[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            watch.progress(what, done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let results =
        results.into_iter().map(|r| r.into_inner().unwrap_or_else(PoisonError::into_inner));
    results.map(Option::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct After(AtomicUsize, usize);

    impl Watch for After {
        fn progress(&self, _what: &str, _done: usize, _all: usize) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn is_cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed) >= self.1
        }
    }

    #[test]
    fn results_are_in_order() {
        let jobs: Vec<u64> = (0..100).collect();
        let squares = each("", &jobs, &(), |n| Ok::<_, ()>(n * n)).unwrap();
        assert!(squares.into_iter().eq((0..100).map(|n| Some(n * n))));
    }

    #[test]
    fn errors_and_cancels_end_it() {
        let jobs: Vec<u64> = (0..1000).collect();
        let failed = each("", &jobs, &(), |n| if *n == 5 { Err(*n) } else { Ok(*n) });
        assert_eq!(failed, Err(5));
        let watch = After(AtomicUsize::new(0), 10);
        let some = each_on(4, "", &jobs, &watch, |n| Ok::<_, ()>(*n)).unwrap();
        let done = some.iter().flatten().count();
        // Three threads may be in a job when the fourth ends the tenth.
        assert!((10..=13).contains(&done), "{done}");
    }
}
