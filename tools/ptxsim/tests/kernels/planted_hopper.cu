// kernelc: compute_90a
// mbarriers, bulk copies and wgmma with a planted bug, each beside its correct twin.

typedef unsigned short bf16;
typedef unsigned long long u64;

__device__ inline unsigned at(const void *p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

__device__ inline void init(u64 *bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at(bar)), "r"(count) : "memory");
}
__device__ inline void show() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrive(u64 *bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at(bar)) : "memory"); }
__device__ inline void expect(u64 *bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at(bar)), "r"(bytes) : "memory");
}
__device__ inline void wait(u64 *bar, int parity) {
    asm volatile("{ .reg .pred done;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN; }" ::"r"(at(bar)),
                 "r"(parity)
                 : "memory");
}
__device__ inline void bring(void *to, const void *from, int bytes, u64 *bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(at(to)), "l"(from),
                 "r"(bytes), "r"(at(bar))
                 : "memory");
}
__device__ inline void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Rows of 16 bf16 as core matrices: 128 bytes along k, 256 from eight rows to the next.
__device__ inline u64 descriptor(const void *p) { return u64(at(p) >> 4) | u64(128 >> 4) << 16 | u64(256 >> 4) << 32; }
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ inline void wait_group(float (&d)[4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])::"memory");
}
__device__ inline void multiply(float (&d)[4], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "l"(a), "l"(b)
                 : "memory");
}

#define TWINS(NAME)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) NAME##_bug(const float *x, float *y) { NAME<true>(x, y); }      \
    extern "C" __global__ void __launch_bounds__(256) NAME##_ok(const float *x, float *y) { NAME<false>(x, y); }

// A warp reads before the copy is there.
template <bool BUG>
__device__ inline void no_wait(const float *x, float *y) {
    __shared__ alignas(16) float tile[64];
    __shared__ u64 full;
    if (threadIdx.x == 0) {
        init(&full, 1);
        show();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(&full, 256);
        bring(tile, x, 256, &full);
    }
    if (!BUG || threadIdx.x < 32) wait(&full, 0);
    y[threadIdx.x] = tile[threadIdx.x ^ 32];
}
TWINS(no_wait)

// The producer fills a stage again that the consumers have not left: it takes the wrong parity for "empty".
template <bool BUG>
__device__ inline void wrong_parity(const float *x, float *y) {
    __shared__ alignas(16) float stage[2][32];
    __shared__ u64 full[2], empty[2];
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; ++s) init(&full[s], 1), init(&empty[s], 1);
        show();
    }
    __syncthreads();
    if (threadIdx.x == 32) {
        for (int i = 0; i < 4; ++i) {
            if (i >= 2) wait(&empty[i % 2], BUG ? 1 : 0);
            expect(&full[i % 2], 128);
            bring(stage[i % 2], x + 32 * i, 128, &full[i % 2]);
        }
    }
    if (threadIdx.x < 32) {
        float sum = 0;
        for (int i = 0; i < 4; ++i) {
            wait(&full[i % 2], i / 2 % 2);
            sum += stage[i % 2][31 - threadIdx.x];
            __syncwarp();
            if (threadIdx.x == 0) arrive(&empty[i % 2]);
        }
        y[threadIdx.x] = sum;
    }
}
TWINS(wrong_parity)

// One lane says that the stage is free while the others may still read.
template <bool BUG>
__device__ inline void no_syncwarp(const float *x, float *y) {
    __shared__ alignas(16) float stage[32];
    __shared__ u64 full, empty;
    if (threadIdx.x == 0) {
        init(&full, 1), init(&empty, 1);
        show();
    }
    __syncthreads();
    if (threadIdx.x == 32) {
        for (int i = 0; i < 2; ++i) {
            if (i > 0) wait(&empty, 0);
            expect(&full, 128);
            bring(stage, x + 32 * i, 128, &full);
        }
    }
    if (threadIdx.x < 32) {
        float sum = 0;
        for (int i = 0; i < 2; ++i) {
            wait(&full, i % 2);
            sum += stage[31 - threadIdx.x];
            if (!BUG) __syncwarp();
            if (threadIdx.x == 0) arrive(&empty);
        }
        y[threadIdx.x] = sum;
    }
}
TWINS(no_syncwarp)

