import { randomBytes } from 'node:crypto';
import { Qwen2Error } from '../native/errors.js';

/**
 * How tokens are chosen and when to stop, with vLLM's meanings. Everything is optional. Where a default says "checkpoint",
 * generation_config.json decides, and the value after it holds where that file is silent.
 */
export interface SamplingParameters {
  /** Tokens to generate at most: an integer ≥ 1. Default: as many as the context has room for. */
  maxTokens?: number | undefined;
  /** Tokens to generate before a stop token or stop string may end it: an integer from 0 to maxTokens. Default 0. */
  minTokens?: number | undefined;
  /**
   * Divides the logits: from 0 to 100; lower is less random. 0 is greedy: the most probable token, whatever topP, topK,
   * minP and seed are. Small temperatures are used as they are, without a lower clamp. Default: the checkpoint's, which is 0
   * unless its `do_sample` is true.
   */
  temperature?: number | undefined;
  /** Keeps the smallest set of most probable tokens whose mass reaches this: above 0, at most 1 (all). Default: checkpoint, 1. */
  topP?: number | undefined;
  /** Keeps this many most probable tokens: an integer ≥ 1, or 0 or −1 for all. Default: checkpoint, 0. */
  topK?: number | undefined;
  /** Keeps tokens at least this fraction as probable as the most probable one: from 0 (all) to 1. Default: checkpoint, 0. */
  minP?: number | undefined;
  /** Makes tokens of the prompt and the output less (above 1) or more (below 1) likely: from 0.01 to 100. Default: checkpoint, 1. */
  repetitionPenalty?: number | undefined;
  /** Taken from the logit of every token that the output has: from −2 to 2. Default 0. */
  presencePenalty?: number | undefined;
  /** Taken from a token's logit for every time that the output has it: from −2 to 2. Default 0. */
  frequencyPenalty?: number | undefined;
  /** Makes the choices repeatable: an integer from 0 to 2⁵³ − 1. Default: drawn at random for each request. */
  seed?: number | undefined;
  /** Strings that end the generation; they are not part of its text. None may be empty. Default: none. */
  stop?: string | readonly string[] | undefined;
  /** Tokens that end the generation, beside the checkpoint's own end-of-sequence tokens. Default: none. */
  stopTokenIds?: readonly number[] | undefined;
  /** Goes on after the checkpoint's end-of-sequence tokens. Default false. */
  ignoreEos?: boolean | undefined;
  /** Added to the logits of tokens, by id: from −100 to 100, or −Infinity to forbid a token. Default: none. */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | undefined;
  /**
   * Reports the log-probability of every generated token, and of so many most probable alternatives: an integer from 0 to
   * the engine's maximum. Default: none are reported.
   */
  logprobs?: number | undefined;
  /** The same for the tokens of the prompt. Default: none are reported. */
  promptLogprobs?: number | undefined;
  /** Independent continuations of the prompt: an integer from 1 to 1024. Default 1. */
  n?: number | undefined;
}

/** What a checkpoint's generation_config.json may set. */
export interface GenerationDefaults {
  temperature?: number | undefined;
  topP?: number | undefined;
  topK?: number | undefined;
  minP?: number | undefined;
  repetitionPenalty?: number | undefined;
}

export interface SamplingLimits {
  /** Width of the logits: token ids are below it. */
  vocabularySize: number;
  /** Alternatives that `logprobs` and `promptLogprobs` may ask for. */
  maxLogprobs: number;
}

/** Parameters that are complete and valid; see SamplingParameters for what each means. */
export interface ResolvedSamplingParameters {
  /** `undefined`: as many as the context has room for. */
  readonly maxTokens: number | undefined;
  readonly minTokens: number;
  readonly temperature: number;
  readonly topP: number;
  /** 0: all. */
  readonly topK: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** From 0 to 2⁵³ − 1. */
  readonly seed: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos: boolean;
  readonly logitBias: ReadonlyMap<number, number>;
  readonly logprobs: number | undefined;
  readonly promptLogprobs: number | undefined;
  readonly n: number;
}

