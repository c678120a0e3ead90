#include "adapters/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "tests/fakes/faulty_vfs.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

RegisteredName Adapter(const std::string& name, int generations, const std::string& tenant = "t") {
  RegisteredName row{.tenant = tenant, .name = name, .current = generations};
  for (int i = 1; i <= generations; ++i) {
    row.generations.push_back({.number = i,
                               .digest = std::string(64, static_cast<char>('a' + i)),
                               .location = absl::StrCat("folder", i),
                               .registered_at = absl::FromUnixMicros(1'700'000'000'000'001 + i),
                               .previous = i - 1});
  }
  return row;
}

std::string Show(const RegisteredName& row) {
  std::string text = absl::StrCat(row.tenant, "/", row.name, " ", static_cast<int>(row.kind), " ",
                                  row.target, " ", row.current);
  for (const NamedGeneration& one : row.generations) {
    absl::StrAppend(&text, " ", one.number, ":", one.digest, "@", one.location, one.commit, "@",
                    absl::ToUnixMicros(one.registered_at), "<", one.previous);
  }
  return text;
}

// Holds a lock of the database while it lives.
class OtherProgram {
 public:
  OtherProgram(const std::string& path, const char* lock) {
    EXPECT_EQ(sqlite3_open(path.c_str(), &db_), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db_, lock, nullptr, nullptr, nullptr), SQLITE_OK);
  }
  ~OtherProgram() { sqlite3_close(db_); }
  OtherProgram(const OtherProgram&) = delete;

 private:
  sqlite3* db_ = nullptr;
};

class RegistryTest : public ::testing::Test {
 protected:
  std::unique_ptr<Registry> Open() {
    auto registry = Registry::Open(path_);
    EXPECT_TRUE(registry.ok()) << registry.status();
    return registry.ok() ? *std::move(registry) : nullptr;
  }
  std::string Refusal() {
    const auto registry = Registry::Open(path_);
    EXPECT_TRUE(absl::IsFailedPrecondition(registry.status())) << registry.status();
    return std::string(registry.status().message());
  }
  std::vector<std::string> Rows(Registry& registry) {
    std::vector<std::string> rows;
    const auto names = registry.Load();
    EXPECT_TRUE(names.ok()) << names.status();
    for (const RegisteredName& name : *names) rows.push_back(Show(name));
    return rows;
  }
  std::vector<std::string> Rows() { return Rows(*Open()); }
  void Sql(const std::string& sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK)
        << sqlite3_errmsg(db);
    sqlite3_close(db);
  }

  TemporaryFolder folder_;
  const std::string path_ = folder_.path() + "/registry.db";
};

TEST_F(RegistryTest, RowsComeBackAsTheyWerePut) {
  const RegisteredName alias{.tenant = "t", .name = "b", .kind = NameKind::kAlias, .target = "a"};
  const RegisteredName hidden{.tenant = "s", .name = "z", .kind = NameKind::kHidden};
  RegisteredName rolled_back = Adapter("c", kGenerationsKeptMax);
  rolled_back.current = 2;
  rolled_back.generations[1].commit = std::string(40, 'c');
  {
    const auto registry = Open();
    EXPECT_THAT(Rows(*registry), IsEmpty());
    for (const RegisteredName& row : {rolled_back, alias, Adapter("a", 3), hidden}) {
      ASSERT_TRUE(registry->Put(row).ok());
    }
  }
  EXPECT_THAT(Rows(),
              ElementsAre(Show(hidden), Show(Adapter("a", 3)), Show(alias), Show(rolled_back)));
}

TEST_F(RegistryTest, PutReplacesTheWholeRowAndEraseRemovesIt) {
  const auto registry = Open();
  ASSERT_TRUE(registry->Put(Adapter("a", 5)).ok());
  ASSERT_TRUE(registry->Put(Adapter("a", 2)).ok());
  ASSERT_TRUE(registry->Put(Adapter("a", 1, "other")).ok());
  EXPECT_THAT(Rows(*registry), ElementsAre(Show(Adapter("a", 1, "other")), Show(Adapter("a", 2))));
  ASSERT_TRUE(registry->Erase("t", "a").ok());
  ASSERT_TRUE(registry->Erase("t", "never there").ok());
  EXPECT_THAT(Rows(*registry), ElementsAre(Show(Adapter("a", 1, "other"))));
}

