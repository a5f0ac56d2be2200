// kernelc: compute_90a
// Clusters of two blocks with a planted bug, each beside its correct twin.

#include "cluster.cuh"

#define TWINS(NAME)                                                                                                    \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64)                                         \
        NAME##_bug(const float *x, float *y) {                                                                         \
        NAME<true>(x, y);                                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(64)                                         \
        NAME##_ok(const float *x, float *y) {                                                                          \
        NAME<false>(x, y);                                                                                             \
    }

// Another block's memory is written before that block is known to run.
template <bool BUG>
__device__ inline void not_begun(const float *x, float *y) {
    __shared__ float part[64];
    if (!BUG) cluster_sync();
    store(peer(&part[threadIdx.x], rank() ^ 1), x[threadIdx.x]);
    cluster_sync();
    y[blockIdx.x * 64 + threadIdx.x] = part[threadIdx.x];
}
TWINS(not_begun)

// A block ends while the other reads its memory.
template <bool BUG>
__device__ inline void ended(const float *x, float *y) {
    __shared__ float part[64];
    part[threadIdx.x] = x[threadIdx.x];
    cluster_sync();
    y[blockIdx.x * 64 + threadIdx.x] = load(peer(&part[63 - threadIdx.x], rank() ^ 1));
    if (!BUG) cluster_sync();
}
TWINS(ended)

// The other's memory is read after an arrival that was not waited for.
template <bool BUG>
__device__ inline void no_wait(const float *x, float *y) {
    __shared__ float part[64];
    cluster_sync();
    part[threadIdx.x] = x[threadIdx.x];
    cluster_arrive();
    if (!BUG) cluster_wait();
    y[blockIdx.x * 64 + threadIdx.x] = load(peer(&part[63 - threadIdx.x], rank() ^ 1));
    if (BUG) cluster_wait();
    cluster_sync();
}
TWINS(no_wait)

// A relaxed arrival orders nothing.
template <bool BUG>
__device__ inline void relaxed(const float *x, float *y) {
    __shared__ float part[64];
    part[threadIdx.x] = x[threadIdx.x];
    if (BUG)
        cluster_arrive_relaxed();
    else
        cluster_arrive();
    cluster_wait();
    y[blockIdx.x * 64 + threadIdx.x] = load(peer(&part[63 - threadIdx.x], rank() ^ 1));
    cluster_sync();
}
TWINS(relaxed)

// A second arrival with no wait between.
template <bool BUG>
__device__ inline void arrives_twice(const float *x, float *y) {
    cluster_arrive();
    if (BUG) cluster_arrive();
    cluster_wait();
    y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
}
TWINS(arrives_twice)

// A block barrier where one of the cluster is needed: both blocks add to one word.
template <bool BUG>
__device__ inline void block_barrier(const float *x, float *y) {
    __shared__ float sum;
    if (threadIdx.x == 0) sum = x[0];
    cluster_sync();
    if (threadIdx.x == 0 && rank() == 1) store(peer(&sum, 0), x[1]);
    if (BUG)
        __syncthreads();
    else
        cluster_sync();
    if (rank() == 0) y[blockIdx.x * 64 + threadIdx.x] = sum;
    cluster_sync();
}
TWINS(block_barrier)

// A rank that the cluster does not have.
template <bool BUG>
__device__ inline void wrong_rank(const float *x, float *y) {
    __shared__ float part[64];
    part[threadIdx.x] = x[threadIdx.x];
    cluster_sync();
    const unsigned other = BUG ? rank() + 1 : rank() ^ 1;
    y[blockIdx.x * 64 + threadIdx.x] = load(peer(&part[threadIdx.x], other));
    cluster_sync();
}
TWINS(wrong_rank)

// An address of the other block used as one of the own.
template <bool BUG>
__device__ inline void wrong_space(const float *x, float *y) {
    __shared__ float part[64];
    part[threadIdx.x] = x[threadIdx.x];
    cluster_sync();
    const unsigned place = peer(&part[threadIdx.x], rank() ^ 1);
    float value = 0;
    if (BUG)
        asm volatile("ld.shared::cta.f32 %0, [%1];" : "=f"(value) : "r"(place) : "memory");
    else
        value = load(place);
    y[blockIdx.x * 64 + threadIdx.x] = value;
    cluster_sync();
}
TWINS(wrong_space)

