//! The tiles of implicit matrix products, the rule that chooses among them, and the direct form.

use crate::program::gpu::{GpuLaunch, Precision};

/// The tile of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub m: usize,
    pub n: usize,
    /// One number at a time, where channels are no multiple of four.
    pub any: bool,
}

/// Multiprocessors that a launch should occupy: those of an H200. On a smaller GPU the tiles are merely smaller than they could be.
pub(super) const MULTIPROCESSORS: usize = 132;

/// Threads that share a multiprocessor: the kernels' launch bounds.
pub(super) const THREADS_OF_ONE: usize = 512;

/// Pixels that a part of a weight gradient has at least: fewer are not worth the bytes of another part.
pub(super) const SHARE: usize = 512;

impl Tile {
    pub const LARGE: Tile = Tile::new(128, 128, false);
    pub const NARROW: Tile = Tile::new(128, 32, false);
    pub const SMALL: Tile = Tile::new(64, 64, false);
    pub const ANY: Tile = Tile::new(64, 64, true);

    /// Those that any product with aligned rows can take.
    pub const ALIGNED: [Tile; 3] = [Tile::LARGE, Tile::NARROW, Tile::SMALL];

    pub const fn new(m: usize, n: usize, any: bool) -> Self {
        Tile { m, n, any }
    }

    pub fn name(self) -> String {
        format!("{}x{}", self.m, self.n)
    }

    /// For a product of `rows` x `columns`; `aligned` if all rows of its factors and result begin on 16 bytes.
    pub fn choose(rows: usize, columns: usize, aligned: bool) -> Self {
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
    pub fn choose_split(rows: usize, columns: usize, depth: usize, aligned: bool) -> Self {
        let large = Tile::LARGE;
        let filled = large.blocks(rows, columns) * depth.div_ceil(SHARE) >= MULTIPROCESSORS;
        match aligned {
            false => Tile::ANY,
            true if filled && large.wastes_little(rows) && large.wastes_little(columns) => large,
            true => Tile::SMALL,
        }
    }

    /// Whether tiles cover at most a quarter more than there is.
    pub fn wastes_little(&self, extent: usize) -> bool {
        4 * extent.next_multiple_of(self.n) <= 5 * extent
    }

    pub fn blocks(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.m) * columns.div_ceil(self.n)
    }

    /// Warps make 32x32 of it, or 64x32 of the largest.
    pub fn threads(&self) -> u32 {
        if self.n == 128 { 256 } else { 128 }
    }

    /// Dynamic shared memory: the stages of the pipeline and, in their place, the sums (`Tile` in `kernels/tiles.cuh`).
    pub fn shared(&self, precision: Precision, transposed: bool) -> usize {
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

    pub fn launch(&self, pass: &str, precision: Precision) -> GpuLaunch {
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
pub(super) fn direct(pass: &str, count: usize) -> GpuLaunch {
    GpuLaunch::new("conv2d", format!("conv2d_{pass}_f32_direct")).threads_for(count)
}
