/* tests/cuda/simt/include/cuda_runtime.h - what nvcc knows without being told: qualifiers, vectors,
 * where a thread stands, what the threads of a warp and a block do together, and launches. A kernel
 * that translate.py went over is C++ with this file. */
#ifndef SC_SIMT_CUDA_RUNTIME_H
#define SC_SIMT_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#include <math.h>
#include <string.h>

#include "tests/cuda/simt/vectors.h"
#include "tests/cuda/simt/executor.h"
#include "tests/cuda/simt/warp.h"
#include "tests/cuda/simt/arithmetic.h"
#include "tests/cuda/simt/launch.h"

#endif
