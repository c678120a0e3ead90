#include "adapters/registry.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "adapters/content_store.h"
#include "adapters/hub/steady_now.h"
#include "kernels/check.h"

namespace lorica {
namespace {

constexpr absl::Duration kLockPoll = absl::Milliseconds(10);
constexpr int kApplicationId = 0x4c6f7261;  // "Lora"

constexpr char kSettings[] =
    "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA; PRAGMA foreign_keys=ON;"
    "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY;"
    "PRAGMA mmap_size=0;";

constexpr char kSchema[] =
    "CREATE TABLE names (tenant TEXT NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,"
    " target TEXT NOT NULL, current INTEGER NOT NULL, PRIMARY KEY (tenant, name)) WITHOUT ROWID;"
    "CREATE TABLE generations (tenant TEXT NOT NULL, name TEXT NOT NULL,"
    " number INTEGER NOT NULL, digest TEXT NOT NULL, location TEXT NOT NULL,"
    " registered_at_us INTEGER NOT NULL, previous INTEGER NOT NULL DEFAULT 0,"
    " pinned TEXT NOT NULL DEFAULT '', bytes INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (tenant, name, number),"
    " FOREIGN KEY (tenant, name) REFERENCES names ON DELETE CASCADE) WITHOUT ROWID;";

// From schema 1, where a rollback went to the number below.
constexpr char kFrom1[] =
    "ALTER TABLE generations ADD COLUMN previous INTEGER NOT NULL DEFAULT 0;"
    "UPDATE generations SET previous = coalesce((SELECT max(older.number) FROM generations older"
    " WHERE older.tenant = generations.tenant AND older.name = generations.name"
    " AND older.number < generations.number), 0);";

// From schema 2, where a hub's repository was known by its branch alone.
constexpr char kFrom2[] = "ALTER TABLE generations ADD COLUMN pinned TEXT NOT NULL DEFAULT '';";

// From schema 3, where nobody knew how large a copy is.
constexpr char kFrom3[] = "ALTER TABLE generations ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;";

// One statement; parameters are bound in order.
class Statement {
 public:
  Statement(sqlite3* db, const char* sql) {
    code_ = sqlite3_prepare_v2(db, sql, -1, &statement_, nullptr);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;

  Statement& Bind(absl::string_view text) {
    if (code_ == SQLITE_OK) {
      code_ = sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                                SQLITE_TRANSIENT);
    }
    return *this;
  }
  Statement& Bind(int64_t number) {
    if (code_ == SQLITE_OK) code_ = sqlite3_bind_int64(statement_, ++bound_, number);
    return *this;
  }
  // True: a row is there. False: the end or an error, which code() tells apart.
  bool Step() {
    if (code_ != SQLITE_OK && code_ != SQLITE_ROW) return false;
    code_ = sqlite3_step(statement_);
    return code_ == SQLITE_ROW;
  }
  int Finish() {
    while (Step()) {
    }
    return code_ == SQLITE_DONE ? SQLITE_OK : code_;
  }
  std::string Text(int column) const {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return text == nullptr ? "" : std::string(text, sqlite3_column_bytes(statement_, column));
  }
  int64_t Number(int column) const { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3_stmt* statement_ = nullptr;
  int code_ = SQLITE_OK;
  int bound_ = 0;
};

struct CloseDatabase {
  void operator()(sqlite3* db) const { sqlite3_close_v2(db); }
};

// Makes the file private before SQLite would make it readable by all.
absl::Status MakeFile(const std::string& path, struct stat* info) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0 || fstat(fd, info) != 0 || !S_ISREG(info->st_mode)) {
    const char* why = fd < 0 ? std::strerror(errno) : "it is not a file";
    if (fd >= 0) close(fd);
    return absl::FailedPreconditionError(
        absl::StrCat("the registry ", path, " cannot be opened for writing: ", why));
  }
  close(fd);
  return absl::OkStatus();
}

}  // namespace

struct Registry::Impl {
  using Database = std::unique_ptr<sqlite3, CloseDatabase>;
  struct Job {
    std::function<absl::Status()> work;
    const absl::Time queued = SteadyNow();
    absl::Status status;
    absl::Notification done;
  };

