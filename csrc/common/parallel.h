// Parallel loops over tasks of known cost.
#pragma once

#include <algorithm>

#include "common/torch_api.h"

namespace polygraph {

// Waking the thread pool costs about as much as this many multiply-adds.
constexpr int64_t kWorkPerThread = 1 << 16;

// Calls fn(begin, end) on ranges of [0, tasks); stays on the calling thread when the whole is too small to share.
template <class F>
void parallel_tasks(int64_t tasks, int64_t work_per_task, const F& fn) {
  if (tasks <= 0) {
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, work_per_task));
  torch::stable::parallel_for(0, tasks, grain, fn);
}

}  // namespace polygraph