// The block of rank 0 brings the same to both blocks.
template <bool BUG_MASK, bool BUG_EXPECT, bool BUG_BARRIER>
__device__ inline void bring(const float *x, float *y) {
    __shared__ alignas(16) float tile[64];
    __shared__ u64 full;
    if (threadIdx.x == 0) {
        init(&full, 1);
        show();
        if (!BUG_EXPECT || rank() == 0) expect(&full, 256);
    }
    if (BUG_BARRIER)
        __syncthreads();
    else
        cluster_sync();
    if (threadIdx.x == 0 && rank() == 0) multicast(tile, x, 256, &full, BUG_MASK ? 7 : 3);
    if (threadIdx.x == 0 && BUG_EXPECT && rank() == 1) arrive_at(at(&full));
    wait(&full, 0);
    y[blockIdx.x * 64 + threadIdx.x] = tile[threadIdx.x];
    cluster_sync();
}

// The mask names a block that the cluster does not have.
template <bool BUG>
__device__ inline void wrong_mask(const float *x, float *y) {
    bring<BUG, false, false>(x, y);
}
TWINS(wrong_mask)

// The mbarrier of one of the blocks does not expect the bytes.
template <bool BUG>
__device__ inline void not_expected(const float *x, float *y) {
    bring<false, BUG, false>(x, y);
}
TWINS(not_expected)

// The other block's mbarrier may not be initialised when the copy counts its bytes there.
template <bool BUG>
__device__ inline void not_initialised(const float *x, float *y) {
    bring<false, false, BUG>(x, y);
}
TWINS(not_initialised)

// A stage is filled again when only the own block's consumers have read it.
template <bool BUG>
__device__ inline void own_consumers(const float *x, float *y) {
    __shared__ alignas(16) float stage[32];
    __shared__ u64 full, empty;
    const unsigned me = rank();
    if (threadIdx.x == 0) {
        init(&full, 1), init(&empty, BUG ? 1 : 2);
        show();
    }
    cluster_sync();
    if (threadIdx.x == 32) {
        for (int t = 0; t < 4; ++t) {
            if (t > 0) wait(&empty, (t - 1) % 2);
            expect(&full, 128);
            multicast(&stage[16 * me], &x[32 * t + 16 * me], 64, &full, 3);
        }
    }
    if (threadIdx.x < 32) {
        float sum = 0;
        for (int t = 0; t < 4; ++t) {
            wait(&full, t % 2);
            sum += stage[31 - threadIdx.x];
            __syncwarp();
            if (BUG) {
                if (threadIdx.x == 0) arrive_at(peer(&empty, me));
            } else if (threadIdx.x < 2) {
                arrive_at(peer(&empty, threadIdx.x));
            }
        }
        y[blockIdx.x * 64 + threadIdx.x] = sum;
    }
    cluster_sync();
}
TWINS(own_consumers)

// The last arrivals at the other block's mbarrier come when that block may have ended.
template <bool BUG>
__device__ inline void late_arrival(const float *x, float *y) {
    __shared__ u64 ready;
    if (threadIdx.x == 0) {
        init(&ready, 1);
        show();
    }
    cluster_sync();
    if (threadIdx.x == 0) arrive_at(peer(&ready, rank() ^ 1));
    if (!BUG) wait(&ready, 0);
    y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
}
TWINS(late_arrival)

// Global memory is handed to the other block with no barrier of the cluster.
template <bool BUG>
__device__ inline void global_handed_over(const float *x, float *y) {
    y[blockIdx.x * 64 + threadIdx.x] = x[threadIdx.x];
    if (BUG)
        __syncthreads();
    else
        cluster_sync();
    const float other = y[(blockIdx.x ^ 1) * 64 + threadIdx.x];
    cluster_sync();
    y[blockIdx.x * 64 + threadIdx.x] = other;
}
TWINS(global_handed_over)
