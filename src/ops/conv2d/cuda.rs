//! Launches of `kernels/conv2d.cu`, `conv2d_tf32.cu` and `conv2d_bf16.cu`; [`crate::ops::linear`] and [`crate::ops::mbconv`] multiply
//! their matrices with them too.

use bytemuck::{Pod, Zeroable};

use super::gradients::{Dgrad, Pack, Wgrad};
use super::joined::JoinedDgrad;
use super::{Fprop, Geometry};
use crate::ops::activation::Activation;
use crate::program::gpu::{Arg, GpuContext, GpuKernel, GpuLaunch, Precision, THREADS, Tensor};
use crate::program::variants::{self, Site};
use crate::tensor::Shape;

/// A tensor and the element of it where an operand begins; a multiple of four, as kernels move four numbers at once.
pub(crate) type Operand = (Tensor, usize);

/// The extents of a convolution as kernels take them: `Conv` in `kernels/conv2d.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Conv {
    n: i32,
    h: i32,
    w: i32,
    cin: i32,
    oh: i32,
    ow: i32,
    cout: i32,
    kh: i32,
    kw: i32,
    stride: i32,
    dilation: i32,
    pad_top: i32,
    pad_left: i32,
    groups: i32,
}

/// An extent. Tensors have fewer than 2^31 elements, and so has each of their extents.
fn int(extent: usize) -> i32 {
    i32::try_from(extent).expect("extents fit 31 bits")
}

impl Conv {
    pub(in crate::ops) fn new(g: Geometry, x: Shape, w: Shape, y: Shape) -> Self {
        Conv {
            n: int(x[0]),
            h: int(x[1]),
            w: int(x[2]),
            cin: int(x[3]),
            oh: int(y[1]),
            ow: int(y[2]),
            cout: int(y[3]),
            kh: int(w[0]),
            kw: int(w[1]),
            stride: int(g.stride),
            dilation: int(g.dilation),
            pad_top: g.pad[0][0],
            pad_left: g.pad[1][0],
            groups: int(g.groups),
        }
    }

    /// `y = x w` of matrices `[rows, inputs]` and `[inputs, outputs]`: a 1x1 convolution of images of one pixel.
    pub(crate) fn matrix(rows: usize, inputs: usize, outputs: usize) -> Self {
        Conv {
            n: int(rows),
            cin: int(inputs),
            cout: int(outputs),
            h: 1,
            w: 1,
            oh: 1,
            ow: 1,
            kh: 1,
            kw: 1,
            stride: 1,
            dilation: 1,
            pad_top: 0,
            pad_left: 0,
            groups: 1,
        }
    }

    fn channels(&self) -> [usize; 2] {
        [self.cin as usize, self.cout as usize]
    }

    fn taps(&self) -> usize {
        self.kh as usize * self.kw as usize
    }

    fn x_pixels(&self) -> usize {
        self.n as usize * self.h as usize * self.w as usize
    }

    fn y_pixels(&self) -> usize {
        self.n as usize * self.oh as usize * self.ow as usize
    }

    /// Pixels of `x` in the first and largest phase of a gradient; see conv2d.cuh.
    fn phase_rows(&self) -> usize {
        let [h, w] = [self.h, self.w].map(|e| (e as usize).div_ceil(self.stride as usize));
        self.n as usize * h * w
    }

    /// Pixels of `y` that products are made for, those that pooling drops left out.
    fn rows(&self, pooled: bool) -> usize {
        let extent = |e: i32| {
            if pooled {
                e as usize / 2 * 2
            } else {
                e as usize
            }
        };
        self.n as usize * extent(self.oh) * extent(self.ow)
    }

    /// Whether the rows of all tensors begin on 16 bytes.
    fn aligned(&self) -> bool {
        self.cin % 4 == 0 && self.cout % 4 == 0
    }

    /// Rows and columns of `dw` as a matrix.
    fn weights(&self) -> [usize; 2] {
        [
            self.taps() * (self.cin / self.groups) as usize,
            self.cout as usize,
        ]
    }

    /// Where a pass has a choice of kernels; `with` is what it does besides.
    fn site(&self, op: &'static str, with: &[usize], precision: Precision) -> Site {
        let extents: &[i32; 14] = bytemuck::cast_ref(self);
        // Padding can be negative; as a key its bits do as well.
        let shape = [&extents.map(|e| e as u32 as usize), with].concat();
        Site::new(op, shape, precision)
    }

