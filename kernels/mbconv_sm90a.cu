// kernelc: compute_90a
// The inverted bottleneck of mbconv_bf16.cu for compute capability 9.0: the same tile, the same results but for the order of sums.
//
//   mbconv_fprop_sm90a_n<N>(x, slices, b2, y, kept, partial, cell)                                      N = 64, 128 or 256 is ci and co
//   mbconv_pack_sm90a(w1, b1, dw, b_dw, w2, slices, ci, co, hidden)               one thread for 4 bytes of `slices`
//
// The products are wgmma. `slices` holds, for each 32 hidden channels, all weights that they take, in the layout of shared memory: w1 as ci / 64
// blocks of 32 channels in lines of 128 bytes, w2 as co lines of 64 bytes, then the window with its biases. A warp of its own brings them, one
// bulk copy for w1 and one for the rest, each into one of two places; mbarriers say when they are there and when they may go.
//
// While one slice's window runs on the ordinary units, the tensor cores expand the next slice; while its swish runs, they project the one before:
//
//   tensor cores   | expand i+1            | project i     | expand i+2 ...
//   other units    | window i              | swish i+1     | window i+1 ...
//
// Counted per slice and block, for 160 pixels around the tile and 256 channels: expansion 3 m-tiles x 16 steps x max(16 cycles of multiplying, 24
// of reading 3 KB of shared memory) = 1,150 cycles, projection 2 x 2 x 128 = 512, together 1,660; beside them 800 of the window's multiply-adds
// and 580 of tanh. The mma.sync form takes 2,400 cycles of ldmatrix and does all this one after the other.

#include "mbconv_window.cuh"
#include "wgmma.cuh"

#define STRIDE (SLICE + PAD)
// Bytes of a slice's window, and of the room that it has.
#define WINDOW_BYTES int(sizeof(Window<SLICE>))
#define WINDOW_ROOM 3584
// Bytes of 64 lines of 128.
#define MATRIX 8192
// Named barrier of the warps that compute.
#define COMPUTE 1
// Threads of a block: two warpgroups that compute and one that brings the weights; of their 168 registers a thread it leaves most to them.
#define ALL_THREADS (THREADS + 128)

// Places and phases of a ring of two.
struct Turn {
    unsigned place, parity;

    __device__ explicit Turn(int i) : place(i % 2), parity(i / 2 % 2) {}
};

struct Mbarriers {
    // Of w1, and of the rest of a slice.
    Mbarrier full[2][2], empty[2][2];
};

// A slice of `slices`.
struct Sizes {
    int expansion, rest, slice;

    __device__ explicit Sizes(const Cell &c)
        : expansion(c.ci * SLICE * 2), rest(c.co * SLICE * 2 + WINDOW_BYTES), slice(expansion + rest) {}
};

// The line of a pixel of the tile in the left factor of the projection, and the other way round: pixels four apart, where a warp works at a
// time, lie in neighbouring lines and so on different banks.
__device__ inline int line_of(int pixel) { return (pixel & ~5) | pixel >> 2 & 1 | (pixel & 1) << 2; }

