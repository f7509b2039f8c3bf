import assert from 'node:assert/strict';
import type { CacheDType } from '../../lib/model/kvCache.js';
import { partOf, prepareAttention, randomSequence } from '../support/attentionCall.js';
import { type Attended, type AttentionSequence, type AttentionShape, attend } from '../support/attentionModel.js';
import { assertClose, assertSameBits, rmsError } from '../support/compare.js';
import { heldInCache, isRounded } from '../support/kvRounding.js';
import {
  activationsOf,
  type DeviceCase,
  devicesUnderTest,
  isCuda,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { type Activation, afterRounding, heldAs } from '../support/precision.js';

/** Query heads, KV heads and head dimension of Qwen2's sizes, and of shapes that no model has. */
const models = {
  '0.5B': { heads: 14, kvHeads: 2, headDim: 64 },
  '1.5B': { heads: 12, kvHeads: 2, headDim: 128 },
  '7B': { heads: 28, kvHeads: 4, headDim: 128 },
  '72B': { heads: 64, kvHeads: 8, headDim: 128 },
  'all heads with their own KV head': { heads: 3, kvHeads: 3, headDim: 80 },
  'one KV head for more query heads than a tile has rows': { heads: 30, kvHeads: 1, headDim: 16 },
  'a group of 7': { heads: 7, kvHeads: 1, headDim: 64 },
  'a group of 8': { heads: 8, kvHeads: 1, headDim: 128 },
  'a group of 30': { heads: 30, kvHeads: 1, headDim: 64 },
  'no groups': { heads: 2, kvHeads: 2, headDim: 64 },
  'the smallest head': { heads: 2, kvHeads: 1, headDim: 2 },
  'the widest head': { heads: 1, kvHeads: 1, headDim: 256 },
};

interface Case {
  title: string;
  shape: AttentionShape;
  sequences: { context: number; queries: number; sharpness?: number }[];
}

type Options = Partial<Pick<AttentionShape, 'window' | 'blockSize' | 'scale'>>;

const shapeOf = (model: keyof typeof models, options: Options = {}): AttentionShape => ({
  ...models[model],
  blockSize: 16,
  window: 0,
  scale: models[model].headDim ** -0.5,
  ...options,
});

const cases: Case[] = [
  ...(Object.keys(models) as (keyof typeof models)[]).map((model) => ({
    title: `${model}: a decode step beside a prefill and a chunk with a prefix`,
    shape: shapeOf(model),
    sequences: [
      { context: 37, queries: 1 },
      { context: 9, queries: 9 },
      { context: 50, queries: 7 },
    ],
  })),
  ...(['a group of 7', 'a group of 8', 'no groups'] as const).flatMap((model) => [
    {
      title: `${model}: decode at the bounds of ranges of 64 keys`,
      shape: shapeOf(model),
      sequences: [1, 2, 31, 62, 63, 64, 65, 66, 127, 128, 129, 130].map((context) => ({ context, queries: 1 })),
    },
    {
      title: `${model}: prefills at the bounds of tiles and ranges`,
      shape: shapeOf(model),
      sequences: [1, 9, 10, 16, 17, 63, 64, 65, 128, 129].map((context) => ({ context, queries: context })),
    },
    {
      title: `${model}: chunks with a prefix, at the bounds of ranges`,
      shape: shapeOf(model, { blockSize: 48 }),
      sequences: [82, 83, 84, 85, 148].map((context) => ({ context, queries: 20 })),
    },
    {
      title: `${model}: a few queries a sequence, at the bounds of ranges`,
      shape: shapeOf(model),
      sequences: [64, 65, 66, 128, 129].flatMap((context) => [
        { context, queries: 3 },
        { context: context - 1, queries: 1 },
      ]),
    },
    ...[17, 63, 64, 65, 81].map((window) => ({
      title: `${model}: a window of ${window}`,
      shape: shapeOf(model, { window }),
      sequences: [
        ...[82, 83, 84, 85].map((context) => ({ context, queries: 20 })),
        { context: 130, queries: 1 },
        { context: window, queries: window },
      ],
    })),
    ...[17, 64].map((window) => ({
      title: `${model}: decode with a window of ${window}`,
      shape: shapeOf(model, { window }),
      sequences: [16, 17, 63, 64, 65, 80, 81, 82, 127, 128, 130].map((context) => ({
        context,
        queries: 1 + (context % 2),
      })),
    })),
  ]),
  {
    title: '40 sequences in a decode step, some with two queries',
    shape: shapeOf('a group of 7'),
    sequences: Array.from({ length: 40 }, (_, b) => ({
      context: 2 + ((b * 37) % 129),
      queries: 1 + Number(b % 5 === 0),
    })),
  },
  {
    title: '40 sequences in a decode step with a window',
    shape: shapeOf('a group of 8', { window: 70 }),
    sequences: Array.from({ length: 40 }, (_, b) => ({ context: 1 + ((b * 53) % 200), queries: 1 })),
  },
  { title: 'one token that sees itself', shape: shapeOf('0.5B'), sequences: [{ context: 1, queries: 1 }] },
  {
    title: 'contexts at the bounds of blocks',
    shape: shapeOf('0.5B'),
    sequences: [15, 16, 17, 31, 32, 33].map((context) => ({ context, queries: 1 })),
  },
  {
    title: 'prefills at the bounds of blocks, in blocks of 32',
    shape: shapeOf('all heads with their own KV head', { blockSize: 32 }),
    sequences: [31, 32, 33, 65].map((context) => ({ context, queries: context })),
  },
  {
    title: 'contexts at the bounds of chunks of 256 keys',
    shape: shapeOf('the smallest head'),
    sequences: [255, 256, 257, 511, 512, 513].map((context) => ({ context, queries: 2 })),
  },
  {
    title: 'a prefill over a bound of chunks',
    shape: shapeOf('0.5B'),
    sequences: [{ context: 270, queries: 30 }],
  },
  { title: 'a long context, alone', shape: shapeOf('1.5B'), sequences: [{ context: 1300, queries: 1 }] },
  {
    title: 'several query tokens in a decode step, of very different lengths',
    shape: shapeOf('7B'),
    sequences: [
      { context: 700, queries: 4 },
      { context: 4, queries: 4 },
      { context: 30, queries: 3 },
    ],
  },
  {
    title: 'scores far apart',
    shape: shapeOf('0.5B'),
    sequences: [
      { context: 300, queries: 3, sharpness: 30 },
      { context: 40, queries: 40, sharpness: 5 },
    ],
  },
  {
    title: 'padding and a sequence that asks nothing, between others',
    shape: shapeOf('0.5B'),
    sequences: [
      { context: 0, queries: 2 },
      { context: 20, queries: 1 },
      { context: 0, queries: 1 },
      { context: 18, queries: 0 },
      { context: 3, queries: 3 },
      { context: 0, queries: 0 },
    ],
  },
  { title: 'nothing but padding', shape: shapeOf('0.5B'), sequences: [{ context: 0, queries: 3 }] },
  { title: 'no sequences', shape: shapeOf('0.5B'), sequences: [] },
  ...[1, 2, 15, 16, 17, 40, 300].map((window) => ({
    title: `a window of ${window}`,
    shape: shapeOf('0.5B', { window }),
    sequences: [
      { context: 330, queries: 2 },
      { context: 60, queries: 60 },
      { context: 45, queries: 5 },
      { context: 290, queries: 40 },
    ],
  })),
  {
    title: 'a window that begins in a later chunk',
    shape: shapeOf('the smallest head', { window: 100 }),
    sequences: [{ context: 1000, queries: 1 }],
  },
  {
    title: 'another scale',
    shape: shapeOf('0.5B', { scale: 0.3 }),
    sequences: [{ context: 33, queries: 4 }],
  },
];

/** With caches of 8 bits: one group of heads each, D = 64 and D = 128, and what has no group. */
const casesOf = (device: DeviceCase, cacheDtype: CacheDType): Case[] =>
  cases.filter(({ title, shape }) => {
    if (!supports(device, shape)) return false;
    if (!isRounded(cacheDtype)) return true;
    // Threads share tiles, whatever those hold.
    if (device.threads !== undefined && device.threads !== 2) return false;
    return (
      shape.headDim % 16 === 0 &&
      !/^(no groups|a group of 30):/.test(title) &&
      !title.startsWith(otherGroup[cacheDtype])
    );
  });
const otherGroup = { fp8: 'a group of 8:', int8: 'a group of 7:' };

interface Expected {
  sequences: AttentionSequence[];
  attended: Attended;
}

/** Whether a device has kernels for the shape. */
const supports = (device: DeviceCase, { headDim }: { headDim: number }) =>
  !isCuda(device) || headDim === 64 || headDim === 128;

const expectedByCase = new Map<string, Expected>();

/** The values of a case and what they give, row after row: made once for all devices. */
function expectations(dtype: Activation, cacheDtype: CacheDType, { title, shape, sequences: given }: Case): Expected {
  const key = `${dtype} ${cacheDtype} ${title}`;
  let made = expectedByCase.get(key);
  if (made === undefined) {
    const sequences = given.map((sizes, b) => randomSequence(shape, dtype, sizes, b));
    const held = (x: Float64Array) => heldInCache(cacheDtype, x, shape.headDim);
    const parts = sequences.map((sequence) =>
      sequence.context > 0
        ? attend({ ...sequence, k: held(sequence.k), v: held(sequence.v) }, shape)
        : zeros(sequence.queries * shape.heads * shape.headDim),
    );
    const all = (name: keyof Attended) => Float64Array.from(parts.flatMap((part) => [...part[name]]));
    const attended = {
      exact: all('exact'),
      inBf16: all('inBf16'),
      magnitudes: all('magnitudes'),
      scores: all('scores'),
    };
    made = { sequences, attended };
    expectedByCase.set(key, made);
  }
  return made;
}

function zeros(size: number): Attended {
  const none = new Float64Array(size);
  return { exact: none, inBf16: none, magnitudes: none, scores: none };
}

/**
 * What an element may be off by. `reference` computes in float64. Others round probabilities to bf16 and sum scores,
 * of D products, in fp32; an error of a score is one of e^score, and of the softmax's sum.
 */
const elementError =
  (device: DeviceCase, dtype: Activation, { attended }: Expected, D: number) =>
  (i: number) => {
    const score = 2 * D * 2 ** -24 * attended.scores[i]!;
    const probability = device.name === 'reference' ? 2 ** -24 : 2 ** -8 + score + 2 ** -20;
    return afterRounding(dtype, attended.exact[i]!, probability * attended.magnitudes[i]!);
  };

for (const device of [reference, ...devicesUnderTest])
  describe(`attention on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const cacheDtype of [dtype, 'fp8', 'int8'] as const)
        for (const given of casesOf(device, cacheDtype))
          for (const batch_invariant of isCuda(device) ? [0, 1] : [0])
            it(`${given.title}, ${dtype}${cacheDtype === dtype ? '' : ` with a cache of ${cacheDtype}`}${batch_invariant ? ', batch-invariant' : ''}`, () =>
              withBench(device, async (bench) => {
                const expected = expectations(dtype, cacheDtype, given);
                const args = prepareAttention(bench, dtype, given.shape, expected.sequences, cacheDtype);
                bench.run('attention', { ...args, batch_invariant });
                const out = await bench.read(args.out);
                const { exact, inBf16 } = expected.attended;
                assertClose(out, exact, elementError(device, dtype, expected, given.shape.headDim));
                if (out.length > 0) assert.ok(rmsError(out, exact) <= 2 * rmsError(inBf16, exact) || dtype === 'f32');
                await bench.requireGapsUntouched(args.out);
              }));

    it('gives the same step the same bits again', () =>
      withBench(device, async (bench) => {
        const shape = shapeOf('a group of 7', { window: 150 });
        const sequences = [200, 90, 1, 129].map((context, b) => cancelling(shape, { context, queries: 1 }, b));
        const args = prepareAttention(bench, 'bf16', shape, sequences);
        bench.run('attention', args);
        const first = await bench.read(args.out);
        bench.run('attention', args);
        assertSameBits(await bench.read(args.out), first);
      }));

    if (!supports(device, { headDim: 80 }))
      it('refuses a head dimension that it has no kernel for', () =>
        withBench(device, async (bench) => {
          const shape = shapeOf('all heads with their own KV head');
          bench.run('attention', prepareAttention(bench, 'bf16', shape, []));
          await assert.rejects(bench.stream.synchronized(), {
            code: 'unsupported',
            message: /attention: CUDA devices have kernels for head_dim 64 and 128, not 80/,
          });
        }));
  });

/** Chunks of a long context beside a whole prompt, decodes, and padding. */
const longSizes: Size[] = [
  { context: 1090, queries: 20 },
  { context: 5, queries: 5 },
  { context: 700, queries: 1 },
  { context: 0, queries: 2 },
  { context: 70, queries: 70 },
  { context: 515, queries: 6 },
];

describe('attention', () => {
  const shapes = [
    shapeOf('0.5B'),
    shapeOf('7B', { window: 90 }),
    shapeOf('all heads with their own KV head', { blockSize: 32 }),
  ];
  const sizes = [
    { context: 600, queries: 33 },
    { context: 5, queries: 5 },
    { context: 290, queries: 1 },
    { context: 64, queries: 20 },
  ];

  for (const simd of ['scalar', 'avx2', 'avx512'])
    for (const shape of shapes)
      it(`gives a row the same bits alone and in company, with any number of threads, on ${simd}, ${shape.heads} heads`, async function () {
        const device = { title: simd, name: 'cpu', simd };
        requireDevice(this, device);
        const sequences = sizes.map((size, b) => cancelling(shape, size, b));
        const together = await assertSameInCompany(device, shape, sequences);
        for (const threads of [2, 7])
          assertSameBits(await attendOn({ ...device, threads }, shape, sequences), together);
      });

  const invariant: { title: string; shape: AttentionShape; sizes: Size[]; cacheDtype?: CacheDType }[] = [
    { title: 'over two chunks of 512 keys', shape: shapeOf('0.5B'), sizes: longSizes },
    { title: 'a window that begins in a chunk', shape: shapeOf('0.5B', { window: 530 }), sizes: longSizes },
    { title: 'a window of less than a range', shape: shapeOf('a group of 7', { window: 50 }), sizes: longSizes },
    { title: 'tiles that end within a token', shape: shapeOf('a group of 30'), sizes: longSizes },
    { title: 'D = 128', shape: shapeOf('a group of 8', { blockSize: 48 }), sizes: longSizes },
    { title: 'a cache of fp8', shape: shapeOf('a group of 7'), sizes: longSizes, cacheDtype: 'fp8' },
    { title: 'a cache of int8', shape: shapeOf('a group of 8', { window: 700 }), sizes: longSizes, cacheDtype: 'int8' },
    {
      title: 'lengths at the bounds of chunks',
      shape: shapeOf('no groups'),
      sizes: [511, 512, 513, 1023, 1024, 1025].map((context) => ({ context, queries: 2 })),
    },
  ];
  for (const device of devicesUnderTest.filter(isCuda))
    for (const { title, shape, sizes, cacheDtype } of invariant)
      it(`gives a row the same bits alone and in company if it is asked to, on ${device.title}: ${title}`, async function () {
        requireDevice(this, device);
        const sequences = sizes.map((size, b) => cancelling(shape, size, b));
        await assertSameInCompany(device, shape, sequences, { cacheDtype, batchInvariant: 1 });
      });
});

interface Size {
  context: number;
  queries: number;
}

interface Asked {
  cacheDtype?: CacheDType | undefined;
  batchInvariant?: number;
}

function attendOn(
  device: DeviceCase,
  shape: AttentionShape,
  sequences: readonly AttentionSequence[],
  { cacheDtype = 'bf16', batchInvariant = 0 }: Asked = {},
): Promise<Float64Array> {
  return withBench(device, async (bench) => {
    const args = prepareAttention(bench, 'bf16', shape, sequences, cacheDtype);
    bench.run('attention', { ...args, batch_invariant: batchInvariant });
    return await bench.read(args.out);
  });
}

/**
 * Asserts that parts of the queries of each sequence, by themselves as the last tokens of a shorter context, get what all get
 * together.
 */
async function assertSameInCompany(
  device: DeviceCase,
  shape: AttentionShape,
  sequences: readonly AttentionSequence[],
  asked: Asked = {},
): Promise<Float64Array> {
  const together = await attendOn({ ...device, threads: 1 }, shape, sequences, asked);
  const width = shape.heads * shape.headDim;
  let start = 0;
  for (const sequence of sequences) {
    const whole = together.subarray(start * width, (start + sequence.queries) * width);
    for (const [from, count] of sequence.context > 0 ? partsOf(sequence.queries) : [])
      assertSameBits(
        await attendOn({ ...device, threads: 4 }, shape, [partOf(sequence, from, count)], asked),
        whole.subarray(from * width, (from + count) * width),
        `queries ${from} to ${from + count} of ${sequence.queries}`,
      );
    start += sequence.queries;
  }
  return together;
}

/**
 * A sequence whose values all but cancel: a row's sums are large and its result is small, so that fp32 sums in another
 * order show after the rounding to bf16.
 */
function cancelling(
  shape: AttentionShape,
  size: { context: number; queries: number },
  seed: number,
): AttentionSequence {
  const sequence = randomSequence(shape, 'bf16', { ...size, sharpness: 0.01 }, seed);
  const half = sequence.v.length / 2;
  return {
    ...sequence,
    v: heldAs(
      'bf16',
      sequence.v.map((value, i) => value + (i < half ? 64 : -64)),
    ),
  };
}

/** All queries, the first, the last, and some in between. */
const partsOf = (queries: number): [from: number, count: number][] => {
  const parts: [number, number][] = [
    [0, queries],
    [0, 1],
    [queries - 1, 1],
  ];
  if (queries > 8) parts.push([3, 4], [queries - 5, 5]);
  return parts;
};
