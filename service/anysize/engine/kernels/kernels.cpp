// Kernels for steps of few tokens on a CPU, where weights are read for little arithmetic.
//
// What comes out for a token does not depend on the tokens beside it, nor on the number of threads.

#include "attention.h"
#include "linear.h"
#include "sweep.h"
#include "team.h"

namespace {

// out = x weight^T + bias, for any number of tokens.
class Product final : public Work {
  public:
    Product(const Linear &map, const float *x, float *out, int64_t tokens)
        : map_(map), x_(x), out_(out), tokens_(tokens) {}

    int64_t phases() const override { return 1; }

    void run(Walk walk) override {
        walk.phase(map_.blocks(), [&](int64_t block) {
            each_group(tokens_, [&](int64_t first, int64_t count) {
                float results[BLOCK * GROUP];
                apply(map_, block, x_ + first * map_.in, count, nullptr, 0, results);
                const auto put = [&](int64_t row, int64_t token, float value) {
                    out_[token * map_.features + row] = value;
                };
                each_result(results, block * BLOCK, map_.stop(block) - block * BLOCK, first, count, put);
            });
        });
    }

  private:
    const Linear &map_;
    const float *x_;
    float *out_;
    int64_t tokens_;
};

// One token of each row attends to what its row has stored.
class Attention final : public Work {
  public:
    Attention(const Row *rows, int64_t count, const Store &kv, float scale, const float *query, float *out)
        : rows_(rows), count_(count), kv_(kv), scale_(scale), query_(query), out_(out) {
        for (int64_t row = 0; row < count; row++) most_spans_ = std::max(most_spans_, rows[row].spans());
        gathered_.resize(count * most_spans_ * Gathered::floats(kv));
    }

    int64_t phases() const override { return 2; }

    void run(Walk walk) override {
        const int64_t features = kv_.queries() * kv_.width;
        attend(
            walk, kv_, scale_, count_, most_spans_, gathered_.data(), [&](int64_t row) { return rows_[row]; },
            [&](int64_t row) { return query_ + rows_[row].token * features; },
            [&](int64_t row) { return out_ + rows_[row].token * features; });
    }

  private:
    const Row *rows_;
    int64_t count_;
    const Store &kv_;
    float scale_;
    const float *query_;
    float *out_;
    int64_t most_spans_ = 1;
    std::vector<float> gathered_;
};

}  // namespace

extern "C" {

// x is [tokens, in], out [tokens, features]; the rows of an int8 weight are scaled.
void anysize_linear(const void *weight, const float *scale, const float *bias, const float *x, float *out,
                    int64_t tokens, int64_t in, int64_t features, int threads) {
    const Linear map = {weight, scale, bias, nullptr, nullptr, 0, in, features};
    Product work(map, x, out, tokens);
    Team::of_process().run(work, threads);
}

void anysize_rms_norm(const float *x, const float *weight, float *out, int64_t tokens, int64_t width, double epsilon) {
    for (int64_t token = 0; token < tokens; token++)
        rms_norm(x + token * width, weight, out + token * width, width, epsilon);
}

void anysize_silu_times(float *gate, const float *up, int64_t count) { silu_times(gate, up, count); }

// query and out are [packed tokens, heads * group, width].
void anysize_attend(const Row *rows, int64_t count, const float *query, float *keys, float *values, float *out,
                    int64_t page_tokens, int64_t heads, int64_t group, int64_t width, float scale, int threads) {
    const Store kv = {keys, values, page_tokens, heads, group, width};
    Attention work(rows, count, kv, scale, query, out);
    Team::of_process().run(work, threads);
}

void anysize_sweep(const Step *step, const Visit *visits, int64_t count, int threads) {
    Sweep work(*step, visits, count);
    Team::of_process().run(work, threads);
}
}
