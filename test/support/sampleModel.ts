import { philox } from './philox.js';

/** One row of a call of `sample`: its logits, parameters and history. */
export interface SampleRow {
  logits: Float32Array;
  temperature: number;
  topP: number;
  minP: number;
  topK: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  seed: readonly [low: number, high: number];
  choice: number;
  token: number;
  biases: readonly (readonly [id: number, value: number])[];
  allowed?: (id: number) => boolean;
  /** Without a history the row has no state. */
  history?: { prompt: readonly number[]; output: readonly number[] };
}

/** A row of plain sampling, but for what is given. */
export function sampleRow(given: Partial<SampleRow> & { logits: Float32Array }): SampleRow {
  return {
    temperature: 1,
    topP: 1,
    minP: 0,
    topK: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    seed: [0, 0],
    choice: 0,
    token: 0,
    biases: [],
    ...given,
  };
}

/** Ids by logit, largest first, of equal ones the lower id first. */
function byProbability(ids: number[], logits: ArrayLike<number>): number[] {
  return ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
}

function largest(logits: ArrayLike<number>): number {
  let max = -Infinity;
  for (let i = 0; i < logits.length; i++) max = Math.max(max, logits[i]!);
  return max;
}

const allIds = (logits: ArrayLike<number>) => Array.from({ length: logits.length }, (_, id) => id);

/** What `sample` and `token_logprobs` report of a row: independent of what was chosen. */
export class LogProbabilities {
  readonly #logits: ArrayLike<number>;
  readonly #logSum: number;
  #sorted: number[] | undefined;

  constructor(logits: ArrayLike<number>) {
    this.#logits = logits;
    const max = largest(logits);
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max);
    this.#logSum = max + Math.log(sum);
  }

  of(id: number): number {
    return this.#logits[id]! - this.#logSum;
  }

  rank(id: number): number {
    let rank = 1;
    for (let i = 0; i < this.#logits.length; i++) if (this.#logits[i]! > this.#logits[id]!) rank++;
    return rank;
  }

  /** The most probable ids. */
  top(count: number): number[] {
    this.#sorted ??= byProbability(allIds(this.#logits), this.#logits);
    return this.#sorted.slice(0, count);
  }
}

/** Logits after masks, biases and penalties: steps 2 and 3 of the contract. */
function adjustedLogits(row: SampleRow): Float32Array {
  const logits = Float32Array.from(row.logits);
  for (const [id, bias] of row.biases) logits[id] = logits[id]! + Math.fround(bias);
  const repetition = Math.fround(row.repetitionPenalty);
  const counts = new Map<number, number>();
  for (const id of row.history?.output ?? []) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const id of new Set([...(row.history?.prompt ?? []), ...counts.keys()])) {
    const count = counts.get(id) ?? 0;
    let logit = logits[id]! > 0 ? logits[id]! / repetition : logits[id]! * repetition;
    logit -= Math.fround(row.frequencyPenalty) * count;
    if (count > 0) logit -= Math.fround(row.presencePenalty);
    logits[id] = logit;
  }
  if (row.allowed !== undefined)
    for (let id = 0; id < logits.length; id++) if (!row.allowed(id)) logits[id] = -Infinity;
  return logits;
}

/** Step 4 without the draw: what is kept, by ascending id, with masses relative to the most probable token's. */
function keptTokens(logits: Float32Array, row: SampleRow, edge: number): { ids: number[]; masses: number[] } {
  const max = largest(logits);
  const mass = (id: number) => Math.exp((logits[id]! - max) / Math.fround(row.temperature));
  const minP = Math.fround(row.minP) * (1 + edge);
  const topP = Math.fround(row.topP);
  let ids = allIds(logits).filter((id) => logits[id] !== -Infinity && (mass(id) >= minP || logits[id] === max));
  if (row.topK > 0 || topP < 1) byProbability(ids, logits);
  if (row.topK > 0) ids = ids.slice(0, row.topK);
  if (topP < 1) {
    const goal = ids.reduce((sum, id) => sum + mass(id), 0) * topP * (1 + edge);
    let reached = 0;
    ids = ids.filter((_, i) => {
      const wanted = i === 0 || reached < goal;
      reached += mass(ids[i]!);
      return wanted;
    });
  }
  ids.sort((a, b) => a - b);
  return { ids, masses: ids.map(mass) };
}

/** The uniform number that a row draws. */
export function uniformOf(row: SampleRow): number {
  return philox([row.token, row.choice, 0, 0], row.seed)[0] / 2 ** 32;
}

/**
 * The tokens that `sample` may choose for a row. There is one, unless the draw, min-p or top-p fall within `slack` (a
 * relative error of masses) of an edge.
 */
export function possibleTokens(row: SampleRow, slack: number): Set<number> {
  const logits = adjustedLogits(row);
  if (row.temperature === 0) return new Set([logits.indexOf(largest(logits))]);
  const possible = new Set<number>();
  const cutByMass = row.minP > 0 || row.topP < 1;
  for (const edge of cutByMass ? [-slack, 0, slack] : [0]) {
    const { ids, masses } = keptTokens(logits, row, edge);
    const total = masses.reduce((sum, mass) => sum + mass, 0);
    const from = (uniformOf(row) - slack) * total;
    const to = (uniformOf(row) + slack) * total;
    let cumulative = 0;
    for (const [i, id] of ids.entries()) {
      const before = cumulative;
      cumulative += masses[i]!;
      if (cumulative > from && before <= to && masses[i]! > 0) possible.add(id);
    }
  }
  return possible;
}
