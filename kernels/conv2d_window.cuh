// fprop and dgrad of a convolution without stride, in bf16, whose blocks read each pixel once: a window of the image stays in shared
// memory over the taps.
//
//   y[p, o] = sum over (tap, i) of act(x[p + offset(tap), i]) w[tap, i, o]
//
// A block makes M pixels, a rectangle of one image or of several (`Cut`), times N output channels. It walks over chunks of K input
// channels. Of each it needs the rectangle's pixels and their halo: they are activated and rounded once, on their way from global to
// shared memory, and stand there as rows of K numbers of bf16, zeros outside the image. The products of a tap are those rows, shifted:
// `ldmatrix` takes an address per row. So what the L2 hands out is the image once per column of blocks, halos aside, and the weights once
// per block.
//
// While a chunk's taps are multiplied, the next chunk's window arrives, a share of it per tap: global -> registers before the products of
// a tap, registers -> shared behind them. Weights come packed in bf16 by cp.async through a ring of STAGES. One barrier a tap does it
// all.
//
// A second source, read by a 1x1 window, goes on in the same sums with windows of the same form, of which the halo is zeros.
//
// Banks. A row of 32 numbers is 64 bytes, half of what a pass takes. Its four pieces of 16 bytes are exchanged by bits 1 and 2 of the row's
// number, which puts eight rows whose numbers differ modulo 8 into different banks. Eight pixels beside each other are such rows, and
// so are two runs of four from lines of the window, as its lines lie 4 modulo 8 rows apart: what 2x2 averages and small images ask for.
#pragma once

#include "conv2d_ends.cuh"
#include "ldmatrix.cuh"
#include "mma.cuh"

// How the destination is cut into tiles of M pixels. By value; `Cut` in src/ops/conv2d/cuda/window.rs.
struct Cut {
    int width_log, height_log; // of a tile in one image; it takes as many images as make M pixels
    int across, down;          // tiles of an image
    int top, left;             // what a window has above and before the tile's first pixel
    int pitch, height;         // rows from a line of a window to the next, and lines per image
    int pixels;                // rows of the window of all images
};

// One of the sources of a block's sums.
struct Factor {
    const float *image;
    const bf16 *weights;     // rows (tap, channel)
    int channels;
    int across, down;        // taps
    int first, right, below; // rows of the window from a pixel's to its first tap's, and from tap to tap
    unsigned activation;
    float scale;             // of the image
};

template <int M_, int N_, int WARP_M_, int WARP_N_>
struct WindowTile {
    static constexpr int M = M_, N = N_, WARP_M = WARP_M_, WARP_N = WARP_N_;
    static constexpr int K = 32, STAGES = 3;
    static constexpr int THREADS = M / WARP_M * (N / WARP_N) * 32, SUMS = WARP_M * WARP_N / 32;
    static constexpr int B_STRIDE = N + 8, STAGE = K * B_STRIDE; // numbers; the padding puts eight rows into different banks
    static constexpr int C_STRIDE = WARP_N + 8;
    static constexpr int GROUP = 4; // loads of 16 bytes that a thread has in flight
    static constexpr int AHEAD = WARP_N / 16; // of sums that a thread reads ahead what they need: fewer where four blocks share the registers
    static __device__ int warp_m() { return threadIdx.x / 32 / (N / WARP_N) * WARP_M; }
    static __device__ int warp_n() { return threadIdx.x / 32 % (N / WARP_N) * WARP_N; }
};

extern __shared__ __align__(64) unsigned char dynamic_shared[]; // rows of a window begin on 64 bytes

// A block's dynamic shared memory; `shared` in src/ops/conv2d/cuda/window.rs.
template <class T>
struct WindowShared {
    bf16 *windows; // two
    bf16 *stages;
    int *pixels;   // of both sources: what a window's rows are taken from, -1 for zeros
    int *targets;  // of the tile's rows: pixels of the destination, or -1
    __device__ explicit WindowShared(const Cut &cut) {
        windows = reinterpret_cast<bf16 *>(dynamic_shared);
        stages = windows + 2 * cut.pixels * T::K;
        pixels = reinterpret_cast<int *>(stages + T::STAGES * T::STAGE);
        targets = pixels + 2 * cut.pixels;
    }
};

