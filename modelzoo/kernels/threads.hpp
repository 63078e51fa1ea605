// Work shared among threads; for `compiled.cpp`.

#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace {

// One call of `work` a thread; it takes the next index until it is told that none is left.
template <class Work>
void share(long count, long threads, Work work) {
    std::atomic<long> next{0};
    auto run = [&] { work([&] { const long own = next++; return own < count ? own : -1; }); };
    std::vector<std::thread> helpers;
    for (long i = 1; i < std::min(threads, count); i++) helpers.emplace_back(run);
    run();
    for (auto& helper : helpers) helper.join();
}

// One call of `work` a thread, with the ends of a range of its own: the same ranges every time.
template <class Work>
void divide(long count, long threads, Work work) {
    threads = std::max(1L, std::min(threads, count));
    std::vector<std::thread> helpers;
    for (long i = 1; i < threads; i++) helpers.emplace_back(work, count * i / threads, count * (i + 1) / threads);
    work(0, count / threads);
    for (auto& helper : helpers) helper.join();
}

}  // namespace
