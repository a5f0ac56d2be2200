//! Mean and variance over rows.

use super::{Source, blocks, channels, chunks, gather, rows};
use crate::device::cpu::parallel::{self, Shared};
use crate::device::cpu::simd::{self, Kernel, Simd};

/// The sum of four, in order of a tree.
#[inline(always)]
fn tree<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> S::V {
    s.add(s.add(a, b), s.add(c, d))
}

/// Mean and centred sum of squares of one chunk of rows: `out[0..c]`, `out[c..2c]`; `out[2c..3c]` is scratch.
struct Moments {
    x: Source,
    rows: std::ops::Range<usize>,
    c: usize,
    out: *mut f32,
}

impl Kernel for Moments {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (count, c) = (s.splat(self.rows.len() as f32), self.c);
        for rows in blocks(&self.rows, c) {
            channels!(s, c, |at, n| {
                // Four sums, joined in order, hide the latency of the addition.
                let mut sums = [s.splat(0.0); 4];
                // SAFETY: rows and channels exist; this task owns its part of `out`.
                unsafe {
                    rows!(rows, 4, |row, k| {
                        let x = s.load_upto(self.x.at(row * c + at), n);
                        sums[k] = s.add(sums[k], x);
                    });
                    let first = rows.start == self.rows.start;
                    gather(s, self.out.add(at), n, first, tree(s, sums));
                }
            });
        }
        channels!(s, c, |at, n| {
            // SAFETY: as above.
            unsafe {
                let sum = s.load_upto(self.out.add(at), n);
                s.store_upto(self.out.add(at), n, s.div(sum, count));
            }
        });
        for rows in blocks(&self.rows, c) {
            channels!(s, c, |at, n| {
                let mut squares = [s.splat(0.0); 4];
                let mut rest = [s.splat(0.0); 4];
                // SAFETY: as above.
                unsafe {
                    let mean = s.load_upto(self.out.add(at), n);
                    rows!(rows, 4, |row, k| {
                        let d = s.sub(s.load_upto(self.x.at(row * c + at), n), mean);
                        squares[k] = s.fma(d, d, squares[k]);
                        rest[k] = s.add(rest[k], d);
                    });
                    let first = rows.start == self.rows.start;
                    gather(s, self.out.add(c + at), n, first, tree(s, squares));
                    gather(s, self.out.add(2 * c + at), n, first, tree(s, rest));
                }
            });
        }
        channels!(s, c, |at, n| {
            // SAFETY: as above.
            unsafe {
                let [mean, squares, rest] =
                    [0, c, 2 * c].map(|k| s.load_upto(self.out.add(k + at), n));
                // What rounding left in the mean: put back, and taken out of the squares.
                let shift = s.div(rest, count);
                s.store_upto(self.out.add(at), n, s.add(mean, shift));
                s.store_upto(self.out.add(c + at), n, s.fnma(rest, shift, squares));
            }
        });
    }
}

/// Scratch elements of [`moments`].
pub fn moments_workspace(rows: usize, c: usize) -> usize {
    chunks(rows) * 3 * c
}

/// Per-channel mean and biased variance of `x` `[rows, c]`.
///
/// # Panics
/// If `rows` is zero or a slice is too short.
pub fn moments(
    rows: usize,
    c: usize,
    x: &[f32],
    mean: &mut [f32],
    variance: &mut [f32],
    workspace: &mut [f32],
) {
    assert!(
        rows > 0 && x.len() >= rows * c && mean.len() >= c && variance.len() >= c,
        "moments of {rows} rows of {c}"
    );
    let chunks = chunks(rows);
    let (source, isa) = (Source(x.as_ptr()), simd::isa());
    let parts = &mut workspace[..chunks * 3 * c];
    {
        let parts = Shared::new(parts);
        parallel::for_each(chunks, (rows * c * 8) as u64, |i| {
            let rows = parallel::chunk(rows, chunks, i);
            simd::dispatch(
                isa,
                Moments {
                    x: source,
                    rows,
                    c,
                    out: parts.at(i * 3 * c),
                },
            );
        });
    }
    for channel in 0..c {
        // In double precision, which costs nothing here.
        let (mut joined, mut squares, mut seen) = (0.0f64, 0.0f64, 0.0f64);
        for (i, part) in parts.chunks_exact(3 * c).enumerate() {
            let count = parallel::chunk(rows, chunks, i).len() as f64;
            let delta = f64::from(part[channel]) - joined;
            let total = seen + count;
            joined += delta * (count / total);
            squares += f64::from(part[c + channel]) + delta * delta * (seen * count / total);
            seen = total;
        }
        mean[channel] = joined as f32;
        variance[channel] = (squares / rows as f64) as f32;
    }
}
