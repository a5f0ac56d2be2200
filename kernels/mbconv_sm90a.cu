// kernelc: compute_90a
// The inverted bottleneck of mbconv_bf16.cu for compute capability 9.0: the same tile, the same results but for roundings of the taps.
//
//   mbconv_fprop_sm90a_n<N>(x, slices, b2, y, kept, kept_mixed, partial, cell, blocks)                     N = 64, 128 or 256 is ci and co
//   mbconv_dgrad_sm90a_n<N>(dy, kept, kept_mixed, slices, dx, partial, v0, v2, s, g, cell, blocks)
//   mbconv_pack_sm90a(w1, b1, dw, b_dw, w2, slices, ci, co, hidden)               one thread for 4 bytes of `slices`
//
// The 1x1 products are wgmma, the window is mma.sync. A slice is 64 hidden channels; `slices` holds of each all weights in the layout of shared
// memory, once for both directions: w1 as ci / 64 blocks of 64 channels in lines of 128 bytes, taps with biases, w2 as co lines of 128 bytes. What
// is rows to one direction is steps of k to the other, which wgmma takes either way.
//
// The expansion is transposed: channels by pixels. So a lane has neighbouring pixels of one channel, its bias is one number, and 8x8 matrices of
// its words are stored and loaded as they are by the window, where a line of 5 taps is a Toeplitz matrix of 16x16: 5 mma a channel for 16x8 pixels
// in place of 3,200 multiply-adds. The window's results are stored channel by channel, pixels along a line, and are the left factor of the
// projection that way. The gradient is the same the other way round: project', times the slope at kept_mixed, window with the taps from the last to
// the first, times the slope at kept, expand'.
//
// swish(x) = h tanh(h) + h and twice its slope have only h = x / 2 in them: w1, the taps and their biases are packed as halves, which is exact. h is
// what is kept, and the gradient takes the slopes twice, which makes up for the halves that it multiplies with.
//
// Warps of a third group bring the weights by bulk copies; mbarriers say when they are there and when they may go. While one slice's window runs, the
// tensor cores make the first product of the next; while its swish runs, the second of the one before:
//
//   wgmma        | expand i+1            | project i     | expand i+2 ...
//   other units  | window i              | swish i+1     | window i+1 ...
//
// Counted per slice and block of the published cell (256 channels, 160 pixels around the tile), each at its unit's rate: wgmma 1,280 + 1,024 cycles,
// the window's mma 520; 10,240 + 8,192 tanh 1,150; shared memory 1,790 passes of wgmma, 960 of the window, 290 of hidden tensors: see
// docs/performance.md.

#include "mbconv_sm90a.cuh"

// swish and twice its slope, from half of their argument.
__device__ inline float swish_half(float h) { return fmaf(h, tanh_fast(h), h); }
__device__ inline float slope_twice(float h) {
    const float t = tanh_fast(h), s = 1.0f + t;
    return fmaf(s, fmaf(-h, t, h), s);
}
// The words of two sums after their swish, and before it times the slope there.
__device__ inline unsigned through_swish(const float *sum) { return round_bf16(swish_half(sum[0]), swish_half(sum[1])); }
__device__ inline unsigned through_slope(const float *sum, unsigned before) {
    const float2 h = unpack(before);
    return round_bf16(sum[0] * slope_twice(h.x), sum[1] * slope_twice(h.y));
}

