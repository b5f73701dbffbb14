#include "weft/io/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weft/tensor/error.h"

#include "file_size_limit.h"
#include "temporary_folder.h"

namespace weft::io {
namespace {

using ::testing::HasSubstr;

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TemporaryFolder folder;
  const auto path = folder / "a.txt";
  {
    AtomicFile file(path);
    file.write("one ");
    file.write("two");
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_TRUE(is_temporary(file.temporary()));
    file.commit();
    EXPECT_THROW(file.write("late"), IoError);
    EXPECT_THROW(file.commit(), IoError);
  }
  EXPECT_EQ(read_bytes(path), "one two");
  EXPECT_EQ(count_entries(folder.path()), 1);
  EXPECT_FALSE(is_temporary(path));
}

TEST(AtomicFile, ReplacesAndKeepsTheMode) {
  const TemporaryFolder folder;
  const auto path = folder / "a.txt";
  write_bytes(path, "old");
  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  write_file_atomically(path, "new");
  EXPECT_EQ(read_bytes(path), "new");
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0640u);
}

TEST(AtomicFile, LeavesTheOldFileWhenAbandoned) {
  const TemporaryFolder folder;
  const auto path = folder / "a.txt";
  write_bytes(path, "old");
  { AtomicFile(path).write("half"); }
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(count_entries(folder.path()), 1);
}

TEST(AtomicFile, FullDiskLeavesTheOldFileAndNoLitter) {
  const TemporaryFolder folder;
  const auto path = folder / "a.txt";
  write_bytes(path, "old");
  std::string text;
  {
    const FileSizeLimit limit(1000);  // SIGXFSZ must not end the process
    text = error_of<IoError>([&] { write_file_atomically(path, std::string(5000, 'x')); });
  }
  EXPECT_THAT(text, HasSubstr(path.string()));
  EXPECT_THAT(text, HasSubstr("File too large"));
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(count_entries(folder.path()), 1);
}

TEST(AtomicFile, RefusesWhatIsNoRegularFile) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile file(folder.path()); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile file("/dev/full"); }),
              HasSubstr("'/dev/full': it is not a regular file"));
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile file(folder / "no/such/a.txt"); }),
              HasSubstr("No such file"));
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile file(""); }), HasSubstr("names no file"));
  struct stat status {};
  ASSERT_EQ(::stat("/dev/full", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST(AtomicFile, ReadOnlyFolderNamesPathAndReason) {
  // /proc refuses new files even to root.
  EXPECT_THAT(error_of<IoError>([] { AtomicFile file("/proc/weft.txt"); }),
              HasSubstr("cannot write '/proc/weft.txt': "));
  if (::geteuid() == 0) GTEST_SKIP() << "root may write to a folder without write permission";
  const TemporaryFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0500), 0);
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile file(folder / "a.txt"); }),
              HasSubstr("Permission denied"));
}

TEST(AtomicFile, FollowsALinkAndTakesLongNames) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "far");
  std::filesystem::create_symlink("far/b.txt", folder / "a.txt");
  write_file_atomically(folder / "a.txt", "text");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "a.txt"));
  EXPECT_EQ(read_bytes(folder / "far/b.txt"), "text");
  const auto longest = folder / std::string(255, 'n');
  write_file_atomically(longest, "text");
  EXPECT_EQ(read_bytes(longest), "text");
  EXPECT_THROW(write_file_atomically(folder / std::string(256, 'n'), "text"), IoError);
  std::filesystem::create_symlink("loop", folder / "loop");
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile file(folder / "loop"); }),
              HasSubstr("Too many levels"));
  EXPECT_EQ(count_entries(folder.path()), 4);
}

TEST(ReplaceSymlink, PointsTheLinkAnewAndSparesFiles) {
  const TemporaryFolder folder;
  write_bytes(folder / "one", "1");
  write_bytes(folder / "two", "2");
  replace_symlink_atomically(folder / "latest", "one");
  EXPECT_EQ(read_bytes(folder / "latest"), "1");
  replace_symlink_atomically(folder / "latest", "two");
  EXPECT_EQ(read_bytes(folder / "latest"), "2");
  EXPECT_THROW(replace_symlink_atomically(folder / "one", "two"), IoError);
  EXPECT_EQ(read_bytes(folder / "one"), "1");
  EXPECT_EQ(count_entries(folder.path()), 3);
}

}  // namespace
}  // namespace weft::io