TEST_F(RegistryTest, NamesAreTextAndNothingElse) {
  const RegisteredName odd = Adapter("a'); DROP TABLE names; --", 1, "te\"nant");
  ASSERT_TRUE(Open()->Put(odd).ok());
  EXPECT_THAT(Rows(), ElementsAre(Show(odd)));
}

TEST_F(RegistryTest, AnyThreadMayAsk) {
  const auto registry = Open();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 1; k <= 5; ++k) {
        EXPECT_TRUE(registry->Put(Adapter(absl::StrCat("n", i), k)).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Rows(*registry).size(), 8u);
}

TEST_F(RegistryTest, IsReadableByItsOwnerAlone) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 1)).ok());
  struct stat info = {};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

// --- files that are not as they should be ---------------------------------------------------

TEST_F(RegistryTest, AnEmptyFileIsANewRegistry) {
  std::ofstream(path_).flush();
  EXPECT_THAT(Rows(), IsEmpty());
  EXPECT_THAT(Rows(), IsEmpty());
}

// A new one would have no name for them, and the next start would take them for left over.
TEST_F(RegistryTest, NoneIsMadeWhereThereAreCopies) {
  const CopiesBeside copies{folder_.path() + "/registered", true};
  for (const char* what : {"is missing", "is empty", "is empty"}) {
    const auto registry = Registry::Open(path_, copies);
    EXPECT_TRUE(absl::IsFailedPrecondition(registry.status())) << registry.status();
    EXPECT_THAT(std::string(registry.status().message()), HasSubstr(what));
    EXPECT_THAT(std::string(registry.status().message()),
                HasSubstr("restore it from a backup, or move it away together with the copies in " +
                          copies.folder));
    EXPECT_EQ(fs::exists(path_), what != std::string("is missing"));
    std::ofstream(path_).flush();
    EXPECT_EQ(fs::file_size(path_), 0u);
  }
  EXPECT_TRUE(Registry::Open(path_, {copies.folder, false}).ok());
  EXPECT_TRUE(Registry::Open(path_, copies).ok());
}

TEST_F(RegistryTest, RefusesWhatIsNotItsOwn) {
  std::ofstream(path_) << "this is a text, and quite a long one so that it has a header's length; "
                          "there is no database in it at all";
  EXPECT_THAT(Refusal(), HasSubstr("not a database"));
  fs::remove(path_);
  Sql("CREATE TABLE things (x)");
  EXPECT_THAT(Refusal(), HasSubstr("another program's"));
  fs::remove(path_);
  fs::create_directory(path_);
  EXPECT_THAT(Refusal(), HasSubstr("cannot be opened"));
  fs::remove(path_);
  folder_.Write("elsewhere.db", "");
  fs::create_symlink("elsewhere.db", path_);
  EXPECT_THAT(Refusal(), HasSubstr("cannot be opened"));
}

TEST_F(RegistryTest, RefusesANewerSchemaAndMissingTables) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 1)).ok());
  Sql(absl::StrCat("PRAGMA user_version=", kRegistrySchema + 1));
  EXPECT_THAT(Refusal(), HasSubstr("newer loricad"));
  Sql(absl::StrCat("PRAGMA user_version=", kRegistrySchema));
  EXPECT_EQ(Rows().size(), 1u);
  Sql("DROP TABLE generations");
  EXPECT_THAT(Refusal(), HasSubstr("lacks a table"));
}

