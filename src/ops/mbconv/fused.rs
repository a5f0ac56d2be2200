//! Launches of `kernels/mbconv_bf16.cu`, its form for compute capability 9.0 `mbconv_sm90a.cu`, and `mbconv_up_bf16.cu`: the whole bottleneck in
//! one kernel, its hidden tensors on the chip.

use bytemuck::{Pod, Zeroable};

use super::{Channels, Fprop, sm90a};
use crate::ops::conv2d::cuda::Operand;
use crate::program::gpu::{GpuContext, GpuLaunch, Kept, Precision, Tensor};
use crate::tensor::Shape;

/// As in the kernels: lines of a tile, window, hidden channels of a slice, elements between rows.
pub(super) const ROWS: usize = 8;
pub(super) const COLUMNS: usize = 16;
pub(super) const TILE: usize = ROWS * COLUMNS;
pub(super) const WINDOW: usize = 5;
pub(super) const HALO: usize = WINDOW / 2;
/// Lines of a tile with all that its windows reach.
pub(super) const PADDED_ROWS: usize = ROWS + 2 * HALO;
const SLICE: usize = 32;
const PAD: usize = 8;
/// Words of a channel's taps, of its padded tile and of its tile alone.
pub(super) const TABLE: usize = 36;
const PLANE: usize = 152;
const OWN_PLANE: usize = TILE / 2 + 4;
/// Pixels of a patch of a tile's surroundings, patches that warps make beside the tile, and that others make at a time.
const PATCH: usize = 8;
const BESIDE: usize = 4;
const MORE: usize = 3;
/// Columns of the sums that the kernels are compiled for.
const WIDTHS: [usize; 3] = [64, 128, 256];
/// As in the kernels that double the resolution: lines of `x` in a tile, columns of the skip's sums, pixels of `y` that a pixel of `x` stands
/// for, and the taps of the window as the pixels of `x` see it.
const SIDE: usize = 8;
const SKIP: usize = 128;
const PLANES: usize = 4;
pub(super) const TAPS: usize = 36;
/// Bytes between the slopes that their blocks have of neighbouring pixels.
const KEPT: usize = SLICE + 16;

/// As the kernels take it.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Cell {
    h: i32,
    w: i32,
    ci: i32,
    co: i32,
    hidden: i32,
    rows: i32,
    columns: i32,
    near_room: i32,
    alpha: f32,
    units: i32,
    slices: i32,
}

/// Squeeze-and-excite around the input gradient, as the kernel's head has it: `partial` holds `slices` sums of `dy y`.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Around {
    pub partial: Operand,
    pub slices: usize,
    pub w0: Operand,
    pub w2: Operand,
    pub s: Operand,
    pub g: Operand,
    pub alpha: f64,
    pub units: usize,
}

/// What the forward kernel makes beside `y`, where there is a place for it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::ops) struct Beside {
    /// Sums of `y` over slices of an image: `[slices, n, co]`.
    pub partial: Option<Operand>,
    /// Where the resolution doubles: `v [ci, co]` and the product `x v`.
    pub skip: Option<[Operand; 2]>,
}

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Direction {
    /// `y` from `(x, packed)`.
    Fprop,
    /// `dx` from `(dy, packed)` and what the forward kernel kept.
    Dgrad,
}

/// A launch that fits the GPU.
pub(in crate::ops) struct Fused {
    cell: Cell,
    width: usize,
    upsample: bool,
    tiles: usize,
    blocks: usize,
    shared: usize,
    /// Numbers that a gate and its gradient can have.
    gate: usize,
    /// What the forward kernel can keep for the gradient: elements of f32 of a tensor, and how many of them.
    hidden: usize,
    kept: usize,
    /// Whether the kernels are those of compute capability 9.0: in both directions or neither.
    sm_90a: bool,
}

/// Whether the kernels can take such channels at all; their weights are then packed in bf16 as well.
pub(super) fn takes(c: &Channels) -> bool {
    let fits = |channels: usize| channels.is_multiple_of(16) && channels <= WIDTHS[2];
    let enlarges = !c.upsample || c.ci.is_multiple_of(SLICE) && c.co <= SKIP;
    c.k == WINDOW && fits(c.ci) && fits(c.co) && c.hidden.is_multiple_of(SLICE) && enlarges
}

