// Threads that share the work of a step, phase by phase.
//
// A phase is cut into pieces and ends when the last of them is done. Each thread has a share of pieces that follow each
// other, as memory is read fastest by who goes on where it was, and helps with the other shares from behind once its own is
// done. Nobody waits for a thread as such: one that the system has put aside holds up the others only by the piece that it
// is at.

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

// Pieces of a phase that follow each other: how many of them are taken, of the first and of the last ones.
class Share {
  public:
    // The number of one of so many pieces that nobody has taken yet, or -1: the first of them, or the last.
    int64_t take(int64_t all, bool is_last) {
        uint64_t taken = taken_.load(std::memory_order_relaxed);
        int64_t first, last;
        do {
            first = int64_t(taken / FIRST), last = int64_t(taken % FIRST);
            if (first + last >= all) return -1;
        } while (!taken_.compare_exchange_weak(taken, taken + (is_last ? LAST : FIRST), std::memory_order_relaxed));
        return is_last ? all - 1 - last : first;
    }

  private:
    static constexpr uint64_t FIRST = uint64_t(1) << 32, LAST = 1;
    std::atomic<uint64_t> taken_{0};
};

// What the members of a team have done of their phases.
class Progress {
  public:
    Progress(int64_t phases, int members) : members(members), done_(phases), shares_(phases * members) {}

    const int members;

    std::atomic<int64_t> &done(int64_t phase) { return done_[phase]; }
    Share &share(int64_t phase, int member) { return shares_[phase * members + member]; }

  private:
    struct alignas(64) Done : std::atomic<int64_t> {
        Done() : std::atomic<int64_t>(0) {}
    };
    std::vector<Done> done_;
    std::vector<Share> shares_;
};

// A member's way through the phases, which are the same for all.
class Walk {
  public:
    Walk(Progress &progress, int member) : progress_(&progress), member_(member) {}

    // Does pieces of the next phase while there are any, and returns when all of them are done.
    template <typename Piece> void phase(int64_t pieces, Piece piece) {
        const int members = progress_->members;
        std::atomic<int64_t> &done = progress_->done(phase_);
        for (int turn = 0; turn < members; turn++) {
            const int whose = (member_ + turn) % members;
            const int64_t start = pieces * whose / members, all = pieces * (whose + 1) / members - start;
            Share &share = progress_->share(phase_, whose);
            for (int64_t one; (one = share.take(all, turn > 0)) >= 0;) {
                piece(start + one);
                done.fetch_add(1, std::memory_order_release);
            }
        }
        phase_++;
        for (Patience patience; done.load(std::memory_order_acquire) < pieces;) patience.wait();
    }

  private:
    Progress *progress_;
    int member_;
    int64_t phase_ = 0;
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
        const std::unique_lock<std::mutex> alone(busy_, std::try_to_lock);
        const bool has_help = threads > 1 && alone.owns_lock();
        Progress progress(work.phases(), has_help ? threads : 1);
        if (!has_help) return work.run(Walk(progress, 0));
        {
            const std::lock_guard<std::mutex> lock(door_);
            while (helpers_ < threads - 1 && start()) helpers_++;
            work_ = &work;
            progress_ = &progress;
            free_places_ = threads - 1;
            called_.fetch_add(1, std::memory_order_release);
        }
        bell_.notify_all();
        work.run(Walk(progress, 0));
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
            Progress *progress = nullptr;
            int member = 0;
            {
                std::unique_lock<std::mutex> lock(door_);
                bell_.wait(lock, [&] { return called_.load(std::memory_order_relaxed) != seen; });
                seen = called_.load(std::memory_order_relaxed);
                if (work_ && free_places_ > 0) {
                    member = free_places_--;
                    work = work_;
                    progress = progress_;
                    inside_.fetch_add(1, std::memory_order_relaxed);
                }
            }
            if (work) {
                work->run(Walk(*progress, member));
                inside_.fetch_sub(1, std::memory_order_release);
            }
        }
    }

    std::mutex busy_;  // whoever runs work with helpers
    std::mutex door_;  // guards what follows
    std::condition_variable bell_;
    Work *work_ = nullptr;
    Progress *progress_ = nullptr;
    int helpers_ = 0, free_places_ = 0;
    std::atomic<uint64_t> called_{0};
    std::atomic<int> inside_{0};
};

}  // namespace
