// Linear maps of few tokens, where every weight is read for little arithmetic.
//
// They work on torch's own tensors as they lie in memory, row-major, so no weight is packed or copied. What comes out for a
// token does not depend on the tokens beside it: its sums are taken in one order for every number of tokens.

#pragma once

#include <type_traits>
#include <vector>

#include "vector.h"

namespace {

// Rows of a weight at once: with TILE tokens their sums fill the vector registers, of which AVX-512 has twice as many.
#if defined(__AVX512F__)
constexpr int PANEL = 6;
#else
constexpr int PANEL = 3;
#endif
constexpr int TILE = 4;
constexpr int FEW = 4;            // tokens that go over the rows of a weight one by one
constexpr int AHEAD = 4096;       // bytes that are asked for before such a row is there
constexpr int BLOCK = 48;         // rows, a multiple of PANEL, that are a piece of work
constexpr int GROUP = 32;         // tokens that go over a block together
constexpr int DEPTH = 640;        // numbers of a row, at most, that go over tokens at once: the first cache holds so many

struct Linear {
    const void *weight;  // [features, in]
    const float *scale;  // of each row of an int8 weight; null for float32
    const float *bias;   // or null
    const float *down;   // [rank, in], of a student's update; null where there is none
    const float *up;     // [features, rank]
    int64_t rank, in, features;

    int64_t blocks() const { return (features + BLOCK - 1) / BLOCK; }
    int64_t stop(int64_t block) const { return (block + 1) * BLOCK < features ? (block + 1) * BLOCK : features; }
};

// Numbers of a row of so many that go over tokens at once. Sums are taken of each piece, whatever the number of tokens.
inline int64_t depth_of(int64_t in) {
    const int64_t pieces = (in + DEPTH - 1) / DEPTH;
    return ((in + pieces - 1) / pieces + LANES - 1) / LANES * LANES;
}

// result[row * GROUP + token]: `depth` numbers of ROWS rows of a weight times those of TOKENS tokens, added to what is there
// where it adds. The same numbers of rows that are needed soon are asked for meanwhile.
template <int ROWS, int TOKENS, typename Weight>
inline __attribute__((always_inline)) void multiply(const Weight *weight, const float *x, int64_t in, int64_t depth,
                                                    bool adds, float *result, const Weight *soon = nullptr,
                                                    int soon_rows = 0) {
    constexpr int64_t of_line = LINE / sizeof(Weight);
    // Whole rows lie one after another, and memory brings fastest what is asked for in that order.
    const int64_t along = depth == in ? soon_rows : 1, across = depth == in ? of_line : in;
    Vec total[ROWS][TOKENS] = {};
    each_vector(depth, [&](int64_t p, const auto &vector) __attribute__((always_inline)) {
        if (p % of_line == 0) {
            if (ROWS == 1) fetch(weight + p + AHEAD / sizeof(Weight));
            for (int64_t row = 0; row < soon_rows; row++) fetch(soon + p * along + row * across);
        }
        Vec of_row[ROWS];
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            of_row[row] = vector.read(weight + row * in + p);
            keep(of_row[row]);
        }
#pragma GCC unroll 8
        for (int token = 0; token < TOKENS; token++) {
            Vec of_token = vector.read(x + token * in + p);
            keep(of_token);
#pragma GCC unroll 8
            for (int row = 0; row < ROWS; row++) total[row][token] = fused(of_row[row], of_token, total[row][token]);
        }
    });
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
        float sums_of_row[TILE];
        if constexpr (TOKENS == TILE) {
            const Quad four = sums(total[row][0], total[row][1], total[row][2], total[row][3]);
            std::memcpy(sums_of_row, &four, sizeof four);
        } else {
#pragma GCC unroll 8
            for (int token = 0; token < TOKENS; token++) sums_of_row[token] = sum(total[row][token]);
        }
        float *of_row = result + row * GROUP;
#pragma GCC unroll 8
        for (int token = 0; token < TOKENS; token++)
            of_row[token] = adds ? of_row[token] + sums_of_row[token] : sums_of_row[token];
    }
}

// The same for the first TILE of so many tokens, or all where they are fewer.
template <int ROWS, typename Weight>
void multiply_tile(const Weight *weight, const float *x, int64_t in, int64_t depth, int64_t tokens, bool adds,
                   float *result, const Weight *soon = nullptr, int soon_rows = 0) {
    switch (tokens) {
    case 1: return multiply<ROWS, 1>(weight, x, in, depth, adds, result, soon, soon_rows);
    case 2: return multiply<ROWS, 2>(weight, x, in, depth, adds, result, soon, soon_rows);
    case 3: return multiply<ROWS, 3>(weight, x, in, depth, adds, result, soon, soon_rows);
    default: return multiply<ROWS, TILE>(weight, x, in, depth, adds, result, soon, soon_rows);
    }
}

