// The inverted bottleneck in evaluation, one kernel forward and one for the input gradient; its hidden tensors never leave the chip:
//
//   a = swish(x w1 + b1)    d = swish(dwconv(a) + b_dw)    y = d w2 + b2
//   dx = (swish'(x w1 + b1) * dwconv'(swish'(dwconv(a) + b_dw) * (dy w2'))) w1'
//
//   mbconv_fprop_bf16_n<N>(x, w1, b1, tables, b_dw, w2, b2, y, kept, kept_mixed, partial, cell)
//   mbconv_dgrad_bf16_n<N>(dy, kept, kept_mixed, w1, tables, w2, dx, partial, v0, v2, s, g, cell)
//   mbconv_pack_bf16(from, to, factor, count)                          factor times w1 or w2 in bf16, 8 numbers a thread
//   mbconv_tables_bf16(dw, forward, backward, hidden)                  the taps as windows take them (mbconv_toeplitz.cuh)
//
// x, dx [n, h, w, ci], y, dy [n, h, w, co] in f32; w1 [ci, hidden], halved, and w2 [hidden, co] in bf16; tables [hidden, TABLE]; b1, b_dw
// [hidden], b2 [co] in f32. ci and co are multiples of 16, hidden of 32; N = 64, 128 or 256 is at least co forward and ci backward. Factors
// of products are bf16, taps among them, sums f32, a and d are rounded to bf16. kept and kept_mixed are the slopes of either swish in 8
// bits, as mbconv_planar.cuh has them: the forward launch leaves them for the gradient, unless they are null.
//
// In a residual cell the launches do what squeeze-and-excite needs of y and dy while they have them (squeeze_excite.cuh). Forward,
// partial[slice, n, co] = sums of y over 64 pixels, two slices a tile. Backward, dy is the gradient of x + alpha y g: every block makes
// the gradient of its image's gate out of partial [slices, n, co] = sums of dy y, the weights v0 and v2, and s and g, takes alpha dy g +
// mean for the gradient of y, and adds dy to dx. partial is null where there is no cell around.
//
// A block makes 8x16 pixels of one image. It holds x around them (backward dy) in shared memory, walks along `hidden` in slices of 32, and
// adds each slice's product to 128 x N sums in registers. Around the tile lie pixels that its neighbours make too, 2 on each side that is
// not the image's border. The cell of the published CIFAR-10 model (16x16 pixels, 256 channels, hidden 1,536) is two tiles an image:
// 1.25 + 1 products for 1 + 1 in either direction, and 0.09 for the window.
//
// The product of a slice with the pixels around the tile has the channels for rows, so that a lane holds two rows of one column of a
// channel: a word of the padded tile, whose channels the window then takes one by one. Four warps make 32 channels of 40 pixels each,
// the other four what lies around the tile beyond 4 patches: the larger part of a warp, the fewer passes over shared memory. A slice takes
// 1,152 of 2,700 passes for that product, 512 for the other, 14 a channel for the window; docs/performance.md has the counts.
//
// Both slopes of a hidden channel are what the gradient needs of it: with 8 bits each, half of what bf16 would take, a launch stays below
// 1.6 times its floor in device memory too, re-reads of weights included, and the gradient takes no special function.
//
// Weights and what was kept come by cp.async while phases that do not read them run: w1 of the next slice during window and projection, w2
// during the expansion, so that no second buffer is needed.

#include "mbconv_planar.cuh"

// What a slice takes of the tables, of b1 and of b_dw.
struct Window {
    unsigned tables[SLICE][TABLE];
    float expanded[SLICE], mixed[SLICE];

    __device__ void copy_tables(const unsigned *from, int first) {
        const uint4 *words = reinterpret_cast<const uint4 *>(from + first * TABLE);
        for (int i = threadIdx.x; i < SLICE * TABLE / 4; i += THREADS)
            copy_async_16(reinterpret_cast<uint4 *>(tables) + i, words + i, true);
    }
    static __device__ void copy_bias(float (&to)[SLICE], const float *from, int first) {
        copy_rows<SLICE / 4>(to, SLICE / 4, from + first, 0, 1, 1);
    }
};

