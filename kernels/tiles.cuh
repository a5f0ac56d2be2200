// A block's tile of a matrix product: c[M, N] = sum over k of a[m, k] b[k, n], in f32, tf32 or bf16, summed in f32.
//
// The numbers come as f32 from two sources that say where each of them lies; what lies outside counts as zero. A source visits a
// thread's share of the next K columns of a, or rows of b: next([](int pass, const float *from, bool inside) { ... }).
//
// Where the factors are rounded, by counts, for 128x128 tiles and warps of 64x32. Shared memory moves 128 bytes a clock:
//   bf16 between global and shared memory. Per 16 columns a block reads 8 warps * (64 + 32) * 16 * 2 = 24 KB of fragments and writes
//     256 * 16 * 2 = 8 KB. Rounded behind a copy of f32 it would be 48 and 16 KB, and three times the loads (no ldmatrix makes bf16
//     out of f32). So global -> registers -> shared, the next step's loads in flight during this step's products.
//   tf32 at the fragments. It is as large as f32, so nothing is saved by an earlier rounding: f32 goes by cp.async straight into
//     shared memory, three stages deep, without a register in between, and one cvt stands beside each fragment register.
//   f32 like tf32, without rounding.
// An activation of a is applied once per number and block, by the thread that brought it, before the barrier that shows it to others.
#pragma once

#include "functions.cuh"
#include "mma.cuh"
#include "pack.cuh"

// Which numbers of a [ROWS][COLUMNS] tile a thread brings: neighbours along the columns go to neighbouring threads.
template <int ROWS, int COLUMNS, int THREADS, int V>
struct Share {
    static constexpr int CHUNKS = COLUMNS / V, STEP = THREADS / CHUNKS, PASSES = ROWS / STEP;
    static_assert(COLUMNS % V == 0 && THREADS % CHUNKS == 0 && ROWS % STEP == 0, "threads share a tile evenly");
    static __device__ int column() { return threadIdx.x % CHUNKS * V; }
    static __device__ int row(int pass) { return threadIdx.x / CHUNKS + pass * STEP; }
};

// A block's geometry. Warps of WARP_M x WARP_N; a is stored [M][K], or [K][M] where it is TRANSPOSED; V numbers move at once.
template <class Math_, int M_, int N_, int WARP_M_, int WARP_N_, bool TRANSPOSED_, int V_>
struct Tile {
    typedef Math_ Math;
    typedef typename Math::Element Element;
    static constexpr int M = M_, N = N_, K = Math::K, WARP_M = WARP_M_, WARP_N = WARP_N_, V = V_;
    static constexpr bool TRANSPOSED = TRANSPOSED_;
    static constexpr int THREADS = (M / WARP_M) * (N / WARP_N) * 32;
    static constexpr int SUMS = WARP_M * WARP_N / 32; // per thread
    // The padding keeps rows on 16 bytes and puts eight of them into different banks.
    static constexpr int A_STRIDE = TRANSPOSED ? M + 8 : K + Math::PAD, B_STRIDE = N + 8, C_STRIDE = N + 8;
    static constexpr int A = TRANSPOSED ? K * A_STRIDE : M * A_STRIDE, STAGE = A + K * B_STRIDE; // elements
    typedef Share<TRANSPOSED ? K : M, TRANSPOSED ? M : K, THREADS, V> ShareA;
    typedef Share<K, N, THREADS, V> ShareB;
    static __device__ int warp_m() { return threadIdx.x / 32 / (N / WARP_N) * WARP_M; }
    static __device__ int warp_n() { return threadIdx.x / 32 % (N / WARP_N) * WARP_N; }
};

// f32 on the ordinary units. The lanes of a warp stand 4 x 8; each makes WARP_M / 4 rows and WARP_N / 8 columns, four neighbours at a
// time, so that a step of depth 4 is WARP_M / 4 + WARP_N / 8 loads of 16 bytes for WARP_M WARP_N / 8 products a lane.
struct Ffma {
    typedef float Element;
    static constexpr int K = 16, PAD = 4, STAGES = 3;

