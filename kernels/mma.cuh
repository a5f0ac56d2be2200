// Warp-level matrix products (mma.sync), the fragments they take, and asynchronous copies into shared memory.
// Fragment and lane formulas stand here and nowhere else.
//
// A fragment is a part of a matrix spread over the 32 lanes of a warp. With group = lane / 4 and slot = lane % 4:
//   a[16, 16] bf16   register r: row group + 8 (r % 2), columns 2 slot + 8 (r / 2) and the next
//   a[16, 8] tf32    register r: row group + 8 (r % 2), column slot + 4 (r / 2)
//   b[16, 8] bf16    register r: rows 2 slot + 8 r and the next, column group
//   b[8, 8] tf32     register r: row slot + 4 r, column group
//   c[16, 8] f32     register r: row group + 8 (r / 2), column 2 slot + r % 2
#pragma once

#include "bf16.cuh"

// The address of a shared variable as PTX's shared space counts.
__device__ inline unsigned shared_address(const void *p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes from global to shared memory, or writes zeros and reads nothing.
__device__ inline void copy_async_16(void *to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

// As above, with 4 bytes.
__device__ inline void copy_async_4(void *to, const void *from, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(inside ? 4 : 0)
                 : "memory");
}

__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of the groups that this thread committed are pending.
template <int N>
__device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// As above, each matrix transposed.
__device__ inline void load_matrices_transposed(unsigned (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The nearest tf32, ties away from zero, as the 32 bits that an mma takes.
__device__ inline unsigned round_tf32(float x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

// A lane's place in the fragments of a tile: computed once, so that the fragment at (m, k) or (k, n) is a constant distance away, which
// costs no instruction. The overloads tell bf16 from tf32, which lies in memory as f32.

// In the fragments of a stored [m][k].
__device__ inline const bf16 *lane_of_a(const bf16 *tile, int stride, int lane) { return tile + lane % 16 * stride + lane / 16 * 8; }
__device__ inline const float *lane_of_a(const float *tile, int stride, int lane) { return tile + lane % 16 * stride + lane / 16 * 4; }

// In the fragments of a stored [k][m].
__device__ inline const bf16 *lane_of_a_transposed(const bf16 *tile, int stride, int lane) {
    return tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
}
__device__ inline const float *lane_of_a_transposed(const float *tile, int stride, int lane) {
    return tile + lane % 4 * stride + lane / 4;
}

// In the fragments of b stored [k][n].
__device__ inline const bf16 *lane_of_b(const bf16 *tile, int stride, int lane) { return tile + lane % 16 * stride + lane / 16 * 8; }
__device__ inline const float *lane_of_b(const float *tile, int stride, int lane) { return tile + lane % 4 * stride + lane / 4; }

// In the fragments of b stored [n][k].
__device__ inline const bf16 *lane_of_b_transposed(const bf16 *tile, int stride, int lane) {
    return tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
}

// a[16, 16] of bf16.
__device__ inline void fragment_a(unsigned (&a)[4], const bf16 *at) { load_matrices(a, at); }

// a[16, 8] of tf32: a row of eight 16-bit elements is four floats, of which each lane gets one.
__device__ inline void fragment_a(unsigned (&a)[4], const float *at) {
    load_matrices(a, at);
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = round_tf32(__uint_as_float(a[r]));
}

// a[16, 16] of bf16 stored [k][m].
template <int STRIDE>
__device__ inline void fragment_a_transposed(unsigned (&a)[4], const bf16 *at) {
    load_matrices_transposed(a, at);
}

// a[16, 8] of tf32 stored [k][m].
template <int STRIDE>
__device__ inline void fragment_a_transposed(unsigned (&a)[4], const float *at) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = round_tf32(at[r / 2 * 4 * STRIDE + r % 2 * 8]);
}

// Two neighbours b[16, 8] of bf16: the first in b[0..2], the one 8 columns on in b[2..4].
__device__ inline void fragments_b(unsigned (&b)[4], const bf16 *at) { load_matrices_transposed(b, at); }

// The same, stored [n][k].
__device__ inline void fragments_b_transposed(unsigned (&b)[4], const bf16 *at) { load_matrices(b, at); }

// b[8, 8] of tf32.
template <int STRIDE>
__device__ inline void fragment_b(unsigned (&b)[2], const float *at) {
#pragma unroll
    for (int r = 0; r < 2; ++r) b[r] = round_tf32(at[r * 4 * STRIDE]);
}

// Where the pair c[2 half], c[2 half + 1] of a lane lies in its c[16, 8].
__device__ inline int accumulator_row(int lane, int half) { return lane / 4 + half * 8; }
__device__ inline int accumulator_column(int lane) { return lane % 4 * 2; }

// c[16, 8] += a[16, 16] b[16, 8] of bf16, summed in f32.
__device__ inline void mma_bf16(float *c, const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c[16, 8] += a[16, 8] b[8, 8] of tf32, summed in f32.
__device__ inline void mma_tf32(float *c, const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