// The expansion's sums begin with half the bias of their channel.
template <int T>
__device__ inline void begin(float (&e)[SLICE / 16][T][4], const Window &window) {
#pragma unroll
    for (int r = 0; r < SLICE / 8; ++r) {
        const float bias = 0.5f * window.expanded[r * 8 + threadIdx.x % 32 / 4];
#pragma unroll
        for (int i = 0; i < T; ++i) e[r / 2][i][r % 2 * 2] = e[r / 2][i][r % 2 * 2 + 1] = bias;
    }
}

// Channels of a slice that a warp takes the window of.
#define OWN (SLICE / WARPS)

// results[i] += the window of the warp's channel i on the padded tile.
__device__ inline void windows(float (&results)[OWN][4], const unsigned *padded, const Window &window, const WindowLane &lane) {
    const int first = threadIdx.x / 32 * OWN;
    const unsigned pixels = shared_address(padded + first * PLANE + lane.patch);
#pragma unroll
    for (int i = 0; i < OWN; ++i) correlate(results[i], pixels + i * PLANE * 4, window.tables[first + i], lane);
}

template <int N>
__device__ inline void fprop(const float *x, const bf16 *w1, const float *b1, const unsigned *tables, const float *b_dw, const bf16 *w2,
                             const float *b2, float *y, unsigned char *kept, unsigned char *kept_mixed, float *partial, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, x_stride = c.ci + PAD;
    Window &window = *reinterpret_cast<Window *>(room);
    bf16 *xs = reinterpret_cast<bf16 *>(&window + 1);                                 // [near_room][ci]
    unsigned *expanded = reinterpret_cast<unsigned *>(xs + c.near_room * x_stride);   // [S][PLANE]
    unsigned *mixed = expanded + S * PLANE;                                           // [S][OWN_PLANE]
    unsigned char *leaving = reinterpret_cast<unsigned char *>(mixed + S * OWN_PLANE); // [S][TILE]: slopes of d
    bf16 *w1s = reinterpret_cast<bf16 *>(leaving + S * TILE);                         // [ci][S]
    bf16 *w2s = w1s + c.ci * STRIDE;                                                  // [S][N]

    const Around around(c);
    const Tile &tile = around.tile;
    const Kept format(c);
    const OwnSlopes own_slopes(c, tile, format);
    const Patches patches(around);
    const WindowLane window_lane;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, slot = lane % 4;
    TileSums<TILE, N> sums;

    auto copy_expansion = [&](int first) {
        if (first < c.hidden) {
            Window::copy_bias(window.expanded, b1, first);
            copy_columns(w1s, w1 + first, c.hidden, c.ci, c.ci);
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        window.copy_tables(tables, first);
        Window::copy_bias(window.mixed, b_dw, first);
        copy_rows<N / 8>(w2s, (N + PAD) / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8);
        copy_async_commit();
    };
    auto finish_patch = [&](const float (&columns)[4], int m, int i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned word =
                round_bf16(HalfSwish(columns[half * 2]).value, HalfSwish(columns[half * 2 + 1]).value) & patches.mask[i];
            if (patches.mask[i]) expanded[(m * 16 + half * 8 + group) * PLANE + word_of(patches.place[i])] = word;
        }
    };
    copy_expansion(0);
    bring_around(xs, x, c.ci, around);
    for (int i = threadIdx.x; i < S * PLANE / 4; i += THREADS) reinterpret_cast<uint4 *>(expanded)[i] = uint4{};
    for (int first = 0; first < c.hidden; first += S) {
        copy_async_wait<0>();
        __syncthreads();
        copy_rest(first);
        if (warp < TILE_WARPS) {
            float e[S / 16][5][4];
            begin(e, window);
            product_around<5, true>(e, w1s, xs + warp * 32 * x_stride, xs + (TILE + warp * 8) * x_stride, x_stride, c.ci);
            const int2 pair = make_int2(slot * 2, warp * 2);
            unsigned slopes[S / 8][2];
#pragma unroll
            for (int r = 0; r < S / 8; ++r) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    unsigned words[2], slope[2][2];
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const float *both = &e[r / 2][half * 2 + i][r % 2 * 2];
                        const HalfSwish upper(both[0]), lower(both[1]);
                        words[i] = round_bf16(upper.value, lower.value) & around.mask(make_int2(pair.x + half * 8 + i, pair.y));
                        slope[i][0] = upper.slope(), slope[i][1] = lower.slope();
                    }
                    slopes[r][half] = join(slope[0][0], slope[0][1], slope[1][0], slope[1][1]);
                    *reinterpret_cast<uint2 *>(expanded + (r * 8 + group) * PLANE + word_of(pair) + half * 8) = make_uint2(words[0], words[1]);
                }
            }
