#include "common/options.h"

#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "temporary_folder.h"

namespace weft::apps {
namespace {

using testing::HasSubstr;

/// One option of each kind.
struct Values {
  bool flag = false;
  bool on = true;
  int64_t count = 7;
  int64_t period = 1;
  uint64_t seed = 1;
  double rate = 0.5;
  std::string text = "plain";
  std::string kind = "a";
  std::vector<std::string> list = {"x"};
  bool once = false;
  Options options{"test", "Tests options.", "weft test --count 3"};

  Values() {
    options.group("First");
    options.add("flag", &flag, "a flag").short_name('f');
    options.add("on", &on, "on unless told");
    options.add("count", &count, "a size", {1, 1 << 30}).environment("WEFT_TEST_COUNT");
    options.add("period", &period, "a period", {-1, 100});
    options.add("seed", &seed, "a seed");
    options.group("Second");
    options.add("rate", &rate, "a rate", {0, 10});
    options.add("text", &text, "a text").short_name('t');
    options.add("kind", &kind, "a choice", {"a", "b"});
    options.add("list", &list, "a list");
    options.add("once", &once, "for one call").not_in_config();
  }

  std::string usage_error(const std::vector<std::string>& arguments) {
    return io::error_of<UsageError>([&] { options.parse(arguments); });
  }
  std::string config_error(const std::string& text) {
    return io::error_of<UsageError>([&] { options.parse_config(text, "a.ini"); });
  }
};

class EnvironmentVariable {
 public:
  EnvironmentVariable(const char* name, const char* value) : name_(name) {
    setenv(name, value, /*overwrite=*/1);
  }
  ~EnvironmentVariable() { unsetenv(name_); }
  EnvironmentVariable(const EnvironmentVariable&) = delete;
  EnvironmentVariable& operator=(const EnvironmentVariable&) = delete;