// What loricad wrote before generations knew where a rollback leads.
constexpr char kSchema1[] =
    "CREATE TABLE names (tenant TEXT NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,"
    " target TEXT NOT NULL, current INTEGER NOT NULL, PRIMARY KEY (tenant, name)) WITHOUT ROWID;"
    "CREATE TABLE generations (tenant TEXT NOT NULL, name TEXT NOT NULL,"
    " number INTEGER NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL,"
    " registered_at_us INTEGER NOT NULL, PRIMARY KEY (tenant, name, number),"
    " FOREIGN KEY (tenant, name) REFERENCES names ON DELETE CASCADE) WITHOUT ROWID;"
    "PRAGMA application_id=1282372193; PRAGMA user_version=1;";

TEST_F(RegistryTest, TakesOverRegistriesOfSchema1) {
  Sql(kSchema1);
  for (const RegisteredName& row : {Adapter("a", 3), Adapter("b", 1), Adapter("a", 2, "s")}) {
    Sql(absl::StrCat("INSERT INTO names VALUES ('", row.tenant, "', '", row.name, "', 0, '', ",
                     row.current, ")"));
    for (const NamedGeneration& one : row.generations) {
      Sql(absl::StrCat("INSERT INTO generations VALUES ('", row.tenant, "', '", row.name, "', ",
                       one.number, ", '", one.digest, "', '", one.location, "', ",
                       absl::ToUnixMicros(one.registered_at), ")"));
    }
  }
  for (int start = 0; start < 2; ++start) {
    EXPECT_THAT(Rows(), ElementsAre(Show(Adapter("a", 2, "s")), Show(Adapter("a", 3)),
                                    Show(Adapter("b", 1))));
  }
  ASSERT_TRUE(Open()->Put(Adapter("b", 2)).ok());
  EXPECT_THAT(Rows().back(), Show(Adapter("b", 2)));
}

// What loricad wrote before generations knew of which commit they are.
TEST_F(RegistryTest, TakesOverRegistriesOfSchema2) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 2)).ok());
  Sql("ALTER TABLE generations DROP COLUMN bytes; ALTER TABLE generations DROP COLUMN pinned;"
      "PRAGMA user_version=2;");
  EXPECT_THAT(Rows(), ElementsAre(Show(Adapter("a", 2))));
  ASSERT_TRUE(Open()->Put(Adapter("b", 2)).ok());
  EXPECT_THAT(Rows(), ElementsAre(Show(Adapter("a", 2)), Show(Adapter("b", 2))));
}

// What loricad wrote before it knew how large a copy is.
TEST_F(RegistryTest, TakesOverRegistriesOfSchema3) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 2)).ok());
  Sql("ALTER TABLE generations DROP COLUMN bytes; PRAGMA user_version=3;");
  EXPECT_EQ((*Open()->Load())[0].now().bytes, 0);
  RegisteredName name = Adapter("a", 2);
  name.generations.back().bytes = int64_t{5} << 32;
  ASSERT_TRUE(Open()->Put(name).ok());
  EXPECT_EQ((*Open()->Load())[0].now().bytes, int64_t{5} << 32);
}

TEST_F(RegistryTest, RefusesRowsThatMakeNoSense) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 1)).ok());
  Sql("UPDATE names SET current = 7");
  EXPECT_TRUE(absl::IsFailedPrecondition(Open()->Load().status()));
  Sql("UPDATE names SET current = 1, kind = 9");
  EXPECT_TRUE(absl::IsFailedPrecondition(Open()->Load().status()));
}

TEST_F(RegistryTest, RefusesDamagedPages) {
  {
    const auto registry = Open();
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE(registry->Put(Adapter(absl::StrCat("name", i), 8)).ok());
    }
  }
  int refused = 0;
  const auto size = static_cast<int64_t>(fs::file_size(path_));
  std::string whole(size, '\0');
  std::ifstream(path_, std::ios::binary).read(whole.data(), size);
  for (int64_t page = 0; page < size; page += 4096) {
    std::string damaged = whole;
    for (int64_t i = page; i < page + 64; ++i) damaged[i] ^= 0x5a;
    std::ofstream(path_, std::ios::binary) << damaged;
    const auto registry = Registry::Open(path_);
    refused += !registry.ok();
    EXPECT_TRUE(registry.ok() || absl::IsFailedPrecondition(registry.status()));
  }
  EXPECT_EQ(refused, size / 4096);
  std::ofstream(path_, std::ios::binary) << whole.substr(0, size / 2 + 100);
  EXPECT_FALSE(Registry::Open(path_).ok());
}