  absl::Status OpenDatabase();
  absl::Status CheckDatabase();
  absl::Status MakeSchema();
  absl::Status Unusable(absl::string_view why) const;
  int64_t Pragma(const char* sql);
  static int WaitForLock(void* impl, int tries);
  absl::Time WaitEnd(absl::Time queued) const;
  absl::Status Break(std::string why);
  absl::Status Change(const std::function<int()>& statements);
  absl::Status ChangeFailed(int code);
  absl::StatusOr<std::vector<RegisteredName>> LoadAll();
  int WriteRow(const RegisteredName& name);
  bool FileIsThere() const;
  void Loop();
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return stop || !jobs.empty(); }

  std::string path;
  CopiesBeside copies;
  struct stat file = {};
  Database db;
  absl::Status at_open;  // of the first write
  absl::Status broken;   // why nothing is written any more
  std::atomic<bool> is_broken{false};
  absl::Time wait_end = SteadyNow() + kRegistryBusyWait;  // for another program's lock
  absl::Time held_at = absl::InfinitePast();  // when a change was last refused for such a lock

  absl::Mutex mutex;
  std::deque<Job*> jobs ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;
  std::thread thread;
};

// --- opening -----------------------------------------------------------------------------

absl::Status Registry::Impl::Unusable(absl::string_view why) const {
  const std::string copies_too =
      copies.folder.empty() ? "" : absl::StrCat(" together with the copies in ", copies.folder);
  return absl::FailedPreconditionError(absl::StrCat("the registry ", path, " ", why,
                                                    ": restore it from a backup, or move it away",
                                                    copies_too, " to start without registrations"));
}