    /// Whether the products must be made one by one: groups, nothing to multiply, or more phases than a grid has layers.
    fn direct(&self) -> bool {
        self.groups > 1 || self.cin == 0 || self.cout == 0 || self.stride > 255
    }
}

/// The tile of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    m: usize,
    n: usize,
    /// One number at a time, where channels are no multiple of four.
    any: bool,
}

/// Multiprocessors that a launch should occupy: those of an H200. On a smaller GPU the tiles are merely smaller than they could be.
const MULTIPROCESSORS: usize = 132;

/// Threads that share a multiprocessor: the kernels' launch bounds.
const THREADS_OF_ONE: usize = 512;

impl Tile {
    const LARGE: Tile = Tile::new(128, 128, false);
    const NARROW: Tile = Tile::new(128, 32, false);
    const SMALL: Tile = Tile::new(64, 64, false);
    const ANY: Tile = Tile::new(64, 64, true);

    /// Those that any product with aligned rows can take.
    const ALIGNED: [Tile; 3] = [Tile::LARGE, Tile::NARROW, Tile::SMALL];

    const fn new(m: usize, n: usize, any: bool) -> Self {
        Tile { m, n, any }
    }

    fn name(self) -> String {
        format!("{}x{}", self.m, self.n)
    }

    /// This tile, which the rule takes, or the one that was measured to be faster.
    fn or_measured(self, site: impl FnOnce() -> Site) -> Self {
        match Tile::ALIGNED.iter().position(|tile| *tile == self) {
            Some(rule) => variants::choose(site, &Tile::ALIGNED, Tile::name, rule),
            None => self,
        }
    }

    /// For a product of `rows` x `columns`; `aligned` if all rows of its factors and result begin on 16 bytes.
    fn choose(rows: usize, columns: usize, aligned: bool) -> Self {
        let large = Tile::LARGE;
        if !aligned {
            Tile::ANY
        } else if columns <= Tile::NARROW.n {
            Tile::NARROW
        } else if large.blocks(rows, columns) >= MULTIPROCESSORS && large.wastes_little(columns) {
            large
        } else {
            Tile::SMALL
        }
    }

    /// For the gradient of weights, whose third dimension is shared among blocks until there are enough of them.
    fn choose_split(rows: usize, columns: usize, depth: usize, aligned: bool) -> Self {
        let large = Tile::LARGE;
        let filled = large.blocks(rows, columns) * depth.div_ceil(SHARE) >= MULTIPROCESSORS;
        match aligned {
            false => Tile::ANY,
            true if filled && large.wastes_little(rows) && large.wastes_little(columns) => large,
            true => Tile::SMALL,
        }
    }

    /// Whether tiles cover at most a quarter more than there is.
    fn wastes_little(&self, extent: usize) -> bool {
        4 * extent.next_multiple_of(self.n) <= 5 * extent
    }

    fn blocks(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.m) * columns.div_ceil(self.n)
    }

    /// Warps make 32x32 of it, or 64x32 of the largest.
    fn threads(&self) -> u32 {
        if self.n == 128 { 256 } else { 128 }
    }

    /// Dynamic shared memory: the stages of the pipeline and, in their place, the sums (`Tile` in `kernels/tiles.cuh`).
    fn shared(&self, precision: Precision, transposed: bool) -> usize {
        let (bytes, depth, pad, stages) = match precision {
            Precision::F32 | Precision::Tf32 => (4, 16, 4, 3),
            Precision::Bf16 => (2, 32, 8, 2),
        };
        let a = match transposed {
            false => self.m * (depth + pad),
            true => depth * (self.m + 8),
        };
        let b = depth * (self.n + 8);
        (stages * (a + b) * bytes).max(self.m * (self.n + 8) * 4)
    }

    fn launch(&self, pass: &str, precision: Precision) -> GpuLaunch {
        let module = match precision {
            Precision::F32 => "conv2d",
            Precision::Tf32 => "conv2d_tf32",
            Precision::Bf16 => "conv2d_bf16",
        };
        let any = if self.any { "_any" } else { "" };
        let (precision_name, Tile { m, n, .. }) = (precision.suffix(), self);
        GpuLaunch::new(
            module,
            format!("conv2d_{pass}_{precision_name}_{m}x{n}{any}"),
        )
        .block(self.threads())
        .shared(self.shared(precision, pass == "wgrad"))
    }
}

