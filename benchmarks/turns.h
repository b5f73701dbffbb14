#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace weft::bench {

/// Calls run() of every case once and then, by turns, `rounds` times more. Leaves the seconds of
/// these in `seconds` of the case, ascending.
template <class Case>
void take_turns(std::vector<Case>& cases, int rounds) {
  using Clock = std::chrono::steady_clock;
  for (Case& c : cases) c.run();
  for (int round = 0; round < rounds; ++round) {
    for (Case& c : cases) {
      const auto start = Clock::now();
      c.run();
      c.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
  }
  for (Case& c : cases) std::sort(c.seconds.begin(), c.seconds.end());
}

}  // namespace weft::bench
