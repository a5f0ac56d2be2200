// The pieces that both directions of the inverted bottleneck on compute capability 9.0 are made of (mbconv_sm90a.cu): which pixels a block
// has, where all lies in shared memory, how weights and kept tensors come and go, and the depthwise window on tensor cores.
#pragma once

#include "mbconv_slopes.cuh"
#include "mbconv_tile.cuh"
#include "wgmma.cuh"

// Hidden channels of a slice.
#define HIDDEN 64
// Threads of a block: two warpgroups that compute and one that brings the weights; of their 168 registers a thread it leaves most to them.
#define ALL_THREADS (THREADS + 128)
// Blocks of a cluster: each reads its part of all weights and sends it to all of them.
#define CLUSTER 2
// Named barrier of the warps that compute.
#define COMPUTE 1
// Bytes of a line of a plane, of a plane, and of the two halves of a tile's channels.
#define PLANE_LINE 48
#define PLANE ((ROWS + 2 * HALO) * PLANE_LINE + 16)
#define HALF (HIDDEN * LINE)
// Channels of a slice that a warp takes through the window.
#define OWN (HIDDEN / WARPS)

// The taps and biases of a slice. Lines of the window are words of two taps, the sixth zero: of a channel first word k of lines 0 to 3 at
// 4 k, then those of line 4, then the bias of the window.
struct Taps {
    unsigned words[HIDDEN][16];
    float expanded[HIDDEN];
};

// The pixels that a warpgroup expands: lines of the tile with their neighbours, 16 pixels each, two of them next to each other while there are so
// many; and for images that are wider than that n-tiles of the columns beside them, two lines of four pixels each.
template <bool WIDE>
struct Near {
    static const int LINES = WIDE ? 6 : 5, SIDES = WIDE ? 3 : 0, PIXELS = LINES * COLUMNS + SIDES * 8;
    const Cell &c;
    const Tile tile;
    // Of both warpgroups together, from the tile on.
    const int first;

    __device__ Near(const Cell &cell, unsigned blocks) : c(cell), tile(place(cell, blocks)), first(WIDE || tile.y > 0 ? -HALO : 0) {}
    // A block beyond the last, which is there to fill a cluster, lies below the first image.
    static __device__ Tile place(const Cell &c, unsigned blocks) {
        Tile tile(c);
        tile.images = min(tile.images, int(blocks));
        if (blockIdx.x >= blocks) tile.image = 0, tile.y = c.h + HALO;
        return tile;
    }
    __device__ bool exists() const { return tile.y < c.h; }
    __device__ bool has(int y) const { return tile.y + y >= 0 && tile.y + y < c.h; }
    // Line l of a warpgroup, from the tile on: ten lines are four of the first, four of the second, and one of each.
    __device__ int line(int group, int l) const { return first + (WIDE ? group * LINES + l : l < 4 ? group * 4 + l : 8 + group); }
    // The row of pixel i of both warpgroups in the image's tensor, -1 beyond the image.
    __device__ int row(int i) const {
        const int group = i / PIXELS, at = i % PIXELS, side = at - LINES * COLUMNS;
        const int y = line(group, side < 0 ? at / COLUMNS : side / 4);
        const int x = side < 0 ? at % COLUMNS : side % 4 < HALO ? side % 4 - HALO : COLUMNS + side % 4 - HALO;
        return row(y, x);
    }
    __device__ int row(int y, int x) const {
        const int v = tile.y + y, u = tile.x + x;
        return v >= 0 && v < c.h && u >= 0 && u < c.w ? (tile.image * c.h + v) * c.w + u : -1;
    }
    // The halves of a word that are pixels x and x + 1 of the image.
    __device__ unsigned inside(int x) const {
        const int u = tile.x + x;
        return (u >= 0 && u < c.w ? 0xffffu : 0) | (u + 1 >= 0 && u + 1 < c.w ? 0xffff0000u : 0);
    }
};

// The taps of a channel as factors of the window's products: word i holds taps i - 1 and i of a line, zero beyond its five.
struct Pairs {
    uint4 lines[6];
    unsigned last[6];
    float bias;
    unsigned unused[5];
};

