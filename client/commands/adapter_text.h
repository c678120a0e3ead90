// Adapters in words: for tables, single lines and details.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "lorica/v1/adapters.pb.h"

namespace lorica {

// The first digits of a generation.
std::string ShortGeneration(const std::string& generation);

// One row each, in the order given; headers in bold when `stream` is a terminal.
std::string AdapterTable(const std::vector<v1::Adapter>& adapters, FILE* stream);

// "ticket-triage@1a2b3c4d on device (pinned), rank 16, 3.1 MiB"
std::string AdapterLine(const v1::Adapter& adapter);

// "12:34:56  " and what there is to say, a line for each adapter that changed or is gone.
std::string EventText(const v1::WatchAdaptersResponse& event);

// Several lines, "label  value".
std::string AdapterDetails(const v1::Adapter& adapter, FILE* stream);

// The generations a registered name stood for, one a line; empty for other names.
std::string HistoryText(const v1::GetAdapterResponse& response, FILE* stream);

// The verdict, warnings, modules and the arithmetic of a dry run.
std::string CheckText(const std::string& source, const v1::CheckAdapterResponse& check,
                      FILE* stream);

}  // namespace lorica
