// Runs CUDA kernels on the host: every thread of a block is a fiber with a stack of its own, and one runs at a time.
//
// A fiber runs until it waits: at a barrier of the block, or at an operation of its warp. A warp runs until
// its threads wait for another warp; then the next one runs; threads whose partners have all come to the same wait go
// on. If none can, the kernel would hang on a GPU (or its behaviour is undefined), and the launch fails. Shared memory
// is filled with NaN before each block, so that what is read before it was written shows. The order in which fibers run
// is the caller's: where two orders give different results, threads race.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx{}, blockIdx{};
dim3 blockDim, gridDim;

namespace polygraph {
constexpr size_t kSharedBytes = 228 << 10;  // the most of any device
extern unsigned char polygraph_shared_memory[];
alignas(16) unsigned char polygraph_shared_memory[kSharedBytes];
}  // namespace polygraph

namespace emulator {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;

// ---- contexts ----

#if defined(__x86_64__)
using Context = void*;  // the stack pointer; what a call preserves lies on the stack

// Saves the running context to *from and goes on in `to`.
__attribute__((naked, noinline)) void switch_context(Context* /*from*/, Context /*to*/) {
  asm("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}

void make_context(Context& context, unsigned char* stack, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + kStackBytes - 24);
  *top = nullptr;                           // where `entry` would return to; a call leaves the stack like this
  *--top = reinterpret_cast<void*>(entry);  // where the first switch returns to
  for (int i = 0; i < 6; ++i) {
    *--top = nullptr;
  }
  context = top;
}
#else
using Context = ucontext_t;

void switch_context(Context* from, Context& to) {
  swapcontext(from, &to);
}

void make_context(Context& context, unsigned char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

// ---- the threads of a block ----

enum class State { kReady, kWaiting, kDone };

struct Fiber {
  Context context;
  State state = State::kDone;
  Wait wait = Wait::kBlock;
  unsigned mask = 0;
};

struct Machine {
  std::mutex one_launch;
  std::vector<Fiber> fibers;
  std::unique_ptr<unsigned char[]> stacks;
  std::vector<uint64_t> values;  // [threads], what lanes give each other
  std::vector<uint64_t> given;   // [threads], of the exchange that was completed last
  Context scheduler;
  unsigned current = 0;
  unsigned threads = 0;
  Call call = nullptr;
  const void* what = nullptr;
  std::string failure;
  int order = 0;  // 0: ascending, 1: descending, else the seed of a shuffle
};

Machine machine;

void run_thread() {
  machine.call(machine.what);
  Fiber& me = machine.fibers[machine.current];
  me.state = State::kDone;
  switch_context(&me.context, machine.scheduler);
  std::abort();  // a finished thread is never run again
}

void resume(unsigned number) {
  machine.current = number;
  threadIdx = {number, 0, 0};
  switch_context(&machine.scheduler, machine.fibers[number].context);
}

bool waits(unsigned number, Wait wait, unsigned mask) {
  const Fiber& fiber = machine.fibers[number];
  return fiber.state == State::kWaiting && fiber.wait == wait && fiber.mask == mask;
}

// Lets the block go on if all of its threads are at its barrier.
bool release_block() {
  for (unsigned i = 0; i < machine.threads; ++i) {
    if (!waits(i, Wait::kBlock, 0)) {
      return false;
    }
  }
  for (unsigned i = 0; i < machine.threads; ++i) {
    machine.fibers[i].state = State::kReady;
  }
  return true;
}

// Lets the lanes of a warp go on whose partners are all at the same operation of it; false if there are none.
bool release_warp(unsigned first) {
  bool released = false;
  for (unsigned number = first; number < first + kWarp && number < machine.threads; ++number) {
    const Fiber& fiber = machine.fibers[number];
    if (fiber.state != State::kWaiting || fiber.wait == Wait::kBlock) {
      continue;
    }
    const Wait wait = fiber.wait;
    const unsigned mask = fiber.mask;
    bool all = true;
    unsigned votes = 0;
    for (unsigned lane = 0; lane < kWarp && all; ++lane) {
      if ((mask >> lane & 1) != 0) {
        all = first + lane < machine.threads && waits(first + lane, wait, mask);
        votes |= all && machine.values[first + lane] != 0 ? 1U << lane : 0U;
      }
    }
    if (!all) {
      continue;
    }
    released = true;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if ((mask >> lane & 1) != 0) {
        machine.given[first + lane] = wait == Wait::kVote ? votes : machine.values[first + lane];
        machine.fibers[first + lane].state = State::kReady;
      }
    }
  }
  return released;
}

std::string stuck() {
  unsigned done = 0, barrier = 0, warp = 0;
  for (unsigned i = 0; i < machine.threads; ++i) {
    const Fiber& fiber = machine.fibers[i];
    done += fiber.state == State::kDone;
    barrier += fiber.state == State::kWaiting && fiber.wait == Wait::kBlock;
    warp += fiber.state == State::kWaiting && fiber.wait != Wait::kBlock;
  }
  return "threads wait for ever: " + std::to_string(barrier) + " at a barrier of the block, " + std::to_string(warp) +
         " at an operation of their warp, " + std::to_string(done) + " have ended";
}

// The numbers 0 .. count - 1 in the order that the caller chose.
class Order {
 public:
  void fill(unsigned count) {
    count_ = count;
    for (unsigned i = 0; i < count; ++i) {
      numbers_[i] = machine.order == 1 ? count - 1 - i : i;
    }
    for (unsigned i = count; machine.order > 1 && i > 1; --i) {
      state_ = state_ * 6364136223846793005U + 1442695040888963407U;
      std::swap(numbers_[i - 1], numbers_[(state_ >> 33) % i]);
    }
  }
  const unsigned* begin() const {
    return numbers_;
  }
  const unsigned* end() const {
    return numbers_ + count_;
  }

 private:
  unsigned numbers_[kWarp] = {};
  unsigned count_ = 0;
  uint64_t state_ = static_cast<uint64_t>(machine.order);
};

// Runs a warp until each of its threads has ended or waits for another warp. False if the launch failed.
bool run_warp(unsigned first, Order& order) {
  do {
    order.fill(std::min(kWarp, machine.threads - first));
    for (const unsigned lane : order) {
      if (machine.fibers[first + lane].state == State::kReady) {
        resume(first + lane);
        if (!machine.failure.empty()) {
          return false;
        }
      }
    }
  } while (release_warp(first));
  return true;
}

// Runs one block to its end. False if the launch failed.
bool run_block(Order& warps, Order& lanes) {
  for (unsigned i = 0; i < machine.threads; ++i) {
    make_context(machine.fibers[i].context, machine.stacks.get() + i * kStackBytes, run_thread);
    machine.fibers[i].state = State::kReady;
  }
  do {
    warps.fill((machine.threads + kWarp - 1) / kWarp);
    for (const unsigned warp : warps) {
      if (!run_warp(warp * kWarp, lanes)) {
        return false;
      }
    }
  } while (release_block());
  for (unsigned i = 0; i < machine.threads; ++i) {
    if (machine.fibers[i].state != State::kDone) {
      machine.failure = stuck();
      return false;
    }
  }
  return true;
}

}  // namespace

int lane() {
  return static_cast<int>(machine.current % kWarp);
}

void wait(Wait kind, unsigned mask) {
  const unsigned number = machine.current;
  Fiber& me = machine.fibers[number];
  if (kind != Wait::kBlock && (mask >> (number % kWarp) & 1) == 0) {
    machine.failure = "a thread waits for lanes of its warp and is not one of them";
  }
  me.state = State::kWaiting;
  me.wait = kind;
  me.mask = mask;
  switch_context(&me.context, machine.scheduler);
}

uint64_t shuffle(unsigned mask, uint64_t value, int from) {
  machine.values[machine.current] = value;
  wait(Wait::kShuffle, mask);
  return machine.given[machine.current / kWarp * kWarp + static_cast<unsigned>(from)];
}

unsigned vote(unsigned mask, bool yes) {
  machine.values[machine.current] = yes ? 1 : 0;
  wait(Wait::kVote, mask);
  return static_cast<unsigned>(machine.given[machine.current]);
}

void launch(const char* name, const cudaLaunchConfig_t& config, Call call, const void* what) {
  const std::lock_guard<std::mutex> lock(machine.one_launch);
  const unsigned threads = config.blockDim.x;
  if (threads == 0 || threads > kMostThreads || config.blockDim.y != 1 || config.blockDim.z != 1 ||
      config.gridDim.x == 0 || config.gridDim.y == 0 || config.dynamicSmemBytes > polygraph::kSharedBytes) {
    throw std::runtime_error(std::string("emulator: a launch that a GPU refuses: ") + name);
  }
  if (machine.stacks == nullptr) {
    machine.stacks.reset(new unsigned char[kMostThreads * kStackBytes]);
    machine.fibers.resize(kMostThreads);
    machine.values.resize(kMostThreads);
    machine.given.resize(kMostThreads);
  }
  machine.threads = threads;
  machine.call = call;
  machine.what = what;
  machine.failure.clear();
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  Order warps, lanes;
  for (unsigned y = 0; y < config.gridDim.y; ++y) {
    for (unsigned x = 0; x < config.gridDim.x; ++x) {
      blockIdx = {x, y, 0};
      std::memset(polygraph::polygraph_shared_memory, 0xff, config.dynamicSmemBytes);
      if (!run_block(warps, lanes)) {
        throw std::runtime_error(
            "emulator: " + machine.failure + ", in block (" + std::to_string(x) + ", " + std::to_string(y) + ") of " +
            name);
      }
    }
  }
}

}  // namespace emulator

