// The inverted bottleneck that doubles the resolution (mbconv_bf16.cu) with every pixel of x standing for four, and in a residual cell the
// cell's skip, the 1x1 convolution of x enlarged by bilinear interpolation:
//
//   a = swish(x w1 + b1)    d = swish(dwconv(nearest a) + b_dw)    y = d w2 + b2    skip = x v
//   dx = (swish'(x w1 + b1) * nearest'(dwconv'(swish'(dwconv(nearest a) + b_dw) * (dy w2')))) w1' + (bilinear' dy) v'
//
//   mbconv_up_fprop_bf16_n<N>(x, w1, b1, taps, b_dw, w2, b2, v, y, skip, kept, kept_mixed, partial, cell)
//   mbconv_up_dgrad_bf16_n<N>(dy, kept, kept_mixed, w1, taps, w2, v, dx, partial, v0, v2, s, g, cell)
//   mbconv_up_taps_f32(dw, taps, hidden)                              the window as the pixels of x see it
//
// x, dx [n, h, w, ci], y, dy [n, 2h, 2w, co], v [ci, co] in f32, skip [n, h, w, co]: interpolating and multiplying channels commute, so the
// product is made at the low resolution and interpolated by whoever reads it (squeeze_excite.cu). v and skip are null without a cell
// around. kept [n, h, w, hidden] and kept_mixed [p, q, n, h, w, hidden] are the slopes of either swish in 8 bits (mbconv_slopes.cuh), so that
// the gradient makes neither a nor d again. The rest is as in mbconv_bf16.cu; ci is a multiple of 32, N = 64 or 128 is at least co forward, 128 or 256 at least ci backward.
//
// A pixel of y at (2i + p, 2j + q) sees the 5x5 window fall on 3x3 pixels of a: the taps on one of them add up, for each of the four
// (p, q) another way: taps [p, q, 3, 3, hidden]. So the hidden channels are made at the low resolution, and the window is 9 products, not 25,
// in either direction. What lies outside the enlarged image lies outside the image.
//
// A block makes 8x8 pixels of x, 256 of y. Pixels of the high resolution are numbered plane by plane, (p, q) first, then as the pixels of x
// that they stand on: neighbours within a plane lie side by side in shared memory. Around the tile lies one pixel of x that neighbours make
// too. The cell of the published CIFAR-10 model (16x16 pixels, 256 channels, hidden 768, 128 out) is four tiles an
// image: 96 pixels expanded for 64, backward 336 of y for 256; that is 1.17 and 1.21 of the products. Limit: shared memory and matrix
// units as there; device memory: x, skip, y and what is kept once, a block 0.6 MB of weights and 0.13 MB of v out of L2.

#include "bilinear.cuh"
#include "mbconv_slopes.cuh"

// Pixels of x in a tile along each axis, of y in a tile, and what the window of five is at the low resolution.
#define SIDE 8
#define LOW (SIDE * SIDE)
#define PLANES 4
#define WINDOW 3
#define HALO 1
#define TAPS (PLANES * WINDOW * WINDOW)
// Pixels of a plane of a tile with all that its windows reach, zero where that is not in the image: no window asks where the image ends.
#define PITCH (SIDE + 2 * HALO)
#define PADDED (PITCH * PITCH)
// Bytes between the slopes of pixels: what lanes write at once lies on different banks.
#define KEPT (SLICE + 16)

// What a slice of S hidden channels takes of the taps, b_dw and, forward, b1.
template <int S>
struct Window {
    float taps[TAPS][S], expanded[S], mixed[S];

    __device__ void copy_expansion(const float *b1, int first) { copy_rows<S / 4>(expanded, S / 4, b1 + first, 0, 1, 1); }
    __device__ void copy_taps(const float *from, int hidden, int first) {
        copy_rows<S / 4>(taps, S / 4, from + first, hidden / 4, TAPS, TAPS);
    }
    __device__ void copy_mixing(const float *b_dw, int first) { copy_rows<S / 4>(mixed, S / 4, b_dw + first, 0, 1, 1); }
    __device__ float2 tap(int plane, int ky, int kx, int channel) const {
        return *reinterpret_cast<const float2 *>(&taps[(plane * WINDOW + ky) * WINDOW + kx][channel]);
    }
};

__device__ inline float2 fma(float2 a, float2 b, float2 c) { return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)); }

