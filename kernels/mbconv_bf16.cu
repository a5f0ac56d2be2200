// The inverted bottleneck in evaluation, one kernel forward and one for the input gradient; its hidden tensors never leave the chip:
//
//   a = swish(x w1 + b1)    d = swish(dwconv(a) + b_dw)    y = d w2 + b2
//   dx = (swish'(x w1 + b1) * dwconv'(swish'(dwconv(a) + b_dw) * (dy w2'))) w1'
//
//   mbconv_fprop_bf16_n<N>(x, w1, b1, dw, b_dw, w2, b2, y, kept, kept_mixed, partial, cell)
//   mbconv_dgrad_bf16_n<N>(dy, kept, kept_mixed, w1, dw, w2, dx, partial, v0, v2, s, g, cell)
//   mbconv_pack_bf16(from, to, count)                                  w1 and w2 rounded to bf16, 8 numbers a thread
//
// x, dx [n, h, w, ci], y, dy [n, h, w, co] in f32; w1 [ci, hidden], w2 [hidden, co] in bf16; dw [5, 5, hidden], b1, b_dw [hidden], b2 [co]
// in f32. ci and co are multiples of 16, hidden of 32; N = 64, 128 or 256 is at least co forward and ci backward. Factors of products are
// bf16, sums f32, a and d are rounded to bf16. kept and kept_mixed [n, h, w, hidden] in bf16 are what is before either swish: the forward
// launch leaves them for the gradient, unless they are null.
//
// In a residual cell the launches do what squeeze-and-excite needs of y and dy while they have them (squeeze_excite.cuh). Forward,
// partial[slice, n, co] = sums of y over 64 pixels, two slices a tile. Backward, dy is the gradient of x + alpha y g: every block makes
// the gradient of its image's gate out of partial [slices, n, co] = sums of dy y, the weights v0 and v2, and s and g, takes alpha dy g +
// mean for the gradient of y, and adds dy to dx. partial is null where there is no cell around.
//
// A block makes 8x16 pixels of one image. It holds x around them (backward dy) in shared memory, walks along `hidden` in slices of 32, and
// adds each slice's product to 128 x N sums in registers. Around the tile lie pixels that its neighbours make too, 2 on each side that is
// not the image's border. The cell of the published CIFAR-10 model (16x16 pixels, 256 channels, hidden 1,536) is two tiles an image:
// 1.25 + 1 products for 1 + 1 in either direction. Keeping what is before the swishes costs 1.6 MB written and read for an image of it, at
// 4.3 TB/s 0.75 us, and saves the gradient both expansion and window, that is 1.5 products, a second halo, and half of all its instructions.
// A slice takes 5 warps x 16 k-steps x (2 + 2) + 8 warps x 2 x (4 + 4) ldmatrix.x4 of 4 passes over shared memory each = 1,790 of 3,100
// passes forward, 2,900 backward, beside 1,152 mma; docs/performance.md has the counts. A window is made for 4x2 pixels at a time out of
// 8x6 values, each read once; the padded tile is zero where it is not in the image, so that no value is asked for its place.
//
// Weights and what was kept come by cp.async while phases that do not read them run: w1 of the next slice during window and projection, w2
// during the expansion, so that no second buffer is needed.

#include "mbconv_window.cuh"

// What is the same for every slice: where a block's pixels and a lane's rows of the product around the tile lie.
struct Around {
    static const int M = 2; // m-tiles of a warp: the warps together make at least as many as there are
    const Cell &c;
    const Tile tile;
    const Region near;
    // Of a lane's rows in the padded tile; -1 beyond.
    int padded[2 * M];

