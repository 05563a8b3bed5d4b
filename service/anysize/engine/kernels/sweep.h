// A step through the layers of Llama and its like: RMS norm, rotary attention, gated MLP.

#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "attention.h"
#include "linear.h"
#include "team.h"

namespace {

struct Norm {
    const float *student, *teacher;  // null where there is no norm
    double epsilon;

    const float *weight(bool is_student) const { return is_student ? student : teacher; }
};

struct Layer {
    Norm before_attention, of_query, of_key, before_mlp;
    Linear query, key, value, output, gate, up, down;
    double scale;    // of the scores
    int64_t window;  // tokens that a token sees, itself included; 0 for all before it

    int64_t projected() const { return query.features + key.features + value.features; }
};

struct Visit {
    const Layer *layer;
    const int64_t *tokens;  // which of the packed tokens; the student's come first
    const int64_t *places;  // the place that this layer has in the stack of each of them
    int64_t count, students;
};

struct Sequence {
    const int64_t *pages;  // [places, pages of a place]
    int64_t pages_of_a_place;
};

struct Token {
    int64_t sequence, position;
};

struct Step {
    float *hidden;               // [count, width]
    const float *cosine, *sine;  // [count, width of a head]
    const Token *tokens;
    const Sequence *sequences;
    Store kv;
    int64_t count, width;
};

// Memory that a thread keeps from step to step, cut into pieces that begin with a cache line.
class Scratch {
  public:
    void reserve(std::initializer_list<int64_t> floats) {
        int64_t all = FLOATS;
        for (const int64_t count : floats) all += rounded(count);
        if (int64_t(memory_.size()) < all) memory_.resize(all);
        const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float);
        next_ = memory_.data() + (FLOATS - address % FLOATS) % FLOATS;
    }
    float *take(int64_t floats) {
        float *taken = next_;
        next_ += rounded(floats);
        return taken;
    }

  private:
    static constexpr int64_t FLOATS = LINE / sizeof(float);
    static int64_t rounded(int64_t floats) { return (floats + FLOATS - 1) / FLOATS * FLOATS; }
    std::vector<float> memory_;
    float *next_ = nullptr;
};

// What a function returns, which is called the first time alone.
template <typename Make> auto lazily(Make make) {
    return [make, made = decltype(make()){}]() mutable {
        if (!made) made = make();
        return made;
    };
}

// Turns the halves of a head against each other, as Llama's rotary embedding does.
inline void turn(float *head, const float *cosine, const float *sine, int64_t width) {
    for (int64_t p = 0, q = width / 2; p < width / 2; p++, q++) {
        const float first = head[p], second = head[q];
        head[p] = first * cosine[p] - second * sine[p];
        head[q] = second * cosine[q] + first * sine[q];
    }
}

// Runs every visit of a step, in order. All threads of a team go through it together.
class Sweep final : public Work {
  public:
    Sweep(const Step &step, const Visit *visits, int64_t count) : step_(step), visits_(visits), count_(count) {
        thread_local Scratch scratch;
        int64_t projected = 0, mixed = 0, inner = 0, rank = 0;
        for (int64_t visit = 0; visit < count; visit++) {
            const Layer &layer = *visits[visit].layer;
            projected = std::max(projected, layer.projected());
            mixed = std::max(mixed, layer.query.features);
            inner = std::max(inner, layer.gate.features);
            rank = std::max({rank, layer.query.rank + layer.key.rank + layer.value.rank, layer.output.rank,
                             layer.gate.rank + layer.up.rank, layer.down.rank});
        }
        for (int64_t token = 0; token < step.count; token++)
            most_spans_ = std::max(most_spans_, Row{nullptr, token, 0, step.tokens[token].position + 1}.spans());
        const int64_t gathered = step.count * most_spans_ * Gathered::floats(step.kv);
        scratch.reserve({step.count * projected, step.count * mixed, step.count * inner, step.count * rank, gathered});
        projection_ = scratch.take(step.count * projected);
        mix_ = scratch.take(step.count * mixed);
        activation_ = scratch.take(step.count * inner);
        low_ = scratch.take(step.count * rank);
        gathered_ = scratch.take(gathered);
    }

