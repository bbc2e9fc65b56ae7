// Fibers for x86-64 and aarch64: the context switch in assembly, and their stacks, each with a guard page below.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__)
asm(R"(
    .text
    .globl sconce_switch
    .hidden sconce_switch
    .type sconce_switch, @function
sconce_switch:
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
    .size sconce_switch, . - sconce_switch
)");
static const int kReturnWord = 6;
static const int kFrameWords = 8;   // `entry` begins with a stack that is 8 off a multiple of 16
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl sconce_switch
    .hidden sconce_switch
    .type sconce_switch, %function
sconce_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size sconce_switch, . - sconce_switch
)");
static const int kReturnWord = 11;  // x30
static const int kFrameWords = 20;
#else
#error "the emulated GPU knows x86-64 and aarch64"
#endif

namespace sconce {

static const size_t kStackBytes = 128 * 1024;

char* new_stack(unsigned number) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* at = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at, page, PROT_NONE) != 0) {
        std::perror("emulated GPU: no memory for the stack of a thread");
        std::abort();
    }
    return static_cast<char*>(at) + page + kStackBytes - (number % 61) * 64;
}

void* prepare(char* stack_top, void (*entry)()) {
    auto* frame = reinterpret_cast<uintptr_t*>(stack_top) - kFrameWords;
    for (int i = 0; i < kFrameWords; i++) frame[i] = 0;
    frame[kReturnWord] = reinterpret_cast<uintptr_t>(entry);
    return frame;
}

}  // namespace sconce
