//! What the processor reaches on loops that do nothing else: multiply-adds on registers, and a copy.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::simd::{self, Kernel, Simd};
use crate::device::facts::Rates;

/// Independent chains of multiply-adds: enough to hide the latency of two units.
const CHAINS: usize = 12;
const STEPS: usize = 20_000;
/// Bytes of each of the copy's two sides on all threads together: beyond the caches of all but the largest servers.
const COPY_BYTES: usize = 128 << 20;

/// Multiply-adds on registers, two per cycle if the machine can.
struct MultiplyAdds;

impl Kernel for MultiplyAdds {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(1e-3)));
        let mut acc = [s.splat(1.0); CHAINS];
        for _ in 0..STEPS {
            for x in &mut acc {
                *x = s.fma(*x, a, b);
            }
        }
        let mut total = s.splat(0.0);
        for x in acc {
            total = s.add(total, x);
        }
        black_box(s.sum(total));
    }
}

struct Lanes<'a>(&'a mut usize);

impl Kernel for Lanes<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        *self.0 = S::LANES;
    }
}

struct Copy<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Copy<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, to) = (
            self.from.chunks_exact(S::LANES),
            self.to.chunks_exact_mut(S::LANES),
        );
        for (from, to) in from.zip(to) {
            // SAFETY: both chunks have `LANES` elements.
            unsafe { s.store(to.as_mut_ptr(), s.load(from.as_ptr())) };
        }
    }
}

/// Seconds of the fastest of several runs within the budget.
fn fastest(budget: Duration, mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < budget {
        let clock = Instant::now();
        run();
        best = best.min(clock.elapsed().as_secs_f64());
    }
    best
}

/// FLOP/s of f32 multiply-adds on all threads of the pool together.
pub fn multiply_adds() -> f64 {
    let (mut lanes, isa) = (0, simd::isa());
    simd::dispatch(isa, Lanes(&mut lanes));
    let seconds = fastest(Duration::from_millis(300), || {
        rayon::broadcast(|_| simd::dispatch(isa, MultiplyAdds));
    });
    (2 * CHAINS * STEPS * lanes * rayon::current_num_threads()) as f64 / seconds
}

/// Bytes per second that a copy on all threads reads and writes.
fn copy() -> f64 {
    use rayon::prelude::*;
    let isa = simd::isa();
    let share = COPY_BYTES / size_of::<f32>() / rayon::current_num_threads();
    let share = share.next_multiple_of(64);
    let from = vec![1.0f32; share * rayon::current_num_threads()];
    let mut to = vec![0.0f32; from.len()];
    let seconds = fastest(Duration::from_millis(300), || {
        (from.par_chunks(share).zip(to.par_chunks_mut(share)))
            .for_each(|(from, to)| simd::dispatch(isa, Copy { from, to }));
    });
    black_box(&to);
    (2 * size_of_val(&from[..])) as f64 / seconds
}

/// Both on the present pool of threads; products of matrices are multiply-adds here.
pub fn rates() -> Rates {
    let vector = multiply_adds();
    Rates {
        copy: copy(),
        matrix: vector,
        vector,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_copies_and_rates_are_those_of_a_machine() {
        for isa in simd::available() {
            let from: Vec<f32> = (0..64).map(|i| i as f32).collect();
            let mut to = vec![0.0; 64];
            let sides = Copy {
                from: &from,
                to: &mut to,
            };
            simd::dispatch(isa, sides);
            assert_eq!(from, to, "{isa:?}");
        }
        // Between what a busy machine still does without optimisation and what no host does.
        let rates = rates();
        for rate in [rates.copy, rates.matrix, rates.vector] {
            assert!((1e5..1e15).contains(&rate), "{rates:?}");
        }
    }
}