// sum[q][r] += the window of planes (p, q) around pixel (y + r, x) of the two channels of `data`, which is of the low resolution; zero beyond
// the region. Two planes at a time, because sums of four beside those of the tile do not fit the registers.
template <int R, int S>
__device__ inline void spread(float2 (&sum)[2][R], const bf16 *data, const Region &region, const Window<S> &window, int channel, int p, int y,
                              int x) {
#pragma unroll 1
    for (int kx = 0; kx < WINDOW; ++kx) {
        const int column = x + kx - HALO;
        if (column < region.left || column >= region.left + region.width) continue;
        const bf16 *from = data + region.at(y - HALO, column) * (S + PAD) + channel;
        float2 values[R + WINDOW - 1];
#pragma unroll
        for (int i = 0; i < R + WINDOW - 1; ++i) {
            const int row = y + i - HALO;
            const bool inside = row >= region.top && row < region.top + region.height;
            values[i] = unpack(inside ? word_at(from + i * region.width * (S + PAD)) : 0);
        }
#pragma unroll
        for (int q = 0; q < 2; ++q)
#pragma unroll
            for (int ky = 0; ky < WINDOW; ++ky) {
                const float2 tap = window.tap(2 * p + q, ky, kx, channel);
#pragma unroll
                for (int r = 0; r < R; ++r) sum[q][r] = fma(values[r + ky], tap, sum[q][r]);
            }
    }
}

// The transpose: sum[r] += what pixel r of a column of the low resolution gets of the padded planes of `data`, from the corner of the first
// one's window on.
template <int R, int S>
__device__ inline void collect(float2 (&sum)[R], const bf16 *data, const Window<S> &window, int channel) {
#pragma unroll
    for (int plane = 0; plane < PLANES; ++plane)
#pragma unroll
        for (int kx = 0; kx < WINDOW; ++kx) {
            const bf16 *from = data + (plane * PADDED + WINDOW - 1 - kx) * (S + PAD);
            float2 values[R + WINDOW - 1];
#pragma unroll
            for (int i = 0; i < R + WINDOW - 1; ++i) values[i] = unpack(word_at(from + i * PITCH * (S + PAD)));
#pragma unroll
            for (int ky = 0; ky < WINDOW; ++ky) {
                const float2 tap = window.tap(plane, ky, kx, channel);
#pragma unroll
                for (int r = 0; r < R; ++r) sum[r] = fma(values[r + WINDOW - 1 - ky], tap, sum[r]);
            }
        }
}

// to[i][0 .. columns] = v[row + i][column ..] as bf16, zeros beyond `rows`, in rows of `stride`.
__device__ inline void bring_matrix(bf16 *to, int stride, const float *v, int v_stride, int rows, int all_rows, int columns, int all_columns) {
    for (int i = threadIdx.x; i < all_rows * (all_columns / 4); i += THREADS) {
        const int row = i / (all_columns / 4), column = i % (all_columns / 4) * 4;
        uint2 packed = {};
        if (row < rows && column < columns) {
            const float4 a = *reinterpret_cast<const float4 *>(v + row * v_stride + column);
            packed = make_uint2(round_bf16(a.x, a.y), round_bf16(a.z, a.w));
        }
        *reinterpret_cast<uint2 *>(to + row * stride + column) = packed;
    }
}

// The slopes of two neighbouring channels.
__device__ inline void set_slopes(unsigned char *to, const HalfSwish &one, const HalfSwish &two) {
    *reinterpret_cast<unsigned short *>(to) = join(one.slope(), two.slope());
}

// Where pixels lie: rows of the tensors of either resolution.
struct Places {
    const Cell &c;
    const Tile &tile;

    __device__ int low(int y, int x) const { return (tile.image * c.h + y) * c.w + x; }
    __device__ int high(int plane, int y, int x) const { return (2 * (tile.image * c.h + y) + plane / 2) * 2 * c.w + 2 * x + plane % 2; }
    // Of kept_mixed, by a row of the low resolution.
    __device__ int plane_row(int plane, int row) const { return plane * tile.images * c.h * c.w + row; }
    // -1 beyond the image.
    __device__ int own_low(int at) const {
        const int y = tile.y + at / SIDE, x = tile.x + at % SIDE;
        return y < c.h && x < c.w ? low(y, x) : -1;
    }
    __device__ int own_high(int at) const {
        const int y = tile.y + at % LOW / SIDE, x = tile.x + at % SIDE;
        return y < c.h && x < c.w ? high(at / LOW, y, x) : -1;
    }
};

