// Attention over keys and values in pages.
//
// Tokens are stored with all their heads side by side, and memory is fast only where it is read as it lies: so a thread
// takes all heads of some stored tokens at once. A long row is cut into spans, for several threads, by its length alone.
// Tokens of a prompt that follow each other go over the same stored ones, which are brought near once for all of them.

#pragma once

#include <algorithm>
#include <vector>

#include "stored.h"
#include "team.h"
#include "vector.h"

namespace {

constexpr int MANY = 4;  // query heads at once that share keys

// What the queries of a token have gathered from some stored tokens: a softmax that is not yet divided by its total.
struct Gathered {
    float *top, *total, *mixed;  // highest scores and totals [queries], values [queries, width]

    static int64_t floats(const Store &kv) { return kv.queries() * (kv.width + 2); }
    static Gathered in(float *memory, const Store &kv) {
        return {memory, memory + kv.queries(), memory + 2 * kv.queries()};
    }
    void clear(const Store &kv) const {
        std::fill(top, top + kv.queries(), -INFINITY);
        std::fill(total, total + kv.queries(), 0.0f);
        std::fill(mixed, mixed + kv.queries() * kv.width, 0.0f);
    }
};

// Of vectors that lie side by side, which are the first on a cache line.
constexpr bool begins_line(int64_t vector) { return vector * LANES * int(sizeof(float)) % LINE == 0; }

// Scores of queries against some tokens of a chunk. Several at once, as each sum waits for itself. Meanwhile the keys of
// the next chunk are asked for, a few at a time.
template <int QUERIES, int TOKENS>
void score(const Chunk &chunk, const Chunk &next, int64_t at, const float *query, const float *keys, int64_t width,
           float scale, float (&weights)[QUERIES][CHUNK]) {
    const float *of_token[TOKENS], *of_next[TOKENS], *of_query[QUERIES];
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) {
        of_token[t] = keys + chunk.offsets[at + t];
        of_next[t] = keys + next.offsets[at + t];
    }
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; q++) of_query[q] = query + q * width;
    Vec dots[QUERIES][TOKENS] = {};
    each_vector(width, [&](int64_t p, const auto &vector) {
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) {
            if (begins_line(p / LANES + t)) fetch(of_next[t] + p);
            Vec key = vector.read(of_token[t] + p);
            keep(key);
#pragma GCC unroll 8
            for (int q = 0; q < QUERIES; q++) dots[q][t] = fused(vector.read(of_query[q] + p), key, dots[q][t]);
        }
    });
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; q++)
        if constexpr (TOKENS == 4) {
            const Quad four = sums(dots[q][0], dots[q][1], dots[q][2], dots[q][3]);
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++) weights[q][at + t] = four[t] * scale;
        } else {
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++) weights[q][at + t] = sum(dots[q][t]) * scale;
        }
}

// Adds weighted values to what is gathered, for some vectors of a head.
template <int QUERIES, int VECTORS, typename Vector>
void mix(const Vector &vector, const Chunk &chunk, const Chunk &next, int64_t count, const float *values, int64_t width,
         const float (&weights)[QUERIES][CHUNK], const float (&shrink)[QUERIES], float *mixed) {
    Vec now[VECTORS][QUERIES];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++)
#pragma GCC unroll 8
        for (int q = 0; q < QUERIES; q++) now[v][q] = vector.read(mixed + q * width + v * LANES) * shrink[q];
    for (int64_t t = 0; t < count; t++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            if (begins_line(v)) fetch(values + next.offsets[t] + v * LANES);
            Vec value = vector.read(values + chunk.offsets[t] + v * LANES);
            keep(value);
#pragma GCC unroll 8
            for (int q = 0; q < QUERIES; q++) now[v][q] = fused(spread(&weights[q][t]), value, now[v][q]);
        }
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++)
#pragma GCC unroll 8
        for (int q = 0; q < QUERIES; q++) vector.write(mixed + q * width + v * LANES, now[v][q]);
}

// Gathers the first `count` tokens of a chunk for queries that share a head of keys. What was gathered before shrinks where
// a higher score turns up.
template <int QUERIES>
void gather(const Chunk &chunk, const Chunk &next, int64_t count, const float *keys, const float *values, int64_t width,
            float scale, const float *query, Gathered gathered) {
    constexpr int TOKENS = QUERIES <= 3 ? 4 : 2, VECTORS = TOKENS;
    float weights[QUERIES][CHUNK], shrink[QUERIES];
    for (int64_t t = 0; t < count; t += TOKENS)
        score<QUERIES, TOKENS>(chunk, next, t, query, keys, width, scale, weights);
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; q++) {
        float &top = gathered.top[q], &total = gathered.total[q];
        const float highest = std::max(top, greatest(weights[q], count));
        shrink[q] = !total ? 0 : top == highest ? 1 : exponential(Vec{} + (top - highest))[0];
        Vec parts = {};
        for (int64_t t = 0; t < count; t += LANES) {
            Vec weight = exponential(load(weights[q] + t) - highest);
            for (int64_t past = count; past < t + LANES; past++) weight[past - t] = 0;
            store(weights[q] + t, weight);
            parts += weight;
        }
        total = total * shrink[q] + sum(parts);
        top = highest;
    }
    int64_t p = 0;
    for (; p + VECTORS * LANES <= width; p += VECTORS * LANES)
        mix<QUERIES, VECTORS>(Whole{}, chunk, next, count, values + p, width, weights, shrink, gathered.mixed + p);
    each_vector(width - p, [&](int64_t q, const auto &vector) {
        mix<QUERIES, 1>(vector, chunk, next, count, values + p + q, width, weights, shrink, gathered.mixed + p + q);
    });
}

