// Eight floats at once, whatever the machine has. Sums are taken in one order everywhere.

#pragma once

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
// Has memory brought into the second cache. Some processors drop what is asked for the first while a few are on the way.
template <typename Number> inline void fetch(const Number *from) { __builtin_prefetch(from, 0, 2); }
inline void store(float *to, Vec v) { *reinterpret_cast<Vec *>(to) = v; }

// Keeps a vector in its register. A compiler would load it anew for each use, and loads are what runs short.
inline void keep([[maybe_unused]] Vec &v) {
#if defined(__AVX__)
    asm("" : "+v"(v));
#endif
}

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
