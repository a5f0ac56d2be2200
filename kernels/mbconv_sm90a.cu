// kernelc: compute_90a
// The inverted bottleneck of mbconv_bf16.cu for compute capability 9.0: the same tile, the same results but for the order of sums.
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
// projection that way. The gradient is the same the other way round: project', times the slopes kept_mixed, window with the taps from the last to the
// first, times the slopes kept, expand'.
//
// swish(x) = h tanh(h) + h with h = x / 2: w1, the taps and their biases are packed as halves, which is exact, and the gradient takes the slopes
// twice, which makes up for the halves that it multiplies with.
//
// A thread of a third group brings the weights by bulk copies; mbarriers say when they are there and when they may go. Two blocks are a cluster, each
// reads half of all weights and sends it to both: at 1.7 MB a block they would be most of what passes between L2 and the multiprocessors.
//
// While one slice's window runs, the tensor cores make the first product of the next; while its swish runs, the second of the one before:
//
//   wgmma        | expand i+1            | project i     | expand i+2 ...
//   other units  | window i              | swish i+1     | window i+1 ...
//
// On paper a slice of the published cell (256 channels, 160 pixels around the tile) takes a block 1,280 + 1,024 cycles of wgmma and some 520 of the
// window's mma, 1,150 of tanh forward and none in the gradient, 3,700 passes over shared memory of which 1,800 are wgmma's; docs/performance.md
// has the counts.

#include "mbconv_sm90a.cuh"

// Two sums times the slopes that bytes `one` and `two` of a word are; twice, since weights are halves.
__device__ inline unsigned through_slopes(const float *sum, unsigned slopes, int one, int two) {
    const float unit = 2.0f / SLOPE_STEPS;
    return round_bf16(sum[0] * (unit * slope_at(slopes, one)), sum[1] * (unit * slope_at(slopes, two)));
}

