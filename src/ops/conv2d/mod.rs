//! 2-D convolution (cross-correlation with zero padding), with the activation of its input and a residual sum fused in:
//!
//! `y[n, oy, ox, o] = b[o] + r[n, oy, ox, o] + sum over (ky, kx, i) of act(x[n, iy, ix, i]) w[ky, kx, i, o]`,
//! `iy = oy * stride - pad_top + ky * dilation`.
//!
//! With an activation of the output, `y` is what it is taken of, and the result of it is a second output.
//! `x [n, h, w, cin]`, `w [kh, kw, cin / groups, cout]`, `b [cout]`, `r` and `y [n, oh, ow, cout]`. `act(x)` is never stored: the
//! gradient recomputes it (`dx = act'(x) * (w^T dy)`, `dw = act(x)^T dy`).

pub mod cases;
mod cpu;
pub(super) mod cuda;
mod geometry;
pub(super) mod gradients;
mod joined;
mod packed;

pub(super) use cpu::describe;
pub use geometry::Geometry;
pub(super) use gradients::packed;
pub use joined::conv2d_joined;

use std::sync::Arc;

use super::activation::Activation;
use super::binary::{sum_of, sum_to};
use super::unary::slope;
use super::{Backward, Op, Recorder, ShapeError, Shapes, Var, compulsory_bytes, record1};
use crate::device::cpu::conv::MAX_TAPS;
use crate::ensure_shape;
use crate::program::gpu::{GpuContext, GpuKernel};
use crate::program::{Cost, Io};
use crate::real::Real;
use crate::tensor::Shape;
use gradients::{Dgrad, Pack, Wgrad};
use packed::Layout;

/// The kernels of this folder.
pub const KERNELS: &[&str] = &[
    Fprop::NAME,
    Pack::NAME,
    Dgrad::NAME,
    Wgrad::NAME,
    joined::Joined::NAME,
    joined::JoinedPack::NAME,
    joined::JoinedDgrad::NAME,
];

/// No activation.
pub(super) const NONE: Activation = Activation::None;

/// The forward pass: `y`, or `(y, post(y))`, from `(x, w[, packed w][, b][, r])`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fprop {
    geometry: Geometry,
    pre: Activation,
    /// Whether it gets the weights packed as well: kernels that keep a window read those.
    packed: bool,
    bias: bool,
    residual: bool,
    /// Of the whole; then `y` is followed by `post(y)`.
    post: Activation,
}

/// What is fused into a convolution besides its products.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// One number per output channel.
    pub bias: Option<Var>,
    /// A tensor of the output's shape that is added to it.
    pub residual: Option<Var>,
}

/// `conv(x, w) + bias`.
pub fn conv2d(r: &dyn Recorder, x: Var, w: Var, bias: Option<Var>, geometry: Geometry) -> Var {
    conv2d_act(r, x, Activation::None, w, bias, geometry)
}

/// `conv(act(x), w) + bias`, without storing `act(x)`.
pub fn conv2d_act(
    r: &dyn Recorder,
    x: Var,
    pre: Activation,
    w: Var,
    bias: Option<Var>,
    geometry: Geometry,
) -> Var {
    let extras = Extras {
        bias,
        residual: None,
    };
    conv2d_fused(r, x, pre, w, extras, geometry)
}

/// `conv(act(x), w) + bias + residual`, in one pass over the output.
pub fn conv2d_fused(
    r: &dyn Recorder,
    x: Var,
    pre: Activation,
    w: Var,
    extras: Extras,
    geometry: Geometry,
) -> Var {
    let post = NONE;
    fprop(r, x, [pre, post], w, extras, geometry)[0]
}

/// `y = conv(x, w) + bias` and `post(y)`, in one pass over both.
pub fn conv2d_activated(
    r: &dyn Recorder,
    x: Var,
    w: Var,
    bias: Option<Var>,
    post: Activation,
    geometry: Geometry,
) -> (Var, Var) {
    let extras = Extras {
        bias,
        residual: None,
    };
    let outputs = fprop(r, x, [NONE, post], w, extras, geometry);
    (outputs[0], *outputs.get(1).unwrap_or(&outputs[0]))
}