#pragma unroll
            for (int m = 0; m < S / 16; ++m) finish_patch(e[m][4], m, 0);
            if (kept) {
                // Lanes 2 i + j of four get 16 bytes of row i of eight and half j.
                const int y = tile.y + pair.y, x = tile.x + slot % 2 * 8;
#pragma unroll
                for (int m = 0; m < S / 16; ++m) {
                    const unsigned own[4] = {slopes[2 * m][0], slopes[2 * m][1], slopes[2 * m + 1][0], slopes[2 * m + 1][1]};
                    const uint4 bytes = transpose_quad(own);
                    const int channel = first + m * 16 + slot / 2 * 8 + group;
                    if (y < c.h && x < c.w) *reinterpret_cast<uint4 *>(kept + format.at(c, tile.image, channel, y, x)) = bytes;
                }
            }
        } else if (patches.first < around.patches) {
            float e[S / 16][MORE][4];
            begin(e, window);
            const bf16 *own = xs + (TILE + patches.first * 8) * x_stride;
            product_around<MORE, true>(e, w1s, own, own + 16 * x_stride, x_stride, c.ci);
#pragma unroll
            for (int m = 0; m < S / 16; ++m)
#pragma unroll
                for (int i = 0; i < MORE; ++i) finish_patch(e[m][i], m, i);
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_expansion(first + S);
        float results[OWN][4];
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const float bias = 0.5f * window.mixed[warp * OWN + i];
#pragma unroll
            for (int r = 0; r < 4; ++r) results[i][r] = bias;
        }
        windows(results, expanded, window, window_lane);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int channel = warp * OWN + i;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const HalfSwish upper(results[i][half * 2]), lower(results[i][half * 2 + 1]);
                mixed[channel * OWN_PLANE + half * 32 + lane] = round_bf16(upper.value, lower.value);
                if (kept) {
                    const int at = channel * TILE + ((window_pair() + half) * COLUMNS + window_column()) * 2;
                    *reinterpret_cast<unsigned short *>(leaving + at) = join(upper.slope(), lower.slope());
                }
            }
        }
        __syncthreads();
        if (kept && own_slopes.inside)
            *reinterpret_cast<uint4 *>(kept_mixed + own_slopes.at + first * format.channel) =
                reinterpret_cast<const uint4 *>(leaving)[threadIdx.x];
        sums.template add_lines<S, OWN_PLANE * 2, false>(reinterpret_cast<const bf16 *>(mixed), w2s);
    }
    sums.write(y, b2, nullptr, partial, tile, c.co, [&](int at) { return around.window_row(at); });
}

// The slopes of d around a tile that the gradient holds of a slice: the logarithm of the 16 bytes of a pair of rows, and bytes of a pair
// and between channels. An image wider than a tile has 8 columns more on either side.
struct Slopes {
    int beside, shift, row, plane;

    __device__ explicit Slopes(const Cell &c)
        : beside(c.w > COLUMNS ? 8 : 0), shift(c.w > COLUMNS ? 2 : 1), row(16 << shift), plane(PAIRS * row + 16) {}
    __device__ int at(int2 p) const { return (p.y / 2 + HALO / 2) * row + (p.x + beside) * 2; }
};