    __device__ explicit Around(const Cell &cell) : c(cell), tile(cell), near(tile.around(cell, HALO)) {
#pragma unroll
        for (int m = 0; m < 2 * M; ++m) {
            const int pixel = first() + m / 2 * 16 + accumulator_row(threadIdx.x % 32, m % 2);
            const int y = near.top + pixel / near.width - tile.y, x = near.left + pixel % near.width - tile.x;
            padded[m] = pixel < near.pixels() ? (y + HALO) * PITCH + x + HALO : -1;
        }
    }
    // The warp's first row of the product.
    __device__ int first() const { return threadIdx.x / 32 * M * 16; }
    __device__ bool works() const { return first() < near.pixels(); }
    __device__ int row(int y, int x) const { return (tile.image * c.h + y) * c.w + x; }
    __device__ int near_row(int pixel) const { return row(near.top + pixel / near.width, near.left + pixel % near.width); }
    // -1 beyond the image.
    __device__ int own_row(int at) const {
        const int y = tile.y + at / COLUMNS, x = tile.x + at % COLUMNS;
        return y < c.h && x < c.w ? row(y, x) : -1;
    }
    // That of a lane's row of the product, -1 beyond the tile.
    __device__ int product_row(int m) const {
        const int y = padded[m] / PITCH - HALO, x = padded[m] % PITCH - HALO;
        return padded[m] >= 0 && y >= 0 && y < ROWS && x >= 0 && x < COLUMNS ? row(tile.y + y, tile.x + x) : -1;
    }
};

