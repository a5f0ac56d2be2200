// Copies from global to shared memory that run while the thread goes on, and the waits for them.
#pragma once

// Copies N = 4, 8 or 16 bytes, or writes zeros where there is nothing to copy; `from` is a valid address in any case.
template <int N>
__device__ inline void copy_async(void *to, const void *from, bool inside) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(N), "r"(inside ? N : 0) : "memory");
}

// Ends a group of copies.
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING groups of this thread are under way; a barrier then shows them to the block.
template <int PENDING>
__device__ inline void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