// What a warpgroup does that computes: sums[64, N] over all hidden channels of its half of the tile's columns, row i pixel i % 8 of line i / 8. Forward
// writes the slopes that are kept, unless they are null, the gradient reads them: Byte is unsigned char, const there.
template <int N, bool WIDE, bool FORWARD, class Byte>
__device__ inline void compute(const Room<N, WIDE> &room, int group, const Near<WIDE> &near, Byte *kept, Byte *kept_mixed, float (&sums)[N / 2]) {
    typedef Near<WIDE> Pixels;
    const Cell &c = near.c;
    const Tile &tile = near.tile;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, last = c.hidden / HIDDEN - 1;
    Mbarriers &barriers = *room.barriers;
    Pieces pieces(room.pieces);
    const Toeplitz<WIDE> window(room.planes);
    // Before the window, and after it: the tensors that are kept.
    Byte *const here = FORWARD ? kept : kept_mixed, *const there = FORWARD ? kept_mixed : kept;

    // The warp's 16 channels of the expansion, and those of the lane: in its fragments `channel` and 8 further, in a piece lane / 2.
    const int channels = warp % 4 * 16, channel = channels + lane / 4, top = near.line(group, 0);
    const unsigned to_planes =
        shared_address(room.planes) + (channels + lane / 16 * 8 + lane % 8) * PLANE + (top + HALO) * PLANE_LINE + lane / 8 % 2 * 16;
    const auto down = [&](int l) { return WIDE || l < 4 ? l : near.line(group, l) - top; };
    // Bit l: whether line l of the warpgroup is in the image, and bit l + 16: whether it is the tile's.
    unsigned exist = 0;
#pragma unroll
    for (int l = 0; l < Pixels::LINES; ++l) {
        const int y = near.line(group, l);
        exist |= near.has(y) ? 1u << l | unsigned(y >= 0 && y < ROWS) << (l + 16) : 0;
    }
    const unsigned inside[2] = {near.inside(lane % 4 * 2), near.inside(lane % 4 * 2 + 8)};
    // Of the window's results; the place of a row differs in its bits 5 and 6 between pairs of channels.
    const unsigned to_mixed = shared_address(room.mixed) + lane / 8 % 2 * HALF + (warp * OWN + lane / 16) * LINE + (lane % 8 ^ lane / 16) * 16;

    // The lane's chunk of a piece: of the warpgroup's first two lines, and of the warp's first four channels of the window. A line is COLUMNS bytes, and
    // what lies beside the tile is a plane of its own.
    const int plane = (c.w + COLUMNS - 1) / COLUMNS * c.h * COLUMNS, tile_at = tile.x * c.h + tile.y * COLUMNS;
    const bool line_exists = tile.y + lane % 8 < c.h;
    int line_at = (tile.image * c.hidden + channels + lane / 2) * plane + tile_at + (top + lane % 2) * COLUMNS;
    int four_at = (tile.image * c.hidden + warp * OWN + lane / 8) * plane + tile_at + lane % 8 * COLUMNS;
    // Whether the lane's line of a piece is in the image: line l of the warpgroup or the next.
    const auto has_own = [&](int l) { return l + lane % 2 < Pixels::LINES && exist >> (l + lane % 2) & 1; };
    // The lane's word of the pixels beside the tile: before it or behind it. Its slopes are bytes of the word at side_at.
    const int side_line = lane % 4 / 2, behind = lane % 2;
    const unsigned side_inside = near.inside(behind ? COLUMNS : -HALO);
    unsigned char *const to_side = room.planes + channel * PLANE + (top + HALO + side_line) * PLANE_LINE + 2 * COLUMNS + behind * 4;
    int side_at = (tile.image * c.hidden + channel) * plane + tile_at + (top + side_line) * COLUMNS + (behind ? c.h * COLUMNS : 12 - c.h * COLUMNS);
    // Piece `which` of slice i, or of the next one: the lines of the warpgroup, then fours of channels.
    const int LINE_PIECES = (Pixels::LINES + 1) / 2;
    const auto ask = [&](int i, int which) {
        const int count = LINE_PIECES + OWN / 4, next = which / count * HIDDEN * plane;
        const bool more = i + which / count <= last;
        which %= count;
        if (which < LINE_PIECES) {
            const bool exists = more && has_own(2 * which);
            pieces.template ask<false>(here + (exists ? line_at + next + down(2 * which) * COLUMNS : 0), exists);
        } else {
            const bool exists = more && line_exists;
            pieces.template ask<true>(there + (exists ? four_at + next + (which - LINE_PIECES) * 4 * plane : 0), exists);
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
    // The planes of slice i out of the sums of its expansion.
    const auto fill_planes = [&](int i) {
        const float bias[2] = {room.taps->expanded[channel], room.taps->expanded[channel + 8]};
#pragma unroll
        for (int first = 0; first < Pixels::LINES; first += 2) {
            // Of channels `channel` and 8 further, each of two lines; of a line columns x, x + 8, x + 1 and x + 9.
            unsigned slopes[4] = {};
            if (!FORWARD) pieces.template take<false>(slopes, [&] { ask(i, first / 2 + Pieces::AHEAD); });
#pragma unroll
            for (int l = first; l < min(first + 2, Pixels::LINES); ++l) {
                unsigned words[4];
#pragma unroll
                for (int m = 0; m < 4; m += 2) {
                    float *left = e + 8 * l + m, *right = left + 4;
                    unsigned &own = slopes[m + l % 2];
                    if (FORWARD) {
                        const HalfSwish a(left[0] + bias[m / 2]), b(left[1] + bias[m / 2]), c(right[0] + bias[m / 2]), d(right[1] + bias[m / 2]);
                        words[m] = round_bf16(a.value, b.value), words[m + 1] = round_bf16(c.value, d.value);
                        own = join(a.slope(), c.slope(), b.slope(), d.slope());
                    } else {
                        words[m] = through_slopes(left, own, 0, 2), words[m + 1] = through_slopes(right, own, 1, 3);
                    }
                    words[m] &= inside[0], words[m + 1] &= inside[1];
                }
                if (exist >> l & 1) store_matrices_at(to_planes + down(l) * PLANE_LINE, words);
            }
            if constexpr (FORWARD)
                if (kept && exist >> (first + 16) & 1) pieces.template leave<false>(slopes, here + line_at + down(first) * COLUMNS, has_own(first));
        }
#pragma unroll
        for (int s = 0; s < Pixels::SIDES; ++s) {
            // Two lines of the pixels before and behind the tile.
            const unsigned own = near.has(top + side_line + 2 * s) ? side_inside : 0;
#pragma unroll
            for (int m = 0; m < 2; ++m) {
                const float *sum = e + 4 * (2 * Pixels::LINES + s) + m * 2;
                unsigned word = 0;
                if (FORWARD) {
                    word = round_bf16(HalfSwish(sum[0] + bias[m]).value, HalfSwish(sum[1] + bias[m]).value);
                } else if (own) {
                    // Columns 0 and 1 of the tile behind are bytes 0 and 2, columns 14 and 15 of the one before 13 and 15.
                    const unsigned slopes = *reinterpret_cast<const unsigned *>(here + side_at + 8 * m * plane + 2 * s * COLUMNS);
                    word = through_slopes(sum, behind ? slopes : slopes >> 8, 0, 2);
                }
                word &= own;
                *reinterpret_cast<unsigned *>(to_side + 8 * m * PLANE + 2 * s * PLANE_LINE) = word;
            }
        }
    };
    // The left factor of its projection out of the planes.
    const auto take_windows = [&](int i) {
#pragma unroll
        for (int four = 0; four < OWN; four += 4) {
            // Of each channel both lines of columns x and x + 8.
            unsigned slopes[4];
            if (!FORWARD) pieces.template take<true>(slopes, [&] { ask(i, LINE_PIECES + four / 4 + Pieces::AHEAD); });
#pragma unroll
            for (int two = four; two < four + 4; two += 2) {
                const Pairs *pairs = room.own_pairs();
                float sum[2][4];
#pragma unroll
                for (int k = 0; k < 8; ++k) sum[k / 4][k % 4] = FORWARD ? pairs[two + k / 4].bias : 0.0f;
                window.add(sum, two, pairs);
                unsigned words[4];
#pragma unroll
                for (int k = 0; k < 2; ++k) {
                    const float *of = sum[k];
                    unsigned &own = slopes[two - four + k];
                    if (FORWARD) {
                        const HalfSwish a(of[0]), b(of[1]), c(of[2]), d(of[3]);
                        words[2 * k] = round_bf16(a.value, b.value), words[2 * k + 1] = round_bf16(c.value, d.value);
                        own = join(a.slope(), c.slope(), b.slope(), d.slope());
                    } else {
                        words[2 * k] = through_slopes(of, own, 0, 2), words[2 * k + 1] = through_slopes(of + 2, own, 1, 3);
                    }
                }
                store_transposed_at((to_mixed ^ two * 16) + two * LINE, words);
            }
            if constexpr (FORWARD)
                if (kept) pieces.template leave<true>(slopes, there + four_at + four * plane, line_exists);
        }
    };
    const auto project = [&](int i) {
        mbarrier_wait(&barriers.full[SECOND], i & 1);
        const unsigned long long a = lines_at(room.mixed + group * HALF);
        const unsigned long long b = lines_at(room.weights + Room<N, WIDE>::WEIGHTS, FORWARD ? 0 : HALF);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < HIDDEN; k += 16)
            wgmma<1, !FORWARD>(sums, a + k * LINE / 16, b + (FORWARD ? k * 2 : k * LINE) / 16, false);
        wgmma_commit();
    };
    if (!FORWARD)
        for (int which = 0; which < Pieces::AHEAD; ++which) ask(0, which);
    expand(0);
    wgmma_wait<0>();
    expanded_is_there();
    for (int i = 0; i <= last; ++i) {
        // Addresses are made where they stand: kept from round to round they would take the registers of the sums.
        asm volatile("" : "+r"(line_at), "+r"(four_at), "+r"(side_at));
        mbarrier_wait(&barriers.full[BETWEEN], i & 1);
        pair_up<FORWARD>(room.own_pairs(), *room.taps);
        fill_planes(i);
        leave(&barriers.empty[BETWEEN]);
        // The projection before, which ran meanwhile.
        wgmma_wait<0>();
        if (i > 0) leave(&barriers.empty[SECOND]);
        barrier_of(COMPUTE, THREADS);
        // The last one is made twice, so that the same products run in every round: the assembler lets them run then only.
        expand(min(i + 1, last));
        take_windows(i);
        proxy_fence();
        barrier_of(COMPUTE, THREADS);
        project(i);
        line_at += HIDDEN * plane, four_at += HIDDEN * plane, side_at += HIDDEN * plane;
        // All but this projection.
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
template <int N, bool WIDE, bool FORWARD, class Byte, class Finish>
__device__ inline void run(const Room<N, WIDE> &room, const Near<WIDE> &near, const unsigned char *slices, Byte *kept, Byte *kept_mixed, Finish finish) {
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
__device__ inline void fprop(const float *x, const unsigned char *slices, const float *b2, float *y, unsigned char *kept,
                             unsigned char *kept_mixed, float *partial, const Cell &c, unsigned blocks) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const Room<N, WIDE> room(shared);
    const Near<WIDE> near(c, blocks);
    bring_near(room, near, x);
    run<N, WIDE, true>(room, near, slices, kept, kept_mixed, [&](const float(&sums)[N / 2], int group) {
        write<N>(sums, group, near, y, b2, nullptr, partial, reinterpret_cast<float *>(room.planes));
    });
}

template <int N, bool WIDE>
__device__ inline void dgrad(const float *dy, const unsigned char *kept, const unsigned char *kept_mixed, const unsigned char *slices, float *dx,
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
#define KERNEL extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(ALL_THREADS, 1)
#define MBCONV(N, FORM)                                                                                                                    \
    KERNEL mbconv_fprop_sm90a_n##N(const float *x, const unsigned char *slices, const float *b2, float *y, unsigned char *kept,            \
                                   unsigned char *kept_mixed, float *partial, Cell c, unsigned blocks) {                                   \
        FORM(fprop, N, (x, slices, b2, y, kept, kept_mixed, partial, c, blocks))                                                           \
    }                                                                                                                                      \
    KERNEL mbconv_dgrad_sm90a_n##N(const float *dy, const unsigned char *kept, const unsigned char *kept_mixed,                            \
                                   const unsigned char *slices, float *dx, const float *partial, const float *v0, const float *v2,         \
                                   const float *s, const float *g, Cell c, unsigned blocks) {                                              \
        const SqueezeExcite excite = {partial, v0, nullptr, v2, nullptr, s, g};                                                            \
        FORM(dgrad, N, (dy, kept, kept_mixed, slices, dx, excite, c, blocks))                                                              \
    }
#define EITHER(pass, N, arguments)             \
    if (c.near_room > 2 * Near<false>::PIXELS) \
        pass<N, true> arguments;               \
    else                                       \
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