// One lane of each of the warps says that they are done with a place.
__device__ inline void leave(Mbarrier *empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// y[row(i), j] = sum[i, j] + bias[j] for the 64 pixels of a warpgroup; with `partial`, also the sums of y over them. Neighbouring lanes exchange
// halves, so that each holds four channels of one pixel. scratch[8][N].
template <int N, class Row>
__device__ inline void write(const float (&d)[N / 2], float *__restrict__ y, const float *__restrict__ bias, float *__restrict__ partial,
                             float *scratch, const Tile &tile, Row row) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, odd = lane % 2;
    const int place = row(line_of(warp * 16 + accumulator_row(lane, odd)));
#pragma unroll
    for (int j = 0; j < N / 8; ++j) {
        // One after the other: all their registers are sums.
        asm volatile("" ::: "memory");
        const int to = j * 8 + lane % 4 / 2 * 4;
        const float *own = d + 4 * j;
        const float one = __shfl_xor_sync(0xffffffffu, odd ? own[0] : own[2], 1);
        const float two = __shfl_xor_sync(0xffffffffu, odd ? own[1] : own[3], 1);
        float4 four = odd ? make_float4(one, two, own[2], own[3]) : make_float4(own[0], own[1], one, two);
        four = plus(four, *reinterpret_cast<const float4 *>(bias + to));
        if (place >= 0)
            *reinterpret_cast<float4 *>(y + place * N + to) = four;
        else
            four = {};
        if (partial) {
            // The lanes that hold these four channels.
#pragma unroll
            for (int distance = 1; distance < 32; distance *= distance == 1 ? 4 : 2) four = plus(four, from_lane(four, distance));
            if ((lane & ~2) == 0) *reinterpret_cast<float4 *>(scratch + warp * N + to) = four;
        }
    }
    if (!partial) return;
    barrier_of(COMPUTE, THREADS);
    for (int i = threadIdx.x; i < 2 * N; i += THREADS) {
        const int half = i / N, channel = i % N;
        const float *of = scratch + half * 4 * N + channel;
        partial[((tile.index * 2 + half) * tile.images + tile.image) * N + channel] = of[0] + of[N] + of[2 * N] + of[3 * N];
    }
}

// Where everything lies in shared memory; `places` in src/ops/mbconv/sm90a.rs adds it up.
template <int N>
struct Room {
    int rest_room;
    unsigned char *xs, *expansions, *rests, *mixed;
    bf16 *expanded;
    unsigned char *leaving;
    Mbarriers *barriers;

    __device__ Room(unsigned char *room, const Cell &c) : rest_room(N * SLICE * 2 + WINDOW_ROOM) {
        xs = room;                                          // [near_room / 64][N / 64][64] lines of 128 bytes
        expansions = xs + c.near_room * N * 2;              // [2]: [N / 64][SLICE] lines of 128 bytes
        rests = expansions + 2 * Sizes(c).expansion;        // [2]: [N] lines of 64 bytes, window
        mixed = rests + 2 * rest_room;                      // [128] lines of 64 bytes
        expanded = reinterpret_cast<bf16 *>(mixed + TILE * SLICE * 2); // [near_room][SLICE]
        // What is kept: [128] lines of 64 bytes.
        leaving = reinterpret_cast<unsigned char *>(expanded + c.near_room * STRIDE);
        barriers = reinterpret_cast<Mbarriers *>(leaving + TILE * SLICE * 2);
    }
};

// What the thread does that brings the weights.
template <int N>
__device__ inline void produce(const Room<N> &room, const unsigned char *slices, const Cell &c) {
    const Sizes sizes(c);
    Mbarriers &barriers = *room.barriers;
    for (int i = 0; i < c.hidden / SLICE; ++i) {
        const Turn turn(i);
        const unsigned char *slice = slices + i * sizes.slice;
        mbarrier_wait(&barriers.empty[0][turn.place], turn.parity ^ 1);
        mbarrier_expect(&barriers.full[0][turn.place], sizes.expansion);
        copy_bulk(room.expansions + turn.place * sizes.expansion, slice, sizes.expansion, &barriers.full[0][turn.place]);
        mbarrier_wait(&barriers.empty[1][turn.place], turn.parity ^ 1);
        mbarrier_expect(&barriers.full[1][turn.place], sizes.rest);
        copy_bulk(room.rests + turn.place * room.rest_room, slice + sizes.expansion, sizes.rest, &barriers.full[1][turn.place]);
    }
}