    template <class T>
    static __device__ void step(const float *a, const float *b, float (&sum)[T::SUMS]) {
        constexpr int ROWS = T::WARP_M / 4, COLUMNS = T::WARP_N / 8;
        const int lane = threadIdx.x % 32;
        const float *column = b + T::warp_n() + lane % 8 * 4;
        if constexpr (T::TRANSPOSED) {
            const float *row = a + T::warp_m() + lane / 8 * 4;
#pragma unroll 2
            for (int k = 0; k < K; ++k) {
                Pack<4> y[COLUMNS / 4];
#pragma unroll
                for (int j = 0; j < COLUMNS / 4; ++j) y[j] = load_pack<4>(&column[k * T::B_STRIDE + 32 * j]);
#pragma unroll
                for (int i = 0; i < ROWS; i += 4) {
                    const Pack<4> x = load_pack<4>(&row[k * T::A_STRIDE + 4 * i]);
#pragma unroll
                    for (int e = 0; e < 4 * COLUMNS; ++e) {
                        float &s = sum[(i + e / COLUMNS) * COLUMNS + e % COLUMNS];
                        s = fmaf(x.v[e / COLUMNS], y[e % COLUMNS / 4].v[e % 4], s);
                    }
                }
            }
        } else {
            const float *row = a + (T::warp_m() + lane / 8) * T::A_STRIDE;
#pragma unroll 1 // enough products in one pass; more loads in flight would not fit the registers
            for (int k = 0; k < K; k += 4) {
                Pack<4> y[4][COLUMNS / 4];
#pragma unroll
                for (int e = 0; e < COLUMNS; ++e)
                    y[e % 4][e / 4] = load_pack<4>(&column[(k + e % 4) * T::B_STRIDE + 32 * (e / 4)]);
#pragma unroll
                for (int i = 0; i < ROWS; ++i) {
                    const Pack<4> x = load_pack<4>(&row[4 * i * T::A_STRIDE + k]);
#pragma unroll
                    for (int e = 0; e < 4 * COLUMNS; ++e) {
                        float &s = sum[i * COLUMNS + e % COLUMNS];
                        s = fmaf(x.v[e / COLUMNS], y[e / COLUMNS][e % COLUMNS / 4].v[e % 4], s);
                    }
                }
            }
        }
    }

    template <class T>
    static __device__ void deposit(const float (&sum)[T::SUMS], float *c) {
        constexpr int ROWS = T::WARP_M / 4, COLUMNS = T::WARP_N / 8;
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int row = T::warp_m() + (T::TRANSPOSED ? lane / 8 * 4 + i % 4 + i / 4 * 16 : lane / 8 + 4 * i);
#pragma unroll
            for (int j = 0; j < COLUMNS; j += 4) {
                const float *s = &sum[i * COLUMNS + j];
                const Pack<4> pack = {s[0], s[1], s[2], s[3]};
                store_pack<4>(&c[row * T::C_STRIDE + T::warp_n() + lane % 8 * 4 + 8 * j], pack);
            }
        }
    }
};

// What both kinds of mma share: the sums of a warp are WARP_M / 16 x WARP_N / 8 accumulators of 16x8.
struct TensorCores {
    // The lane's place in the first fragment of its warp's rows of a.
    template <class T>
    static __device__ const typename T::Element *lane_of_warp(const typename T::Element *a) {
        const int lane = threadIdx.x % 32;
        if constexpr (T::TRANSPOSED) return lane_of_a_transposed(a + T::warp_m(), T::A_STRIDE, lane);
        else return lane_of_a(a + T::warp_m() * T::A_STRIDE, T::A_STRIDE, lane);
    }

    template <class T>
    static __device__ void deposit(const float (&sum)[T::SUMS], float *c) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int e = 0; e < T::SUMS; e += 2) {
            const int i = e / 4 / (T::WARP_N / 8), j = e / 4 % (T::WARP_N / 8);
            const int row = T::warp_m() + 16 * i + accumulator_row(lane, e % 4 / 2);
            const Pack<2> pack = {sum[e], sum[e + 1]};
            store_pack<2>(&c[row * T::C_STRIDE + T::warp_n() + 8 * j + accumulator_column(lane)], pack);
        }
    }
};

