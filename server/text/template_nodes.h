// Puts guards into a parsed template: after it, whatever runs is counted and bounded.
//
// Each node of the program is replaced by one of ours that charges RenderState, runs the
// engine's node on values it has checked, and charges the result. The program stays
// immutable while it runs: threads share it. Private to this folder.
#pragma once

#include "jinja/runtime.h"

namespace lorica {

// `names`: how many variables there can be, which is what each turn of a loop copies.
// Throws std::runtime_error at a node whose kind is not known.
void GuardProgram(jinja::program* program, int names);

}  // namespace lorica