    void run(Walk walk) override {
        thread_local Scratch scratch;
        scratch.reserve({step_.count * step_.width});
        float *mine = scratch.take(step_.count * step_.width);
        for (int64_t visit = 0; visit < count_; visit++) {
            attention(visits_[visit], walk, mine);
            mlp(visits_[visit], walk, mine);
        }
    }

    int64_t phases() const { return count_ * PHASES; }

  private:
    static constexpr int64_t PHASES = 11;  // of a visit, at most

    // hidden += output(attention(norm(hidden)))
    void attention(const Visit &visit, Walk &walk, float *mine) {
        const Layer &layer = *visit.layer;
        const int64_t projected = layer.projected();
        auto normed = lazily([&] { return norm(layer.before_attention, visit, mine); });
        const Linear *maps[] = {&layer.query, &layer.key, &layer.value};
        reduce(maps, 3, visit, walk, normed);
        const int64_t of_query = maps[0]->blocks(), of_key = maps[1]->blocks(), of_value = maps[2]->blocks();
        walk.phase(of_query + of_key + of_value, [&](int64_t block) {
            int64_t before = 0, low = 0, which = 0;
            for (; block >= maps[which]->blocks(); which++) {
                block -= maps[which]->blocks();
                before += maps[which]->features;
                low += visit.students * maps[which]->rank;
            }
            product(*maps[which], block, visit, normed(), low_ + low, [&](int64_t row, int64_t token, float value) {
                projection_[token * projected + before + row] = value;
            });
        });
        walk.phase(visit.count, [&](int64_t token) { turn_and_store(visit, token, projection_ + token * projected); });
        attend(
            walk, step_.kv, static_cast<float>(layer.scale), visit.count, most_spans_, gathered_,
            [&](int64_t token) { return row_of(visit, token); },
            [&](int64_t token) { return projection_ + token * projected; },
            [&](int64_t token) { return mix_ + token * layer.query.features; });
        add_to_hidden(layer.output, visit, walk, mix_);
    }

    // hidden += down(silu(gate(norm(hidden))) * up(norm(hidden)))
    void mlp(const Visit &visit, Walk &walk, float *mine) {
        const Layer &layer = *visit.layer;
        auto normed = lazily([&] { return norm(layer.before_mlp, visit, mine); });
        const Linear &gate = layer.gate, &up = layer.up, *maps[] = {&gate, &up};
        reduce(maps, 2, visit, walk, normed);
        walk.phase(gate.blocks(), [&](int64_t block) {
            const float *low_of_up = low_ + visit.students * gate.rank;
            each_group(visit.count, [&](int64_t first, int64_t count) {
                float gates[BLOCK * GROUP] = {}, ups[BLOCK * GROUP] = {};
                const float *x = normed() + first * gate.in;
                const int64_t students = visit.students - first;
                apply(gate, block, x, count, low_ + first * gate.rank, std::min(students, count), gates);
                apply(up, block, x, count, low_of_up + first * up.rank, std::min(students, count), ups);
                for (int64_t at = 0; at < BLOCK * GROUP; at += LANES)
                    store(gates + at, silu(load(gates + at)) * load(ups + at));
                each_result(gates, block * BLOCK, gate.stop(block) - block * BLOCK, first, count,
                            [&](int64_t row, int64_t token, float value) {
                                activation_[token * gate.features + row] = value;
                            });
            });
        });
        add_to_hidden(layer.down, visit, walk, activation_);
    }

    void add_to_hidden(const Linear &map, const Visit &visit, Walk &walk, const float *x) {
        const Linear *maps[] = {&map};
        auto given = [&] { return x; };
        reduce(maps, 1, visit, walk, given);
        walk.phase(map.blocks(), [&](int64_t block) {
            product(map, block, visit, x, low_, [&](int64_t row, int64_t token, float value) {
                step_.hidden[visit.tokens[token] * step_.width + row] += value;
            });
        });
    }

