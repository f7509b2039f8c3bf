import type { Qwen2Config } from '../checkpoint/config.js';
import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { Attention, type Placement } from '../nn/attention.js';
import { Embedding } from '../nn/embedding.js';
import { Linear, type Precision, SplitLinear, type Weight } from '../nn/linear.js';
import { Mlp, SplitSwiGlu, SwiGlu } from '../nn/mlp.js';
import { RmsNorm } from '../nn/rmsNorm.js';
import { blockSize, type KvCache } from './kvCache.js';
import { layerKey } from './names.js';
import type { Step } from './step.js';
import type { Weights } from './weights.js';
import type { Activations, Workspace } from './workspace.js';

export type { Precision } from '../nn/linear.js';

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
    weights: Weights,
    precision: Precision,
    cache: KvCache,
    workspace: Workspace,
    device: Device,
    stream: Stream,
  ) {
    const { config } = weights.plan;
    this.config = config;
    this.#workspace = workspace;
    this.#lmHead = linear(weights, 'lmHead', precision);
    this.#embedding = new Embedding(weights.get(config.tieWordEmbeddings ? 'lmHead' : 'embedding'));
    this.#layers = cache.layers.map((_, layer) => buildLayer(weights, precision, cache, layer));
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
    const { x, residual, hidden } = activations;
    const placement = this.#place(stream, step, activations);
    this.#embedding.forward(stream, step.ids, residual);
    observe?.('embed', residual);
    for (const [i, { inputNorm, attention, postAttentionNorm, mlp }] of this.#layers.entries()) {
      if (i === 0) inputNorm.forward(stream, residual, x);
      else inputNorm.addForward(stream, x, residual, x);
      if (i > 0) observe?.(`layer.${i - 1}.out`, residual);
      attention.forward(stream, x, placement, activations, x);
      observe?.(`layer.${i}.attn_out`, x);
      postAttentionNorm.addForward(stream, x, residual, x);
      mlp.forward(stream, x, hidden, x, activations);
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
    this.#lmHead.forward(stream, head.x, head.logits, head.permuted);
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

function buildLayer(weights: Weights, precision: Precision, cache: KvCache, layer: number): DecoderLayer {
  const { config } = weights.plan;
  const key = (part: string) => layerKey(layer, part);
  const linearOf = (part: string, bias?: Tensor) => linear(weights, key(part), precision, bias);
  const { numAttentionHeads: numHeads, numKvHeads, headDim, rmsNormEps } = config;
  const window = config.slidingWindows[layer] ?? 0;
  const bias = weights.get(key('qkvBias'));
  const q = numHeads * headDim;
  const kv = numKvHeads * headDim;
  const qkv = weights.has(key('qkv'))
    ? linearOf('qkv', bias)
    : new SplitLinear([
        linearOf('q', bias.narrow(0, 0, q)),
        linearOf('k', bias.narrow(0, q, kv)),
        linearOf('v', bias.narrow(0, q + kv, kv)),
      ]);
  const gateUp = weights.has(key('gateUp'))
    ? new SwiGlu(weightOf(weights, key('gateUp')), precision)
    : new SplitSwiGlu(linearOf('gate'), linearOf('up'));
  return {
    inputNorm: new RmsNorm(weights.get(key('inputNorm')), rmsNormEps),
    attention: new Attention(
      qkv,
      linearOf('output'),
      cache.layers[layer]!,
      {
        ...{ numHeads, numKvHeads, headDim, cacheDtype: cache.dtype, blockSize, window },
        batchInvariant: precision.batchInvariant,
      },
      cache.smoothing?.layer(layer),
    ),
    postAttentionNorm: new RmsNorm(weights.get(key('postAttentionNorm')), rmsNormEps),
    mlp: new Mlp(gateUp, linearOf('down')),
  };
}

function linear(weights: Weights, target: string, precision: Precision, bias?: Tensor): Linear {
  return new Linear(weightOf(weights, target), bias, precision);
}

function weightOf(weights: Weights, target: string): Weight {
  return { tensor: weights.get(target), order: weights.order(target) };
}
