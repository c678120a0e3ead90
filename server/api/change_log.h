// One log line for each name of an adapter that was registered, moved, hidden or taken away:
//
//   changed tenant="" adapter="x" number=2 generation=0123456789ab source="org/a" commit=89ab...
//   changed tenant="" adapter="y" alias_of="x"
//   changed tenant="" adapter="z" hidden
//   changed tenant="" adapter="x" gone
//
// Who reads the log later learns what a name stood for when. Texts are cleaned as for clients.
#pragma once

#include <string>

#include "adapters/adapter_catalog.h"
#include "adapters/registered_name.h"

namespace lorica {

// `now`: what the name is from now on; null: nothing. Thread-safe.
void LogChange(const std::string& tenant, const std::string& name, const RegisteredName* now);

// One line for each copy of a registered adapter that was thrown away as damaged:
//
//   dropped a damaged copy generation=0123456789ab source="org/a": made anew from there, or ...
void LogDamage(const std::string& digest, const std::string& location);
// One line at a start, if copies are gone or have another size.
void LogLostCopies(const LostCopies& lost);

}  // namespace lorica
