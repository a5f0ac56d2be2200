//! Launches of the forward pass.

use super::extents::{Conv, int};
use super::tile::{Tile, direct};
use super::window::{Form, Frame};
use super::{Operand, Operands, Weights};
use crate::ops::activation::Activation;
use crate::program::gpu::{GpuLaunch, Precision};

/// The arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    /// `[n, h, w, cin]`.
    pub x: Operand,
    /// `[kh, kw, cin / groups, cout]`.
    pub w: Weights,
    /// `[cout]`.
    pub bias: Option<Operand>,
    /// As `y`.
    pub residual: Option<Operand>,
    /// `[n, oh, ow, cout]`.
    pub y: Operand,
    /// Of `x`.
    pub pre: Activation,
    /// Of the whole.
    pub post: Activation,
}

/// What a forward pass may do besides [`Forward`]; only without groups.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Joined {
    /// Further terms of the same sums: an image `[n, oh, ow, channels]`, its weights `[channels, cout]`, and `channels`.
    pub beside: Option<(Operand, Weights, usize)>,
    /// Gets `y`; what the activation is taken of goes to [`Forward::y`].
    pub after: Option<Operand>,
    /// Whether the products are averaged over 2x2 pixels.
    pub pooled: bool,
}

/// `y = post(conv(pre(x), w) + bias + residual)`.
pub(crate) fn forward(precision: Precision, conv: Conv, f: Forward) -> GpuLaunch {
    forward_joined(precision, conv, f, Joined::default())
}

/// `y = post(pool(conv(pre(x), w) + x2 w2) + bias + residual)`.
pub(crate) fn forward_joined(
    precision: Precision,
    conv: Conv,
    f: Forward,
    joined: Joined,
) -> GpuLaunch {
    let aligned = conv.aligned() && joined.beside.is_none_or(|(_, _, c)| c % 4 == 0);
    let beside = joined.beside.map_or(0, |(_, _, channels)| channels);
    let with = [beside, usize::from(joined.pooled)];
    let form = if conv.direct() {
        Form::Direct
    } else {
        let tile = Tile::choose(conv.rows(joined.pooled), conv.channels()[1], aligned);
        let packed = f.w.bf16.is_some() && joined.beside.is_none_or(|(_, w, _)| w.bf16.is_some());
        let frame = (precision == Precision::Bf16 && packed)
            .then(|| Frame::forward(conv, joined.pooled, joined.beside.is_some()))
            .flatten();
        Form::choose(tile, frame.as_ref(), || {
            conv.site("conv2d_fprop", &with, precision)
        })
    };
    forward_by(form, precision, conv, f, joined)
}

/// As [`forward_joined`], in this form.
pub(super) fn forward_by(
    form: Form,
    precision: Precision,
    conv: Conv,
    f: Forward,
    joined: Joined,
) -> GpuLaunch {
    let (rows, columns) = (conv.rows(joined.pooled), conv.channels()[1]);
    let factors = |launch: GpuLaunch, read: fn(Weights) -> Operand| {
        (launch.operand(f.x).operand(read(f.w)))
            .operand_or_null(joined.beside.map(|(x, _, _)| x))
            .operand_or_null(joined.beside.map(|(_, w, _)| read(w)))
    };
    let epilogue = |launch: GpuLaunch| {
        (launch.operand_or_null(f.bias))
            .operand_or_null(f.residual)
            .operand(f.y)
            .operand_or_null(joined.after)
    };
    let beside = |launch: GpuLaunch| {
        launch
            .value(int(joined.beside.map_or(0, |(_, _, c)| c)))
            .value(i32::from(joined.pooled))
    };
    let launch = match form {
        Form::Direct => {
            assert!(
                joined.beside.is_none() && !joined.pooled,
                "only tiles have a second source or average: {conv:?}"
            );
            let launch = direct("fprop", rows * columns);
            epilogue(launch.operand(f.x).operand(f.w.exact)).value(conv)
        }
        Form::Tile(tile) => {
            let launch = (tile.launch("fprop", precision)).blocks(tile.blocks(rows, columns));
            beside(epilogue(factors(launch, |w| w.exact)).value(conv))
        }
        Form::Window(window) => {
            let frame = Frame::forward(conv, joined.pooled, joined.beside.is_some());
            let frame = frame.expect("chosen because it has a window");
            let (launch, cut) = window.launch("fprop", &frame);
            beside((epilogue(factors(launch, Weights::in_bf16)).value(frame.conv)).value(cut))
        }
    };
    launch.value(f.pre.code()).value(f.post.code())
}
