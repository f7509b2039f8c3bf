import type { CacheDType } from '../../lib/model/kvCache.js';
import { Tensor } from '../../lib/native/tensor.js';
import { elementValues, isRounded, type RoundedDType } from './kvRounding.js';
import type { OpBench } from './opBench.js';

export interface KvShape {
  kvHeads: number;
  headDim: number;
  blockSize: number;
}

/** Offsets, in elements from the start of a block, of one element of a key or a value; and how many elements there are. */
interface KvLayout {
  key(head: number, place: number, j: number): number;
  value(head: number, place: number, j: number): number;
  elements: number;
}

const keysThenValues = ({ kvHeads, headDim: D, blockSize }: KvShape): KvLayout => ({
  key: (head, place, j) => (head * blockSize + place) * D + j,
  value: (head, place, j) => ((kvHeads + head) * blockSize + place) * D + j,
  elements: 2 * kvHeads * blockSize * D,
});

/** Within 16 elements, those of 8 bits lie as a lane's operands want them. */
const permuted = (shape: KvShape, dtype: CacheDType): KvLayout => {
  const plain = keysThenValues(shape);
  if (!isRounded(dtype)) return plain;
  const sixteen = (j: number) => j - (j % 16);
  const keyByte = (j: number) => sixteen(j) + 4 * Math.floor((j % 8) / 2) + 2 * (j % 2) + Math.floor((j % 16) / 8);
  const valueByte = (j: number) => sixteen(j) + 2 * (j % 8) + Math.floor((j % 16) / 8);
  return {
    ...plain,
    key: (head, place, j) => plain.key(head, place, keyByte(j)),
    value: (head, place, j) => plain.value(head, place, valueByte(j)),
  };
};

/** The order in which each device keeps a block, as its kv_cache.h defines it. */
export const layouts: Record<string, (shape: KvShape, dtype: CacheDType) => KvLayout> = {
  reference: keysThenValues,
  cuda: permuted,
  'cuda-emulated': permuted,
  cpu: ({ kvHeads, headDim: D, blockSize }) => {
    const padded = Math.ceil(D / 16) * 16;
    const keys = kvHeads * blockSize * D;
    const group = (place: number) => place - (place % 16);
    return {
      key: (head, place, j) => (head * blockSize + group(place)) * D + (j - (j % 2)) * 16 + (place % 16) * 2 + (j % 2),
      value: (head, place, j) => keys + (head * blockSize + place - (place % 2)) * padded + 2 * j + (place % 2),
      elements: keys + kvHeads * blockSize * padded,
    };
  },
};

/** An empty cache of so many blocks. */
export function emptyCache(bench: OpBench, dtype: CacheDType, blocks: number, shape: KvShape): Tensor {
  const bytes = bench.device.kvBlockBytes(dtype, shape.kvHeads, shape.headDim, shape.blockSize);
  return bench.empty('u8', [blocks, bytes]);
}

/**
 * The keys and values [Hkv, D] at each of the slots; and whether all the rest of the cache is poison, as it was when
 * nobody had written it.
 */
export async function readCache(bench: OpBench, cache: Tensor, dtype: CacheDType, shape: KvShape, slots: number[]) {
  const { kvHeads, headDim, blockSize } = shape;
  const bytes = new Uint8Array(await bench.read(new Tensor(cache.storage, 'u8', [cache.storage.bytes])));
  const layout = layouts[bench.device.name]!(shape, dtype);
  const seen = new Uint8Array(bytes.length);
  const block = new BlockReader(bytes, dtype, cache.shape[1]!, seen);
  const read = (slot: number, part: 'key' | 'value') => {
    const [at, place] = [Math.floor(slot / blockSize), slot % blockSize];
    return Float64Array.from({ length: kvHeads * headDim }, (_, i) => {
      const head = Math.floor(i / headDim);
      const vector = (part === 'key' ? head : kvHeads + head) * blockSize + place;
      return block.read(at, layout[part](head, place, i % headDim), layout.elements + 4 * vector);
    });
  };
  const tokens = slots.map((slot) => ({ key: read(slot, 'key'), value: read(slot, 'value') }));
  return { tokens, restIsPoison: bytes.every((byte, i) => seen[i] || byte === 0xff), elementsSeen: block.elements };
}

/** Reads single elements of a cache, and marks the bytes that it saw. */
class BlockReader {
  elements = 0;
  readonly #view: DataView;
  readonly #dtype: CacheDType;
  readonly #blockBytes: number;
  readonly #seen: Uint8Array;

  constructor(bytes: Uint8Array, dtype: CacheDType, blockBytes: number, seen: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#dtype = dtype;
    this.#blockBytes = blockBytes;
    this.#seen = seen;
  }

  /** Element `element` of a block; if it has 8 bits, its scale is at byte `scale` of the block. */
  read(block: number, element: number, scale: number): number {
    const start = block * this.#blockBytes;
    if (isRounded(this.#dtype)) {
      const code = this.#view.getUint8(this.#mark(start + element, 1));
      const factor = this.#view.getFloat32(this.#mark(start + scale, 4, false), true);
      return Math.fround(decoded(this.#dtype, code) * factor);
    }
    if (this.#dtype === 'f32') return this.#view.getFloat32(this.#mark(start + 4 * element, 4), true);
    const bits = this.#view.getUint16(this.#mark(start + 2 * element, 2), true);
    return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;
  }

  #mark(at: number, bytes: number, isElement = true): number {
    if (isElement && !this.#seen[at]) this.elements++;
    this.#seen.fill(1, at, at + bytes);
    return at;
  }
}

/** What the code of an 8-bit element stands for, without its scale. */
const decoded = (dtype: RoundedDType, code: number) =>
  dtype === 'int8' ? code - 128 : (code & 128 ? -1 : 1) * elementValues.fp8[code & 127]!;
