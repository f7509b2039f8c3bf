import { int4FormatIndex } from '../checkpoint/quantization.js';
import type { TensorEntry } from '../checkpoint/safetensors.js';
import { type TensorReader, wholeOf } from '../checkpoint/tensorReader.js';
import type { Device } from '../native/device.js';
import { throwIfAborted } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import type { DType, Tensor } from '../native/tensor.js';
import { DeviceScope } from './deviceScope.js';
import { namingTensor } from './namingTensor.js';
import { type GroupSize, wordRows } from './shards.js';

export interface SearchOptions {
  groupSize: GroupSize;
  clipSteps: number;
  signal?: AbortSignal | undefined;
}

export interface ChosenScales {
  /** By how much each column of the matrices is multiplied, and its input divided. */
  scales: Float32Array<ArrayBuffer>;
  /** α: the scales are mean|x|^α, normalized. */
  ratio: number;
  /** For each ratio that was tried, Σ (Q(W·diag(s))·(x / s) − W·x)² over tokens, rows and matrices. The first has s = 1. */
  errors: readonly number[];
}

/** α = i / 20, i < 20. */
const ratios = 20;
/** Means of inputs below this count as this: a column that is hardly ever used is not to set the range of all scales. */
const leastMagnitude = 1e-4;
/** Tokens whose outputs are compared at once. */
const tokensAtOnce = 2048;

/**
 * AWQ's search (Lin et al., arXiv:2306.00978): the columns that large inputs are multiplied with are scaled up before they
 * are rounded, and the inputs down, so that they lose less, at the expense of those that matter less. How much is tried out,
 * with the very rounding that is written.
 */
export class ScaleSearch {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #reader: TensorReader;
  readonly #options: SearchOptions;

  constructor(device: Device, stream: Stream, reader: TensorReader, options: SearchOptions) {
    this.#device = device;
    this.#stream = stream;
    this.#reader = reader;
    this.#options = options;
  }

  /**
   * Chooses the scales of matrices [N, K] that have the input x, bf16[T, K], together. Memory: one matrix three times, its
   * outputs in f32, and some of x.
   *
   * @throws aborted, io_error, out_of_memory; invalid_checkpoint for a number that is not finite
   */
  async run(x: Tensor, matrices: readonly TensorEntry[]): Promise<ChosenScales> {
    const magnitudes = await this.#meanMagnitudes(x);
    const errors = new Array<number>(ratios).fill(0);
    for (const matrix of matrices)
      await namingTensor(matrix, this.#stream, async () => {
        for await (const [i, error] of this.#errorsOf(matrix, x, magnitudes)) errors[i]! += error;
      });
    const best = errors.indexOf(Math.min(...errors));
    return { scales: scalesAt(magnitudes, best / ratios), ratio: best / ratios, errors };
  }

