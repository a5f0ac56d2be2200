// The inverted bottleneck in evaluation, one kernel forward and one for the input gradient; its hidden tensors never leave the chip:
//
//   a = swish(x w1 + b1)    d = swish(dwconv(a) + b_dw)    y = d w2 + b2
//   dx = (swish'(x w1 + b1) * dwconv'(swish'(dwconv(a) + b_dw) * (dy w2'))) w1'
//
//   mbconv_fprop_bf16_n<N>(x, w1, b1, dw, b_dw, w2, b2, y, kept, partial, cell)
//   mbconv_dgrad_bf16_n<N>(dy, kept, w1, dw, b_dw, w2, dx, partial, v0, v2, s, g, cell)
//   mbconv_pack_bf16(from, to, count)                                  w1 and w2 rounded to bf16, 8 numbers a thread
//
// x, dx [n, h, w, ci], y, dy [n, h, w, co] in f32; w1 [ci, hidden], w2 [hidden, co] in bf16; dw [5, 5, hidden], b1, b_dw [hidden], b2 [co]
// in f32. ci and co are multiples of 16, hidden of 32; N = 64, 128 or 256 is at least co forward and ci backward. Factors of products are
// bf16, sums f32, a and d are rounded to bf16. kept [n, h, w, hidden] in bf16 is x w1 + b1: the forward launch leaves it for the gradient,
// unless it is null.
//
// In a residual cell the launches do what squeeze-and-excite needs of y and dy while they have them (squeeze_excite.cuh). Forward,
// partial[slice, n, co] = sums of y over 64 pixels, two slices a tile. Backward, dy is the gradient of x + alpha y g: every block makes
// the gradient of its image's gate out of partial [slices, n, co] = sums of dy y, the weights v0 and v2, and s and g, takes alpha dy g +
// mean for the gradient of y, and adds dy to dx. partial is null where there is no cell around.
//
// A block makes 128 pixels of one image. It holds x around them (backward dy) in shared memory, walks along `hidden` in slices of 32, and
// adds each slice's product to 128 x N sums in registers. Around the tile lie pixels that its neighbours make too: 2 on each side that is not
// the image's border, backward 4 of `kept`. The cell of the published CIFAR-10 model (16x16 pixels, 256 channels, hidden 1,536) is
// two tiles of 8x16: forward 1.25 + 1 products for 1 + 1, backward 1.25 + 1 for 1 + 1. Keeping the expansion costs 0.8 MB written and read
// for an image of it, at 4.3 TB/s 0.4 us, and saves 1.5 products of 0.25 us, x in shared memory (99 KB), and half of the tanh.
// Limit: shared memory and matrix units together. Forward a slice takes 10 m-tiles x 16 k-steps x (1 + 2) + 8 warps x 2 x (4 + 4)
// ldmatrix.x4 of 4 cycles each = 2,400 cycles, 1,152 mma = 1,150 cycles of a multiprocessor at the rate of wgmma, 400 k multiply-adds of the
// depthwise window = 800 and 9,200 tanh = 580; backward the same products, two windows, 11,300 tanh. Device memory: x and y (dy and dx) and
// `kept` once and, per block, 1.5 MB of weights out of L2.
//
// Weights and `kept` come by cp.async while phases that do not read them run: w1 of the next slice during depthwise and projection, w2 during
// the expansion, so that no second buffer is needed.

#include "mma.cuh"
#include "squeeze_excite.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define TILE 128
#define TAPS 5
#define HALO (TAPS / 2)
// bf16 elements between the rows of a matrix in shared memory beyond its own: the eight rows that an ldmatrix reads lie on different banks.
#define PAD 8
// Hidden channels of a slice.
#define SLICE 32