 private:
  const char* name_;
};

TEST(Options, SetsEveryKindFromFlags) {
  Values v;
  ASSERT_TRUE(v.options.parse({"-f", "--no-on", "--count", "64k", "--period", "-1", "--seed=12",
                               "--rate", "2.5e-1", "-t", "a b", "--kind", "b", "--list", "p,q",
                               "--list", "r", "--once"}));
  EXPECT_TRUE(v.flag);
  EXPECT_FALSE(v.on);
  EXPECT_EQ(v.count, 65536);
  EXPECT_EQ(v.period, -1);
  EXPECT_EQ(v.seed, 12u);
  EXPECT_EQ(v.rate, 0.25);
  EXPECT_EQ(v.text, "a b");
  EXPECT_EQ(v.kind, "b");
  EXPECT_EQ(v.list, (std::vector<std::string>{"p", "q", "r"}));
  EXPECT_TRUE(v.once);
  EXPECT_EQ(v.options.origin("count"), Origin::flag);
}

TEST(Options, KeepsDefaultsWithoutFlags) {
  Values v;
  ASSERT_TRUE(v.options.parse({}));
  EXPECT_FALSE(v.flag);
  EXPECT_TRUE(v.on);
  EXPECT_EQ(v.count, 7);
  EXPECT_EQ(v.list, std::vector<std::string>{"x"});
  EXPECT_FALSE(v.options.given("count"));
  EXPECT_THROW(v.options.given("cuont"), std::logic_error);
}

TEST(Options, ParsesSizes) {
  EXPECT_EQ(parse_size("0"), 0);
  EXPECT_EQ(parse_size("-1"), -1);
  EXPECT_EQ(parse_size("3k"), 3072);
  EXPECT_EQ(parse_size("64K"), 65536);
  EXPECT_EQ(parse_size("1M"), 1048576);
  EXPECT_EQ(parse_size("2G"), int64_t{2} << 30);
  EXPECT_EQ(parse_size("9223372036854775807"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(parse_size("8589934591G"), int64_t{8589934591} << 30);
  for (const char* bad :
       {"", "k", "1.5", "1e3", "1kk", "1 k", " 1", "1 ", "0x10", "--1", "1m", "1T", "ten", "٣"}) {
    EXPECT_THROW(parse_size(bad), UsageError) << bad;
  }
  for (const char* large :
       {"9223372036854775808", "99999999999999999999k", "8589934592G", "-9223372036854775808k"}) {
    EXPECT_THAT(io::error_of<UsageError>([&] { parse_size(large); }), HasSubstr("too large"))
        << large;
  }
}

TEST(Options, RefusesNumbersThatAreNoneOrOutOfRange) {
  for (const char* bad : {"nan", "inf", "-inf", "1e999", "", "1,5", "0x1p3", "1 ", "1f", "--"}) {
    Values v;
    EXPECT_FALSE(v.usage_error({std::string("--rate=") + bad}).empty()) << bad;
    EXPECT_EQ(v.rate, 0.5) << bad;
  }
  EXPECT_THAT(Values().usage_error({"--rate", "10.5"}),
              "--rate: 10.5 is out of range; allowed is 0 to 10");
  EXPECT_THAT(Values().usage_error({"--rate", "-0.1"}), HasSubstr("out of range"));
  EXPECT_THAT(Values().usage_error({"--count", "0"}), HasSubstr("--count: 0 is out of range"));
  EXPECT_THAT(Values().usage_error({"--count", "2G"}), HasSubstr("out of range"));
  EXPECT_THAT(Values().usage_error({"--seed", "-1"}),
              "--seed: -1 is out of range; at least 0 is allowed");
  EXPECT_THAT(Values().usage_error({"--period", "-2"}), HasSubstr("-1 to 100"));
}

TEST(Options, NamesTheNearestOption) {
  EXPECT_EQ(Values().usage_error({"--coutn", "3"}),
            "unknown option '--coutn', did you mean '--count'; weft test --help lists all");
  EXPECT_THAT(Values().usage_error({"--no-flga"}), HasSubstr("did you mean '--no-flag'"));
  EXPECT_THAT(Values().usage_error({"--zzzzzzzz"}), testing::Not(HasSubstr("did you mean")));
  // Never guessed from a prefix.
  EXPECT_THAT(Values().usage_error({"--coun", "3"}), HasSubstr("did you mean '--count'"));
  EXPECT_EQ(nearest("trian", {"eval", "train"}), "train");
  EXPECT_EQ(nearest("", {"eval", "train"}), "");
  EXPECT_EQ(nearest("anything", {}), "");
}

TEST(Options, RefusesWhatCannotBeMeant) {
  EXPECT_EQ(Values().usage_error({"--count", "3", "--count", "4"}), "--count is given twice");
  EXPECT_EQ(Values().usage_error({"--flag", "--no-flag"}), "--flag is given twice");
  EXPECT_FALSE(Values().usage_error({"--count"}).empty());
  EXPECT_FALSE(Values().usage_error({"--flag=yes"}).empty());
  EXPECT_FALSE(Values().usage_error({"--no-count"}).empty());
  EXPECT_THAT(Values().usage_error({"stray"}), HasSubstr("unexpected argument 'stray'"));
  EXPECT_THAT(Values().usage_error({"--kind", "c"}), "--kind: 'c' is unknown; allowed are a, b");
  EXPECT_THAT(Values().usage_error({"-z"}), HasSubstr("unknown option"));
  EXPECT_FALSE(Values().usage_error({"--config"}).empty());
  EXPECT_THAT(Values().usage_error({"--config", ""}), HasSubstr("--config: cannot read ''"));
}

TEST(Options, AsksForRequiredOptions) {
  std::string path;
  Options options("test", "", "");
  options.add("path", &path, "a path").required();
  EXPECT_THAT(io::error_of<UsageError>([&] { options.parse({}); }),
              "--path is required; weft test --help lists all");
  EXPECT_TRUE(options.parse({"--path", "a"}));
}

TEST(Options, CollectsPositionalArguments) {
  Options options("test", "", "", "PATH");
  bool flag = false;
  options.add("flag", &flag, "a flag");
  EXPECT_TRUE(options.parse({"a", "--flag", "b", "--", "--c"}));
  EXPECT_EQ(options.positional(), (std::vector<std::string>{"a", "b", "--c"}));
}

TEST(Options, HelpShowsDefaultsChoicesAndExample) {
  const std::string help = Values().options.help();
  for (const char* part :
       {"Tests options.", "Usage: weft test [options]", "First:", "Second:", "-f, --flag",
        "--no-flag", "a size [7]", "a rate [0.5]", "a, b [a]", "on unless told [on]",
        "a flag [off]", "a list [x]", "--config FILE", "Example:\n  weft test --count 3"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
}

TEST(OptionsConfig, ReadsKeysAndComments) {
  Values v;
  v.options.parse_config(
      "# comment\n; another\n\n  count=3k \r\nrate =  1\nflag = yes\non = off\ntext = a = b # c\n"
      "list = p, q ,\nkind=b\nseed = 4",
      "a.ini");
  EXPECT_EQ(v.count, 3072);
  EXPECT_EQ(v.rate, 1);
  EXPECT_TRUE(v.flag);
  EXPECT_FALSE(v.on);
  EXPECT_EQ(v.text, "a = b # c");
  EXPECT_EQ(v.list, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(v.kind, "b");
  EXPECT_EQ(v.seed, 4u);
  EXPECT_EQ(v.options.origin("seed"), Origin::file);
}

TEST(OptionsConfig, NamesFileAndLineOfMistakes) {
  EXPECT_THAT(Values().config_error("count = 3\ncuont = 4\n"),
              "a.ini:2: unknown key 'cuont', did you mean 'count'; weft test --help lists all");
  EXPECT_THAT(Values().config_error("count = 3\n\ncount = 3\n"),
              "a.ini:3: key 'count' is given twice");
  EXPECT_THAT(Values().config_error("count 3\n"),
              "a.ini:1: 'count 3' is not of the form key = value");
  EXPECT_THAT(Values().config_error("count = many\n"), HasSubstr("a.ini:1: count: 'many' is not"));
  EXPECT_THAT(Values().config_error("flag = maybe\n"), HasSubstr("neither true nor false"));
  EXPECT_THAT(Values().config_error("once = true\n"), HasSubstr("unknown key 'once'"));
  EXPECT_THAT(Values().config_error("= 3\n"), HasSubstr("unknown key ''"));
  EXPECT_THAT(Values().config_error("no-flag = true\n"), HasSubstr("unknown key 'no-flag'"));
  EXPECT_EQ(Values().config_error(""), "");
  EXPECT_THAT(Values().config_error("text = \"open\n"), HasSubstr("a.ini:1: text: "));
  EXPECT_FALSE(Values().config_error("text = \"a\\qb\"\n").empty());
  EXPECT_FALSE(Values().config_error("text = \"a\" b\n").empty());
  EXPECT_FALSE(Values().config_error("text = \"\n").empty());
  EXPECT_FALSE(Values().config_error("text = \"\\\"\n").empty());
}

TEST(OptionsConfig, WritesWhatItReads) {
  for (const std::string text :
       {"", " ", "The ", " a", "a\nrate = 9", "\r", "\ttab", "\"", "\"quoted\"", "a\"b", "\\",
        "\\n", "# no comment", "=", "Ünïcödé ☃", "\"\\\n\t\r "}) {
    Values written;
    written.text = text;
    written.rate = 0.1 + 0.2;
    written.list = {};
    written.seed = 77;
    for (const bool by_origin : {false, true}) {
      Values read;
      ASSERT_EQ(read.config_error(written.options.to_config(by_origin)), "") << text;
      EXPECT_EQ(read.text, text);
      EXPECT_EQ(read.rate, written.rate);
      EXPECT_TRUE(read.list.empty());
      EXPECT_EQ(read.options.values(), written.options.values());
    }
  }
}

TEST(OptionsConfig, FlagsWinOverEnvironmentOverFileOverDefaults) {
  const io::TemporaryFolder folder;
  io::write_bytes(folder / "a.ini", "count = 2\nrate = 2\n");
  const std::string config = (folder / "a.ini").string();
  {
    Values v;
    v.options.parse({"--config", config});
    EXPECT_EQ(v.count, 2);
    EXPECT_EQ(v.rate, 2);
    EXPECT_EQ(v.period, 1);
  }
  const EnvironmentVariable variable("WEFT_TEST_COUNT", "3");
  {
    Values v;
    v.options.parse({"-c", config});
    EXPECT_EQ(v.count, 3);
    EXPECT_EQ(v.options.origin("count"), Origin::environment);
  }
  {
    Values v;
    v.options.parse({"--count", "4", "--config", config});
    EXPECT_EQ(v.count, 4);
    EXPECT_THAT(v.options.to_config(true),
                testing::MatchesRegex("# from flags\ncount = 4\n# from the environment\n"
                                      "# from the config file\nrate = 2\n# defaults\n(.|\n)*"));
  }
}

TEST(OptionsConfig, EnvironmentIsCheckedAndEmptyIsNone) {
  {
    const EnvironmentVariable variable("WEFT_TEST_COUNT", "many");
    EXPECT_THAT(Values().usage_error({}), HasSubstr("WEFT_TEST_COUNT: 'many'"));
  }
  const EnvironmentVariable variable("WEFT_TEST_COUNT", "");
  Values v;
  v.options.parse({});
  EXPECT_EQ(v.count, 7);
}

TEST(OptionsConfig, RefusesWhatIsNoConfigFile) {
  const io::TemporaryFolder folder;
  EXPECT_THAT(Values().usage_error({"--config", (folder / "missing.ini").string()}),
              HasSubstr("cannot read"));
  EXPECT_THAT(Values().usage_error({"--config", folder.path().string()}), HasSubstr("cannot read"));
  EXPECT_THAT(Values().usage_error({"--config", "/dev/zero"}), HasSubstr("longer than 1 MiB"));
  io::write_bytes(folder / "a.ini", "");
  const std::string empty = (folder / "a.ini").string();
  EXPECT_EQ(Values().usage_error({"--config", empty}), "");
  EXPECT_EQ(Values().usage_error({"--config", empty, "-c", empty}), "--config is given twice");
}

}  // namespace
}  // namespace weft::apps
