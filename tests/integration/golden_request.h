// How the goldens name what a request runs on.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "lorica/v1/inference.pb.h"

namespace lorica {

// "cat:a*0.7+b*0.3" and "scale:a*0.5" become a mix; everything else is an adapter's id.
inline void NameAdapters(const std::string& adapter, v1::GenerateRequest* request) {
  const std::vector<std::string> kind = absl::StrSplit(adapter, absl::MaxSplits(':', 1));
  if (kind.size() == 1) {
    if (adapter != "base") request->set_adapter_id(adapter);
    return;
  }
  const std::vector<std::string> terms = absl::StrSplit(kind[1], '+');
  for (const std::string& term : terms) {
    const std::vector<std::string> parts = absl::StrSplit(term, '*');
    double weight = 0.0;
    ASSERT_TRUE(absl::SimpleAtod(parts.at(1), &weight));
    v1::AdapterWeight* entry = request->add_adapters();
    entry->set_adapter_id(parts.at(0));
    entry->set_weight(weight);
  }
}

}  // namespace lorica
