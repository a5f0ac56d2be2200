// What compute capability 9.0 has beyond 8.0: mbarriers, bulk copies into shared memory, clusters of blocks, and products of a warpgroup (wgmma).
//
// A factor of a product lies in shared memory in lines of 128 bytes, and a product takes 16 steps of k. Either a line is a row (or a column of the
// right factor) with 64 steps of k, of which a product takes 32 bytes; or it is a step of k with 64 rows (columns), and a product takes 16 lines.
// The 16-byte chunks of a line are permuted: chunk j of line i stands at place j ^ i % 8. Eight lines begin on a multiple of 1,024 bytes.
#pragma once

#include "mma.cuh"

// Bytes of a line.
#define LINE 128

typedef unsigned long long Mbarrier;

__device__ inline void mbarrier_init(Mbarrier *barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Shows mbarriers that this thread initialised to the copy engine; a barrier then shows them to the block.
__device__ inline void mbarrier_show() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void mbarrier_arrive(Mbarrier *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives, and so many bytes more are to come.
__device__ inline void mbarrier_expect(Mbarrier *barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}

// Waits for the phase of that parity; of a new mbarrier the phase before the first, of parity 1, is complete.
__device__ inline void mbarrier_wait(Mbarrier *barrier, unsigned parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(
                     shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// The number of this block in its cluster.
__device__ inline unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// A barrier of all threads of a cluster: what was written in shared memory before it arrived is seen by those that have waited.
__device__ inline void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Arrives at what is this mbarrier in the block of that number, and waits for a phase at which other blocks arrive.
__device__ inline void mbarrier_arrive_in(Mbarrier *barrier, unsigned rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}
__device__ inline void mbarrier_wait_for_cluster(Mbarrier *barrier, unsigned parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(
                     shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// Begins to copy to this place of shared memory in all blocks of the cluster that `ranks` has bits of; the same mbarrier in each counts the bytes.
// All addresses and sizes are multiples of 16.
__device__ inline void copy_bulk(void *to, const void *from, unsigned bytes, Mbarrier *barrier, unsigned short ranks) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier)), "h"(ranks)
                 : "memory");
}

// What this thread stored in shared memory before is seen by products after; a barrier between, if other threads order them.
__device__ inline void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A barrier of so many threads; number 0 is __syncthreads'.
__device__ inline void barrier_of(unsigned number, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Stores four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void store_matrices_at(unsigned at, const unsigned (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

// As above, each matrix transposed.
__device__ inline void store_transposed_at(unsigned at, const unsigned (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

// The number of this warpgroup, in a form that the assembler knows to be the same in all of its threads.
__device__ inline int warpgroup() { return __shfl_sync(0xffffffffu, int(threadIdx.x / 128), 0); }

// A warpgroup gives registers of its threads back down to COUNT, or waits until it has so many.
template <int COUNT>
__device__ inline void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ inline void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// The descriptor of lines of 128 bytes; a constant offset in bytes can be added to it as offset / 16. With `apart`, blocks of lines lie so many
// bytes apart, each with 64 rows or columns of a factor whose lines are steps of k.
__device__ inline unsigned long long lines_at(const void *p, unsigned apart = 0) {
    unsigned address = shared_address(p);
    // Made where it stands: a loop's descriptors, all kept from before it, would take the registers of the sums.
    asm volatile("" : "+r"(address));
    return (address & 0x3ffffu) >> 4 | (unsigned long long)(apart >> 4) << 16 | (unsigned long long)(8 * LINE / 16) << 32 | 1ull << 62;
}

// Where byte `byte` of line `line` stands, from the first line on.
__device__ inline int place_in_lines(int line, int byte) {
    const int at = line * LINE + byte;
    return at ^ (at >> 7 & 7) << 4;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all but the last PENDING groups.
template <int PENDING>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// The compiler uses these sums after this place only.
template <int COUNT>
__device__ inline void wgmma_sums(float (&d)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d[64, N] += a[64, 16] b[16, N], or = with `first`; both factors as descriptors say, and ACROSS_A and ACROSS_B whether their lines are steps of
// k. Warp w of the warpgroup has rows 16 w to 16 w + 15: d[4 j + r] of a lane is register r of its c[16, 8] (mma.cuh) of columns 8 j and on.
#define SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_8(d, i) SUMS_4(d, i), SUMS_4(d, i + 4)
#define SUMS_20(d, i) SUMS_8(d, i), SUMS_8(d, i + 8), SUMS_4(d, i + 16)
#define SUMS_32(d, i) SUMS_8(d, i), SUMS_8(d, i + 8), SUMS_8(d, i + 16), SUMS_8(d, i + 24)
#define TEN(i) "%" #i "0,%" #i "1,%" #i "2,%" #i "3,%" #i "4,%" #i "5,%" #i "6,%" #i "7,%" #i "8,%" #i "9"
#define WGMMA(COUNT, N, NAMES, A, B, MORE, ACROSS_A_AT, ACROSS_B_AT, ...)                                                              \
    template <int ACROSS_A, int ACROSS_B>                                                                                              \
    __device__ inline void wgmma(float(&d)[COUNT], unsigned long long a, unsigned long long b, bool first) {                           \
        asm volatile("{\n.reg .pred more;\nsetp.eq.u32 more, " MORE ", 0;\n"                                                          \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" NAMES "}, " A ", " B ", more, 1, 1, " ACROSS_A_AT ", " \
                     ACROSS_B_AT ";\n}"                                                                                                \
                     : __VA_ARGS__                                                                                                     \
                     : "l"(a), "l"(b), "r"(int(first)), "n"(ACROSS_A), "n"(ACROSS_B)                                                   \
                     : "memory");                                                                                                      \
    }
#define FORTY TEN() "," TEN(1) "," TEN(2) "," TEN(3)
#define HUNDRED FORTY "," TEN(4) "," TEN(5) "," TEN(6) "," TEN(7) "," TEN(8) "," TEN(9)

WGMMA(32, 64, TEN() "," TEN(1) "," TEN(2) ",%30,%31", "%32", "%33", "%34", "%35", "%36", SUMS_32(d, 0))
WGMMA(40, 80, FORTY, "%40", "%41", "%42", "%43", "%44", SUMS_20(d, 0), SUMS_20(d, 20))
WGMMA(60, 120, FORTY "," TEN(4) "," TEN(5), "%60", "%61", "%62", "%63", "%64", SUMS_20(d, 0), SUMS_20(d, 20), SUMS_20(d, 40))
WGMMA(64, 128, FORTY "," TEN(4) "," TEN(5) ",%60,%61,%62,%63", "%64", "%65", "%66", "%67", "%68", SUMS_32(d, 0), SUMS_32(d, 32))
WGMMA(128, 256, HUNDRED "," TEN(10) "," TEN(11) ",%120,%121,%122,%123,%124,%125,%126,%127", "%128", "%129", "%130", "%131", "%132",
      SUMS_32(d, 0), SUMS_32(d, 32), SUMS_32(d, 64), SUMS_32(d, 96))