// By value; `Cell` in src/ops/mbconv/fused.rs. A tile is rows x columns = 128 pixels, rows a multiple of 8 and columns 8 or 16. Room: pixels
// that shared memory has around a tile, at a distance of 2, and of 4; multiples of 16.
struct Cell {
    int h, w, ci, co, hidden, rows, columns, near_room, far_room;
    // Of squeeze-and-excite around it: its factor, hidden units, and slices of the partial sums.
    float alpha;
    int units, slices;
};

// swish in bf16 precision: the sigmoid from one instruction whose error is below half a unit of bf16.
__device__ inline float sigmoid_fast(float x) {
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(0.5f * x));
    return fmaf(0.5f, t, 0.5f);
}
__device__ inline float swish_fast(float x) { return x * sigmoid_fast(x); }
struct FastSwish {
    float value, slope;
    __device__ explicit FastSwish(float x) {
        const float s = sigmoid_fast(x);
        value = x * s;
        slope = s * fmaf(x, 1.0f - s, 1.0f);
    }
};

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

// The place in the tile of a pixel of a region around it; -1 outside, and beyond the region.
__device__ inline int inside_tile(const Cell &c, const Tile &tile, const Region &r, int pixel) {
    const int row = r.top + pixel / r.width - tile.y, column = r.left + pixel % r.width - tile.x;
    const bool inside = pixel < r.pixels() && row >= 0 && row < c.rows && column >= 0 && column < c.columns;
    return inside ? row * c.columns + column : -1;
}

// factor[j] a + mean[j] in channels j to j + 3.
__device__ inline float4 gated(float4 a, const float *factor, const float *mean, int j) {
    const float4 f = *reinterpret_cast<const float4 *>(factor + j), m = *reinterpret_cast<const float4 *>(mean + j);
    return make_float4(fmaf(f.x, a.x, m.x), fmaf(f.y, a.y, m.y), fmaf(f.z, a.z, m.z), fmaf(f.w, a.w, m.w));
}

// to[i, j] = data[image, pixel i of the region, j] as bf16, zero in the last pixels of an m-tile that are not in the region; with
// `factor`, factor[j] of the data plus mean[j].
__device__ inline void bring(bf16 *to, const float *__restrict__ data, const Cell &c, const Tile &tile, const Region &r, int channels,
                             const float *factor = nullptr, const float *mean = nullptr) {
    const int fours = channels / 4, pixels = (r.pixels() + 15) / 16 * 16;
    for (int i = threadIdx.x; i < pixels * fours; i += THREADS) {
        const int pixel = i / fours, j = i % fours * 4;
        uint2 packed = {};
        if (pixel < r.pixels()) {
            const int y = r.top + pixel / r.width, x = r.left + pixel % r.width;
            float4 a = *reinterpret_cast<const float4 *>(data + ((tile.image * c.h + y) * c.w + x) * channels + j);
            if (factor) a = gated(a, factor, mean, j);
            packed = make_uint2(round_bf16(a.x, a.y), round_bf16(a.z, a.w));
        }
        *reinterpret_cast<uint2 *>(to + pixel * (channels + PAD) + j) = packed;
    }
}

// Begins to copy to[i][0 .. COLUMNS] = from[i, first .. first + columns], zeros beyond; rows of `from` are `stride` apart. Sizes in 16 bytes.
__device__ inline void copy_rows(void *to, int to_stride, const void *from, int from_stride, int rows, int all_rows, int columns,
                                 int all_columns) {
    for (int i = threadIdx.x; i < all_rows * all_columns; i += THREADS) {
        const int row = i / all_columns, column = i % all_columns;
        const bool inside = row < rows && column < columns;
        const uint4 *source = static_cast<const uint4 *>(from) + (inside ? row * from_stride + column : 0);
        copy_async_16(static_cast<uint4 *>(to) + row * to_stride + column, source, inside);
    }
}

// What a slice of S hidden channels takes of dw, b_dw and, forward, b1.
template <int S>
struct Window {
    float taps[TAPS * TAPS][S], expanded[S], mixed[S];