struct Tf32 : TensorCores {
    typedef float Element;
    static constexpr int K = 16, PAD = 4, STAGES = 3;

    template <class T>
    static __device__ void step(const float *a, const float *b, float (&sum)[T::SUMS]) {
        constexpr int ROWS = T::WARP_M / 16, COLUMNS = T::WARP_N / 8;
        const float *lane_a = lane_of_warp<T>(a), *lane_b = lane_of_b(b + T::warp_n(), T::B_STRIDE, threadIdx.x % 32);
#pragma unroll
        for (int k = 0; k < K; k += 8) {
            unsigned x[ROWS][4], y[COLUMNS][2];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if constexpr (T::TRANSPOSED) fragment_a_transposed<T::A_STRIDE>(x[i], lane_a + k * T::A_STRIDE + 16 * i);
                else fragment_a(x[i], lane_a + 16 * i * T::A_STRIDE + k);
            }
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) fragment_b<T::B_STRIDE>(y[j], lane_b + k * T::B_STRIDE + 8 * j);
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j) mma_tf32(&sum[(i * COLUMNS + j) * 4], x[i], y[j][0], y[j][1]);
        }
    }
};

struct Bf16 : TensorCores {
    typedef bf16 Element;
    static constexpr int K = 32, PAD = 8, STAGES = 2;

