// Prometheus' text as JSON, as LoRAX gives it to who accepts that: LoRAX's client reads it.
#pragma once

#include <string>
#include <string_view>

namespace lorica {

// {"name": {"type": "counter", "data": [{"key": "", "value": 1}, ...]}, ...}. A key is the whole
// series where that has labels, "sum" or "count" for those of a histogram, and else empty. What is
// no finite number is null. Pure.
std::string MetricsJson(std::string_view exposition);

}  // namespace lorica