    __device__ void copy_expansion(const float *b1, int first) { copy_rows(expanded, S / 4, b1 + first, 0, 1, 1, S / 4, S / 4); }
    __device__ void copy_mixing(const float *dw, const float *b_dw, int hidden, int first) {
        copy_rows(taps, S / 4, dw + first, hidden / 4, TAPS * TAPS, TAPS * TAPS, S / 4, S / 4);
        copy_rows(mixed, S / 4, b_dw + first, 0, 1, 1, S / 4, S / 4);
    }
};

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

// sum[r] = the 5x5 window around pixel (y + r, x) of the two channels, r < R; what is not in the region is zero. REVERSED takes the taps
// from the last to the first, as the gradient does.
template <int R, int S, bool REVERSED>
__device__ inline void correlate(float2 (&sum)[R], const bf16 *data, const Region &region, const Window<S> &window, int channel, int y, int x) {
#pragma unroll 1
    for (int kx = 0; kx < TAPS; ++kx) {
        const int column = x + kx - HALO;
        if (column < region.left || column >= region.left + region.width) continue;
        float2 taps[TAPS];
#pragma unroll
        for (int ky = 0; ky < TAPS; ++ky) {
            const int tap = REVERSED ? TAPS * TAPS - 1 - (ky * TAPS + kx) : ky * TAPS + kx;
            taps[ky] = *reinterpret_cast<const float2 *>(&window.taps[tap][channel]);
        }
        const bf16 *from = data + region.at(y - HALO, column) * (S + PAD) + channel;
#pragma unroll
        for (int i = 0; i < R + TAPS - 1; ++i) {
            const int row = y + i - HALO;
            const bool inside = row >= region.top && row < region.top + region.height;
            const float2 value = unpack(inside ? word_at(from + i * region.width * (S + PAD)) : 0);
#pragma unroll
            for (int ky = 0; ky < TAPS; ++ky) {
                const int r = i - ky;
                if (r < 0 || r >= R) continue;
                sum[r].x = fmaf(value.x, taps[ky].x, sum[r].x);
                sum[r].y = fmaf(value.y, taps[ky].y, sum[r].y);
            }
        }
    }
}

// A warp's part of the 128 x N sums: 64 pixels x N / 4 channels.
template <int N>
struct TileSums {
    static const int COLUMNS = N / 4, TILES = COLUMNS / 8;
    float c[4][TILES][4];
    int pixel, column;

    __device__ TileSums() : pixel(threadIdx.x / 32 % 2 * 64), column(threadIdx.x / 64 * COLUMNS) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < TILES; ++j)
