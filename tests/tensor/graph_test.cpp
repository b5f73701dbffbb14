#include "weft/tensor/graph.h"

#include <gtest/gtest.h>

#include "weft/tensor/tensor.h"

namespace weft {
namespace {

TEST(GraphOnCpu, IsNotCaptured) {
  Graph graph(kCpu);
  int runs = 0;
  try {
    graph.capture([&] { ++runs; });
    FAIL() << "no error";
  } catch (const NotImplementedError& error) {
    EXPECT_NE(std::string(error.what()).find("cpu"), std::string::npos) << error.what();
  }
  EXPECT_EQ(runs, 0);
  EXPECT_FALSE(graph.captured());
  EXPECT_EQ(graph.nodes(), 0);
  EXPECT_THROW(graph.replay(), CaptureError);
  graph.release();
  EXPECT_FALSE(is_capturing());
}

TEST(GraphOnCpu, NeedsItsDevice) {
  EXPECT_THROW(Graph(Device{DeviceType::cuda, 63}), DeviceError);
}

}  // namespace
}  // namespace weft
