// Writes a GGUF file of a Qwen2's exact shape with random weights, as llama.cpp's quantization would lay it out: what is
// measured is speed, which does not depend on the numbers.
//
// Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md

import { once } from 'node:events';
import { createWriteStream } from 'node:fs';

const alignment = 32;
/** ggml's number of a type, elements and bytes of a block, and where in a block its f16 scale is. */
const types = {
  f32: { id: 0, elements: 1, bytes: 4 },
  q4_0: { id: 2, elements: 32, bytes: 18, scaleAt: 0 },
  q8_0: { id: 8, elements: 32, bytes: 34, scaleAt: 0 },
  q6_K: { id: 14, elements: 256, bytes: 210, scaleAt: 208 },
};

/** A value of GGUF's metadata: its type's number and its bytes. */
const u32 = (value) => ({ type: 4, bytes: number(4, (b) => b.writeUInt32LE(value)) });
const f32 = (value) => ({ type: 6, bytes: number(4, (b) => b.writeFloatLE(value)) });
const text = (value) => ({ type: 8, bytes: string(value) });
const array = (values) => ({
  type: 9,
  bytes: Buffer.concat([u32(values[0].type).bytes, u64(values.length), ...values.map(({ bytes }) => bytes)]),
});

function number(size, write) {
  const buffer = Buffer.alloc(size);
  write(buffer);
  return buffer;
}

function u64(value) {
  return number(8, (b) => b.writeBigUInt64LE(BigInt(value)));
}

function string(value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

/**
 * @param path of the file
 * @param config what the model's config.json holds
 */
export async function writeRandomGguf(path, config) {
  const tensors = tensorsOf(config);
  const metadata = metadataOf(config);
  const header = [Buffer.from('GGUF'), u32(3).bytes, u64(tensors.length), u64(Object.keys(metadata).length)];
  for (const [key, { type, bytes }] of Object.entries(metadata)) header.push(string(key), u32(type).bytes, bytes);
  let offset = 0;
  for (const { name, shape, type } of tensors) {
    // ggml counts dimensions from the innermost.
    const dimensions = shape.toReversed().map(u64);
    header.push(string(name), u32(shape.length).bytes, ...dimensions, u32(type.id).bytes, u64(offset));
    offset += aligned(byteLength(shape, type));
  }
  const head = Buffer.concat(header);
  const file = createWriteStream(path);
  const write = async (bytes) => {
    if (!file.write(bytes)) await once(file, 'drain');
  };
  await write(Buffer.concat([head, Buffer.alloc(aligned(head.length) - head.length)]));
  for (const { shape, type } of tensors) {
    const length = byteLength(shape, type);
    for (let at = 0; at < length; at += pieceOf(type).length)
      await write(pieceOf(type).subarray(0, Math.min(length - at, pieceOf(type).length)));
    await write(Buffer.alloc(aligned(length) - length));
  }
  file.end();
  await once(file, 'finish');
}

function metadataOf(config) {
  const words = Array.from({ length: config.vocab_size }, (_, i) => text(`w${i}`));
  return {
    'general.architecture': text('qwen2'),
    'general.name': text('random'),
    'qwen2.block_count': u32(config.num_hidden_layers),
    'qwen2.context_length': u32(config.max_position_embeddings),
    'qwen2.embedding_length': u32(config.hidden_size),
    'qwen2.feed_forward_length': u32(config.intermediate_size),
    'qwen2.attention.head_count': u32(config.num_attention_heads),
    'qwen2.attention.head_count_kv': u32(config.num_key_value_heads),
    'qwen2.attention.layer_norm_rms_epsilon': f32(config.rms_norm_eps),
    'qwen2.rope.freq_base': f32(config.rope_theta),
    'tokenizer.ggml.model': text('gpt2'),
    'tokenizer.ggml.pre': text('qwen2'),
    'tokenizer.ggml.tokens': array(words),
    'tokenizer.ggml.token_type': array(words.map(() => ({ type: 5, bytes: u32(1).bytes }))),
    'tokenizer.ggml.merges': array([text('w 1')]),
    'tokenizer.ggml.eos_token_id': u32(config.vocab_size - 1),
  };
}

function tensorsOf(config) {
  const { hidden_size: H, intermediate_size: I, num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
  const kv = (H / heads) * kvHeads;
  const matrix = (name, rows, columns) => ({ name: `${name}.weight`, shape: [rows, columns], type: types.q4_0 });
  const vector = (name, size) => ({ name, shape: [size], type: types.f32 });
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i) => [
    vector(`blk.${i}.attn_norm.weight`, H),
    matrix(`blk.${i}.attn_q`, H, H),
    vector(`blk.${i}.attn_q.bias`, H),
    matrix(`blk.${i}.attn_k`, kv, H),
    vector(`blk.${i}.attn_k.bias`, kv),
    matrix(`blk.${i}.attn_v`, kv, H),
    vector(`blk.${i}.attn_v.bias`, kv),
    matrix(`blk.${i}.attn_output`, H, H),
    vector(`blk.${i}.ffn_norm.weight`, H),
    matrix(`blk.${i}.ffn_gate`, I, H),
    matrix(`blk.${i}.ffn_up`, I, H),
    matrix(`blk.${i}.ffn_down`, H, I),
  ]).flat();
  // llama-quantize keeps the LM head, here the embedding table, at 6 bits, or 8 where rows are no multiple of 256.
  const table = {
    name: 'token_embd.weight',
    shape: [config.vocab_size, H],
    type: H % 256 === 0 ? types.q6_K : types.q8_0,
  };
  return [table, ...layers, vector('output_norm.weight', H)];
}

function byteLength(shape, { elements, bytes }) {
  return (shape.reduce((product, n) => product * n, 1) / elements) * bytes;
}

function aligned(bytes) {
  return Math.ceil(bytes / alignment) * alignment;
}

const pieces = new Map();

/** A megabyte or so of blocks: random numbers, scales of about 0.005, ones for vectors. */
function pieceOf(type) {
  if (pieces.has(type)) return pieces.get(type);
  const blocks = Math.floor((1 << 20) / type.bytes);
  const piece = Buffer.alloc(blocks * type.bytes);
  let state = 1;
  for (let i = 0; i < piece.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    piece[i] = state >>> 24;
  }
  for (let block = 0; block < blocks; block++)
    if (type === types.f32) piece.writeFloatLE(1, block * 4);
    else piece.writeUInt16LE(0x1d00, block * type.bytes + type.scaleAt);
  pieces.set(type, piece);
  return piece;
}
