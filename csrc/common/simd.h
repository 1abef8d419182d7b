// Run-time choice of the instruction set, and the vectors the CPU kernels are written with.
//
// A kernel is a file `<op>_kernel.inc`, written once with `Vec<T>` and included once per instruction set by
// `<op>_cpu.cpp` (common/each_isa.inc), between POLYGRAPH_SIMD_BEGIN/END, each time in another namespace. Such a file
// must not contain a lambda (GCC does not apply the target pragma to lambdas) or a std:: template that does arithmetic.
// Parsed alone, by clangd or a compiler, it includes common/alone.inc.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace polygraph {

enum class InstructionSet : int64_t { plain = 0, avx2 = 1, avx512 = 2 };

// The best set this processor has; POLYGRAPH_ISA=plain|avx2|avx512 lowers it (read once).
InstructionSet instruction_set();

// Bytes of its vectors.
inline int64_t vector_bytes() {
  return int64_t(16) << static_cast<int64_t>(instruction_set());
}

}  // namespace polygraph

#if defined(__x86_64__) && defined(__GNUC__)
#define POLYGRAPH_HAS_X86 1
#else
#define POLYGRAPH_HAS_X86 0
#endif

#define POLYGRAPH_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define POLYGRAPH_SIMD_BEGIN(features) \
  POLYGRAPH_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define POLYGRAPH_SIMD_END POLYGRAPH_PRAGMA(clang attribute pop)
#else
#define POLYGRAPH_SIMD_BEGIN(features) \
  POLYGRAPH_PRAGMA(GCC push_options)   \
  POLYGRAPH_PRAGMA(GCC target features)
#define POLYGRAPH_SIMD_END POLYGRAPH_PRAGMA(GCC pop_options)
#endif
#define POLYGRAPH_AVX2 ("avx2,fma")
#define POLYGRAPH_AVX512 ("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")

// Runs `call` in the namespace of the chosen instruction set: POLYGRAPH_SIMD_CALL(forward<float>(params)).
#if POLYGRAPH_HAS_X86
#define POLYGRAPH_SIMD_CALL(...) \
  switch (instruction_set()) {   \
    case InstructionSet::avx512: \
      avx512::__VA_ARGS__;       \
      break;                     \
    case InstructionSet::avx2:   \
      avx2::__VA_ARGS__;         \
      break;                     \
    default:                     \
      plain::__VA_ARGS__;        \
  }
#else
#define POLYGRAPH_SIMD_CALL(...) plain::__VA_ARGS__
#endif