template <int N>
__device__ inline void dgrad(const float *dy, const unsigned char *kept, const unsigned char *kept_mixed, const bf16 *w1,
                             const unsigned *tables, const bf16 *w2, float *dx, const SqueezeExcite &excite, const Cell &c) {
    extern __shared__ uint4 room[];
    const int S = SLICE, STRIDE = S + PAD, y_stride = c.co + PAD;
    Window &window = *reinterpret_cast<Window *>(room);
    bf16 *dys = reinterpret_cast<bf16 *>(&window + 1);                                 // [near_room][co]
    unsigned *dmixed = reinterpret_cast<unsigned *>(dys + c.near_room * y_stride);     // [S][PLANE]
    unsigned *dexpanded = dmixed + S * PLANE;                                          // [S][OWN_PLANE]
    bf16 *w1s = reinterpret_cast<bf16 *>(dexpanded + S * OWN_PLANE);                   // [N][S]
    bf16 *w2s = w1s + N * STRIDE;                                                      // [S][co]
    unsigned char *slopes = reinterpret_cast<unsigned char *>(w2s + S * y_stride);     // [S][TILE]: of a
    unsigned char *slopes_mixed = slopes + S * TILE;                                   // [S][Slopes::plane]: of d

    const Around around(c);
    const Tile &tile = around.tile;
    const Kept format(c);
    const OwnSlopes own_slopes(c, tile, format);
    const Slopes held(c);
    const Patches patches(around);
    const WindowLane window_lane;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, slot = lane % 4;
    TileSums<TILE, N> sums;

    auto copy_projection = [&](int first) {
        if (first < c.hidden) {
            copy_rows<32, false>(w2s, y_stride / 8, w2 + first * c.co, c.co / 8, S, S, c.co / 8);
            // Eight threads for each channel.
            const int channel = threadIdx.x / 8;
            const unsigned char *from = kept_mixed + format.at(c, tile.image, first + channel, 0, 0);
            unsigned char *to = slopes_mixed + channel * held.plane;
            for (int i = threadIdx.x % 8; i < PAIRS << held.shift; i += 8) {
                const int pair = i >> held.shift, j = i - (pair << held.shift);
                const int y = tile.y + pair * 2 - HALO, x = tile.x + j * 8 - held.beside;
                const bool inside = y >= 0 && y < c.h && x >= 0 && x < c.w;
                copy_async_16(to + i * 16, inside ? from + y / 2 * format.row + x * 2 : from, inside);
            }
        }
        copy_async_commit();
    };
    auto copy_rest = [&](int first) {
        window.copy_tables(tables, first);
        copy_async_16(reinterpret_cast<uint4 *>(slopes) + threadIdx.x, kept + own_slopes.at + first * format.channel, own_slopes.inside);
        copy_columns(w1s, w1 + first, c.hidden, c.ci, N);
        copy_async_commit();
    };
    auto finish_patch = [&](const float (&columns)[4], int m, int i) {
        if (patches.first + i >= around.patches) return;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int channel = m * 16 + half * 8 + group;
            const unsigned both = *reinterpret_cast<const unsigned short *>(slopes_mixed + channel * held.plane + held.at(patches.place[i]));
            dmixed[channel * PLANE + word_of(patches.place[i])] =
                round_bf16(columns[half * 2] * slope_at(both, 0), columns[half * 2 + 1] * slope_at(both, 1));
        }
    };
    if (excite.partial) {
        // Nothing lies in the padded tile yet.
        float *factor = reinterpret_cast<float *>(dmixed), *mean = factor + c.co, *inner = mean + c.co;
        const Gate gate = {unsigned(tile.images), unsigned(c.co), unsigned(c.units), unsigned(c.slices), float(c.h * c.w)};
        gate_dgrad(excite, tile.image, c.alpha, gate, factor, inner, [&](unsigned k, float m) { mean[k] = m; });
        __syncthreads();
        for (int k = threadIdx.x; k < c.co; k += THREADS) factor[k] = c.alpha * excite.g[tile.image * c.co + k];
        __syncthreads();
        bring_around(dys, dy, c.co, around, factor, mean);
        __syncthreads();
    } else {
        bring_around(dys, dy, c.co, around);
    }
    for (int i = threadIdx.x; i < S * PLANE / 4; i += THREADS) reinterpret_cast<uint4 *>(dmixed)[i] = uint4{};
    copy_projection(0);
    for (int first = 0; first < c.hidden; first += S) {
        copy_async_wait<0>();
        __syncthreads();
        copy_rest(first);
        if (warp < TILE_WARPS) {
            float d[S / 16][5][4] = {};
            product_around<5, false>(d, w2s, dys + warp * 32 * y_stride, dys + (TILE + warp * 8) * y_stride, y_stride, c.co);
            const int2 pair = make_int2(slot * 2, warp * 2);
#pragma unroll
            for (int r = 0; r < S / 8; ++r) {
                const int channel = r * 8 + group;
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const unsigned four =
                        *reinterpret_cast<const unsigned *>(slopes_mixed + channel * held.plane + held.at(pair) + half * 16);
                    unsigned words[2];
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        const float *both = &d[r / 2][half * 2 + i][r % 2 * 2];
                        words[i] = round_bf16(both[0] * slope_at(four, 2 * i), both[1] * slope_at(four, 2 * i + 1));
                    }
                    *reinterpret_cast<uint2 *>(dmixed + channel * PLANE + word_of(pair) + half * 8) = make_uint2(words[0], words[1]);
                }
            }
