// What the forward kernel of the inverted bottleneck and its gradient (mbconv_bf16.cu) share: a tile of hidden channels with the pixels
// around it, channel by channel, the product that makes them, and the slopes that the one keeps for the other.
#pragma once

#include "mbconv_slopes.cuh"
#include "mbconv_toeplitz.cuh"

// Words between channels of a padded tile: what lanes write at once lies on different banks.
#define PLANE (PAIRS * PITCH + 8)
// The same of a tile without padding.
#define OWN_PLANE (TILE / 2 + 4)
// Warps that make the tile itself, a pair of rows each, and patches of its surroundings that one of them and one of the others makes.
#define TILE_WARPS (ROWS / 2)
#define MORE 3

// Slopes that are kept: [n, hidden, pairs of rows, columns, 2], columns padded to 8, so that 16 bytes are 8 columns of a pair.
struct Kept {
    int row, channel;

    __device__ explicit Kept(const Cell &c) : row((c.w + 7) / 8 * 16), channel((c.h + 1) / 2 * row) {}
    // Of the pair of rows at y and the column x, both of the image.
    __device__ int at(const Cell &c, int image, int k, int y, int x) const { return (image * c.hidden + k) * channel + y / 2 * row + x * 2; }
};

// The 16 bytes of a slice of a tile's slopes that a thread moves: threads are [channel, pair, half of a pair].
struct OwnSlopes {
    bool inside;
    int at;

    __device__ OwnSlopes(const Cell &c, const Tile &tile, const Kept &kept) {
        static_assert(SLICE * TILE == THREADS * 16, "one for each thread");
        const int y = tile.y + threadIdx.x / 2 % 4 * 2, x = tile.x + threadIdx.x % 2 * 8;
        inside = y < c.h && x < c.w;
        at = inside ? kept.at(c, tile.image, threadIdx.x / 8, y, x) : 0;
    }
};

// A block's pixels, the tile and what windows reach of its surroundings, in the order in which they are columns of a product, 8 at a time:
// first the tile, a pair of rows a warp, then patches of 4 columns of a pair: the pair above, the pair below, 2 columns on the left, on the
// right, where the image goes on there.
struct Around {
    const Cell &c;
    const Tile tile;
    const bool above, below, left, right;
    const int patches;

    __device__ explicit Around(const Cell &cell)
        : c(cell), tile(cell), above(tile.y > 0), below(tile.y + ROWS < cell.h), left(tile.x > 0), right(tile.x + COLUMNS < cell.w),
          patches((above + below) * (COLUMNS / 4) + (left + right) * PAIRS / 2) {}

    // Of pixel `at`, from the tile's corner. Lane t of four has columns 2 t and 2 t + 1 of either half of a pair of rows.
    __device__ int2 place(int at) const {
        const int slot = at / 2 % 4, row = at % 2;
        if (at < TILE) return make_int2(at / 16 % 2 * 8 + slot * 2 + at / 8 % 2, at / 32 * 2 + row);
        int patch = (at - TILE) / 8;
        if (above && patch < COLUMNS / 4) return make_int2(patch * 4 + slot, row - HALO);
        patch -= above * (COLUMNS / 4);
        if (below && patch < COLUMNS / 4) return make_int2(patch * 4 + slot, ROWS + row);
        patch -= below * (COLUMNS / 4);
        const int word = patch % (PAIRS / 2) * 4 + slot;
        const bool on_left = left && patch < PAIRS / 2;
        return make_int2((on_left ? -HALO : COLUMNS) + word % 2, word / 2 * 2 - HALO + row);
    }
    __device__ bool inside(int2 p) const {
        const int x = tile.x + p.x, y = tile.y + p.y;
        return x >= 0 && x < c.w && y >= 0 && y < c.h;
    }
    // The halves of a word that are in the image, the upper row of it at `p`.
    __device__ unsigned mask(int2 p) const {
        return (inside(p) ? 0xffffu : 0) | (inside(make_int2(p.x, p.y + 1)) ? 0xffff0000u : 0);
    }
    // Of the tensors of a pixel; -1 beyond the image.
    __device__ int row(int2 p) const { return inside(p) ? (tile.image * c.h + tile.y + p.y) * c.w + tile.x + p.x : -1; }
    // Of pixel `at` of a tile in the order of a window's results.
    __device__ int window_row(int at) const { return row(make_int2(window_x(at), window_y(at))); }
};
// Where the word of a pixel and the one below it stands in a padded tile.
__device__ inline int word_of(int2 p) { return (p.y / 2 + HALO / 2) * PITCH + p.x + HALO; }

// The patches of a warp: one beside a pair of rows of the tile, or MORE of them. Of a lane's columns of each: the upper pixel, whether the
// patch is one of the block's, and the halves of its word that are in the image.
struct Patches {
    int first;
    int2 place[MORE];
    unsigned mask[MORE];