/// How a kernel lies on an image: the lines of a tile, and elements of bf16 that a block has in shared memory, the window apart.
struct Form {
    rows: usize,
    columns: usize,
    near: usize,
    width: usize,
    elements: usize,
    /// Numbers of a channel of a slice besides.
    window: usize,
    /// Numbers for which there is room where a gate is made.
    gate: usize,
    /// Tensors that are kept for the gradient, and bytes that they have of a hidden channel of an image.
    kept: usize,
    kept_bytes: usize,
}

impl Form {
    /// At one resolution.
    fn same(c: &Channels, [h, w]: [usize; 2], direction: Direction) -> Option<Self> {
        let near = TILE + PATCH * patches([h, w]);
        let stride = SLICE + PAD;
        let sums = match direction {
            Direction::Fprop => c.co,
            Direction::Dgrad => c.ci,
        };
        let width = WIDTHS.into_iter().find(|n| *n >= sums)?;
        // A slice of the tile with what is around it, and alone.
        let planes = 2 * SLICE * (PLANE + OWN_PLANE);
        // Two slopes have the room of one element.
        let elements = match direction {
            Direction::Fprop => {
                let slopes = SLICE * TILE / 2;
                near * (c.ci + PAD) + planes + slopes + c.ci * stride + SLICE * (width + PAD)
            }
            Direction::Dgrad => {
                let columns = if w > COLUMNS { 2 * COLUMNS } else { COLUMNS };
                let slopes = SLICE * (TILE / 2 + PADDED_ROWS / 2 * columns + PAD);
                near * (c.co + PAD) + planes + slopes + width * stride + SLICE * (c.co + PAD)
            }
        };
        Some(Form {
            rows: ROWS,
            columns: COLUMNS,
            near,
            width,
            elements,
            window: TABLE + 2,
            gate: SLICE * PLANE,
            kept: 2,
            // Slopes in 8 bits, in pairs of rows and eights of columns.
            kept_bytes: h.next_multiple_of(2) * w.next_multiple_of(8),
        })
    }

    /// To twice the resolution.
    fn up(c: &Channels, [h, w]: [usize; 2], direction: Direction) -> Option<Self> {
        let around = widest(h, SIDE, 1) * widest(w, SIDE, 1);
        let (tile, stride) = (SIDE * SIDE, SLICE + PAD);
        // Two m-tiles at a time forward, three backward.
        let (widths, sums, near) = match direction {
            Direction::Fprop => ([64, 128], c.co, around.next_multiple_of(32)),
            Direction::Dgrad => ([128, 256], c.ci, (PLANES * around).next_multiple_of(48)),
        };
        let width = widths.into_iter().find(|n| *n >= sums)?;
        let elements = match direction {
            Direction::Fprop => {
                let slopes = (1 + PLANES) * tile * KEPT / 2;
                let rows = near + PLANES * tile + c.ci;
                near * (c.ci + PAD) + rows * stride + slopes + SLICE * (SKIP + PAD)
            }
            Direction::Dgrad => {
                let rows = PLANES * (SIDE + 2) * (SIDE + 2) + tile + width;
                // And for each pixel a number of 16 bits: where it stands.
                let beside = tile * KEPT / 2 + near;
                near * (c.co + PAD) + rows * stride + SLICE * (c.co + PAD) + beside
            }
        };
        Some(Form {
            rows: SIDE,
            columns: SIDE,
            near,
            width,
            elements,
            window: TAPS + 2,
            gate: tile * (SLICE + PAD) / 2,
            // Slopes in 8 bits at the low resolution, and of each plane of the high one.
            kept: 1 + PLANES,
            kept_bytes: h * w,
        })
    }
}

/// The most lines that any tile of an image has with its neighbourhood of `distance`, which ends where the image ends.
pub(super) fn widest(extent: usize, tile: usize, distance: usize) -> usize {
    let lines = |from: usize| (from + tile + distance).min(extent) - from.saturating_sub(distance);
    (0..extent).step_by(tile).map(lines).max().unwrap_or(0)
}

/// Patches of a tile's surroundings that a block has room for.
fn patches([h, w]: [usize; 2]) -> usize {
    // A tile has neighbours on two sides where there are three in a row.
    let neighbours = |extent: usize, tile: usize| (extent.div_ceil(tile) - 1).min(2);
    let above = neighbours(h, ROWS) * HALO * COLUMNS;
    let beside = neighbours(w, COLUMNS) * HALO * PADDED_ROWS;
    let most = (above + beside) / PATCH;
    BESIDE + most.saturating_sub(BESIDE).next_multiple_of(MORE)
}

