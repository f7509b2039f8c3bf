import { blockSize } from '../model/kvCache.js';
import type { Qwen2 } from '../model/qwen2.js';
import type { HostStep, Step, StepInputs } from '../model/step.js';
import type { Device } from '../native/device.js';
import type { Graph, Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { maxLogprobs, type Sampled, type Sampler } from '../sampler/sampler.js';
import type { StepEntry } from './scheduler.js';
import type { Logprobs, PromptPart, Sequence, TokenLogprob } from './sequence.js';

/** What a step found out about one sequence. */
export interface StepOutcome {
  sequence: Sequence;
  /** Tokens of the sequence that are computed. */
  end: number;
  /** Of its prompt, in order. */
  prompt: readonly PromptPart[];
  /** The next token, if all tokens before it are computed. */
  token: number | undefined;
  logprobs: Logprobs | undefined;
}

/** The same of all sequences of a step. */
interface StepResults {
  /** Of the entries that choose a token, in their order. */
  sampled: readonly Sampled[];
  prompts: ReadonlyMap<Sequence, readonly PromptPart[]>;
}

const noPrompts: ReadonlyMap<Sequence, readonly PromptPart[]> = new Map();
const noParts: readonly PromptPart[] = [];

/** Carries out steps on the device: uploads them, runs the decoder, samples. */
export class Runner {
  readonly #device: Device;
  /** Of a step, at most. */
  readonly #sequences: number;
  readonly #stream: Stream;
  readonly #model: Qwen2;
  readonly #inputs: StepInputs;
  readonly #sampler: Sampler;
  /** i32[logitRows]: the rows of the step that get logits, and those that do where every row does: 0, 1, 2, … */
  readonly #rows: Tensor;
  readonly #everyRow: Tensor;
  /** i32[sequences]: of the tokens that the last step chose, those that are ids of this one. */
  readonly #picks: Tensor;
  readonly #promptOutputs: PromptOutputs;
  readonly #uploadedBlocks: { blocks: readonly number[]; count: number }[] = [];
  /** Captured steps of one token a sequence, by the number of rows. */
  readonly #graphs = new Map<number, Graph>();
  readonly #capture: boolean;

  /** @param options.capture whether steps of one token a sequence are captured and replayed, or enqueued each time */
  constructor(
    device: Device,
    stream: Stream,
    model: Qwen2,
    inputs: StepInputs,
    sampler: Sampler,
    { sequences, logitRows, capture }: { sequences: number; logitRows: number; capture: boolean },
  ) {
    this.#device = device;
    this.#sequences = sequences;
    this.#stream = stream;
    this.#model = model;
    this.#inputs = inputs;
    this.#sampler = sampler;
    this.#rows = device.tensor('i32', [logitRows]);
    this.#everyRow = device.tensor('i32', [sequences]);
    stream.upload(
      this.#everyRow,
      Int32Array.from({ length: sequences }, (_, row) => row),
    );
    this.#picks = device.tensor('i32', [sequences]);
    this.#promptOutputs = new PromptOutputs(device, logitRows);
    this.#capture = capture;
  }

  /** Enqueues a step at once; resolves with what it found out when it is through. */
  async run(entries: readonly StepEntry[]): Promise<StepOutcome[]> {
    // The earliest error of the stream names the operation; downloads behind it only repeat it.
    const [{ sampled, prompts }] = await Promise.all([this.#enqueue(entries), this.#stream.synchronized()]);
    let row = 0;
    return entries.map(({ sequence, end, choosesToken }) => {
      const chosen = choosesToken ? sampled[row++] : undefined;
      const logprobs = chosen && reported(sequence, chosen);
      return { sequence, end, prompt: prompts.get(sequence) ?? noParts, token: chosen?.token, logprobs };
    });
  }

  async #enqueue(entries: readonly StepEntry[]): Promise<StepResults> {
    const isDecode = entries.every(
      ({ sequence, count, choosesToken }) => count === 1 && choosesToken && !wantsPrompt(sequence),
    );
    const rows = isDecode ? Math.min(this.#device.paddedRows(entries.length), this.#sequences) : entries.length;
    const step = this.#upload(entries, rows);
    return isDecode ? this.#decode(step, entries) : this.#mixed(step, entries);
  }

  forget(sequence: Sequence): void {
    this.#sampler.forget(sequence);
  }

  async dispose(): Promise<void> {
    for (const graph of this.#graphs.values()) graph.dispose();
    const tensors = [this.#rows, this.#everyRow, this.#picks];
    await Promise.all([...tensors.map(({ storage }) => storage.dispose()), this.#promptOutputs.dispose()]);
  }

  /** One token of every sequence, and padding: the whole decoder in one call, from the second time on. */
  async #decode(step: Step, entries: readonly StepEntry[]): Promise<StepResults> {
    const count = step.ids.shape[0]!;
    const rows = this.#everyRow.narrow(0, 0, count);
    const enqueue = () => {
      this.#model.forward(this.#stream, step);
      this.#model.logits(this.#stream, count, rows);
    };
    if (this.#capture) this.#stream.launch(this.#graph(count, enqueue));
    else enqueue();
    return { sampled: await this.#sample(this.#model.logitsView(entries.length), entries), prompts: noPrompts };
  }

  #graph(count: number, enqueue: () => void): Graph {
    const known = this.#graphs.get(count);
    if (known !== undefined) return known;
    const graph = this.#stream.capture(enqueue);
    this.#graphs.set(count, graph);
    return graph;
  }

  /** Chunks of prompts, and single tokens. */
  async #mixed(step: Step, entries: readonly StepEntry[]): Promise<StepResults> {
    this.#model.forward(this.#stream, step);
    const tokens = step.ids.shape[0]!;
    const last: number[] = [];
    const choosing: StepEntry[] = [];
    const parts: Promise<[Sequence, PromptPart[]]>[] = [];
    let start = 0;
    for (const entry of entries) {
      if (wantsPrompt(entry.sequence)) parts.push(this.#readPrompt(entry, tokens, start));
      start += entry.count;
      if (!entry.choosesToken) continue;
      last.push(start - 1);
      choosing.push(entry);
    }
    if (choosing.length === 0) return { sampled: [], prompts: new Map(await Promise.all(parts)) };
    this.#uploadRows(Int32Array.from(last));
    const logits = this.#model.logits(this.#stream, tokens, this.#rows.narrow(0, 0, last.length));
    const [sampled, ...prompts] = await Promise.all([this.#sample(logits, choosing), ...parts]);
    return { sampled, prompts: new Map(prompts) };
  }

  #sample(logits: Tensor, entries: readonly StepEntry[]): Promise<Sampled[]> {
    const inputs = entries.map(({ sequence, end }, row) => {
      sequence.row = row;
      const { request, tokens, promptLength } = sequence;
      const index = end - promptLength;
      const { parameters, choice } = request;
      return { key: sequence, parameters, choice, tokens, promptLength, index, banned: sequence.bannedAt(index) };
    });
    return this.#sampler.sample(logits, inputs);
  }

  /**
   * Logits and log-probabilities of prompt tokens, in chunks of rows: the device needs no buffer of all of them. Everything
   * is enqueued before the first wait, so that it comes before the step's other work on the same buffers.
   */
  async #readPrompt(entry: StepEntry, tokens: number, start: number): Promise<[Sequence, PromptPart[]]> {
    const { sequence, count } = entry;
    const { listener, promptLength } = sequence;
    const computed = entry.end - count;
    const end = Math.min(entry.end, promptLength);
    const parts: Promise<PromptPart>[] = [];
    for (let first = Math.max(computed, sequence.delivered); first < end; first += this.#rows.shape[0]!) {
      const size = Math.min(this.#rows.shape[0]!, end - first);
      this.#uploadRows(Int32Array.from({ length: size }, (_, i) => start + first - computed + i));
      const rows = this.#model.logits(this.#stream, tokens, this.#rows.narrow(0, 0, size));
      const wantsLogprobs = sequence.request.parameters.promptLogprobs !== undefined;
      const logits = listener.onPromptLogits && this.#stream.download(rows, new Float32Array(rows.size));
      const logprobs = wantsLogprobs ? this.#promptOutputs.read(this.#stream, sequence, first, rows) : undefined;
      parts.push(
        Promise.all([logits, logprobs]).then(([logits, logprobs]) => ({ first, end: first + size, logits, logprobs })),
      );
    }
    sequence.delivered = Math.max(sequence.delivered, end);
    return [sequence, await Promise.all(parts)];
  }

  #uploadRows(rows: Int32Array): void {
    this.#stream.upload(this.#rows.narrow(0, 0, rows.length), rows);
  }

  #upload(entries: readonly StepEntry[], rows: number): Step {
    for (let row = 0; row < entries.length; row++) this.#uploadBlocks(row, entries[row]!.blocks);
    const step = this.#inputs.upload(this.#stream, hostStep(entries, rows));
    this.#fetchChosen(entries, step.ids);
    return step;
  }

  /** Ids that the host has not heard of are those that the last step chose: one for each such sequence, at its end. */
  #fetchChosen(entries: readonly StepEntry[], ids: Tensor): void {
    const runs: { start: number; rows: number[] }[] = [];
    let at = 0;
    for (const { sequence, count, end } of entries) {
      at += count;
      if (end <= sequence.tokens.length) continue;
      const run = runs.at(-1);
      if (run !== undefined && run.start + run.rows.length === at - 1) run.rows.push(sequence.row);
      else runs.push({ start: at - 1, rows: [sequence.row] });
    }
    for (const { start, rows } of runs) {
      const picks = this.#picks.narrow(0, 0, rows.length);
      this.#stream.upload(picks, Int32Array.from(rows));
      const out = ids.narrow(0, start, rows.length).view(rows.length, 1);
      this.#stream.run('gather_rows', { x: this.#sampler.chosen.view(this.#sequences, 1), rows: picks, out });
    }
  }

  /** Only what the device does not have yet: a table grows at its end, unless the row has another sequence now. */
  #uploadBlocks(row: number, blocks: readonly number[]): void {
    this.#uploadedBlocks[row] ??= { blocks: [], count: 0 };
    const known = this.#uploadedBlocks[row];
    const first = known.blocks === blocks ? known.count : 0;
    if (first < blocks.length)
      this.#inputs.uploadBlocks(this.#stream, row, first, Int32Array.from(blocks.slice(first)));
    known.blocks = blocks;
    known.count = blocks.length;
  }
}

function wantsPrompt({ request, listener, delivered, promptLength }: Sequence): boolean {
  if (delivered >= promptLength) return false;
  return listener.onPromptLogits !== undefined || request.parameters.promptLogprobs !== undefined;
}

/** The step of the entries, and after them of sequences without a context that have one token each, up to `rows`. */
function hostStep(entries: readonly StepEntry[], rows: number): HostStep {
  const total = entries.reduce((sum, { count }) => sum + count, 0) + rows - entries.length;
  const host = {
    ids: new Int32Array(total),
    positions: new Int32Array(total),
    slots: new Int32Array(total).fill(padding),
    queryStarts: new Int32Array(rows + 1),
    contextLengths: new Int32Array(rows),
  };
  let at = 0;
  for (let row = 0; row < entries.length; row++) {
    const { sequence, count, blocks, end } = entries[row]!;
    const { tokens } = sequence;
    for (let position = end - count; position < end; position++, at++) {
      host.ids[at] = tokens[position] ?? 0;
      host.positions[at] = position;
      host.slots[at] = blocks[Math.floor(position / blockSize)]! * blockSize + (position % blockSize);
    }
    host.queryStarts[row + 1] = at;
    host.contextLengths[row] = end;
  }
  for (let row = entries.length; row < rows; row++) host.queryStarts[row + 1] = ++at;
  return host;
}

/** The slot of a token whose keys and values nobody needs. */
const padding = -1;

/** What the caller asked to hear of a chosen token. */
function reported({ request }: Sequence, { token, logprob, rank, topIds, topLogprobs }: Sampled): Logprobs | undefined {
  const { logprobs } = request.parameters;
  return logprobs === undefined
    ? undefined
    : { token, logprob, rank, top: alternatives(topIds, topLogprobs, logprobs) };
}

function alternatives(ids: Int32Array, logprobs: Float32Array, count: number): TokenLogprob[] {
  return Array.from({ length: Math.min(count, ids.length) }, (_, i) => ({
    token: ids[i]!,
    logprob: logprobs[i]!,
    rank: i + 1,
  }));
}

/** Log-probabilities of prompt tokens: row by row, of each the token that follows it. */
class PromptOutputs {
  readonly #targets: Tensor;
  readonly #logprobs: Tensor;
  readonly #ranks: Tensor;
  readonly #topIds: Tensor;
  readonly #topLogprobs: Tensor;

  constructor(device: Device, rows: number) {
    this.#targets = device.tensor('i32', [rows]);
    this.#logprobs = device.tensor('f32', [rows]);
    this.#ranks = device.tensor('i32', [rows]);
    this.#topIds = device.tensor('i32', [rows * maxLogprobs]);
    this.#topLogprobs = device.tensor('f32', [rows * maxLogprobs]);
  }

  /** logits f32[R, V] of the prompt's positions from `first` on. */
  async read(stream: Stream, sequence: Sequence, first: number, logits: Tensor): Promise<Logprobs[] | undefined> {
    const rows = logits.shape[0]!;
    const count = Math.min(rows, sequence.promptLength - 1 - first);
    if (count <= 0) return undefined;
    const width = sequence.request.parameters.promptLogprobs!;
    const targets = Int32Array.from({ length: count }, (_, i) => sequence.tokens[first + i + 1]!);
    const top = (tensor: Tensor) => (width > 0 ? tensor.narrow(0, 0, count * width).view(count, width) : undefined);
    const args = {
      logits: logits.narrow(0, 0, count),
      targets: this.#targets.narrow(0, 0, count),
      logprobs: this.#logprobs.narrow(0, 0, count),
      ranks: this.#ranks.narrow(0, 0, count),
      top_ids: top(this.#topIds),
      top_logprobs: top(this.#topLogprobs),
    };
    stream.upload(args.targets, targets);
    stream.run('token_logprobs', args);
    const [logprobs, ranks, ids, idLogprobs] = await Promise.all([
      stream.download(args.logprobs, new Float32Array(count)),
      stream.download(args.ranks, new Int32Array(count)),
      args.top_ids && stream.download(args.top_ids, new Int32Array(count * width)),
      args.top_logprobs && stream.download(args.top_logprobs, new Float32Array(count * width)),
    ]);
    return Array.from(targets, (token, i) => ({
      token,
      logprob: logprobs[i]!,
      rank: ranks[i]!,
      top: ids && idLogprobs ? alternatives(ids.subarray(i * width), idLogprobs.subarray(i * width), width) : [],
    }));
  }

  async dispose(): Promise<void> {
    const tensors = [this.#targets, this.#logprobs, this.#ranks, this.#topIds, this.#topLogprobs];
    await Promise.all(tensors.map((tensor) => tensor.storage.dispose()));
  }
}