// What a warpgroup does that computes: sums[64, N] over all hidden channels of its half of the tile's columns, row i pixel i % 8 of line i / 8. WORD is
// bf16 forward, which writes what is kept unless it is null, and const bf16 in the gradient, which reads it.
template <int N, bool WIDE, bool FORWARD, class Word>
__device__ inline void compute(const Room<N, WIDE> &room, int group, const Near<WIDE> &near, Word *kept, Word *kept_mixed, float (&sums)[N / 2]) {
    typedef Near<WIDE> Pixels;
    const Cell &c = near.c;
    const Tile &tile = near.tile;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, last = c.hidden / HIDDEN - 1;
    Mbarriers &barriers = *room.barriers;
    Pieces pieces(room.pieces);
    const Toeplitz<WIDE> window(room.planes);
    // Before the window, and after it: the tensors that are kept.
    Word *const here = FORWARD ? kept : kept_mixed, *const there = FORWARD ? kept_mixed : kept;

    // The warp's 16 channels of the expansion, and those of the lane: in its fragments `channel` and 8 further, in a piece lane / 2.
    const int channels = warp % 4 * 16, channel = channels + lane / 4, top = near.first + group * Pixels::LINES;
    const unsigned to_planes =
        shared_address(room.planes) + (channels + lane / 16 * 8 + lane % 8) * PLANE + (top + HALO) * PLANE_LINE + lane / 8 % 2 * 16;
    // Bit l: whether line l of the warpgroup is in the image, and bit l + 16: whether it is the tile's.
    unsigned exist = 0;
#pragma unroll
    for (int l = 0; l < Pixels::LINES; ++l) exist |= near.has(top + l) ? 1u << l | unsigned(top + l >= 0 && top + l < ROWS) << (l + 16) : 0;
    const unsigned inside[2] = {near.inside(lane % 4 * 2), near.inside(lane % 4 * 2 + 8)};
    // Of the window's results; the place of a row differs in its bits 5 and 6 between pairs of channels.
    const unsigned to_mixed = shared_address(room.mixed) + lane / 8 % 2 * HALF + (warp * OWN + lane / 16) * LINE + (lane % 8 ^ lane / 16) * 16;

    // The lane's chunk of a piece in what is kept: of the warpgroup's first line, and of the warp's first two channels of the window.
    const int pitch = (c.w + 7) / 8 * 8, plane = c.h * pitch;
    const bool whole = tile.x + lane % 2 * 8 < pitch, line_exists = whole && tile.y + lane % 16 / 2 < c.h;
    int line_at = ((tile.image * c.hidden + channels + lane / 2) * c.h + tile.y + top) * pitch + tile.x + lane % 2 * 8;
    int pair_at = ((tile.image * c.hidden + warp * OWN + lane / 16) * c.h + tile.y + lane % 16 / 2) * pitch + tile.x + lane % 2 * 8;
    // The lane's word of the pixels beside the tile: before it or behind it.
    const int side_line = lane % 4 / 2, side = lane % 2 ? COLUMNS : -HALO;
    const unsigned side_inside = near.inside(side);
    unsigned char *const to_side = room.planes + channel * PLANE + (top + HALO + side_line) * PLANE_LINE + 2 * COLUMNS + lane % 2 * 4;
    int side_at = ((tile.image * c.hidden + channel) * c.h + tile.y + top + side_line) * pitch + tile.x + side;
    // Piece `which` of slice i, or of the next one: the lines of the warpgroup, then pairs of channels.
    const auto ask = [&](int i, int which) {
        const int count = Pixels::LINES + OWN / 2, next = which / count * HIDDEN * plane;
        const bool more = i + which / count <= last;
        which %= count;
        if (which < Pixels::LINES) {
            const bool exists = more && whole && exist >> which & 1;
            pieces.ask(here + (exists ? line_at + next + which * pitch : 0), exists);
        } else {
            const bool exists = more && line_exists;
            pieces.ask(there + (exists ? pair_at + next + (which - Pixels::LINES) * 2 * plane : 0), exists);
        }
    };

    float e[Pixels::PIXELS / 2];
#pragma unroll
    for (int k = 0; k < N / 2; ++k) sums[k] = 0.0f;
#pragma unroll
    for (int k = 0; k < Pixels::PIXELS / 2; ++k) e[k] = 0.0f;
    // Here, and not while products run.
    wgmma_sums(sums);
    wgmma_sums(e);
    const auto expand = [&](int i) {
        mbarrier_wait(&barriers.full[FIRST], i & 1);
        const unsigned long long a = lines_at(room.weights), b = lines_at(room.near + group * Pixels::PIXELS * LINE);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < N; k += 16) {
            // A line of w1 has 64 steps, one of w2 is one.
            const int of_a = FORWARD ? k / 64 * HALF + k % 64 * 2 : k * LINE, of_b = k / 64 * 2 * Pixels::PIXELS * LINE + k % 64 * 2;
            wgmma<!FORWARD, 0>(e, a + of_a / 16, b + of_b / 16, k == 0);
        }
        wgmma_commit();
    };
    const auto expanded_is_there = [&] {
        wgmma_sums(e);
        leave(&barriers.empty[FIRST]);
    };
    if (!FORWARD)
        for (int which = 0; which < Pieces::AHEAD; ++which) ask(0, which);
    expand(0);
    wgmma_wait<0>();
    expanded_is_there();
    for (int i = 0; i <= last; ++i) {
        // Addresses are made where they stand: kept from round to round they would take the registers of the sums.
        asm volatile("" : "+r"(line_at), "+r"(pair_at), "+r"(side_at));
        mbarrier_wait(&barriers.full[WINDOW], i & 1);
        pair_up<FORWARD>(room.own_pairs(), *room.taps);
        const float bias[2] = {room.taps->expanded[channel], room.taps->expanded[channel + 8]};
#pragma unroll
        for (int l = 0; l < Pixels::LINES; ++l) {
            unsigned before[4], words[4];
            if (!FORWARD) pieces.template take<false>(before, [&] { ask(i, l + Pieces::AHEAD); });
            // Channels `channel` and 8 further, columns 0 to 7 and 8 to 15 of each.
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                float *sum = e + 4 * (2 * l + m % 2) + m / 2 * 2;
                if (FORWARD) {
                    sum[0] += bias[m / 2], sum[1] += bias[m / 2];
                    before[m] = round_bf16(sum[0], sum[1]);
                    words[m] = through_swish(sum) & inside[m % 2];
                } else {
                    words[m] = through_slope(sum, before[m]) & inside[m % 2];
                }
            }
            if (exist >> l & 1) store_matrices_at(to_planes + l * PLANE_LINE, words);
            if constexpr (FORWARD)
                if (kept && exist >> (l + 16) & 1) pieces.template leave<false>(before, here + line_at + l * pitch, whole);
        }
