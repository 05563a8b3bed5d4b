// Kernels for steps of few tokens on a CPU, where every weight is read for little arithmetic.
//
// They work on torch's own tensors as they lie in memory, row-major, so no weight is packed or copied. A vector is eight
// floats whatever the machine has, and sums are taken in one order for every number of tokens and of threads: what comes
// out for a token does not depend on the tokens beside it.

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 8;
typedef float Vec __attribute__((vector_size(32), aligned(4)));
typedef float Quad __attribute__((vector_size(16), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(32), aligned(4)));
typedef int8_t Bytes __attribute__((vector_size(8), aligned(1)));

inline Vec load(const float *from) { return *reinterpret_cast<const Vec *>(from); }
inline Vec load(const int8_t *from) {
#if defined(__AVX2__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return Vec(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
#else
    return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const Bytes *>(from), Ints), Vec);
#endif
}
// The first `count` of them, and zeros.
template <typename Number> inline Vec load_some(const Number *from, int64_t count) {
    Number some[LANES] = {};
    std::memcpy(some, from, count * sizeof(Number));
    return load(some);
}
inline void store(float *to, Vec v) { *reinterpret_cast<Vec *>(to) = v; }

// a * b + c, always rounded once: left to itself, a compiler does so for some numbers of tokens and not for others.
inline Vec fused(Vec a, Vec b, Vec c) {
#if defined(__AVX2__) && defined(__FMA__)
    return Vec(_mm256_fmadd_ps(a, b, c));
#else
    for (int lane = 0; lane < LANES; lane++) c[lane] = std::fma(a[lane], b[lane], c[lane]);
    return c;
#endif
}

inline Quad halves(Vec v) {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}

inline float sum(Vec v) {
    Quad h = halves(v);
    return (h[0] + h[1]) + (h[2] + h[3]);
}