// Makes the pairs of the warp's channels out of the taps; from the last to the first for the gradient.
template <bool FORWARD>
__device__ inline void pair_up(Pairs *pairs, const Taps &taps) {
    const int warp = threadIdx.x / 32, channel = threadIdx.x % 32 / 4, i = threadIdx.x % 4;
    const unsigned *words = taps.words[warp * OWN + channel];
    Pairs &to = pairs[channel];
    if (i == 3) {
        to.bias = __uint_as_float(words[15]);
    } else {
        // Pairs 2 i and 2 i + 1 lie in this word and the one before it, counted backwards for the gradient.
        const int at = FORWARD ? i : 2 - i, before = FORWARD ? i - 1 : 1 - i;
        uint4 other = {};
        unsigned other_last = 0;
        if (before >= 0) {
            other = *reinterpret_cast<const uint4 *>(words + 4 * before);
            other_last = words[12 + before];
        }
        const uint4 own = *reinterpret_cast<const uint4 *>(words + 4 * at);
        const auto pair = [](unsigned own, unsigned other) {
            return FORWARD ? make_uint2(__byte_perm(other, own, 0x5432), own)
                           : make_uint2(__byte_perm(own, own, 0x1032), __byte_perm(own, other, 0x7610));
        };
        const uint2 p[5] = {pair(own.x, other.x), pair(own.y, other.y), pair(own.z, other.z), pair(own.w, other.w),
                            pair(words[12 + at], other_last)};
        const auto line = [&](int y) { return p[FORWARD ? y : 4 - y]; };
        to.lines[2 * i] = make_uint4(line(0).x, line(1).x, line(2).x, line(3).x);
        to.lines[2 * i + 1] = make_uint4(line(0).y, line(1).y, line(2).y, line(3).y);
        *reinterpret_cast<uint2 *>(to.last + 2 * i) = line(4);
    }
    __syncwarp();
}

// The depthwise window of two channels. For a line of it, out[x, y] += taps[x, x'] in[x', y'] with a Toeplitz matrix of 16 x 16 taps on the
// left and a plane's lines on the right; of its words that a lane holds no two are inside the band at once but the first and the last, which are
// the same. Columns beside the tile are a product of their own.
template <bool WIDE>
struct Toeplitz {
    // Which pair a lane has, and in which registers of the left factor.
    int pair, side;
    unsigned first, second, third, side_first, side_second;
    // Of the lane in the planes: lines 0 and 1 of the window, line 4 of two channels, and beside the tile lines 0 to 3, and 4 of two channels.
    unsigned lines, last, side_lines, side_last;

    __device__ explicit Toeplitz(const unsigned char *planes) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, tap = 2 * t - g + HALO;
        const auto all = [](bool yes) { return yes ? 0xffffffffu : 0; };
        pair = tap >= 7 ? tap - 7 : tap <= -4 ? tap + 9 : tap >= -1 && tap <= 4 ? tap + 1 : 0;
        first = all(tap >= -1 && tap <= 4), second = all(tap >= 7), third = all(tap <= -4);
        const unsigned from = shared_address(planes) + threadIdx.x / 32 * OWN * PLANE;
        lines = from + (lane % 8 + lane / 16) * PLANE_LINE + lane / 8 % 2 * 16;
        last = from + lane / 16 * PLANE + (lane % 8 + 4) * PLANE_LINE + lane / 8 % 2 * 16;
        if (WIDE) {
            // Pixels -2 and -1 are the first word, 16 and 17 the second.
            side = t == 0 ? max(1 - g, 0) : g == 7 ? 4 : 5;
            side_first = all(t == 0 && g < 2), side_second = all(t == 1 && g > 5);
            side_lines = from + (lane % 8 + lane / 8) * PLANE_LINE + 32;
            side_last = from + lane / 8 % 2 * PLANE + (lane % 8 + 4) * PLANE_LINE + 32;
        }
    }

    // sum[i] += the window of channel `channel` + i of the warp: c[16, 8] of columns by lines.
    __device__ void add(float (&sum)[2][4], int channel, const Pairs *pairs) const {
        unsigned fifth[4], beside_fifth[4];
        load_matrices(fifth, last + channel * PLANE);
        if (WIDE) load_matrices(beside_fifth, side_last + channel * PLANE);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            unsigned in[2][4], beside[4];
            load_matrices(in[0], lines + (channel + i) * PLANE);
            load_matrices(in[1], lines + (channel + i) * PLANE + 2 * PLANE_LINE);
            const Pairs &of = pairs[channel + i];
            const uint4 four = of.lines[pair];
            const unsigned taps[5] = {four.x, four.y, four.z, four.w, of.last[pair]};
#pragma unroll
            for (int y = 0; y < TAPS; ++y) {
                const unsigned left[4] = {taps[y] & first, taps[y] & second, taps[y] & third, taps[y] & first};
                const unsigned *right = y < 4 ? in[y / 2] + y % 2 * 2 : fifth + i * 2;
                mma_bf16(sum[i], left, right[0], right[1]);
            }
            if (WIDE) {
                load_matrices(beside, side_lines + (channel + i) * PLANE);
                const uint4 four = of.lines[side];
                const unsigned taps[5] = {four.x, four.y, four.z, four.w, of.last[side]};
#pragma unroll
                for (int y = 0; y < TAPS; ++y)
                    mma_bf16_narrow(sum[i], taps[y] & side_first, taps[y] & side_second, y < 4 ? beside[y] : beside_fifth[i]);
            }
        }
    }

    // c[16, 8] += a[16, 8] b[8, 8] of bf16: half the steps of k.
    static __device__ void mma_bf16_narrow(float *c, unsigned a0, unsigned a1, unsigned b) {
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(b));
    }
};

