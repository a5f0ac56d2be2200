// Planted bugs among the lanes of a warp and the warps of a block, each beside its correct twin: `<name>_bug` and
// `<name>_ok` take the same arguments. Block: 64 threads unless said otherwise.

// y[warp] = sum of x over the warp. Block: 48 threads, so the last warp has 16 lanes; the bug names all 32 in its mask.
template <bool TAIL> __device__ inline void tail_warp(const float *x, float *y) {
    const int lanes = min(32, static_cast<int>(blockDim.x) - static_cast<int>(threadIdx.x) / 32 * 32), lane = threadIdx.x % 32;
    const unsigned mask = TAIL && lanes < 32 ? (1u << lanes) - 1 : 0xffffffffu;
    float sum = x[threadIdx.x];
    for (int offset = 16; offset > 0; offset /= 2) {
        const float other = __shfl_down_sync(mask, sum, offset);
        if (lane + offset < lanes || !TAIL) sum += other;
    }
    if (lane == 0) y[threadIdx.x / 32] = sum;
}
extern "C" __global__ void tail_warp_ok(const float *x, float *y) { tail_warp<true>(x, y); }
extern "C" __global__ void tail_warp_bug(const float *x, float *y) { tail_warp<false>(x, y); }

// y[i] = whether any lane with x > 0 has x > 40. The bug votes inside the branch with all lanes in its mask.
extern "C" __global__ void vote_ok(const float *x, int *y) {
    const float value = x[threadIdx.x];
    const unsigned positive = __ballot_sync(0xffffffffu, value > 0.0f);
    int any = 0;
    if (value > 0.0f) any = __any_sync(positive, value > 40.0f);
    y[threadIdx.x] = any;
}
extern "C" __global__ void vote_bug(const float *x, int *y) {
    const float value = x[threadIdx.x];
    int any = 0;
    if (value > 0.0f) any = __any_sync(0xffffffffu, value > 40.0f);
    y[threadIdx.x] = any;
}

// A barrier per round, as many rounds in all warps; in the bug warp 1 has one fewer.
template <bool SAME> __device__ inline void rounds(const float *x, float *y) {
    __shared__ float tile[64];
    const int count = SAME ? 3 : 3 - static_cast<int>(threadIdx.x) / 32;
    float sum = 0.0f;
    for (int round = 0; round < count; ++round) {
        tile[threadIdx.x] = x[threadIdx.x] + round;
        __syncthreads(); // rounds
        sum += tile[threadIdx.x ^ 1];
        __syncthreads();
    }
    y[threadIdx.x] = sum;
}
extern "C" __global__ void rounds_ok(const float *x, float *y) { rounds<true>(x, y); }
extern "C" __global__ void rounds_bug(const float *x, float *y) { rounds<false>(x, y); }

// *y = sum of the first n of x (block: 32 threads). The bug's other lanes have left before the reduction.
extern "C" __global__ void early_return_ok(const float *x, float *y, int n) {
    float sum = threadIdx.x < n ? x[threadIdx.x] : 0.0f;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (threadIdx.x == 0) *y = sum;
}
extern "C" __global__ void early_return_bug(const float *x, float *y, int n) {
    if (threadIdx.x >= n) return;
    float sum = x[threadIdx.x];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (threadIdx.x == 0) *y = sum;
}

// Half a warp shares a value; the bug's __syncwarp names lanes that are elsewhere.
template <bool HALF> __device__ inline void half_warp(const float *x, float *y) {
    __shared__ float tile[64];
    float value = 0.0f;
    tile[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) {
        __syncwarp(HALF ? 0x0000ffffu : 0xffffffffu);
        value = tile[threadIdx.x ^ 8];
    }
    y[threadIdx.x] = value;
}
extern "C" __global__ void half_warp_ok(const float *x, float *y) { half_warp<true>(x, y); }
extern "C" __global__ void half_warp_bug(const float *x, float *y) { half_warp<false>(x, y); }

