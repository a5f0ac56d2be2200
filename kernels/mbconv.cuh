// What the kernels of the inverted bottleneck share (mbconv_bf16.cu, mbconv_up_bf16.cu): the pixels of a block, how they come into shared
// memory, and the products of a slice of hidden channels.
#pragma once

#include "ldmatrix.cuh"
#include "mma.cuh"
#include "squeeze_excite.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
// bf16 elements between the rows of a matrix in shared memory beyond its own: the eight rows that an ldmatrix reads lie on different banks.
#define PAD 8
// Hidden channels of a slice.
#define SLICE 32

// By value; `Cell` in src/ops/mbconv/fused.rs. h, w of x; a tile is rows x columns pixels of it. Room: pixels that shared memory has for
// a tile and what its windows reach.
struct Cell {
    int h, w, ci, co, hidden, rows, columns, near_room;
    // Of squeeze-and-excite around it: its factor, hidden units, and slices of the partial sums.
    float alpha;
    int units, slices;
};

// tanh in one instruction, whose error is below half a unit of bf16: swish is h tanh(h) + h, h = x / 2.
__device__ inline float tanh_fast(float x) {
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(x));
    return t;
}

#define BYTES static_cast<unsigned>(sizeof(bf16))

// The two halves of a word.
__device__ inline float2 unpack(unsigned word) { return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)); }
__device__ inline unsigned word_at(const bf16 *p) { return *reinterpret_cast<const unsigned *>(p); }
__device__ inline void set_word(bf16 *p, unsigned word) { *reinterpret_cast<unsigned *>(p) = word; }

__device__ inline float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }
// What the lane has whose number differs in one bit.
__device__ inline float4 from_lane(float4 v, int bit) {
    const unsigned all = 0xffffffffu;
    return make_float4(__shfl_xor_sync(all, v.x, bit), __shfl_xor_sync(all, v.y, bit), __shfl_xor_sync(all, v.z, bit),
                       __shfl_xor_sync(all, v.w, bit));
}

// The lanes of a quad hold word j of n-tile i as own[i] in lane j; afterwards lane i holds n-tile i, four words.
__device__ inline uint4 transpose_quad(const unsigned (&own)[4]) {
    const unsigned all = 0xffffffffu, lane = threadIdx.x;
    const bool odd = lane & 1, high = lane & 2;
    unsigned a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const unsigned other = __shfl_xor_sync(all, odd ? own[i] : own[i + 1], 1);
        a[i] = odd ? other : own[i];         // word 2 (j / 2) of the n-tile of this lane's parity
        a[i + 1] = odd ? own[i + 1] : other; // the word behind it
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const unsigned other = __shfl_xor_sync(all, high ? a[i] : a[2 + i], 2);
        b[i] = high ? other : a[i];
        b[2 + i] = high ? a[2 + i] : other;
    }
    return make_uint4(b[0], b[1], b[2], b[3]);
}

// A rectangle of an image's pixels.
struct Region {
    int top, left, height, width;

    __device__ int pixels() const { return height * width; }
    __device__ int at(int y, int x) const { return (y - top) * width + x - left; }
    __device__ bool has(int y, int x) const { return y >= top && y < top + height && x >= left && x < left + width; }
};

// The tile of a block, which may hang over the image's border.
struct Tile {
    int image, images, index, y, x;

    __device__ explicit Tile(const Cell &c) {
        const int across = (c.w + c.columns - 1) / c.columns, down = (c.h + c.rows - 1) / c.rows, i = blockIdx.x;
        image = i / (across * down);
        index = i % (across * down);
        images = gridDim.x / (across * down);
        y = i / across % down * c.rows;
        x = i % across * c.columns;
    }
    // What of the image lies within a distance of the tile.
    __device__ Region around(const Cell &c, int distance) const {
        const int top = max(y - distance, 0), left = max(x - distance, 0);
        return {top, left, min(y + c.rows + distance, c.h) - top, min(x + c.columns + distance, c.w) - left};
    }
};

// factor[j] a + mean[j] in channels j to j + 3.
__device__ inline float4 gated(float4 a, const float *factor, const float *mean, int j) {
    const float4 f = *reinterpret_cast<const float4 *>(factor + j), m = *reinterpret_cast<const float4 *>(mean + j);
    return make_float4(fmaf(f.x, a.x, m.x), fmaf(f.y, a.y, m.y), fmaf(f.z, a.z, m.z), fmaf(f.w, a.w, m.w));
}

