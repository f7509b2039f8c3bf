// All contracts, and the table of them. What an operation writes overlaps nothing else that it is given, except where its
// contract says so.
#pragma once

#include "ops/add_rms_norm/add_rms_norm.h"
#include "ops/attention/attention.h"
#include "ops/column_norms/column_norms.h"
#include "ops/convert/convert.h"
#include "ops/embedding/embedding.h"
#include "ops/fill_random/fill_random.h"
#include "ops/gather_rows/gather_rows.h"
#include "ops/linear/linear.h"
#include "ops/linear_int4/linear_int4.h"
#include "ops/linear_int8/linear_int8.h"
#include "ops/permute_columns/permute_columns.h"
#include "ops/quantize_int4/quantize_int4.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope_and_cache/rope_and_cache.h"
#include "ops/rope_table/rope_table.h"
#include "ops/sample/sample.h"
#include "ops/scale/scale.h"
#include "ops/silu_mul/silu_mul.h"
#include "ops/swiglu/swiglu.h"
#include "ops/swiglu_int4/swiglu_int4.h"
#include "ops/token_logprobs/token_logprobs.h"

namespace qwen2 {

enum class OpId : uint32_t {
#define QWEN2_OP(name, Args) name,
#include "ops/ops.def"
#undef QWEN2_OP
};

// In the order of ops.def.
std::span<const OpInfo> op_table();

}  // namespace qwen2
