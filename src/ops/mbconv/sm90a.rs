//! What `kernels/mbconv_sm90a.cu` takes, the bottleneck in both directions for compute capability 9.0, and how its weights are packed.

use super::Channels;
use super::fused::{COLUMNS, HALO, PADDED_ROWS, ROWS, TILE, WINDOW, widest};
use crate::program::gpu::{GpuLaunch, Tensor};

/// Channels that the kernels are compiled for; as many go out as come in.
const WIDTHS: [usize; 3] = [64, 128, 256];
/// As in the kernels: threads of a block, blocks of a cluster, hidden channels of a slice, bytes of a line of a factor.
const THREADS: u32 = 384;
const CLUSTER: usize = 2;
const HIDDEN: usize = 64;
const LINE: usize = 128;
/// Pixels that a block expands, all within the tile's columns or not.
const NARROW: usize = 160;
const WIDE: usize = 240;
/// Bytes of a hidden channel's pixels with their neighbours.
const PLANE: usize = PADDED_ROWS * 48 + 16;
/// Bytes of a slice's taps with their biases, and of the pairs that are made of them.
const TAPS: usize = HIDDEN * (16 + 1) * size_of::<f32>();
const PAIRS: usize = HIDDEN * 144;
/// Bytes of what is kept on its way, for each of eight warps, and of the mbarriers.
const PIECES: usize = 8 * 4 * 512;
const MBARRIERS: usize = size_of::<[u64; 6]>();
/// Numbers of a gate that the planes have room for.
pub(super) const GATE: usize = HIDDEN * PLANE / size_of::<f32>();

/// Whether the kernels can take such channels; their weights are then packed for them as well.
pub(super) fn takes(c: &Channels) -> bool {
    !c.upsample
        && c.k == WINDOW
        && c.ci == c.co
        && WIDTHS.contains(&c.ci)
        && c.hidden.is_multiple_of(HIDDEN)
}

/// Elements of `f32` that the packed slices take.
pub(super) fn packed_len(c: &Channels) -> usize {
    if !takes(c) {
        return 0;
    }
    let slice = (c.ci + c.co) * HIDDEN * size_of::<u16>() + TAPS;
    c.hidden / HIDDEN * slice / size_of::<f32>()
}

/// The launch that packs them behind element `to`.
pub(super) fn pack(c: &Channels, to: usize) -> GpuLaunch {
    let launch = GpuLaunch::new("mbconv_sm90a", "mbconv_pack_sm90a").threads_for(packed_len(c));
    let launch = (0..5).fold(launch, GpuLaunch::input);
    (launch.address(Tensor::Output(0), to))
        .count(c.ci)
        .count(c.co)
        .count(c.hidden)
}

/// The grid of so many blocks: the last cluster is filled up.
pub(super) fn whole_clusters(launch: GpuLaunch, blocks: usize) -> GpuLaunch {
    (launch.blocks(blocks.next_multiple_of(CLUSTER))).block(THREADS)
}

/// How the kernels lie on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Pixels around a tile that shared memory has, by which the kernels know what they are to expand.
    pub near: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Bytes that a hidden channel of an image has in a tensor that is kept: slopes in 8 bits, in lines of 16.
    pub kept_bytes: usize,
}

/// Their form for images of `h` x `w` pixels, where they take them: with 256 channels of those whose tiles have neighbours on one side alone.
pub(super) fn form(c: &Channels, [h, w]: [usize; 2], shared: usize) -> Option<Form> {
    let narrow = w <= COLUMNS && widest(h, ROWS, HALO) <= NARROW / COLUMNS;
    let near = if narrow { NARROW } else { WIDE };
    let mixed = TILE * HIDDEN * size_of::<u16>();
    let factors = near * c.ci * size_of::<u16>() + (c.ci + c.co) * LINE + mixed;
    let bytes = factors + HIDDEN * PLANE + TAPS + PAIRS + PIECES + MBARRIERS;
    let known = takes(c) && (narrow || c.ci < WIDTHS[2]);
    (known && bytes <= shared).then_some(Form {
        near,
        shared: bytes,
        kept_bytes: h * w.next_multiple_of(COLUMNS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: usize = 227 << 10;

    fn channels(ci: usize, hidden: usize, co: usize) -> Channels {
        Channels {
            ci,
            hidden,
            k: WINDOW,
            co,
            upsample: false,
        }
    }

    #[test]
    fn the_published_cells_have_room_on_an_h200() {
        // 10 rows of 16 pixels around a tile.
        let cell = channels(256, 1536, 256);
        let form_of = |c: &Channels, hw| form(c, hw, H200).expect("fits");
        let narrow = form_of(&cell, [16, 16]);
        assert_eq!((narrow.near, narrow.kept_bytes), (160, 256));
        let tiles = 81920 + 2 * 32768 + 16384 + 37888;
        assert_eq!(narrow.shared, tiles + 4352 + 9216 + 16384 + 48);
        assert_eq!(packed_len(&cell), 24 * (2 * 32768 + 4352) / 4);
        // And 12 rows of 20 in the middle of a larger image.
        let wide = form_of(&channels(128, 384, 128), [32, 32]);
        assert_eq!((wide.near, wide.kept_bytes), (240, 1024));
    }

    #[test]
    fn other_shapes_are_left_to_the_kernels_for_every_gpu() {
        for (ci, hidden, co) in [(256, 1536, 128), (96, 576, 96), (64, 96, 64)] {
            let c = channels(ci, hidden, co);
            assert_eq!(packed_len(&c), 0);
            assert_eq!(form(&c, [16, 16], H200), None);
        }
        let c = channels(256, 1536, 256);
        assert_eq!(form(&c, [32, 32], H200), None);
        assert_eq!(form(&c, [24, 16], H200), None);
        assert_eq!(form(&c, [16, 16], 163 << 10), None);
    }

    #[test]
    fn lines_of_what_is_kept_are_16_bytes() {
        let c = channels(64, 64, 64);
        for (w, bytes) in [(1, 48), (9, 48), (16, 48), (17, 96)] {
            assert_eq!(form(&c, [3, w], H200).expect("fits").kept_bytes, bytes);
        }
    }
}
