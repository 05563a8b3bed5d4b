// Threads that share the work of a step, phase by phase.
//
// A phase is cut into pieces, which whoever is free takes, and ends when the last of them is done. Nobody waits for a
// thread as such: one that the system has put aside holds up the others only by the piece that it is at.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// Waits a little: first in place, then by leaving the core to others.
class Patience {
  public:
    void wait() {
        if (turns_++ < IN_PLACE) {
#if defined(__x86_64__)
            _mm_pause();
#endif
        } else {
            std::this_thread::yield();
        }
    }
    bool is_over() const { return turns_ > IN_PLACE + YIELDS; }

  private:
    static constexpr int IN_PLACE = 1000, YIELDS = 200;
    int turns_ = 0;
};

struct alignas(64) Phase {
    std::atomic<int64_t> taken{0}, done{0};
};

// One thread's way through the phases, which are the same for all.
class Walk {
  public:
    explicit Walk(Phase *first) : next_(first) {}

    // Does pieces of the next phase while there are any, and returns when all of them are done.
    template <typename Piece> void phase(int64_t pieces, Piece piece) {
        Phase &now = *next_++;
        for (int64_t one; (one = now.taken.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
            piece(one);
            now.done.fetch_add(1, std::memory_order_release);
        }
        for (Patience patience; now.done.load(std::memory_order_acquire) < pieces;) patience.wait();
    }

  private:
    Phase *next_;
};

class Work {
  public:
    virtual void run(Walk walk) = 0;
    virtual int64_t phases() const = 0;

  protected:
    ~Work() = default;
};

class Team {
  public:
    // Never destroyed: its threads live as long as the process.
    static Team &of_process() {
        static Team *team = new Team;
        return *team;
    }

    // Runs some work on this thread and on up to `threads` - 1 others, of which none need come.
    void run(Work &work, int threads) {
        thread_local std::vector<Phase> phases;
        phases = std::vector<Phase>(work.phases());
        const Walk walk(phases.data());
        const std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        if (threads < 2 || !alone.owns_lock()) return work.run(walk);
        {
            const std::lock_guard<std::mutex> lock(door_);
            while (members_ < threads - 1 && start()) members_++;
            work_ = &work;
            walk_ = &walk;
            free_places_ = threads - 1;
            called_.fetch_add(1, std::memory_order_release);
        }
        bell_.notify_all();
        work.run(walk);
        {
            const std::lock_guard<std::mutex> lock(door_);
            work_ = nullptr;
        }
        for (Patience patience; inside_.load(std::memory_order_acquire);) patience.wait();
    }

  private:
    bool start() {
        try {
            std::thread([this] { serve(); }).detach();
            return true;
        } catch (const std::system_error &) {
            return false;  // the caller does it alone
        }
    }

    [[noreturn]] void serve() {
        for (uint64_t seen = 0;;) {
            // Work often comes in quick succession, and waking up takes as long as a small piece of it.
            for (Patience patience; called_.load(std::memory_order_acquire) == seen && !patience.is_over();)
                patience.wait();
            Work *work = nullptr;
            Walk walk(nullptr);
            {
                std::unique_lock<std::mutex> lock(door_);
                bell_.wait(lock, [&] { return called_.load(std::memory_order_relaxed) != seen; });
                seen = called_.load(std::memory_order_relaxed);
                if (work_ && free_places_ > 0) {
                    free_places_--;
                    work = work_;
                    walk = *walk_;
                    inside_.fetch_add(1, std::memory_order_relaxed);
                }
            }
            if (work) {
                work->run(walk);
                inside_.fetch_sub(1, std::memory_order_release);
            }
        }
    }

    std::mutex busy_;  // whoever runs work with helpers
    std::mutex door_;  // guards what follows
    std::condition_variable bell_;
    Work *work_ = nullptr;
    const Walk *walk_ = nullptr;
    int members_ = 0, free_places_ = 0;
    std::atomic<uint64_t> called_{0};
    std::atomic<int> inside_{0};
};

}  // namespace