// ---- arithmetic ----

namespace {

template <class T, class F>
T rounded_up(F compute) {
  const int mode = fegetround();
  fesetround(FE_UPWARD);
  volatile T result = compute();
  fesetround(mode);
  return result;
}

}  // namespace

float __fmaf_ru(float a, float b, float c) {
  const volatile float x = a, y = b, z = c;
  return rounded_up<float>([&] { return __builtin_fmaf(x, y, z); });
}

double __fma_ru(double a, double b, double c) {
  const volatile double x = a, y = b, z = c;
  return rounded_up<double>([&] { return __builtin_fma(x, y, z); });
}

// ---- what the sources take from torch and from the runtime about devices ----

#define EMULATED extern "C" __attribute__((visibility("hidden")))

EMULATED int aoti_torch_get_current_cuda_stream(int32_t /*device*/, void** stream) {
  *stream = nullptr;
  return 0;
}

EMULATED int aoti_torch_create_device_guard(int32_t /*device*/, void** guard) {
  *guard = nullptr;
  return 0;
}

EMULATED int aoti_torch_delete_device_guard(void* /*guard*/) {
  return 0;
}

EMULATED void torch_c10_cuda_check_msg(
    int32_t /*error*/, const char* /*file*/, const char* /*function*/, uint32_t /*line*/, bool /*check_asserts*/,
    char** message) {
  *message = nullptr;
}

EMULATED void torch_c10_cuda_free_error_msg(char* /*message*/) {}

// Takes the place of the C library's, which ends the process: a device-side assertion ends the launch.
EMULATED void emulator_assert_failed(const char* message, const char* file, unsigned line, const char* function) {
  using namespace emulator;
  machine.failure = std::string("device-side assertion: ") + message + " (" + file + ":" + std::to_string(line) + ", " +
                    function + ", thread " + std::to_string(machine.current) + ")";
  switch_context(&machine.fibers[machine.current].context, machine.scheduler);
  std::abort();  // a thread that failed is never run again
}

// The order in which the threads of a block run: 0 ascending, 1 descending, else shuffled with this seed.
extern "C" __attribute__((visibility("default"))) void emulator_set_order(int order) {
  emulator::machine.order = order;
}
