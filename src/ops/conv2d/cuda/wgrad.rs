//! Launches of the gradient of the weights, whose sums over the pixels are cut into parts.

use super::extents::{Conv, int};
use super::tile::{MULTIPROCESSORS, SHARE, THREADS_OF_ONE, Tile, direct};
use super::{Operand, Operands};
use crate::ops::activation::Activation;
use crate::program::gpu::{GpuKernel, GpuLaunch, Precision, THREADS, Tensor};
use crate::program::variants;

/// How a weight gradient's sum over `pixels`, for which one part has so many threads, is cut: the pixels of a part, and how many there are.
pub(super) fn parts(threads: usize, pixels: usize) -> (usize, usize) {
    let wanted = (MULTIPROCESSORS * THREADS_OF_ONE).div_ceil(threads.max(1));
    cut(wanted.min(pixels.div_ceil(SHARE)), pixels)
}

/// About `count` parts of whole steps of any precision: the pixels of a part, and how many there are.
fn cut(count: usize, pixels: usize) -> (usize, usize) {
    let share = pixels.div_ceil(count.max(1)).next_multiple_of(32).max(32);
    (share, pixels.div_ceil(share).max(1))
}

/// How a weight gradient is made: its tile, `None` for the direct form, and how the sum is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub tile: Option<Tile>,
    pub share: usize,
    pub parts: usize,
}

/// Most that the parts of a sum may take together in any variant, in elements, unless the rule takes more.
const MOST_PARTS: usize = 1 << 26;

impl Split {
    /// With the parts that the rule gives a tile.
    pub fn of(tile: Option<Tile>, conv: &Conv) -> Self {
        let [rows, columns] = conv.weights();
        let threads = match tile {
            None => (rows * columns).next_multiple_of(THREADS as usize),
            Some(tile) => tile.blocks(rows, columns) * tile.threads() as usize,
        };
        let (share, parts) = parts(threads, conv.y_pixels());
        Split { tile, share, parts }
    }

    /// The rule's.
    pub fn choose(conv: &Conv) -> Self {
        let [rows, columns] = conv.weights();
        let tile = || Tile::choose_split(rows, columns, conv.y_pixels(), conv.aligned());
        Split::of((!conv.direct()).then(tile), conv)
    }

    /// The rule's and others: of either tile, half, as many, twice and four times as many parts, and one.
    pub fn variants(self, conv: &Conv) -> Vec<Self> {
        let mut all = vec![self];
        let Some(Tile { any: false, .. }) = self.tile else {
            return all;
        };
        let [rows, columns] = conv.weights();
        for tile in [Tile::LARGE, Tile::SMALL] {
            let of = Split::of(Some(tile), conv);
            for wanted in [1, of.parts / 2, of.parts, 2 * of.parts, 4 * of.parts] {
                let (share, parts) = cut(wanted, conv.y_pixels());
                let variant = Split { share, parts, ..of };
                let fits = parts * rows * columns <= MOST_PARTS && parts <= 65_535;
                if fits && !all.contains(&variant) {
                    all.push(variant);
                }
            }
        }
        all
    }

    pub fn name(self) -> String {
        let tile = self.tile.map_or("direct".into(), Tile::name);
        format!("{tile}/{}", self.parts)
    }
}

/// The arguments of [`weight_gradient`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightGradient {
    /// `[n, h, w, cin]`.
    pub x: Operand,
    /// `[n, oh, ow, cout]`.
    pub dy: Operand,
    /// `[kh, kw, cin / groups, cout]`.
    pub dw: Operand,
    /// Of `x`.
    pub pre: Activation,
}

/// `dw[(tap, i), o] = sum over the pixels of pre(x) dy`; the workspace holds the parts of the sum, if there are several.
pub(crate) fn weight_gradient(precision: Precision, conv: Conv, w: WeightGradient) -> GpuKernel {
    let variants = Split::choose(&conv).variants(&conv);
    let site = || conv.site("conv2d_wgrad", &[], precision);
    let split = variants::choose(site, &variants, Split::name, 0);
    weight_gradient_by(split, precision, conv, w)
}

/// As [`weight_gradient`], by tiles or directly.
pub(super) fn weight_gradient_by(
    split: Split,
    precision: Precision,
    conv: Conv,
    w: WeightGradient,
) -> GpuKernel {
    let [rows, columns] = conv.weights();
    let count = rows * columns;
    let Split { tile, share, parts } = split;
    let (launch, blocks) = match tile {
        None => (direct("wgrad", count), count.div_ceil(THREADS as usize)),
        Some(tile) => (tile.launch("wgrad", precision), tile.blocks(rows, columns)),
    };
    let launch = launch.grid([blocks, 1, parts]);
    let to = if parts == 1 {
        w.dw
    } else {
        (Tensor::Workspace, 0)
    };
    let launch = (launch.operand(w.x).operand(w.dy).operand(to))
        .value(conv)
        .value(w.pre.code())
        .value(int(share));
    if parts == 1 {
        return launch.into();
    }
    let reduce = GpuLaunch::new("conv2d", "conv2d_wgrad_reduce_f32")
        .threads_for(count)
        .operand((Tensor::Workspace, 0))
        .operand(w.dw)
        .count(count)
        .count(parts);
    GpuKernel::new(vec![launch, reduce], parts * count)
}
