import assert from 'node:assert/strict';
import { BlockAllocator } from '../../lib/engine/blockAllocator.js';
import { arrivalsPerPriority, Scheduler, type SchedulerLimits, type StepEntry } from '../../lib/engine/scheduler.js';
import { Sequence } from '../../lib/engine/sequence.js';
import { resolveSamplingParameters } from '../../lib/sampler/parameters.js';
import { Random } from './random.js';

const limits = { vocabularySize: 100, maxLogprobs: 5 };
const plain = resolveSamplingParameters({ seed: 0 }, {}, limits);
const withPromptLogprobs = resolveSamplingParameters({ seed: 0, promptLogprobs: 1 }, {}, limits);

/** So few that texts are often alike. */
const differentTokens = 3;

export interface Scenario {
  limits: SchedulerLimits;
  blocks: number;
  blockSize: number;
  /** Prompts have so many tokens, and outputs, at most; cut where together they would exceed the cache. */
  maxPrompt: number;
  maxOutput: number;
  /** Prompts begin with one of so many texts, of a random length: how much they share. */
  prefixes: number;
  /** Priorities from −n to n. */
  priorities: number;
  /** Sequences that arrive in a step at most; none while so many are there. */
  arrivals: number;
  crowd: number;
  /** One step in so many aborts a sequence; 0: none. */
  abortOneIn: number;
  /** One step in so many fails, and with it its sequences; 0: none. */
  failOneIn: number;
  /** Steps that are planned while one is under way. */
  stepsAhead: number;
}

interface Request {
  sequence: Sequence;
  outputTokens: number;
  /** The last step that it was part of. */
  step: number;
  /** Whether it was generating when the step was planned. */
  isGenerating: boolean;
  /** What stands for its tokens up to each position (CacheModel). */
  texts: number[];
}

/** Runs steps as the engine does, with nothing computed, and holds every promise of scheduler and allocator. */
export class SchedulerSimulation {
  readonly #scenario: Scenario;
  readonly #random: Random;
  readonly #allocator: BlockAllocator;
  readonly #scheduler: Scheduler;
  readonly #live = new Map<Sequence, Request>();
  readonly #cache: CacheModel;
  readonly #prefixes: number[][];
  /** How many sequences hold each block. */
  readonly #holders: Int32Array;
  /** Whose turn was first at the last step, and for how many steps in a row it did not get on. */
  #waitsFirst: Request | undefined;
  #passedOver = 0;
  /** Planned, and not settled. */
  readonly #underWay: StepEntry[][] = [];
  #arrived = 0;
  steps = 0;
  failures = 0;

  constructor(scenario: Scenario, seed: number) {
    this.#scenario = scenario;
    this.#random = new Random(seed);
    this.#allocator = new BlockAllocator(scenario.blocks, scenario.blockSize);
    this.#scheduler = new Scheduler(scenario.limits, this.#allocator);
    this.#cache = new CacheModel(scenario.blocks, scenario.blockSize);
    this.#holders = new Int32Array(scenario.blocks);
    this.#prefixes = Array.from({ length: scenario.prefixes }, () => this.#tokens(scenario.maxPrompt));
  }

  get preemptions(): number {
    return this.#scheduler.preemptions;
  }

  get prefixTokensFound(): number {
    return this.#scheduler.prefixes.found;
  }