// What a warpgroup does that computes: T m-tiles of the expansion, `group` and, if there are two, `group` + 2, and 64 pixels of y.
template <int N, int T>
__device__ inline void compute(const Room<N> &room, int group, const float *x, const float *b2, float *y, bf16 *kept, float *partial, const Cell &c) {
    const int S = SLICE, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Mbarriers &barriers = *room.barriers;
    bf16 *expanded = room.expanded;
    unsigned char *mixed = room.mixed, *leaving = room.leaving;
    const Tile tile(c);
    const Region near = tile.around(c, HALO);
    // Each warpgroup has one at least.
    const int m_tiles = max((near.pixels() + 63) / 64, 2);
    const auto row_of = [&](int v, int u) { return (tile.image * c.h + v) * c.w + u; };
    const auto own_row = [&](int at) {
        const int v = tile.y + at / c.columns, u = tile.x + at % c.columns;
        return v < c.h && u < c.w ? row_of(v, u) : -1;
    };
    for (int i = threadIdx.x; i < m_tiles * 64 * (N / 4); i += THREADS) {
        const int pixel = i / (N / 4), j = i % (N / 4) * 4;
        uint2 packed = {};
        if (pixel < near.pixels()) {
            const int row = row_of(near.top + pixel / near.width, near.left + pixel % near.width);
            const float4 a = *reinterpret_cast<const float4 *>(x + row * N + j);
            packed = make_uint2(round_bf16(a.x, a.y), round_bf16(a.z, a.w));
        }
        *reinterpret_cast<uint2 *>(room.xs + (pixel / 64 * (N / 64) + j / 64) * MATRIX + place_in_lines<128>(pixel % 64, j % 64 * 2)) = packed;
    }
    proxy_fence();
    barrier_of(COMPUTE, THREADS);

    float e[T][S / 2], sums[N / 2];
#pragma unroll
    for (int k = 0; k < N / 2; ++k) sums[k] = 0.0f;
#pragma unroll
    for (int t = 0; t < T; ++t)
#pragma unroll
        for (int k = 0; k < S / 2; ++k) e[t][k] = 0.0f;
    // Here, and not while products run.
    wgmma_sums(sums);
#pragma unroll
    for (int t = 0; t < T; ++t) wgmma_sums(e[t]);
    const auto expand = [&](int i) {
        const Turn turn(i);
        mbarrier_wait(&barriers.full[0][turn.place], turn.parity);
        const unsigned long long a = lines_at<128>(room.xs + group * (N / 64) * MATRIX);
        const unsigned long long b = lines_at<128>(room.expansions + turn.place * Sizes(c).expansion);
        wgmma_fence();
#pragma unroll
        for (int block = 0; block < N / 64; ++block)
#pragma unroll
            for (int k = 0; k < 4; ++k)
#pragma unroll
                for (int t = 0; t < T; ++t)
                    wgmma(e[t], a + ((t * 2 * (N / 64) + block) * MATRIX + k * 32) / 16, b + (block * S * 128 + k * 32) / 16,
                          block + k == 0);
        wgmma_commit();
    };
    const int last = c.hidden / S - 1;
    const auto expanded_is_there = [&](int i) {
#pragma unroll
        for (int t = 0; t < T; ++t) wgmma_sums(e[t]);
        leave(&barriers.empty[0][Turn(i).place]);
    };
    expand(0);
    wgmma_wait<0>();
    expanded_is_there(0);
    const Lane<S> own;
    for (int i = 0; i <= last; ++i) {
        const Turn turn(i);
        // The last expansion is made twice, so that the same products run in every round: the assembler lets them run then only.
        const int next = min(i + 1, last);
        const unsigned char *rest = room.rests + turn.place * room.rest_room;
        const Window<S> &window = *reinterpret_cast<const Window<S> *>(rest + N * S * 2);
        mbarrier_wait(&barriers.full[1][turn.place], turn.parity);
#pragma unroll
        for (int t = 0; t < T; ++t) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int pixel = (group + 2 * t) * 64 + warp % 4 * 16 + accumulator_row(lane, half);
                const int own_pixel = kept ? inside_tile(c, tile, near, pixel) : -1;
#pragma unroll
                for (int j = 0; j < S / 8; ++j) {
                    const int channel = j * 8 + accumulator_column(lane);
                    const float one = e[t][4 * j + 2 * half] + window.expanded[channel];
                    const float two = e[t][4 * j + 2 * half + 1] + window.expanded[channel + 1];
                    set_word(expanded + pixel * STRIDE + channel, round_bf16(swish_fast(one), swish_fast(two)));
                    if (own_pixel >= 0)
                        *reinterpret_cast<unsigned *>(leaving + place_in_lines<64>(own_pixel, channel * 2)) = round_bf16(one, two);
                }
            }
        }
        wgmma_wait<0>();
        if (i > 0) leave(&barriers.empty[1][turn.place ^ 1]);
        barrier_of(COMPUTE, THREADS);
        expand(next);
        if (kept) {
            for (int k = threadIdx.x; k < TILE * S / 8; k += THREADS) {
                const int pixel = k / (S / 8), j = k % (S / 8) * 8, row = own_row(pixel);
                if (row >= 0)
                    *reinterpret_cast<uint4 *>(kept + row * c.hidden + i * S + j) =
                        *reinterpret_cast<const uint4 *>(leaving + place_in_lines<64>(pixel, j * 2));
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
                *reinterpret_cast<unsigned *>(mixed + place_in_lines<64>(line_of((row + r) * c.columns + column), own.channel * 2)) =
                    round_bf16(swish_fast(sum[r].x), swish_fast(sum[r].y));
        }
        proxy_fence();
        barrier_of(COMPUTE, THREADS);
        const unsigned long long a = lines_at<64>(mixed + group * 64 * 64), b = lines_at<64>(rest);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < S / 16; ++k) wgmma(sums, a + 2 * k, b + 2 * k, false);
        wgmma_commit();
        // All but this projection.
        wgmma_wait<1>();
        expanded_is_there(next);
    }
    wgmma_wait<0>();
    wgmma_sums(sums);
    write<N>(sums, y, b2, partial, reinterpret_cast<float *>(expanded), tile, own_row);
}

