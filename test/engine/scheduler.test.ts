import assert from 'node:assert/strict';
import { BlockAllocator } from '../../lib/engine/blockAllocator.js';
import { Scheduler, type SchedulerLimits, type StepEntry } from '../../lib/engine/scheduler.js';
import { Sequence } from '../../lib/engine/sequence.js';
import { resolveSamplingParameters } from '../../lib/sampler/parameters.js';
import { philox } from '../support/philox.js';

const parameters = resolveSamplingParameters({ seed: 0 }, {}, { vocabularySize: 10, maxLogprobs: 0 });

/** Whole numbers from 0 on, a function of the seed. */
function randomNumbers(seed: number): (below: number) => number {
  let counter = 0;
  return (below) => philox([counter++, 0, 0, 2], [seed, 0])[0] % below;
}

interface Scenario {
  title: string;
  limits: SchedulerLimits;
  blocks: number;
  blockSize: number;
  /** Prompts and outputs have up to so many tokens; together they fit the cache. */
  maxPrompt: number;
  maxOutput: number;
  /** One sequence in so many is aborted at a random step; 0: none. */
  abortOneIn: number;
}

const scenarios: Scenario[] = [
  {
    title: 'a cache that two sequences fill',
    limits: { tokens: 8, sequences: 4 },
    blocks: 6,
    blockSize: 4,
    maxPrompt: 12,
    maxOutput: 12,
    abortOneIn: 4,
  },
  {
    title: 'steps of as many tokens as sequences',
    limits: { tokens: 3, sequences: 3 },
    blocks: 9,
    blockSize: 2,
    maxPrompt: 9,
    maxOutput: 9,
    abortOneIn: 5,
  },
  {
    title: 'one sequence at a time, one token at a time',
    limits: { tokens: 1, sequences: 1 },
    blocks: 5,
    blockSize: 3,
    maxPrompt: 8,
    maxOutput: 7,
    abortOneIn: 6,
  },
  {
    title: 'a cache with room for all, no aborts',
    limits: { tokens: 64, sequences: 16 },
    blocks: 200,
    blockSize: 4,
    maxPrompt: 30,
    maxOutput: 20,
    abortOneIn: 0,
  },
  {
    title: 'sequences that need the whole cache',
    limits: { tokens: 16, sequences: 8 },
    blocks: 4,
    blockSize: 4,
    maxPrompt: 15,
    maxOutput: 1,
    abortOneIn: 3,
  },
];

/** A request as the test knows it. */
interface Request {
  /** Place in the order of arrival. */
  arrival: number;
  sequence: Sequence;
  outputTokens: number;
}

/** Runs steps as the engine does, with nothing computed, and holds every promise of the scheduler. */
class Simulation {
  readonly #scenario: Scenario;
  readonly #random: (below: number) => number;
  readonly #allocator: BlockAllocator;
  readonly #scheduler: Scheduler;
  /** In the order of arrival; those that have ended are gone. */
  #live: Request[] = [];
  readonly #ended = new Set<Sequence>();
  #arrivals = 0;
  preemptions = 0;

  constructor(scenario: Scenario, seed: number) {
    this.#scenario = scenario;
    this.#random = randomNumbers(seed);
    this.#allocator = new BlockAllocator(scenario.blocks, scenario.blockSize);
    this.#scheduler = new Scheduler(scenario.limits, this.#allocator);
  }

