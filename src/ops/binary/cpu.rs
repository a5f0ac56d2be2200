//! Native kernels: one pass in vectors over runs (see [`Runs`]), cut into chunks.

use super::runs::Runs;
use super::sum::{BroadcastTo, SumTo};
use super::{Binary, Function};
use crate::device::cpu::simd::{self, Kernel, Simd};
use crate::device::cpu::slices::{CHUNK, for_each_task, load, store};
use crate::device::cpu::sums::row_sums;
use crate::program::Io;

/// Elements `start ..` of `c = f(a, b)`.
struct Pairs<'a> {
    f: Function,
    runs: Runs,
    start: usize,
    a: &'a [f32],
    b: &'a [f32],
    c: &'a mut [f32],
}

impl Kernel for Pairs<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pairs {
            f,
            runs,
            start,
            a,
            b,
            c,
        } = self;
        macro_rules! sweep {
            ($f:expr) => {
                runs.parts(start..start + c.len(), |part| {
                    let here = part.start - start..part.start - start + part.len;
                    let (a, c) = (&a[here.clone()], &mut c[here]);
                    if runs.along {
                        let b = &b[part.small..][..part.len];
                        for at in (0..a.len()).step_by(S::LANES) {
                            store(s, c, at, $f(s, load(s, a, at), load(s, b, at)));
                        }
                    } else {
                        let b = s.splat(b[part.small]);
                        for at in (0..a.len()).step_by(S::LANES) {
                            store(s, c, at, $f(s, load(s, a, at), b));
                        }
                    }
                })
            };
        }
        match f {
            Function::Combine { alpha, beta } if alpha == 1.0 && beta == 1.0 => {
                sweep!(|s: S, a, b| s.add(a, b));
            }
            Function::Combine { alpha, beta } => {
                let (alpha, beta) = (s.splat(alpha as f32), s.splat(beta as f32));
                sweep!(|s: S, a, b| s.fma(alpha, a, s.mul(beta, b)));
            }
            Function::Mul => sweep!(|s: S, a, b| s.mul(a, b)),
            Function::Div => sweep!(|s: S, a, b| s.div(a, b)),
        }
    }
}

/// `y += x`.
struct Add<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Add { x, y } = self;
        for at in (0..y.len()).step_by(S::LANES) {
            store(s, y, at, s.add(load(s, y, at), load(s, x, at)));
        }
    }
}

/// Work that memory limits, for the choice between one thread and all.
fn work(elements: usize) -> u64 {
    8 * elements as u64
}

pub(super) fn binary(op: &Binary, io: &mut Io<'_, f32>) {
    let (f, isa) = (op.0, simd::isa());
    let (a, b) = (io.input(0), io.input(1));
    let runs = Runs::new(io.input_shape(0), io.input_shape(1));
    let chunks = a.chunks(CHUNK).zip(io.out().chunks_mut(CHUNK));
    let tasks = chunks.enumerate().collect();
    for_each_task(tasks, work(a.len()), |(i, (a, c))| {
        let start = i * CHUNK;
        simd::dispatch(
            isa,
            Pairs {
                f,
                runs,
                start,
                a,
                b,
                c,
            },
        );
    });
}

pub(super) fn sum_of(io: &mut Io<'_, f32>) {
    let (inputs, isa) = (io.inputs, simd::isa());
    let y = io.out();
    let flops = work(y.len()) * inputs.len() as u64;
    let tasks = y.chunks_mut(CHUNK).enumerate().collect();
    for_each_task(tasks, flops, |(i, y): (usize, &mut [f32])| {
        let here = i * CHUNK..i * CHUNK + y.len();
        y.copy_from_slice(&inputs[0].0[here.clone()]);
        for (x, _) in &inputs[1..] {
            let x = &x[here.clone()];
            simd::dispatch(isa, Add { x, y: &mut *y });
        }
    });
}

