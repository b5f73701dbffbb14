#include "recorded_draws.h"

#include <array>
#include <stdexcept>

#include <gtest/gtest.h>

#include "weft/tensor/error.h"
#include "weft/tensor/graph.h"
#include "weft/tensor/ops/dropout.h"

namespace weft {
namespace {

/// What a launch keeps of a draw.
struct Launch {
  GeneratorState state;
  int64_t count;
};

constexpr double kP = 0.5;

/// Draws and notes what a launch would keep.
void draw(Generator& generator, int64_t count, std::vector<Launch>& launches) {
  launches.push_back({generator.state(), count});
  dropout(ones({count}), kP, generator);
}

/// The mask that a kernel makes: of the offset that it was launched with and what the table says.
std::vector<float> mask_of(const Launch& launch) {
  const GeneratorState& state = launch.state;
  return dropout(ones({launch.count}), kP, {state.seed, state.offset + *state.advance})
      .to_vector<float>();
}

std::vector<float> mask_of(Generator& generator, int64_t count) {
  return dropout(ones({count}), kP, generator).to_vector<float>();
}

void expect_state(const Generator& generator, uint64_t seed, uint64_t offset) {
  EXPECT_EQ(generator.state().seed, seed);
  EXPECT_EQ(generator.state().offset, offset);
  EXPECT_EQ(generator.state().advance, nullptr);
}

TEST(RecordedDraws, ReplaysDrawWhatTheWorkWouldDraw) {
  constexpr std::array<int64_t, 4> kCounts = {1, 63, 4, 1001};
  for (const uint64_t start : {uint64_t{0}, uint64_t{7}, (uint64_t{1} << 32) - 300}) {
    Generator recorded(5), anew(5);
    recorded.reserve(start);
    anew.reserve(start);
    RecordedDraws draws({&recorded}, kCpu);
    std::vector<Launch> launches;
    draws.record([&] {
      for (const int64_t count : kCounts) draw(recorded, count, launches);
    });
    expect_state(recorded, 5, start);
    ASSERT_EQ(launches.size(), kCounts.size());
    std::vector<float> last;
    for (int replay = 0; replay < 8; ++replay) {
      if (replay == 3) {  // draws of others between replays
        mask_of(recorded, 333);
        mask_of(anew, 333);
      }
      if (replay == 5) {  // back to a state of before, and before that of the recording
        recorded.set_state({5, start / 2});
        anew.set_state({5, start / 2});
      }
      draws.prepare_replay();
      for (const Launch& launch : launches)
        EXPECT_EQ(mask_of(launch), mask_of(anew, launch.count)) << start << " replay " << replay;
      expect_state(recorded, 5, anew.state().offset);
      EXPECT_NE(mask_of(launches.back()), last) << "replay " << replay << " draws as the last one";
      last = mask_of(launches.back());
    }
  }
}

TEST(RecordedDraws, CountsWhatIsComputedAgainOnce) {
  // As autograd::checkpoint() does: back to the state of forward, and on from where it was.
  Generator recorded(1), anew(1);
  RecordedDraws draws({&recorded}, kCpu);
  std::vector<Launch> launches;
  draws.record([&] {
    draw(recorded, 40, launches);
    const GeneratorState forward = recorded.state();
    draw(recorded, 100, launches);
    const GeneratorState end = recorded.state();
    recorded.set_state(forward);
    draw(recorded, 100, launches);
    recorded.set_state(end);
  });
  for (int replay = 0; replay < 3; ++replay) {
    draws.prepare_replay();
    EXPECT_EQ(mask_of(launches[0]), mask_of(anew, 40));
    const std::vector<float> mask = mask_of(anew, 100);
    EXPECT_EQ(mask_of(launches[1]), mask);
    EXPECT_EQ(mask_of(launches[2]), mask);
    expect_state(recorded, 1, anew.state().offset);
  }
}

TEST(RecordedDraws, DrawsThatAreTakenBackAreTheSameUntilTheGeneratorMoves) {
  Generator recorded(9), anew(9);
  RecordedDraws draws({&recorded}, kCpu);
  std::vector<Launch> launches;
  draws.record([&] {
    const GeneratorState start = recorded.state();
    draw(recorded, 64, launches);
    recorded.set_state(start);
  });
  for (int replay = 0; replay < 4; ++replay) {
    if (replay == 2) {
      recorded.reserve(5);
      anew.reserve(5);
    }
    draws.prepare_replay();
    Generator copy = anew;
    EXPECT_EQ(mask_of(launches[0]), mask_of(copy, 64)) << replay;
    expect_state(recorded, 9, anew.state().offset);
  }
}

TEST(RecordedDraws, KeepsStreamsApart) {
  Generator a(3), b(3), idle(4), a_anew(3), b_anew(3);
  b.reserve(50);
  b_anew.reserve(50);
  RecordedDraws draws({&a, &idle, &b, &a}, kCpu);  // one of them named twice
  std::vector<Launch> launches;
  draws.record([&] {
    draw(a, 10, launches);
    draw(b, 200, launches);
    draw(a, 30, launches);
  });
  for (int replay = 0; replay < 4; ++replay) {
    if (replay == 2) mask_of(b, 17);
    if (replay == 2) mask_of(b_anew, 17);
    draws.prepare_replay();
    EXPECT_EQ(mask_of(launches[0]), mask_of(a_anew, 10));
    EXPECT_EQ(mask_of(launches[1]), mask_of(b_anew, 200));
    EXPECT_EQ(mask_of(launches[2]), mask_of(a_anew, 30));
    expect_state(a, 3, a_anew.state().offset);
    expect_state(b, 3, b_anew.state().offset);
    expect_state(idle, 4, 0);
  }
}

TEST(RecordedDraws, RecordingsOfOneStreamTakeTurns) {
  Generator recorded(6), anew(6);
  std::vector<Launch> small, large;
  RecordedDraws first({&recorded}, kCpu), second({&recorded}, kCpu);
  first.record([&] { draw(recorded, 12, small); });
  first.prepare_replay();
  mask_of(anew, 12);
  second.record([&] { draw(recorded, 500, large); });
  for (const bool is_small : {true, false, false, true, true}) {
    (is_small ? first : second).prepare_replay();
    const Launch& launch = is_small ? small[0] : large[0];
    EXPECT_EQ(mask_of(launch), mask_of(anew, launch.count));
    expect_state(recorded, 6, anew.state().offset);
  }
}

TEST(RecordedDraws, MoveNothingWhereTheWorkFails) {
  Generator generator(2);
  generator.reserve(3);
  RecordedDraws draws({&generator}, kCpu);
  EXPECT_THROW(draws.record([&] {
    generator.reserve(10);
    throw std::runtime_error("bad");
  }),
               std::runtime_error);
  expect_state(generator, 2, 3);
  for (const GeneratorState& own : {GeneratorState{2, 0}, GeneratorState{8, 3}}) {
    EXPECT_THROW(draws.record([&] { generator.set_state(own); }), CaptureError);
    expect_state(generator, 2, 3);
  }
  EXPECT_THROW(RecordedDraws({&generator, nullptr}, kCpu), ConfigError);
}

TEST(RecordedDraws, RefuseAnotherSeed) {
  Generator first(2), second(3);
  RecordedDraws draws({&first, &second}, kCpu);
  draws.record([&] {
    first.reserve(4);
    second.reserve(5);
  });
  second.set_state({30, 0});
  EXPECT_THROW(draws.prepare_replay(), CaptureError);
  expect_state(first, 2, 0);
  expect_state(second, 30, 0);
  second.set_state({3, 100});
  draws.prepare_replay();
  expect_state(first, 2, 4);
  expect_state(second, 3, 105);
}

TEST(RecordedDraws, StatesKeepTheTable) {
  GeneratorState kept;
  {
    Generator generator(2);
    RecordedDraws draws({&generator}, kCpu);
    draws.record([&] { kept = generator.state(); });
    generator.reserve(11);
    draws.prepare_replay();
  }
  EXPECT_EQ(*kept.advance, 11u);
}

TEST(RecordedDraws, WithoutGeneratorsTheWorkJustRuns) {
  RecordedDraws draws({}, kCpu);
  int runs = 0;
  draws.record([&] { ++runs; });
  draws.prepare_replay();
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace weft
