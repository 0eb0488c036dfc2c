/* tests/cuda/simt/include/cuda/overlap.cuh - stands before cuda/overlap.cuh: that each thread of a
 * kernel that may start early waits for the one before it, which it does here in any case. */
#ifndef SC_SIMT_OVERLAP_CUH
#define SC_SIMT_OVERLAP_CUH

#define sc_inputs_ready sc_inputs_ready_of_device
#include_next "cuda/overlap.cuh"
#undef sc_inputs_ready

static inline void sc_inputs_ready(void)
{
    simt::inputs_ready();
}

#endif