#pragma unroll
                for (int r = 0; r < 4; ++r) c[i][j][r] = 0.0f;
    }

    // += a[128][S] times b, which is [S][N] or, with TRANSPOSED, [N][S].
    template <int S, bool TRANSPOSED>
    __device__ void add(const bf16 *a, const bf16 *b) {
        const int lane = threadIdx.x % 32, stride = TRANSPOSED ? S + PAD : N + PAD;
        a = lane_of_a(a + pixel * (S + PAD), S + PAD, lane);
        b = TRANSPOSED ? lane_of_b_transposed(b + column * stride, stride, lane) : lane_of_b(b + column, stride, lane);
#pragma unroll
        for (int k = 0; k < S; k += 16) {
            unsigned left[4][4], right[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) fragment_a(left[i], a + i * 16 * (S + PAD) + k);
#pragma unroll
            for (int j = 0; j < TILES; j += 2) {
                if (TRANSPOSED)
                    fragments_b_transposed(right, b + j * 8 * stride + k);
                else
                    fragments_b(right, b + k * stride + j * 8);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    mma_bf16(c[i][j], left[i], right[0], right[1]);
                    mma_bf16(c[i][j + 1], left[i], right[2], right[3]);
                }
            }
        }
    }

    // y[image, y, x, j] = sum + bias[j] + residual[image, y, x, j]; either may be null. With `partial`, also the sums of y over the
    // pixels of this warp. Neighbouring lanes exchange halves, so that each holds four channels of one pixel.
    __device__ void write(float *__restrict__ y, const float *__restrict__ bias, const float *__restrict__ residual,
                          float *__restrict__ partial, const Cell &cell, const Tile &tile, int channels) const {
        const int lane = threadIdx.x % 32, odd = lane % 2;
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
            const int to = column + j * 8 + lane % 4 / 2 * 4;
            float4 total = {};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = pixel + i * 16 + accumulator_row(lane, odd);
                const int row = tile.y + at / cell.columns, x = tile.x + at % cell.columns;
                const float *own = c[i][j];
                const float one = __shfl_xor_sync(0xffffffffu, odd ? own[0] : own[2], 1);
                const float two = __shfl_xor_sync(0xffffffffu, odd ? own[1] : own[3], 1);
                float4 four = odd ? make_float4(one, two, own[2], own[3]) : make_float4(own[0], own[1], one, two);
                if (row >= cell.h || x >= cell.w || to >= channels) continue;
                if (bias) four = plus(four, *reinterpret_cast<const float4 *>(bias + to));
                const int element = ((tile.image * cell.h + row) * cell.w + x) * channels + to;
                if (residual) four = plus(four, *reinterpret_cast<const float4 *>(residual + element));
                *reinterpret_cast<float4 *>(y + element) = four;
                total = plus(total, four);
            }
            if (partial) {
                // The lanes that hold these four channels.
#pragma unroll
                for (int distance = 1; distance < 32; distance *= distance == 1 ? 4 : 2) total = plus(total, from_lane(total, distance));
                const int slice = tile.index * 2 + pixel / 64;
                if ((lane & ~2) == 0 && to < channels)
                    *reinterpret_cast<float4 *>(partial + (slice * tile.images + tile.image) * channels + to) = total;
            }
        }
    }
};

// An m-tile of 16 pixels of a product with S columns: sums[16][S] = a[16][k] b, where b is [k][S] or, with TRANSPOSED, [S][k].
template <int S, bool TRANSPOSED>
__device__ inline void product(float (&sums)[S / 8][4], const bf16 *a, int a_stride, const bf16 *b, int b_stride, int depth) {
    const int lane = threadIdx.x % 32;
    a = lane_of_a(a, a_stride, lane);
    b = TRANSPOSED ? lane_of_b_transposed(b, b_stride, lane) : lane_of_b(b, b_stride, lane);
#pragma unroll
    for (int j = 0; j < S / 8; ++j)
#pragma unroll
        for (int r = 0; r < 4; ++r) sums[j][r] = 0.0f;
#pragma unroll 4
    for (int k = 0; k < depth; k += 16) {
        unsigned left[4], right[4];
        fragment_a(left, a + k);
#pragma unroll
        for (int j = 0; j < S / 8; j += 2) {
            if (TRANSPOSED)
                fragments_b_transposed(right, b + j * 8 * b_stride + k);
            else
                fragments_b(right, b + k * b_stride + j * 8);
            mma_bf16(sums[j], left, right[0], right[1]);
            mma_bf16(sums[j + 1], left, right[2], right[3]);
        }
    }
}