/// Records a forward pass with an activation of its input and one of its output.
fn fprop(
    r: &dyn Recorder,
    x: Var,
    [pre, post]: [Activation; 2],
    w: Var,
    extras: Extras,
    geometry: Geometry,
) -> Vec<Var> {
    let takes_packed = geometry.stride == 1 && Layout::new(r.shape(w), geometry.groups).has_bf16();
    let packed = takes_packed.then(|| packed(r, geometry, w));
    let op = Fprop {
        geometry,
        pre,
        packed: packed.is_some(),
        bias: extras.bias.is_some(),
        residual: extras.residual.is_some(),
        post,
    };
    let inputs: Vec<Var> = ([x, w].into_iter().chain(packed))
        .chain(extras.bias)
        .chain(extras.residual)
        .collect();
    r.record(Arc::new(op), &inputs, &[])
}

/// The convolution of `pre(x)` with `kernel x kernel` weights that keeps the size, for ops that are made of several.
pub(super) fn same(kernel: usize, pre: Activation, bias: bool) -> Fprop {
    Fprop {
        geometry: Geometry::same(kernel),
        pre,
        packed: false,
        bias,
        residual: false,
        post: NONE,
    }
}

/// The input gradient of [`same`].
pub(super) fn same_dgrad(pre: Activation, image: Shape, weights: Shape) -> Dgrad {
    Dgrad {
        geometry: Geometry::same(weights[0]),
        pre,
        image,
        weights,
        start: false,
    }
}

/// The gradient of weights of this shape from the input, activated by `pre`, and the gradient of the output.
pub(super) fn weight_gradient(
    r: &dyn Recorder,
    geometry: Geometry,
    pre: Activation,
    x: Var,
    dy: Var,
    weights: Shape,
) -> Var {
    let op = Wgrad {
        geometry,
        pre,
        weights,
    };
    record1(r, op, &[x, dy])
}

/// Elements that packed weights take.
pub(super) fn packed_len(w: Shape, groups: usize) -> usize {
    Layout::new(w, groups).len
}

/// Bytes of a packed input, which is room for all that any device makes of the weights: a pass reads each of these once.
pub(super) fn packed_bytes(shapes: Shapes<'_>, inputs: impl IntoIterator<Item = usize>) -> f64 {
    let lens = inputs.into_iter().map(|i| shapes.inputs[i].len());
    bytes(lens.sum())
}

/// Bytes of so many numbers.
pub(super) fn bytes(numbers: usize) -> f64 {
    (size_of::<f32>() * numbers) as f64
}

/// FLOPs of the products of one pass: the same number for fprop, dgrad and wgrad. Bias and residual are where the sums start.
fn products(w: Shape, y: Shape) -> f64 {
    2.0 * y.rows() as f64 * w.len() as f64
}

impl Fprop {
    /// A 1x1 convolution and nothing else, for ops that are made of several.
    pub(super) fn pointwise() -> Self {
        Fprop {
            geometry: Geometry::same(1),
            pre: NONE,
            packed: false,
            bias: false,
            residual: false,
            post: NONE,
        }
    }

    fn packed_index(&self) -> Option<usize> {
        self.packed.then_some(2)
    }

    fn bias_index(&self) -> Option<usize> {
        self.bias.then_some(2 + usize::from(self.packed))
    }

    fn residual_index(&self) -> Option<usize> {
        let before = usize::from(self.packed) + usize::from(self.bias);
        self.residual.then_some(2 + before)
    }
}

