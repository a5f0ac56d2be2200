//! Sums over rows: mean and variance, and the plain sum of columns.

use std::ops::Range;

use super::{Source, channels, chunks};
use crate::device::cpu::parallel::{self, Shared};
use crate::device::cpu::simd::{self, Kernel, Simd};

/// Rows whose terms are added up one after the other, in several sums side by side, before the result joins a sum of such: the rounding
/// error of a sum grows with this and with the number of such sums, not with their product.
const CHAIN_ROWS: usize = 32;

/// Rows in chains.
#[inline(always)]
pub(super) fn chains(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = rows.end;
    rows.step_by(CHAIN_ROWS)
        .map(move |first| first..end.min(first + CHAIN_ROWS))
}

/// The sum over rows of one vector of channels.
///
/// # Safety
/// `min(n, LANES)` channels from `at` on exist in all rows.
#[inline(always)]
unsafe fn column_total<S: Simd>(
    s: S,
    x: Source,
    rows: Range<usize>,
    c: usize,
    at: usize,
    n: usize,
) -> S::V {
    let mut total = s.splat(0.0);
    for rows in chains(rows) {
        // Four sums, joined in order, hide the latency of the addition.
        let mut sums = [s.splat(0.0); 4];
        for row in rows {
            // SAFETY: the caller's promise.
            let x = unsafe { s.load_upto(x.at(row * c + at), n) };
            sums[row & 3] = s.add(sums[row & 3], x);
        }
        let sum = s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]));
        total = s.add(total, sum);
    }
    total
}

/// Mean and centred sum of squares of one chunk of rows: `out[0..c]`, `out[c..2c]`.
struct Moments {
    x: Source,
    rows: Range<usize>,
    c: usize,
    out: *mut f32,
}

impl Kernel for Moments {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let count = self.rows.len() as f32;
        channels!(s, self.c, |at, n| {
            // SAFETY: rows and channels exist; this task owns its part of `out`.
            unsafe {
                let sum = column_total(s, self.x, self.rows.clone(), self.c, at, n);
                let mean = s.div(sum, s.splat(count));
                let (mut squares, mut rest) = (s.splat(0.0), s.splat(0.0));
                for rows in chains(self.rows.clone()) {
                    let (mut q, mut r) = ([s.splat(0.0); 4], [s.splat(0.0); 4]);
                    for row in rows {
                        let d = s.sub(s.load_upto(self.x.at(row * self.c + at), n), mean);
                        q[row & 3] = s.fma(d, d, q[row & 3]);
                        r[row & 3] = s.add(r[row & 3], d);
                    }
                    squares = s.add(squares, s.add(s.add(q[0], q[1]), s.add(q[2], q[3])));
                    rest = s.add(rest, s.add(s.add(r[0], r[1]), s.add(r[2], r[3])));
                }
                // What rounding left in the mean: put back, and taken out of the squares.
                let shift = s.div(rest, s.splat(count));
                s.store_upto(self.out.add(at), n, s.add(mean, shift));
                s.store_upto(self.out.add(self.c + at), n, s.fnma(rest, shift, squares));
            }
        });
    }
}

/// Scratch elements of [`moments`].
pub fn moments_workspace(rows: usize, c: usize) -> usize {
    chunks(rows) * 2 * c
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
    let parts = &mut workspace[..chunks * 2 * c];
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
                    out: parts.at(i * 2 * c),
                },
            );
        });
    }
    for channel in 0..c {
        // In double precision, which costs nothing here.
        let (mut joined, mut squares, mut seen) = (0.0f64, 0.0f64, 0.0f64);
        for (i, part) in parts.chunks_exact(2 * c).enumerate() {
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

/// Sums of one chunk of rows.
struct ColumnSum {
    x: Source,
    rows: Range<usize>,
    c: usize,
    out: *mut f32,
}

impl Kernel for ColumnSum {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        channels!(s, self.c, |at, n| {
            // SAFETY: rows and channels exist; this task owns its part of `out`.
            unsafe {
                let sum = column_total(s, self.x, self.rows.clone(), self.c, at, n);
                s.store_upto(self.out.add(at), n, sum);
            }
        });
    }
}

/// Scratch elements of [`column_sum`].
pub fn column_sum_workspace(rows: usize, c: usize) -> usize {
    chunks(rows) * c
}

/// `out[c] (+)= sum over rows of x[rows, c]`: the gradient of a bias.
///
/// # Panics
/// If a slice is too short.
pub fn column_sum(
    rows: usize,
    c: usize,
    x: &[f32],
    out: &mut [f32],
    accumulate: bool,
    workspace: &mut [f32],
) {
    assert!(x.len() >= rows * c, "{rows} rows of {c}");
    let chunks = chunks(rows);
    let (x, isa) = (Source(x.as_ptr()), simd::isa());
    let parts = &mut workspace[..chunks * c];
    {
        let parts = Shared::new(parts);
        parallel::for_each(chunks, (rows * c) as u64 * 2, |i| {
            let rows = parallel::chunk(rows, chunks, i);
            simd::dispatch(
                isa,
                ColumnSum {
                    x,
                    rows,
                    c,
                    out: parts.at(i * c),
                },
            );
        });
    }
    join(parts, &mut out[..c], accumulate);
}

/// `out (+)=` the sum of partial sums, each as long as `out`, rounded once: there are few enough for double precision.
fn join(parts: &[f32], out: &mut [f32], accumulate: bool) {
    let c = out.len();
    for (channel, out) in out.iter_mut().enumerate() {
        let parts = parts.iter().skip(channel).step_by(c);
        let sum: f64 = parts.map(|p| f64::from(*p)).sum();
        let before = if accumulate { f64::from(*out) } else { 0.0 };
        *out = (before + sum) as f32;
    }
}
