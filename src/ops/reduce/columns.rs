//! Geometry of kernels that work along the rows of `x[group, row, column]`: the host's side of `kernels/columns.cuh`.

use bytemuck::{Pod, Zeroable};

use crate::program::gpu::{GpuLaunch, Precision};
use crate::program::variants::{self, Site};

/// Threads of a block at most; `COLUMN_THREADS` in the header.
const THREADS: usize = 256;
/// Columns of a block at most, so that a block has at least two rows.
const WIDEST: usize = THREADS / 2;
/// Blocks that keep a large GPU busy while each still sums many rows.
const BLOCKS: usize = 512;
/// Rows that a thread sums at least, where there are as many: the loads of a batch.
const SUMMED_ROWS: usize = 8;
/// Rows that a thread of an element-wise map takes: they share what it prepares for its column.
const MAPPED_ROWS: usize = 4;
/// The most blocks along y.
const MAX_SLICES: usize = 65_535;

/// `Columns` of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Extents {
    rows: u32,
    columns: u32,
    width: u32,
    tiles: u32,
    slice: u32,
}

/// How blocks and threads lie on a tensor `[groups, rows, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) struct Columns {
    extents: Extents,
    groups: usize,
    /// Parts into which the rows are cut; at least one.
    pub slices: usize,
    /// Numbers that a thread takes at once.
    vector: usize,
}

impl Columns {
    /// For sums over the rows, which are cut where there is too little to do side by side: one partial result a slice.
    pub fn sums(groups: usize, rows: usize, columns: usize) -> Self {
        let whole = Self::whole(groups, rows, columns);
        let wanted = BLOCKS / (whole.blocks_across().max(1));
        let useful = rows / (whole.height() * SUMMED_ROWS);
        let cuts = whole.cuts(wanted.min(useful));
        let site = || Site::new("column_sums", vec![groups, rows, columns], Precision::F32);
        variants::choose(site, &cuts, |c| c.slices.to_string(), 0)
    }

    /// With the slices that the rule wants, half, twice and four times as many, and one; a thread sums one row at least.
    fn cuts(self, rule: usize) -> Vec<Self> {
        let mut all = vec![self.cut(rule)];
        let most = self.extents.rows as usize / self.height().max(1);
        for wanted in [1, rule / 2, 2 * rule, 4 * rule] {
            let other = self.cut(wanted.min(most));
            if all.iter().all(|c| c.slices != other.slices) {
                all.push(other);
            }
        }
        all
    }

    /// For sums over all rows by one block, in one launch.
    pub fn whole(groups: usize, rows: usize, columns: usize) -> Self {
        let vector = if columns.is_multiple_of(4) { 4 } else { 1 };
        let units = columns / vector;
        let tiles = units.div_ceil(WIDEST);
        let width = units.div_ceil(tiles.max(1)).max(1);
        let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
        Columns {
            extents: Extents {
                rows: narrow(rows),
                columns: narrow(units),
                width: narrow(width),
                tiles: narrow(tiles),
                slice: narrow(rows),
            },
            groups,
            slices: 1,
            vector,
        }
    }

    /// For a map of each element that needs numbers of its column.
    pub fn map(groups: usize, rows: usize, columns: usize) -> Self {
        let whole = Self::whole(groups, rows, columns);
        whole.cut(rows.div_ceil(whole.height() * MAPPED_ROWS))
    }

    fn cut(mut self, slices: usize) -> Self {
        let rows = self.extents.rows as usize;
        let slice = rows.div_ceil(slices.clamp(1, MAX_SLICES)).max(1);
        self.extents.slice = slice as u32;
        self.slices = rows.div_ceil(slice).max(1);
        self
    }

    /// Rows of threads in a block.
    fn height(&self) -> usize {
        THREADS / self.extents.width as usize
    }

    fn blocks_across(&self) -> usize {
        self.groups * self.extents.tiles as usize
    }

    /// Rows of a slice; the last one may have fewer.
    pub fn slice(&self) -> usize {
        self.extents.slice as usize
    }

    /// Elements of one partial result for all groups and columns.
    pub fn results(&self) -> usize {
        self.groups * self.extents.columns as usize * self.vector
    }

    /// A launch of `kernel`, or `kernel_x4` where four columns go together; its last argument is [`Columns::argument`].
    pub fn launch(&self, module: &'static str, kernel: &str) -> GpuLaunch {
        let suffix = if self.vector == 4 { "_x4" } else { "" };
        GpuLaunch::new(module, format!("{kernel}{suffix}"))
            .grid([self.blocks_across(), self.slices, 1])
            .block(self.height() as u32 * self.extents.width)
    }

    /// The struct that the kernel takes.
    pub fn argument(&self) -> impl Pod + use<> {
        self.extents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes() -> impl Iterator<Item = (usize, usize, usize)> {
        [1, 3, 64].into_iter().flat_map(|groups| {
            [0, 1, 7, 300, 100_000].into_iter().flat_map(move |rows| {
                [0, 1, 3, 4, 66, 128, 256, 257, 4096].map(|columns| (groups, rows, columns))
            })
        })
    }

    /// The rows and columns that the blocks of one group take, from the kernel's formulas.
    fn covered(c: &Columns) -> (usize, usize) {
        let rows = (c.slices * c.extents.slice as usize).min(c.extents.rows as usize);
        let across = (c.extents.tiles * c.extents.width) as usize;
        (rows, across.min(c.extents.columns as usize) * c.vector)
    }

    #[test]
    fn every_element_is_covered_within_limits() {
        for (groups, rows, columns) in shapes() {
            for make in [Columns::sums, Columns::whole, Columns::map] {
                let c = make(groups, rows, columns);
                let launch = c.launch("test", "kernel");
                assert_eq!(covered(&c), (rows, columns), "{c:?}");
                assert!(
                    launch.block[0] <= THREADS as u32 && launch.block[0] > 0,
                    "{c:?}"
                );
                assert_eq!(launch.block[0] % c.extents.width, 0, "{c:?}");
                assert!((1..=MAX_SLICES).contains(&c.slices), "{c:?}");
                let last = (c.slices - 1) * c.extents.slice as usize;
                assert!(c.slices == 1 || last < rows, "an empty slice: {c:?}");
            }
        }
    }

    #[test]
    fn no_columns_are_no_launch_and_no_rows_still_write_zeros() {
        assert_eq!(Columns::sums(2, 5, 0).launch("m", "k").grid[0], 0);
        assert_eq!(Columns::sums(2, 0, 8).launch("m", "k").grid, [2, 1, 1]);
        assert_eq!(Columns::sums(0, 5, 8).launch("m", "k").grid[0], 0);
    }

    #[test]
    fn long_sums_of_few_columns_are_cut() {
        let c = Columns::sums(1, 1 << 20, 32);
        assert!((256..=BLOCKS).contains(&c.slices));
        assert_eq!(Columns::sums(1024, 64, 512).slices, 1);
    }
}