impl Op for Fprop {
    const NAME: &'static str = "conv2d_fprop";

    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        let count = [self.packed, self.bias, self.residual].map(usize::from);
        let count = 2 + count.into_iter().sum::<usize>();
        ensure_shape!(
            shapes.inputs.len() == count,
            "takes {count} tensors, not {}",
            shapes.inputs.len()
        );
        let (x, w) = (shapes.inputs[0], shapes.inputs[1]);
        let (Some([n, h, width, cin]), Some([kh, kw, per_group, cout])) = (x.nhwc(), w.nhwc())
        else {
            return Err(ShapeError(format!(
                "takes an image [n, h, w, c] and weights [kh, kw, cin / groups, cout], not {x} and {w}"
            )));
        };
        let groups = self.geometry.groups;
        ensure_shape!(
            kh * kw <= MAX_TAPS,
            "a window of {kh}x{kw} has more than {MAX_TAPS} taps"
        );
        ensure_shape!(
            groups > 0 && cin == per_group * groups && cout % groups == 0,
            "weights {w} in {groups} groups do not fit {cin} input channels"
        );
        if let Some(packed) = self.packed_index().map(|i| shapes.inputs[i]) {
            let len = Layout::new(w, groups).len;
            ensure_shape!(
                packed.dims() == [len],
                "takes {len} packed weights, not {packed}"
            );
        }
        let y = Shape::new(&[
            n,
            self.geometry.output(0, h, kh)?,
            self.geometry.output(1, width, kw)?,
            cout,
        ]);
        if let Some(bias) = self.bias_index().map(|i| shapes.inputs[i]) {
            ensure_shape!(bias.dims() == [cout], "the bias is {bias}, not [{cout}]");
        }
        if let Some(residual) = self.residual_index().map(|i| shapes.inputs[i]) {
            ensure_shape!(residual == y, "the residual is {residual}, the output {y}");
        }
        Ok(vec![y; if self.post == NONE { 1 } else { 2 }])
    }

    fn reference<T: Real>(&self, io: &mut Io<'_, T>) {
        let (x, w) = (io.input(0), io.input(1));
        let (x_shape, w_shape, y_shape) =
            (io.input_shape(0), io.input_shape(1), io.output_shape(0));
        let bias = self.bias_index().map(|i| io.input(i));
        let residual = self.residual_index().map(|i| io.input(i));
        let y = io.out();
        let (cout, groups) = (w_shape.last(), self.geometry.groups);
        for (i, y) in y.iter_mut().enumerate() {
            *y = bias.map_or(T::zero(), |b| b[i % cout]) + residual.map_or(T::zero(), |r| r[i]);
        }
        let (in_group, out_group) = (w_shape[2], cout / groups);
        for_each_pixel(self.geometry, x_shape, w_shape, y_shape, |from, tap, to| {
            for i in 0..x_shape.last() {
                let value = self.pre.value(x[from * x_shape.last() + i]);
                // w[ky, kx, i mod cin/groups, channels of the group of i]
                let first = i / in_group * out_group;
                let row = &w[(tap * in_group + i % in_group) * cout + first..][..out_group];
                for (y, w) in y[to * cout + first..][..out_group].iter_mut().zip(row) {
                    *y += value * *w;
                }
            }
        });
        if let [(y, _), (after, _)] = &mut *io.outputs {
            for (after, y) in after.iter_mut().zip(&**y) {
                *after = self.post.value(*y);
            }
        }
    }

    fn cpu(&self, io: &mut Io<'_, f32>) {
        cpu::fprop(self, io);
    }

    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        cuda::fprop(self, cx)
    }

    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        cpu::fprop_workspace(self, shapes)
    }

    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        let r = cx.recorder;
        let dy = match (self.post.function(), cx.cotangents) {
            (Some(f), &[dy, Some(after)]) => {
                let through = slope(r, f, after, cx.outputs[0]);
                let parts: Vec<Var> = dy.into_iter().chain([through]).collect();
                sum_of(r, &parts)
            }
            _ => cx.cotangent(0),
        };
        let dgrad = || {
            let w = cx.inputs[1];
            let packed = match self.packed_index() {
                Some(i) => cx.inputs[i],
                None => packed(r, self.geometry, w),
            };
            Dgrad::record(r, self, dy, [packed, w], cx.inputs[0], cx.so_far(0))
        };
        let wgrad = || Wgrad::record(r, self, cx.inputs[0], dy, cx.input_shape(1));
        let mut gradients = vec![cx.wanted(0, dgrad), cx.wanted(1, wgrad)];
        gradients.extend(self.packed_index().map(|_| None));
        if let Some(i) = self.bias_index() {
            gradients.push(cx.wanted(i, || sum_to(r, dy, cx.input_shape(i))));
        }
        if let Some(i) = self.residual_index() {
            gradients.push(cx.wanted(i, || dy));
        }
        gradients
    }

    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: products(shapes.inputs[1], shapes.outputs[0])
                + self.pre.flops() * shapes.inputs[0].len() as f64
                + self.post.flops() * shapes.outputs[0].len() as f64,
            bytes: compulsory_bytes(shapes) - packed_bytes(shapes, self.packed_index()),
        }
    }
}

/// As [`Geometry::for_each_tap`], with the extents of NHWC images and HWIO weights.
fn for_each_pixel(
    geometry: Geometry,
    x: Shape,
    w: Shape,
    y: Shape,
    visit: impl FnMut(usize, usize, usize),
) {
    geometry.for_each_tap([x[0], x[1], x[2]], [w[0], w[1]], [y[0], y[1], y[2]], visit);
}
