import assert from 'node:assert/strict';
import type { Storage } from '../../lib/native/storage.js';
import { type DType, Tensor } from '../../lib/native/tensor.js';
import { assertSameBits } from '../support/compare.js';
import { withBench } from '../support/opBench.js';
import { failure, hostDevices } from '../support/streamWork.js';

/** A view reads no memory, so any storage will do. */
const storage = { id: 1, bytes: 1 << 20 } as Storage;
const tensor = (dtype: DType, shape: readonly number[], strides?: readonly number[]) =>
  new Tensor(storage, dtype, shape, strides ? { strides } : {});

interface Facts {
  shape: number[];
  strides: number[];
  byteOffset: number;
  size: number;
  byteLength: number;
  isContiguous: boolean;
}

const factsOf = (t: Tensor): Facts => ({
  shape: [...t.shape],
  strides: [...t.strides],
  byteOffset: t.byteOffset,
  size: t.size,
  byteLength: t.byteLength,
  isContiguous: t.isContiguous,
});

const views: { title: string; of: () => Tensor; facts: Facts }[] = [
  {
    title: 'a scalar',
    of: () => tensor('f32', []),
    facts: { shape: [], strides: [], byteOffset: 0, size: 1, byteLength: 4, isContiguous: true },
  },
  {
    title: 'a row-major tensor',
    of: () => tensor('bf16', [2, 3, 5]),
    facts: { shape: [2, 3, 5], strides: [15, 5, 1], byteOffset: 0, size: 30, byteLength: 60, isContiguous: true },
  },
  {
    title: 'no elements',
    of: () => tensor('i32', [0, 7]),
    facts: { shape: [0, 7], strides: [7, 1], byteOffset: 0, size: 0, byteLength: 0, isContiguous: true },
  },
  {
    title: 'rows with gaps',
    of: () => tensor('f32', [4, 3], [10, 1]),
    facts: { shape: [4, 3], strides: [10, 1], byteOffset: 0, size: 12, byteLength: 48, isContiguous: false },
  },
  {
    title: 'one row, whose stride does not matter',
    of: () => tensor('f32', [4, 3], [10, 1]).narrow(0, 2, 1),
    facts: { shape: [1, 3], strides: [10, 1], byteOffset: 80, size: 3, byteLength: 12, isContiguous: true },
  },
  {
    title: 'narrow: some rows',
    of: () => tensor('bf16', [8, 6]).narrow(0, 3, 2),
    facts: { shape: [2, 6], strides: [6, 1], byteOffset: 36, size: 12, byteLength: 24, isContiguous: true },
  },
  {
    title: 'narrow: some columns',
    of: () => tensor('u8', [8, 6]).narrow(1, 2, 3),
    facts: { shape: [8, 3], strides: [6, 1], byteOffset: 2, size: 24, byteLength: 24, isContiguous: false },
  },
  {
    title: 'narrow of narrow',
    of: () => tensor('i32', [8, 6]).narrow(0, 1, 5).narrow(1, 2, 3).narrow(0, 1, 2),
    facts: { shape: [2, 3], strides: [6, 1], byteOffset: 56, size: 6, byteLength: 24, isContiguous: false },
  },
  {
    title: 'narrow to nothing, at the end',
    of: () => tensor('f32', [8, 6]).narrow(0, 8, 0),
    facts: { shape: [0, 6], strides: [6, 1], byteOffset: 192, size: 0, byteLength: 0, isContiguous: true },
  },
  {
    title: 'view of a part',
    of: () => tensor('f32', [8, 6]).narrow(0, 2, 3).view(2, 9),
    facts: { shape: [2, 9], strides: [9, 1], byteOffset: 48, size: 18, byteLength: 72, isContiguous: true },
  },
];

const refused: { title: string; call: () => Tensor; message: RegExp }[] = [
  { title: 'beyond the end', call: () => tensor('f32', [4]).narrow(0, 3, 2), message: /narrow\(0, 3, 2\).*\[4\]/ },
  { title: 'before the start', call: () => tensor('f32', [4]).narrow(0, -1, 2), message: /narrow\(0, -1, 2\)/ },
  { title: 'a negative length', call: () => tensor('f32', [4]).narrow(0, 1, -1), message: /narrow\(0, 1, -1\)/ },
  { title: 'no such dimension', call: () => tensor('f32', [4]).narrow(1, 0, 1), message: /narrow\(1, 0, 1\)/ },
  {
    title: 'a part of a packed weight',
    call: () => new Tensor(storage, 'bf16', [64, 64], { layout: 'linearWeight' }).narrow(0, 0, 32),
    message: /narrow\(0, 0, 32\)/,
  },
  { title: 'a view of another size', call: () => tensor('f32', [4, 3]).view(11), message: /view\(11\).*\[4,3\]/ },
  { title: 'a view of gaps', call: () => tensor('f32', [4, 3], [5, 1]).view(12), message: /view\(12\)/ },
  {
    title: 'a view of a packed weight',
    call: () => new Tensor(storage, 'bf16', [64, 64], { layout: 'swigluWeight' }).view(4096),
    message: /view\(4096\)/,
  },
];

describe('tensor', () => {
  for (const { title, of, facts } of views) it(title, () => assert.deepEqual(factsOf(of()), facts));
  for (const { title, call, message } of refused)
    it(`refuses ${title}`, () => assert.throws(call, failure('internal', message)));

  for (const device of hostDevices)
    it(`${device.title}: views share memory`, () =>
      withBench(device, async (bench) => {
        const values = Array.from({ length: 24 }, (_, i) => i);
        const whole = bench.from('bf16', [4, 6], values);
        const columns = whole.narrow(0, 1, 3).narrow(1, 2, 2);
        assertSameBits(await bench.read(columns), [8, 9, 14, 15, 20, 21]);
        assertSameBits(await bench.read(whole.view(2, 12).narrow(0, 1, 1)), values.slice(12));
        const rows = bench.from('i32', [3], [2, 0, 1]);
        const target = bench.from('bf16', [3, 5], new Array(15).fill(-1));
        bench.run('gather_rows', { x: columns, rows, out: target.narrow(1, 1, 2) });
        assertSameBits(await bench.read(target), [-1, 20, 21, -1, -1, -1, 8, 9, -1, -1, -1, 14, 15, -1, -1]);
      }));
});