absl::Status Registry::Impl::OpenDatabase() {
  struct stat before = {};
  if (copies.any && lstat(path.c_str(), &before) != 0 && errno == ENOENT) {
    return Unusable("is missing, though there are copies of registered adapters");
  }
  if (absl::Status s = MakeFile(path, &file); !s.ok()) return s;
  sqlite3* opened = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  db.reset(opened);
  if (code != SQLITE_OK) return Unusable(sqlite3_errstr(code));
  sqlite3_busy_handler(db.get(), &WaitForLock, this);
  sqlite3_db_config(db.get(), SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  const int settled = sqlite3_exec(db.get(), kSettings, nullptr, nullptr, nullptr);
  if (settled == SQLITE_BUSY) {
    return absl::FailedPreconditionError(
        absl::StrCat("the registry ", path, " is held by another program: end that one first"));
  }
  if (settled != SQLITE_OK) return Unusable(sqlite3_errmsg(db.get()));
  return CheckDatabase();
}

int64_t Registry::Impl::Pragma(const char* sql) {
  Statement statement(db.get(), sql);
  return statement.Step() ? statement.Number(0) : -1;
}

absl::Status Registry::Impl::CheckDatabase() {
  Statement check(db.get(), "PRAGMA quick_check(1)");
  if (!check.Step()) return Unusable(sqlite3_errmsg(db.get()));
  if (check.Text(0) != "ok") return Unusable(absl::StrCat("is damaged: ", check.Text(0)));
  check.Finish();
  const int64_t owner = Pragma("PRAGMA application_id");
  const int64_t schema = Pragma("PRAGMA user_version");
  const int64_t tables = Pragma("SELECT count(*) FROM sqlite_schema WHERE type = 'table'");
  if (owner == 0 && schema == 0 && tables == 0) return MakeSchema();
  if (owner != kApplicationId) return Unusable("is another program's database");
  if (schema > kRegistrySchema) {
    return absl::FailedPreconditionError(
        absl::StrCat("the registry ", path, " was written by a newer loricad (schema ", schema,
                     ", this one knows ", kRegistrySchema, "): start that one"));
  }
  const bool complete =
      Pragma("SELECT count(*) FROM sqlite_schema WHERE name IN ('names', 'generations')") == 2;
  if (schema < 1 || !complete) return Unusable("lacks a table");
  // Shows at the start, not at the first registration, that nothing can be written.
  at_open = Change([this, schema] {
    const std::string sql =
        absl::StrCat(schema == 1 ? kFrom1 : "", schema <= 2 ? kFrom2 : "",
                     schema <= 3 ? kFrom3 : "", "PRAGMA user_version=", kRegistrySchema);
    return sqlite3_exec(db.get(), sql.c_str(), nullptr, nullptr, nullptr);
  });
  // There may be room later; what is known can be read now.
  const bool can_wait = absl::IsResourceExhausted(at_open) && schema == kRegistrySchema;
  return can_wait ? absl::OkStatus() : at_open;
}

absl::Status Registry::Impl::MakeSchema() {
  if (copies.any) return Unusable("is empty, though there are copies of registered adapters");
  return Change([this] {
    const std::string sql = absl::StrCat(kSchema, "PRAGMA application_id=", kApplicationId,
                                         "; PRAGMA user_version=", kRegistrySchema, ";");
    return sqlite3_exec(db.get(), sql.c_str(), nullptr, nullptr, nullptr);
  });
}

// --- changes -----------------------------------------------------------------------------

// SQLite would go on writing into a file that has no name any more.
bool Registry::Impl::FileIsThere() const {
  struct stat now = {};
  return stat(path.c_str(), &now) == 0 && now.st_dev == file.st_dev && now.st_ino == file.st_ino;
}

// Asked by SQLite whether to try again.
int Registry::Impl::WaitForLock(void* impl, int /*tries*/) {
  const absl::Duration left = static_cast<Impl*>(impl)->wait_end - SteadyNow();
  if (left <= absl::ZeroDuration()) return 0;
  absl::SleepFor(std::min(left, kLockPoll));
  return 1;
}

// Once a change has waited in vain, those behind it, here or for the catalog, do not wait anew.
absl::Time Registry::Impl::WaitEnd(absl::Time queued) const {
  const absl::Time now = SteadyNow();
  return now - held_at < kRegistryBusyWait ? now : queued + kRegistryBusyWait;
}

absl::Status Registry::Impl::Break(std::string why) {
  is_broken = true;
  broken = absl::UnavailableError(why);
  return broken;
}

absl::Status Registry::Impl::ChangeFailed(int code) {
  const std::string why = sqlite3_errmsg(db.get());
  if (sqlite3_get_autocommit(db.get()) == 0) {
    sqlite3_exec(db.get(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  const int kind = code & 0xff;
  if (kind == SQLITE_FULL) return DataDiskFull();
  if (kind == SQLITE_BUSY) {
    held_at = SteadyNow();
    return absl::UnavailableError("another program holds the registry: nothing was changed");
  }
  // After a failed sync a second one may succeed without having written.
  return Break(
      absl::StrCat("the registry cannot be written any more (", why,
                   "): names are served as they are; look at the disk and restart the server"));
}

absl::Status Registry::Impl::Change(const std::function<int()>& statements) {
  if (!broken.ok()) return broken;
  if (!FileIsThere()) {
    return Break("the registry's file was moved or deleted: put it back and restart the server");
  }
  int code = sqlite3_exec(db.get(), "BEGIN IMMEDIATE", nullptr, nullptr, nullptr);
  if (code == SQLITE_OK) code = statements();
  if (code == SQLITE_OK) code = sqlite3_exec(db.get(), "COMMIT", nullptr, nullptr, nullptr);
  if (code != SQLITE_OK) return ChangeFailed(code);
  held_at = absl::InfinitePast();
  return absl::OkStatus();
}

int Registry::Impl::WriteRow(const RegisteredName& name) {
  int code = Statement(db.get(), "DELETE FROM names WHERE tenant = ? AND name = ?")
                 .Bind(name.tenant)
                 .Bind(name.name)
                 .Finish();
  if (code != SQLITE_OK) return code;
  code = Statement(db.get(), "INSERT INTO names VALUES (?, ?, ?, ?, ?)")
             .Bind(name.tenant)
             .Bind(name.name)
             .Bind(static_cast<int64_t>(name.kind))
             .Bind(name.target)
             .Bind(name.current)
             .Finish();
  for (const NamedGeneration& one : name.generations) {
    if (code != SQLITE_OK) return code;
    code = Statement(db.get(), "INSERT INTO generations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
               .Bind(name.tenant)
               .Bind(name.name)
               .Bind(one.number)
               .Bind(one.digest)
               .Bind(one.location)
               .Bind(absl::ToUnixMicros(one.registered_at))
               .Bind(one.previous)
               .Bind(one.commit)
               .Bind(one.bytes)
               .Finish();
  }
  return code;
}

absl::StatusOr<std::vector<RegisteredName>> Registry::Impl::LoadAll() {
  std::vector<RegisteredName> names;
  Statement rows(db.get(),
                 "SELECT tenant, name, kind, target, current FROM names ORDER BY tenant, name");
  while (rows.Step()) {
    names.push_back({.tenant = rows.Text(0),
                     .name = rows.Text(1),
                     .kind = static_cast<NameKind>(rows.Number(2)),
                     .target = rows.Text(3),
                     .current = rows.Number(4)});
  }
  if (rows.Finish() != SQLITE_OK) return Unusable(sqlite3_errmsg(db.get()));
  Statement more(db.get(),
                 "SELECT tenant, name, number, digest, location, registered_at_us, previous, "
                 "pinned, bytes "
                 "FROM generations ORDER BY tenant, name, number");
  auto owner = names.begin();
  while (more.Step()) {
    const auto key = std::make_pair(more.Text(0), more.Text(1));
    while (owner != names.end() && std::make_pair(owner->tenant, owner->name) < key) ++owner;
    if (owner == names.end() || std::make_pair(owner->tenant, owner->name) != key) {
      return Unusable("has a generation without a name");
    }
    owner->generations.push_back({.number = more.Number(2),
                                  .digest = more.Text(3),
                                  .location = more.Text(4),
                                  .commit = more.Text(7),
                                  .registered_at = absl::FromUnixMicros(more.Number(5)),
                                  .previous = more.Number(6),
                                  .bytes = more.Number(8)});
  }
  if (more.Finish() != SQLITE_OK) return Unusable(sqlite3_errmsg(db.get()));
  for (const RegisteredName& name : names) {
    if (name.kind > NameKind::kHidden) return Unusable("has a name of an unknown kind");
    if (name.kind == NameKind::kAdapter && name.Numbered(name.current) == nullptr) {
      return Unusable(absl::StrCat("has no generation for the name ", name.name));
    }
  }
  return names;
}

// --- the thread --------------------------------------------------------------------------

void Registry::Impl::Loop() {
  for (;;) {
    Job* job = nullptr;
    {
      absl::MutexLock lock(&mutex);
      mutex.Await(absl::Condition(this, &Impl::HasWork));
      if (jobs.empty()) return;
      job = jobs.front();
      jobs.pop_front();
    }
    wait_end = WaitEnd(job->queued);
    job->status = job->work();
    job->done.Notify();
  }
}

absl::Status Registry::Run(std::function<absl::Status()> work) {
  Impl::Job job;
  job.work = std::move(work);
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->jobs.push_back(&job);
  }
  job.done.WaitForNotification();
  return job.status;
}

// --- Registry ----------------------------------------------------------------------------

Registry::Registry(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  impl_->thread = std::thread([raw = impl_.get()] { raw->Loop(); });
}

Registry::~Registry() {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->stop = true;
  }
  impl_->thread.join();
}

absl::StatusOr<std::unique_ptr<Registry>> Registry::Open(const std::string& path,
                                                         const CopiesBeside& copies) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->copies = copies;
  if (absl::Status s = impl->OpenDatabase(); !s.ok()) return s;
  return std::unique_ptr<Registry>(new Registry(std::move(impl)));
}

absl::Status Registry::at_open() const { return impl_->at_open; }

bool Registry::is_broken() const { return impl_->is_broken; }

absl::StatusOr<std::vector<RegisteredName>> Registry::Load() {
  absl::StatusOr<std::vector<RegisteredName>> names;
  absl::Status status = Run([&] {
    names = impl_->LoadAll();
    return names.status();
  });
  if (!status.ok()) return status;
  return names;
}

absl::Status Registry::Put(const RegisteredName& name) {
  LORICA_CHECK(name.generations.size() <= kGenerationsKeptMax, "name", name.name);
  return Run([&] { return impl_->Change([&] { return impl_->WriteRow(name); }); });
}

absl::Status Registry::Erase(const std::string& tenant, const std::string& name) {
  return Run([&] {
    return impl_->Change([&] {
      return Statement(impl_->db.get(), "DELETE FROM names WHERE tenant = ? AND name = ?")
          .Bind(tenant)
          .Bind(name)
          .Finish();
    });
  });
}

}  // namespace lorica