// Where a row of the tile stands: its image among those of the tile, and its place in the tile of that. With `pooled` rows come window by
// window of 2x2, four to each.
__device__ inline int3 tile_row(const Cut &cut, int m, int pooled) {
    const int width = cut.width_log - pooled, height = cut.height_log - pooled;
    const int window = m >> 2 * pooled;
    const int x = (window & (1 << width) - 1) << pooled, y = (window >> width & (1 << height) - 1) << pooled;
    return {window >> width + height, y + (m >> 1 & pooled), x + (m & pooled)};
}

// What a block's tile is cut out of.
struct TilePlace {
    int image, y, x;
    __device__ TilePlace(const Cut &cut, int tile, int images) {
        x = tile % cut.across << cut.width_log;
        y = tile / cut.across % cut.down << cut.height_log;
        image = tile / cut.across / cut.down * images;
    }
};

// Lists the pixels of `source` [n, h, w] that the rows of a window are, for one of half the resolution with `halved`; those of the tile
// alone if it is read by a 1x1 window.
template <class T>
__device__ inline void list_pixels(int *pixels, const Cut &cut, const TilePlace &place, int n, int h, int w, int halved, bool own) {
    for (int row = threadIdx.x; row < cut.pixels; row += T::THREADS) {
        const int image = place.image + row / cut.pitch / cut.height;
        const int b = row % cut.pitch - cut.left, a = row / cut.pitch % cut.height - cut.top;
        const bool wanted = !own || (static_cast<unsigned>(a) < 1u << cut.height_log && static_cast<unsigned>(b) < 1u << cut.width_log);
        const int y = place.y + a >> halved, x = place.x + b >> halved;
        const bool inside = wanted && image < n && static_cast<unsigned>(y) < h && static_cast<unsigned>(x) < w;
        pixels[row] = inside ? (image * h + y) * w + x : -1;
    }
}

// Lists the pixels of a destination [n, h, w] that the rows of a tile are.
template <class T>
__device__ inline void list_targets(int *targets, const Cut &cut, const TilePlace &place, int n, int h, int w, int pooled) {
    for (int m = threadIdx.x; m < T::M; m += T::THREADS) {
        const int3 row = tile_row(cut, m, pooled);
        const int image = place.image + row.x, y = place.y + row.y >> pooled, x = place.x + row.z >> pooled;
        targets[m] = image < n && y < h && x < w ? (image * h + y) * w + x : -1;
    }
}

// The weights of all steps in their order, fetched ahead.
template <class T>
struct WeightStream {
    const bf16 *from, *next; // of this source and of the one behind it, or null
    int channels, taps, next_channels;
    int stride, column; // of rows in memory, and the thread's
    int channel, tap;

    __device__ WeightStream(const Factor &first, const Factor &second, int stride, int n0)
        : from(first.weights), next(second.weights), channels(first.channels), taps(first.across * first.down),
          next_channels(second.channels), stride(stride), column(n0 + threadIdx.x % (T::N / 8) * 8), channel(0), tap(0) {}

    __device__ void fetch(bf16 *stage) {
        constexpr int STEP = T::THREADS / (T::N / 8);
        static_assert(T::K % STEP == 0 || STEP > T::K, "threads share a stage evenly, or some of them bring it");
        if (from == nullptr) return;
#pragma unroll
        for (int pass = 0; pass < (T::K + STEP - 1) / STEP; ++pass) {
            const int row = threadIdx.x / (T::N / 8) + pass * STEP;
            if (STEP > T::K && row >= T::K) break;
            const bool inside = channel + row < channels && column < stride;
            const unsigned at = static_cast<unsigned>(tap * channels + channel + row) * stride + column;
            copy_async_16(&stage[row * T::B_STRIDE + threadIdx.x % (T::N / 8) * 8], from + (inside ? at : 0), inside);
        }
        if (++tap < taps) return;
        tap = 0;
        channel += T::K;
        if (channel < channels) return;
        from = next, channels = next_channels, taps = 1, channel = 0;
        next = nullptr;
    }
};

