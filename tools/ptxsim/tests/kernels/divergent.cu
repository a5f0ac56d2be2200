// Loops that lanes leave at different times, by break, continue, return and from inside a switch; then reconvergence is
// seen by a vote and a shuffle. Block: 96 threads; limit: nothing, a test of control flow.

// steps[i] = number of Collatz steps from start[i] to 1, at most `limit`; -1 for start 0, by an early return.
extern "C" __global__ void collatz(const unsigned *start, int *steps, int n, int limit) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long x = start[i];
    if (x == 0) {
        steps[i] = -1;
        return;
    }
    int count = 0;
    while (x != 1) {
        if (count == limit) break;
        ++count;
        if (x & 1) {
            x = 3 * x + 1;
            continue;
        }
        x /= 2;
    }
    steps[i] = count;
}

// out[i] = number of primes below start[i] by trial division (nested loops, break out of the inner one), plus 1000 times
// the sum over the warp of the lanes whose count is odd (all lanes together again after the loops).
extern "C" __global__ void primes(const unsigned *start, int *out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
    int count = 0;
    for (unsigned candidate = 2; candidate < start[i]; ++candidate) {
        bool prime = true;
        for (unsigned divisor = 2; divisor * divisor <= candidate; ++divisor) {
            if (candidate % divisor == 0) {
                prime = false;
                break;
            }
        }
        if (!prime) continue;
        ++count;
    }
    const unsigned odd = __ballot_sync(0xffffffffu, count & 1);
    int lanes = (odd >> lane & 1) ? lane : 0;
    for (int offset = 16; offset > 0; offset /= 2) lanes += __shfl_xor_sync(0xffffffffu, lanes, offset);
    out[i] = count + 1000 * lanes;
}

// A little machine with one operation per lane: 0 add, 1 multiply, 2 negate, 3 stop, 4 skip next; out[i] = the accumulator.
extern "C" __global__ void machine(const unsigned char *code, int length, int *out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int accumulator = i;
    for (int at = 0; at < length; ++at) {
        switch (code[i * length + at]) {
        case 0: accumulator += 3; break;
        case 1: accumulator *= 5; break;
        case 2: accumulator = -accumulator; continue;
        case 3: out[i] = accumulator; return;
        case 4: ++at; break;
        default: accumulator ^= 0x55; break;
        }
        accumulator ^= at;
    }
    out[i] = ~accumulator;
}