    __device__ explicit Patches(const Around &around) {
        const int warp = threadIdx.x / 32, slot = threadIdx.x % 4;
        first = warp < TILE_WARPS ? warp : TILE_WARPS + (warp - TILE_WARPS) * MORE;
#pragma unroll
        for (int i = 0; i < MORE; ++i) {
            place[i] = around.place(TILE + (first + i) * 8 + slot * 2);
            mask[i] = first + i < around.patches ? around.mask(place[i]) : 0;
        }
    }
};

// to[at][0 .. channels] = the pixels around a tile as bf16, zeros beyond the image; with `factor`, factor[j] of the data plus mean[j].
__device__ inline void bring_around(bf16 *to, const float *__restrict__ data, int channels, const Around &around,
                                    const float *factor = nullptr, const float *mean = nullptr) {
#pragma unroll 4
    for (int at = threadIdx.x / 32; at < around.c.near_room; at += WARPS) {
        const int row = at < TILE + around.patches * 8 ? around.row(around.place(at)) : -1;
        for (int j = threadIdx.x % 32 * 4; j < channels; j += 32 * 4) {
            uint2 packed = {};
            if (row >= 0) {
                float4 a = *reinterpret_cast<const float4 *>(data + row * channels + j);
                if (factor) a = gated(a, factor, mean, j);
                packed = make_uint2(round_bf16(a.x, a.y), round_bf16(a.z, a.w));
            }
            *reinterpret_cast<uint2 *>(to + at * (channels + PAD) + j) = packed;
        }
    }
}

// Begins to copy to[i][0 .. SLICE] = from[i][..] of rows with `stride` elements, zeros beyond `rows`. Neighbouring groups of four threads
// take rows that are four apart: with PAD behind each, these lie on different banks.
__device__ inline void copy_columns(bf16 *to, const bf16 *from, int stride, int rows, int all_rows) {
    const int group = threadIdx.x / 4, first = group / 8 * 8 + group % 2 * 4 + group % 8 / 2, step = THREADS / 4;
    const bf16 *source = from + first * stride + threadIdx.x % 4 * 8;
    bf16 *target = to + first * (SLICE + PAD) + threadIdx.x % 4 * 8;
    for (int row = first; row < all_rows; row += step, target += step * (SLICE + PAD), source += step * stride)
        copy_async_16(target, row < rows ? source : from, row < rows);
}

// Two neighbours b[16, 8] of bf16 as an ldmatrix brings them, and one alone.
__device__ inline void load_pair_at(unsigned (&r)[2], unsigned at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
}

// sums[SLICE][8 T] += a b for a slice of hidden channels and T n-tiles of pixels, `depth` deep. a is stored [channel][k] with rows of
// `stride` elements or, K_MAJOR, [k][channel] with rows of SLICE + PAD. b is stored [pixel][k] with `stride`: T - 1 n-tiles from `pixels`
// on, the last at `more`.
template <int T, bool K_MAJOR>
__device__ inline void product_around(float (&sums)[SLICE / 16][T][4], const bf16 *a, const bf16 *pixels, const bf16 *more, int stride,
                                      int depth) {
    static_assert(T % 2 == 1, "n-tiles in twos, and one");
    const int lane = threadIdx.x % 32;
    const unsigned down = K_MAJOR ? 16 * BYTES : 16 * stride * BYTES, step = (K_MAJOR ? 16 * (SLICE + PAD) : 16) * BYTES;
    unsigned left_at = shared_address(K_MAJOR ? lane_of_a_transposed(a, SLICE + PAD, lane) : lane_of_a(a, stride, lane));
    unsigned two_at = shared_address(lane_of_b_transposed(pixels, stride, lane));
    unsigned one_at = shared_address(lane_of_b_transposed(more, stride, lane % 16));
    const unsigned across = 16 * stride * BYTES;
#pragma unroll 2
    for (int k = 0; k < depth; k += 16, left_at += step, two_at += 16 * BYTES, one_at += 16 * BYTES) {
        unsigned left[SLICE / 16][4], right[4], last[2];
#pragma unroll
        for (int m = 0; m < SLICE / 16; ++m)
            if (K_MAJOR)
                load_matrices_transposed(left[m], left_at + m * down);
            else
                load_matrices(left[m], left_at + m * down);
#pragma unroll
        for (int j = 0; j < T - 1; j += 2) {
            load_matrices(right, two_at + j / 2 * across);
#pragma unroll
            for (int m = 0; m < SLICE / 16; ++m) {
                mma_bf16(sums[m][j], left[m], right[0], right[1]);
                mma_bf16(sums[m][j + 1], left[m], right[2], right[3]);
            }
        }
        load_pair_at(last, one_at);
#pragma unroll
        for (int m = 0; m < SLICE / 16; ++m) mma_bf16(sums[m][T - 1], left[m], last[0], last[1]);
    }
}
