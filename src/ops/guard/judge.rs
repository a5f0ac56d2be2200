//! The verdict on a step.
//!
//! Each watched number `v` is compared with its last values: with their median `m` and median absolute deviation `d`,
//! `z = (v - m) / max(1.4826 d, floor + relative |m|)`, where 1.4826 makes `d` the deviation of a normal law. A step is bad if a number
//! is not finite, beyond its limit, or, once enough steps have been seen, at a `z` beyond the threshold. Values of bad steps do not join the
//! past. So many bad steps in succession, and the guard has tripped: from then on every step is bad until its state is written anew.

use std::sync::Arc;

use super::cuda;
use crate::ensure_shape;
use crate::ops::{Backward, Op, Recorder, ShapeError, Shapes, Var};
use crate::program::Io;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::real::Real;
use crate::tensor::Shape;

/// How one number is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watch {
    /// Its logarithm is what is compared with the past: for numbers that change by factors.
    pub log: bool,
    /// Both directions count; otherwise only upwards.
    pub both: bool,
    /// Least scale of a deviation.
    pub floor: f64,
    /// Added to that, by the size of the median.
    pub relative: f64,
    /// Beyond this the number itself, in either direction, is bad at any time; infinite for none.
    pub limit: f64,
}

/// How a step is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeSettings {
    /// The numbers, at most [`MAX_WATCHES`].
    pub watches: Vec<Watch>,
    /// Past values of each, at most [`MAX_WINDOW`].
    pub window: usize,
    /// So many must be there before they may count against a step.
    pub warmup: usize,
    /// Largest deviation of a good step; 0 compares with no past.
    pub threshold: f64,
    /// Bad steps in succession that trip the guard.
    pub patience: usize,
    /// Records that are kept for the host.
    pub records: usize,
}

/// Numbers that can be watched at once: as many bits as a record has for each kind of complaint.
pub const MAX_WATCHES: usize = 7;
/// Past values at most: one for each thread of a block.
pub const MAX_WINDOW: usize = 256;
/// Where the state says, by 1 or 0, whether the guard has tripped.
pub const TRIPPED: usize = 3;
/// Numbers before the records: values in the window, the next one's place, bad steps in succession, tripped.
const HEAD: usize = 4;
/// What a logarithm is taken of at least.
const TINY: f64 = 1e-30;
/// Deviations are told up to this.
const FARTHEST: f64 = 1e6;
/// Makes a median absolute deviation the standard deviation of a normal law.
const NORMAL: f64 = 1.4826;

/// Where things stand in the state: a vector that begins as zeros and holds finite numbers only.
///
/// After the head come the records, each `(t, complaints, values, deviations)`, in which that of step `t` stands at place
/// `t % records`; then the windows, one number after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Watched numbers.
    pub watches: usize,
    /// Records.
    pub records: usize,
    /// Past values of each number.
    pub window: usize,
}

impl JudgeSettings {
    /// Where things stand in the state.
    pub fn layout(&self) -> Layout {
        Layout {
            watches: self.watches.len(),
            records: self.records,
            window: self.window,
        }
    }
}

impl Layout {
    /// The shape of the state.
    pub fn shape(self) -> Shape {
        Shape::new(&[self.windows() + self.watches * self.window])
    }

    /// Numbers of a record.
    pub fn record_len(self) -> usize {
        2 + 2 * self.watches
    }

    /// Where the record at a place begins.
    pub fn record(self, place: usize) -> usize {
        HEAD + place * self.record_len()
    }

    pub(super) fn windows(self) -> usize {
        self.record(self.records)
    }
}

/// `(apply, deviations)` from the watched numbers and `t`; updates its state.
#[derive(Debug)]
pub(super) struct Judge(pub(super) JudgeSettings);

/// Judges a step: `values` are scalars, one for each watch, `t` is the number of the step, from 1, and `state` has the layout's shape.
/// Gives 1 if the step may be applied, else 0, and the deviation of each number.
///
/// The complaints of a record are a sum of `2^i` for a number that deviates, `2^(8 + i)` for one that is not finite (its value is
/// then told as 0), `2^(16 + i)` for one beyond its limit.
pub fn judge(
    r: &dyn Recorder,
    values: &[Var],
    t: Var,
    state: Var,
    settings: JudgeSettings,
) -> [Var; 2] {
    let inputs = [values, &[t]].concat();
    let outputs = r.record(Arc::new(Judge(settings)), &inputs, &[state]);
    [outputs[0], outputs[1]]
}

