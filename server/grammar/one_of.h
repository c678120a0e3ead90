// Makes `oneOf` easy where it is: branches of which no two can hold are as good as `anyOf`.
//
// The compiler knows that of branches that stand there, and not of references, which is how
// libraries write a union whose members are told apart by a property. Pure.
#pragma once

#include <string>

namespace lorica {

// The schema, with `anyOf` in place of each `oneOf` whose branches differ in type, or in the
// value of a property that all of them require. REQUIRES: CheckSchema passed.
std::string WithEasyOneOf(const std::string& schema);

}  // namespace lorica