// Slopes are kept as [n, hidden, w / 16, h, 16], w rounded up: a chunk of 16 bytes is a line of a tile, columns x and x + 8 next to each other.
// They go out and come in by pieces of 32 chunks: two lines of a warp's 16 channels of the expansion, or all lines of 4 channels of the window.
// In between a piece lies in shared memory as four 8x8 matrices of such pairs of slopes, of which a lane has words, but moves a chunk.
struct Pieces {
    static const int SIZE = 512, RING = 4, AHEAD = RING - 1;
    unsigned ring, chunk, matrix, at;

    // Of two lines the rows of a matrix are every other chunk; eight of them, and eight chunks of neighbouring lanes, lie on different banks.
    static __device__ unsigned place(unsigned chunk) { return (chunk ^ (chunk >> 3 & 1)) * 16; }
    __device__ explicit Pieces(unsigned char *room) : at(0) {
        const unsigned lane = threadIdx.x % 32;
        ring = shared_address(room) + threadIdx.x / 32 * RING * SIZE;
        chunk = place(lane);
        matrix = place(lane / 16 * 16 + lane % 8 * 2 + lane / 8 % 2);
    }
    __device__ unsigned next() { return ring + at++ % RING * SIZE; }
    // Of four channels, WINDOW, a matrix is a channel.
    template <bool WINDOW>
    __device__ unsigned own_chunk() const {
        return WINDOW ? threadIdx.x % 32 * 16 : chunk;
    }
    template <bool WINDOW>
    __device__ unsigned own_row() const {
        return WINDOW ? threadIdx.x % 32 * 16 : matrix;
    }

    // Writes a piece; matrices of the window are transposed.
    template <bool WINDOW>
    __device__ void leave(const unsigned (&words)[4], unsigned char *to, bool inside) {
        const unsigned from = next();
        if (WINDOW)
            store_transposed_at(from + own_row<WINDOW>(), words);
        else
            store_matrices_at(from + own_row<WINDOW>(), words);
        __syncwarp();
        uint4 own;
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(own.x), "=r"(own.y), "=r"(own.z), "=r"(own.w)
                     : "r"(from + own_chunk<WINDOW>())
                     : "memory");
        if (inside) *reinterpret_cast<uint4 *>(to) = own;
    }

    // Asks for a piece; AHEAD of them are on their way before the first is taken.
    template <bool WINDOW>
    __device__ void ask(const unsigned char *from, bool inside) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(next() + own_chunk<WINDOW>()), "l"(from), "r"(inside ? 16 : 0)
                     : "memory");
        copy_async_commit();
    }
    // The words of the oldest; `ask` is called for the next one AHEAD, whose place is that of the one before.
    template <bool WINDOW, class Ask>
    __device__ void take(unsigned (&words)[4], Ask ask) {
        copy_async_wait<AHEAD - 1>();
        __syncwarp();
        const unsigned from = ring + (at - AHEAD) % RING * SIZE + own_row<WINDOW>();
        ask();
        if (WINDOW)
            load_matrices_transposed(words, from);
        else
            load_matrices(words, from);
    }
};

// What a slice consists of, in the order in which it is needed: the weights of the first product, taps and biases, the weights of the second.
enum Part { FIRST, BETWEEN, SECOND, PARTS };

struct Mbarriers {
    Mbarrier full[PARTS], empty[PARTS];
};

