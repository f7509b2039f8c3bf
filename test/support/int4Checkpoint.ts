import { parseConfig } from '../../lib/checkpoint/config.js';
import { type SourceTensor, sourceTensors } from '../../lib/model/names.js';
import { type FileTensor, floatTensor, modelTensors, safetensors, smallConfig } from './checkpointFiles.js';
import { dequantized, type Int4Format, type Int4Matrix, randomInt4, toWords } from './int4Formats.js';
import { Random } from './random.js';

export interface Int4CheckpointOptions {
  format: Int4Format;
  /** What config.json says: −1 is one group of all columns. */
  groupSize?: number;
  /** Whether columns are in another order than their groups: one for each input, or one for each matrix. */
  order?: 'none' | 'input' | 'matrix';
  /** Modules that stay in bf16. */
  keep?: (module: string) => boolean;
  /** Every zero is 8. */
  symmetric?: boolean;
  /** Fields of quantization_config instead of those that fit. */
  says?: object;
  /** Biases of zeros, as some exporters write them. */
  zeroBiases?: boolean;
}

/** Heads as wide as every device takes them. */
const int4Config = { ...smallConfig, head_dim: 64 };

type Files = Record<string, object>;

/** A small checkpoint with 4-bit weights, and the same weights in bf16, which holds them exactly. */
export function int4Twins(options: Int4CheckpointOptions): {
  int4: Files;
  bf16: Files;
  tensors: Record<string, FileTensor>;
} {
  const { format, groupSize = 32, keep = () => false, symmetric = false, says = {} } = options;
  const plain = modelTensors(int4Config);
  const int4: Record<string, FileTensor> = {};
  const bf16: Record<string, FileTensor> = {};
  for (const [i, source] of sourceTensors(parseConfig(int4Config, 'config')).entries()) {
    const module = source.name.replace(/\.weight$/, '');
    if (!/_proj\.weight$/.test(source.name) || keep(module)) {
      int4[source.name] = bf16[source.name] = plain[source.name]!;
      continue;
    }
    const [N, K] = source.shape as [number, number];
    const G = groupSize === -1 ? 1 : K / groupSize;
    // Powers of two, so that bf16 holds scale · (q − zero).
    const scales = new Random(i);
    const scale = () => (scales.integer(5, 8) + 1) << 10;
    const matrix = randomInt4(N, K, G, i, symmetric ? { scale, zero: () => 8 } : { scale });
    const columns = columnsOf(source, K, G, options.order ?? 'none');
    bf16[source.name] = floatTensor('BF16', [N, K], inCheckpointOrder(matrix, columns));
    Object.assign(int4, tensorsOf(module, format, matrix, columns, options));
  }
  const quantization_config = {
    bits: 4,
    group_size: groupSize,
    ...(format === 'awq'
      ? { quant_method: 'awq', version: 'gemm', zero_point: true }
      : { quant_method: 'gptq', sym: symmetric, checkpoint_format: format === 'gptqV2' ? 'gptq_v2' : 'gptq' }),
    ...says,
  };
  return {
    int4: { 'config.json': { ...int4Config, quantization_config }, 'model.safetensors': safetensors(int4) },
    bf16: { 'config.json': int4Config, 'model.safetensors': safetensors(bf16) },
    tensors: int4,
  };
}

function tensorsOf(
  module: string,
  format: Int4Format,
  matrix: Int4Matrix,
  columns: number[] | undefined,
  { zeroBiases = false }: Int4CheckpointOptions,
): Record<string, FileTensor> {
  const { N, K, G } = matrix;
  const { qweight, qzeros, scales } = toWords(format, matrix, columns);
  const tensors: Record<string, FileTensor> = {
    qweight: wordsTensor(qweight, format === 'awq' ? [K, N / 8] : [K / 8, N]),
    qzeros: wordsTensor(qzeros, [G, N / 8]),
    scales: { dtype: 'F16', shape: [G, N], bytes: new Uint8Array(scales.buffer) },
  };
  if (format !== 'awq') {
    const groupOf = new Int32Array(K);
    for (let j = 0; j < K; j++) groupOf[columns?.[j] ?? j] = Math.floor((j * G) / K);
    tensors.g_idx = wordsTensor(groupOf, [K]);
  }
  if (zeroBiases && !/[qkv]_proj$/.test(module)) tensors.bias = floatTensor('F16', [N], new Float32Array(N));
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [`${module}.${name}`, tensor]));
}

export function wordsTensor(words: Int32Array, shape: number[]): FileTensor {
  return { dtype: 'I32', shape, bytes: new Uint8Array(words.buffer) };
}

/** Which column of the checkpoint is column j of the groups, ascending within each group as a g_idx tells them. */
function columnsOf({ target, name }: SourceTensor, K: number, G: number, order: 'none' | 'input' | 'matrix') {
  if (order === 'none') return undefined;
  const key = order === 'input' ? target : name;
  const random = new Random([...key].reduce((sum, letter) => sum * 31 + letter.charCodeAt(0), 7));
  const shuffled = Array.from({ length: K }, (_, k) => k);
  for (let i = K - 1; i > 0; i--) {
    const j = random.integer(0, i);
    [shuffled[i], shuffled[j]] = [shuffled[j]!, shuffled[i]!];
  }
  const size = K / G;
  return Array.from({ length: G }, (_, g) => shuffled.slice(g * size, (g + 1) * size).sort((a, b) => a - b)).flat();
}

function inCheckpointOrder(matrix: Int4Matrix, columns: number[] | undefined): Float32Array {
  const { N, K } = matrix;
  const { weight } = dequantized([matrix]);
  const values = new Float32Array(N * K);
  for (let n = 0; n < N; n++) for (let j = 0; j < K; j++) values[n * K + (columns?.[j] ?? j)] = weight[n * K + j]!;
  return values;
}
