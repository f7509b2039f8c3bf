import { Qwen2Error } from './errors.js';
import type { Storage } from './storage.js';

/**
 * int4 and int8 are packed weights with a scale for each group of columns; fp8 (E4M3) and int8 are what a KV cache may hold,
 * with a scale for each head of a token.
 */
export type DType = 'f32' | 'f16' | 'bf16' | 'i32' | 'u8' | 'int4' | 'int8' | 'fp8';

/** Numbers that the native side gives dtypes (csrc/core/dtype.h). */
export const dtypeIndex: Record<DType, number> = {
  f32: 0,
  f16: 1,
  bf16: 2,
  i32: 3,
  u8: 4,
  int4: 5,
  int8: 6,
  fp8: 7,
};
/** Of an element of a strided tensor; what a packed weight takes, its device knows. */
export const dtypeBytes: Record<DType, number> = { f32: 4, f16: 2, bf16: 2, i32: 4, u8: 1, int4: 1, int8: 1, fp8: 1 };

/** How elements lie in memory (csrc/core/tensor.h): by strides, or as a device packs the weight of an operation. */
export type Layout = 'strided' | 'linearWeight' | 'swigluWeight';
export const layoutIndex: Record<Layout, number> = { strided: 0, linearWeight: 1, swigluWeight: 2 };

/** A view of device memory. It owns nothing: the storage does. Offsets in bytes, strides in elements. */
export class Tensor {
  readonly storage: Storage;
  readonly byteOffset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly layout: Layout;
  /** Of int4 and int8: columns that share a scale, 32, 64 or 128; otherwise 0. */
  readonly group: number;

  constructor(
    storage: Storage,
    dtype: DType,
    shape: readonly number[],
    {
      byteOffset = 0,
      strides,
      layout = 'strided',
      group = 0,
    }: { byteOffset?: number; strides?: readonly number[]; layout?: Layout; group?: number } = {},
  ) {
    this.storage = storage;
    this.dtype = dtype;
    this.shape = shape;
    this.byteOffset = byteOffset;
    this.strides = strides ?? contiguous(shape);
    this.layout = layout;
    this.group = group;
  }

  /** Elements, the product of the shape. */
  get size(): number {
    return this.shape.reduce((product, n) => product * n, 1);
  }

  /** Bytes of a contiguous tensor. */
  get byteLength(): number {
    return this.size * dtypeBytes[this.dtype];
  }

  get isContiguous(): boolean {
    const expected = contiguous(this.shape);
    return (
      this.layout === 'strided' && this.strides.every((stride, i) => this.shape[i] === 1 || stride === expected[i])
    );
  }

  /** The part `start` … `start + length` of a dimension, sharing memory; not of a packed weight. */
  narrow(dimension: number, start: number, length: number): Tensor {
    const size = this.shape[dimension];
    if (this.layout !== 'strided' || size === undefined || start < 0 || length < 0 || start + length > size)
      throw new Qwen2Error('internal', `narrow(${dimension}, ${start}, ${length}) of a tensor [${this.shape}]`);
    const shape = this.shape.with(dimension, length);
    const byteOffset = this.byteOffset + start * this.strides[dimension]! * dtypeBytes[this.dtype];
    return new Tensor(this.storage, this.dtype, shape, { byteOffset, strides: this.strides });
  }

  /** The same memory in another shape; contiguous tensors only. */
  view(...shape: number[]): Tensor {
    const size = shape.reduce((product, n) => product * n, 1);
    if (size !== this.size || !this.isContiguous)
      throw new Qwen2Error('internal', `view(${shape}) of a tensor [${this.shape}]`);
    return new Tensor(this.storage, this.dtype, shape, { byteOffset: this.byteOffset });
  }
}

function contiguous(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}
