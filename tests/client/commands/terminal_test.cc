#include "client/commands/terminal.h"

#include <gtest/gtest.h>

#include <memory>

namespace lorica {
namespace {

TEST(Printable, DisarmsControlCharactersOnly) {
  EXPECT_EQ(Printable("a\nb\tc ü 漢"), "a\nb\tc ü 漢");
  EXPECT_EQ(Printable("\x1b[31m"), "\xEF\xBF\xBD[31m");
  EXPECT_EQ(Printable("\xC2\x9B"), "\xEF\xBF\xBD");
  EXPECT_EQ(Printable("\x7F\r"), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Human, NumbersReadWell) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(int64_t{3} << 32), "12.0 GiB");
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(1234567), "1,234,567");
  EXPECT_EQ(HumanCount(-1234), "-1,234");
  EXPECT_EQ(HumanDuration(0.0125), "12 ms");
  EXPECT_EQ(HumanDuration(12.34), "12.3 s");
  EXPECT_EQ(HumanDuration(250), "4 min 10 s");
  EXPECT_EQ(HumanDuration(7260), "2 h 1 min");
}

TEST(Table, AlignsByCharactersNotBytes) {
  std::unique_ptr<FILE, int (*)(FILE*)> plain(std::tmpfile(), std::fclose);
  Table table({"name", ">rank"});
  table.AddRow({"bär", "8"});
  table.AddRow({"abcdef", "16"});
  EXPECT_EQ(table.ToString(plain.get()), "name    rank\nbär        8\nabcdef    16\n");
}

TEST(Paint, LeavesFilesAlone) {
  std::unique_ptr<FILE, int (*)(FILE*)> plain(std::tmpfile(), std::fclose);
  EXPECT_EQ(Paint(Ink::kRed, "x", plain.get()), "x");
}

}  // namespace
}  // namespace lorica