template <int N>
__device__ inline void fprop(const float *x, const unsigned char *slices, const float *b2, float *y, bf16 *kept, float *partial,
                             const Cell &c) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const Room<N> room(shared, c);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4; ++i) {
            mbarrier_init(&room.barriers->full[i / 2][i % 2], 1);
            mbarrier_init(&room.barriers->empty[i / 2][i % 2], WARPS);
        }
        mbarrier_show();
    }
    __syncthreads();
    const int group = warpgroup();
    if (group == WARPS / 4) {
        registers_give<24>();
        if (threadIdx.x == THREADS) produce<N>(room, slices, c);
    } else {
        registers_take<240>();
        if (group + 2 < (Tile(c).around(c, HALO).pixels() + 63) / 64)
            compute<N, 2>(room, group, x, b2, y, kept, partial, c);
        else
            compute<N, 1>(room, group, x, b2, y, kept, partial, c);
    }
}

#define MBCONV(N)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(ALL_THREADS, 1)                                                            \
        mbconv_fprop_sm90a_n##N(const float *x, const unsigned char *slices, const float *b2, float *y, bf16 *kept,         \
                                float *partial, Cell c) {                                                                   \
        fprop<N>(x, slices, b2, y, kept, partial, c);                                                                       \
    }

MBCONV(64)
MBCONV(128)
MBCONV(256)

extern "C" __global__ void mbconv_pack_sm90a(const float *w1, const float *b1, const float *dw, const float *b_dw, const float *w2,
                                             unsigned *slices, unsigned ci, unsigned co, unsigned hidden) {
    const unsigned expansion = ci * SLICE / 2, projection = co * SLICE / 2, words = expansion + projection + WINDOW_BYTES / 4;
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, first = i / words * SLICE;
    unsigned at = i % words;
    if (first >= hidden) return;
    unsigned *slice = slices + i / words * words;
    if (at < expansion) {
        // Word of a line, line, block.
        const unsigned word = at % 32, line = at / 32 % SLICE, block = at / 32 / SLICE;
        const float *from = w1 + (block * 64 + word * 2) * hidden + first + line;
        slice[block * SLICE * 32 + place_in_lines<128>(line, word * 4) / 4] = round_bf16(from[0], from[hidden]);
        return;
    }
    at -= expansion;
    if (at < projection) {
        const unsigned word = at % 16, line = at / 16;
        const float *from = w2 + (first + word * 2) * co + line;
        slice[expansion + place_in_lines<64>(line, word * 4) / 4] = round_bf16(from[0], from[co]);
        return;
    }
    at -= projection;
    const unsigned row = at / SLICE, channel = first + at % SLICE;
    const float value = row < TAPS * TAPS ? dw[row * hidden + channel] : row == TAPS * TAPS ? b1[channel] : b_dw[channel];
    slice[expansion + projection + at] = __float_as_uint(value);
}
