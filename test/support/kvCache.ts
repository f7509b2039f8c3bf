import { Tensor } from '../../lib/native/tensor.js';
import type { OpBench } from './opBench.js';
import type { Activation } from './precision.js';

export interface KvShape {
  kvHeads: number;
  headDim: number;
  blockSize: number;
}

/** Offsets, in elements from the start of a block, of one element of a key or a value. */
interface KvLayout {
  key(head: number, place: number, j: number): number;
  value(head: number, place: number, j: number): number;
}

const keysThenValues = ({ kvHeads, headDim: D, blockSize }: KvShape): KvLayout => ({
  key: (head, place, j) => (head * blockSize + place) * D + j,
  value: (head, place, j) => ((kvHeads + head) * blockSize + place) * D + j,
});

/** The order in which each device keeps a block, as its kv_cache.h defines it. */
export const layouts: Record<string, (shape: KvShape) => KvLayout> = {
  reference: keysThenValues,
  cuda: keysThenValues,
  'cuda-emulated': keysThenValues,
  cpu: ({ kvHeads, headDim: D, blockSize }) => {
    const padded = Math.ceil(D / 16) * 16;
    const keys = kvHeads * blockSize * D;
    const group = (place: number) => place - (place % 16);
    return {
      key: (head, place, j) => (head * blockSize + group(place)) * D + (j - (j % 2)) * 16 + (place % 16) * 2 + (j % 2),
      value: (head, place, j) => keys + (head * blockSize + place - (place % 2)) * padded + 2 * j + (place % 2),
    };
  },
};

/** An empty cache of so many blocks for activations of the dtype. */
export function emptyCache(bench: OpBench, dtype: Activation, blocks: number, shape: KvShape): Tensor {
  const bytes = bench.device.kvBlockBytes(dtype, shape.kvHeads, shape.headDim, shape.blockSize);
  return bench.empty('u8', [blocks, bytes]);
}

/**
 * The keys and values [Hkv, D] at each of the slots; and whether all the rest of the cache is poison, as it was when
 * nobody had written it.
 */
export async function readCache(bench: OpBench, cache: Tensor, dtype: Activation, shape: KvShape, slots: number[]) {
  const { kvHeads, headDim, blockSize } = shape;
  const elements = cache.storage.bytes / (dtype === 'bf16' ? 2 : 4);
  const raw = await bench.read(new Tensor(cache.storage, dtype, [elements]));
  const layout = layouts[bench.device.name]!(shape);
  const blockElements = elements / cache.shape[0]!;
  const seen = new Set<number>();
  const read = (slot: number, offset: (head: number, place: number, j: number) => number) =>
    Float64Array.from({ length: kvHeads * headDim }, (_, i) => {
      const inBlock = offset(Math.floor(i / headDim), slot % blockSize, i % headDim);
      const at = Math.floor(slot / blockSize) * blockElements + inBlock;
      seen.add(at);
      return raw[at]!;
    });
  const tokens = slots.map((slot) => ({ key: read(slot, layout.key), value: read(slot, layout.value) }));
  return { tokens, restIsPoison: raw.every((x, at) => seen.has(at) || Number.isNaN(x)), elementsSeen: seen.size };
}
