// Read before each of csrc's CUDA sources: its kernels are registered for tensors on the CPU.
#pragma once

#include <cuda_runtime.h>

#include "common/torch_api.h"

#define CUDA CPU
