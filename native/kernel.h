/* What the kernel's files share. Sources of facts: RFC 8259 (JSON), the Arrow columnar format 1.4 and its C data interface. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define KERNEL_API __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Arrow's binary view: up to 12 bytes stand in it, longer ones in a buffer. */
typedef struct {
    int32_t length;
    union {
        uint8_t inlined[12];
        struct {
            uint8_t prefix[4];
            int32_t buffer;
            int32_t offset;
        } ref;
    } as;
} view_t;

_Static_assert(sizeof(view_t) == 16, "a view has 16 bytes");

static inline const uint8_t *view_bytes(const view_t *view, const uint8_t *const *buffers) {
    return view->length <= 12 ? view->as.inlined : buffers[view->as.ref.buffer] + view->as.ref.offset;
}

static inline int bit(const uint8_t *bits, int64_t at) { return (bits[at >> 3] >> (at & 7)) & 1; }

#endif
