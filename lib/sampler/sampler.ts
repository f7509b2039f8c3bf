import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import { Tensor } from '../native/tensor.js';
import type { ResolvedSamplingParameters } from './parameters.js';

/** What the sampler needs to know of a sequence whose next token is chosen. */
export interface SamplerInput {
  /** Identifies the sequence from call to call. */
  key: object;
  parameters: ResolvedSamplingParameters;
  choice: number;
  /** Prompt and output so far. With penalties, all of it when the sequence comes for the first time. */
  tokens: readonly number[];
  promptLength: number;
  /** Which token of the output is chosen, from 0 on. */
  index: number;
  /** Tokens that must not be chosen. */
  banned: ReadonlySet<number>;
}

/** One row of the answer. Alternatives: most probable first, as many as any row of the call asked for. */
export interface Sampled {
  token: number;
  logprob: number;
  rank: number;
  topIds: Int32Array;
  topLogprobs: Float32Array;
}

/** Columns of `sample`'s parameter tensors (csrc/ops/sample/sample.h). */
const parameterColumns = 6;
const choiceColumns = 5;

/**
 * Chooses tokens on the device: turns sampling parameters into tensors, and keeps what penalties need to know of each
 * sequence, its history, in device memory.
 */
export class Sampler {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #vocabularySize: number;
  readonly #rows: number;
  /** f32[rows, 6], i32[rows, 5] and i32[rows], for the rows of a call: uploaded in one piece. */
  readonly #inputs: Tensor;
  /** i32[rows], f32[rows] and i32[rows], downloaded in one piece. */
  readonly #outputs: Tensor;
  /** i32[rows]: the tokens that the last call chose. */
  readonly chosen: Tensor;
  #top: { ids: Tensor; logprobs: Tensor } | undefined;
  #biases: { starts: Tensor; ids: Tensor; values: Tensor } | undefined;
  #history: { promptMasks: Tensor; counts: Tensor } | undefined;
  readonly #historyRows = new Map<object, number>();
  readonly #freeRows: number[];

  /** @param rows sequences of one call at most */
  constructor(device: Device, stream: Stream, vocabularySize: number, rows: number) {
    this.#device = device;
    this.#stream = stream;
    this.#vocabularySize = vocabularySize;
    this.#rows = rows;
    this.#inputs = device.tensor('i32', [padded(rows) * (parameterColumns + choiceColumns + 1)]);
    this.#outputs = device.tensor('i32', [3 * padded(rows)]);
    this.chosen = this.#outputs.narrow(0, 0, rows);
    this.#freeRows = Array.from({ length: rows }, (_, row) => rows - 1 - row);
  }

  /** Enqueues the choice of one token for each row of logits f32[B, V]; `chosen` has them. */
  async sample(logits: Tensor, inputs: readonly SamplerInput[]): Promise<Sampled[]> {
    const count = inputs.length;
    const top = this.#topTensors(count, inputs);
    this.#stream.run('sample', {
      logits,
      ...this.#uploadParameters(inputs),
      ...this.#uploadBiases(inputs),
      tokens: this.chosen.narrow(0, 0, count),
      logprobs: part(this.#outputs, 'f32', padded(this.#rows), count),
      ranks: part(this.#outputs, 'i32', 2 * padded(this.#rows), count),
      top_ids: top?.ids,
      top_logprobs: top?.logprobs,
      prompt_masks: this.#history?.promptMasks,
      counts: this.#history?.counts,
    });
    return this.#read(count, top);
  }

  /** Forgets a sequence; its history, if it had one, is built anew when it comes again. */
  forget(key: object): void {
    const row = this.#historyRows.get(key);
    if (row === undefined) return;
    this.#historyRows.delete(key);
    this.#freeRows.push(row);
  }

  async dispose(): Promise<void> {
    const groups = [this.#top ?? {}, this.#biases ?? {}, this.#history ?? {}];
    const tensors = [this.#inputs, this.#outputs, ...groups.flatMap((group) => Object.values(group) as Tensor[])];
    await Promise.all(tensors.map((tensor) => tensor.storage.dispose()));
  }

  #uploadParameters(inputs: readonly SamplerInput[]) {
    const count = inputs.length;
    const choicesAt = padded(count) * parameterColumns;
    const rowsAt = choicesAt + padded(count) * choiceColumns;
    const words = new Int32Array(rowsAt + padded(count));
    const floats = new Float32Array(words.buffer);
    for (let i = 0; i < count; i++) {
      const input = inputs[i]!;
      const { parameters: given, choice, index } = input;
      let at = i * parameterColumns;
      floats[at++] = given.temperature;
      floats[at++] = given.topP;
      floats[at++] = given.minP;
      floats[at++] = given.repetitionPenalty;
      floats[at++] = given.presencePenalty;
      floats[at++] = given.frequencyPenalty;
      at = choicesAt + i * choiceColumns;
      words[at++] = given.topK;
      words[at++] = given.seed;
      words[at++] = Math.floor(given.seed / 2 ** 32);
      words[at++] = choice;
      words[at++] = index;
      words[rowsAt + i] = this.#historyRow(input);
    }
    this.#stream.upload(this.#inputs.narrow(0, 0, words.length), words);
    return {
      parameters: part(this.#inputs, 'f32', 0, count, parameterColumns),
      choices: part(this.#inputs, 'i32', choicesAt, count, choiceColumns),
      rows: part(this.#inputs, 'i32', rowsAt, count),
    };
  }

  /** The state row of a sequence with penalties, loaded with its history when it is new; −1 for the others. */
  #historyRow(input: SamplerInput): number {
    const { repetitionPenalty, presencePenalty, frequencyPenalty } = input.parameters;
    if (repetitionPenalty === 1 && presencePenalty === 0 && frequencyPenalty === 0) return -1;
    const known = this.#historyRows.get(input.key);
    if (known !== undefined) return known;
    const row = this.#freeRows.pop()!;
    this.#historyRows.set(input.key, row);
    this.#loadHistory(input, row);
    return row;
  }

  #loadHistory({ tokens, promptLength }: SamplerInput, row: number): void {
    const words = Math.ceil(this.#vocabularySize / 32);
    this.#history ??= {
      promptMasks: this.#device.tensor('i32', [this.#rows, words]),
      counts: this.#device.tensor('i32', [this.#rows, this.#vocabularySize]),
    };
    const history = this.#device.tensor('i32', [tokens.length]);
    this.#stream.upload(history, Int32Array.from(tokens));
    this.#stream.run('load_history', {
      prompt: history.narrow(0, 0, promptLength),
      output: history.narrow(0, promptLength, tokens.length - promptLength),
      prompt_masks: this.#history.promptMasks,
      counts: this.#history.counts,
      row,
    });
    void history.storage.dispose();
  }