    // The first factors of the student's updates, for its tokens.
    template <typename X>
    void reduce(const Linear *const *maps, int count, const Visit &visit, Walk &walk, X &x) {
        int64_t blocks[3], all = 0;
        for (int which = 0; which < count; which++)
            all += blocks[which] = visit.students ? (maps[which]->rank + BLOCK - 1) / BLOCK : 0;
        if (!all) return;
        walk.phase(all, [&](int64_t block) {
            int which = 0;
            float *low = low_;
            for (; block >= blocks[which]; which++) {
                block -= blocks[which];
                low += visit.students * maps[which]->rank;
            }
            const Linear &map = *maps[which];
            const int64_t first = block * BLOCK, rows = std::min<int64_t>(BLOCK, map.rank - first);
            each_group(visit.students, [&](int64_t first_token, int64_t tokens) {
                float results[BLOCK * GROUP];
                const float *of_group = x() + first_token * map.in;
                multiply_rows(map.down + first * map.in, rows, of_group, tokens, map.in, false, results);
                each_result(results, first, rows, first_token, tokens, [&](int64_t row, int64_t token, float value) {
                    low[token * map.rank + row] = value;
                });
            });
        });
    }

    template <typename Put>
    void product(const Linear &map, int64_t block, const Visit &visit, const float *x, const float *low,
                 const Put &put) {
        each_group(visit.count, [&](int64_t first, int64_t count) {
            float results[BLOCK * GROUP];
            apply(map, block, x + first * map.in, count, low + first * map.rank,
                  std::min(visit.students - first, count), results);
            each_result(results, block * BLOCK, map.stop(block) - block * BLOCK, first, count, put);
        });
    }

    const float *norm(const Norm &norm, const Visit &visit, float *out) {
        for (int64_t token = 0; token < visit.count; token++)
            rms_norm(step_.hidden + visit.tokens[token] * step_.width, norm.weight(token < visit.students),
                     out + token * step_.width, step_.width, norm.epsilon);
        return out;
    }

    // Queries and keys of a token are turned by its position, and its keys and values stored.
    void turn_and_store(const Visit &visit, int64_t token, float *projection) {
        const Layer &layer = *visit.layer;
        const Row row = row_of(visit, token);
        const int64_t width = step_.kv.width, queries = step_.kv.heads * step_.kv.group;
        const bool is_student = token < visit.students;
        for (int64_t head = 0; head < queries + step_.kv.heads; head++) {
            const Norm &norm = head < queries ? layer.of_query : layer.of_key;
            float *of_head = projection + head * width;
            if (norm.teacher) rms_norm(of_head, norm.weight(is_student), of_head, width, norm.epsilon);
            turn(of_head, step_.cosine + row.token * width, step_.sine + row.token * width, width);
        }
        for (int64_t head = 0; head < step_.kv.heads; head++) {
            const int64_t offset = step_.kv.offset(row.pages, row.stop - 1) + head * width;
            const float *key = projection + (queries + head) * width, *value = key + step_.kv.heads * width;
            std::copy(key, key + width, step_.kv.keys + offset);
            std::copy(value, value + width, step_.kv.values + offset);
        }
    }

    Row row_of(const Visit &visit, int64_t token) const {
        const Token &packed = step_.tokens[visit.tokens[token]];
        const Sequence &sequence = step_.sequences[packed.sequence];
        const int64_t stop = packed.position + 1, window = visit.layer->window;
        return {sequence.pages + visit.places[token] * sequence.pages_of_a_place, visit.tokens[token],
                window ? std::max<int64_t>(0, stop - window) : 0, stop};
    }

    const Step &step_;
    const Visit *visits_;
    int64_t count_;
    int64_t most_spans_ = 1;
    float *projection_, *mix_, *activation_, *low_, *gathered_;
};

}  // namespace
