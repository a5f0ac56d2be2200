// Planted bugs in kernels whose blocks hand data to each other through fences and atomics, each beside its correct twin:
// `<name>_bug` and `<name>_ok` take the same arguments. Block: 64 threads.

// *total = sum of x by the block that finishes last. `partial` has one element per block, `done` starts at 0.
template <bool BEFORE, bool AFTER, bool ALL>
__device__ inline void last_block(const int *x, int *partial, unsigned *done, int *total) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int i = 0; i < 64; ++i) sum += x[blockIdx.x * 64 + i];
        if (BEFORE) __threadfence();
        partial[blockIdx.x] = sum;
        if (AFTER) __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1 || ALL;
    }
    __syncthreads();
    if (last && threadIdx.x == 63) {
        int sum = 0;
        for (int block = 0; block < gridDim.x; ++block) sum += partial[block];
        *total = sum;
    }
}
extern "C" __global__ void no_fence_ok(const int *x, int *partial, unsigned *done, int *total) {
    last_block<false, true, false>(x, partial, done, total);
}
extern "C" __global__ void no_fence_bug(const int *x, int *partial, unsigned *done, int *total) {
    last_block<false, false, false>(x, partial, done, total);
}
// The bug's fence stands before the store that it should order.
extern "C" __global__ void early_fence_ok(const int *x, int *partial, unsigned *done, int *total) {
    last_block<true, true, false>(x, partial, done, total);
}
extern "C" __global__ void early_fence_bug(const int *x, int *partial, unsigned *done, int *total) {
    last_block<true, false, false>(x, partial, done, total);
}
// Every block of the bug adds up, not the last alone.
extern "C" __global__ void every_block_ok(const int *x, int *partial, unsigned *done, int *total) {
    last_block<false, true, false>(x, partial, done, total);
}
extern "C" __global__ void every_block_bug(const int *x, int *partial, unsigned *done, int *total) {
    last_block<false, true, true>(x, partial, done, total);
}

// The same with a partial sum per thread. The bug's thread 0 fences before the other warp has stored.
template <bool BARRIER> __device__ inline void all_threads(const int *x, int *partial, unsigned *done, int *total) {
    __shared__ bool last;
    const int i = blockIdx.x * 64 + threadIdx.x;
    partial[i] = 2 * x[i];
    if (BARRIER) __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last) return;
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int j = 0; j < gridDim.x * 64; ++j) sum += partial[j];
        *total = sum;
        *done = 0;
    }
}
extern "C" __global__ void store_of_all_ok(const int *x, int *partial, unsigned *done, int *total) {
    all_threads<true>(x, partial, done, total);
}
extern "C" __global__ void store_of_all_bug(const int *x, int *partial, unsigned *done, int *total) {
    all_threads<false>(x, partial, done, total);
}

// All threads fence, a barrier, then one atomic. The bug's lanes other than 0 do not fence.
template <bool EACH> __device__ inline void lanes_fence(const int *x, int *partial, unsigned *done, int *total) {
    __shared__ bool last;
    const int i = blockIdx.x * 64 + threadIdx.x;
    partial[i] = 2 * x[i];
    if (EACH || threadIdx.x % 32 == 0) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(done, 1u) == gridDim.x - 1;
    __syncthreads();
    if (last && threadIdx.x == 0) {
        int sum = 0;
        for (int j = 0; j < gridDim.x * 64; ++j) sum += partial[j];
        *total = sum;
    }
}
extern "C" __global__ void fence_of_all_ok(const int *x, int *partial, unsigned *done, int *total) {
    lanes_fence<true>(x, partial, done, total);
}
extern "C" __global__ void fence_of_all_bug(const int *x, int *partial, unsigned *done, int *total) {
    lanes_fence<false>(x, partial, done, total);
}

// Block 0 makes data[64], the others wait for flag 0 and read it: y[block, i] = data[63 - i]. flags[2] starts at 0.
// WAIT: which flag the readers wait for; ALL: whether warp 1 waits for warp 0, which watches the flag.
template <int WAIT, bool ALL> __device__ inline void handed_over(int *data, unsigned *flags, int *y) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = threadIdx.x * 3;
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            atomicExch(&flags[1], 1u);
            __threadfence();
            atomicExch(&flags[0], 1u);
        }
        return;
    }
    if (WAIT == 0 && threadIdx.x == 0) {
        while (atomicAdd(&flags[0], 0u) == 0) {}
    }
    if (WAIT == 1 && threadIdx.x == 0) {
        while (*static_cast<volatile unsigned *>(&flags[0]) == 0) {}
        __threadfence();
    }
    if (ALL) __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = data[63 - threadIdx.x];
}
extern "C" __global__ void wait_of_all_ok(int *data, unsigned *flags, int *y) { handed_over<0, true>(data, flags, y); }
extern "C" __global__ void wait_of_all_bug(int *data, unsigned *flags, int *y) { handed_over<0, false>(data, flags, y); }
// The bug does not wait at all.
extern "C" __global__ void no_wait_ok(int *data, unsigned *flags, int *y) { handed_over<1, true>(data, flags, y); }
extern "C" __global__ void no_wait_bug(int *data, unsigned *flags, int *y) { handed_over<2, true>(data, flags, y); }

