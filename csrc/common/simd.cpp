#include "common/simd.h"

#include <cstdlib>
#include <string_view>

#include "common/torch_api.h"

namespace polygraph {

namespace {

InstructionSet detect() {
  InstructionSet best = InstructionSet::plain;
#if POLYGRAPH_HAS_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best = InstructionSet::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw")) {
      best = InstructionSet::avx512;
    }
  }
#endif
  const char* wanted = std::getenv("POLYGRAPH_ISA");
  if (wanted != nullptr) {
    const std::string_view name(wanted);
    if (name == "plain") {
      best = InstructionSet::plain;
    } else if (name == "avx2" && best == InstructionSet::avx512) {
      best = InstructionSet::avx2;
    }
  }
  return best;
}

int64_t instruction_set_number() {
  return static_cast<int64_t>(instruction_set());
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = detect();
  return chosen;
}

}  // namespace polygraph

STABLE_TORCH_LIBRARY_FRAGMENT(polygraph, m) {
  m.def("instruction_set() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(polygraph, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&polygraph::instruction_set_number));
}