// A panel times up to GROUP tokens. While they go over it, a tile at a time, the rows of the next one come in: that is the
// only wait. `soon` is that panel, or null.
template <typename Weight>
void multiply_panel(const Weight *panel, const float *x, int64_t tokens, int64_t in, int64_t depth, bool adds,
                    float *result, const Weight *soon) {
    int64_t left = soon ? PANEL : 0, tiles = (tokens + TILE - 1) / TILE;
    for (int64_t token = 0; token < tokens; token += TILE, tiles--) {
        const int64_t now = (left + tiles - 1) / tiles;
        multiply_tile<PANEL>(panel, x + token * in, in, depth, tokens - token, adds, result + token, soon, now);
        soon += now * in, left -= now;
    }
}

// A panel of int8 as floats; the next one is asked for meanwhile.
inline const float *widened(const int8_t *panel, int64_t in) {
    thread_local std::vector<float> floats;
    floats.resize(PANEL * in);
    for (int64_t at = 0; at < PANEL * in; at += LANES) {
        if (at % 64 == 0) fetch(panel + PANEL * in + at);
        if (at + LANES <= PANEL * in)
            store(floats.data() + at, load(panel + at));
        else
            for (int64_t last = at; last < PANEL * in; last++) floats[last] = panel[last];
    }
    return floats.data();
}

// Calls `work` with the first and the number of the numbers of each piece of a row.
template <typename Work> inline __attribute__((always_inline)) void each_piece(int64_t in, int64_t depth, const Work &work) {
    for (int64_t p = 0; p < in; p += depth) work(p, in - p < depth ? in - p : depth);
}

// Rows of a weight times up to GROUP tokens.
template <typename Weight>
void multiply_rows(const Weight *weight, int64_t rows, const float *x, int64_t tokens, int64_t in, bool adds,
                   float *result) {
    const int64_t depth = depth_of(in);
    // Few tokens are over a row before the next one can be there, and one stream of rows is what memory reads fastest.
    const int64_t in_panels = tokens > FEW ? rows / PANEL * PANEL : 0;
    if constexpr (std::is_same_v<Weight, int8_t>)
        for (int64_t row = 0; row < in_panels; row += PANEL) {
            const float *floats = widened(weight + row * in, in), *none = nullptr;
            each_piece(in, depth, [&](int64_t p, int64_t count) {
                multiply_panel(floats + p, x + p, tokens, in, count, adds || p, result + row * GROUP, none);
            });
        }
    else
        each_piece(in, depth, [&](int64_t p, int64_t count) {
            for (int64_t row = 0; row < in_panels; row += PANEL) {
                const Weight *panel = weight + row * in + p, *next = panel + PANEL * in;
                multiply_panel(panel, x + p, tokens, in, count, adds || p, result + row * GROUP, next);
            }
        });
    for (int64_t row = in_panels; row < rows; row++)
        for (int64_t token = 0; token < tokens; token += TILE)
            each_piece(in, depth, [&](int64_t p, int64_t count) {
                multiply_tile<1>(weight + row * in + p, x + token * in + p, in, count, tokens - token, adds || p,
                                 result + row * GROUP + token);
            });
}

// A block of a map's rows for up to GROUP tokens; the first `students` of these with their update, which has them as `low`
// [students, rank] already.
inline void apply(const Linear &map, int64_t block, const float *x, int64_t tokens, const float *low, int64_t students,
                  float *result) {
    const int64_t first = block * BLOCK, rows = map.stop(block) - first;
    if (map.scale)
        multiply_rows(static_cast<const int8_t *>(map.weight) + first * map.in, rows, x, tokens, map.in, false, result);
    else
        multiply_rows(static_cast<const float *>(map.weight) + first * map.in, rows, x, tokens, map.in, false, result);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t token = 0; token < tokens; token++) {
            float &value = result[row * GROUP + token];
            if (map.scale) value *= map.scale[first + row];
            if (map.bias) value += map.bias[first + row];
        }
    if (map.up && students > 0)
        multiply_rows(map.up + first * map.rank, rows, low, students, map.rank, true, result);
}

// Calls `work` with the first and the number of the tokens of each group.
template <typename Work> void each_group(int64_t tokens, const Work &work) {
    for (int64_t first = 0; first < tokens; first += GROUP)
        work(first, tokens - first < GROUP ? tokens - first : GROUP);
}

// Puts the results of some rows for a group one by one: token by token, as those lie side by side wherever they go.
template <typename Put>
void each_result(const float *result, int64_t first_row, int64_t rows, int64_t first_token, int64_t tokens,
                 const Put &put) {
    for (int64_t token = 0; token < tokens; token++)
        for (int64_t row = 0; row < rows; row++) put(first_row + row, first_token + token, result[row * GROUP + token]);
}

}  // namespace