#pragma unroll
        for (int s = 0; s < Pixels::SIDES; ++s) {
            // Two lines of the pixels before and behind the tile.
            const unsigned own = near.has(top + side_line + 2 * s) ? side_inside : 0;
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                float *sum = e + 4 * (2 * Pixels::LINES + s) + m * 2;
                unsigned word = 0;
                if (FORWARD) {
                    sum[0] += bias[m], sum[1] += bias[m];
                    word = through_swish(sum) & own;
                } else if (own) {
                    word = through_slope(sum, *reinterpret_cast<const unsigned *>(here + side_at + 8 * m * plane + 2 * s * pitch)) & own;
                }
                *reinterpret_cast<unsigned *>(to_side + 8 * m * PLANE + 2 * s * PLANE_LINE) = word;
            }
        }
        leave(&barriers.empty[WINDOW]);
        wgmma_wait<0>();
        if (i > 0) leave(&barriers.empty[SECOND]);
        barrier_of(COMPUTE, THREADS);
        // The last one is made twice, so that the same products run in every round: the assembler lets them run then only.
        expand(min(i + 1, last));
#pragma unroll
        for (int pair = 0; pair < OWN / 2; ++pair) {
            const Pairs *pairs = room.own_pairs();
            float sum[2][4];
#pragma unroll
            for (int k = 0; k < 8; ++k) sum[k / 4][k % 4] = FORWARD ? pairs[pair * 2 + k / 4].bias : 0.0f;
            window.add(sum, pair * 2, pairs);
            unsigned before[4], words[4];
            if (!FORWARD) pieces.template take<true>(before, [&] { ask(i, Pixels::LINES + pair + Pieces::AHEAD); });
            // Two channels, columns 0 to 7 and 8 to 15 of each.
#pragma unroll
            for (int m = 0; m < 4; ++m) {
                const float *of = sum[m / 2] + m % 2 * 2;
                if (FORWARD) before[m] = round_bf16(of[0], of[1]);
                words[m] = FORWARD ? through_swish(of) : through_slope(of, before[m]);
            }
            store_transposed_at((to_mixed ^ pair * 32) + pair * 2 * LINE, words);
            if constexpr (FORWARD)
                if (kept) pieces.template leave<true>(before, there + pair_at + pair * 2 * plane, line_exists);
        }
        proxy_fence();
        barrier_of(COMPUTE, THREADS);
        mbarrier_wait(&barriers.full[SECOND], i & 1);
        {
            const unsigned long long a = lines_at(room.mixed + group * HALF);
            const unsigned long long b = lines_at(room.weights + Room<N, WIDE>::WEIGHTS, FORWARD ? 0 : HALF);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < HIDDEN; k += 16)
                wgmma<1, !FORWARD>(sums, a + k * LINE / 16, b + (FORWARD ? k * 2 : k * LINE) / 16, false);
            wgmma_commit();
        }
        line_at += HIDDEN * plane, pair_at += HIDDEN * plane, side_at += HIDDEN * plane;
        // All but this product.
        wgmma_wait<1>();
        expanded_is_there();
    }
    wgmma_wait<0>();
    wgmma_sums(sums);
    copy_async_wait<0>();
}

