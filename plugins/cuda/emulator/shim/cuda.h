// Everything of CUDA that the emulated GPU has is included before any .cu file.
#pragma once
#include "sconce_cuda.h"