#pragma unroll
            for (int m = 0; m < S / 16; ++m) finish_patch(d[m][4], m, 0);
        } else if (patches.first < around.patches) {
            float d[S / 16][MORE][4] = {};
            const bf16 *own = dys + (TILE + patches.first * 8) * y_stride;
            product_around<MORE, false>(d, w2s, own, own + 16 * y_stride, y_stride, c.co);
#pragma unroll
            for (int m = 0; m < S / 16; ++m)
#pragma unroll
                for (int i = 0; i < MORE; ++i) finish_patch(d[m][i], m, i);
        }
        copy_async_wait<0>();
        __syncthreads();
        copy_projection(first + S);
        float results[OWN][4] = {};
        windows(results, dmixed, window, window_lane);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int channel = warp * OWN + i;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = channel * TILE + ((window_pair() + half) * COLUMNS + window_column()) * 2;
                const unsigned both = *reinterpret_cast<const unsigned short *>(slopes + at);
                dexpanded[channel * OWN_PLANE + half * 32 + lane] =
                    round_bf16(results[i][half * 2] * slope_at(both, 0), results[i][half * 2 + 1] * slope_at(both, 1));
            }
        }
        __syncthreads();
        sums.template add_lines<S, OWN_PLANE * 2, true>(reinterpret_cast<const bf16 *>(dexpanded), w1s);
    }
    sums.write(dx, nullptr, excite.partial ? dy : nullptr, nullptr, tile, c.ci, [&](int at) { return around.window_row(at); });
}

#define MBCONV(N)                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                           \
        mbconv_fprop_bf16_n##N(const float *x, const bf16 *w1, const float *b1, const unsigned *tables, const float *b_dw,             \
                               const bf16 *w2, const float *b2, float *y, unsigned char *kept, unsigned char *kept_mixed,              \
                               float *partial, Cell c) {                                                                               \
        fprop<N>(x, w1, b1, tables, b_dw, w2, b2, y, kept, kept_mixed, partial, c);                                                    \
    }                                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                                           \
        mbconv_dgrad_bf16_n##N(const float *dy, const unsigned char *kept, const unsigned char *kept_mixed, const bf16 *w1,            \
                               const unsigned *tables, const bf16 *w2, float *dx, const float *partial, const float *v0,               \
                               const float *v2, const float *s, const float *g, Cell c) {                                              \
        dgrad<N>(dy, kept, kept_mixed, w1, tables, w2, dx, {partial, v0, nullptr, v2, nullptr, s, g}, c);                              \
    }

MBCONV(64)
MBCONV(128)
MBCONV(256)

// to[i] = factor from[i] as bf16, eight a thread.
extern "C" __global__ void mbconv_pack_bf16(const float *from, bf16 *to, float factor, unsigned eights) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= eights) return;
    const float4 a = reinterpret_cast<const float4 *>(from)[2 * i], b = reinterpret_cast<const float4 *>(from)[2 * i + 1];
    reinterpret_cast<uint4 *>(to)[i] = make_uint4(round_bf16(factor * a.x, factor * a.y), round_bf16(factor * a.z, factor * a.w),
                                                  round_bf16(factor * b.x, factor * b.y), round_bf16(factor * b.z, factor * b.w));
}

// The tables of both directions, a word of either a thread. Forward with halved taps, as w1 is halved. Backward with the taps from the last
// to the first, divided by the steps of either slope, which are whole numbers there, and twice as large as w1 is halved there too.
extern "C" __global__ void mbconv_tables_bf16(const float *dw, unsigned *forward, unsigned *backward, unsigned hidden) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, channel = i / TABLE;
    if (channel >= hidden) return;
    const auto tap = [&](int at) { return dw[at * hidden + channel]; };
    forward[i] = table_word(i % TABLE, [&](int y, int x) { return 0.5f * tap(y * TAPS + x); });
    backward[i] = table_word(i % TABLE, [&](int y, int x) {
        return 2.0f / (SLOPE_STEPS * SLOPE_STEPS) * tap(TAPS * TAPS - 1 - (y * TAPS + x));
    });
}
