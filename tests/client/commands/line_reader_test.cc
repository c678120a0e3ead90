#include "client/commands/line_reader.h"

#include <gtest/gtest.h>

#include <memory>

namespace lorica {
namespace {

using Result = LineReader::Result;

struct Closer {
  void operator()(FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<FILE, Closer>;

File Holding(const std::string& text) {
  File file(std::tmpfile());
  std::fwrite(text.data(), 1, text.size(), file.get());
  std::rewind(file.get());
  return file;
}

TEST(LineReader, ReadsLinesWithAnyEnd) {
  const File file = Holding("\xEF\xBB\xBFone\r\n\ntwo");
  LineReader reader(file.get());
  std::string line;
  EXPECT_EQ(reader.Next(&line), Result::kLine);
  EXPECT_EQ(line, "one");
  EXPECT_EQ(reader.Next(&line), Result::kLine);
  EXPECT_EQ(line, "");
  EXPECT_EQ(reader.Next(&line), Result::kLine);
  EXPECT_EQ(line, "two");
  EXPECT_EQ(reader.Next(&line), Result::kEnd);
  EXPECT_EQ(reader.bytes_read(), 12);
}

TEST(LineReader, SkipsALineBeyondTheBoundAndGoesOn) {
  const File file = Holding("12345\n123456\nok\n");
  LineReader reader(file.get(), 5);
  std::string line;
  EXPECT_EQ(reader.Next(&line), Result::kLine);
  EXPECT_EQ(line, "12345");
  EXPECT_EQ(reader.Next(&line), Result::kTooLong);
  EXPECT_LE(line.size(), 5);
  EXPECT_EQ(reader.Next(&line), Result::kLine);
  EXPECT_EQ(line, "ok");
  EXPECT_EQ(reader.Next(&line), Result::kEnd);
}

TEST(LineReader, KeepsZeroBytes) {
  const File file = Holding(std::string("a\0b\n", 4));
  LineReader reader(file.get());
  std::string line;
  EXPECT_EQ(reader.Next(&line), Result::kLine);
  EXPECT_EQ(line, std::string("a\0b", 3));
}

}  // namespace
}  // namespace lorica