// The sums of four vectors, each taken in the order of `sum`.
inline Quad sums(Vec a, Vec b, Vec c, Vec d) {
    Quad ha = halves(a), hb = halves(b), hc = halves(c), hd = halves(d);
    Quad ab = __builtin_shufflevector(ha, hb, 0, 4, 2, 6) + __builtin_shufflevector(ha, hb, 1, 5, 3, 7);
    Quad cd = __builtin_shufflevector(hc, hd, 0, 4, 2, 6) + __builtin_shufflevector(hc, hd, 1, 5, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// e^v to about 2e-7 of it: 2^n times a polynomial in the rest, which is at most half of ln 2.
inline Vec exponential(Vec v) {
    const Vec low = Vec{} - 87.0f, high = Vec{} + 88.0f;
    v = v < low ? low : v;
    v = v > high ? high : v;
    Vec n = v * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    n -= 12582912.0f;
    Vec rest = v - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
    Vec p = rest * (1.0f / 5040) + (1.0f / 720);
    p = p * rest + (1.0f / 120);
    p = p * rest + (1.0f / 24);
    p = p * rest + (1.0f / 6);
    p = p * rest + 0.5f;
    p = p * rest + 1.0f;
    p = p * rest + 1.0f;
    Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
    Vec power;
    std::memcpy(&power, &exponent, sizeof power);
    return p * power;
}

// ---- linear maps ----------------------------------------------------------------------------------------------------

constexpr int PANEL = 3;  // rows of a weight at once; with TILE tokens their sums fill the vector registers
constexpr int TILE = 4;
constexpr int BLOCK = 8 * PANEL;  // rows that stay in the cache while all tokens go over them

struct Map {
    const void *weight;  // [features, in]
    const float *scale;  // of each row; null for float32
    const float *bias;   // or null
    float *out;          // [tokens, features]
    int64_t features;
};

// result[row][token]: ROWS rows of a weight times TOKENS tokens.
template <int ROWS, int TOKENS, typename Weight>
inline __attribute__((always_inline)) void multiply(const Weight *weight, const float *x, int64_t in,
                                                    float result[][TILE]) {
    Vec total[ROWS][TOKENS] = {};
    const int64_t whole = in / LANES * LANES;
    for (int64_t p = 0; p < whole; p += LANES) {
        Vec of_row[ROWS];
        for (int row = 0; row < ROWS; row++) of_row[row] = load(weight + row * in + p);
        for (int token = 0; token < TOKENS; token++) {
            const Vec of_token = load(x + token * in + p);
            for (int row = 0; row < ROWS; row++) total[row][token] = fused(of_row[row], of_token, total[row][token]);
        }
    }
    if (whole < in)
        for (int row = 0; row < ROWS; row++)
            for (int token = 0; token < TOKENS; token++)
                total[row][token] = fused(load_some(weight + row * in + whole, in - whole),
                                          load_some(x + token * in + whole, in - whole), total[row][token]);
    for (int row = 0; row < ROWS; row++) {
        if constexpr (TOKENS == 4) {
            const Quad four = sums(total[row][0], total[row][1], total[row][2], total[row][3]);
            std::memcpy(result[row], &four, sizeof four);
        } else {
            for (int token = 0; token < TOKENS; token++) result[row][token] = sum(total[row][token]);
        }
    }
}

template <int ROWS, typename Weight>
void multiply(const Weight *weight, const float *x, int64_t in, int64_t tokens, float result[][TILE]) {
    switch (tokens) {
    case 1: return multiply<ROWS, 1>(weight, x, in, result);
    case 2: return multiply<ROWS, 2>(weight, x, in, result);
    case 3: return multiply<ROWS, 3>(weight, x, in, result);
    default: return multiply<ROWS, 4>(weight, x, in, result);
    }
}

void put(const Map &map, int64_t row, int64_t token, float value) {
    if (map.scale) value *= map.scale[row];
    if (map.bias) value += map.bias[row];
    map.out[token * map.features + row] = value;
}

// The rows `first` to `last` of one map, for all tokens.
template <typename Weight>
void multiply_block(const Map &map, const float *x, int64_t tokens, int64_t in, int64_t first, int64_t last) {
    const Weight *weight = static_cast<const Weight *>(map.weight);
    const char *next = reinterpret_cast<const char *>(weight + last * in);
    const char *const end = reinterpret_cast<const char *>(weight + map.features * in);
    const int64_t later = (tokens + TILE - 1) / TILE - 1, panels = (last - first + PANEL - 1) / PANEL;
    const int64_t step = later ? (last - first) * in * int64_t(sizeof(Weight)) / (later * panels) + 64 : 0;
    for (int64_t token = 0; token < tokens; token += TILE) {
        const int64_t here = tokens - token < TILE ? tokens - token : TILE;
        for (int64_t row = first; row < last; row += PANEL) {
            // While this block is in the cache the next one is asked for, a little with every panel.
            if (token)
                for (const char *stop = next + step; next < stop && next < end; next += 64) __builtin_prefetch(next, 0, 2);
            const int64_t rows = last - row < PANEL ? last - row : PANEL;
            float result[PANEL][TILE];
            if (rows == PANEL)
                multiply<PANEL>(weight + row * in, x + token * in, in, here, result);
            else
                for (int64_t one = 0; one < rows; one++)
                    multiply<1>(weight + (row + one) * in, x + token * in, in, here, result + one);
            for (int64_t one = 0; one < rows; one++)
                for (int64_t t = 0; t < here; t++) put(map, row + one, token + t, result[one][t]);
        }
    }
}

// ---- attention ------------------------------------------------------------------------------------------------------

constexpr int CHUNK = 32;       // stored tokens at once
constexpr int MAX_WIDTH = 256;  // of a head
constexpr int MAX_GROUP = 16;   // query heads that share keys

struct Row {
    const int64_t *pages;  // numbers of the pages that hold the row's tokens at this layer
    int64_t token;         // which of the packed tokens attends
    int64_t first;         // first stored token that it sees
    int64_t stop;          // one past the last, which is itself
};

struct Store {
    const float *keys, *values;  // [slots, heads, width]
    int64_t page_tokens, heads, group, width;
    float scale;
};

// A softmax over chunks of stored tokens, with the sums so far shrunk whenever a higher score turns up.
void attend(const Row &row, const Store &kv, int64_t head, const float *query, float *out) {
    float top[MAX_GROUP], total[MAX_GROUP], weights[MAX_GROUP][CHUNK];
    Vec mixed[MAX_GROUP][MAX_WIDTH / LANES] = {};
    const int64_t vectors = kv.width / LANES;
    for (int64_t q = 0; q < kv.group; q++) top[q] = -INFINITY, total[q] = 0;
    for (int64_t from = row.first; from < row.stop; from += CHUNK) {
        const int64_t count = row.stop - from < CHUNK ? row.stop - from : CHUNK;
        int64_t offsets[CHUNK];
        for (int64_t t = 0; t < count; t++) {
            const int64_t token = from + t;
            const int64_t slot = row.pages[token / kv.page_tokens] * kv.page_tokens + token % kv.page_tokens;
            offsets[t] = (slot * kv.heads + head) * kv.width;
        }
        for (int64_t q = 0; q < kv.group; q++) {
            float highest = top[q];
            for (int64_t t = 0; t < count; t++) {
                Vec dot = {};
                for (int64_t v = 0; v < vectors; v++)
                    dot += load(query + q * kv.width + v * LANES) * load(kv.keys + offsets[t] + v * LANES);
                weights[q][t] = sum(dot) * kv.scale;
                if (weights[q][t] > highest) highest = weights[q][t];
            }
            const float shrink = total[q] ? exponential(Vec{} + (top[q] - highest))[0] : 0;
            Vec parts = {};
            for (int64_t t = 0; t < count; t += LANES) {
                Vec weight = exponential(load(weights[q] + t) - highest);
                for (int64_t past = count; past < t + LANES; past++) weight[past - t] = 0;
                store(weights[q] + t, weight);
                parts += weight;
            }
            total[q] = total[q] * shrink + sum(parts);
            top[q] = highest;
            for (int64_t v = 0; v < vectors; v++) mixed[q][v] *= shrink;
        }
        for (int64_t t = 0; t < count; t++)
            for (int64_t v = 0; v < vectors; v++) {
                const Vec value = load(kv.values + offsets[t] + v * LANES);
                for (int64_t q = 0; q < kv.group; q++) mixed[q][v] += weights[q][t] * value;
            }
    }
    for (int64_t q = 0; q < kv.group; q++)
        for (int64_t v = 0; v < vectors; v++) store(out + q * kv.width + v * LANES, mixed[q][v] / total[q]);
}

}  // namespace

extern "C" {

// out = x weight^T, with the rows of an int8 weight scaled; x is [tokens, in], out [tokens, features].
void anysize_linear(const void *weight, const float *scale, const float *bias, const float *x, float *out,
                    int64_t tokens, int64_t in, int64_t features, int threads) {
    const Map map = {weight, scale, bias, out, features};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < features; first += BLOCK) {
        const int64_t last = first + BLOCK < features ? first + BLOCK : features;
        if (scale)
            multiply_block<int8_t>(map, x, tokens, in, first, last);
        else
            multiply_block<float>(map, x, tokens, in, first, last);
    }
}

// out = x / sqrt(mean(x^2) + epsilon) * weight, token by token.
void anysize_rms_norm(const float *x, const float *weight, float *out, int64_t tokens, int64_t width, float epsilon) {
    for (int64_t token = 0; token < tokens; token++, x += width, out += width) {
        Vec squares = {};
        int64_t p = 0;
        for (; p + LANES <= width; p += LANES) squares += load(x + p) * load(x + p);
        float total = sum(squares);
        for (; p < width; p++) total += x[p] * x[p];
        const float factor = 1 / std::sqrt(total / static_cast<float>(width) + epsilon);
        for (p = 0; p + LANES <= width; p += LANES) store(out + p, load(x + p) * factor * load(weight + p));
        for (; p < width; p++) out[p] = x[p] * factor * weight[p];
    }
}

// gate = gate / (1 + e^-gate) * up.
void anysize_silu_times(float *gate, const float *up, int64_t count) {
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) {
        const Vec g = load(gate + p);
        store(gate + p, g / (1 + exponential(-g)) * load(up + p));
    }
    for (; p < count; p++) gate[p] = gate[p] / (1 + std::exp(-gate[p])) * up[p];
}

// One token of each row attends to what its row has stored; query and out are [packed tokens, heads * group, width].
void anysize_attend(const Row *rows, int64_t count, const float *query, const float *keys, const float *values,
                    float *out, int64_t page_tokens, int64_t heads, int64_t group, int64_t width, float scale,
                    int threads) {
    const Store kv = {keys, values, page_tokens, heads, group, width, scale};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t task = 0; task < count * heads; task++) {
        const Row &row = rows[task / heads];
        const int64_t head = task % heads, offset = (row.token * heads + head) * group * width;
        attend(row, kv, head, query + offset, out + offset);
    }
}
}