/// The launch of the gradient, where there is one and the forward kernel kept what it reads.
pub(in crate::ops) fn dgrad(op: &Fprop, cx: GpuContext<'_>, x: Shape) -> Option<Fused> {
    let forward = Fused::new(op, cx, x, Direction::Fprop).is_some();
    let kept = forward && cx.kept;
    kept.then(|| Fused::new(op, cx, x, Direction::Dgrad))?
}

impl Fused {
    /// The launch for an input of shape `x`, where precision, channels and shared memory allow one.
    pub fn new(op: &Fprop, cx: GpuContext<'_>, x: Shape, direction: Direction) -> Option<Self> {
        let c = op.channels;
        if cx.precision != Precision::Bf16 || !takes(&c) {
            return None;
        }
        let (h, w) = (x[1], x[2]);
        let form = match c.upsample {
            false => Form::same(&c, [h, w], direction)?,
            true => Form::up(&c, [h, w], direction)?,
        };
        let (rows, columns) = (form.rows, form.columns);
        let nine = cx.sm_90a.then(|| sm90a::form(&c, [h, w], cx.shared));
        let nine = nine.flatten();
        let (near, shared, bytes, gate) = match nine {
            Some(form) => (form.near, form.shared, form.kept_bytes, sm90a::GATE),
            None => {
                let window = form.window * SLICE * size_of::<f32>();
                let shared = window + form.elements * size_of::<u16>();
                (form.near, shared, form.kept_bytes, form.gate)
            }
        };
        let hidden = x[0] * c.hidden * bytes;
        let int = |n: usize| i32::try_from(n).expect("extents fit 31 bits");
        let tiles = h.div_ceil(rows) * w.div_ceil(columns);
        // The kernels count what is kept in 32 bits.
        let fits = shared <= cx.shared && i32::try_from(form.kept * hidden).is_ok();
        fits.then(|| Fused {
            cell: Cell {
                h: int(h),
                w: int(w),
                ci: int(c.ci),
                co: int(c.co),
                hidden: int(c.hidden),
                rows: int(rows),
                columns: int(columns),
                near_room: int(near),
                alpha: 0.0,
                units: 0,
                slices: 0,
            },
            width: form.width,
            upsample: c.upsample,
            tiles,
            blocks: x[0] * tiles,
            shared,
            gate,
            hidden: hidden / size_of::<f32>(),
            kept: form.kept,
            sm_90a: nine.is_some(),
        })
    }

    /// Slices of the partial sums that the forward kernel leaves.
    pub fn slices(&self) -> usize {
        let warps_down = if self.upsample { 4 } else { 2 };
        warps_down * self.tiles
    }

    /// The room between the forward kernel and its gradient, beside `x` and the packed weights.
    pub fn kept(&self, beside: [Tensor; 2], fills: bool) -> Kept {
        Kept {
            beside,
            len: self.kept * self.hidden,
            fills,
        }
    }

    fn begin(&self, name: &str) -> GpuLaunch {
        let (module, name) = match (self.sm_90a, self.upsample) {
            (true, _) => ("mbconv_sm90a", format!("mbconv_{name}_sm90a")),
            (false, false) => ("mbconv_bf16", format!("mbconv_{name}_bf16")),
            (false, true) => ("mbconv_up_bf16", format!("mbconv_up_{name}_bf16")),
        };
        let launch = GpuLaunch::new(module, format!("{name}_n{}", self.width)).shared(self.shared);
        match self.sm_90a {
            true => sm90a::whole_clusters(launch, self.blocks),
            false => launch.blocks(self.blocks),
        }
    }

    /// With the last arguments: the cell, and where clusters may be filled up how many blocks there are.
    fn end(&self, launch: GpuLaunch, cell: Cell) -> GpuLaunch {
        let launch = launch.value(cell);
        match self.sm_90a {
            true => launch.count(self.blocks),
            false => launch,
        }
    }

    /// `y` from `x` and the weights in `packed`, and what is made beside it.
    pub fn fprop(
        &self,
        op: &Fprop,
        packed: Tensor,
        x: Operand,
        y: Operand,
        beside: Beside,
    ) -> GpuLaunch {
        let at = super::cuda::Layout::new(&op.channels);
        let all = [
            at.w1_bf16,
            at.b1,
            self.window(&at, Direction::Fprop),
            at.b_dw,
            at.w2_bf16,
            at.b2,
        ];
        let weights = match self.sm_90a {
            true => &[at.slices, at.b2][..],
            false => &all,
        };
        let launch = self.begin("fprop").address(x.0, x.1);
        let launch = (weights.iter()).fold(launch, |l, at| l.address(packed, *at));
        let [v, skip] = [0, 1].map(|i| beside.skip.map(|skip| skip[i]));
        let launch = match self.upsample {
            false => launch.address(y.0, y.1),
            true => optional(optional(launch, v).address(y.0, y.1), skip),
        };
        let launch = optional(self.keeping(launch), beside.partial);
        self.end(launch, self.cell)
    }