TEST_F(RegistryTest, TakesOverAWriteAheadLog) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 1)).ok());
  Sql("PRAGMA journal_mode=WAL; UPDATE names SET name = 'b'; UPDATE generations SET name = 'b'");
  EXPECT_THAT(Rows(), ElementsAre(Show(Adapter("b", 1))));
  EXPECT_FALSE(fs::exists(path_ + "-wal"));
}

TEST_F(RegistryTest, WaitsForAnotherProgramOnlySoLong) {
  const auto registry = Open();
  for (const char* lock : {"BEGIN EXCLUSIVE", "BEGIN; SELECT * FROM names"}) {
    SCOPED_TRACE(lock);
    ASSERT_TRUE(registry->Put(Adapter("a", 1)).ok());
    const OtherProgram other(path_, lock);
    const absl::Time began = SteadyNow();
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        const absl::Status status = registry->Put(Adapter(absl::StrCat("b", i), 1));
        EXPECT_TRUE(absl::IsUnavailable(status)) << status;
        EXPECT_THAT(std::string(status.message()), HasSubstr("another program"));
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_GE(SteadyNow() - began, kRegistryBusyWait);
    EXPECT_LT(SteadyNow() - began, kRegistryBusyWait + absl::Seconds(2));
    EXPECT_TRUE(absl::IsUnavailable(registry->Erase("t", "a")));
    EXPECT_LT(SteadyNow() - began, kRegistryBusyWait + absl::Seconds(2)) << "it is known";
  }
  EXPECT_FALSE(registry->is_broken());
  EXPECT_THAT(Rows(*registry), ElementsAre(Show(Adapter("a", 1))));
  EXPECT_TRUE(registry->Put(Adapter("b", 1)).ok());
}

TEST_F(RegistryTest, WaitsUntilAnotherProgramLetsGo) {
  const auto registry = Open();
  auto other = std::make_unique<OtherProgram>(path_, "BEGIN EXCLUSIVE");
  std::thread later([&other] {
    absl::SleepFor(kRegistryBusyWait / 3);
    other.reset();
  });
  const absl::Status status = registry->Put(Adapter("a", 1));
  later.join();
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(RegistryTest, AnotherProgramThatHoldsItStopsTheStart) {
  ASSERT_TRUE(Open()->Put(Adapter("a", 1)).ok());
  {
    const OtherProgram other(path_, "BEGIN EXCLUSIVE");
    const absl::Time began = SteadyNow();
    EXPECT_THAT(Refusal(), AllOf(HasSubstr("another program"), Not(HasSubstr("backup"))));
    EXPECT_LT(SteadyNow() - began, kRegistryBusyWait + absl::Seconds(2));
  }
  EXPECT_EQ(Rows().size(), 1u);
}

TEST_F(RegistryTest, NoticesThatItsFileIsGone) {
  const auto registry = Open();
  ASSERT_TRUE(registry->Put(Adapter("a", 1)).ok());
  fs::rename(path_, path_ + ".moved");
  const absl::Status status = registry->Put(Adapter("b", 1));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("moved or deleted"));
  fs::rename(path_ + ".moved", path_);
  EXPECT_FALSE(registry->Put(Adapter("b", 1)).ok()) << "until a restart";
  EXPECT_THAT(Rows(), ElementsAre(Show(Adapter("a", 1))));
}

// --- disks that fail -----------------------------------------------------------------------

