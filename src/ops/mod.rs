//! The operations of both stages. One folder an op, with all its faces: what it computes and its shape, gradient and
//! cost rules (`mod.rs`), its native CPU kernel and plain reference (`cpu.rs`), and its table of cases (`cases.rs`), which
//! tests of value and gradient and the benches share.
//!
//! An op author implements [`Op`]; the trait requires the reference, so no kernel can exist without one.
//! Recording happens through [`Recorder`], which the tape implements: ops never see the tape itself.

use std::fmt;
use std::sync::Arc;

pub use crate::program::Shapes;
use crate::program::gpu::{GpuContext, GpuKernel, Narrow};
use crate::program::{Cost, Io, Kernel};
use crate::real::Real;
use crate::tensor::Shape;

pub mod activation;
pub mod batch_norm;
pub mod binary;
pub mod conv2d;
pub mod data_init;
pub mod decoder;
pub mod dwconv;
pub mod guard;
pub mod kl_balance;
pub mod langevin;
pub mod latent;
pub mod layout;
pub mod linear;
pub mod loss;
pub mod mala;
pub mod mbconv;
pub mod noise;
pub mod optim;
pub mod reduce;
pub mod registry;
pub mod resample;
pub mod residual_block;
pub mod residual_cell;
pub mod spectral;
pub mod squeeze_excite;
pub mod state;
pub mod testing;
pub mod unary;
pub mod weight_norm;

#[cfg(test)]
mod fusion_tests;
#[cfg(test)]
mod machine_tests;

/// A tensor of a tape that is being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub(crate) u32);

/// What went wrong with the shapes given to an op.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShapeError(pub String);

/// Fails with a [`ShapeError`] unless a condition on shapes holds.
#[macro_export]
macro_rules! ensure_shape {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::ops::ShapeError(format!($($message)+)));
        }
    };
}

/// An operation: what an author writes.
pub trait Op: fmt::Debug + Send + Sync + 'static {
    /// The op's name, as kernels and reports spell it.
    const NAME: &'static str;

    /// The output shapes, or what is wrong with the inputs.
    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError>;

    /// The plain reference: the formula, one loop nest, no tricks.
    fn reference<T: Real>(&self, io: &mut Io<'_, T>);

    /// The native kernel in `f32`. Where the plain loop is already the best one it calls [`Op::reference`].
    fn cpu(&self, io: &mut Io<'_, f32>);

    /// The launches on a GPU, which write what [`Op::reference`] would.
    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel;

    /// Of the tensors that [`GpuContext::narrow`] proposes to store as bf16, those that [`Op::cuda`] takes so if exactly they are. It is
    /// asked again with fewer until what all ops of a plan answer agrees, so an op may want some of its tensors together or not at all.
    /// Only intermediates of an image's rank are proposed, and only in precision bf16: see `device::cuda::tensors`.
    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        let _ = cx;
        Narrow::NONE
    }

    /// Elements of scratch that [`Op::cpu`] needs; independent of the number of threads.
    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        let _ = shapes;
        0
    }

    /// Whether the result depends on [`crate::program::Noise`] as well as on the inputs.
    fn reads_noise(&self) -> bool {
        false
    }

    /// Gradients of the inputs, one entry per input; `None` where there is none or [`Backward::wants`] does not ask for it.
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>>;

    /// FLOPs (a fused multiply-add is two, an activation counts as [`ACTIVATION_FLOPS`]) and compulsory bytes.
    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Cost {
            flops: 0.0,
            bytes: compulsory_bytes(shapes),
        }
    }
}

/// What an activation that needs an exponential counts for in cost rules.
pub const ACTIVATION_FLOPS: f64 = 4.0;

/// Every argument once through memory, updates twice.
pub fn compulsory_bytes(shapes: Shapes<'_>) -> f64 {
    let elements: usize = shapes
        .inputs
        .iter()
        .chain(shapes.outputs)
        .map(Shape::len)
        .sum::<usize>()
        + 2 * shapes.updates.iter().map(Shape::len).sum::<usize>();
    (elements * size_of::<f32>()) as f64
}