// ELU of what is rounded to bf16 next, in a fifth of the instructions. Near zero, where e^x - 1 cancels, two terms of its series: from
// -1/64 on the third is 4e-5 of it, before that what cancels is 2e-5, and half a unit of bf16 is 2e-3.
struct RoundedElu {
    static __device__ float value(float x) {
        const float far = __expf(x) - 1.0f, near = fmaf(0.5f * x, x, x);
        return x > 0.0f ? x : x > -0.015625f ? near : far;
    }
};

template <class F, int V>
__device__ inline void apply(Pack<V> &x) {
#pragma unroll
    for (int v = 0; v < V; ++v) x.v[v] = F::value(x.v[v]);
}

// As store_rounded, as one access for sure: two of four bytes would meet in the same banks.
__device__ inline void store_together(bf16 *to, const Pack<4> &x) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(shared_address(to)), "r"(round_bf16(x.v[0], x.v[1])), "r"(round_bf16(x.v[2], x.v[3]))
                 : "memory");
}

// A thread's share of a chunk's window on its way: eight threads bring the K channels of a row.
template <class T>
struct WindowShare {
    static constexpr int LANES = T::K / 4, STEP = T::THREADS / LANES; // rows that a pass of the block brings
    Pack<4> x[T::GROUP];

    static __device__ int passes(const Cut &cut) { return (cut.pixels + STEP - 1) / STEP; }
    static __device__ int row(int pass) { return pass * STEP + threadIdx.x / LANES; }

    // Up to GROUP passes of [begin, end).
    __device__ void load(const float *image, int channels, const int *pixels, const Cut &cut, int first, int begin, int end) {
        const int channel = first + threadIdx.x % LANES * 4;
        const bool fours = channels % 4 == 0;
#pragma unroll
        for (int g = 0; g < T::GROUP; ++g) {
            if (begin + g >= end) break;
            const int r = row(begin + g), pixel = r < cut.pixels && channel < channels ? pixels[r] : -1;
            x[g] = {};
            if (pixel < 0) continue;
            const float *from = &image[static_cast<unsigned>(pixel) * channels + channel];
            if (fours) {
                x[g] = load_pack<4>(from);
            } else {
#pragma unroll
                for (int v = 0; v < 4; ++v)
                    if (channel + v < channels) x[g].v[v] = from[v];
            }
        }
    }

    __device__ void store(bf16 *window, const Cut &cut, unsigned activation, float scale, int begin, int end) {
        static_assert(STEP % 8 == 0, "a thread's rows fall into the same banks");
        const int quarter = threadIdx.x % LANES / 2 ^ row(0) >> 1 & 3;
        bf16 *own = window + row(0) * T::K + quarter * 8 + threadIdx.x % 2 * 4;
#pragma unroll
        for (int g = 0; g < T::GROUP; ++g) {
            if (begin + g >= end) break;
            switch (activation) {
                case 1: apply<Swish>(x[g]); break;
                case 2: apply<LipSwish>(x[g]); break;
                case 3: apply<RoundedElu>(x[g]); break;
            }
            if (scale != 1.0f) {
#pragma unroll
                for (int v = 0; v < 4; ++v) x[g].v[v] *= scale;
            }
            if (row(begin + g) < cut.pixels) store_together(&own[(begin + g) * STEP * T::K], x[g]);
        }
    }
};

// Where the lane reads the fragment a[16, 16] of a window whose row `row` is the lane's, in bytes; that of the chunk's second half is
// the same but for bit 5.
__device__ inline unsigned window_offset(int row) { return row * 64 + (threadIdx.x % 32 / 16 << 4 ^ row << 3 & 48); }