// to[i, j] = data[row(i), j] as bf16 for i < pixels, zero beyond up to a multiple of STEP; with `factor`, factor[j] of the data plus mean[j].
template <int STEP, class Row>
__device__ inline void bring(bf16 *to, const float *__restrict__ data, int pixels, int channels, Row row, const float *factor = nullptr,
                             const float *mean = nullptr) {
    const int fours = channels / 4, whole = (pixels + STEP - 1) / STEP * STEP;
    for (int i = threadIdx.x; i < whole * fours; i += THREADS) {
        const int pixel = i / fours, j = i % fours * 4;
        uint2 packed = {};
        if (pixel < pixels) {
            float4 a = *reinterpret_cast<const float4 *>(data + row(pixel) * channels + j);
            if (factor) a = gated(a, factor, mean, j);
            packed = make_uint2(round_bf16(a.x, a.y), round_bf16(a.z, a.w));
        }
        *reinterpret_cast<uint2 *>(to + pixel * (channels + PAD) + j) = packed;
    }
}

// Begins to copy to[i][0 .. ALL] = from[i][0 .. columns], zeros beyond `rows` up to all_rows and, with ZEROS, beyond `columns`. Sizes in 16
// bytes; ALL divides the number of threads.
template <int ALL, bool ZEROS = true>
__device__ inline void copy_rows(void *to, int to_stride, const void *from, int from_stride, int rows, int all_rows, int columns = ALL) {
    static_assert(THREADS % ALL == 0, "a thread keeps its column");
    const int column = threadIdx.x % ALL;
    const bool inside = column < columns;
    if (!ZEROS && !inside) return;
    const int first = threadIdx.x / ALL, step = THREADS / ALL;
    uint4 *target = static_cast<uint4 *>(to) + first * to_stride + column;
    const uint4 *start = static_cast<const uint4 *>(from), *source = start + first * from_stride + column;
    for (int row = first; row < all_rows; row += step, target += step * to_stride, source += step * from_stride) {
        const bool exists = inside && row < rows;
        copy_async_16(target, exists ? source : start, exists);
    }
}

// Where a thread works in the depthwise convolutions: a pair of neighbouring channels, and every SPAN-th vertical strip of pixels. The
// strips of a warp lie so many pixels apart that its words lie on different banks.
template <int S>
struct Lane {
    static const int PAIRS = S / 2, SPAN = THREADS / PAIRS, PER_WARP = 32 / PAIRS, APART = 8 / PER_WARP;
    int channel, strip;

    __device__ Lane() {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        channel = lane % PAIRS * 2;
        strip = warp / APART * 8 + warp % APART + lane / PAIRS * APART;
    }
};

// A warp's part of the M x N sums: 64 pixels x N M / 512 channels.
template <int M, int N>
struct TileSums {
    static const int DOWN = M / 64, COLUMNS = N * DOWN / WARPS, TILES = COLUMNS / 8;
    static_assert(TILES % 2 == 0, "fragments of b come in twos");
    float c[4][TILES][4];
    int pixel, column;

    __device__ TileSums() : pixel(threadIdx.x / 32 % DOWN * 64), column(threadIdx.x / 32 / DOWN * COLUMNS) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < TILES; ++j)
