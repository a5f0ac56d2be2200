//! Geometry of sums over each sample of a batch: the host's side of `kernels/samples.cuh`.

use bytemuck::{Pod, Zeroable};

use crate::program::gpu::{GpuKernel, GpuLaunch, THREADS};

/// Elements of a sample up to which a warp takes it whole.
const SHORT: usize = 256;
/// Elements of a thread where there are as many.
const SHARE: usize = 8;
/// Elements of a piece at least, where there are as many.
const PIECE: usize = SHARE * THREADS as usize;
/// Threads that a block can have.
const MOST_THREADS: usize = 1024;
/// Blocks that keep a large GPU busy.
const BLOCKS: usize = 512;

/// `Samples` of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(in crate::ops) struct Samples {
    count: u32,
    length: u32,
    piece: u32,
    pieces: u32,
}

impl Samples {
    /// For `count` samples of `length` elements. What a block of all the threads it can have takes in as many steps as pieces would is one
    /// piece: the second launch would take longer than the sum.
    pub fn new(count: usize, length: usize) -> Self {
        let whole = length <= SHARE * MOST_THREADS;
        Self::of_pieces(count, length, if whole { length.max(1) } else { PIECE })
    }

    /// The same in pieces of at least `least` elements where there are as many.
    pub fn of_pieces(count: usize, length: usize, least: usize) -> Self {
        let wanted = (BLOCKS / count.max(1)).clamp(1, length.div_ceil(least).max(1));
        let piece = length.div_ceil(wanted).max(1);
        let narrow = |n: usize| u32::try_from(n).expect("a tensor has fewer than 2^31 elements");
        Samples {
            count: narrow(count),
            length: narrow(length),
            piece: narrow(piece),
            pieces: narrow(length.div_ceil(piece).max(1)),
        }
    }

    /// A launch of `kernel`, of so many threads as its pieces are long, or of `kernel_warp` for short samples.
    pub fn launch(&self, module: &'static str, kernel: &str) -> GpuLaunch {
        if self.length as usize <= SHORT {
            let threads = 32 * self.count as usize;
            return GpuLaunch::new(module, format!("{kernel}_warp")).threads_for(threads);
        }
        let threads = (self.piece as usize / SHARE).next_multiple_of(32);
        let threads = threads.clamp(THREADS as usize, MOST_THREADS) as u32;
        self.blocks(module, kernel).block(threads)
    }

    /// A launch of `kernel` with a block for each piece.
    pub fn blocks(&self, module: &'static str, kernel: &str) -> GpuLaunch {
        GpuLaunch::new(module, kernel).blocks(self.count as usize * self.pieces as usize)
    }

    /// The launch that sums terms, with the one that adds pieces up into output `output` where there are any: `<module>_f32_totals`.
    pub fn finish(&self, terms: GpuLaunch, output: usize) -> GpuKernel {
        if self.pieces == 1 {
            return terms.into();
        }
        let totals = GpuLaunch::new(terms.module, format!("{}_f32_totals", terms.module))
            .threads_for(32 * self.count as usize)
            .workspace(0)
            .output(output)
            .value(*self);
        // Partial sums are f64.
        let workspace = 2 * self.count as usize * self.pieces as usize;
        GpuKernel::new(vec![terms, totals], workspace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_sample_and_none_is_empty() {
        for count in [0, 1, 7, 64, 100_000] {
            for length in [0, 1, 255, 257, 2048, 2049, 3072, 196_608, 1 << 20] {
                let s = Samples::new(count, length);
                let (piece, pieces) = (s.piece as usize, s.pieces as usize);
                assert!(piece * pieces >= length, "{s:?}");
                assert!(pieces == 1 || (pieces - 1) * piece < length, "{s:?}");
                assert!(pieces <= BLOCKS, "{s:?}");
            }
        }
        assert_eq!(Samples::new(1, 1 << 22).pieces as usize, BLOCKS);
        assert_eq!(Samples::new(512, 1 << 16).pieces, 1);
    }

    #[test]
    fn every_sample_has_a_block_or_a_warp() {
        for (count, length, blocks) in
            [(0, 5, 0), (0, 5000, 0), (9, 256, 2), (9, 257, 9), (3, 0, 1)]
        {
            let launch = Samples::new(count, length).launch("test", "kernel");
            assert_eq!(launch.grid, [blocks, 1, 1], "{count} samples of {length}");
        }
    }

    #[test]
    fn a_sample_of_the_model_is_one_block() {
        let s = Samples::new(64, 16 * 16 * 20);
        let kernel = s.finish(s.launch("test", "kernel"), 0);
        let [launch] = &*kernel.launches else {
            panic!("{kernel:?}")
        };
        assert_eq!((launch.grid[0], launch.block[0]), (64, 640));
        // Pieces of longer ones keep to the usual block, or to a whole one.
        assert_eq!(
            Samples::new(8, 100_000).launch("test", "kernel").block[0],
            256
        );
        assert_eq!(
            Samples::new(512, 1 << 16).launch("test", "kernel").block[0],
            1024
        );
    }

    #[test]
    fn samples_of_one_piece_need_no_second_launch() {
        let s = Samples::new(4, 300);
        let kernel = s.finish(s.launch("test", "kernel"), 0);
        assert_eq!((kernel.launches.len(), kernel.workspace), (1, 0));
        let s = Samples::new(4, 30_000);
        let kernel = s.finish(s.launch("test", "kernel"), 0);
        assert_eq!(kernel.launches[1].function, "test_f32_totals");
        assert_eq!(kernel.workspace, 2 * kernel.launches[0].grid[0] as usize);
    }
}
