//! Reductions over the rows of `[rows, c]`, per channel, and their means and variances.
//!
//! Mean and variance in two passes over each chunk of rows (never `E[x^2] - E[x]^2`), chunks joined by the exact update of Chan, Golub and
//! LeVeque (1983) in fixed order. Rows are cut by their number alone, so that the number of threads changes no bit.

use super::parallel::{self, Shared};
use super::simd::{self, Kernel, Simd};

/// Chunks of rows that a reduction is cut into, at most.
const MAX_CHUNKS: usize = 16;
/// Rows of a chunk at least.
const MIN_ROWS: usize = 64;

pub(super) fn chunks(rows: usize) -> usize {
    (rows / MIN_ROWS).clamp(1, MAX_CHUNKS)
}

/// A read-only tensor as tasks share it.
#[derive(Clone, Copy)]
pub(super) struct Source(pub(super) *const f32);
// SAFETY: a view of a slice borrowed for the whole call.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}
impl Source {
    #[inline(always)]
    pub(super) fn at(&self, i: usize) -> *const f32 {
        self.0.wrapping_add(i)
    }
}

/// Calls `f(channel, lanes)` for every vector of channels.
macro_rules! channels {
    ($s:ident, $c:expr, |$at:ident, $n:ident| $body:block) => {{
        let mut $at = 0;
        while $at < $c {
            let $n = $c - $at;
            $body
            $at += S::LANES;
        }
    }};
}
pub(super) use channels;

/// Calls the body for every row, with `$k` the one of `$n` accumulators that it goes to: a constant wherever it stands, so that
/// accumulators stay in registers.
macro_rules! rows {
    ($rows:expr, $n:literal, |$row:ident, $k:ident| $body:block) => {{
        let (mut row, end) = ($rows.start, $rows.end);
        while row + $n <= end {
            for $k in 0..$n {
                let $row = row + $k;
                $body
            }
            row += $n;
        }
        for $row in row..end {
            let $k = 0;
            $body
        }
    }};
}
pub(super) use rows;

/// Ranges of rows of which a few tensors together stay in the first-level cache: reductions go over all channels of one before they
/// turn to the next, so that they read memory in order.
pub(super) fn blocks(
    rows: &std::ops::Range<usize>,
    c: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (start, end, step) = (rows.start, rows.end, (4096 / c.max(1)).max(8));
    // Of no rows there is one empty block, so that sums of nothing are written too.
    (0..rows.len().div_ceil(step).max(1)).map(move |i| {
        let first = start + i * step;
        first..(first + step).min(end)
    })
}

/// The sum of four, in order of a tree.
#[inline(always)]
fn join<S: Simd>(s: S, [a, b, c, d]: [S::V; 4]) -> S::V {
    s.add(s.add(a, b), s.add(c, d))
}

/// Adds a vector to what stands at `to`, or puts it there.
///
/// # Safety
/// `min(n, LANES)` numbers from `to` on may be written, and hold numbers unless `first`.
#[inline(always)]
pub(super) unsafe fn gather<S: Simd>(s: S, to: *mut f32, n: usize, first: bool, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe {
        let sum = if first {
            v
        } else {
            s.add(s.load_upto(to, n), v)
        };
        s.store_upto(to, n, sum);
    }
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
                    gather(s, self.out.add(at), n, first, join(s, sums));
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
                    gather(s, self.out.add(c + at), n, first, join(s, squares));
                    gather(s, self.out.add(2 * c + at), n, first, join(s, rest));
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
    let (mean, variance) = (&mut mean[..c], &mut variance[..c]);
    let mut seen = 0.0f32;
    for (i, part) in parts.chunks_exact(3 * c.max(1)).enumerate() {
        let count = parallel::chunk(rows, chunks, i).len() as f32;
        let (part_mean, part_squares) = part[..2 * c].split_at(c);
        if i == 0 {
            mean.copy_from_slice(part_mean);
            variance.copy_from_slice(part_squares);
        } else {
            let total = seen + count;
            for ((m, v), (pm, ps)) in mean
                .iter_mut()
                .zip(variance.iter_mut())
                .zip(part_mean.iter().zip(part_squares))
            {
                let delta = pm - *m;
                *m += delta * (count / total);
                *v += ps + delta * delta * (seen * count / total);
            }
        }
        seen += count;
    }
    variance.iter_mut().for_each(|v| *v /= rows as f32);
}
