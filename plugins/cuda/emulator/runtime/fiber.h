// A fiber: a stack of its own, and a switch to it that costs a few nanoseconds (no system call).
#pragma once
#include <cstddef>

namespace sconce {

// Saves the callee-saved registers on this stack, its pointer in `*from`, and goes on where `to` was saved.
extern "C" void sconce_switch(void** from, void* to);

// A new stack; never freed, since fibers are pooled. `number` staggers the tops, so that they do not share cache sets.
char* new_stack(unsigned number);

// The saved pointer of a fiber that begins in `entry` on the stack with this top. `entry` never returns.
void* prepare(char* stack_top, void (*entry)());

}  // namespace sconce