    /// With the addresses of what is kept: slopes of either swish.
    fn keeping(&self, launch: GpuLaunch) -> GpuLaunch {
        (0..2).fold(launch, |l, i| l.address(Tensor::Kept, i * self.hidden))
    }

    /// Where the window stands that the kernels read.
    fn window(&self, at: &super::cuda::Layout, direction: Direction) -> usize {
        match direction {
            _ if self.upsample => at.taps,
            Direction::Fprop => at.tables[0],
            Direction::Dgrad => at.tables[1],
        }
    }

    /// `dx` from `dy`, what was kept, and the weights; with squeeze-and-excite around it, and `v` where the resolution doubles, of the
    /// whole cell.
    pub fn dgrad(
        &self,
        op: &Fprop,
        packed: Tensor,
        [dy, dx]: [Operand; 2],
        around: Option<Around>,
        v: Option<Operand>,
    ) -> GpuLaunch {
        let at = super::cuda::Layout::new(&op.channels);
        let window = self.window(&at, Direction::Dgrad);
        let weights = match self.sm_90a {
            true => vec![at.slices],
            false => vec![at.w1_bf16, window, at.w2_bf16],
        };
        let operands = |launch: GpuLaunch, operands: &[Operand]| {
            (operands.iter()).fold(launch, |l, (tensor, at)| l.address(*tensor, *at))
        };
        let launch = self.keeping(operands(self.begin("dgrad"), &[dy]));
        let launch = (weights.into_iter()).fold(launch, |l, at| l.address(packed, at));
        let launch = if self.upsample {
            optional(launch, v)
        } else {
            launch
        };
        let launch = operands(launch, &[dx]);
        match around {
            Some(a) => {
                let int = |n: usize| i32::try_from(n).expect("extents fit 31 bits");
                let cell = Cell {
                    alpha: a.alpha as f32,
                    units: int(a.units),
                    slices: int(a.slices),
                    ..self.cell
                };
                let launch = operands(launch, &[a.partial, a.w0, a.w2, a.s, a.g]);
                self.end(launch, cell)
            }
            None => self.end((0..5).fold(launch, |l, _| l.null()), self.cell),
        }
    }

    /// Whether the gradient's kernel has room for a gate of so many hidden units.
    pub fn takes_units(&self, units: usize) -> bool {
        2 * self.cell.co as usize + units <= self.gate
    }
}

/// With the address of an operand, or null where there is none.
fn optional(launch: GpuLaunch, operand: Option<Operand>) -> GpuLaunch {
    match operand {
        Some((tensor, at)) => launch.address(tensor, at),
        None => launch.null(),
    }
}