template <int N>
__device__ inline void fprop(const float *x, const bf16 *w1, const float *b1, const float *dw, const float *b_dw, const bf16 *w2,
                             const float *b2, float *y, bf16 *kept, float *partial, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, x_stride = c.ci + PAD;
    Window<S> &window = *reinterpret_cast<Window<S> *>(room);
    bf16 *xs = reinterpret_cast<bf16 *>(&window + 1);   // [near_room][ci]
    bf16 *expanded = xs + c.near_room * x_stride;        // [near_room][S]
    bf16 *mixed = expanded + c.near_room * STRIDE;       // [128][S]
    bf16 *leaving = mixed + TILE * STRIDE;               // [128][S]: what is kept
    bf16 *w1s = leaving + TILE * STRIDE;                 // [ci][S]
    bf16 *w2s = w1s + c.ci * STRIDE;                     // [S][N]

    const Tile tile(c);
    const Region near = tile.around(c, HALO);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, m_tiles = (near.pixels() + 15) / 16;
    const Lane<S> own;
    TileSums<N> sums;

    auto copy_expansion = [&](int first) {
        if (first < c.hidden) {
            window.copy_expansion(b1, first);
            copy_rows(w1s, STRIDE / 8, w1 + first, c.hidden / 8, c.ci, c.ci, S / 8, S / 8);
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        if (first < c.hidden) {
            window.copy_mixing(dw, b_dw, c.hidden, first);
            copy_rows(w2s, (N + PAD) / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8, N / 8);
        }
        copy_async_commit();
    };
    copy_expansion(0);
    copy_rest(0);
    bring(xs, x, c, tile, near, c.ci);
    for (int first = 0; first < c.hidden; first += S) {
        copy_async_wait<1>();
        __syncthreads();
        for (int i = warp; i < m_tiles; i += WARPS) {
            float e[S / 8][4];
            product<S, false>(e, xs + i * 16 * x_stride, x_stride, w1s, STRIDE, c.ci);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int pixel = i * 16 + accumulator_row(lane, half), own_pixel = kept ? inside_tile(c, tile, near, pixel) : -1;
#pragma unroll
                for (int j = 0; j < S / 8; ++j) {
                    const int channel = j * 8 + accumulator_column(lane);
                    const float one = e[j][2 * half] + window.expanded[channel], two = e[j][2 * half + 1] + window.expanded[channel + 1];
                    set_word(expanded + pixel * STRIDE + channel, round_bf16(swish_fast(one), swish_fast(two)));
                    if (own_pixel >= 0) set_word(leaving + own_pixel * STRIDE + channel, round_bf16(one, two));
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_expansion(first + S);
        if (kept) {
            for (int i = threadIdx.x; i < TILE * S / 8; i += THREADS) {
                const int pixel = i / (S / 8), j = i % (S / 8) * 8, row = tile.y + pixel / c.columns, column = tile.x + pixel % c.columns;
                if (row < c.h && column < c.w)
                    *reinterpret_cast<uint4 *>(kept + ((tile.image * c.h + row) * c.w + column) * c.hidden + first + j) =
                        *reinterpret_cast<const uint4 *>(leaving + pixel * STRIDE + j);
            }
        }
        {
            const int R = TILE / Lane<S>::SPAN;
            const int row = own.strip / c.columns * R, column = own.strip % c.columns;
            const float2 bias = *reinterpret_cast<const float2 *>(&window.mixed[own.channel]);
            float2 sum[R];
#pragma unroll
            for (int r = 0; r < R; ++r) sum[r] = bias;
            correlate<R, S, false>(sum, expanded, near, window, own.channel, tile.y + row, tile.x + column);
#pragma unroll
            for (int r = 0; r < R; ++r)
                set_word(mixed + ((row + r) * c.columns + column) * STRIDE + own.channel,
                         round_bf16(swish_fast(sum[r].x), swish_fast(sum[r].y)));
        }
        __syncthreads();
        sums.template add<S, false>(mixed, w2s);
        __syncthreads();
        copy_rest(first + S);
    }
    sums.write(y, b2, nullptr, partial, c, tile, c.co);
}

template <int N>
__device__ inline void dgrad(const float *dy, const bf16 *kept, const bf16 *w1, const float *dw, const float *b_dw, const bf16 *w2, float *dx,
                             const SqueezeExcite &around, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, y_stride = c.co + PAD;
    Window<S> &window = *reinterpret_cast<Window<S> *>(room);
    bf16 *dys = reinterpret_cast<bf16 *>(&window + 1);   // [near_room][co]
    bf16 *expanded = dys + c.near_room * y_stride;       // [far_room][S]: what was kept, then a
    bf16 *dmixed = expanded + c.far_room * STRIDE;       // [near_room][S]: the gradient of d, then of what is before its swish
    bf16 *dexpanded = dmixed + c.near_room * STRIDE;     // [128][S]: the slope of a, then the gradient of what is before its swish
    bf16 *w1s = dexpanded + TILE * STRIDE;               // [N][S]
    bf16 *w2s = w1s + N * STRIDE;                        // [S][co]

    const Tile tile(c);
    const Region near = tile.around(c, HALO), far = tile.around(c, 2 * HALO);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, near_tiles = (near.pixels() + 15) / 16;
    const Lane<S> own;
    TileSums<N> sums;

    auto copy_projection = [&](int first) {
        if (first < c.hidden) copy_rows(w2s, y_stride / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8, c.co / 8);
        copy_async_commit();
    };
    auto copy_kept = [&](int first) {
        if (first < c.hidden) {
            for (int i = threadIdx.x; i < far.pixels() * (S / 8); i += THREADS) {
                const int pixel = i / (S / 8), j = i % (S / 8) * 8, row = far.top + pixel / far.width, column = far.left + pixel % far.width;
                copy_async_16(expanded + pixel * STRIDE + j,
                              kept + ((tile.image * c.h + row) * c.w + column) * c.hidden + first + j, true);
            }
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        if (first < c.hidden) {
            window.copy_mixing(dw, b_dw, c.hidden, first);
            copy_rows(w1s, STRIDE / 8, w1 + first, c.hidden / 8, c.ci, N, S / 8, S / 8);
        }
        copy_async_commit();
    };
    copy_projection(0);
    copy_kept(0);
    copy_rest(0);
    if (around.partial) {
        // Nothing lies in the last tensor of the slices yet.
        float *factor = reinterpret_cast<float *>(dexpanded), *mean = factor + c.co, *inner = mean + c.co;
        const Gate gate = {unsigned(tile.images), unsigned(c.co), unsigned(c.units), unsigned(c.slices), float(c.h * c.w)};
        gate_dgrad(around, tile.image, c.alpha, gate, factor, inner, [&](unsigned k, float m) { mean[k] = m; });
        __syncthreads();
        for (int k = threadIdx.x; k < c.co; k += THREADS) factor[k] = c.alpha * around.g[tile.image * c.co + k];
        __syncthreads();
        bring(dys, dy, c, tile, near, c.co, factor, mean);
    } else {
        bring(dys, dy, c, tile, near, c.co);
    }
    for (int first = 0; first < c.hidden; first += S) {
        // All but the window and w1.
        copy_async_wait<1>();
        __syncthreads();
        for (int i = warp; i < near_tiles; i += WARPS) {
            float d[S / 8][4];
            product<S, true>(d, dys + i * 16 * y_stride, y_stride, w2s, y_stride, c.co);
#pragma unroll
            for (int j = 0; j < S / 8; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    set_word(dmixed + (i * 16 + accumulator_row(lane, half)) * STRIDE + j * 8 + accumulator_column(lane),
                             round_bf16(d[j][2 * half], d[j][2 * half + 1]));
        }
        for (int i = threadIdx.x; i < far.pixels() * (S / 8); i += THREADS) {
            const int pixel = i / (S / 8), j = i % (S / 8) * 8, own_pixel = inside_tile(c, tile, far, pixel);
            uint4 *at = reinterpret_cast<uint4 *>(expanded + pixel * STRIDE + j);
            const uint4 before = *at;
            const unsigned words[4] = {before.x, before.y, before.z, before.w};
            unsigned values[4], slopes[4];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const float2 h = unpack(words[k]);
                const FastSwish one(h.x), two(h.y);
                values[k] = round_bf16(one.value, two.value);
                slopes[k] = round_bf16(one.slope, two.slope);
            }
            *at = make_uint4(values[0], values[1], values[2], values[3]);
            if (own_pixel >= 0)
                *reinterpret_cast<uint4 *>(dexpanded + own_pixel * STRIDE + j) = make_uint4(slopes[0], slopes[1], slopes[2], slopes[3]);
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_projection(first + S);
        {
            const int R = 5, down = (near.height + R - 1) / R; // 10 rows are two strips
            const float2 bias = *reinterpret_cast<const float2 *>(&window.mixed[own.channel]);
            for (int strip = own.strip; strip < down * near.width; strip += Lane<S>::SPAN) {
                const int row = strip / near.width * R, column = strip % near.width;
                float2 sum[R];
#pragma unroll
                for (int r = 0; r < R; ++r) sum[r] = bias;
                correlate<R, S, false>(sum, expanded, far, window, own.channel, near.top + row, near.left + column);
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    if (row + r >= near.height) continue;
                    bf16 *at = dmixed + ((row + r) * near.width + column) * STRIDE + own.channel;
                    const float2 d = unpack(word_at(at));
                    set_word(at, round_bf16(d.x * FastSwish(sum[r].x).slope, d.y * FastSwish(sum[r].y).slope));
                }
            }
        }
        __syncthreads();
        copy_kept(first + S);
        {
            const int R = TILE / Lane<S>::SPAN;
            const int row = own.strip / c.columns * R, column = own.strip % c.columns;
            float2 sum[R] = {};
            correlate<R, S, true>(sum, dmixed, near, window, own.channel, tile.y + row, tile.x + column);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                // Beyond the image's border there is no slope, and nobody reads the sums.
                bf16 *at = dexpanded + ((row + r) * c.columns + column) * STRIDE + own.channel;
                const bool inside = tile.y + row + r < c.h && tile.x + column < c.w;
                const float2 slope = unpack(inside ? word_at(at) : 0);
                set_word(at, round_bf16(sum[r].x * slope.x, sum[r].y * slope.y));
            }
        }
        __syncthreads();
        sums.template add<S, true>(dexpanded, w1s);
        __syncthreads();
        copy_rest(first + S);
    }
    sums.write(dx, nullptr, around.partial ? dy : nullptr, nullptr, c, tile, c.ci);
}

#define MBCONV(N)                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                      \
        mbconv_fprop_bf16_n##N(const float *x, const bf16 *w1, const float *b1, const float *dw, const float *b_dw,               \
                               const bf16 *w2, const float *b2, float *y, bf16 *kept, float *partial, Cell c) {                   \
        fprop<N>(x, w1, b1, dw, b_dw, w2, b2, y, kept, partial, c);                                                               \
    }                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                      \
        mbconv_dgrad_bf16_n##N(const float *dy, const bf16 *kept, const bf16 *w1, const float *dw, const float *b_dw,             \
                               const bf16 *w2, float *dx, const float *partial, const float *v0, const float *v2,                 \
                               const float *s, const float *g, Cell c) {                                                          \
        dgrad<N>(dy, kept, w1, dw, b_dw, w2, dx, {partial, v0, nullptr, v2, nullptr, s, g}, c);                                   \
    }

MBCONV(64)
MBCONV(128)
MBCONV(256)

// to[i] = from[i] as bf16, eight a thread.
extern "C" __global__ void mbconv_pack_bf16(const float *from, bf16 *to, unsigned eights) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= eights) return;
    const float4 a = reinterpret_cast<const float4 *>(from)[2 * i], b = reinterpret_cast<const float4 *>(from)[2 * i + 1];
    reinterpret_cast<uint4 *>(to)[i] =
        make_uint4(round_bf16(a.x, a.y), round_bf16(a.z, a.w), round_bf16(b.x, b.y), round_bf16(b.z, b.w));
}
