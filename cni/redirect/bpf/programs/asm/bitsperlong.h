/* BPF is a machine of 64 bits. */
#pragma once
#define __BITS_PER_LONG 64
