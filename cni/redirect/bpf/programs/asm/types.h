/* The generic header: distributions keep this one in different places, and what it says is the same for all of BPF. */
#include <asm-generic/types.h>