  #uploadBiases(inputs: readonly SamplerInput[]) {
    const starts = new Int32Array(inputs.length + 1);
    const ids: number[] = [];
    const values: number[] = [];
    for (let i = 0; i < inputs.length; i++) {
      const { parameters, banned } = inputs[i]!;
      for (const [id, bias] of parameters.logitBias) {
        ids.push(id);
        values.push(bias);
      }
      for (const id of banned) {
        ids.push(id);
        values.push(Number.NEGATIVE_INFINITY);
      }
      starts[i + 1] = ids.length;
    }
    if (ids.length === 0) return {};
    const tensors = this.#biasTensors(ids.length);
    const uploaded = {
      bias_starts: tensors.starts.narrow(0, 0, starts.length),
      bias_ids: tensors.ids.narrow(0, 0, ids.length),
      bias_values: tensors.values.narrow(0, 0, ids.length),
    };
    this.#stream.upload(uploaded.bias_starts, starts);
    this.#stream.upload(uploaded.bias_ids, Int32Array.from(ids));
    this.#stream.upload(uploaded.bias_values, Float32Array.from(values));
    return uploaded;
  }

  /** Room for so many biases; doubles when it has to grow. */
  #biasTensors(count: number) {
    const old = this.#biases;
    if (old !== undefined && old.ids.shape[0]! >= count) return old;
    const capacity = 2 ** Math.ceil(Math.log2(Math.max(count, 64)));
    this.#biases = {
      starts: this.#device.tensor('i32', [this.#rows + 1]),
      ids: this.#device.tensor('i32', [capacity]),
      values: this.#device.tensor('f32', [capacity]),
    };
    for (const tensor of Object.values(old ?? {})) void tensor.storage.dispose();
    return this.#biases;
  }

  /** Where alternatives go: [count, L] for the largest number L that a row asks for, or nothing. */
  #topTensors(count: number, inputs: readonly SamplerInput[]) {
    const width = Math.max(...inputs.map(({ parameters }) => parameters.logprobs ?? 0));
    if (width === 0) return undefined;
    const size = this.#rows * maxLogprobs;
    this.#top ??= { ids: this.#device.tensor('i32', [size]), logprobs: this.#device.tensor('f32', [size]) };
    return {
      ids: this.#top.ids.narrow(0, 0, count * width).view(count, width),
      logprobs: this.#top.logprobs.narrow(0, 0, count * width).view(count, width),
    };
  }

  async #read(count: number, top: { ids: Tensor; logprobs: Tensor } | undefined): Promise<Sampled[]> {
    const width = top?.ids.shape[1] ?? 0;
    const [words, topIds, topLogprobs] = await Promise.all([
      this.#stream.download(this.#outputs, new Int32Array(this.#outputs.size)),
      top && this.#stream.download(top.ids, new Int32Array(count * width)),
      top && this.#stream.download(top.logprobs, new Float32Array(count * width)),
    ]);
    const logprobs = new Float32Array(words.buffer, 4 * padded(this.#rows));
    const ranksAt = 2 * padded(this.#rows);
    return Array.from({ length: count }, (_, i) => ({
      token: words[i]!,
      logprob: logprobs[i]!,
      rank: words[ranksAt + i]!,
      topIds: topIds?.subarray(i * width, (i + 1) * width) ?? noIds,
      topLogprobs: topLogprobs?.subarray(i * width, (i + 1) * width) ?? noLogprobs,
    }));
  }
}

const noIds = new Int32Array(0);
const noLogprobs = new Float32Array(0);

/** Rows of which each column begins at a multiple of 16 bytes. */
function padded(rows: number): number {
  return 4 * Math.ceil(rows / 4);
}

/** A tensor of 4-byte elements, `at` elements into another. */
function part(whole: Tensor, dtype: 'f32' | 'i32', at: number, ...shape: number[]): Tensor {
  return new Tensor(whole.storage, dtype, shape, { byteOffset: whole.byteOffset + 4 * at });
}

/** Alternatives that `logprobs` and `promptLogprobs` may ask for. */
export const maxLogprobs = 20;
