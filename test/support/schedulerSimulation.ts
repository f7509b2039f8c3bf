import assert from 'node:assert/strict';
import { BlockAllocator } from '../../lib/engine/blockAllocator.js';
import { arrivalsPerPriority, Scheduler, type SchedulerLimits, type StepEntry } from '../../lib/engine/scheduler.js';
import { Sequence } from '../../lib/engine/sequence.js';
import { resolveSamplingParameters } from '../../lib/sampler/parameters.js';
import { Random } from './random.js';

const limits = { vocabularySize: 100, maxLogprobs: 5 };
const plain = resolveSamplingParameters({ seed: 0 }, {}, limits);
const withPromptLogprobs = resolveSamplingParameters({ seed: 0, promptLogprobs: 1 }, {}, limits);

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
  /** Sequences that arrive in a step at most. */
  arrivals: number;
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
  /** Steps since it got on, was the first in line, or could not be. */
  passedOver: number;
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
  /** Planned, and not settled. */
  readonly #underWay: StepEntry[][] = [];
  #arrived = 0;
  steps = 0;

  constructor(scenario: Scenario, seed: number) {
    this.#scenario = scenario;
    this.#random = new Random(seed);
    this.#allocator = new BlockAllocator(scenario.blocks, scenario.blockSize);
    this.#scheduler = new Scheduler(scenario.limits, this.#allocator);
    this.#cache = new CacheModel(scenario.blockSize);
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
      const arriving = Math.min(this.#random.integer(0, this.#scenario.arrivals), requests - this.#arrived);
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
    return Array.from({ length: count }, () => this.#random.integer(0, 2));
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
    this.#live.set(sequence, { sequence, outputTokens, passedOver: 0 });
  }

  #step(): void {
    this.steps++;
    const generating = [...this.#live.keys()].filter(
      ({ computed, pending, isComplete }) => computed > 0 && pending === 1 && !isComplete,
    );
    const before = this.#scheduler.preemptions;
    const entries = this.#scheduler.next();
    this.#checkEntries(entries);
    this.#checkTurns(entries);
    if (this.#scheduler.preemptions === before)
      for (const sequence of generating)
        assert.ok(
          entries.some((entry) => entry.sequence === sequence),
          'prompts never hold up what generates',
        );
    for (const entry of entries) this.#cache.compute(entry);
    this.#checkBlocks();
    this.#maybeAbort();
    if (entries.length > 0) this.#underWay.push(entries);
    if (entries.length === 0 || this.#underWay.length > this.#scenario.stepsAhead) this.#finish();
  }

  #finish(): void {
    const step = this.#underWay.shift() ?? [];
    const { failOneIn } = this.#scenario;
    if (failOneIn === 0 || this.#random.integer(1, failOneIn) > 1) {
      for (const entry of step) this.#settle(entry);
      return;
    }
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
    const { limits } = this.#scenario;
    const total = entries.reduce((sum, { count }) => sum + count, 0);
    assert.ok(total <= limits.tokens, `${total} tokens in a step of ${limits.tokens}`);
    assert.ok(entries.length <= limits.sequences, `${entries.length} sequences in a step of ${limits.sequences}`);
    assert.equal(new Set(entries.map(({ sequence }) => sequence)).size, entries.length, 'no sequence twice');
    for (const { sequence, count } of entries) {
      assert.ok(this.#live.has(sequence), 'no ended sequence');
      assert.ok(count >= 1 && sequence.computed <= sequence.length, `${count} tokens`);
      const room = sequence.blocks.length * this.#scenario.blockSize;
      assert.ok(sequence.computed <= room, 'blocks for every token');
      assert.ok(sequence.chosen <= Math.max(sequence.request.maxTokens, 0), 'no token more than was asked for');
    }
  }

  /**
   * Whoever's turn is first gets on, unless another one just computes what both begin with; or, where there are
   * priorities, others have started before it came.
   */
  #checkTurns(entries: StepEntry[]): void {
    const waits = this.#live.size > 0 && this.#underWay.length === 0;
    assert.ok(entries.length > 0 || !waits, 'something gets on');
    if (this.#live.size === 0 || this.#scenario.priorities > 0) return;
    const first = [...this.#live.values()].reduce((a, b) => (b.sequence.turn < a.sequence.turn ? b : a));
    const isUnderWay = first.sequence.unheard > 0 || first.sequence.isComplete;
    if (isUnderWay || entries.some(({ sequence }) => sequence === first.sequence)) first.passedOver = 0;
    else
      assert.ok(
        ++first.passedOver <= this.#scenario.maxPrompt + 2 * this.#scenario.stepsAhead,
        'it waits for no more than a prefix',
      );
  }

  /** No block is lost, none that is written to is shared, and what waits has none. */
  #checkBlocks(): void {
    const holders = new Map<number, number>();
    for (const { blocks } of this.#live.keys())
      for (const block of blocks) holders.set(block, (holders.get(block) ?? 0) + 1);
    for (const block of holders.keys()) assert.ok(block >= 0 && block < this.#scenario.blocks);
    assert.equal(holders.size + this.#allocator.freeBlocks, this.#scenario.blocks, 'no block is lost');
    for (const { blocks, computed } of this.#live.keys()) {
      if (blocks.length === 0) assert.equal(computed, 0);
      for (const block of blocks.slice(Math.floor(computed / this.#scenario.blockSize)))
        assert.equal(holders.get(block), 1, 'a block that is written to has one holder');
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
  return Math.abs(Math.imul(turn + 1, 2654435761) ^ Math.imul(position, 40503)) % 3;
}

/**
 * What the KV cache holds. A token's keys and values depend on it and on all tokens before it: each such text has a number,
 * and each place of the cache has the number of what was last computed there.
 */
class CacheModel {
  readonly #blockSize: number;
  readonly #places = new Map<number, number>();
  readonly #texts = new Map<string, number>();

  constructor(blockSize: number) {
    this.#blockSize = blockSize;
  }

  /** Requires that all before is there, and writes. */
  compute({ sequence, count, end }: StepEntry): void {
    const { tokens } = sequence;
    const computed = end - count;
    let text = 0;
    for (let position = 0; position < end; position++) {
      // What is not heard of is on the device.
      const key = `${text} ${tokens[position] ?? tokenAt(sequence, position)}`;
      text = this.#texts.get(key) ?? this.#texts.size + 1;
      this.#texts.set(key, text);
      const place = this.#placeOf(sequence, position);
      if (position < computed) assert.equal(this.#places.get(place), text, `token ${position} is what the cache holds`);
      else this.#places.set(place, text);
    }
  }

  #placeOf({ blocks }: Sequence, position: number): number {
    return blocks[Math.floor(position / this.#blockSize)]! * this.#blockSize + (position % this.#blockSize);
  }
}
