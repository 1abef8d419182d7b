// Planted bugs: scripts/sanitize.sh first proves that the sanitizers find these, in this Python, on torch's own memory.
#include <cstdint>

extern "C" float plant_read_past_end(const float* values, int64_t count) {
  float sum = 0;
  for (int64_t i = 0; i <= count; ++i) {  // one too many
    sum += values[i];
  }
  return sum;
}

extern "C" void plant_write_past_end(float* values, int64_t count) {
  values[count] = 1;
}

extern "C" int32_t plant_overflow(int32_t value) {
  return value + 1;
}
