// Convolution without stride in bf16, forward and of the image, with a window that stays in shared memory over the taps (conv2d_window.cuh),
// and the layout of its weights. Arguments, shapes and what may be null as in conv2d.cu, but for the weights and `cut`.
//
//   conv2d_fprop_bf16_window_<tile>(x, w, x2, w2, bias, residual, y, after, conv, cut, channels, pooled, pre, post)
//   conv2d_dgrad_bf16_window_<tile>(dy, wt, dy2, wt2, x, residual, start, dx, dx2, conv, cut, split, halved, pre)
//   conv2d_pack_bf16(w, transposed, straight, wt, rows, columns, matrices, count)
//       transposed[t, j, i] = w[t, i, j] in f32, zeros behind up to `count`; straight[t, i, j] and wt[t, j, i] in bf16, in rows of a
//       multiple of 8 numbers, zeros behind the matrix's own
//
// w [kh, kw, cin, cout] and wt [kh, kw, cout, cin] in bf16 as conv2d_pack_bf16 leaves them. Channels that are no multiple of four move one
// number at a time.
// Limit: tensor cores for 3x3 windows. A warp's 64x64 takes 32 passes of fragments out of shared memory for 32 mma, 0.74 of the
// time of these on an H200. 1x1 windows: device memory, as 128x256 tiles read x once. Geometry: a block per tile, column tiles fastest.

#include "conv2d_pack.cuh"
#include "conv2d_window.cuh"

// By pixels and channels of a block; the launch bounds leave 255 registers to a thread of those whose warps make 64x64, 128 to others.
#define CONV2D_WINDOW(tile, blocks, ...)                                                                                                    \
    extern "C" __global__ void __launch_bounds__((WindowTile<__VA_ARGS__>::THREADS), blocks)                                                 \
        conv2d_fprop_bf16_window_##tile(const float *x, const bf16 *w, const float *x2, const bf16 *w2, const float *bias,                   \
                                        const float *residual, float *y, float *after, Conv c, Cut cut, int channels, int pooled,            \
                                        unsigned pre, unsigned post) {                                                                       \
        window_fprop<WindowTile<__VA_ARGS__>>(x, w, x2, w2, bias, residual, y, after, c, cut, channels, pooled, pre, post);                  \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__((WindowTile<__VA_ARGS__>::THREADS), blocks)                                                 \
        conv2d_dgrad_bf16_window_##tile(const float *dy, const bf16 *wt, const float *dy2, const bf16 *wt2, const float *x,                  \
                                        const float *residual, const float *start, float *dx, float *dx2, Conv c, Cut cut, int split,        \
                                        int halved, unsigned pre) {                                                                          \
        window_dgrad<WindowTile<__VA_ARGS__>>(dy, wt, dy2, wt2, x, residual, start, dx, dx2, c, cut, split, halved, pre);                    \
    }

CONV2D_WINDOW(256x128, 1, 256, 128, 64, 64)
CONV2D_WINDOW(128x256, 1, 128, 256, 64, 64)
CONV2D_WINDOW(128x128, 2, 128, 128, 64, 64)
CONV2D_WINDOW(64x64, 4, 64, 64, 32, 32)
CONV2D_WINDOW(256x16, 2, 256, 16, 32, 16)

// A matrix's rows in pairs of numbers, 16 pairs of a row of the tile to neighbouring threads.
template <bool TRANSPOSED>
__device__ inline void store_pairs(const PackTile &tile, unsigned *to, unsigned rows, unsigned columns) {
    const unsigned row0 = TRANSPOSED ? PackTile::column() : PackTile::row(), column0 = TRANSPOSED ? PackTile::row() : PackTile::column();
    const unsigned pairs = packed_columns(columns) / 2, x = threadIdx.x % 16;
    to += static_cast<size_t>(blockIdx.z) * rows * pairs;
    for (unsigned r = threadIdx.x / 16; r < 32; r += 16) {
        if (row0 + r >= rows || column0 / 2 + x >= pairs) continue;
        const float low = TRANSPOSED ? tile.at[2 * x][r] : tile.at[r][2 * x], high = TRANSPOSED ? tile.at[2 * x + 1][r] : tile.at[r][2 * x + 1];
        to[(row0 + r) * pairs + column0 / 2 + x] = round_bf16(low, high);
    }
}

extern "C" __global__ void conv2d_pack_bf16(const float *w, float *transposed, unsigned *straight, unsigned *wt, unsigned rows, unsigned columns,
                                            unsigned matrices, unsigned count) {
    __shared__ PackTile tile;
    tile.load(w, rows, columns);
    __syncthreads();
    tile.store_transposed(transposed, rows, columns);
    store_pairs<false>(tile, straight, rows, columns);
    store_pairs<true>(tile, wt, columns, rows);
    fill_tail(transposed, matrices * rows * columns, count);
}