/**
 * Checks what a caller gives and fills in the rest: from the checkpoint's defaults, then from this package's.
 *
 * @throws invalid_argument naming the parameter, its value and what it may be; for an unknown name, the nearest known one.
 */
export function resolveSamplingParameters(
  given: SamplingParameters,
  defaults: GenerationDefaults,
  limits: SamplingLimits,
): ResolvedSamplingParameters {
  requireKnownNames(given);
  const { vocabularySize, maxLogprobs } = limits;
  const optional = <T>(name: Name, check: (name: Name, value: unknown) => T): T | undefined =>
    given[name] === undefined ? undefined : check(name, given[name]);
  const sampled = (name: keyof GenerationDefaults, range: Range): number | undefined =>
    optional(name, inRange(range)) ?? checkpointDefault(name, defaults[name], range);
  const maxTokens = optional('maxTokens', integer(1));
  return {
    maxTokens,
    minTokens: optional('minTokens', integer(0, maxTokens, 'maxTokens')) ?? 0,
    temperature: sampled('temperature', { from: 0, to: 100 }) ?? 1,
    topP: sampled('topP', { above: 0, to: 1 }) ?? 1,
    topK: Math.max(0, sampled('topK', { from: -1, to: 2 ** 31 - 1, whole: true }) ?? 0),
    minP: sampled('minP', { from: 0, to: 1 }) ?? 0,
    repetitionPenalty: sampled('repetitionPenalty', { from: 0.01, to: 100 }) ?? 1,
    presencePenalty: optional('presencePenalty', inRange({ from: -2, to: 2 })) ?? 0,
    frequencyPenalty: optional('frequencyPenalty', inRange({ from: -2, to: 2 })) ?? 0,
    seed: optional('seed', integer(0)) ?? randomSeed(),
    stop: optional('stop', stopStrings) ?? [],
    stopTokenIds: optional('stopTokenIds', tokenIds(vocabularySize)) ?? [],
    ignoreEos: optional('ignoreEos', flag) ?? false,
    logitBias: optional('logitBias', biases(vocabularySize)) ?? new Map(),
    logprobs: optional('logprobs', integer(0, maxLogprobs)),
    promptLogprobs: optional('promptLogprobs', integer(0, maxLogprobs)),
    n: optional('n', integer(1, 1024)) ?? 1,
  };
}

type Name = keyof SamplingParameters;

/** `satisfies` holds the list complete. */
const names = Object.keys({
  maxTokens: 1,
  minTokens: 1,
  temperature: 1,
  topP: 1,
  topK: 1,
  minP: 1,
  repetitionPenalty: 1,
  presencePenalty: 1,
  frequencyPenalty: 1,
  seed: 1,
  stop: 1,
  stopTokenIds: 1,
  ignoreEos: 1,
  logitBias: 1,
  logprobs: 1,
  promptLogprobs: 1,
  n: 1,
} satisfies Record<Name, 1>);

interface Range {
  from?: number;
  above?: number;
  to?: number;
  whole?: boolean;
}

function invalid(name: string, value: unknown, mayBe: string): never {
  throw new Qwen2Error('invalid_argument', `${name} is ${describe(value)}; it must be ${mayBe}`);
}

function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (Array.isArray(value)) return 'an array';
  if (value === null || typeof value !== 'object') return typeof value === 'function' ? 'a function' : String(value);
  return value instanceof Map ? 'a Map' : 'an object';
}

function holds({ from, above, to, whole }: Range, value: unknown): value is number {
  if (typeof value !== 'number' || Number.isNaN(value)) return false;
  if (whole && !Number.isSafeInteger(value)) return false;
  return !(value < (from ?? -Infinity)) && !(value <= (above ?? -Infinity)) && value <= (to ?? Infinity);
}

function describeRange({ from, above, to, whole }: Range): string {
  const what = whole ? 'an integer' : 'a number';
  if (above !== undefined) return `${what} above ${above} and at most ${to}`;
  return to === undefined ? `${what} of at least ${from}` : `${what} from ${from} to ${to}`;
}

const inRange =
  (range: Range) =>
  (name: string, value: unknown): number =>
    holds(range, value) ? value : invalid(name, value, describeRange(range));