// Where everything lies in shared memory; `room` in src/ops/mbconv/sm90a.rs adds it up.
template <int N, bool WIDE>
struct Room {
    static const int WEIGHTS = N * LINE;
    unsigned char *near;    // [N / 64][2 Near::PIXELS] lines: the pixels by their channels
    unsigned char *weights; // [2]: of w1 [N / 64][HIDDEN] lines, hidden channels by ci; of w2 [N] lines, co by hidden channels
    unsigned char *mixed;   // [2][HIDDEN] lines: of half of the columns, hidden channels by pixels, eight of a chunk in a line of the tile
    unsigned char *planes;  // [HIDDEN]: lines of 16 pixels, then of the four beside them, zero where that is not in the image
    Taps *taps;
    Pairs *pairs; // [HIDDEN]
    unsigned char *pieces;
    Mbarriers *barriers;

    __device__ explicit Room(unsigned char *room) {
        near = room;
        weights = near + 2 * Near<WIDE>::PIXELS * N * 2;
        mixed = weights + 2 * WEIGHTS;
        planes = mixed + 2 * HALF;
        taps = reinterpret_cast<Taps *>(planes + HIDDEN * PLANE);
        pairs = reinterpret_cast<Pairs *>(taps + 1);
        pieces = reinterpret_cast<unsigned char *>(pairs + HIDDEN);
        barriers = reinterpret_cast<Mbarriers *>(pieces + WARPS * Pieces::RING * Pieces::SIZE);
    }
    __device__ Pairs *own_pairs() const { return pairs + threadIdx.x / 32 * OWN; }
};

// Each of the warps that compute says to all blocks that write there that it is done with a part.
__device__ inline void leave(Mbarrier *empty) {
    __syncwarp();
    if (threadIdx.x % 32 < CLUSTER) mbarrier_arrive_in(empty, threadIdx.x % 32);
}

// What the thread does that brings the weights: w1 is first forward, w2 in the gradient.
template <int N, bool WIDE, bool FORWARD>
__device__ inline void produce(const Room<N, WIDE> &room, const unsigned char *slices, const Cell &c) {
    const int weights = Room<N, WIDE>::WEIGHTS, window = int(sizeof(Taps)), slice = 2 * weights + window;
    const auto bring = [&](Part part, int i) {
        const int from = part == BETWEEN ? weights : (part == FIRST) == FORWARD ? 0 : weights + window;
        const int bytes = part == BETWEEN ? window : weights;
        unsigned char *to = part == BETWEEN ? reinterpret_cast<unsigned char *>(room.taps) : room.weights + (part == SECOND ? weights : 0);
        mbarrier_wait_for_cluster(&room.barriers->empty[part], i & 1 ^ 1);
        mbarrier_expect(&room.barriers->full[part], bytes);
        const int share = bytes / CLUSTER, own = cluster_rank() * share;
        copy_bulk(to + own, slices + i * slice + from + own, share, &room.barriers->full[part], (1 << CLUSTER) - 1);
    };
    // In the order in which their places become free.
    const int count = c.hidden / HIDDEN;
    for (int i = 0; i <= count; ++i) {
        if (i < count) bring(FIRST, i);
        if (i > 0) bring(SECOND, i - 1);
        if (i < count) bring(BETWEEN, i);
    }
}

// The pixels around the tile as bf16; with `factor`, factor[j] of the data plus mean[j]. All threads call.
template <int N, bool WIDE>
__device__ inline void bring_near(const Room<N, WIDE> &room, const Near<WIDE> &near, const float *__restrict__ data, const float *factor = nullptr,
                                  const float *mean = nullptr) {
    const int pixels = 2 * Near<WIDE>::PIXELS;
#pragma unroll 4
    for (int i = threadIdx.x; i < pixels * (N / 4); i += ALL_THREADS) {
        const int pixel = i / (N / 4), j = i % (N / 4) * 4, row = near.row(pixel);
        uint2 packed = {};
        if (row >= 0) {
            float4 a = *reinterpret_cast<const float4 *>(data + row * N + j);
            if (factor) a = gated(a, factor, mean, j);
            packed = make_uint2(round_bf16(a.x, a.y), round_bf16(a.z, a.w));
        }
        *reinterpret_cast<uint2 *>(room.near + j / 64 * pixels * LINE + place_in_lines(pixel, j % 64 * 2)) = packed;
    }
}
