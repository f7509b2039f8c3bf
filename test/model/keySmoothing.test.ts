import assert from 'node:assert/strict';
import { loadModel } from '../../lib/generation/loadModel.js';
import { smoothingFactors } from '../../lib/model/keySmoothing.js';
import {
  type FileTensor,
  floatTensor,
  modelTensors,
  removeFolders,
  safetensors,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { rmsError } from '../support/compare.js';
import { devicesUnderTest, isCuda, reference, requireDevice } from '../support/opBench.js';

describe('smoothing factors', () => {
  const factorsOf = (bias: number[], headDim: number) => {
    const factors = smoothingFactors(Float32Array.from(bias), headDim);
    return factors && [...factors];
  };
  const cases: { title: string; bias: number[]; headDim: number; factors: number[] | undefined }[] = [
    { title: 'none for biases that are no larger than keys are', bias: [0, 8, -6, 9], headDim: 2, factors: undefined },
    {
      title: 'powers of two, of a column and the one it turns into',
      bias: [0, 32, 0, 0],
      headDim: 4,
      factors: [1, 4, 1, 4],
    },
    { title: 'by both together', bias: [48, 0, -64, 1], headDim: 4, factors: [8, 1, 8, 1] },
    { title: 'head by head', bias: [1, 1, 300, 0], headDim: 2, factors: [1, 1, 32, 32] },
    { title: 'never below one', bias: [1e-30, 0, 16, 0], headDim: 2, factors: [1, 1, 2, 2] },
  ];
  for (const { title, bias, headDim, factors } of cases)
    it(title, () => assert.deepEqual(factorsOf(bias, headDim), factors));
});

describe('an int8 KV cache of a model with large biases of keys', () => {
  /** Heads of 64, which every device has kernels for. */
  const config = { ...smallConfig, hidden_size: 128 };
  const headDim = 64;
  const biased = [3, 20, 41];
  let folder: string;

  before(async () => {
    const tensors: Record<string, FileTensor> = modelTensors(config);
    for (let layer = 0; layer < config.num_hidden_layers; layer++) {
      const part = (name: string) => `model.layers.${layer}.self_attn.${name}`;
      const large = Float32Array.from({ length: headDim }, (_, j) => (biased.includes(j) ? 256 + 32 * (j % 5) : 0));
      tensors[part('k_proj.bias')] = floatTensor('BF16', [headDim], large);
      // As in models that were trained, queries hardly look where keys are large.
      for (const name of ['q_proj.weight', 'q_proj.bias']) silence(tensors[part(name)]!);
    }
    folder = await writeFolder({ 'config.json': config, 'model.safetensors': safetensors(tensors) });
  });
  after(removeFolders);

  /** Zeros in the rows of those columns, and of the columns that they turn into. */
  function silence({ shape, bytes }: FileTensor): void {
    const rowBytes = bytes.length / shape[0]!;
    for (let row = 0; row < shape[0]!; row++)
      if (biased.some((j) => j % (headDim / 2) === row % (headDim / 2)))
        bytes.fill(0, row * rowBytes, (row + 1) * rowBytes);
  }

  for (const device of [reference, ...devicesUnderTest])
    it(`stays near to one of bf16, nearer than fp8, on ${device.title}`, async function () {
      requireDevice(this, device);
      const tokens = Array.from({ length: isCuda(device) ? 24 : 60 }, (_, i) => (i * 37) % 120);
      const logitsWith = async (dtype: 'bf16' | 'int8' | 'fp8') => {
        const { name, simd, threads } = device;
        const model = await loadModel(folder, { device: name, simd, threads, contextLength: 64, kvCache: { dtype } });
        try {
          return await model.logits({ tokens });
        } finally {
          await model.dispose();
        }
      };
      const exact = await logitsWith('bf16');
      const size = rmsError(exact, new Float32Array(exact.length));
      const errorOf = async (dtype: 'int8' | 'fp8') => rmsError(await logitsWith(dtype), exact) / size;
      const [int8, fp8] = [await errorOf('int8'), await errorOf('fp8')];
      // Errors of fp8 grow with the keys.
      assert.ok(int8 < 0.08 && fp8 > 2 * int8, `int8 ${int8}, fp8 ${fp8}`);
    });
});
