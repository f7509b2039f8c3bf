// Before any test: device memory starts as NaN, so that a read of what nobody wrote shows.
process.env.QWEN2_POISON = '1';
