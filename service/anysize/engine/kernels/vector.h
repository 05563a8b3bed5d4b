// As many floats at once as the machine has room for: sixteen, or eight. Sums are taken in one order everywhere.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int LINE = 64;  // bytes that memory brings at once
typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef float Quad __attribute__((vector_size(16), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1)));

inline Vec load(const float *from) { return *reinterpret_cast<const Vec *>(from); }
inline Vec load(const int8_t *from) {
#if defined(__AVX512F__)
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return Vec(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
#elif defined(__AVX2__) && defined(__FMA__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return Vec(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
#else
    return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const Bytes *>(from), Ints), Vec);
#endif
}

// One number in all places.
inline Vec spread(const float *from) {
#if defined(__AVX512F__)
    return Vec(_mm512_set1_ps(*from));
#elif defined(__AVX2__) && defined(__FMA__)
    return Vec(_mm256_broadcast_ss(from));
#else
    return Vec{} + *from;
#endif
}

inline void store(float *to, Vec v) { *reinterpret_cast<Vec *>(to) = v; }

// How a vector is read and written: whole, or the first `count` of its numbers alone, with zeros for the others.
struct Whole {
    template <typename Number> Vec read(const Number *from) const { return load(from); }
    void write(float *to, Vec v) const { store(to, v); }
};
struct Part {
    int64_t count;

    template <typename Number> Vec read(const Number *from) const {
        Number some[LANES] = {};
        std::memcpy(some, from, count * sizeof(Number));
        return load(some);
    }
    void write(float *to, Vec v) const { std::memcpy(to, &v, count * sizeof(float)); }
};

// Calls `work` with the place of each vector of some numbers, and how it is read: whole, except where they end with a part.
template <typename Work> inline __attribute__((always_inline)) void each_vector(int64_t numbers, const Work &work) {
    const int64_t whole = numbers / LANES * LANES;
    for (int64_t p = 0; p < whole; p += LANES) work(p, Whole{});
    if (whole < numbers) work(whole, Part{numbers - whole});
}

// Has memory brought near: into the second cache, as processors drop what is asked for the first while a few lines are on
// the way. Zen 5 does not, and is known by an instruction that few others have.
#if defined(__AVX512VP2INTERSECT__)
template <typename Number> inline void fetch(const Number *from) { __builtin_prefetch(from, 0, 3); }
#else
template <typename Number> inline void fetch(const Number *from) { __builtin_prefetch(from, 0, 2); }
#endif

// Keeps a vector in its register. A compiler would load it anew for each use, and loads are what runs short.
inline void keep([[maybe_unused]] Vec &v) {
#if defined(__AVX__)
    asm("" : "+v"(v));
#endif
}

// a * b + c, always rounded once: left to itself, a compiler does so for some numbers of tokens and not for others.
inline Vec fused(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return Vec(_mm512_fmadd_ps(a, b, c));
#elif defined(__AVX2__) && defined(__FMA__)
    return Vec(_mm256_fmadd_ps(a, b, c));
#else
    for (int lane = 0; lane < LANES; lane++) c[lane] = std::fma(a[lane], b[lane], c[lane]);
    return c;
#endif
}

#if defined(__AVX512F__)
// The sums of four vectors: of halves, halves of these, and the four that are left by pairs.
inline Quad sums(Vec a, Vec b, Vec c, Vec d) {
    const Vec ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vec cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   __builtin_shufflevector(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vec all = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                    __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    const Vec pairs = all + __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    const Vec fours = pairs + __builtin_shufflevector(pairs, pairs, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return __builtin_shufflevector(fours, fours, 0, 4, 8, 12);
}
#else
inline Quad sums(Vec a, Vec b, Vec c, Vec d) {
    const Vec ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    const Vec cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                   __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    const Vec pairs = __builtin_shufflevector(ab, cd, 0, 2, 4, 6, 8, 10, 12, 14) +
                      __builtin_shufflevector(ab, cd, 1, 3, 5, 7, 9, 11, 13, 15);
    return __builtin_shufflevector(pairs, pairs, 0, 2, 4, 6) + __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7);
}
#endif

// The sum of a vector, in the same order.
inline float sum(Vec v) { return sums(v, v, v, v)[0]; }

// The greatest of some numbers, at least one.
inline float greatest(const float *numbers, int64_t count) {
    Vec high = Vec{} + numbers[0];
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) {
        const Vec here = load(numbers + p);
        high = here > high ? here : high;
    }
    float lanes[LANES];
    store(lanes, high);
    for (; p < count; p++) lanes[0] = numbers[p] > lanes[0] ? numbers[p] : lanes[0];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) {
            const float other = lanes[lane + half];
            lanes[lane] = other > lanes[lane] ? other : lanes[lane];
        }
    return lanes[0];
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

// out = x / sqrt(mean(x^2) + epsilon) * weight.
inline void rms_norm(const float *x, const float *weight, float *out, int64_t width, double epsilon) {
    Vec squares = {};
    int64_t p = 0;
    for (; p + LANES <= width; p += LANES) squares += load(x + p) * load(x + p);
    float total = sum(squares);
    for (; p < width; p++) total += x[p] * x[p];
    const float factor = 1 / std::sqrt(total / static_cast<float>(width) + static_cast<float>(epsilon));
    for (p = 0; p + LANES <= width; p += LANES) store(out + p, load(x + p) * factor * load(weight + p));
    for (; p < width; p++) out[p] = x[p] * factor * weight[p];
}

inline Vec silu(Vec v) { return v / (1 + exponential(-v)); }

// gate = silu(gate) * up.
inline void silu_times(float *gate, const float *up, int64_t count) {
    int64_t p = 0;
    for (; p + LANES <= count; p += LANES) store(gate + p, silu(load(gate + p)) * load(up + p));
    for (; p < count; p++) gate[p] = gate[p] / (1 + std::exp(-gate[p])) * up[p];
}

}  // namespace