// Gathers a chunk for one head of keys and the queries that share it.
inline void gather(const Chunk &chunk, const Chunk &next, int64_t count, const Store &kv, int64_t head, float scale,
                   const float *query, const Gathered &gathered) {
    const float *keys = kv.keys + head * kv.width, *values = kv.values + head * kv.width;
    for (int64_t q = 0; q < kv.group; q += MANY) {
        const int64_t first = head * kv.group + q;
        const float *of_head = query + first * kv.width;
        const Gathered into = {gathered.top + first, gathered.total + first, gathered.mixed + first * kv.width};
        switch (kv.group - q) {
        case 1: gather<1>(chunk, next, count, keys, values, kv.width, scale, of_head, into); break;
        case 2: gather<2>(chunk, next, count, keys, values, kv.width, scale, of_head, into); break;
        case 3: gather<3>(chunk, next, count, keys, values, kv.width, scale, of_head, into); break;
        default: gather<MANY>(chunk, next, count, keys, values, kv.width, scale, of_head, into);
        }
    }
}

// Gathers one span for the rows of a band. `gathered_of` says where to, `query_of` where a row's query [queries, width] is.
template <typename RowOf, typename QueryOf, typename GatheredOf>
void gather(const Band &band, int64_t span, const Store &kv, float scale, const RowOf &row_of, const QueryOf &query_of,
            const GatheredOf &gathered_of) {
    const int64_t last = band.first + band.count - 1;
    const Row longest = row_of(last);
    const int64_t start = longest.first + span * longest.span(), stop = std::min(longest.stop, start + longest.span());
    if (start >= stop) return;
    for (int64_t row = band.first; row <= last; row++) gathered_of(row).clear(kv);
    Chunk chunk(longest, kv, start, stop);
    for (const float *of_all : {kv.keys, kv.values})
        for (int64_t t = 0; t < chunk.count; t++)
            for (int64_t p = 0; p < kv.heads * kv.width; p += LINE / int(sizeof(float))) fetch(of_all + chunk.offsets[t] + p);
    for (int64_t from = start; from < stop; from += CHUNK) {
        const Chunk next(longest, kv, std::min(from + CHUNK, stop - 1), stop);
        for (int64_t head = 0; head < kv.heads; head++)
            for (int64_t row = band.first; row <= last; row++) {
                const int64_t count = std::min(chunk.count, longest.stop - (last - row) - from);
                if (count > 0) gather(chunk, next, count, kv, head, scale, query_of(row), gathered_of(row));
            }
        chunk = next;
    }
}

// Puts the spans of a row together. `out` is [queries, width].
inline void combine(float *memory, int64_t spans, const Store &kv, float *out) {
    for (int64_t q = 0; q < kv.queries(); q++) {
        float top = -INFINITY, total = 0, factors[MAX_SPANS];
        for (int64_t span = 0; span < spans; span++)
            top = std::max(top, Gathered::in(memory + span * Gathered::floats(kv), kv).top[q]);
        for (int64_t span = 0; span < spans; span++) {
            const Gathered part = Gathered::in(memory + span * Gathered::floats(kv), kv);
            factors[span] = exponential(Vec{} + (part.top[q] - top))[0];
            total += part.total[q] * factors[span];
        }
        each_vector(kv.width, [&](int64_t p, const auto &vector) {
            Vec mixed = {};
            for (int64_t span = 0; span < spans; span++) {
                const Gathered part = Gathered::in(memory + span * Gathered::floats(kv), kv);
                mixed = fused(vector.read(part.mixed + q * kv.width + p), Vec{} + factors[span], mixed);
            }
            vector.write(out + q * kv.width + p, mixed / total);
        });
    }
}

// Lets a team attend for several rows, of which none has more than so many spans. `memory` has room for what is gathered
// of each span of each row.
template <typename RowOf, typename QueryOf, typename OutOf>
void attend(Walk &walk, const Store &kv, float scale, int64_t rows, int64_t most_spans, float *memory,
            const RowOf &row_of, const QueryOf &query_of, const OutOf &out_of) {
    const int64_t floats = Gathered::floats(kv);
    const std::vector<Band> bands = bands_of(rows, row_of);
    walk.phase(bands.size() * most_spans, [&](int64_t piece) {
        const Band &band = bands[piece / most_spans];
        const int64_t span = piece % most_spans;
        const auto gathered_of = [&](int64_t row) {
            return Gathered::in(memory + (row * most_spans + span) * floats, kv);
        };
        gather(band, span, kv, scale, row_of, query_of, gathered_of);
        if (span > 0) return;
        for (int64_t row = band.first; row < band.first + band.count; row++)
            if (row_of(row).spans() == 1) combine(memory + row * most_spans * floats, 1, kv, out_of(row));
    });
    if (most_spans == 1) return;
    walk.phase(rows, [&](int64_t which) {
        const int64_t spans = row_of(which).spans();
        if (spans > 1) combine(memory + which * most_spans * floats, spans, kv, out_of(which));
    });
}

}  // namespace