/// An op without its type: what a tape keeps. Implemented for every [`Op`].
pub trait AnyOp: Kernel {
    /// See [`Op::infer`].
    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError>;
    /// See [`Op::grad`].
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>>;
    /// See [`Op::reads_noise`].
    fn reads_noise(&self) -> bool;
    /// See [`Op::workspace`].
    fn workspace(&self, shapes: Shapes<'_>) -> usize;
    /// See [`Op::cost`].
    fn cost(&self, shapes: Shapes<'_>) -> Cost;
}

impl<O: Op> Kernel for O {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu(&self, io: &mut Io<'_, f32>) {
        Op::cpu(self, io);
    }
    fn reference_f32(&self, io: &mut Io<'_, f32>) {
        self.reference::<f32>(io);
    }
    fn reference_f64(&self, io: &mut Io<'_, f64>) {
        self.reference::<f64>(io);
    }
    fn cuda(&self, cx: GpuContext<'_>) -> GpuKernel {
        Op::cuda(self, cx)
    }
    fn narrow(&self, cx: GpuContext<'_>) -> Narrow {
        Op::narrow(self, cx)
    }
}

impl<O: Op> AnyOp for O {
    fn infer(&self, shapes: Shapes<'_>) -> Result<Vec<Shape>, ShapeError> {
        Op::infer(self, shapes)
    }
    fn grad(&self, cx: &Backward<'_>) -> Vec<Option<Var>> {
        Op::grad(self, cx)
    }
    fn reads_noise(&self) -> bool {
        Op::reads_noise(self)
    }
    fn workspace(&self, shapes: Shapes<'_>) -> usize {
        Op::workspace(self, shapes)
    }
    fn cost(&self, shapes: Shapes<'_>) -> Cost {
        Op::cost(self, shapes)
    }
}

/// Records nodes. The tape implements it; op builders (`add(t, a, b)`) take `&dyn Recorder`.
pub trait Recorder {
    /// Appends a node and returns its outputs. `updates` must be states.
    ///
    /// # Panics
    /// If the shape rule refuses the inputs: networks are described by this crate from checked configurations.
    fn record(&self, op: Arc<dyn AnyOp>, inputs: &[Var], updates: &[Var]) -> Vec<Var>;
    /// The shape of a tensor.
    fn shape(&self, var: Var) -> Shape;
    /// A tensor of fixed numbers.
    fn constant(&self, shape: Shape, data: Vec<f64>) -> Var;
}

/// Appends a node with one output.
pub fn record1(r: &dyn Recorder, op: impl Op, inputs: &[Var]) -> Var {
    r.record(Arc::new(op), inputs, &[])[0]
}

/// A constant with one value everywhere.
pub fn fill(r: &dyn Recorder, shape: Shape, value: f64) -> Var {
    r.constant(shape, vec![value; shape.len()])
}

/// What a gradient rule sees of its node.
pub struct Backward<'a> {
    /// Where gradient nodes go.
    pub recorder: &'a dyn Recorder,
    /// The node's inputs.
    pub inputs: &'a [Var],
    /// The node's outputs.
    pub outputs: &'a [Var],
    /// The gradient with respect to each output; `None` where nothing depends on it.
    pub cotangents: &'a [Option<Var>],
    /// Which inputs need a gradient.
    pub wants: &'a [bool],
    /// See [`Backward::so_far`].
    pub collected: &'a dyn Fn(Var) -> Option<Var>,
}

impl Backward<'_> {
    /// The gradient with respect to output `i`, zeros if nothing depends on it.
    pub fn cotangent(&self, i: usize) -> Var {
        self.cotangents[i]
            .unwrap_or_else(|| fill(self.recorder, self.recorder.shape(self.outputs[i]), 0.0))
    }

    /// Takes what later nodes have given to the gradient of input `i`, where there is any: the gradient that this node then returns for it
    /// includes that. For kernels that can begin from another tensor at no further pass over their result. A tape of plain parts has
    /// nothing to take, and adds up itself.
    pub fn so_far(&self, i: usize) -> Option<Var> {
        (self.collected)(self.inputs[i])
    }

    /// The shape of input `i`.
    pub fn input_shape(&self, i: usize) -> Shape {
        self.recorder.shape(self.inputs[i])
    }

    /// `make()` if input `i` needs a gradient.
    pub fn wanted(&self, i: usize, make: impl FnOnce() -> Var) -> Option<Var> {
        self.wants[i].then(make)
    }
}