/// The launches that round `w1` and `w2` into the packed tensor, and make the window's taps what the kernels take.
pub(super) fn pack(c: &Channels, at: &super::cuda::Layout) -> Vec<GpuLaunch> {
    // At one resolution an expansion gives half of what is before its swish: tanh takes that, and a half is exact.
    let half = if c.upsample { 1.0f32 } else { 0.5 };
    // (input, where to, numbers, factor)
    let matrices = [
        (0, at.w1_bf16, c.ci * c.hidden, half),
        (4, at.w2_bf16, c.hidden * c.co, 1.0),
    ];
    let launch = |(input, to, len, factor): (usize, usize, usize, f32)| {
        GpuLaunch::new("mbconv_bf16", "mbconv_pack_bf16")
            .threads_for(len / 8)
            .input(input)
            .address(Tensor::Output(0), to)
            .value(factor)
            .count(len / 8)
    };
    let window = match c.upsample {
        true => GpuLaunch::new("mbconv_up_bf16", "mbconv_up_taps_f32")
            .threads_for(TAPS * c.hidden)
            .input(2)
            .address(Tensor::Output(0), at.taps)
            .count(c.hidden),
        false => GpuLaunch::new("mbconv_bf16", "mbconv_tables_bf16")
            .threads_for(TABLE * c.hidden)
            .input(2)
            .address(Tensor::Output(0), at.tables[0])
            .address(Tensor::Output(0), at.tables[1])
            .count(c.hidden),
    };
    let matrices = matrices.into_iter().map(launch);
    matrices.chain([window]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Shapes;
    use crate::program::gpu::Narrow;

    const H200: usize = 227 << 10;
    const A100: usize = 163 << 10;

    fn fused(x: [usize; 4], shared: usize, direction: Direction) -> Option<Fused> {
        let channels = Channels {
            ci: x[3],
            hidden: 6 * x[3],
            k: 5,
            co: x[3],
            upsample: false,
        };
        of(channels, x, shared, direction)
    }

    fn of(channels: Channels, x: [usize; 4], shared: usize, direction: Direction) -> Option<Fused> {
        let shapes = Shapes {
            inputs: &[],
            outputs: &[],
            updates: &[],
        };
        let cx = GpuContext {
            shapes,
            precision: Precision::Bf16,
            shared,
            sm_90a: false,
            kept: true,
            narrow: Narrow::NONE,
        };
        let op = Fprop { channels };
        Fused::new(&op, cx, Shape::new(&x), direction)
    }

    #[test]
    fn the_published_cell_is_two_tiles_an_image_and_fits_an_a100() {
        let forward = fused([64, 16, 16, 256], H200, Direction::Fprop).expect("fits");
        assert_eq!((forward.blocks, forward.width), (128, 256));
        assert!(fused([64, 16, 16, 256], A100, Direction::Fprop).is_some());
        let backward = fused([64, 16, 16, 256], H200, Direction::Dgrad).expect("fits");
        assert_eq!(backward.blocks, 128);
        assert!(fused([64, 16, 16, 256], A100, Direction::Dgrad).is_some());
        let kept = |fused: &Fused| fused.kept([Tensor::Input(0); 2], true).len;
        // The slopes of either swish.
        assert_eq!(kept(&backward), 2 * 64 * 16 * 16 * 1536 / 4);
    }

    #[test]
    fn the_published_cell_that_doubles_the_resolution_fits_an_a100() {
        let channels = Channels {
            ci: 256,
            hidden: 768,
            k: 5,
            co: 128,
            upsample: true,
        };
        let up = |direction| of(channels, [64, 16, 16, 256], A100, direction).expect("fits");
        let (forward, backward) = (up(Direction::Fprop), up(Direction::Dgrad));
        assert_eq!(
            (forward.blocks, forward.width, forward.slices()),
            (256, 128, 16)
        );
        assert_eq!((backward.blocks, backward.width), (256, 256));
        // 9x9 pixels around a corner of the image, and four times as many of y.
        assert_eq!((forward.cell.near_room, backward.cell.near_room), (96, 336));
        // Slopes of 8 bits: at the low resolution, and of four planes.
        assert_eq!((forward.kept, forward.hidden), (5, 64 * 16 * 16 * 768 / 4));
    }

    #[test]
    fn neighbourhoods_end_with_the_image() {
        // One tile, two tiles, three tiles: only the middle one of three has neighbours on both sides.
        assert_eq!([8, 16, 24].map(|h| widest(h, 8, 2)), [8, 10, 12]);
        assert_eq!([8, 16, 24].map(|h| widest(h, 8, 4)), [8, 12, 16]);
        assert_eq!(widest(17, 8, 4), 13);
    }

    #[test]
    fn a_block_has_room_for_the_patches_around_any_tile() {
        // None; a pair of rows; that above and below; 12 words on the left or right; three patches at a time beside the first four.
        let around = [([8, 16], 4), ([16, 16], 4), ([24, 16], 10), ([8, 32], 4)];
        let wide = [([16, 32], 7), ([8, 48], 7), ([24, 48], 16)];
        for (image, want) in around.into_iter().chain(wide) {
            assert_eq!(patches(image), want, "{image:?}");
        }
    }

    #[test]
    fn tiles_cover_every_pixel() {
        for (h, w, tiles) in [(8, 8, 1), (16, 8, 2), (17, 8, 3), (9, 17, 4), (1, 1, 1)] {
            let cell = fused([3, h, w, 16], H200, Direction::Fprop).expect("fits");
            assert_eq!(cell.blocks, 3 * tiles, "{h}x{w}");
            assert_eq!(cell.cell.rows * cell.cell.columns, TILE as i32);
        }
    }

    #[test]
    fn odd_channels_take_the_plain_kernels() {
        assert!(fused([1, 8, 8, 24], H200, Direction::Fprop).is_none());
        assert!(fused([1, 8, 8, 272], H200, Direction::Fprop).is_none());
    }
}