/// The median: the mean of the two middle ones where there are two.
fn median<T: Real>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.f64().total_cmp(&b.f64()));
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    T::of(0.5) * (low + high)
}

impl Watch {
    /// How far a value is from its past, in the scale of its past.
    fn deviation<T: Real>(&self, value: T, past: &[T]) -> T {
        let middle = median(past);
        let distances: Vec<T> = past.iter().map(|v| (*v - middle).abs()).collect();
        let least = T::of(self.floor) + T::of(self.relative) * middle.abs();
        let scale = (T::of(NORMAL) * median(&distances)).max(least);
        let farthest = T::of(FARTHEST);
        ((value - middle) / scale).max(-farthest).min(farthest)
    }
}

impl Op for Judge {
    const NAME: &'static str = "guard_judge";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let s = &self.0;
        ensure_shape!(
            (1..=MAX_WATCHES).contains(&s.watches.len())
                && (1..=MAX_WINDOW).contains(&s.window)
                && (1..=s.window).contains(&s.warmup)
                && s.patience > 0
                && s.records > 0,
            "cannot judge by {s:?}"
        );
        ensure_shape!(
            shapes.inputs.len() == s.watches.len() + 1
                && shapes.inputs.iter().all(|s| s.len() == 1)
                && shapes.updates == [s.layout().shape()],
            "{} numbers and t, all scalars, with a state {}, not {:?} with {:?}",
            s.watches.len(),
            s.layout().shape(),
            shapes.inputs,
            shapes.updates
        );
        Ok(vec![Shape::SCALAR, Shape::new(&[s.watches.len()])])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (s, layout) = (&self.0, self.0.layout());
        let count = layout.watches;
        let t = io.input(count)[0];
        let inputs = io.inputs;
        let [(apply, _), (deviations, _)] = &mut io.outputs else {
            unreachable!("two outputs, as inferred");
        };
        deviations.fill(T::zero());
        let state = &mut *io.updates[0].0;
        apply[0] = T::zero();
        if state[TRIPPED] != T::zero() {
            return;
        }
        let (seen, next) = (state[0].f64() as usize, state[1].f64() as usize);
        let mut values = vec![T::zero(); count];
        let mut complaints = 0u32;
        for (i, watch) in s.watches.iter().enumerate() {
            let raw = inputs[i].0[0];
            if !raw.is_finite() {
                complaints |= 1 << (8 + i);
                continue;
            }
            if raw.abs() > T::of(watch.limit) {
                complaints |= 1 << (16 + i);
            }
            values[i] = if watch.log {
                raw.max(T::of(TINY)).ln()
            } else {
                raw
            };
            if s.threshold > 0.0 && seen >= s.warmup {
                let past = &state[layout.windows() + i * s.window..][..seen];
                let z = watch.deviation(values[i], past);
                deviations[i] = z;
                let far = if watch.both { z.abs() } else { z };
                if far > T::of(s.threshold) {
                    complaints |= 1 << i;
                }
            }
        }
        let record = &mut state[layout.record(t.f64() as usize % s.records)..];
        (record[0], record[1]) = (t, T::of(f64::from(complaints)));
        for i in 0..count {
            let finite = complaints & 1 << (8 + i) == 0;
            record[2 + i] = if finite { inputs[i].0[0] } else { T::zero() };
            record[2 + count + i] = deviations[i];
        }
        if complaints != 0 {
            state[2] += T::one();
            let tripped = state[2] >= T::of(s.patience as f64);
            state[TRIPPED] = T::of(f64::from(u8::from(tripped)));
            return;
        }
        apply[0] = T::one();
        state[2] = T::zero();
        for (i, value) in values.iter().enumerate() {
            state[layout.windows() + i * s.window + next] = *value;
        }
        state[0] = T::of((seen + 1).min(s.window) as f64);
        state[1] = T::of(((next + 1) % s.window) as f64);
    }

    /// A few hundred numbers.
    fn cpu(&self, io: &mut Io<'_, f32>) {
        self.reference(io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        let _ = cx;
        cuda::judge(self).into()
    }

    /// It looks on; no gradient flows through it.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        vec![None; cx.inputs.len()]
    }
}
