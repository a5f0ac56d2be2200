//! Launches of the gradient of the image, and of the layout that it reads weights in.

use super::extents::{Conv, int};
use super::tile::{Tile, direct};
use super::window::{Form, Frame};
use super::{Operand, Operands, Weights};
use crate::ops::activation::Activation;
use crate::ops::conv2d::packed::Layout;
use crate::program::gpu::{GpuLaunch, Precision, THREADS, Tensor};

/// The arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    /// `[n, oh, ow, cout]`.
    pub dy: Operand,
    /// `[kh, kw, cout, cin]`, or with groups as the forward pass reads them.
    pub packed: Weights,
    /// Where `slope` is taken, as `dx`; it may be `dx` itself.
    pub x: Option<Operand>,
    /// `[n, h, w, cin]`.
    pub dx: Operand,
    /// Whose derivative at `x` the result is multiplied by.
    pub slope: Activation,
}

/// What a gradient may do besides [`Backward`]; all but `start` only without groups and strides.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct JoinedBackward {
    /// Further terms of the same sums: a gradient `[n, h, w, cout]`, or of its 2x2 averages, and weights `[cout, cin]`.
    pub beside: Option<(Operand, Weights)>,
    /// As `dx`; added before the slope.
    pub residual: Option<Operand>,
    /// As `dx`; added last.
    pub start: Option<Operand>,
    /// Where the channels from this one on go, without slope and summands: `[n, h, w, cin - split]`.
    pub split: Option<(usize, Operand)>,
    /// Whether `dy` is the gradient of averages over 2x2 pixels.
    pub halved: bool,
    /// The same of [`JoinedBackward::beside`]; at most one of them.
    pub beside_halved: bool,
}

/// `dx = slope'(x) * conv^T(dy, w)`.
pub(crate) fn backward(precision: Precision, conv: Conv, b: Backward) -> GpuLaunch {
    backward_joined(precision, conv, b, JoinedBackward::default())
}

/// `[dx, dx2] = slope'(x) * (conv^T(dy, w) + dy2 w2^T + residual) + start`.
pub(crate) fn backward_joined(
    precision: Precision,
    conv: Conv,
    b: Backward,
    joined: JoinedBackward,
) -> GpuLaunch {
    let aligned = conv.aligned() && joined.split.is_none_or(|(at, _)| at % 4 == 0);
    let with = [joined.beside.is_some(), joined.halved, joined.beside_halved];
    let form = if conv.direct() {
        Form::Direct
    } else {
        let tile = Tile::choose(conv.phase_rows(), conv.channels()[0], aligned);
        let packed = b.packed.bf16.is_some() && joined.beside.is_none_or(|(_, w)| w.bf16.is_some());
        let frame = (precision == Precision::Bf16 && packed)
            .then(|| joined.frame(conv))
            .flatten();
        Form::choose(tile, frame.as_ref(), || {
            conv.site("conv2d_dgrad", &with.map(usize::from), precision)
        })
    };
    backward_by(form, precision, conv, b, joined)
}

impl JoinedBackward {
    fn frame(&self, conv: Conv) -> Option<Frame> {
        Frame::backward(
            conv,
            self.halved || self.beside_halved,
            self.beside.is_some(),
        )
    }
}

/// As [`backward_joined`], in this form.
pub(super) fn backward_by(
    form: Form,
    precision: Precision,
    conv: Conv,
    b: Backward,
    joined: JoinedBackward,
) -> GpuLaunch {
    let columns = conv.channels()[0];
    let halved = u32::from(joined.halved) + 2 * u32::from(joined.beside_halved);
    assert!(halved < 3, "the means of one source alone are undone");
    let tensors = |launch: GpuLaunch, read: fn(Weights) -> Operand| {
        (launch.operand(b.dy).operand(read(b.packed)))
            .operand_or_null(joined.beside.map(|(dy, _)| dy))
            .operand_or_null(joined.beside.map(|(_, packed)| read(packed)))
            .operand_or_null(b.x)
            .operand_or_null(joined.residual)
            .operand_or_null(joined.start)
            .operand(b.dx)
            .operand_or_null(joined.split.map(|(_, dx)| dx))
    };
    let split = |launch: GpuLaunch| {
        launch
            .value(int(joined.split.map_or(columns, |(at, _)| at)))
            .value(halved)
    };
    let launch = match form {
        Form::Direct => {
            let plain = joined.beside.is_none() && joined.split.is_none() && halved == 0;
            assert!(
                plain && joined.residual.is_none(),
                "only tiles have a second source, a split or averages: {conv:?}"
            );
            (direct("dgrad", conv.x_pixels() * columns).operand(b.dy))
                .operand(b.packed.exact)
                .operand_or_null(b.x)
                .operand_or_null(joined.start)
                .operand(b.dx)
                .value(conv)
        }
        Form::Tile(tile) => {
            let phases = (conv.stride * conv.stride) as usize;
            let blocks = tile.blocks(conv.phase_rows(), columns);
            let launch = (tile.launch("dgrad", precision)).grid([blocks, 1, phases]);
            split(tensors(launch, |w| w.exact).value(conv))
        }
        Form::Window(window) => {
            let frame = joined.frame(conv).expect("chosen because it has a window");
            let (launch, cut) = window.launch("dgrad", &frame);
            split((tensors(launch, Weights::in_bf16).value(frame.conv)).value(cut))
        }
    };
    launch.value(b.slope.code())
}

/// `wt[t, j, i] = w[t, i, j]` for matrices `[rows, columns]`, and zeros behind them up to `room` elements.
pub(crate) fn transpose(
    w: Operand,
    wt: Operand,
    [matrices, rows, columns]: [usize; 3],
    room: usize,
) -> GpuLaunch {
    GpuLaunch::new("conv2d", "conv2d_pack_f32")
        .grid([columns.div_ceil(32), rows.div_ceil(32), matrices])
        .block(THREADS)
        .operand(w)
        .operand(wt)
        .count(rows)
        .count(columns)
        .count(matrices)
        .count(room)
}

/// [`transpose`]s weights and, behind that, makes both layouts in bf16.
pub(super) fn pack_bf16(
    w: Operand,
    packed: Tensor,
    [matrices, rows, columns]: [usize; 3],
    at: Layout,
) -> GpuLaunch {
    GpuLaunch::new("conv2d_window_bf16", "conv2d_pack_bf16")
        .grid([columns.div_ceil(32), rows.div_ceil(32), matrices])
        .block(THREADS)
        .operand(w)
        .operand((packed, 0))
        .operand((packed, at.straight))
        .operand((packed, at.transposed))
        .count(rows)
        .count(columns)
        .count(matrices)
        .count(at.straight)
}