/// The direct form, a thread for each of `count` elements; for what cannot be tiled.
fn direct(pass: &str, count: usize) -> GpuLaunch {
    GpuLaunch::new("conv2d", format!("conv2d_{pass}_f32_direct")).threads_for(count)
}

trait Operands: Sized {
    fn operand(self, operand: Operand) -> Self;
    fn operand_or_null(self, operand: Option<Operand>) -> Self;
}

impl Operands for GpuLaunch {
    fn operand(self, (tensor, offset): Operand) -> Self {
        self.address(tensor, offset)
    }

    fn operand_or_null(mut self, operand: Option<Operand>) -> Self {
        match operand {
            Some(operand) => self.operand(operand),
            None => {
                self.args.push(Arg::Null);
                self
            }
        }
    }
}

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
fn forward_by(
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

/// The arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    /// `[n, oh, ow, cout]`.
    pub dy: Operand,
    /// The weights as [`pack`] leaves them.
    pub packed: Operand,
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
    pub beside: Option<(Operand, Operand)>,
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
    let tile = || {
        Tile::choose(conv.phase_rows(), conv.channels()[0], aligned)
            .or_measured(|| conv.site("conv2d_dgrad", &with.map(usize::from), precision))
    };
    backward_by((!conv.direct()).then(tile), precision, conv, b, joined)
}

/// As [`backward_joined`], by tiles or directly.
fn backward_by(
    tile: Option<Tile>,
    precision: Precision,
    conv: Conv,
    b: Backward,
    joined: JoinedBackward,
) -> GpuLaunch {
    let columns = conv.channels()[0];
    let halved = u32::from(joined.halved) + 2 * u32::from(joined.beside_halved);
    assert!(halved < 3, "the means of one source alone are undone");
    let launch = match tile {
        None => {
            let plain = joined.beside.is_none() && joined.split.is_none() && halved == 0;
            assert!(
                plain && joined.residual.is_none(),
                "only tiles have a second source, a split or averages: {conv:?}"
            );
            (direct("dgrad", conv.x_pixels() * columns).operand(b.dy))
                .operand(b.packed)
                .operand_or_null(b.x)
                .operand_or_null(joined.start)
                .operand(b.dx)
                .value(conv)
        }
        Some(tile) => {
            let phases = (conv.stride * conv.stride) as usize;
            let blocks = tile.blocks(conv.phase_rows(), columns);
            (tile.launch("dgrad", precision).grid([blocks, 1, phases]))
                .operand(b.dy)
                .operand(b.packed)
                .operand_or_null(joined.beside.map(|(dy, _)| dy))
                .operand_or_null(joined.beside.map(|(_, packed)| packed))
                .operand_or_null(b.x)
                .operand_or_null(joined.residual)
                .operand_or_null(joined.start)
                .operand(b.dx)
                .operand_or_null(joined.split.map(|(_, dx)| dx))
                .value(conv)
                .value(int(joined.split.map_or(columns, |(at, _)| at)))
                .value(halved)
        }
    };
    launch.value(b.slope.code())
}

/// Pixels that a part of a weight gradient has at least: fewer are not worth the bytes of another part.
const SHARE: usize = 512;

