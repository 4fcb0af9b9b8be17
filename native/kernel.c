#include "kernel.h"

#ifndef KERNEL_SOURCES
#define KERNEL_SOURCES ""
#endif

/* Digest of the sources that this library was built of (`native.digest`). */
KERNEL_API const char *kernel_sources(void) { return KERNEL_SOURCES; }