// y = sums + bias + residual, of which either may be null; with `partial`, also the sums of y over the pixels of the warpgroup. Neighbouring lanes
// exchange halves, so that each holds four channels of one pixel. scratch[8][N].
template <int N, bool WIDE>
__device__ inline void write(const float (&d)[N / 2], int group, const Near<WIDE> &near, float *__restrict__ y, const float *__restrict__ bias,
                             const float *__restrict__ residual, float *__restrict__ partial, float *scratch) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, odd = lane % 2;
    const int place = near.row(warp % 4 * 2 + odd, group * 8 + lane / 4);
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
        // One after the other: all their registers are sums.
        asm volatile("" ::: "memory");
        const int to = j * 8 + lane % 4 / 2 * 4;
        const float *own = d + 4 * j;
        const float one = __shfl_xor_sync(0xffffffffu, odd ? own[0] : own[2], 1);
        const float two = __shfl_xor_sync(0xffffffffu, odd ? own[1] : own[3], 1);
        float4 four = odd ? make_float4(one, two, own[2], own[3]) : make_float4(own[0], own[1], one, two);
        if (bias) four = plus(four, *reinterpret_cast<const float4 *>(bias + to));
        if (place >= 0) {
            if (residual) four = plus(four, *reinterpret_cast<const float4 *>(residual + place * N + to));
            *reinterpret_cast<float4 *>(y + place * N + to) = four;
        } else {
            four = {};
        }
        if (partial) {
            // The lanes that hold these four channels.
#pragma unroll
            for (int distance = 1; distance < 32; distance *= distance == 1 ? 4 : 2) four = plus(four, from_lane(four, distance));
            if ((lane & ~2) == 0) *reinterpret_cast<float4 *>(scratch + warp * N + to) = four;
        }
    }
    if (!partial || !near.exists()) return;
    barrier_of(COMPUTE, THREADS);
    for (int i = threadIdx.x; i < 2 * N; i += THREADS) {
        const int half = i / N, channel = i % N;
        const float *of = scratch + half * 4 * N + channel;
        partial[((near.tile.index * 2 + half) * near.tile.images + near.tile.image) * N + channel] = of[0] + of[N] + of[2 * N] + of[3 * N];
    }
}

// The threads of a block by their roles, when the pixels around the tile are there. finish(sums, group) takes the results.
template <int N, bool WIDE, bool FORWARD, class Word, class Finish>
__device__ inline void run(const Room<N, WIDE> &room, const Near<WIDE> &near, const unsigned char *slices, Word *kept, Word *kept_mixed, Finish finish) {
    for (int i = threadIdx.x; i < HIDDEN * PLANE / 16; i += ALL_THREADS) reinterpret_cast<uint4 *>(room.planes)[i] = uint4{};
    if (threadIdx.x == 0) {
        for (int i = 0; i < PARTS; ++i) {
            mbarrier_init(&room.barriers->full[i], 1);
            mbarrier_init(&room.barriers->empty[i], CLUSTER * WARPS);
        }
        mbarrier_show();
    }
    proxy_fence();
    // The mbarriers of all are there.
    cluster_arrive();
    cluster_wait();
    const int group = warpgroup();
    if (group == WARPS / 4) {
        registers_give<24>();
        if (threadIdx.x == THREADS) produce<N, WIDE, FORWARD>(room, slices, near.c);
        __syncwarp();
    } else {
        registers_take<240>();
        float sums[N / 2];
        compute<N, WIDE, FORWARD>(room, group, near, kept, kept_mixed, sums);
        finish(sums, group);
    }
    // None ends while another can reach its shared memory.
    cluster_arrive();
    cluster_wait();
}

template <int N, bool WIDE>
__device__ inline void fprop(const float *x, const unsigned char *slices, const float *b2, float *y, bf16 *kept, bf16 *kept_mixed, float *partial,
                             const Cell &c, unsigned blocks) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const Room<N, WIDE> room(shared);
    const Near<WIDE> near(c, blocks);
    bring_near(room, near, x);
    run<N, WIDE, true>(room, near, slices, kept, kept_mixed, [&](const float(&sums)[N / 2], int group) {
        write<N>(sums, group, near, y, b2, nullptr, partial, reinterpret_cast<float *>(room.planes));
    });
}