// *sum += x under a lock that starts at 0. The bug gives the lock back without a fence.
template <bool FENCE> __device__ inline void locked_sum(const int *x, unsigned *lock, int *sum) {
    if (threadIdx.x != 0) return;
    while (atomicCAS(lock, 0u, 1u) != 0u) {}
    __threadfence();
    *sum = *sum + x[blockIdx.x];
    if (FENCE) __threadfence();
    atomicExch(lock, 0u);
}
extern "C" __global__ void unlock_ok(const int *x, unsigned *lock, int *sum) { locked_sum<true>(x, lock, sum); }
extern "C" __global__ void unlock_bug(const int *x, unsigned *lock, int *sum) { locked_sum<false>(x, lock, sum); }

// y[i] = 2 x of the next block's element, through a barrier of the whole grid in between; `arrived` starts at 0. The bug's
// thread 0 arrives before the other warp has stored.
template <bool BARRIER> __device__ inline void grid_barrier(const int *x, int *z, int *y, unsigned *arrived) {
    const int i = blockIdx.x * 64 + threadIdx.x, n = gridDim.x * 64;
    for (int round = 1; round <= 2; ++round) {
        z[i] = round * x[i];
        if (BARRIER) __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
            while (*static_cast<volatile unsigned *>(arrived) < (2 * round - 1) * gridDim.x) {}
            __threadfence();
        }
        __syncthreads();
        y[i] = z[(i + 64) % n];
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
            while (*static_cast<volatile unsigned *>(arrived) < 2 * round * gridDim.x) {}
            __threadfence();
        }
        __syncthreads();
    }
}
extern "C" __global__ void grid_barrier_ok(const int *x, int *z, int *y, unsigned *arrived) { grid_barrier<true>(x, z, y, arrived); }
extern "C" __global__ void grid_barrier_bug(const int *x, int *z, int *y, unsigned *arrived) { grid_barrier<false>(x, z, y, arrived); }

// Prefix sums by look-back: block b adds its own sum to the prefix that block b - 1 publishes. `state` starts at 0; the bug
// publishes the flag before the prefix.
template <bool ORDER> __device__ inline void look_back(const int *x, int *prefix, unsigned *state) {
    if (threadIdx.x != 0) return;
    int sum = 0;
    for (int i = 0; i < 64; ++i) sum += x[blockIdx.x * 64 + i];
    if (blockIdx.x > 0) {
        while (atomicAdd(&state[blockIdx.x - 1], 0u) == 0u) {}
        __threadfence();
        sum += prefix[blockIdx.x - 1];
    }
    if (!ORDER) atomicExch(&state[blockIdx.x], 1u);
    prefix[blockIdx.x] = sum;
    __threadfence();
    if (ORDER) atomicExch(&state[blockIdx.x], 1u);
}
extern "C" __global__ void look_back_ok(const int *x, int *prefix, unsigned *state) { look_back<true>(x, prefix, state); }
extern "C" __global__ void look_back_bug(const int *x, int *prefix, unsigned *state) { look_back<false>(x, prefix, state); }

// As handed_over, by st.release and ld.acquire. The bug's store is relaxed.
template <bool RELEASE> __device__ inline void released(int *data, unsigned *flag, int *y) {
    if (blockIdx.x == 0) {
        data[threadIdx.x] = threadIdx.x * 3;
        __syncthreads();
        if (threadIdx.x == 0) {
            if (RELEASE) asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(1u) : "memory");
            else asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(1u) : "memory");
        }
        return;
    }
    unsigned seen = 0;
    while (seen == 0) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
    y[blockIdx.x * 64 + threadIdx.x] = data[63 - threadIdx.x];
    if (gridDim.x == 12345) asm volatile("fence.acq_rel.gpu;" ::: "memory");
}
extern "C" __global__ void released_ok(int *data, unsigned *flag, int *y) { released<true>(data, flag, y); }
extern "C" __global__ void released_bug(int *data, unsigned *flag, int *y) { released<false>(data, flag, y); }