    template <class T>
    static __device__ void step(const bf16 *a, const bf16 *b, float (&sum)[T::SUMS]) {
        constexpr int ROWS = T::WARP_M / 16, COLUMNS = T::WARP_N / 8;
        const bf16 *lane_a = lane_of_warp<T>(a), *lane_b = lane_of_b(b + T::warp_n(), T::B_STRIDE, threadIdx.x % 32);
#pragma unroll 1 // the fragments of one pass and the next step's numbers fill the registers
        for (int k = 0; k < K; k += 16) {
            unsigned x[ROWS][4], y[COLUMNS / 2][4];
#pragma unroll
            for (int i = 0; i < ROWS; ++i) {
                if constexpr (T::TRANSPOSED) fragment_a_transposed<T::A_STRIDE>(x[i], lane_a + k * T::A_STRIDE + 16 * i);
                else fragment_a(x[i], lane_a + 16 * i * T::A_STRIDE + k);
            }
#pragma unroll
            for (int j = 0; j < COLUMNS / 2; ++j) fragments_b(y[j], lane_b + k * T::B_STRIDE + 16 * j);
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
#pragma unroll
                for (int j = 0; j < COLUMNS; ++j)
                    mma_bf16(&sum[(i * COLUMNS + j) * 4], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
};

template <int V>
__device__ inline void copy_async(float *to, const float *from, bool inside) {
    if constexpr (V == 4) copy_async_16(to, from, inside);
    else copy_async_4(to, from, inside);
}

template <class T, class SourceA, class SourceB>
__device__ inline void fetch(float *stage, SourceA &a, SourceB &b) {
    a.next([&](int pass, const float *from, bool inside) {
        copy_async<T::V>(&stage[T::ShareA::row(pass) * T::A_STRIDE + T::ShareA::column()], from, inside);
    });
    b.next([&](int pass, const float *from, bool inside) {
        copy_async<T::V>(&stage[T::A + T::ShareB::row(pass) * T::B_STRIDE + T::ShareB::column()], from, inside);
    });
}

// Adds `steps` steps of depth K, through a pipeline of cp.async. The body stands once: the steps before step 0 only fetch.
template <class T, class SourceA, class SourceB>
__device__ inline void multiply(float *shared, SourceA &a, SourceB &b, unsigned activation, int steps, float (&sum)[T::SUMS]) {
    constexpr int STAGES = T::Math::STAGES;
    int filled = 0, used = 0; // stages
#pragma unroll 1
    for (int step = 1 - STAGES; step < steps; ++step) {
        float *stage = shared + used * T::STAGE;
        if (step >= 0) {
            copy_async_wait<STAGES - 2>();
            if (activation != 0) {
#pragma unroll 1
                for (int pass = 0; pass < T::ShareA::PASSES; ++pass) {
                    float *own = &stage[T::ShareA::row(pass) * T::A_STRIDE + T::ShareA::column()];
                    Pack<T::V> x = load_pack<T::V>(own);
#pragma unroll
                    for (int v = 0; v < T::V; ++v) x.v[v] = activate(activation, x.v[v]);
                    store_pack<T::V>(own, x);
                }
            }
            // One barrier does both: this step's numbers of all threads are there, and every warp has left the stage refilled below.
            __syncthreads();
        }
        if (step + STAGES - 1 < steps) fetch<T>(shared + filled * T::STAGE, a, b);
        copy_async_commit(); // an empty group keeps the count of groups the same
        filled = filled == STAGES - 1 ? 0 : filled + 1;
        if (step >= 0) {
            T::Math::template step<T>(stage, stage + T::A, sum);
            used = used == STAGES - 1 ? 0 : used + 1;
        }
    }
    copy_async_wait<0>();
}

// As above, rounding to bf16 between registers and shared memory.
template <class T, class SourceA, class SourceB>
__device__ inline void multiply(bf16 *shared, SourceA &a, SourceB &b, unsigned activation, int steps, float (&sum)[T::SUMS]) {
    Pack<T::V> x[T::ShareA::PASSES], y[T::ShareB::PASSES];
    const Pack<T::V> zero = {};
    const auto load = [&]() {
        a.next([&](int pass, const float *from, bool inside) { x[pass] = inside ? load_pack<T::V>(from) : zero; });
        b.next([&](int pass, const float *from, bool inside) { y[pass] = inside ? load_pack<T::V>(from) : zero; });
    };
    const auto store = [&](bf16 *stage) {
        switch (activation) {
            case 1: apply<Swish>(x); break;
            case 2: apply<LipSwish>(x); break;
            case 3: apply<Elu>(x); break;
        }
#pragma unroll
        for (int pass = 0; pass < T::ShareA::PASSES; ++pass)
            store_rounded(&stage[T::ShareA::row(pass) * T::A_STRIDE + T::ShareA::column()], x[pass]);
#pragma unroll
        for (int pass = 0; pass < T::ShareB::PASSES; ++pass)
            store_rounded(&stage[T::A + T::ShareB::row(pass) * T::B_STRIDE + T::ShareB::column()], y[pass]);
    };
    // The body stands once: step -1 only loads.
#pragma unroll 1
    for (int step = -1; step < steps; ++step) {
        if (step + 1 < steps) load();
        if (step >= 0) {
            const bf16 *stage = shared + step % 2 * T::STAGE;
            T::Math::template step<T>(stage, stage + T::A, sum);
        }
        if (step + 1 < steps) store(shared + (step + 1) % 2 * T::STAGE);
        __syncthreads();
    }
}

// Hands the sums out through shared memory: finish(row, column, V sums) is called for every V neighbours of c[M, N], in an order that
// makes neighbouring threads write neighbouring numbers. With `pooled` it gets the means of four rows each, and the first of them.
template <class T, class Finish>
__device__ inline void write_out(float *shared, const float (&sum)[T::SUMS], int pooled, Finish finish) {
    __syncthreads(); // the stages are c now
    T::Math::template deposit<T>(sum, shared);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < T::M * T::N / T::V >> 2 * pooled; i += T::THREADS) {
        const int row = i / (T::N / T::V) << 2 * pooled, column = i % (T::N / T::V) * T::V;
        const float *from = &shared[row * T::C_STRIDE + column];
        Pack<T::V> value = load_pack<T::V>(from);
        if (pooled) {
#pragma unroll 1
            for (int r = 1; r < 4; ++r) {
                const Pack<T::V> next = load_pack<T::V>(from + r * T::C_STRIDE);
#pragma unroll
                for (int v = 0; v < T::V; ++v) value.v[v] += next.v[v];
            }
#pragma unroll
            for (int v = 0; v < T::V; ++v) value.v[v] *= 0.25f;
        }
        finish(row, column, value);
    }
}