#pragma unroll
                for (int r = 0; r < 4; ++r) c[i][j][r] = 0.0f;
    }

    // += a[M][S] times b, which is [S][N] or, with TRANSPOSED, [N][S].
    template <int S, bool TRANSPOSED>
    __device__ void add(const bf16 *a, const bf16 *b) {
        const unsigned rows = shared_address(lane_of_a(a + pixel * (S + PAD), S + PAD, threadIdx.x % 32));
        add_rows<S, TRANSPOSED>([&](int i) { return rows + i * 16 * (S + PAD) * BYTES; }, b);
    }

    // The same with rows of a that lie anywhere: rows(i) is the address of the lane's place in the fragments of the warp's m-tile i.
    template <int S, bool TRANSPOSED, class Rows>
    __device__ void add_rows(Rows rows, const bf16 *b) {
        add_fragments<S, TRANSPOSED>([&](unsigned (&left)[4], int i, int k) { load_matrices(left, rows(i) + k * BYTES); }, b);
    }

    // The same with a[S][M] that lies in lines of STRIDE.
    template <int S, int STRIDE, bool TRANSPOSED>
    __device__ void add_lines(const bf16 *a, const bf16 *b) {
        const unsigned own = shared_address(lane_of_a_transposed(a + pixel, STRIDE, threadIdx.x % 32));
        add_fragments<S, TRANSPOSED>(
            [&](unsigned (&left)[4], int i, int k) { load_matrices_transposed(left, own + (k * STRIDE + i * 16) * BYTES); }, b);
    }

    // The same with fragments of a that load(left, i, k) brings for the warp's m-tile i.
    template <int S, bool TRANSPOSED, class Load>
    __device__ void add_fragments(Load load, const bf16 *b) {
        const int lane = threadIdx.x % 32, stride = TRANSPOSED ? S + PAD : N + PAD;
        const unsigned own =
            shared_address(TRANSPOSED ? lane_of_b_transposed(b + column * stride, stride, lane) : lane_of_b(b + column, stride, lane));
#pragma unroll
        for (int k = 0; k < S; k += 16) {
            unsigned left[4][4], right[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) load(left[i], i, k);
#pragma unroll
            for (int j = 0; j < TILES; j += 2) {
                if (TRANSPOSED)
                    load_matrices(right, own + (j * 8 * stride + k) * BYTES);
                else
                    load_matrices_transposed(right, own + (k * stride + j * 8) * BYTES);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    mma_bf16(c[i][j], left[i], right[0], right[1]);
                    mma_bf16(c[i][j + 1], left[i], right[2], right[3]);
                }
            }
        }
    }

    // y[row(i), j] = sum[i, j] + bias[j] + residual[row(i), j]; either may be null, and a row may be -1. With `partial`, also the sums of y
    // over the pixels of this warp. Neighbouring lanes exchange halves, so that each holds four channels of one pixel.
    template <class Row>
    __device__ void write(float *__restrict__ y, const float *__restrict__ bias, const float *__restrict__ residual,
                          float *__restrict__ partial, const Tile &tile, int channels, Row row) const {
        const int lane = threadIdx.x % 32, odd = lane % 2;
        int places[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) places[i] = row(pixel + i * 16 + accumulator_row(lane, odd));
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            const int to = column + j * 8 + lane % 4 / 2 * 4;
            float4 total = {};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int place = places[i];
                const float *own = c[i][j];
                const float one = __shfl_xor_sync(0xffffffffu, odd ? own[0] : own[2], 1);
                const float two = __shfl_xor_sync(0xffffffffu, odd ? own[1] : own[3], 1);
                float4 four = odd ? make_float4(one, two, own[2], own[3]) : make_float4(own[0], own[1], one, two);
                if (place < 0 || to >= channels) continue;
                if (bias) four = plus(four, *reinterpret_cast<const float4 *>(bias + to));
                const int element = place * channels + to;
                if (residual) four = plus(four, *reinterpret_cast<const float4 *>(residual + element));
                *reinterpret_cast<float4 *>(y + element) = four;
                total = plus(total, four);
            }
            if (partial) {
                // The lanes that hold these four channels.
#pragma unroll
                for (int distance = 1; distance < 32; distance *= distance == 1 ? 4 : 2) total = plus(total, from_lane(total, distance));
                const int slice = tile.index * DOWN + pixel / 64;
                if ((lane & ~2) == 0 && to < channels)
                    *reinterpret_cast<float4 *>(partial + (slice * tile.images + tile.image) * channels + to) = total;
            }
        }
    }
};

// M m-tiles of 16 pixels of a product with S columns: sums[16 M][S] = a[16 M][k] b, where b is [k][S] or, with TRANSPOSED, [S][k].
template <int M, int S, bool TRANSPOSED>
__device__ inline void product(float (&sums)[M][S / 8][4], const bf16 *a, int a_stride, const bf16 *b, int b_stride, int depth) {
    const int lane = threadIdx.x % 32;
    const unsigned step = TRANSPOSED ? 16 * BYTES : 16 * b_stride * BYTES, columns = TRANSPOSED ? 8 * b_stride * BYTES : 8 * BYTES;
    unsigned rows = shared_address(lane_of_a(a, a_stride, lane));
    unsigned own = shared_address(TRANSPOSED ? lane_of_b_transposed(b, b_stride, lane) : lane_of_b(b, b_stride, lane));
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
        for (int j = 0; j < S / 8; ++j)
#pragma unroll
            for (int r = 0; r < 4; ++r) sums[i][j][r] = 0.0f;
#pragma unroll 2
    for (int k = 0; k < depth; k += 16, rows += 16 * BYTES, own += step) {
        unsigned left[M][4], right[4];
#pragma unroll
        for (int i = 0; i < M; ++i) load_matrices(left[i], rows + i * 16 * a_stride * BYTES);
#pragma unroll
        for (int j = 0; j < S / 8; j += 2) {
            if (TRANSPOSED)
                load_matrices(right, own + j * columns);
            else
                load_matrices_transposed(right, own + j * columns);
#pragma unroll
            for (int i = 0; i < M; ++i) {
                mma_bf16(sums[i][j], left[i], right[0], right[1]);
                mma_bf16(sums[i][j + 1], left[i], right[2], right[3]);
            }
        }
    }
}