/** An integer from `from` to `to`, which `toName` stands for in messages. */
const integer =
  (from: number, to?: number, toName?: string) =>
  (name: string, value: unknown): number => {
    const range: Range = to === undefined ? { from, whole: true } : { from, to, whole: true };
    const suffix = to !== undefined && toName !== undefined ? ` (${toName})` : '';
    return holds(range, value) ? value : invalid(name, value, describeRange(range) + suffix);
  };

function checkpointDefault(name: string, value: number | undefined, range: Range): number | undefined {
  if (value === undefined || holds(range, value)) return value;
  throw new Qwen2Error(
    'invalid_checkpoint',
    `The checkpoint's default of ${name} is ${describe(value)}; it must be ${describeRange(range)}. ` +
      `Correct generation_config.json, or give ${name} with the request`,
  );
}

function flag(name: string, value: unknown): boolean {
  return typeof value === 'boolean' ? value : invalid(name, value, 'true or false');
}

function stopStrings(name: string, value: unknown): string[] {
  const strings: unknown[] = Array.isArray(value) ? value : [value];
  for (const [i, text] of strings.entries())
    if (typeof text !== 'string' || text === '')
      invalid(Array.isArray(value) ? `${name}[${i}]` : name, text, 'a string that is not empty, or an array of such');
  return [...new Set(strings as string[])];
}

const tokenIds =
  (vocabularySize: number) =>
  (name: string, value: unknown): number[] => {
    if (!Array.isArray(value)) invalid(name, value, 'an array of token ids');
    const range: Range = { from: 0, to: vocabularySize - 1, whole: true };
    for (const [i, id] of value.entries()) if (!holds(range, id)) invalid(`${name}[${i}]`, id, describeRange(range));
    return [...new Set(value as number[])];
  };

const biases =
  (vocabularySize: number) =>
  (name: string, value: unknown): Map<number, number> => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      invalid(name, value, 'an object or a Map from token ids to numbers');
    const entries: [unknown, unknown][] =
      value instanceof Map ? [...value] : Object.entries(value).map(([key, bias]) => [tokenIdOfKey(key), bias]);
    const range: Range = { from: 0, to: vocabularySize - 1, whole: true };
    for (const [id, bias] of entries) {
      if (!holds(range, id)) invalid(`A token id of ${name}`, id, describeRange(range));
      if (bias !== -Infinity && !holds({ from: -100, to: 100 }, bias))
        invalid(`${name}[${id}]`, bias, 'a number from -100 to 100, or -Infinity to forbid the token');
    }
    return new Map(entries as [number, number][]);
  };

/** Keys of an object are strings; one that is not the decimal form of an integer stays what it is, for the message. */
function tokenIdOfKey(key: string): unknown {
  return /^(0|[1-9]\d*)$/.test(key) ? Number(key) : key;
}

/** 53 random bits. */
function randomSeed(): number {
  const bytes = randomBytes(8);
  return (bytes.readUInt32LE(0) >>> 11) * 2 ** 32 + bytes.readUInt32LE(4);
}

function requireKnownNames(given: unknown): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given))
    invalid('The sampling parameters', given, 'an object');
  for (const name of Object.keys(given)) {
    if (names.includes(name)) continue;
    const nearest = nearestName(name);
    throw new Qwen2Error(
      'invalid_argument',
      `There is no sampling parameter ${describe(name)}; ` +
        (nearest === undefined ? `there are ${names.join(', ')}` : `did you mean ${nearest}?`),
    );
  }
}

/** The known name that a misspelt one is closest to, if a third of its letters or fewer differ. */
function nearestName(name: string): string | undefined {
  const plain = (text: string) => text.toLowerCase().replaceAll(/[^a-z]/g, '');
  const wanted = plain(name.slice(0, 64));
  let nearest: string | undefined;
  let smallest = Math.floor(wanted.length / 3) + 1;
  for (const known of names) {
    const distance = editDistance(wanted, plain(known));
    if (distance >= smallest) continue;
    smallest = distance;
    nearest = known;
  }
  return nearest;
}

/** Insertions, deletions and substitutions between two short texts (Wagner and Fischer, 1974). */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substituted, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}