pub(super) fn broadcast_to(op: &BroadcastTo, io: &mut Io<'_, f32>) {
    let runs = Runs::new(op.0, io.input_shape(0));
    let x = io.input(0);
    let y = io.out();
    let flops = work(y.len());
    let tasks = y.chunks_mut(CHUNK).enumerate().collect();
    for_each_task(tasks, flops, |(i, y): (usize, &mut [f32])| {
        let start = i * CHUNK;
        runs.parts(start..start + y.len(), |part| {
            let y = &mut y[part.start - start..][..part.len];
            if runs.along {
                y.copy_from_slice(&x[part.small..][..part.len]);
            } else {
                y.fill(x[part.small]);
            }
        });
    });
}

pub(super) fn sum_to(op: &SumTo, io: &mut Io<'_, f32>) {
    let (x, runs) = (io.input(0), Runs::new(io.input_shape(0), op.0));
    io.out().fill(0.0);
    if runs.along {
        sum_rows(x, runs, io.out());
    } else {
        sum_within_rows(x, runs, io.out());
    }
}

/// Where one element of `y` takes whole rows.
fn sum_within_rows(x: &[f32], runs: Runs, y: &mut [f32]) {
    let sums = row_sums(x, runs.len);
    let mut totals = vec![0.0f64; y.len()];
    let mut rows = sums.iter();
    runs.parts(0..x.len(), |part| {
        totals[part.small] += rows.next().expect("one sum a row");
    });
    for (y, total) in y.iter_mut().zip(totals) {
        *y = total as f32;
    }
}

/// Columns of a task of [`sum_rows`].
const COLUMNS: usize = 64;
/// Rows that are summed in `f32` before their sum joins the total.
const ROWS: usize = 32;

/// Columns `first ..` of rows added up into `y`, which is one row of the result's columns for each `small`.
struct Columns<'a> {
    x: &'a [f32],
    runs: Runs,
    first: usize,
    width: usize,
    /// Totals of the whole result, of which this task writes its columns.
    totals: &'a mut [f64],
}

impl Kernel for Columns<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Columns {
            x,
            runs,
            first,
            width,
            totals,
        } = self;
        let mut sums = [0.0; COLUMNS];
        let (mut count, mut place) = (0, None);
        let mut flush = |sums: &mut [f32; COLUMNS], small: usize| {
            let at = small / runs.len * width;
            for (total, sum) in totals[at..at + width].iter_mut().zip(sums) {
                *total += f64::from(*sum);
                *sum = 0.0;
            }
        };
        runs.parts(0..x.len(), |row| {
            if let Some(small) = place
                && (small != row.small || count == ROWS)
            {
                flush(&mut sums, small);
                count = 0;
            }
            let x = &x[row.start + first..][..width];
            for at in (0..width).step_by(S::LANES) {
                let sum = s.add(load(s, &sums, at), load(s, x, at));
                store(s, &mut sums, at, sum);
            }
            (count, place) = (count + 1, Some(row.small));
        });
        if let Some(small) = place {
            flush(&mut sums, small);
        }
    }
}

/// Where rows are added element by element: each task takes some columns of all rows.
fn sum_rows(x: &[f32], runs: Runs, y: &mut [f32]) {
    let isa = simd::isa();
    let rows_of_y = y.len() / runs.len.max(1);
    let mut tasks: Vec<(usize, usize, Vec<f64>)> = (0..runs.len)
        .step_by(COLUMNS)
        .map(|first| {
            let width = COLUMNS.min(runs.len - first);
            (first, width, vec![0.0; width * rows_of_y])
        })
        .collect();
    let owned = tasks.iter_mut().collect();
    for_each_task(
        owned,
        work(x.len()),
        |(first, width, totals): &mut (usize, usize, Vec<f64>)| {
            let (first, width) = (*first, *width);
            simd::dispatch(
                isa,
                Columns {
                    x,
                    runs,
                    first,
                    width,
                    totals,
                },
            );
        },
    );
    for (first, width, totals) in tasks {
        for (row, totals) in totals.chunks(width).enumerate() {
            for (k, total) in totals.iter().enumerate() {
                y[row * runs.len + first + k] = *total as f32;
            }
        }
    }
}