  async #meanMagnitudes(x: Tensor): Promise<Float32Array> {
    const [T, K] = x.shape as [number, number];
    const scope = new DeviceScope(this.#device);
    try {
      const sums = await scope.tensor('f32', [K]);
      this.#stream.run('column_norms', { a: x, out: sums, power: 1 });
      return (await this.#stream.download(sums, new Float32Array(K))).map((sum) => sum / T);
    } finally {
      await scope.dispose();
    }
  }

  /** The error of a matrix at each ratio. */
  async *#errorsOf(matrix: TensorEntry, x: Tensor, magnitudes: Float32Array): AsyncGenerator<[number, number]> {
    const scope = new DeviceScope(this.#device);
    try {
      const source = await scope.tensor(matrix.dtype as DType, matrix.shape);
      await this.#reader.read(wholeOf(matrix), source);
      const expected = await this.#outputs(source, x, scope);
      const candidate = await Candidate.allocate(scope, matrix.shape as [number, number], x, this.#options);
      for (let i = 0; i < ratios; i++) {
        throwIfAborted(this.#options.signal, 'Quantizing');
        candidate.round(this.#stream, source, scalesAt(magnitudes, i / ratios));
        const errors = candidate.compare(this.#stream, x, expected);
        const sums = await this.#stream.download(errors, new Float32Array(errors.size));
        yield [i, sums.reduce((total, sum) => total + sum, 0)];
      }
    } finally {
      await scope.dispose();
    }
  }

  /** x[T, K] · sourceᵀ, f32[T, N]. */
  async #outputs(source: Tensor, x: Tensor, scope: DeviceScope): Promise<Tensor> {
    const [N, K] = source.shape as [number, number];
    const out = await scope.tensor('f32', [x.shape[0]!, N]);
    const packing = new DeviceScope(this.#device);
    try {
      const weight = await packing.weight(N, K);
      this.#stream.run('linear_pack', { source, weight, row_offset: 0 });
      this.#stream.run('linear', { x, weight, out, batch_invariant: 0 });
      await this.#stream.synchronized();
    } finally {
      await packing.dispose();
    }
    return out;
  }
}

/** A matrix rounded by way of some scales, and what it makes of scaled inputs. */
class Candidate {
  readonly #clipSteps: number;
  readonly #scales: Tensor;
  readonly #inverse: Tensor;
  readonly #words: { qweight: Tensor; qzeros: Tensor; scales: Tensor };
  readonly #weight: Tensor;
  /** bf16[tokensAtOnce, K] */
  readonly #x: Tensor;
  /** f32[tokensAtOnce, N] */
  readonly #out: Tensor;
  /** f32[parts of T, N] */
  readonly #errors: Tensor;

  static async allocate(
    scope: DeviceScope,
    [N, K]: readonly [number, number],
    x: Tensor,
    { groupSize, clipSteps }: SearchOptions,
  ): Promise<Candidate> {
    const T = x.shape[0]!;
    const tokens = Math.min(T, tokensAtOnce);
    const G = K / groupSize;
    return new Candidate(clipSteps, {
      scales: await scope.tensor('f32', [K]),
      inverse: await scope.tensor('f32', [K]),
      words: {
        qweight: await scope.tensor('i32', [K, N / wordRows]),
        qzeros: await scope.tensor('i32', [G, N / wordRows]),
        scales: await scope.tensor('f16', [G, N]),
      },
      weight: await scope.weight(N, K, { dtype: 'int4', group: groupSize }),
      x: await scope.tensor('bf16', [tokens, K]),
      out: await scope.tensor('f32', [tokens, N]),
      errors: await scope.tensor('f32', [Math.ceil(T / tokensAtOnce), N]),
    });
  }

  private constructor(
    clipSteps: number,
    tensors: {
      words: { qweight: Tensor; qzeros: Tensor; scales: Tensor };
    } & Record<'scales' | 'inverse' | 'weight' | 'x' | 'out' | 'errors', Tensor>,
  ) {
    this.#clipSteps = clipSteps;
    this.#scales = tensors.scales;
    this.#inverse = tensors.inverse;
    this.#words = tensors.words;
    this.#weight = tensors.weight;
    this.#x = tensors.x;
    this.#out = tensors.out;
    this.#errors = tensors.errors;
  }

  /** Enqueues the rounding of source · diag(scales). */
  round(stream: Stream, source: Tensor, scales: Float32Array): void {
    stream.upload(this.#scales, scales);
    stream.upload(this.#inverse, inverseOf(scales));
    const rounding = { ...this.#words, column_scales: this.#scales, clip_steps: this.#clipSteps };
    stream.run('quantize_int4', { source, ...rounding });
    const format = int4FormatIndex.awq;
    stream.run('linear_int4_pack', { ...this.#words, weight: this.#weight, format, row_offset: 0 });
  }

  /** Enqueues the sums, by row of the matrix, of squared differences from what was expected. */
  compare(stream: Stream, x: Tensor, expected: Tensor): Tensor {
    const T = x.shape[0]!;
    for (let part = 0; part < this.#errors.shape[0]!; part++) {
      const first = part * tokensAtOnce;
      const tokens = Math.min(tokensAtOnce, T - first);
      const [scaled, out] = [this.#x.narrow(0, 0, tokens), this.#out.narrow(0, 0, tokens)];
      stream.run('scale', { source: x.narrow(0, first, tokens), column_scales: this.#inverse, out: scaled });
      stream.run('linear_int4', { x: scaled, weight: this.#weight, out, exact: 1, batch_invariant: 0 });
      const errors = this.#errors.narrow(0, part, 1).view(this.#errors.shape[1]!);
      stream.run('column_norms', { a: expected.narrow(0, first, tokens), b: out, out: errors, power: 2 });
    }
    return this.#errors;
  }
}

/** magnitudes^ratio, with the largest and the smallest as far above 1 as below. */
function scalesAt(magnitudes: Float32Array, ratio: number): Float32Array<ArrayBuffer> {
  const scales = Float32Array.from(magnitudes, (magnitude) => Math.max(magnitude, leastMagnitude) ** ratio);
  let [least, most] = [Number.POSITIVE_INFINITY, 0];
  for (const scale of scales) {
    least = Math.min(least, scale);
    most = Math.max(most, scale);
  }
  const middle = Math.sqrt(least * most);
  return scales.map((scale) => scale / middle);
}

export function inverseOf(scales: Float32Array): Float32Array<ArrayBuffer> {
  return Float32Array.from(scales, (scale) => 1 / scale);
}
