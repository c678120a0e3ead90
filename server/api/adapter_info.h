// An adapter as operators see it: the catalog's entry and the pool's, in one message.
//
// Free functions over thread-safe parts. Thread: one that may block, for the catalog
// may read the adapters' folder.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "adapters/adapter_catalog.h"
#include "adapters/adapter_pool.h"
#include "lorica/v1/adapters.pb.h"

namespace lorica {

// What the entry stands for; empty: nobody has looked yet.
std::string DigestOf(const CatalogEntry& entry);

// `with_use`: with all tenants' use of that content, which is an operator's to see alone.
v1::Adapter DescribeEntry(const CatalogEntry& entry, const AdapterPool& pool, absl::Time now,
                          bool with_use);

// NotFound: no such adapter. `of`: of that generation, also where the name has moved on; null: of
// what the name stands for.
absl::StatusOr<v1::Adapter> DescribeAdapter(const std::string& tenant,
                                            const std::string& adapter_id, AdapterCatalog* catalog,
                                            const AdapterPool& pool, absl::Time now, bool with_use,
                                            const std::string& hub_token = "",
                                            const GenerationPtr& of = nullptr);

// What a registered name stood for, oldest first.
void FillHistory(const RegisteredName& name, v1::GetAdapterResponse* response);

// What Check says: whether the loader would take it, and its arithmetic. A reason not
// to is part of the answer; NotFound and InvalidArgument are errors.
absl::StatusOr<v1::CheckAdapterResponse> ExplainAdapter(const std::string& source,
                                                        const absl::StatusOr<AdapterPlan>& plan,
                                                        int64_t block_bytes);

// Beyond this share of a tier the operator who pins is told what is left to others.
inline constexpr double kPinnedShareWarned = 0.5;

// What to tell of `tier` ("device" or "host"); empty: its pins leave enough.
std::string PinsWarning(const TierStats& stats, const std::string& tier);

}  // namespace lorica
