import type { Qwen2Config } from '../checkpoint/config.js';
import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { Attention, type Placement } from '../nn/attention.js';
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import { Mlp } from '../nn/mlp.js';
import { RmsNorm } from '../nn/rmsNorm.js';
import { blockSize, type KvCache } from './kvCache.js';
import { layerKey } from './names.js';
import type { Step } from './step.js';
import type { Weights } from './weights.js';
import type { Activations, Workspace } from './workspace.js';

/** Called with every state that has a name, at the place in the stream where it holds. For tests. */
export type Observer = (name: string, state: Tensor) => void;

interface DecoderLayer {
  inputNorm: RmsNorm;
  attention: Attention;
  postAttentionNorm: RmsNorm;
  mlp: Mlp;
}

/**
 * The Qwen2 decoder (arXiv:2407.10671): pre-norm transformer with RMSNorm, grouped-query attention with biases on q, k and
 * v, rotary positions, and SwiGLU.
 */
export class Qwen2 {
  readonly config: Qwen2Config;
  readonly #embedding: Embedding;
  readonly #layers: readonly DecoderLayer[];
  readonly #norm: RmsNorm;
  readonly #lmHead: Linear;
  readonly #frequencies: Tensor;
  readonly #workspace: Workspace;

  constructor(
    config: Qwen2Config,
    weights: Weights,
    cache: KvCache,
    workspace: Workspace,
    device: Device,
    stream: Stream,
  ) {
    this.config = config;
    this.#workspace = workspace;
    this.#lmHead = new Linear(weights.get('lmHead'));
    this.#embedding = new Embedding(config.tieWordEmbeddings ? this.#lmHead.weight : weights.get('embedding'));
    this.#layers = cache.layers.map((_, layer) => buildLayer(config, weights, cache, layer));
    this.#norm = new RmsNorm(weights.get('norm'), config.rmsNormEps);
    this.#frequencies = device.tensor('f32', [config.headDim / 2]);
    stream.upload(this.#frequencies, config.rope.inverseFrequencies);
  }

  /**
   * Enqueues a step through all layers: writes the tokens' keys and values to the cache, and leaves their last states in
   * the workspace, for `logits`.
   */
  forward(stream: Stream, step: Step, observe?: Observer): void {
    const activations = this.#workspace.step(step.ids.shape[0]!);
    const { x, residual, qkv, heads, hidden } = activations;
    const placement = this.#place(stream, step, activations);
    this.#embedding.forward(stream, step.ids, residual);
    observe?.('embed', residual);
    for (const [i, { inputNorm, attention, postAttentionNorm, mlp }] of this.#layers.entries()) {
      if (i === 0) inputNorm.forward(stream, residual, x);
      else inputNorm.addForward(stream, x, residual, x);
      if (i > 0) observe?.(`layer.${i - 1}.out`, residual);
      attention.forward(stream, x, placement, qkv, heads, x);
      observe?.(`layer.${i}.attn_out`, x);
      postAttentionNorm.addForward(stream, x, residual, x);
      mlp.forward(stream, x, hidden, x);
      observe?.(`layer.${i}.mlp_out`, x);
    }
  }

  /**
   * Enqueues the LM head for some tokens of the last step. rows i32[R], at most as many as the workspace has room for →
   * logits f32[R, V], which hold until the next call.
   */
  logits(stream: Stream, tokens: number, rows: Tensor, observe?: Observer): Tensor {
    const { x, residual } = this.#workspace.step(tokens);
    const head = this.#workspace.head(rows.shape[0]!);
    stream.run('gather_rows', { x, rows, out: head.x });
    stream.run('gather_rows', { x: residual, rows, out: head.residual });
    this.#norm.addForward(stream, head.x, head.residual, head.x);
    observe?.(`layer.${this.#layers.length - 1}.out`, head.residual);
    observe?.('norm', head.x);
    this.#lmHead.forward(stream, head.x, head.logits);
    return head.logits;
  }

  /** Where `logits` leaves the logits of so many rows: f32[R, V]. */
  logitsView(rows: number): Tensor {
    return this.#workspace.head(rows).logits;
  }

  dispose(): Promise<void> {
    return this.#frequencies.storage.dispose();
  }

  #place(stream: Stream, step: Step, { ropeTable }: Activations): Placement {
    const { positions, slots, blockTables, queryStarts, contextLengths } = step;
    const scale = this.config.rope.attentionFactor;
    stream.run('rope_table', { positions, frequencies: this.#frequencies, table: ropeTable, scale });
    return { ropeTable, slots, blockTables, queryStarts, contextLengths };
  }
}

function buildLayer(config: Qwen2Config, weights: Weights, cache: KvCache, layer: number): DecoderLayer {
  const weight = (part: string) => weights.get(layerKey(layer, part));
  const { numAttentionHeads: numHeads, numKvHeads, headDim, rmsNormEps } = config;
  const window = config.slidingWindows[layer] ?? 0;
  return {
    inputNorm: new RmsNorm(weight('inputNorm'), rmsNormEps),
    attention: new Attention(
      new Linear(weight('qkv'), weight('qkvBias')),
      new Linear(weight('output')),
      cache.layers[layer]!,
      { numHeads, numKvHeads, headDim, blockSize, window },
    ),
    postAttentionNorm: new RmsNorm(weight('postAttentionNorm'), rmsNormEps),
    mlp: new Mlp(weight('gateUp'), new Linear(weight('down'))),
  };
}
