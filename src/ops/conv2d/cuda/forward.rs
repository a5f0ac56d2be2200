//! Launches of the forward pass.

use super::extents::{Conv, int};
use super::tile::{Tile, direct};
use super::{Operand, Operands};
use crate::ops::activation::Activation;
use crate::program::gpu::{GpuLaunch, Precision};

/// The arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    /// `[n, h, w, cin]`.
    pub x: Operand,
    /// `[kh, kw, cin / groups, cout]`.
    pub w: Operand,
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
    pub beside: Option<(Operand, Operand, usize)>,
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
    let tile = || {
        Tile::choose(conv.rows(joined.pooled), conv.channels()[1], aligned)
            .or_measured(|| conv.site("conv2d_fprop", &with, precision))
    };
    forward_by((!conv.direct()).then(tile), precision, conv, f, joined)
}

/// As [`forward_joined`], by tiles or directly.
pub(super) fn forward_by(
    tile: Option<Tile>,
    precision: Precision,
    conv: Conv,
    f: Forward,
    joined: Joined,
) -> GpuLaunch {
    let (rows, columns) = (conv.rows(joined.pooled), conv.channels()[1]);
    let epilogue = |launch: GpuLaunch| {
        (launch.operand_or_null(f.bias))
            .operand_or_null(f.residual)
            .operand(f.y)
            .operand_or_null(joined.after)
            .value(conv)
    };
    let launch = match tile {
        None => {
            assert!(
                joined.beside.is_none() && !joined.pooled,
                "only tiles have a second source or average: {conv:?}"
            );
            epilogue(direct("fprop", rows * columns).operand(f.x).operand(f.w))
        }
        Some(tile) => {
            let launch = (tile.launch("fprop", precision)).blocks(tile.blocks(rows, columns));
            let launch = (launch.operand(f.x).operand(f.w))
                .operand_or_null(joined.beside.map(|(x, _, _)| x))
                .operand_or_null(joined.beside.map(|(_, w, _)| w));
            epilogue(launch)
                .value(int(joined.beside.map_or(0, |(_, _, c)| c)))
                .value(i32::from(joined.pooled))
        }
    };
    launch.value(f.pre.code()).value(f.post.code())
}