// y[warp] = sum of whole numbers with redux; the bug's odd lanes have branched away.
template <bool ALL> __device__ inline void redux(const int *x, int *y) {
    const int value = x[threadIdx.x];
    if (ALL || threadIdx.x % 2 == 0) {
        const int sum = __reduce_add_sync(0xffffffffu, value);
        if (threadIdx.x % 32 == 0) y[threadIdx.x / 32] = sum;
    }
}
extern "C" __global__ void redux_ok(const int *x, int *y) { redux<true>(x, y); }
extern "C" __global__ void redux_bug(const int *x, int *y) { redux<false>(x, y); }

// Sum of 64 in shared memory; the last steps within warp 0, where the bug trusts that lanes run in step.
template <bool SYNC> __device__ inline void in_step(const float *x, float *y) {
    __shared__ float tile[64];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < 32) {
        for (int half = 32; half > 0; half /= 2) {
            const float other = tile[threadIdx.x + half < 64 ? threadIdx.x + half : threadIdx.x];
            if (SYNC) __syncwarp();
            tile[threadIdx.x] += other;
            if (SYNC) __syncwarp();
        }
    }
    if (threadIdx.x == 0) *y = tile[0];
}
extern "C" __global__ void in_step_ok(const float *x, float *y) { in_step<true>(x, y); }
extern "C" __global__ void in_step_bug(const float *x, float *y) { in_step<false>(x, y); }

// Two producers and a consumer warp by named barriers (block: 96 threads). The bug's consumer waits at the wrong one.
template <int WAIT> __device__ inline void named(const float *x, float *y) {
    __shared__ float tile[64];
    if (threadIdx.x < 64) {
        tile[threadIdx.x] = x[threadIdx.x];
        asm volatile("bar.arrive 1, 96;" ::: "memory");
        asm volatile("bar.arrive 2, 96;" ::: "memory");
    } else {
        asm volatile("bar.sync %0, 96;" ::"n"(WAIT) : "memory");
        const int i = threadIdx.x - 64;
        y[i] = tile[i] + tile[i + 32];
    }
}
extern "C" __global__ void named_ok(const float *x, float *y) { named<2>(x, y); }
extern "C" __global__ void named_bug(const float *x, float *y) {
    __shared__ float tile[64];
    if (threadIdx.x < 64) {
        asm volatile("bar.arrive 1, 96;" ::: "memory");
        tile[threadIdx.x] = x[threadIdx.x];
    } else {
        asm volatile("bar.sync 1, 96;" ::: "memory");
        const int i = threadIdx.x - 64;
        y[i] = tile[i] + tile[i + 32];
    }
}

// *y = sum of x by the warp that finishes last, told by a counter in shared memory. The bug's fence stands before the store.
template <bool AFTER> __device__ inline void last_warp(const int *x, int *y) {
    __shared__ int part[2];
    __shared__ int done;
    if (threadIdx.x == 0) done = 0;
    __syncthreads();
    int sum = x[threadIdx.x];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) {
        if (!AFTER) __threadfence_block();
        part[threadIdx.x / 32] = sum;
        if (AFTER) __threadfence_block();
        if (atomicAdd(&done, 1) == 1) *y = part[0] + part[1];
    }
}
extern "C" __global__ void last_warp_ok(const int *x, int *y) { last_warp<true>(x, y); }
extern "C" __global__ void last_warp_bug(const int *x, int *y) { last_warp<false>(x, y); }

// *y = sum of x[0] and x[32] under a lock in shared memory. The bug gives the lock back without a fence.
template <bool FENCE> __device__ inline void shared_lock(const int *x, int *y) {
    __shared__ int lock, sum;
    if (threadIdx.x == 0) lock = sum = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(&lock, 0, 1) != 0) {}
        __threadfence_block();
        sum = sum + x[threadIdx.x] + 1;
        if (FENCE) __threadfence_block();
        atomicExch(&lock, 0);
    }
    __syncthreads();
    if (threadIdx.x == 0) *y = sum;
}
extern "C" __global__ void shared_lock_ok(const int *x, int *y) { shared_lock<true>(x, y); }
extern "C" __global__ void shared_lock_bug(const int *x, int *y) { shared_lock<false>(x, y); }
