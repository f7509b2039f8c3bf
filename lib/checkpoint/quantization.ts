import { Qwen2Error } from '../native/errors.js';
import { describe, type JsonFields } from './jsonFile.js';

/** How nibbles lie in a checkpoint's 4-bit matrices (csrc/core/int4.h). GPTQ's first format stores zeros minus one. */
export type Int4Format = 'awq' | 'gptq' | 'gptq_v2';

/** Numbers that the native side gives formats. */
export const int4FormatIndex: Record<Int4Format, number> = { awq: 0, gptq: 1, gptq_v2: 2 };

/** What config.json says of a checkpoint's 4-bit weights. Which matrices have them, the files themselves say. */
export interface QuantizationConfig {
  format: Int4Format;
  /** Columns that share a scale and a zero; −1: all of a row. */
  groupSize: number;
  /** Whether every zero is 8. */
  symmetric: boolean;
}

/**
 * Reads `quantization_config`, as AutoAWQ, AutoGPTQ and GPTQModel write it.
 *
 * @throws unsupported for other methods, bits, and layouts made for one kernel; invalid_checkpoint
 */
export function readQuantization(fields: JsonFields | undefined, where: string): QuantizationConfig | undefined {
  if (fields === undefined) return undefined;
  const refuse = (what: string) => {
    throw new Qwen2Error(
      'unsupported',
      `${where}: quantization_config has ${what}; qwen2-node runs AWQ (version "gemm") and GPTQ with 4 bits, and bf16, f16 or f32`,
    );
  };
  const method = fields.value('quant_method');
  if (method !== 'awq' && method !== 'gptq') refuse(`quant_method ${describe(method)}`);
  const bits = fields.value('bits') ?? fields.value('w_bit');
  if (bits !== 4) refuse(`${describe(bits)} bits`);
  const dynamic = fields.object('dynamic');
  if (dynamic && !dynamic.isEmpty) refuse('other bits for some modules ("dynamic")');
  const groupSize = readGroupSize(fields);
  if (groupSize !== -1 && groupSize % 32 !== 0) refuse(`group_size ${groupSize}, which is not a multiple of 32`);
  if (method === 'awq') {
    const version = fields.text('version', 'gemm');
    if (version.toLowerCase() !== 'gemm') refuse(`AWQ's version ${describe(version)}`);
    return { format: 'awq', groupSize, symmetric: !fields.boolean('zero_point', true) };
  }
  const format = fields.text('checkpoint_format', fields.boolean('is_marlin_format', false) ? 'marlin' : 'gptq');
  if (format !== 'gptq' && format !== 'gptq_v2') refuse(`GPTQ's checkpoint_format ${describe(format)}`);
  return { format: format as Int4Format, groupSize, symmetric: fields.boolean('sym', false) };
}

function readGroupSize(fields: JsonFields): number {
  const name = fields.value('group_size') === undefined ? 'q_group_size' : 'group_size';
  return fields.value(name) === -1 ? -1 : fields.integer(name, { fallback: 128, max: 2 ** 20 });
}