template <int N>
__device__ inline void fprop(const float *x, const bf16 *w1, const float *b1, const float *dw, const float *b_dw, const bf16 *w2,
                             const float *b2, float *y, bf16 *kept, bf16 *kept_mixed, float *partial, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, M = Around::M, x_stride = c.ci + PAD;
    Window &window = *reinterpret_cast<Window *>(room);
    bf16 *xs = reinterpret_cast<bf16 *>(&window + 1);   // [near_room][ci]
    bf16 *expanded = xs + c.near_room * x_stride;        // [PADDED][S]
    bf16 *mixed = expanded + PADDED * STRIDE;            // [128][S]
    bf16 *leaving = mixed + TILE * STRIDE;               // [128][S]: what is before its swish, to be kept
    bf16 *w1s = leaving + TILE * STRIDE;                 // [ci][S]
    bf16 *w2s = w1s + c.ci * STRIDE;                     // [S][N]

    const Around around(c);
    const int lane = threadIdx.x % 32;
    const Spot spot;
    TileSums<TILE, N> sums;

    auto copy_expansion = [&](int first) {
        if (first < c.hidden) {
            window.copy_expansion(b1, first);
            copy_rows<S / 8>(w1s, STRIDE / 8, w1 + first, c.hidden / 8, c.ci, c.ci);
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        if (first < c.hidden) {
            window.copy_taps(dw, c.hidden, first);
            window.copy_mixing(b_dw, first);
            copy_rows<N / 8>(w2s, (N + PAD) / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8);
        }
        copy_async_commit();
    };
    copy_expansion(0);
    copy_rest(0);
    bring<16 * M>(xs, x, around.near.pixels(), c.ci, [&](int pixel) { return around.near_row(pixel); });
    for (int i = threadIdx.x; i < PADDED * STRIDE / 8; i += THREADS) reinterpret_cast<uint4 *>(expanded)[i] = uint4{};
    for (int first = 0; first < c.hidden; first += S) {
        copy_async_wait<1>();
        __syncthreads();
        if (around.works()) {
            float e[M][S / 8][4];
            product<M, S, false>(e, xs + around.first() * x_stride, x_stride, w1s, STRIDE, c.ci);
#pragma unroll
            for (int m = 0; m < 2 * M; ++m) {
                const int half = m % 2;
                bf16 *to = expanded + around.padded[m] * STRIDE + accumulator_column(lane);
                unsigned before[S / 8];
#pragma unroll
                for (int j = 0; j < S / 8; ++j) {
                    const int channel = j * 8 + accumulator_column(lane);
                    const float one = e[m / 2][j][2 * half] + window.expanded[channel];
                    const float two = e[m / 2][j][2 * half + 1] + window.expanded[channel + 1];
                    if (around.padded[m] >= 0) set_word(to + j * 8, round_bf16(swish_fast(one), swish_fast(two)));
                    before[j] = round_bf16(one, two);
                }
                if (kept) {
                    const uint4 words = transpose_quad(before);
                    const int row = around.product_row(m);
                    if (row >= 0) *reinterpret_cast<uint4 *>(kept + row * c.hidden + first + lane % 4 * 8) = words;
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_expansion(first + S);
        {
            const float2 bias = *reinterpret_cast<const float2 *>(&window.mixed[spot.channel]);
            float2 sum[DOWN * ACROSS];
#pragma unroll
            for (int i = 0; i < DOWN * ACROSS; ++i) sum[i] = bias;
            correlate<false>(sum, expanded, window, spot);
#pragma unroll
            for (int i = 0; i < DOWN * ACROSS; ++i) {
                const int at = spot.at(i) * STRIDE + spot.channel;
                set_word(mixed + at, round_bf16(swish_fast(sum[i].x), swish_fast(sum[i].y)));
                if (kept) set_word(leaving + at, round_bf16(sum[i].x, sum[i].y));
            }
        }
        __syncthreads();
        if (kept) {
            for (int i = threadIdx.x; i < TILE * S / 8; i += THREADS) {
                const int pixel = i / (S / 8), j = i % (S / 8) * 8, row = around.own_row(pixel);
                if (row >= 0)
                    *reinterpret_cast<uint4 *>(kept_mixed + row * c.hidden + first + j) =
                        *reinterpret_cast<const uint4 *>(leaving + pixel * STRIDE + j);
            }
        }
        sums.template add<S, false>(mixed, w2s);
        __syncthreads();
        copy_rest(first + S);
    }
    sums.write(y, b2, nullptr, partial, around.tile, c.co, [&](int at) { return around.own_row(at); });
}

template <int N>
__device__ inline void dgrad(const float *dy, const bf16 *kept, const bf16 *kept_mixed, const bf16 *w1, const float *dw, const bf16 *w2,
                             float *dx, const SqueezeExcite &excite, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, M = Around::M, y_stride = c.co + PAD;
    Window &window = *reinterpret_cast<Window *>(room);
    bf16 *dys = reinterpret_cast<bf16 *>(&window + 1);   // [near_room][co]
    bf16 *dmixed = dys + c.near_room * y_stride;         // [PADDED][S]: before the second swish, then its gradient
    bf16 *dexpanded = dmixed + PADDED * STRIDE;          // [128][S]: before the first swish, then its gradient
    bf16 *w1s = dexpanded + TILE * STRIDE;               // [N][S]
    bf16 *w2s = w1s + N * STRIDE;                        // [S][co]

    const Around around(c);
    const Region &near = around.near;
    const Tile &tile = around.tile;
    const int lane = threadIdx.x % 32;
    const Spot spot;
    TileSums<TILE, N> sums;

    auto copy_projection = [&](int first) {
        if (first < c.hidden) copy_rows<32, false>(w2s, y_stride / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8);
        copy_async_commit();
    };
    auto copy_mixed = [&](int first) {
        if (first < c.hidden) {
            for (int i = threadIdx.x; i < near.pixels() * (S / 8); i += THREADS) {
                const int pixel = i / (S / 8), j = i % (S / 8) * 8, y = near.top + pixel / near.width, x = near.left + pixel % near.width;
                const int to = (y - tile.y + HALO) * PITCH + x - tile.x + HALO;
                copy_async_16(dmixed + to * STRIDE + j, kept_mixed + around.row(y, x) * c.hidden + first + j, true);
            }
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        if (first < c.hidden) {
            window.copy_taps(dw, c.hidden, first);
            for (int i = threadIdx.x; i < TILE * (S / 8); i += THREADS) {
                const int at = i / (S / 8), j = i % (S / 8) * 8, row = around.own_row(at);
                copy_async_16(dexpanded + at * STRIDE + j, kept + max(row, 0) * c.hidden + first + j, row >= 0);
            }
            copy_rows<S / 8>(w1s, STRIDE / 8, w1 + first, c.hidden / 8, c.ci, N);
        }
        copy_async_commit();
    };
    if (excite.partial) {
        // Nothing lies in the padded tile yet.
        float *factor = reinterpret_cast<float *>(dmixed), *mean = factor + c.co, *inner = mean + c.co;
        const Gate gate = {unsigned(tile.images), unsigned(c.co), unsigned(c.units), unsigned(c.slices), float(c.h * c.w)};
        gate_dgrad(excite, tile.image, c.alpha, gate, factor, inner, [&](unsigned k, float m) { mean[k] = m; });
        __syncthreads();
        for (int k = threadIdx.x; k < c.co; k += THREADS) factor[k] = c.alpha * excite.g[tile.image * c.co + k];
        __syncthreads();
        bring<16 * M>(dys, dy, near.pixels(), c.co, [&](int pixel) { return around.near_row(pixel); }, factor, mean);
        __syncthreads();
    } else {
        bring<16 * M>(dys, dy, near.pixels(), c.co, [&](int pixel) { return around.near_row(pixel); });
    }
    for (int i = threadIdx.x; i < PADDED * STRIDE / 8; i += THREADS) reinterpret_cast<uint4 *>(dmixed)[i] = uint4{};
    __syncthreads();
    copy_projection(0);
    copy_mixed(0);
    copy_rest(0);
    for (int first = 0; first < c.hidden; first += S) {
        // All but the last copies.
        copy_async_wait<1>();
        __syncthreads();
        if (around.works()) {
            float d[M][S / 8][4];
            product<M, S, true>(d, dys + around.first() * y_stride, y_stride, w2s, y_stride, c.co);
#pragma unroll
            for (int m = 0; m < 2 * M; ++m) {
                if (around.padded[m] < 0) continue;
                bf16 *at = dmixed + around.padded[m] * STRIDE + accumulator_column(lane);
#pragma unroll
                for (int j = 0; j < S / 8; ++j) {
                    const float2 before = unpack(word_at(at + j * 8));
                    const float *own = &d[m / 2][j][m % 2 * 2];
                    set_word(at + j * 8, round_bf16(own[0] * FastSwish(before.x).slope, own[1] * FastSwish(before.y).slope));
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_projection(first + S);
        {
            float2 sum[DOWN * ACROSS] = {};
            correlate<true>(sum, dmixed, window, spot);
#pragma unroll
            for (int i = 0; i < DOWN * ACROSS; ++i) {
                bf16 *at = dexpanded + spot.at(i) * STRIDE + spot.channel;
                const float2 before = unpack(word_at(at));
                set_word(at, round_bf16(sum[i].x * FastSwish(before.x).slope, sum[i].y * FastSwish(before.y).slope));
            }
        }
        __syncthreads();
        copy_mixed(first + S);
        sums.template add<S, true>(dexpanded, w1s);
        __syncthreads();
        copy_rest(first + S);
    }
    sums.write(dx, nullptr, excite.partial ? dy : nullptr, nullptr, tile, c.ci, [&](int at) { return around.own_row(at); });
}

#define MBCONV(N)                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                      \
        mbconv_fprop_bf16_n##N(const float *x, const bf16 *w1, const float *b1, const float *dw, const float *b_dw,               \
                               const bf16 *w2, const float *b2, float *y, bf16 *kept, bf16 *kept_mixed, float *partial, Cell c) { \
        fprop<N>(x, w1, b1, dw, b_dw, w2, b2, y, kept, kept_mixed, partial, c);                                                   \
    }                                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                      \
        mbconv_dgrad_bf16_n##N(const float *dy, const bf16 *kept, const bf16 *kept_mixed, const bf16 *w1, const float *dw,        \
                               const bf16 *w2, float *dx, const float *partial, const float *v0, const float *v2,                 \
                               const float *s, const float *g, Cell c) {                                                          \
        dgrad<N>(dy, kept, kept_mixed, w1, dw, w2, dx, {partial, v0, nullptr, v2, nullptr, s, g}, c);                             \
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
