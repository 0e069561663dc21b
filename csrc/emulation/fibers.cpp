// Threads of an emulated block as fibers of one thread of the CPU.
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda.h"
#include "switch.h"

namespace emulation {
namespace {

constexpr size_t kStack = 64 * 1024;
constexpr size_t kWarp = 32;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  dim3 thread;
  unsigned calls = 0;  // of show(): which of two buffers is in use
  alignas(16) char messages[2][kMessage];
};

struct Block {
  std::vector<Fiber> fibers;
  Context scheduler;
  const std::function<void()>* kernel = nullptr;
  Fiber* running = nullptr;
  char* shared = nullptr;
  uint64_t random = 1;
};

Block block;

uint64_t draw() {  // xorshift
  block.random ^= block.random << 13;
  block.random ^= block.random >> 7;
  return block.random ^= block.random << 17;
}

void wait(State state) {
  Fiber* self = block.running;
  self->state = state;
  switch_context(&self->context, &block.scheduler);
}

void enter() {
  (*block.kernel)();
  wait(State::kDone);
}

// Lets waiting threads go on where all that are not done have come; returns whether any may.
bool release(size_t first, size_t last, State waiting) {
  bool any = false;
  for (size_t i = first; i < last; ++i) {
    const State state = block.fibers[i].state;
    if (state == State::kDone) continue;
    if (state != waiting) return false;
    any = true;
  }
  for (size_t i = first; any && i < last; ++i) {
    if (block.fibers[i].state == waiting) block.fibers[i].state = State::kReady;
  }
  return any;
}

void run_block(const char* name, size_t threads) {
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    fiber.thread = dim3(static_cast<unsigned>(i));
    fiber.state = State::kReady;
    start_context(&fiber.context, fiber.stack.get(), kStack, &enter);
  }
  std::vector<size_t> order(threads);
  for (size_t i = 0; i < threads; ++i) order[i] = i;
  uint64_t awake = draw();  // a bit a warp
  for (;;) {
    for (size_t i = threads - 1; i > 0; --i) std::swap(order[i], order[draw() % (i + 1)]);
    // Some warps sleep for several rounds while others run as far ahead as barriers let them.
    if (draw() % 8 == 0) awake = draw();
    bool ran = false, asleep = false;
    for (const size_t i : order) {
      Fiber& fiber = block.fibers[i];
      if (fiber.state != State::kReady) continue;
      if ((awake >> i / kWarp & 1) == 0) {
        asleep = true;
        continue;
      }
      ran = true;
      block.running = &fiber;
      threadIdx = fiber.thread;
      switch_context(&block.scheduler, &fiber.context);
      const size_t warp = i / kWarp * kWarp;
      release(warp, std::min(warp + kWarp, threads), State::kAtWarp);
    }
    if (ran) continue;
    if (asleep) {
      awake = ~awake;
      continue;
    }
    if (release(0, threads, State::kAtBlock)) continue;
    for (size_t i = 0; i < threads; ++i) {
      if (block.fibers[i].state != State::kDone) {
        throw std::runtime_error(std::string("autoemb kernel ") + name +
                                 ": threads wait for others that never come");
      }
    }
    return;
  }
}

}  // namespace

void launch(const char* name, dim3 grid, int threads, size_t shared,
            const std::function<void()>& kernel) {
  block.kernel = &kernel;
  if (block.fibers.size() < static_cast<size_t>(threads)) {
    block.fibers = std::vector<Fiber>(static_cast<size_t>(threads));
  }
  gridDim = grid;
  blockDim = dim3(static_cast<unsigned>(threads));
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        std::unique_ptr<char[]> memory(new char[shared]);
        std::memset(memory.get(), 0xff, shared);  // NaN
        block.shared = memory.get();
        run_block(name, static_cast<size_t>(threads));
      }
    }
  }
}

void set_seed(uint64_t seed) { block.random = seed * 2654435761u + 1; }

void* dynamic_shared() { return block.shared; }

void wait_for_block() { wait(State::kAtBlock); }
void wait_for_warp() { wait(State::kAtWarp); }

void show(const void* message, size_t size) {
  Fiber* self = block.running;
  std::memcpy(self->messages[++self->calls % 2], message, size);
  wait(State::kAtWarp);
}

const void* shown_by(int lane) {
  const size_t warp = block.running->thread.x / kWarp * kWarp;
  const Fiber& source = block.fibers[warp + static_cast<size_t>(lane)];
  return source.messages[block.running->calls % 2];
}

}  // namespace emulation
