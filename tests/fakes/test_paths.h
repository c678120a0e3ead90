// Where tests find the model and the adapters.
#pragma once

#include <cstdlib>
#include <string>

namespace lorica {

// The GGUF that deploy/fetch.sh unpacked; LORICA_MODEL names another place.
inline std::string SmolLmPath() {
  if (const char* model = std::getenv("LORICA_MODEL")) return model;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root = cache != nullptr && *cache != '\0'
                               ? std::string(cache)
                               : std::string(home != nullptr ? home : "") + "/.cache";
  return root + "/lorica/SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline std::string DemoAdaptersPath() {
  return std::string(LORICA_SOURCE_DIR) + "/deploy/demo/adapters";
}

// The folder with all six trained adapters, or empty where LORICA_FIXTURES is unset.
inline std::string FixtureAdaptersPath() {
  const char* fixtures = std::getenv("LORICA_FIXTURES");
  return fixtures != nullptr && *fixtures != '\0' ? std::string(fixtures) + "/adapters" : "";
}

}  // namespace lorica
