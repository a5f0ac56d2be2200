//! Launches of `kernels/mbconv_sm90a.cu`: the forward bottleneck for compute capability 9.0.

use super::Channels;
use super::fused::{PAD, PADDED, SLICE, TILE, WINDOW};
use crate::program::gpu::{GpuLaunch, Tensor};

/// Channels that the kernel is compiled for; as many go out as come in.
const WIDTHS: [usize; 3] = [64, 128, 256];
/// As in the kernel: threads of a block, pixels of an m-tile, and m-tiles that two warpgroups expand.
const THREADS: u32 = 384;
const ROWS: usize = 64;
const M_TILES: usize = 4;
/// Bytes of a slice's window with its biases, and of the room that it has.
const WINDOW_BYTES: usize = (WINDOW * WINDOW + 2) * SLICE * size_of::<f32>();
const WINDOW_ROOM: usize = 3584;
/// Bytes of the mbarriers.
const MBARRIERS: usize = size_of::<[u64; 8]>();

/// Whether the kernel can take such channels; their weights are then packed for it as well.
pub(super) fn takes(c: &Channels) -> bool {
    !c.upsample
        && c.k == WINDOW
        && c.ci == c.co
        && WIDTHS.contains(&c.ci)
        && c.hidden.is_multiple_of(SLICE)
}

/// Elements of `f32` that the packed slices take.
pub(super) fn packed_len(c: &Channels) -> usize {
    if !takes(c) {
        return 0;
    }
    let slice = (c.ci + c.co) * SLICE * size_of::<u16>() + WINDOW_BYTES;
    c.hidden / SLICE * slice / size_of::<f32>()
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

/// Rows that shared memory has for `near` pixels around a tile, and the bytes of a block, where the kernel takes both.
pub(super) fn room(c: &Channels, near: usize, shared: usize) -> Option<(usize, usize)> {
    // Each warpgroup has an m-tile at least.
    let rows = near.next_multiple_of(ROWS).max(2 * ROWS);
    let stride = SLICE + PAD;
    let lines = rows * c.ci + 2 * (c.ci + c.co + TILE) * SLICE;
    let elements = lines + PADDED * stride;
    let bytes = elements * size_of::<u16>() + 2 * WINDOW_ROOM + MBARRIERS;
    (takes(c) && rows <= M_TILES * ROWS && bytes <= shared).then_some((rows, bytes))
}

/// The forward launch without its arguments.
pub(super) fn begin(c: &Channels, blocks: usize, shared: usize) -> GpuLaunch {
    GpuLaunch::new("mbconv_sm90a", format!("mbconv_fprop_sm90a_n{}", c.co))
        .blocks(blocks)
        .block(THREADS)
        .shared(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_published_cell_has_room_on_an_h200() {
        // 10 rows of 16 pixels around a tile: three m-tiles.
        let (rows, bytes) = room(&channels(256, 1536, 256), 160, 227 << 10).expect("fits");
        assert_eq!(rows, 192);
        assert_eq!(bytes, 98304 + 32768 + 39936 + 8192 + 19200 + 8192 + 64);
        assert_eq!(packed_len(&channels(256, 1536, 256)), 48 * 36224 / 4);
    }

    #[test]
    fn other_channels_are_left_to_the_kernels_for_every_gpu() {
        for (ci, hidden, co) in [(256, 1536, 128), (96, 576, 96), (64, 100, 64)] {
            assert_eq!(packed_len(&channels(ci, hidden, co)), 0);
            assert!(room(&channels(ci, hidden, co), 160, 227 << 10).is_none());
        }
        // A tile in the middle of a large image.
        assert!(room(&channels(256, 1536, 256), 240, 227 << 10).is_none());
        assert!(room(&channels(128, 768, 128), 240, 227 << 10).is_some());
    }
}