/// How a weight gradient's sum over `pixels`, for which one part has so many threads, is cut: the pixels of a part, and how many there are.
fn parts(threads: usize, pixels: usize) -> (usize, usize) {
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
struct Split {
    tile: Option<Tile>,
    share: usize,
    parts: usize,
}

/// Most that the parts of a sum may take together in any variant, in elements, unless the rule takes more.
const MOST_PARTS: usize = 1 << 26;

impl Split {
    /// With the parts that the rule gives a tile.
    fn of(tile: Option<Tile>, conv: &Conv) -> Self {
        let [rows, columns] = conv.weights();
        let threads = match tile {
            None => (rows * columns).next_multiple_of(THREADS as usize),
            Some(tile) => tile.blocks(rows, columns) * tile.threads() as usize,
        };
        let (share, parts) = parts(threads, conv.y_pixels());
        Split { tile, share, parts }
    }

    /// The rule's.
    fn choose(conv: &Conv) -> Self {
        let [rows, columns] = conv.weights();
        let tile = || Tile::choose_split(rows, columns, conv.y_pixels(), conv.aligned());
        Split::of((!conv.direct()).then(tile), conv)
    }

    /// The rule's and others: of either tile, half, as many, twice and four times as many parts, and one.
    fn variants(self, conv: &Conv) -> Vec<Self> {
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

    fn name(self) -> String {
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
fn weight_gradient_by(
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

fn input(index: usize) -> Operand {
    (Tensor::Input(index), 0)
}

const OUTPUT: Operand = (Tensor::Output(0), 0);

pub(super) fn fprop(op: &Fprop, cx: GpuContext<'_>) -> GpuKernel {
    let [x, w] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::new(op.geometry, x, w, cx.shapes.outputs[0]);
    let arguments = Forward {
        x: input(0),
        w: input(1),
        bias: op.bias_index().map(input),
        residual: op.residual_index().map(input),
        y: OUTPUT,
        pre: op.pre,
        post: op.post,
    };
    let joined = Joined {
        after: (op.post != Activation::None).then_some((Tensor::Output(1), 0)),
        ..Joined::default()
    };
    forward_joined(cx.precision, conv, arguments, joined).into()
}

/// Every tap transposed, so that [`dgrad`] reads rows; with groups, whose kernel reads what `fprop` does, as they are.
pub(super) fn pack(op: &Pack, cx: GpuContext<'_>) -> GpuKernel {
    let (w, room) = (cx.shapes.inputs[0], cx.shapes.outputs[0].len());
    let matrices = match op.groups {
        1 => [w[0] * w[1], w[2], w[3]],
        _ => [1, 1, w.len()],
    };
    transpose(input(0), OUTPUT, matrices, room).into()
}

pub(super) fn dgrad(op: &Dgrad, cx: GpuContext<'_>) -> GpuKernel {
    let conv = Conv::new(op.geometry, op.image, op.weights, cx.shapes.inputs[0]);
    let arguments = Backward {
        dy: input(0),
        packed: input(1),
        x: op.slope_index().map(input),
        dx: OUTPUT,
        slope: op.pre,
    };
    let joined = JoinedBackward {
        start: op.start_index().map(input),
        ..JoinedBackward::default()
    };
    backward_joined(cx.precision, conv, arguments, joined).into()
}

pub(super) fn joined(cx: GpuContext<'_>) -> GpuKernel {
    let [x, x2, w] = [0, 1, 2].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::matrix(x.rows(), x.last(), w.last());
    let arguments = Forward {
        x: input(0),
        w: input(2),
        bias: Some(input(3)),
        residual: None,
        y: OUTPUT,
        pre: Activation::None,
        post: Activation::None,
    };
    let second = (Tensor::Input(2), x.last() * w.last());
    let joined = Joined {
        beside: Some((input(1), second, x2.last())),
        ..Joined::default()
    };
    forward_joined(cx.precision, conv, arguments, joined).into()
}

/// Transposed as one matrix: one product makes both gradients.
pub(super) fn joined_pack(cx: GpuContext<'_>) -> GpuKernel {
    let (w, room) = (cx.shapes.inputs[0], cx.shapes.outputs[0].len());
    transpose(input(0), OUTPUT, [1, w[2], w[3]], room).into()
}

pub(super) fn joined_dgrad(op: &JoinedDgrad, cx: GpuContext<'_>) -> GpuKernel {
    let conv = Conv::matrix(cx.shapes.inputs[0].rows(), op.weights[2], op.weights.last());
    let arguments = Backward {
        dy: input(0),
        packed: input(1),
        x: None,
        dx: OUTPUT,
        slope: Activation::None,
    };
    let joined = JoinedBackward {
        start: op.start.then(|| input(2)),
        split: Some((op.split, (Tensor::Output(1), 0))),
        ..JoinedBackward::default()
    };
    backward_joined(cx.precision, conv, arguments, joined).into()
}

pub(super) fn wgrad(op: &Wgrad, cx: GpuContext<'_>) -> GpuKernel {
    let [x, dy] = [0, 1].map(|i| cx.shapes.inputs[i]);
    let conv = Conv::new(op.geometry, x, op.weights, dy);
    let arguments = WeightGradient {
        x: input(0),
        dy: input(1),
        dw: OUTPUT,
        pre: op.pre,
    };
    weight_gradient(cx.precision, conv, arguments)
}

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;
