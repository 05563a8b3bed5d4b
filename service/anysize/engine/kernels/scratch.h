// Memory for what lies between one piece of work and the next.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace {

// Memory that a thread keeps from step to step, cut into pieces that begin with a cache line.
class Scratch {
  public:
    void reserve(std::initializer_list<int64_t> floats) {
        int64_t all = LINE;
        for (const int64_t count : floats) all += rounded(count);
        if (int64_t(memory_.size()) < all) memory_.resize(all);
        const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float);
        next_ = memory_.data() + (LINE - address % LINE) % LINE;
    }
    float *take(int64_t floats) {
        float *taken = next_;
        next_ += rounded(floats);
        return taken;
    }

  private:
    static constexpr int64_t LINE = 16;
    static int64_t rounded(int64_t floats) { return (floats + LINE - 1) / LINE * LINE; }
    std::vector<float> memory_;
    float *next_ = nullptr;
};

}  // namespace