TEST_F(RegistryTest, AFullDiskRefusesAndChangesNothing) {
  fakes::FaultyVfs disk;
  const auto registry = Open();
  ASSERT_TRUE(registry->Put(Adapter("a", 1)).ok());
  int refused = 0;
  for (int k = 1; k <= 12; ++k) {
    disk.FailWrites(k, SQLITE_FULL, /*lasting=*/true);
    const absl::Status status = registry->Put(Adapter("b", k % 8 + 1));
    disk.FailWrites(0, SQLITE_OK);
    if (status.ok()) continue;
    ++refused;
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << k << status;
    EXPECT_EQ(Rows(*registry).size(), 1u) << k;
  }
  EXPECT_GT(refused, 3);
  EXPECT_TRUE(registry->Put(Adapter("a", 2)).ok()) << "there is room again";
  EXPECT_THAT(Rows()[0], Show(Adapter("a", 2)));
}

TEST_F(RegistryTest, OpensOnAFullDiskAndServesWhatItKnows) {
  fakes::FaultyVfs disk;
  ASSERT_TRUE(Open()->at_open().ok());
  ASSERT_TRUE(Open()->Put(Adapter("a", 2)).ok());
  disk.FailWrites(1, SQLITE_FULL, /*lasting=*/true);
  const auto registry = Open();
  EXPECT_TRUE(absl::IsResourceExhausted(registry->at_open()));
  EXPECT_THAT(Rows(*registry), ElementsAre(Show(Adapter("a", 2))));
  EXPECT_TRUE(absl::IsResourceExhausted(registry->Put(Adapter("b", 1))));
  disk.FailWrites(0, SQLITE_OK);
  EXPECT_TRUE(registry->Put(Adapter("b", 1)).ok()) << "there is room again";
}

TEST_F(RegistryTest, IsNeitherMadeNorBroughtUpOnAFullDisk) {
  fakes::FaultyVfs disk;
  disk.FailWrites(1, SQLITE_FULL, /*lasting=*/true);
  EXPECT_TRUE(absl::IsResourceExhausted(Registry::Open(path_).status())) << "a new one";
  disk.FailWrites(0, SQLITE_OK);
  Open();
  Sql("PRAGMA user_version = 3; ALTER TABLE generations DROP COLUMN bytes");
  disk.FailWrites(1, SQLITE_FULL, /*lasting=*/true);
  EXPECT_TRUE(absl::IsResourceExhausted(Registry::Open(path_).status())) << "an old one";
}

// Whichever write or sync fails: the old row or the new one is there at the next start,
// whole, and nothing more is written before.
TEST_F(RegistryTest, AFailedDiskStopsChangesAndTearsNoRow) {
  fakes::FaultyVfs disk;
  int failures = 0;
  for (int k = 1; k <= 16; ++k) {
    const bool by_sync = k > 10;
    auto registry = Open();
    ASSERT_TRUE(registry->Put(Adapter("a", 1)).ok());
    if (by_sync) {
      disk.FailSyncs(k - 10, SQLITE_IOERR_FSYNC);
    } else {
      disk.FailWrites(k, SQLITE_IOERR_WRITE);
    }
    const absl::Status status = registry->Put(Adapter("a", 5));
    disk.FailWrites(0, SQLITE_OK);
    disk.FailSyncs(0, SQLITE_OK);
    if (!status.ok()) {
      ++failures;
      EXPECT_TRUE(absl::IsUnavailable(status)) << status;
      EXPECT_TRUE(absl::IsUnavailable(registry->Put(Adapter("c", 1)))) << k;
      EXPECT_TRUE(registry->Load().ok());
    }
    registry.reset();
    const std::vector<std::string> rows = Rows();
    ASSERT_EQ(rows.size(), 1u) << k;
    EXPECT_TRUE(rows[0] == Show(Adapter("a", 5)) ||
                (!status.ok() && rows[0] == Show(Adapter("a", 1))))
        << k << rows[0];
  }
  EXPECT_GT(failures, 5);
}

}  // namespace
}  // namespace lorica