// The products of one tap: the window's rows from `rows` on, shifted, times a stage of weights. `both` halves of the chunk, or the first.
template <class T>
__device__ inline void multiply_tap(const bf16 *window, const int (&rows)[T::WARP_M / 16], int shift, const bf16 *stage, bool both,
                                    float (&sum)[T::SUMS]) {
    constexpr int ROWS = T::WARP_M / 16, COLUMNS = T::WARP_N / 8;
    const unsigned lane_b = shared_address(lane_of_b(stage + T::warp_n(), T::B_STRIDE, threadIdx.x % 32));
    unsigned lane_a[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) lane_a[i] = shared_address(window) + window_offset(rows[i] + shift);
#pragma unroll
    for (int k = 0; k < T::K; k += 16) {
        if (k > 0 && !both) break;
        unsigned y[COLUMNS / 2][4];
#pragma unroll
        for (int j = 0; j < COLUMNS / 2; ++j) load_matrices_transposed(y[j], lane_b + (k * T::B_STRIDE + 16 * j) * 2);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            unsigned x[4];
            load_matrices(x, lane_a[i] ^ 2 * k);
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) mma_bf16(&sum[(i * COLUMNS + j) * 4], x, y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// Adds the products of both sources, for columns from n0 on; `second.image` is null where there is one. Rows of the weights have `stride`
// numbers.
template <class T>
__device__ inline void multiply_windows(const Factor &first, const Factor &second, const Cut &cut, const WindowShared<T> &shared, int pooled,
                                        int stride, int n0, float (&sum)[T::SUMS]) {
    int rows[T::WARP_M / 16];
#pragma unroll
    for (int i = 0; i < T::WARP_M / 16; ++i) {
        const int3 row = tile_row(cut, T::warp_m() + 16 * i + threadIdx.x % 16, pooled);
        rows[i] = (row.x * cut.height + row.y) * cut.pitch + row.z;
    }
    const bool idle = n0 + T::warp_n() >= stride; // a warp without columns only brings numbers
    const int passes = WindowShare<T>::passes(cut), window_size = cut.pixels * T::K;
    WeightStream<T> weights(first, second, stride, n0);
    WindowShare<T> share;
#pragma unroll 1
    for (int stage = 0; stage < T::STAGES - 1; ++stage) {
        weights.fetch(shared.stages + stage * T::STAGE);
        copy_async_commit();
    }
#pragma unroll 1
    for (int pass = 0; pass < passes; pass += T::GROUP) {
        share.load(first.image, first.channels, shared.pixels, cut, 0, pass, passes);
        share.store(shared.windows, cut, first.activation, first.scale, pass, passes);
    }
    int used = 0, filled = T::STAGES - 1, window = 0;
#pragma unroll 1
    for (int source = 0; source < 2; ++source) {
        const int channels = source == 0 ? first.channels : second.channels;
        if (source == 1 && second.image == nullptr) break;
        const int across = source == 0 ? first.across : second.across, down = source == 0 ? first.down : second.down;
        const int each = (passes + across * down - 1) / (across * down); // passes over the next window during a tap
#pragma unroll 1
        for (int channel = 0; channel < channels; channel += T::K) {
            // The chunk behind this one.
            const bool same = channel + T::K < channels;
            const float *image = same ? (source == 0 ? first.image : second.image) : source == 0 ? second.image : nullptr;
            const bool of_first = same && source == 0;
            const int of = of_first ? first.channels : second.channels, from = same ? channel + T::K : 0;
            const int *pixels = of_first ? shared.pixels : shared.pixels + cut.pixels;
            bf16 *next = shared.windows + (window ^ 1) * window_size;
            int pass = 0;
#pragma unroll 1
            for (int tap = 0, x = 0, shift = source == 0 ? first.first : second.first; tap < across * down; ++tap) {
                copy_async_wait<T::STAGES - 2>();
                // Shows this step's weights, and the window behind its first tap; what the step before has read may be overwritten.
                __syncthreads();
                weights.fetch(shared.stages + filled * T::STAGE);
                copy_async_commit(); // an empty group keeps the count of groups the same
                filled = filled == T::STAGES - 1 ? 0 : filled + 1;
                const int end = image == nullptr ? 0 : min(pass + each, passes);
                if (pass < end) share.load(image, of, pixels, cut, from, pass, end);
                if (!idle) {
                    const bf16 *stage = shared.stages + used * T::STAGE;
                    multiply_tap<T>(shared.windows + window * window_size, rows, shift, stage, channel + 16 < channels, sum);
                }
                used = used == T::STAGES - 1 ? 0 : used + 1;
#pragma unroll 1
                while (pass < end) {
                    share.store(next, cut, of_first ? first.activation : second.activation, of_first ? first.scale : second.scale, pass, end);
                    pass += T::GROUP;
                    if (pass < end) share.load(image, of, pixels, cut, from, pass, end);
                }
                pass = end;
                shift += source == 0 ? first.right : second.right;
                if (++x == across) {
                    x = 0;
                    shift += (source == 0 ? first.below : second.below) - across * (source == 0 ? first.right : second.right);
                }
            }
            window ^= 1;
        }
    }
    copy_async_wait<0>();
}

// Hands 16 rows of a warp's sums to `end`, V neighbours to neighbouring lanes; with `pooled` the means of four rows each. A lane reads
// what the end needs for AHEAD of them before it finishes the first.
template <class T, int V, class End>
__device__ inline void hand_out(const float *sums, int pooled, const int *targets, int n0, const End &end) {
    constexpr int AHEAD = T::AHEAD;
    int packs_log = 0; // of the columns that the warp has, to a power of two
    while (V << packs_log < min(T::WARP_N, end.columns - n0)) ++packs_log;
    const int count = (n0 < end.columns ? 16 : 0) << packs_log >> 2 * pooled, last = (1 << packs_log) - 1;
#pragma unroll 1
    for (int first = threadIdx.x % 32; first < count; first += 32 * AHEAD) {
        Pack<V> beside[AHEAD][End::READS];
        int to[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int e = first + 32 * k;
            to[k] = e < count ? targets[e >> packs_log << 2 * pooled] : -1;
            end.read(to[k], n0 + (e & last) * V, beside[k]);
        }
#pragma unroll
        for (int k = 0; k < AHEAD; ++k) {
            const int e = first + 32 * k;
            if (to[k] < 0) continue;
            const float *from = &sums[(e >> packs_log << 2 * pooled) * T::C_STRIDE + (e & last) * V];
            Pack<V> value = load_pack<V>(from);
            if (pooled) {
#pragma unroll
                for (int r = 1; r < 4; ++r) add(value, load_pack<V>(from + r * T::C_STRIDE));
#pragma unroll
                for (int v = 0; v < V; ++v) value.v[v] *= 0.25f;
            }
            end.finish(to[k], n0 + (e & last) * V, value, beside[k]);
        }
    }
}

// Hands the sums of all warps out, 16 rows at a time through shared memory of a warp's own; one by one where the end's rows of numbers
// are not in fours.
template <class T, class End>
__device__ inline void write_out_by_warps(const float (&sum)[T::SUMS], int pooled, const int *targets, int n0, const End &end) {
    constexpr int COLUMNS = T::WARP_N / 8;
    const int lane = threadIdx.x % 32;
    __syncthreads(); // windows and stages are free
    float *own = reinterpret_cast<float *>(dynamic_shared) + threadIdx.x / 32 * 16 * T::C_STRIDE;
    targets += T::warp_m();
    n0 += T::warp_n();
#pragma unroll 1
    for (int i = 0; i < T::WARP_M / 16; ++i) {
#pragma unroll
        for (int part = 0; part < T::WARP_M / 16; ++part) {
            if (part != i) continue; // registers have no index
#pragma unroll
            for (int e = 0; e < COLUMNS * 4; e += 2) {
                const float *s = &sum[part * COLUMNS * 4 + e];
                const Pack<2> pack = {s[0], s[1]};
                store_pack<2>(&own[accumulator_row(lane, e % 4 / 2) * T::C_STRIDE + e / 4 * 8 + accumulator_column(lane)], pack);
            }
        }
        __syncwarp();
        if (end.fours()) hand_out<T, 4>(own, pooled, targets + 16 * i, n0, end);
        else hand_out<T, 1>(own, pooled, targets + 16 * i, n0, end);
        __syncwarp();
    }
}

// Weights [.., channels] in bf16 stand in rows of whole 16 bytes.
__device__ inline int packed_columns(int columns) { return columns + 7 & ~7; }

// As `fprop` in conv2d.cuh.
template <class T>
__device__ inline void window_fprop(const float *x, const bf16 *w, const float *x2, const bf16 *w2, const float *bias, const float *residual,
                                    float *y, float *after, const Conv &c, const Cut &cut, int channels, int pooled, unsigned pre,
                                    unsigned post) {
    const WindowShared<T> shared(cut);
    const int blocks = (c.cout + T::N - 1) / T::N, n0 = blockIdx.x % blocks * T::N;
    const TilePlace place(cut, blockIdx.x / blocks, T::M >> cut.width_log + cut.height_log);
    list_pixels<T>(shared.pixels, cut, place, c.n, c.h, c.w, 0, false);
    if (x2 != nullptr) list_pixels<T>(shared.pixels + cut.pixels, cut, place, c.n, c.oh, c.ow, 0, true);
    list_targets<T>(shared.targets, cut, place, c.n, c.oh >> pooled, c.ow >> pooled, pooled);
    __syncthreads();
    const Factor first = {x, w, c.cin, c.kw, c.kh, 0, c.dilation, c.dilation * cut.pitch, pre, 1.0f};
    const Factor second = {x2, w2, channels, 1, 1, cut.top * cut.pitch + cut.left, 0, 0, 0, 1.0f};
    float sum[T::SUMS] = {};
    multiply_windows<T>(first, second, cut, shared, pooled, packed_columns(c.cout), n0, sum);
    const FpropEnd end = {bias, residual, y, after, c.cout, post};
    write_out_by_warps<T>(sum, pooled, shared.targets, n0, end);
}

// As `dgrad` in conv2d.cuh. Taps are read from the last to the first.
template <class T>
__device__ inline void window_dgrad(const float *dy, const bf16 *wt, const float *dy2, const bf16 *wt2, const float *x,
                                    const float *residual, const float *start, float *dx, float *dx2, const Conv &c, const Cut &cut,
                                    int split, int halved, unsigned pre) {
    const WindowShared<T> shared(cut);
    const int blocks = (c.cin + T::N - 1) / T::N, n0 = blockIdx.x % blocks * T::N;
    const TilePlace place(cut, blockIdx.x / blocks, T::M >> cut.width_log + cut.height_log);
    const int whole = halved & 1, beside = halved >> 1;
    list_pixels<T>(shared.pixels, cut, place, c.n, c.oh >> whole, c.ow >> whole, whole, false);
    if (dy2 != nullptr) list_pixels<T>(shared.pixels + cut.pixels, cut, place, c.n, c.h >> beside, c.w >> beside, beside, true);
    list_targets<T>(shared.targets, cut, place, c.n, c.h, c.w, 0);
    __syncthreads();
    const int right = -c.dilation, below = right * cut.pitch;
    const Factor first = {dy, wt, c.cout, c.kw, c.kh, -(c.kh - 1) * below - (c.kw - 1) * right, right, below, 0, whole ? 0.25f : 1.0f};
    const Factor second = {dy2, wt2, c.cout, 1, 1, cut.top * cut.pitch + cut.left, 0, 0, 0, beside ? 0.25f : 1.0f};
    float sum[T::SUMS] = {};
    multiply_windows<T>(first, second, cut, shared, 0, packed_columns(c.cin), n0, sum);
    const DgradEnd end = {x, residual, start, dx, dx2, c.cin, split, pre};
    write_out_by_warps<T>(sum, 0, shared.targets, n0, end);
}
