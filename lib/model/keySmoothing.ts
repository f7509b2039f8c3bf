import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { layerKey } from './names.js';
import type { Weights } from './weights.js';

/** Keys are not made smaller than this: what they are without a large bias. */
const usualKey = 8;

/**
 * Qwen2 adds biases to keys, and some are tens of times as large as all else in a head. Rounded to 8 bits with one scale,
 * the other columns would lose what tells tokens apart. So each column of such a head is divided by a factor, and the
 * queries are multiplied by it: scores are the same (SmoothAttention of arXiv:2405.04532, by the biases alone).
 */
export class KeySmoothing {
  readonly #layers: readonly (Tensor | undefined)[];

  private constructor(layers: readonly (Tensor | undefined)[]) {
    this.#layers = layers;
  }

  /** @throws out_of_memory */
  static async of(weights: Weights, device: Device, stream: Stream): Promise<KeySmoothing> {
    const { numHiddenLayers, numAttentionHeads, numKvHeads, headDim } = weights.plan.config;
    const biases = await Promise.all(
      Array.from({ length: numHiddenLayers }, (_, layer) => {
        const bias = weights
          .get(layerKey(layer, 'qkvBias'))
          .narrow(0, numAttentionHeads * headDim, numKvHeads * headDim);
        return stream.download(bias, new Float32Array(bias.size));
      }),
    );
    const layers: (Tensor | undefined)[] = [];
    const smoothing = new KeySmoothing(layers);
    try {
      for (const bias of biases) {
        const factors = smoothingFactors(bias, headDim);
        layers.push(factors && device.tensor('f32', [numKvHeads, headDim]));
        if (factors) stream.upload(layers.at(-1)!, factors);
      }
    } catch (error) {
      await smoothing.dispose();
      throw error;
    }
    return smoothing;
  }

  /** f32[Hkv, D]; undefined where no bias is large. */
  layer(layer: number): Tensor | undefined {
    return this.#layers[layer];
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#layers.map((tensor) => tensor?.storage.dispose()));
  }
}

/**
 * Factors f32[Hkv, D] for biases of keys [Hkv, D]; undefined if all are 1. Rotation turns columns j and j + D / 2 into each
 * other, so both have one factor; it is a power of two, which changes no bits but exponents.
 */
export function smoothingFactors(bias: Float32Array, headDim: number): Float32Array | undefined {
  const half = headDim / 2;
  const factors = bias.map((value, i) => {
    const partner = i % headDim < half ? i + half : i - half;
    const largest = Math.hypot(value, bias[partner]!);
    return 2 ** Math.max(0, Math.round(Math.log2(largest / usualKey)));
  });
  return factors.every((factor) => factor === 1) ? undefined : factors;
}
