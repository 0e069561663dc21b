// Switching between fibers. swapcontext saves the signal mask by a call of the kernel, 0.5 us a
// switch; a shuffle of a block of 256 takes 256 switches. On x86-64 a switch is 15 instructions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)

namespace emulation {

struct Context {
  void* stack_pointer;
};

// Saves what a call preserves (rbx, rbp, r12 to r15) on this stack and goes on with the other.
__attribute__((naked, noinline)) inline void switch_stacks([[maybe_unused]] void** save,
                                                           [[maybe_unused]] void* load) {
  asm(R"(
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
  )");
}

inline void switch_context(Context* from, const Context* to) {
  switch_stacks(&from->stack_pointer, to->stack_pointer);
}

inline void start_context(Context* context, char* stack, size_t size, void (*function)()) {
  // As if the function had been called: its stack is 8 bytes off a multiple of 16.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t{15};
  void** frame = reinterpret_cast<void**>(top) - 2;
  frame[0] = reinterpret_cast<void*>(function);
  frame[1] = nullptr;
  std::memset(frame - 6, 0, 6 * sizeof(void*));
  context->stack_pointer = frame - 6;
}

}  // namespace emulation

#else

#include <ucontext.h>

namespace emulation {

struct Context {
  ucontext_t context;
};

inline void switch_context(Context* from, const Context* to) {
  swapcontext(&from->context, &to->context);
}

inline void start_context(Context* context, char* stack, size_t size, void (*function)()) {
  getcontext(&context->context);
  context->context.uc_stack.ss_sp = stack;
  context->context.uc_stack.ss_size = size;
  context->context.uc_link = nullptr;
  makecontext(&context->context, function, 0);
}

}  // namespace emulation

#endif
