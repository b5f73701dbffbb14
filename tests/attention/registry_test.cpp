#include "weft/attention/registry.h"

#include <gmock/gmock.h>

#include "attention_test_data.h"

namespace weft::attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::message_of;

TEST(Registry, KnowsMechanismsByName) {
  EXPECT_EQ(find_mechanism("full").name, "full");
  EXPECT_THAT(message_of<ConfigError>([] { find_mechanism("fulll"); }),
              HasSubstr("unknown mechanism \"fulll\"; did you mean \"full\"? known: full"));
  EXPECT_THAT(message_of<ConfigError>([] { find_mechanism("zzzzzzzzzz"); }),
              HasSubstr("unknown mechanism \"zzzzzzzzzz\"; known: full"));
  for (const MechanismInfo& a : mechanisms()) {
    int same_name = 0, same_letter = 0;
    for (const MechanismInfo& b : mechanisms()) {
      same_name += a.name == b.name;
      same_letter += a.letter != 0 && a.letter == b.letter;
    }
    EXPECT_EQ(same_name, 1) << a.name;
    EXPECT_LE(same_letter, 1) << a.name;
  }
}

TEST(Schedule, NamesCountsAndLetters) {
  EXPECT_THAT(parse_schedule("full", 3), ElementsAre("full", "full", "full"));
  EXPECT_THAT(parse_schedule("full*2", 2), ElementsAre("full", "full"));
  EXPECT_THAT(parse_schedule(" full , full * 2 ", 3), ElementsAre("full", "full", "full"));
  EXPECT_THAT(parse_schedule("full*2", 4), ElementsAre("full", "full", "full", "full"));
  EXPECT_THAT(parse_schedule("FF", 2), ElementsAre("full", "full"));
}

TEST(Schedule, RefusesWhatItCannotRead) {
  const auto message = [](std::string_view schedule, int64_t layers = 4) {
    return message_of<ConfigError>([&] { parse_schedule(schedule, layers); });
  };
  EXPECT_EQ(message("full*3"),
            "attention schedule \"full*3\": it has 3 layers and the model 4; the model's layers "
            "must be a multiple of the schedule's");
  EXPECT_THAT(message("full*8"), HasSubstr("has 8 layers and the model 4"));
  EXPECT_THAT(message("full,"), HasSubstr("empty name"));
  EXPECT_THAT(message(""), HasSubstr("empty name"));
  for (const char* bad :
       {"full*", "full*0", "full*-1", "full*x", "full*1.5", "full*99999999999999999999"}) {
    EXPECT_THAT(message(bad), HasSubstr("count after *")) << bad;
  }
  EXPECT_THAT(message("FXFF"), HasSubstr("unknown letter X; known: F (full)"));
  EXPECT_THAT(message("ful,full"), HasSubstr("did you mean \"full\""));
  EXPECT_THAT(message("full", 0), HasSubstr("at least 1 layer"));
}

std::unique_ptr<nn::SequenceMixer> make(const std::vector<std::string>& options) {
  Generator generator(1);
  return make_mixer_factory({.shape = {.d_model = 24, .n_heads = 4, .n_layers = 1},
                             .schedule = "full",
                             .options = options},
                            generator)(0);
}

TEST(AttentionOptions, ReachTheMixer) {
  EXPECT_THAT(make({})->describe(), HasSubstr("head_dim=6"));
  EXPECT_THAT(make({"head-dim=10"})->describe(), HasSubstr("head_dim=10"));
  EXPECT_THAT(make({"full.head-dim=10", "rope=off"})->describe(), HasSubstr("head_dim=10"));
  EXPECT_THAT(make({"rope=off"})->describe(), HasSubstr("rope_theta=0"));
}

TEST(AttentionOptions, RefuseWhatTheyDoNotKnow) {
  const auto message = [](const char* option) {
    return message_of<ConfigError>([&] { make({option}); });
  };
  EXPECT_THAT(message("head-dmi=8"),
              HasSubstr("attention full: unknown option \"head-dmi\"; did you mean \"head-dim\"? "
                        "known: head-dim, rope"));
  EXPECT_THAT(message("full.head=8"), HasSubstr("unknown option \"head\""));
  EXPECT_THAT(message("fulll.head-dim=8"), HasSubstr("unknown mechanism \"fulll\""));
  EXPECT_THAT(message("head-dim"), HasSubstr("must be key=value"));
  EXPECT_THAT(message("=8"), HasSubstr("must be key=value"));
  EXPECT_EQ(message("head-dim=-2"),
            "attention full: head-dim must be an integer of at least 0 up to 65536, got \"-2\"");
  for (const char* bad : {"head-dim=8x", "head-dim=", "head-dim=1.5",
                          "head-dim=99999999999999999999", "head-dim=9999999M"}) {
    EXPECT_THAT(message(bad), HasSubstr("head-dim must be an integer")) << bad;
  }
  EXPECT_THAT(message("rope=maybe"), HasSubstr("rope must be true or false, got \"maybe\""));
}

TEST(OptionValues, ParseEveryKind) {
  OptionValues values(
      "test",
      {{.name = "size", .kind = OptionKind::integer, .default_value = "4"},
       {.name = "rate", .kind = OptionKind::number, .default_value = "0.5", .min = 0, .max = 1},
       {.name = "on", .kind = OptionKind::boolean, .default_value = "false"},
       {.name = "mode",
        .kind = OptionKind::choice,
        .default_value = "mean",
        .choices = {"mean", "mlp"}}});
  EXPECT_EQ(values.integer("size"), 4);
  values.set("size", "2k");
  EXPECT_EQ(values.integer("size"), 2048);
  values.set("size", "3M");
  EXPECT_EQ(values.integer("size"), 3 << 20);
  values.set("rate", "0.25");
  EXPECT_EQ(values.number("rate"), 0.25);
  values.set("on", "yes");
  EXPECT_TRUE(values.boolean("on"));
  values.set("mode", "mlp");
  EXPECT_EQ(values.text("mode"), "mlp");
  EXPECT_THAT(message_of<ConfigError>([&] { values.set("mode", "max"); }),
              HasSubstr("mode must be one of mean, mlp, got \"max\""));
  EXPECT_THAT(message_of<ConfigError>([&] { values.set("rate", "1.5"); }),
              HasSubstr("rate must be a number of at least 0 up to 1"));
  message_of<ConfigError>([&] { values.set("rate", "nan"); });
  EXPECT_EQ(values.number("rate"), 0.25);  // a refused value changes nothing
  EXPECT_TRUE(values.knows("mode"));
  EXPECT_FALSE(values.knows("modes"));
}

TEST(MixerFactory, RefusesLayersOutsideTheModel) {
  Generator generator(1);
  const auto factory =
      make_mixer_factory({.shape = {.d_model = 24, .n_heads = 4, .n_layers = 2}}, generator);
  EXPECT_NE(factory(1), nullptr);
  EXPECT_THAT(message_of<ConfigError>([&] { factory(2); }), HasSubstr("layer 2"));
  message_of<ConfigError>([&] { factory(-1); });
}

}  // namespace
}  // namespace weft::attention
