// What alternating sparse attention takes: options, schedules, and what it refuses.
#include <gmock/gmock.h>

#include "weft/attention/full.h"
#include "weft/attention/registry.h"

#include "asa_test_data.h"

namespace weft::attention {
namespace {

using testing::make_asa;
using testing::message_of;
using testing::small_asa;

TEST(AsaGlobal, RefusesWhatDoesNotFit) {
  const auto from_registry = [](const std::vector<std::string>& options) {
    Generator generator(1);
    return message_of<ConfigError>([&] {
      make_mixer_factory({.shape = {.d_model = 24, .n_heads = 4, .n_layers = 1},
                          .schedule = "G",
                          .options = options},
                         generator)(0);
    });
  };
  const std::string who = "alternating sparse attention, global layer: ";
  EXPECT_EQ(from_registry({"query-run=3"}), who + "query_run (3) must divide select_block (16)");
  EXPECT_EQ(from_registry({"select-count=2"}),
            who + "select_count (2) must be at least initial + local (1 + 2)");
  EXPECT_EQ(from_registry({"stride=5"}), who + "block (16) must be a multiple of stride (5)");
  EXPECT_EQ(from_registry({"block=32"}), who + "select_block (16) must be at least block (32)");
  EXPECT_EQ(from_registry({"groups=3"}), who + "n_heads (4) must be a multiple of groups (3)");
  EXPECT_EQ(from_registry({"rope-dim=5"}), who + "rope_dim must be even and at least 2, got 5");
  EXPECT_EQ(from_registry({"local=0"}),
            "attention asa-global: local must be an integer of at least 1 up to 1073741824, got "
            "\"0\"");
  EXPECT_THAT(from_registry({"branches=win"}), ::testing::HasSubstr("one of cmp+slc, cmp, slc"));
  AsaGlobalOptions options = small_asa();
  options.latent.window = 3;
  EXPECT_EQ(message_of<ConfigError>([&] { make_asa(options); }), who + "takes no window, got 3");
  const auto layer = make_asa(small_asa());
  const auto cache = layer->make_cache(1, 4, DType::bf16, kCpu);
  message_of<DTypeError>([&] { layer->prefill(Variable(zeros({1, 2, 20})), *cache); });
  Generator generator(1);
  FullAttention full({.d_model = 20, .n_heads = 2}, generator);
  message_of<ConfigError>([&] { full.prefill(Variable(zeros({1, 2, 20})), *cache); });
  message_of<ConfigError>([&] {
    layer->prefill(Variable(zeros({1, 2, 20})), *full.make_cache(1, 4, DType::f32, kCpu));
  });
  options = small_asa();
  options.branches = AsaBranches::compressed;
  message_of<ConfigError>([&] { make_asa(options)->selection(Variable(zeros({1, 2, 20}))); });
}

TEST(Asa, StandsForAlternatingLayers) {
  EXPECT_THAT(parse_schedule("asa", 4),
              ::testing::ElementsAre("asa-local", "asa-global", "asa-local", "asa-global"));
  EXPECT_EQ(parse_schedule("asa", 4), parse_schedule("LG", 4));
  EXPECT_THAT(
      parse_schedule("full,asa*2,nsa", 6),
      ::testing::ElementsAre("full", "asa-local", "asa-global", "asa-local", "asa-global", "nsa"));
  EXPECT_THAT(parse_schedule("LGFN", 4),
              ::testing::ElementsAre("asa-local", "asa-global", "full", "nsa"));
  message_of<ConfigError>([] { parse_schedule("asa", 3); });
}

TEST(Asa, PassesOptionsOn) {
  const auto describe = [](const std::vector<std::string>& options, int layer) {
    Generator generator(1);
    return make_mixer_factory({.shape = {.d_model = 24, .n_heads = 4, .n_layers = 2},
                               .schedule = "asa",
                               .options = options},
                              generator)(layer)
        ->describe();
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(describe({"window=9"}, 0), HasSubstr("window=9"));
  EXPECT_THAT(describe({"asa.window=9", "asa.query-run=2"}, 0), HasSubstr("window=9"));
  EXPECT_THAT(describe({"asa.window=9", "asa.query-run=2"}, 1), HasSubstr("query_run=2"));
  EXPECT_THAT(describe({"asa.latent-dim=9"}, 0), HasSubstr("latent_dim=9"));
  EXPECT_THAT(describe({"asa.latent-dim=9"}, 1), HasSubstr("latent_dim=9"));
  EXPECT_THAT(describe({"asa-local.latent-dim=9"}, 1), HasSubstr("latent_dim=12"));
  EXPECT_THAT(message_of<ConfigError>([&] { describe({"asa.windw=9"}, 0); }),
              HasSubstr("attention asa: unknown option \"windw\"; did you mean \"window\"?"));
  // Made by its own name, a layer is that of its place.
  const MechanismInfo& asa = find_mechanism("asa");
  OptionValues values(asa.name, asa.options);
  values.set("window", "5");
  Generator generator(1);
  const MixerShape shape{.d_model = 24, .n_heads = 4};
  EXPECT_THAT(asa.make(shape, values, 2, generator)->describe(), HasSubstr("window=5"));
  EXPECT_THAT(asa.make(shape, values, 3, generator)->describe(), HasSubstr("select_block=16"));
}

}  // namespace
}  // namespace weft::attention
