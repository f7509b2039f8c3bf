import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { sourceTensors } from '../../lib/model/names.js';
import { toBf16 } from './bf16.js';
import { Random } from './random.js';

/** What a safetensors header says of a tensor. */
export interface HeaderEntry {
  dtype: string;
  shape: number[];
  data_offsets: [begin: number, end: number];
}

export interface FileTensor {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** A safetensors file of any header and any bytes: the length of the header in 8 bytes, the header, the bytes. */
export function rawSafetensors(header: string | Uint8Array, data: Uint8Array = new Uint8Array()): Buffer {
  const json = Buffer.from(header as string);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, data]);
}

/** A safetensors file of these tensors, in this order. */
export function safetensors(tensors: Readonly<Record<string, FileTensor>>): Buffer {
  const header: Record<string, HeaderEntry> = {};
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  return rawSafetensors(JSON.stringify(header), Buffer.concat(Object.values(tensors).map(({ bytes }) => bytes)));
}

export type FloatDType = 'BF16' | 'F16' | 'F32';

/** Numbers as a file holds them. f16 takes only what it holds exactly: multiples of 2⁻¹⁴ of up to 11 bits. */
export function floatTensor(dtype: FloatDType, shape: number[], values: Float32Array): FileTensor {
  const array = dtype === 'F32' ? values : Uint16Array.from(values, dtype === 'BF16' ? toBf16 : toExactF16);
  return { dtype, shape, bytes: new Uint8Array(array.buffer, array.byteOffset, array.byteLength) };
}

/** The 16 bits of an f16 that is x exactly. */
function toExactF16(x: number): number {
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  if (x === 0) return sign;
  const exponent = Math.floor(Math.log2(Math.abs(x)));
  const mantissa = (Math.abs(x) / 2 ** exponent - 1) * 1024;
  if (exponent < -14 || exponent > 15 || !Number.isInteger(mantissa)) throw new RangeError(`f16 does not hold ${x}`);
  return sign | ((exponent + 15) << 10) | mantissa;
}

/** config.json of a model that loads in milliseconds: two layers, GQA, untied. */
export const smallConfig = {
  architectures: ['Qwen2ForCausalLM'],
  model_type: 'qwen2',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 128,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: false,
  eos_token_id: 127,
};

/** Every tensor of a config, with numbers that bf16, f16 and f32 all hold exactly: multiples of 1/128 below 1. */
export function modelTensors(config: object, dtype: FloatDType = 'BF16', seed = 1): Record<string, FileTensor> {
  const random = new Random(seed);
  const tensors = sourceTensors(parseConfig(config, 'config')).map(({ name, shape }) => {
    const size = shape.reduce((product, n) => product * n, 1);
    const values = Float32Array.from({ length: size }, () => random.integer(-127, 127) / 128);
    return [name, floatTensor(dtype, shape, values)] as const;
  });
  return Object.fromEntries(tensors);
}

/** A checkpoint whose tables are larger than one of the loader's staging buffers, 16 MiB, and not a multiple of it. */
export function bulkyCheckpoint() {
  const config = {
    ...smallConfig,
    hidden_size: 128,
    vocab_size: 33_000,
    intermediate_size: 33_000,
    num_hidden_layers: 1,
  };
  const tensors: Record<string, FileTensor> = {};
  let byteLength = 0;
  for (const [i, { name, shape }] of sourceTensors(parseConfig(config, 'config')).entries()) {
    const size = shape.reduce((product, n) => product * n, 1);
    // Numbers that repeat after a prime, so that a row in the wrong place shows; eighths below 16, which bf16 holds.
    const period = Float32Array.from({ length: 251 }, (_, j) => (((j + i) % 251) - 125) / 8);
    const values = new Float32Array(size);
    for (let at = 0; at < size; at += 251) values.set(period.subarray(0, Math.min(251, size - at)), at);
    tensors[name] = floatTensor('F32', shape, values);
    byteLength += 4 * size;
  }
  return { config, tensors, byteLength, files: { 'config.json': config, 'model.safetensors': safetensors(tensors) } };
}

/** A folder's files: JSON where the content is neither bytes nor text. */
export type FolderContent = Readonly<Record<string, string | Uint8Array | object>>;

/** The files of a whole small checkpoint. */
export function smallCheckpoint(config: object = smallConfig): Record<string, string | Uint8Array | object> {
  return { 'config.json': config, 'model.safetensors': safetensors(modelTensors(config)) };
}

const folders: string[] = [];

/** A new folder with these files; removeFolders removes it. */
export async function writeFolder(content: FolderContent): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'qwen2-test-'));
  folders.push(folder);
  for (const [name, value] of Object.entries(content)) {
    const bytes = typeof value === 'string' || value instanceof Uint8Array ? value : JSON.stringify(value);
    await writeFile(join(folder, name), bytes);
  }
  return folder;
}

/** Removes every folder that writeFolder made. */
export async function removeFolders(): Promise<void> {
  await Promise.all(folders.splice(0).map((folder) => rm(folder, { recursive: true, force: true })));
}