template <int N>
__device__ inline void fprop(const float *x, const bf16 *w1, const float *b1, const float *taps, const float *b_dw, const bf16 *w2,
                             const float *b2, const float *v, float *y, float *skip, unsigned char *kept,
                             unsigned char *kept_mixed, float *partial, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, M = 2, SKIP = 128, x_stride = c.ci + PAD;
    Window<S> &window = *reinterpret_cast<Window<S> *>(room);
    bf16 *xs = reinterpret_cast<bf16 *>(&window + 1);   // [near_room][ci]
    bf16 *expanded = xs + c.near_room * x_stride;       // [near_room][S]
    bf16 *mixed = expanded + c.near_room * STRIDE;      // [256][S]
    // What is kept: [64][S] slopes of a, [256][S] of d.
    unsigned char *leaving = reinterpret_cast<unsigned char *>(mixed + PLANES * LOW * STRIDE), *leaving_mixed = leaving + LOW * KEPT;
    bf16 *w1s = reinterpret_cast<bf16 *>(leaving_mixed + PLANES * LOW * KEPT); // [ci][S]
    bf16 *w2s = w1s + c.ci * STRIDE;                    // [S][N], for the skip [S][SKIP]

    const Tile tile(c);
    const Region near = tile.around(c, HALO);
    const Places places = {c, tile};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, m_tiles = (near.pixels() + 15) / 16;
    const Lane<S> own;

    auto copy_expansion = [&](int first) {
        if (first < c.hidden) {
            window.copy_expansion(b1, first);
            copy_rows<S / 8>(w1s, STRIDE / 8, w1 + first, c.hidden / 8, c.ci, c.ci);
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        if (first < c.hidden) {
            window.copy_taps(taps, c.hidden, first);
            window.copy_mixing(b_dw, first);
            copy_rows<N / 8>(w2s, (N + PAD) / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8);
        }
        copy_async_commit();
    };
    copy_expansion(0);
    bring<16 * M>(xs, x, near.pixels(), c.ci, [&](int pixel) { return places.low(near.top + pixel / near.width, near.left + pixel % near.width); });
    if (skip) {
        TileSums<LOW, SKIP> sums;
        unsigned rows[LOW / 16];
#pragma unroll
        for (int i = 0; i < LOW / 16; ++i) {
            // A pixel of the tile beyond the image has a row that counts for nothing.
            const int at = i * 16 + lane % 16, row = min(tile.y + at / SIDE, c.h - 1), column = min(tile.x + at % SIDE, c.w - 1);
            rows[i] = shared_address(xs + near.at(row, column) * x_stride + lane / 16 * 8);
        }
        for (int k = 0; k < c.ci; k += S) {
            __syncthreads();
            bring_matrix(w2s, SKIP + PAD, v + k * c.co, c.co, S, S, c.co, SKIP);
            __syncthreads();
            sums.template add_rows<S, false>([&](int i) { return rows[i] + k * BYTES; }, w2s);
        }
        __syncthreads();
        sums.write(skip, nullptr, nullptr, nullptr, tile, c.co, [&](int at) { return places.own_low(at); });
    }
    copy_rest(0);
    TileSums<PLANES * LOW, N> sums;
    for (int first = 0; first < c.hidden; first += S) {
        copy_async_wait<1>();
        __syncthreads();
        for (int i = warp * M; i < m_tiles; i += WARPS * M) {
            float e[M][S / 8][4];
            product<M, S, false>(e, xs + i * 16 * x_stride, x_stride, w1s, STRIDE, c.ci);
#pragma unroll
            for (int m = 0; m < 2 * M; ++m) {
                const int half = m % 2, pixel = (i + m / 2) * 16 + accumulator_row(lane, half);
                const int row = near.top + pixel / near.width - tile.y, column = near.left + pixel % near.width - tile.x;
                const bool keeps = kept && pixel < near.pixels() && row >= 0 && row < SIDE && column >= 0 && column < SIDE;
#pragma unroll
                for (int j = 0; j < S / 8; ++j) {
                    const int channel = j * 8 + accumulator_column(lane);
                    const HalfSwish one(0.5f * (e[m / 2][j][2 * half] + window.expanded[channel]));
                    const HalfSwish two(0.5f * (e[m / 2][j][2 * half + 1] + window.expanded[channel + 1]));
                    set_word(expanded + pixel * STRIDE + channel, round_bf16(one.value, two.value));
                    if (keeps) set_slopes(leaving + (row * SIDE + column) * KEPT + channel, one, two);
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_expansion(first + S);
        if (kept) {
            for (int i = threadIdx.x; i < LOW * S / 16; i += THREADS) {
                const int pixel = i / (S / 16), j = i % (S / 16) * 16, row = places.own_low(pixel);
                if (row >= 0)
                    *reinterpret_cast<uint4 *>(kept + row * c.hidden + first + j) =
                        *reinterpret_cast<const uint4 *>(leaving + pixel * KEPT + j);
            }
        }
        {
            const int R = LOW / Lane<S>::SPAN, row = own.strip / SIDE * R, column = own.strip % SIDE;
            const float2 bias = *reinterpret_cast<const float2 *>(&window.mixed[own.channel]);
#pragma unroll 1
            for (int p = 0; p < 2; ++p) {
                float2 sum[2][R];
#pragma unroll
                for (int i = 0; i < 2 * R; ++i) sum[i / R][i % R] = bias;
                spread<R, S>(sum, expanded, near, window, own.channel, p, tile.y + row, tile.x + column);
#pragma unroll
                for (int i = 0; i < 2 * R; ++i) {
                    const HalfSwish one(0.5f * sum[i / R][i % R].x), two(0.5f * sum[i / R][i % R].y);
                    const int pixel = (2 * p + i / R) * LOW + (row + i % R) * SIDE + column;
                    set_word(mixed + pixel * STRIDE + own.channel, round_bf16(one.value, two.value));
                    if (kept) set_slopes(leaving_mixed + pixel * KEPT + own.channel, one, two);
                }
            }
        }
        __syncthreads();
        if (kept) {
            for (int i = threadIdx.x; i < PLANES * LOW * S / 16; i += THREADS) {
                const int pixel = i / (S / 16), j = i % (S / 16) * 16, row = places.own_low(pixel % LOW);
                if (row >= 0)
                    *reinterpret_cast<uint4 *>(kept_mixed + places.plane_row(pixel / LOW, row) * c.hidden + first + j) =
                        *reinterpret_cast<const uint4 *>(leaving_mixed + pixel * KEPT + j);
            }
        }
        sums.template add<S, false>(mixed, w2s);
        __syncthreads();
        copy_rest(first + S);
    }
    sums.write(y, b2, nullptr, partial, tile, c.co, [&](int at) { return places.own_high(at); });
}

template <int N>
__device__ inline void dgrad(const float *dy, const unsigned char *kept, const unsigned char *kept_mixed, const bf16 *w1,
                             const float *taps, const bf16 *w2, const float *v, float *dx, const SqueezeExcite &around, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, M = 3, y_stride = c.co + PAD;
    Window<S> &window = *reinterpret_cast<Window<S> *>(room);
    bf16 *dys = reinterpret_cast<bf16 *>(&window + 1);   // [near_room][co], near pixels of the high resolution
    bf16 *dmixed = dys + c.near_room * y_stride;         // [4][PADDED][S]: slopes of d in the first half of a row, then its gradient
    bf16 *dexpanded = dmixed + PLANES * PADDED * STRIDE; // [64][S]: the gradient of what is before its swish
    bf16 *w1s = dexpanded + LOW * STRIDE;                // [N][S]
    bf16 *w2s = w1s + N * STRIDE;                        // [S][co]
    unsigned char *slopes = reinterpret_cast<unsigned char *>(w2s + S * y_stride);          // [64][S]: of a
    unsigned short *padded = reinterpret_cast<unsigned short *>(slopes + LOW * KEPT);       // [near_room]: rows of dmixed

    const Tile tile(c);
    const Region near = tile.around(c, HALO);
    const Places places = {c, tile};
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, high = PLANES * near.pixels(), m_tiles = (high + 15) / 16;
    const Lane<S> own;
    TileSums<LOW, N> sums;

    auto copy_projection = [&](int first) {
        if (first < c.hidden) copy_rows<32, false>(w2s, y_stride / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8);
        copy_async_commit();
    };
    auto copy_kept = [&](int first) {
        if (first < c.hidden) {
            for (int i = threadIdx.x; i < high * (S / 16); i += THREADS) {
                const int pixel = i / (S / 16), j = i % (S / 16) * 16, plane = pixel / near.pixels(), at = pixel % near.pixels();
                const int row = places.plane_row(plane, places.low(near.top + at / near.width, near.left + at % near.width));
                copy_async_16(reinterpret_cast<unsigned char *>(dmixed + padded[pixel] * STRIDE) + j, kept_mixed + row * c.hidden + first + j,
                              true);
            }
            for (int i = threadIdx.x; i < LOW * (S / 16); i += THREADS) {
                const int pixel = i / (S / 16), j = i % (S / 16) * 16, row = places.own_low(pixel);
                copy_async_16(slopes + pixel * KEPT + j, kept + max(row, 0) * c.hidden + first + j, row >= 0);
            }
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        if (first < c.hidden) {
            window.copy_taps(taps, c.hidden, first);
            copy_rows<S / 8>(w1s, STRIDE / 8, w1 + first, c.hidden / 8, c.ci, N);
        }
        copy_async_commit();
    };
    const auto near_row = [&](int pixel) {
        const int plane = pixel / near.pixels(), at = pixel % near.pixels();
        return places.high(plane, near.top + at / near.width, near.left + at % near.width);
    };
    for (int i = threadIdx.x; i < high; i += THREADS) {
        const int plane = i / near.pixels(), at = i % near.pixels();
        padded[i] = plane * PADDED + (near.top + at / near.width - tile.y + HALO) * PITCH + near.left + at % near.width - tile.x + HALO;
    }
    for (int i = threadIdx.x; i < PLANES * PADDED * STRIDE / 8; i += THREADS) reinterpret_cast<uint4 *>(dmixed)[i] = uint4{};
    __syncthreads();
    copy_projection(0);
    copy_kept(0);
    if (v) {
        bring<16 * M>(dys, dy, high, c.co, near_row);
        for (int first = 0; first < c.co; first += S) {
            __syncthreads();
            bring_matrix(w1s, STRIDE, v + first, c.co, c.ci, N, min(S, c.co - first), S);
            // The transpose of the interpolation: a pixel gathers what the enlarged image's pixels near it read.
            for (int i = threadIdx.x; i < LOW * (S / 2); i += THREADS) {
                const int at = i / (S / 2), channel = i % (S / 2) * 2, py = tile.y + at / SIDE, px = tile.x + at % SIDE;
                float2 sum = {};
                if (py < c.h && px < c.w && first + channel < c.co) {
                    for (int oy = max(2 * py - 2, 0); oy < min(2 * py + 3, 2 * c.h); ++oy) {
                        const float down = Taps(oy, c.h).weight(py);
                        if (down == 0.0f) continue;
                        for (int ox = max(2 * px - 2, 0); ox < min(2 * px + 3, 2 * c.w); ++ox) {
                            const float weight = down * Taps(ox, c.w).weight(px);
                            const int pixel = (oy % 2 * 2 + ox % 2) * near.pixels() + near.at(oy / 2, ox / 2);
                            if (weight != 0.0f)
                                sum = fma(make_float2(weight, weight), unpack(word_at(dys + pixel * y_stride + first + channel)), sum);
                        }
                    }
                }
                set_word(dexpanded + at * STRIDE + channel, round_bf16(sum.x, sum.y));
            }
            __syncthreads();
            sums.template add<S, true>(dexpanded, w1s);
        }
        __syncthreads();
    }
    copy_rest(0);
    if (around.partial) {
        // Nothing lies in the last tensor of the slices yet.
        float *factor = reinterpret_cast<float *>(dexpanded), *mean = factor + c.co, *inner = mean + c.co;
        const Gate gate = {unsigned(tile.images), unsigned(c.co), unsigned(c.units), unsigned(c.slices), float(4 * c.h * c.w)};
        gate_dgrad(around, tile.image, c.alpha, gate, factor, inner, [&](unsigned k, float m) { mean[k] = m; });
        __syncthreads();
        for (int k = threadIdx.x; k < c.co; k += THREADS) factor[k] = c.alpha * around.g[tile.image * c.co + k];
        __syncthreads();
        bring<16 * M>(dys, dy, high, c.co, near_row, factor, mean);
    } else {
        bring<16 * M>(dys, dy, high, c.co, near_row);
    }
    for (int first = 0; first < c.hidden; first += S) {
        // All but the window and w1.
        copy_async_wait<1>();
        __syncthreads();
        for (int i = warp * M; i < m_tiles; i += WARPS * M) {
            float d[M][S / 8][4];
            product<M, S, true>(d, dys + i * 16 * y_stride, y_stride, w2s, y_stride, c.co);
            // All slopes of a row before any of its results, which take their place.
            bf16 *rows[2 * M];
            unsigned both[2 * M][S / 8];
#pragma unroll
            for (int m = 0; m < 2 * M; ++m) {
                const int pixel = (i + m / 2) * 16 + accumulator_row(lane, m % 2);
                rows[m] = pixel < high ? dmixed + padded[pixel] * STRIDE : nullptr;
#pragma unroll
                for (int j = 0; j < S / 8; ++j)
                    both[m][j] = rows[m] ? *reinterpret_cast<const unsigned short *>(reinterpret_cast<const unsigned char *>(rows[m]) +
                                                                                    j * 8 + accumulator_column(lane))
                                         : 0;
            }
            __syncwarp();
#pragma unroll
            for (int m = 0; m < 2 * M; ++m) {
                if (!rows[m]) continue;
#pragma unroll
                for (int j = 0; j < S / 8; ++j) {
                    const float *own = &d[m / 2][j][m % 2 * 2];
                    set_word(rows[m] + j * 8 + accumulator_column(lane),
                             round_bf16(own[0] * slope_at(both[m][j], 0), own[1] * slope_at(both[m][j], 1)));
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_projection(first + S);
        {
            const int R = LOW / Lane<S>::SPAN, row = own.strip / SIDE * R, column = own.strip % SIDE;
            float2 sum[R] = {};
            collect<R, S>(sum, dmixed + (row * PITCH + column) * STRIDE + own.channel, window, own.channel);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const int at = (row + r) * SIDE + column;
                const unsigned both = *reinterpret_cast<const unsigned short *>(slopes + at * KEPT + own.channel);
                // Either slope is in steps.
                const float scale = 1.0f / (SLOPE_STEPS * SLOPE_STEPS);
                set_word(dexpanded + at * STRIDE + own.channel,
                         round_bf16(sum[r].x * (scale * slope_at(both, 0)), sum[r].y * (scale * slope_at(both, 1))));
            }
        }
        __syncthreads();
        copy_kept(first + S);
        sums.template add<S, true>(dexpanded, w1s);
        __syncthreads();
        copy_rest(first + S);
    }
    sums.write(dx, nullptr, nullptr, nullptr, tile, c.ci, [&](int at) { return places.own_low(at); });
}

#define FPROP(N)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                           \
        mbconv_up_fprop_bf16_n##N(const float *x, const bf16 *w1, const float *b1, const float *taps, const float *b_dw,               \
                                  const bf16 *w2, const float *b2, const float *v, float *y, float *skip, unsigned char *kept,         \
                                  unsigned char *kept_mixed, float *partial, Cell c) {                                                 \
        fprop<N>(x, w1, b1, taps, b_dw, w2, b2, v, y, skip, kept, kept_mixed, partial, c);                                             \
    }
#define DGRAD(N)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                           \
        mbconv_up_dgrad_bf16_n##N(const float *dy, const unsigned char *kept, const unsigned char *kept_mixed, const bf16 *w1,         \
                                  const float *taps, const bf16 *w2, const float *v, float *dx, const float *partial,                  \
                                  const float *v0, const float *v2, const float *s, const float *g, Cell c) {                          \
        dgrad<N>(dy, kept, kept_mixed, w1, taps, w2, v, dx, {partial, v0, nullptr, v2, nullptr, s, g}, c);                             \
    }

FPROP(64)
FPROP(128)
DGRAD(128)
DGRAD(256)

// taps[p, q, i, j, k] = the sum of dw[ky, kx, k] over the taps with which pixel (2a + p, 2b + q) reads pixel (a + i - 1, b + j - 1).
extern "C" __global__ void mbconv_up_taps_f32(const float *dw, float *taps, unsigned hidden) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= TAPS * hidden) return;
    const int tap = at / hidden, k = at % hidden, plane = tap / 9, i = tap % 9 / 3, j = tap % 3;
    float sum = 0.0f;
    for (int ky = 0; ky < 5; ++ky)
        for (int kx = 0; kx < 5; ++kx)
            // (p + ky - 2) / 2, rounded down, is the distance of the pixel of x.
            if ((plane / 2 + ky + 2) / 2 - 2 == i - 1 && (plane % 2 + kx + 2) / 2 - 2 == j - 1) sum += dw[(ky * 5 + kx) * hidden + k];
    taps[at] = sum;
}
