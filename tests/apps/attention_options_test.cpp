// Options of attention mechanisms that do not fit, given on the command line: one line each that
// names option, value and rule.
#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "weft_process.h"

namespace weft::apps {
namespace {

struct Mistake {
  const char* name;
  Arguments arguments;
  std::string says;
};

void PrintTo(const Mistake& mistake, std::ostream* out) {
  *out << mistake.name;
}

/// Of a model with two layers, d_model 48 and 4 heads.
class AttentionOptions : public ::testing::TestWithParam<Mistake> {};

TEST_P(AttentionOptions, AreRefusedInOneLine) {
  const TemporaryFolder folder;
  write_bytes(folder / "text.txt", sample_text(20));
  Arguments more = GetParam().arguments;
  for (const auto& [flag, value] :
       {std::pair{"--n-layers", "2"}, {"--d-model", "48"}, {"--n-heads", "4"}}) {
    if (std::find(more.begin(), more.end(), flag) == more.end())
      more.insert(more.end(), {flag, value});
  }
  const Outcome outcome =
      weft(train_arguments((folder / "text.txt").string(), folder / "run", more));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_TRUE(is_one_error_line(outcome.err)) << outcome.err;
  EXPECT_EQ(outcome.err, "weft: " + GetParam().says + "\n");
  EXPECT_EQ(outcome.out, "");
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

Arguments with(const char* mechanism, Arguments options) {
  Arguments arguments = {"--attention", mechanism};
  for (std::string& option : options)
    arguments.insert(arguments.end(), {"--attention-opt", std::move(option)});
  return arguments;
}

Arguments with_flag(const char* mechanism, const char* flag, const char* value) {
  return {"--attention", mechanism, flag, value};
}

std::string name_of(const ::testing::TestParamInfo<Mistake>& info) {
  return info.param.name;
}

const std::string kGlobal = "alternating sparse attention, global layer: ";
const std::string kNsa = "native sparse attention: ";

INSTANTIATE_TEST_SUITE_P(
    Blocks, AttentionOptions,
    ::testing::Values(
        Mistake{"NsaStride", with("nsa", {"stride=5"}),
                kNsa + "block (16) must be a multiple of stride (5)"},
        Mistake{"NsaSelectBlock", with("nsa", {"select-block=24"}),
                kNsa + "select_block (24) must be a multiple of stride (16)"},
        Mistake{"NsaSmallSelectBlock", with("nsa", {"block=32"}),
                kNsa + "select_block (16) must be at least block (32)"},
        Mistake{"NsaForced", with("nsa", {"select-count=2"}),
                kNsa + "select_count (2) must be at least initial + local (1 + 2)"},
        Mistake{"NsaNoBlock", with("nsa", {"block=0"}),
                "attention nsa: block must be an integer of at least 1 up to 1073741824, got "
                "\"0\""},
        Mistake{"NsaNoLocal", with("nsa", {"local=0"}),
                "attention nsa: local must be an integer of at least 1 up to 1073741824, got "
                "\"0\""},
        Mistake{"AsaStride", with("asa", {"stride=5"}),
                kGlobal + "block (16) must be a multiple of stride (5)"},
        Mistake{"AsaSelectBlock", with("asa", {"select-block=24"}),
                kGlobal + "select_block (24) must be a multiple of stride (16)"},
        Mistake{"AsaSmallSelectBlock", with("asa", {"block=32"}),
                kGlobal + "select_block (16) must be at least block (32)"},
        Mistake{"AsaForced", with("asa", {"select-count=2"}),
                kGlobal + "select_count (2) must be at least initial + local (1 + 2)"},
        Mistake{"AsaRun", with("asa", {"query-run=3"}),
                kGlobal + "query_run (3) must divide select_block (16)"},
        Mistake{"AsaNoRun", with("asa", {"query-run=0"}),
                "attention asa-global: query-run must be an integer of at least 1 up to 64, got "
                "\"0\""}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Windows, AttentionOptions,
    ::testing::Values(
        Mistake{"Swa", with("swa", {"window=0"}),
                "attention swa: window must be an integer of at least 1 up to 1073741824, got "
                "\"0\""},
        Mistake{"Nsa", with("nsa", {"window=0"}),
                "attention nsa: window must be an integer of at least 1 up to 1073741824, got "
                "\"0\""},
        Mistake{"Asa", with("asa", {"window=0"}),
                "attention asa-local: window must be an integer of at least 1 up to 1073741824, "
                "got \"0\""},
        Mistake{"Negative", with("swa", {"window=-4"}),
                "attention swa: window must be an integer of at least 1 up to 1073741824, got "
                "\"-4\""}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Heads, AttentionOptions,
    ::testing::Values(
        Mistake{"FullKeys", with_flag("full", "--n-kv-heads", "3"),
                "full attention: n_heads (4) must be a multiple of n_kv_heads (3)"},
        Mistake{"SwaKeys", with_flag("swa", "--n-kv-heads", "3"),
                "sliding-window attention: n_heads (4) must be a multiple of n_kv_heads (3)"},
        Mistake{"MlaKeys", with_flag("mla", "--n-kv-heads", "3"),
                "latent attention: n_heads (4) must be a multiple of n_kv_heads (3)"},
        Mistake{"GlaKeys", with_flag("gla", "--n-kv-heads", "3"),
                "grouped latent attention: n_heads (4) must be a multiple of n_kv_heads (3)"},
        Mistake{"NsaKeys", with_flag("nsa", "--n-kv-heads", "3"),
                kNsa + "n_heads (4) must be a multiple of n_kv_heads (3)"},
        Mistake{"AsaKeys", with_flag("asa", "--n-kv-heads", "3"),
                "latent attention over a window: n_heads (4) must be a multiple of n_kv_heads "
                "(3)"},
        Mistake{"GlaGroups", with("gla", {"groups=3"}),
                "grouped latent attention: n_heads (4) must be a multiple of groups (3)"},
        Mistake{"AsaGroups", with("asa", {"groups=3"}),
                kGlobal + "n_heads (4) must be a multiple of groups (3)"},
        Mistake{"FullWidth", with_flag("full", "--d-model", "50"),
                "full attention: d_model (50) must be a multiple of n_heads (4) unless head_dim "
                "is given"},
        Mistake{"SwaWidth", with_flag("swa", "--d-model", "50"),
                "sliding-window attention: d_model (50) must be a multiple of n_heads (4) unless "
                "head_dim is given"},
        Mistake{"MlaWidth", with_flag("mla", "--d-model", "50"),
                "latent attention: d_model (50) must be a multiple of n_heads (4) unless head_dim "
                "is given"},
        Mistake{"GlaWidth", with_flag("gla", "--d-model", "50"),
                "grouped latent attention: d_model (50) must be a multiple of n_heads (4) unless "
                "head_dim is given"},
        Mistake{"NsaWidth", with_flag("nsa", "--d-model", "50"),
                kNsa + "d_model (50) must be a multiple of n_heads (4) unless head_dim is given"},
        Mistake{"AsaWidth", with_flag("asa", "--d-model", "50"),
                "latent attention over a window: d_model (50) must be a multiple of n_heads (4) "
                "unless head_dim is given"},
        Mistake{"OddHead", with("full", {"head-dim=5"}),
                "full attention: head_dim must be even for rotary positions, got 5"},
        Mistake{"OddRotaryPart", with("gla", {"rope-dim=5"}),
                "grouped latent attention: rope_dim must be even and at least 2, got 5"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Schedules, AttentionOptions,
    ::testing::Values(
        Mistake{"UnknownLetter",
                {"--attention-schedule", "LX"},
                "attention schedule \"LX\": unknown letter X; known: F (full) N (nsa) L "
                "(asa-local) G (asa-global)"},
        Mistake{"EmptyName",
                {"--attention-schedule", "full,"},
                "attention schedule \"full,\": empty name; write it as in \"full*2\" or "
                "\"full,swa*3\""},
        Mistake{"LayersDoNotDivide",
                {"--attention-schedule", "LG", "--n-layers", "3"},
                "attention schedule \"LG\": it has 2 layers and the model 3; the model's layers "
                "must be a multiple of the schedule's"},
        Mistake{"OddLayersOfAsa",
                {"--attention", "asa", "--n-layers", "3"},
                "attention schedule \"asa\": it has 2 layers and the model 3; the model's layers "
                "must be a multiple of the schedule's"},
        Mistake{"OptionOfAnother", with("mla", {"groups=2"}),
                "attention mla: unknown option \"groups\"; known: latent-dim, rope-dim, head-dim, "
                "value-dim, query-latent-dim, form"}),
    name_of);

}  // namespace
}  // namespace weft::apps