  /** @returns how many sequences have ended */
  run(requests: number): number {
    while (this.#arrivals < requests || this.#live.length > 0) {
      const arriving = Math.min(this.#random(3), requests - this.#arrivals);
      for (let i = 0; i < arriving; i++) this.#arrive();
      this.#step();
      this.#maybeAbort();
    }
    assert.equal(this.#allocator.freeBlocks, this.#scenario.blocks, 'every block is free in the end');
    assert.deepEqual(this.#scheduler.next(), []);
    assert.deepEqual(this.#scheduler.all(), []);
    return this.#ended.size;
  }

  #arrive(): void {
    const { maxPrompt, maxOutput } = this.#scenario;
    const promptTokens = 1 + this.#random(maxPrompt);
    const outputTokens = this.#random(maxOutput + 1);
    const request = {
      prompt: new Array<number>(promptTokens).fill(0),
      parameters,
      stopTokens: new Set<number>(),
      maxTokens: outputTokens,
      choice: 0,
    };
    const unheard = () => false;
    const sequence = new Sequence(request, { onToken: unheard, onEnd: unheard, onError: unheard });
    this.#scheduler.add(sequence);
    this.#live.push({ arrival: this.#arrivals++, sequence, outputTokens });
  }

  #step(): void {
    const before = new Set(this.#live.filter(({ sequence }) => sequence.blocks.length > 0));
    const entries = this.#scheduler.next();
    this.#checkStep(entries);
    this.#checkBlocks();
    for (const request of before)
      if (request.sequence.computed === 0 && request.sequence.blocks.length === 0) this.preemptions++;
    this.#maybeAbort();
    for (const { sequence, count } of entries) {
      if (this.#ended.has(sequence)) continue;
      sequence.computed += count;
      if (sequence.pending > 0) continue;
      const { outputTokens } = this.#live.find((request) => request.sequence === sequence)!;
      if (outputTokens > 0) sequence.accept(0, undefined);
      if (sequence.outputLength >= outputTokens) this.#end(sequence);
    }
  }

  #checkStep(entries: StepEntry[]): void {
    const { limits } = this.#scenario;
    const total = entries.reduce((sum, { count }) => sum + count, 0);
    assert.ok(total <= limits.tokens, `${total} tokens in a step of ${limits.tokens}`);
    assert.ok(entries.length <= limits.sequences, `${entries.length} sequences in a step of ${limits.sequences}`);
    assert.equal(new Set(entries.map(({ sequence }) => sequence)).size, entries.length, 'no sequence twice');
    for (const { sequence, count } of entries) {
      assert.ok(!this.#ended.has(sequence), 'no ended sequence');
      assert.ok(count >= 1 && count <= sequence.pending, `${count} of ${sequence.pending} pending tokens`);
      const room = sequence.blocks.length * this.#scenario.blockSize;
      assert.ok(sequence.computed + count <= room, 'blocks for every token');
    }
    const first = this.#live[0];
    if (first === undefined) assert.deepEqual(entries, []);
    else
      assert.ok(
        entries.some(({ sequence }) => sequence === first.sequence),
        'whoever came first always gets on',
      );
    const generating = this.#live.filter(({ sequence }) => sequence.computed > 0 && sequence.pending === 1);
    for (const { sequence } of generating)
      assert.ok(
        entries.some((entry) => entry.sequence === sequence),
        'prompts never hold up what generates',
      );
  }

  /** No block is shared or lost; and those that have some are those that came first: admission in order of arrival,
   * preemption in the opposite order. */
  #checkBlocks(): void {
    const held = this.#live.flatMap(({ sequence }) => sequence.blocks);
    assert.equal(new Set(held).size, held.length, 'no block is shared');
    assert.ok(held.every((block) => block >= 0 && block < this.#scenario.blocks));
    assert.equal(held.length + this.#allocator.freeBlocks, this.#scenario.blocks, 'no block is lost');
    const holders = this.#live.map(({ sequence }) => sequence.blocks.length > 0);
    const firstWithout = holders.indexOf(false);
    if (firstWithout >= 0) assert.ok(!holders.includes(true, firstWithout), 'first come, first served');
    for (const { sequence } of this.#live) if (sequence.blocks.length === 0) assert.equal(sequence.computed, 0);
  }

  /** While a step runs, and between steps. */
  #maybeAbort(): void {
    const { abortOneIn } = this.#scenario;
    if (abortOneIn === 0 || this.#random(abortOneIn * 4) !== 0) return;
    const victim = this.#live[this.#random(Math.max(1, this.#live.length))];
    if (victim !== undefined) this.#end(victim.sequence);
  }

  #end(sequence: Sequence): void {
    assert.ok(!this.#ended.has(sequence), 'a sequence ends once');
    this.#ended.add(sequence);
    this.#scheduler.remove(sequence);
    this.#live = this.#live.filter((request) => request.sequence !== sequence);
    assert.deepEqual(sequence.blocks, [], 'its blocks are free at once');
    assert.deepEqual(
      new Set(this.#scheduler.all()),
      new Set(this.#live.map((request) => request.sequence)),
      'the scheduler has what has not ended',
    );
  }
}

describe('scheduler', () => {
  for (const scenario of scenarios)
    it(`keeps its promises: ${scenario.title}`, () => {
      let preemptions = 0;
      for (let seed = 0; seed < 20; seed++) {
        const simulation = new Simulation(scenario, seed);
        assert.equal(simulation.run(100), 100, 'every sequence ends');
        preemptions += simulation.preemptions;
      }
      const canOutgrow = scenario.limits.sequences * (scenario.maxPrompt + scenario.maxOutput);
      const isTight = scenario.limits.sequences > 1 && canOutgrow > scenario.blocks * scenario.blockSize;
      if (isTight && scenario.maxOutput > 1)
        assert.ok(preemptions > 20, `${preemptions} preemptions: the cache was never tight`);
    });
});

describe('block allocator', () => {
  it('extends a table to hold tokens, or changes nothing', () => {
    const allocator = new BlockAllocator(4, 16);
    const blocks: number[] = [];
    for (const [tokens, length] of [
      [0, 0],
      [1, 1],
      [16, 1],
      [17, 2],
      [5, 2],
      [64, 4],
    ] as const) {
      assert.ok(allocator.extend(blocks, tokens));
      assert.equal(blocks.length, length, `${tokens} tokens`);
      assert.equal(allocator.freeBlocks, 4 - length);
    }
    const before = [...blocks];
    assert.equal(allocator.extend(blocks, 65), false);
    assert.deepEqual(blocks, before);
    allocator.release(blocks);
    assert.equal(allocator.freeBlocks, 4);
  });

  it('hands out low numbers first, each once', () => {
    const allocator = new BlockAllocator(3, 1);
    const blocks: number[] = [];
    allocator.extend(blocks, 3);
    assert.deepEqual(blocks, [0, 1, 2]);
  });
});
