// What compute capability 9.0 has beyond 8.0: mbarriers, bulk copies into shared memory, and products of a warpgroup (wgmma).
//
// A factor of a product lies in shared memory in lines of 64 or 128 bytes, one row (or column of the right factor) a line, its steps of k one
// after the other; the 16-byte chunks of a line are permuted: chunk j of line i stands at place j ^ i % 8 of 128 bytes, or j ^ i / 2 % 4 of 64.
// Eight lines begin on a multiple of their length. A product takes 16 steps of k: 32 bytes of each line.
#pragma once

#include "mma.cuh"

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

// Begins to copy into shared memory; the mbarrier counts the bytes. All addresses and sizes are multiples of 16.
__device__ inline void copy_bulk(void *to, const void *from, unsigned bytes, Mbarrier *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// What this thread stored in shared memory before is seen by products after; a barrier between, if other threads order them.
__device__ inline void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A barrier of so many threads; number 0 is __syncthreads'.
__device__ inline void barrier_of(unsigned number, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
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

// The descriptor of lines of LINE bytes; a constant offset in bytes can be added to it as offset / 16.
template <int LINE>
__device__ inline unsigned long long lines_at(const void *p) {
    static_assert(LINE == 64 || LINE == 128, "lines of 64 or 128 bytes");
    unsigned address = shared_address(p);
    // Made where it stands: a loop's descriptors, all kept from before it, would take the registers of the sums.
    asm volatile("" : "+r"(address));
    return (address & 0x3ffffu) >> 4 | (unsigned long long)(8 * LINE / 16) << 32 | (LINE == 128 ? 1ull : 2ull) << 62;
}

// Where byte `byte` of line `line` stands, from the first line on.
template <int LINE>
__device__ inline int place_in_lines(int line, int byte) {
    const int at = line * LINE + byte;
    return at ^ (at >> 7 & (LINE / 16 - 1)) << 4;
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

#define SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define SUMS_16(d, i) SUMS_4(d, i), SUMS_4(d, i + 4), SUMS_4(d, i + 8), SUMS_4(d, i + 12)
#define SUMS_64(d, i) SUMS_16(d, i), SUMS_16(d, i + 16), SUMS_16(d, i + 32), SUMS_16(d, i + 48)

// d[64, N] += a[64, 16] b[16, N], or = with `first`; both factors as descriptors say. Warp w of the warpgroup has rows 16 w to 16 w + 15:
// d[4 j + r] of a lane is register r of its c[16, 8] (mma.cuh) of columns 8 j and on.
__device__ inline void wgmma(float (&d)[16], unsigned long long a, unsigned long long b, bool first) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.eq.u32 more, %18, 0;\nwgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
        "}, %16, %17, more, 1, 1, 0, 0;\n}"
        : SUMS_16(d, 0)
        : "l"(a), "l"(b), "r"(int(first))
        : "memory");
}

__device__ inline void wgmma(float (&d)[32], unsigned long long a, unsigned long long b, bool first) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.eq.u32 more, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
        "}, %32, %33, more, 1, 1, 0, 0;\n}"
        : SUMS_16(d, 0), SUMS_16(d, 16)
        : "l"(a), "l"(b), "r"(int(first))
        : "memory");
}

__device__ inline void wgmma(float (&d)[64], unsigned long long a, unsigned long long b, bool first) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.eq.u32 more, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%3"
        "2,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%6"
        "2,%63"
        "}, %64, %65, more, 1, 1, 0, 0;\n}"
        : SUMS_64(d, 0)
        : "l"(a), "l"(b), "r"(int(first))
        : "memory");
}

__device__ inline void wgmma(float (&d)[128], unsigned long long a, unsigned long long b, bool first) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.eq.u32 more, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%3"
        "2,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%6"
        "2,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%9"
        "2,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,"
        "%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
        "}, %128, %129, more, 1, 1, 0, 0;\n}"
        : SUMS_64(d, 0), SUMS_64(d, 64)
        : "l"(a), "l"(b), "r"(int(first))
        : "memory");
}
