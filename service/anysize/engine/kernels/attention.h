// Attention of one token over keys and values in pages.

#pragma once

#include "vector.h"

namespace {

constexpr int CHUNK = 32;       // stored tokens at once
constexpr int MAX_WIDTH = 256;  // of a head
constexpr int MANY = 4;         // query heads at once that share keys

struct Row {
    const int64_t *pages;  // numbers of the pages that hold the row's tokens at this layer
    int64_t token;         // which of the packed tokens attends
    int64_t first;         // first stored token that it sees
    int64_t stop;          // one past the last, which is itself
};

struct Store {
    float *keys, *values;  // [slots, heads, width]
    int64_t page_tokens, heads, group, width;

    // Where the keys of a head of a row's token begin, and its values.
    int64_t offset(const int64_t *pages, int64_t token, int64_t head) const {
        const int64_t slot = pages[token / page_tokens] * page_tokens + token % page_tokens;
        return (slot * heads + head) * width;
    }
};

// Scores of queries against a stored token, each with its lanes not yet summed up.
template <int QUERIES> inline void score(const float *query, const float *key, int64_t width, Vec (&dots)[QUERIES]) {
    for (int q = 0; q < QUERIES; q++) dots[q] = Vec{};
    for (int64_t p = 0; p < width; p += LANES) {
        const Vec of_key = load(key + p);
        for (int q = 0; q < QUERIES; q++) dots[q] = fused(load(query + q * width + p), of_key, dots[q]);
    }
}

// A softmax over chunks of stored tokens, with the sums so far shrunk whenever a higher score turns up. The queries share
// keys.
template <int QUERIES>
void attend(const Row &row, const Store &kv, int64_t head, float scale, const float *query, float *out) {
    float top[QUERIES], total[QUERIES], weights[QUERIES][CHUNK];
    Vec mixed[MAX_WIDTH / LANES][QUERIES];
    const int64_t vectors = kv.width / LANES;
    for (int q = 0; q < QUERIES; q++) top[q] = -INFINITY, total[q] = 0;
    for (int64_t v = 0; v < vectors; v++)
        for (int q = 0; q < QUERIES; q++) mixed[v][q] = Vec{};
    for (int64_t from = row.first; from < row.stop; from += CHUNK) {
        const int64_t count = row.stop - from < CHUNK ? row.stop - from : CHUNK;
        int64_t offsets[CHUNK];
        for (int64_t t = 0; t < count; t++) {
            offsets[t] = kv.offset(row.pages, from + t, head);
            Vec dots[QUERIES];
            score<QUERIES>(query, kv.keys + offsets[t], kv.width, dots);
            for (int q = 0; q < QUERIES; q++) weights[q][t] = sum(dots[q]) * scale;
        }
        float shrink[QUERIES];
        for (int q = 0; q < QUERIES; q++) {
            float highest = top[q];
            for (int64_t t = 0; t < count; t++) highest = weights[q][t] > highest ? weights[q][t] : highest;
            shrink[q] = total[q] ? exponential(Vec{} + (top[q] - highest))[0] : 0;
            Vec parts = {};
            for (int64_t t = 0; t < count; t += LANES) {
                Vec weight = exponential(load(weights[q] + t) - highest);
                for (int64_t past = count; past < t + LANES; past++) weight[past - t] = 0;
                store(weights[q] + t, weight);
                parts += weight;
            }
            total[q] = total[q] * shrink[q] + sum(parts);
            top[q] = highest;
        }
        for (int64_t v = 0; v < vectors; v++) {
            Vec sums_of_v[QUERIES];
            for (int q = 0; q < QUERIES; q++) sums_of_v[q] = mixed[v][q] * shrink[q];
            for (int64_t t = 0; t < count; t++) {
                const Vec value = load(kv.values + offsets[t] + v * LANES);
                for (int q = 0; q < QUERIES; q++) sums_of_v[q] = fused(Vec{} + weights[q][t], value, sums_of_v[q]);
            }
            for (int q = 0; q < QUERIES; q++) mixed[v][q] = sums_of_v[q];
        }
    }
    for (int q = 0; q < QUERIES; q++)
        for (int64_t v = 0; v < vectors; v++) store(out + q * kv.width + v * LANES, mixed[v][q] / total[q]);
}

// All queries of a head of keys, a few at a time.
inline void attend(const Row &row, const Store &kv, int64_t head, float scale, const float *query, float *out) {
    for (int64_t q = 0; q < kv.group; q += MANY, query += MANY * kv.width, out += MANY * kv.width)
        switch (kv.group - q) {
        case 1: attend<1>(row, kv, head, scale, query, out); break;
        case 2: attend<2>(row, kv, head, scale, query, out); break;
        case 3: attend<3>(row, kv, head, scale, query, out); break;
        default: attend<MANY>(row, kv, head, scale, query, out);
        }
}

}  // namespace
