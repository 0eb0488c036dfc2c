#include "tests/cuda/simt/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define GUARD 4096u

/* Only what a call keeps has to be kept. */
extern "C" void sc_simt_switch_stack(void **from, void *to);
#if defined(__x86_64__)
asm(".text\n"
    ".hidden sc_simt_switch_stack\n"
    ".globl sc_simt_switch_stack\n"
    ".type sc_simt_switch_stack, @function\n"
    "sc_simt_switch_stack:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq "
    "%r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size sc_simt_switch_stack, . - sc_simt_switch_stack\n");
#define KEPT   8 /* words: six registers, where to return to, and one that aligns it */
#define RETURN 6
#elif defined(__aarch64__)
asm(".text\n"
    ".hidden sc_simt_switch_stack\n"
    ".globl sc_simt_switch_stack\n"
    ".type sc_simt_switch_stack, @function\n"
    "sc_simt_switch_stack:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n    str x9, [x0]\n    mov sp, x1\n"
    "    ldp x19, x20, [sp]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size sc_simt_switch_stack, . - sc_simt_switch_stack\n");
#define KEPT   20
#define RETURN 11
#else
#error "how to switch stacks on this processor"
#endif

void sc_simt_fiber_open(struct sc_simt_fiber *f, size_t bytes)
{
    void *mem = mmap(NULL, bytes + GUARD, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mem == MAP_FAILED || mprotect(mem, GUARD, PROT_NONE) != 0) {
        perror("simt: a stack");
        abort();
    }
    f->stack = (uint8_t *)mem + GUARD;
    f->bytes = bytes;
}

void sc_simt_fiber_begin(struct sc_simt_fiber *f, void (*entry)(void))
{
    void **words = (void **)((uint8_t *)f->stack + f->bytes) - KEPT;
    memset(words, 0, KEPT * sizeof(*words));
    words[RETURN] = (void *)entry;
    f->at = words;
}

#ifdef __SANITIZE_ADDRESS__
/* It keeps books of stacks, and is told of every switch. */
void sc_simt_fiber_here(struct sc_simt_fiber *f)
{
    static thread_local struct sc_simt_fiber own;
    pthread_attr_t attributes;
    if (own.stack == NULL && pthread_getattr_np(pthread_self(), &attributes) == 0) {
        (void)pthread_attr_getstack(&attributes, &own.stack, &own.bytes);
        (void)pthread_attr_destroy(&attributes);
    }
    *f = own;
}

void sc_simt_fiber_entered(void)
{
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
}

void sc_simt_fiber_switch(struct sc_simt_fiber *from, struct sc_simt_fiber *to)
{
    void *kept = NULL;
    __sanitizer_start_switch_fiber(&kept, to->stack, to->bytes);
    sc_simt_switch_stack(&from->at, to->at);
    __sanitizer_finish_switch_fiber(kept, NULL, NULL);
}
#else
void sc_simt_fiber_here(struct sc_simt_fiber *)
{
}

void sc_simt_fiber_entered(void)
{
}

void sc_simt_fiber_switch(struct sc_simt_fiber *from, struct sc_simt_fiber *to)
{
    sc_simt_switch_stack(&from->at, to->at);
}
#endif
