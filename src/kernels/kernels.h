// Every kernel of this folder. One translation unit a device includes it.
#pragma once
#include "kernels/attention.h"
#include "kernels/expand.h"
#include "kernels/linear.h"
#include "kernels/rows.h"
#include "kernels/sample.h"
#include "kernels/search.h"
