// Rows of a step, and where the keys and values that they attend to are stored.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int CHUNK = 32;        // stored tokens at once, a multiple of LANES
constexpr int64_t SPAN = 128;    // stored tokens that are worth a thread
constexpr int64_t MAX_SPANS = 8; // of a row
constexpr int64_t BAND = 8;      // rows, at most, that go over stored tokens together

struct Row {
    const int64_t *pages;  // numbers of the pages that hold the row's tokens at this layer
    int64_t token;         // which of the packed tokens attends
    int64_t first;         // first stored token that it sees
    int64_t stop;          // one past the last, which is itself

    int64_t span() const {
        const int64_t least = (stop - first + MAX_SPANS - 1) / MAX_SPANS;
        return std::max(SPAN, (least + CHUNK - 1) / CHUNK * CHUNK);
    }
    int64_t spans() const { return (stop - first + span() - 1) / span(); }
    // Whether a row is that of the token after this one, and its spans begin where this one's do.
    bool goes_on_in(const Row &next) const {
        return next.pages == pages && next.first == first && next.stop == stop + 1 && next.span() == span();
    }
};

// Rows that go on in each other: the first of them by its number, and how many.
struct Band {
    int64_t first, count;
};

template <typename RowOf> std::vector<Band> bands_of(int64_t rows, const RowOf &row_of) {
    std::vector<Band> bands;
    for (int64_t row = 0; row < rows; row++)
        if (!bands.empty() && bands.back().count < BAND && row_of(row - 1).goes_on_in(row_of(row)))
            bands.back().count++;
        else
            bands.push_back({row, 1});
    return bands;
}

struct Store {
    float *keys, *values;  // [slots, heads, width]
    int64_t page_tokens, heads, group, width;

    int64_t queries() const { return heads * group; }
    // Where the keys of a row's token begin, and its values.
    int64_t offset(const int64_t *pages, int64_t token) const {
        const int64_t slot = pages[token / page_tokens] * page_tokens + token % page_tokens;
        return slot * heads * width;
    }
};

// Up to CHUNK stored tokens that follow each other. Places past the last are those of the last.
struct Chunk {
    int64_t count, offsets[CHUNK];

    Chunk(const Row &row, const Store &kv, int64_t from, int64_t stop) : count(std::min<int64_t>(stop - from, CHUNK)) {
        int64_t page = from / kv.page_tokens, slot = from % kv.page_tokens;
        for (int64_t t = 0; t < count; t++) {
            offsets[t] = (row.pages[page] * kv.page_tokens + slot) * kv.heads * kv.width;
            if (++slot == kv.page_tokens) slot = 0, page++;
        }
        for (int64_t t = count; t < CHUNK; t++) offsets[t] = offsets[count - 1];
    }
};

}  // namespace
