//! Vectors of slices with checked bounds, and loops over tasks that own the slices they write: what element-wise kernels are made
//! of.

use std::sync::Mutex;

use super::parallel;
use super::simd::Simd;

/// Elements of one task of an element-wise kernel.
pub const CHUNK: usize = 16 * 1024;

/// The vector at `x[at..]`, with zeros beyond the end of the slice.
///
/// # Panics
/// If `at` lies beyond it.
#[inline(always)]
pub fn load<S: Simd>(s: S, x: &[f32], at: usize) -> S::V {
    let rest = &x[at..];
    // SAFETY: all elements of `rest` may be read.
    unsafe { s.load_upto(rest.as_ptr(), rest.len()) }
}

/// Writes a vector to `y[at..]`, without the lanes beyond the end of the slice.
///
/// # Panics
/// If `at` lies beyond it.
#[inline(always)]
pub fn store<S: Simd>(s: S, y: &mut [f32], at: usize, v: S::V) {
    let rest = &mut y[at..];
    // SAFETY: all elements of `rest` may be written.
    unsafe { s.store_upto(rest.as_mut_ptr(), rest.len(), v) }
}

/// Runs `work` on each task, once, in any order, as [`parallel::for_each`] does.
pub fn for_each_task<T: Send>(tasks: Vec<T>, flops: u64, work: impl Fn(T) + Sync + Send) {
    let tasks: Vec<Mutex<Option<T>>> = tasks.into_iter().map(|t| Mutex::new(Some(t))).collect();
    parallel::for_each(tasks.len(), flops, |i| {
        // Each index comes once, so the lock is free and the task there.
        if let Some(task) = tasks[i].lock().ok().and_then(|mut t| t.take()) {
            work(task);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, available, dispatch};
    use super::*;

    struct Ends;
    impl Kernel for Ends {
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let x: Vec<f32> = (0..S::LANES + 3).map(|i| i as f32).collect();
            let mut y = vec![-1.0; S::LANES + 3];
            for at in (0..x.len()).step_by(S::LANES) {
                store(s, &mut y, at, load(s, &x, at));
            }
            assert_eq!(x, y);
            assert_eq!(s.sum(load(s, &x, x.len())), 0.0);
        }
    }

    #[test]
    fn ends_of_slices_are_partial_vectors() {
        for isa in available() {
            dispatch(isa, Ends);
        }
    }

    #[test]
    fn every_task_runs_once() {
        for flops in [0, u64::MAX] {
            let mut hits = vec![0; 100];
            for_each_task(hits.iter_mut().collect(), flops, |hit: &mut i32| *hit += 1);
            assert_eq!(hits, [1; 100]);
        }
    }
}