  /** Until so many have come and all have ended. */
  run(requests: number): void {
    while (this.#arrived < requests || this.#live.size > 0 || this.#underWay.length > 0) {
      const { arrivals, crowd } = this.#scenario;
      const room = Math.max(0, crowd - this.#live.size);
      const arriving = Math.min(this.#random.integer(0, arrivals), requests - this.#arrived, room);
      for (let i = 0; i < arriving; i++) this.#arrive();
      this.#step();
      this.#maybeAbort();
    }
    assert.equal(this.#allocator.freeBlocks, this.#scenario.blocks, 'every block is free in the end');
    assert.deepEqual(this.#scheduler.next(), []);
    assert.deepEqual(this.#scheduler.all(), []);
    assert.deepEqual([this.#scheduler.running, this.#scheduler.waiting], [0, 0]);
  }

  #tokens(count: number): number[] {
    return Array.from({ length: count }, () => this.#random.integer(0, differentTokens - 1));
  }

  #arrive(): void {
    const { maxPrompt, maxOutput, blocks, blockSize, priorities } = this.#scenario;
    const length = this.#random.integer(1, Math.min(maxPrompt, blocks * blockSize - 1));
    const shared = this.#random.pick(this.#prefixes).slice(0, this.#random.integer(0, length));
    const outputTokens = this.#random.integer(0, Math.min(maxOutput, blocks * blockSize - length));
    const request = {
      prompt: [...shared, ...this.#tokens(length - shared.length)],
      parameters: this.#random.integer(0, 9) === 0 ? withPromptLogprobs : plain,
      stopTokens: new Set<number>(),
      maxTokens: outputTokens,
      priority: this.#random.integer(-priorities, priorities),
      choice: 0,
    };
    const unheard = () => false;
    const sequence = new Sequence(request, { onToken: unheard, onEnd: unheard, onError: unheard });
    this.#scheduler.add(sequence);
    this.#arrived++;
    assert.ok(sequence.turn <= this.#arrived + arrivalsPerPriority * priorities, 'turns of later arrivals come later');
    this.#live.set(sequence, { sequence, outputTokens, step: 0, isGenerating: false, texts: [] });
  }

  #step(): void {
    this.steps++;
    for (const request of this.#live.values()) {
      const { computed, pending, isComplete } = request.sequence;
      request.isGenerating = computed > 0 && pending === 1 && !isComplete;
    }
    const before = this.#scheduler.preemptions;
    const entries = this.#scheduler.next();
    this.#checkEntries(entries);
    this.#checkTurns(entries);
    if (this.#scheduler.preemptions === before)
      for (const { isGenerating, step } of this.#live.values())
        if (isGenerating && step !== this.steps) assert.fail('prompts never hold up what generates');
    for (const entry of entries) this.#cache.compute(entry, this.#live.get(entry.sequence)!.texts);
    this.#checkBlocks();
    this.#maybeAbort();
    if (entries.length > 0) this.#underWay.push(entries);
    if (entries.length === 0 || this.#underWay.length > this.#scenario.stepsAhead) this.#finish();
  }

  #finish(): void {
    const step = this.#underWay.shift();
    if (step === undefined) return;
    const { failOneIn } = this.#scenario;
    if (failOneIn === 0 || this.#random.integer(1, failOneIn) > 1) {
      for (const entry of step) this.#settle(entry);
      return;
    }
    this.failures++;
    for (const { sequence } of step) if (!sequence.ended) this.#end(sequence);
    for (const entry of this.#underWay.flat()) this.#scheduler.takeBack(entry);
    this.#underWay.length = 0;
  }

  #settle(entry: StepEntry): void {
    const { sequence, choosesToken, end } = entry;
    this.#scheduler.confirm(entry);
    const request = this.#live.get(sequence);
    if (request === undefined) return;
    if (choosesToken) {
      assert.equal(sequence.tokens.length, end, 'tokens are heard in order');
      sequence.accept(tokenAt(sequence, end), undefined);
    }
    const over = choosesToken ? sequence.outputLength >= request.outputTokens : end === sequence.promptLength;
    if (over && (choosesToken || request.outputTokens === 0)) this.#end(sequence);
    else if (choosesToken && this.#random.integer(0, 19) === 0) this.#end(sequence);
  }

  #checkEntries(entries: StepEntry[]): void {
    const { limits, blockSize } = this.#scenario;
    let total = 0;
    for (const { sequence, count } of entries) {
      total += count;
      const request = this.#live.get(sequence);
      if (request === undefined) assert.fail('no ended sequence');
      if (request.step === this.steps) assert.fail('no sequence twice');
      request.step = this.steps;
      if (count < 1 || sequence.computed > sequence.length) assert.fail(`${count} tokens`);
      if (sequence.computed > sequence.blocks.length * blockSize) assert.fail('blocks for every token');
      if (sequence.chosen > Math.max(sequence.request.maxTokens, 0)) assert.fail('no token more than was asked for');
    }
    if (total > limits.tokens) assert.fail(`${total} tokens in a step of ${limits.tokens}`);
    if (entries.length > limits.sequences) assert.fail(`${entries.length} sequences in a step of ${limits.sequences}`);
  }

  /**
   * Whoever's turn is first gets on, unless another one just computes what both begin with; or, where there are
   * priorities, others have started before it came.
   */
  #checkTurns(entries: StepEntry[]): void {
    if (entries.length === 0 && this.#live.size > 0 && this.#underWay.length === 0) assert.fail('something gets on');
    const { limits, maxPrompt, maxOutput, priorities, stepsAhead } = this.#scenario;
    const begun = priorities > 0 ? limits.sequences * (maxPrompt + maxOutput) : 0;
    const first = this.#first();
    const isServed =
      first === undefined || first.sequence.unheard > 0 || first.sequence.isComplete || first.step === this.steps;
    this.#passedOver = isServed || first !== this.#waitsFirst ? 0 : this.#passedOver + 1;
    this.#waitsFirst = first;
    if (this.#passedOver > begun + maxPrompt + 2 * stepsAhead)
      assert.fail('it waits for no more than a prefix, and what began before it');
  }

  /** Whose turn is first of all. */
  #first(): Request | undefined {
    let first: Request | undefined;
    for (const request of this.#live.values())
      if (first === undefined || request.sequence.turn < first.sequence.turn) first = request;
    return first;
  }

  /** No block is lost, none that is written to is shared, and what waits has none. */
  #checkBlocks(): void {
    const holders = this.#holders.fill(0);
    let held = 0;
    for (const { blocks } of this.#live.keys())
      for (const block of blocks) {
        if (!(block >= 0 && block < holders.length)) assert.fail(`there is no block ${block}`);
        if (holders[block]!++ === 0) held++;
      }
    if (held + this.#allocator.freeBlocks !== holders.length) assert.fail('no block is lost');
    for (const { blocks, computed } of this.#live.keys()) {
      if (blocks.length === 0 && computed > 0) assert.fail('what is computed has blocks');
      for (let i = Math.floor(computed / this.#scenario.blockSize); i < blocks.length; i++)
        if (holders[blocks[i]!] !== 1) assert.fail('a block that is written to has one holder');
    }
  }

  /** While a step runs, and between steps. */
  #maybeAbort(): void {
    const { abortOneIn } = this.#scenario;
    if (abortOneIn === 0 || this.#live.size === 0 || this.#random.integer(1, abortOneIn) > 1) return;
    this.#end(this.#random.pick([...this.#live.keys()]));
  }

  #end(sequence: Sequence): void {
    this.#scheduler.remove(sequence);
    assert.ok(this.#live.delete(sequence), 'a sequence ends once');
    assert.deepEqual(sequence.blocks, [], 'its blocks are free at once');
    assert.equal(this.#scheduler.running + this.#scheduler.waiting, this.#live.size);
  }
}

/** What a sequence goes on with. */
function tokenAt({ turn }: Sequence, position: number): number {
  return Math.abs(Math.imul(turn + 1, 2654435761) ^ Math.imul(position, 40503)) % differentTokens;
}

/**
 * What the KV cache holds. A token's keys and values depend on it and on all tokens before it: each such text has a number,
 * and each place of the cache has the number of what was last computed there.
 */
class CacheModel {
  readonly #blockSize: number;
  readonly #places: Int32Array;
  /** By the number of the text before, and the token. */
  readonly #texts = new Map<number, number>();

  constructor(blocks: number, blockSize: number) {
    this.#blockSize = blockSize;
    this.#places = new Int32Array(blocks * blockSize);
  }

  /** Requires that all before is there, and writes. `texts` has the numbers of the sequence's texts, and gets more. */
  compute({ sequence, count, end }: StepEntry, texts: number[]): void {
    const { tokens, blocks } = sequence;
    for (let position = texts.length; position < end; position++) {
      // What is not heard of is on the device.
      const token = tokens[position] ?? tokenAt(sequence, position);
      texts.push(this.#textOf(texts[position - 1] ?? 0, token));
    }
    for (let position = 0; position < end; position++) {
      const block = blocks[Math.floor(position / this.#blockSize)]!;
      const place = block * this.#blockSize + (position % this.#blockSize);
      if (position >= end - count) this.#places[place] = texts[position]!;
      else if (this.#places[place] !== texts[position]) assert.fail(`token ${position} is not what the cache holds`);
    }
  }

  #textOf(before: number, token: number): number {
    const key = before * differentTokens + token;
    const known = this.#texts.get(key);
    if (known !== undefined) return known;
    const text = this.#texts.size + 1;
    this.#texts.set(key, text);
    return text;
  }
}
