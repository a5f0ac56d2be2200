// Interpolation of an axis to twice its extent, corners on corners: output i reads position i (extent - 1) / (2 extent - 1).
#pragma once

// The two neighbours that output i of an axis reads, and their weights. Output i reads between i / 2 - 1 / 2 and i / 2, so input `at` is
// read by outputs 2 at - 2 .. 2 at + 2 at most.
struct Taps {
    unsigned first, second;
    float before, behind;

    __device__ Taps(unsigned i, unsigned extent) {
        const unsigned position = i * (extent - 1), unit = 2 * extent - 1;
        first = position / unit;
        second = min(first + 1, extent - 1);
        behind = static_cast<float>(position % unit) / static_cast<float>(unit);
        before = 1.0f - behind;
    }
    // The weight of input `at` in this output.
    __device__ float weight(unsigned at) const { return (first == at ? before : 0.0f) + (second == at ? behind : 0.0f); }
};