// Fewer bytes are expected than come; the next phase ends early.
template <bool BUG>
__device__ inline void bytes_missing(const float *x, float *y) {
    __shared__ alignas(16) float tile[64];
    __shared__ u64 full;
    if (threadIdx.x == 0) {
        init(&full, 1);
        show();
        expect(&full, BUG ? 512 : 256);
        bring(tile, x, 256, &full);
    }
    __syncthreads();
    wait(&full, 0);
    y[threadIdx.x] = tile[threadIdx.x];
}
TWINS(bytes_missing)

// Fills the factors of a product: all ones.
__device__ inline void ones(bf16 *a, bf16 *b) {
    for (int i = threadIdx.x; i < 64 * 16; i += 128) a[i] = 0x3f80;
    for (int i = threadIdx.x; i < 8 * 16; i += 128) b[i] = 0x3f80;
}

// The tensor cores read what ordinary stores wrote.
template <bool BUG>
__device__ inline void no_proxy_fence(const float *, float *y) {
    __shared__ alignas(128) bf16 a[64 * 16], b[8 * 16];
    ones(a, b);
    if (!BUG) proxy_fence();
    __syncthreads();
    float d[4] = {};
    wgmma_fence();
    multiply(d, descriptor(a), descriptor(b));
    commit();
    wait_group(d);
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = d[i];
}
TWINS(no_proxy_fence)

// The sums are used before they are there.
template <bool BUG>
__device__ inline void no_wait_group(const float *, float *y) {
    __shared__ alignas(128) bf16 a[64 * 16], b[8 * 16];
    ones(a, b);
    proxy_fence();
    __syncthreads();
    float d[4] = {};
    wgmma_fence();
    multiply(d, descriptor(a), descriptor(b));
    commit();
    if (!BUG) wait_group(d);
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = d[i] + 1.0f;
    if (BUG) wait_group(d);
}
TWINS(no_wait_group)

// The factor is overwritten while the product runs.
template <bool BUG>
__device__ inline void overwritten(const float *, float *y) {
    __shared__ alignas(128) bf16 a[64 * 16], b[8 * 16];
    ones(a, b);
    proxy_fence();
    __syncthreads();
    float d[4] = {};
    const bool multiplies = __shfl_sync(0xffffffffu, int(threadIdx.x / 128), 0) == 0;
    if (multiplies) {
        wgmma_fence();
        multiply(d, descriptor(a), descriptor(b));
        commit();
        if (!BUG) wait_group(d);
    }
    __syncthreads();
    if (threadIdx.x >= 128) b[threadIdx.x - 128] = 0;
    if (BUG && multiplies) wait_group(d);
    if (multiplies)
        for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = d[i];
}
TWINS(overwritten)

// Registers that ordinary instructions wrote go into a product with no wgmma.fence between.
template <bool BUG>
__device__ inline void no_fence(const float *x, float *y) {
    __shared__ alignas(128) bf16 a[64 * 16], b[8 * 16];
    ones(a, b);
    proxy_fence();
    __syncthreads();
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = x[threadIdx.x] * float(i);
    if (!BUG) wgmma_fence();
    multiply(d, descriptor(a), descriptor(b));
    commit();
    wait_group(d);
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = d[i];
}
TWINS(no_fence)

// Three of the four warps of a warpgroup multiply.
template <bool BUG>
__device__ inline void three_warps(const float *, float *y) {
    __shared__ alignas(128) bf16 a[64 * 16], b[8 * 16];
    ones(a, b);
    proxy_fence();
    __syncthreads();
    float d[4] = {};
    if (!BUG || threadIdx.x < 96) {
        wgmma_fence();
        multiply(d, descriptor(a), descriptor(b));
        commit();
        wait_group(d);
    }
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = d[i];
}
TWINS(three_warps)