template <int N, bool WIDE>
__device__ inline void dgrad(const float *dy, const bf16 *kept, const bf16 *kept_mixed, const unsigned char *slices, float *dx,
                             const SqueezeExcite &excite, const Cell &c, unsigned blocks) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const Room<N, WIDE> room(shared);
    const Near<WIDE> near(c, blocks);
    const Tile &tile = near.tile;
    if (excite.partial) {
        // Nothing lies in the planes yet.
        float *factor = reinterpret_cast<float *>(room.planes), *mean = factor + N, *inner = mean + N;
        const Gate gate = {unsigned(tile.images), unsigned(N), unsigned(c.units), unsigned(c.slices), float(c.h * c.w)};
        gate_dgrad(excite, tile.image, c.alpha, gate, factor, inner, [&](unsigned k, float m) { mean[k] = m; });
        __syncthreads();
        for (int k = threadIdx.x; k < N; k += ALL_THREADS) factor[k] = c.alpha * excite.g[tile.image * N + k];
        __syncthreads();
        bring_near(room, near, dy, factor, mean);
        __syncthreads();
    } else {
        bring_near(room, near, dy);
    }
    run<N, WIDE, false>(room, near, slices, kept, kept_mixed, [&](const float(&sums)[N / 2], int group) {
        write<N>(sums, group, near, dx, nullptr, excite.partial ? dy : nullptr, nullptr, nullptr);
    });
}

// Images of up to 16 columns, whose tiles have no columns beside them, and all others: the host says it by the room.
#define MBCONV(N, FORM)                                                                                                                            \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(ALL_THREADS, 1)                                                   \
        mbconv_fprop_sm90a_n##N(const float *x, const unsigned char *slices, const float *b2, float *y, bf16 *kept,                                \
                                bf16 *kept_mixed, float *partial, Cell c, unsigned blocks) {                                                       \
        FORM(fprop, N, (x, slices, b2, y, kept, kept_mixed, partial, c, blocks))                                                                   \
    }                                                                                                                                              \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(ALL_THREADS, 1)                                                   \
        mbconv_dgrad_sm90a_n##N(const float *dy, const bf16 *kept, const bf16 *kept_mixed, const unsigned char *slices, float *dx,                 \
                                const float *partial, const float *v0, const float *v2, const float *s, const float *g, Cell c, unsigned blocks) { \
        const SqueezeExcite excite = {partial, v0, nullptr, v2, nullptr, s, g};                                                                    \
        FORM(dgrad, N, (dy, kept, kept_mixed, slices, dx, excite, c, blocks))                                                                      \
    }
#define EITHER(pass, N, arguments)                  \
    if (c.near_room > 2 * Near<false>::PIXELS)      \
        pass<N, true> arguments;                    \
    else                                            \
        pass<N, false> arguments;
#define NARROW(pass, N, arguments) pass<N, false> arguments;

MBCONV(64, EITHER)
MBCONV(128, EITHER)
MBCONV(256, NARROW)

extern "C" __global__ void mbconv_pack_sm90a(const float *w1, const float *b1, const float *dw, const float *b_dw, const float *w2,
                                             unsigned *slices, unsigned ci, unsigned co, unsigned hidden) {
    const unsigned expansion = ci * HIDDEN / 2, taps = sizeof(Taps) / 4, projection = co * HIDDEN / 2, words = expansion + taps + projection;
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, first = i / words * HIDDEN;
    unsigned at = i % words;
    if (first >= hidden) return;
    unsigned *slice = slices + i / words * words;
    if (at < expansion) {
        // Neighbouring threads have neighbouring lines, which are channels, of a word.
        const unsigned line = at % HIDDEN, word = at / HIDDEN % 32, block = at / HIDDEN / 32;
        const float *from = w1 + (block * 64 + word * 2) * hidden + first + line;
        slice[block * HIDDEN * 32 + place_in_lines(line, word * 4) / 4] = round_bf16(0.5f * from[0], 0.5f * from[hidden]);
        return;
    }
    at -= expansion, slice += expansion;
    if (at < HIDDEN * 16) {
        const unsigned channel = first + at / 16, k = at % 16, y = k < 12 ? k % 4 : 4, x = (k < 12 ? k / 4 : k - 12) * 2;
        const float *from = dw + (y * TAPS + x) * hidden + channel;
        slice[at] = k == 15 ? __float_as_uint(0.5f * b_dw[channel]) : round_bf16(0.5f * from[0], x + 1 < TAPS ? 0.5f * from[hidden] : 0.0f);
        return;
    }
    if (at < taps) {
        slice[at] = __float_as_uint(0.5f * b1[first + at - HIDDEN * 16]);
        return;
    }
    at -= taps, slice += taps;
    const unsigned line = at % co, word = at / co;
    const float *from = w2 + (first + word * 2) * co + line;
    slice[place_in_lines(line, word * 4) / 4] = round_bf16(from[0], from[co]);
}
