import assert from 'node:assert/strict';
import fc from 'fast-check';
import { BlockAllocator, noPrefix } from '../../lib/engine/blockAllocator.js';
import { Scheduler, type StepEntry } from '../../lib/engine/scheduler.js';
import { Sequence } from '../../lib/engine/sequence.js';
import { WaitingLine } from '../../lib/engine/waitingLine.js';
import { resolveSamplingParameters } from '../../lib/sampler/parameters.js';
import { type Scenario, SchedulerSimulation } from '../support/schedulerSimulation.js';

const parameters = resolveSamplingParameters({ seed: 0 }, {}, { vocabularySize: 10, maxLogprobs: 0 });

function sequenceOf(prompt: number[], { priority = 0, maxTokens = 8 } = {}): Sequence {
  const unheard = () => false;
  return new Sequence(
    { prompt, parameters, stopTokens: new Set(), maxTokens, priority, choice: 0 },
    { onToken: unheard, onEnd: unheard, onError: unheard },
  );
}

const countsOf = (entries: readonly StepEntry[]) => entries.map(({ sequence, count }) => [sequence, count]);

const filled = (length: number, token: number) => new Array<number>(length).fill(token);

const scenarios: fc.Arbitrary<Scenario> = fc
  .record({
    tokens: fc.integer({ min: 1, max: 40 }),
    sequences: fc.integer({ min: 1, max: 12 }),
    blocks: fc.integer({ min: 2, max: 40 }),
    blockSize: fc.integer({ min: 1, max: 5 }),
    maxPrompt: fc.integer({ min: 1, max: 30 }),
    maxOutput: fc.integer({ min: 0, max: 20 }),
    prefixes: fc.integer({ min: 1, max: 3 }),
    priorities: fc.integer({ min: 0, max: 2 }),
    arrivals: fc.integer({ min: 1, max: 6 }),
    crowd: fc.constantFrom(8, 100),
    abortOneIn: fc.integer({ min: 0, max: 8 }),
    failOneIn: fc.constantFrom(0, 0, 5, 50),
    stepsAhead: fc.integer({ min: 0, max: 2 }),
  })
  .map(({ tokens, sequences, ...rest }) => ({ limits: { tokens: Math.max(tokens, sequences), sequences }, ...rest }));

/** More of them than anybody waits for, by the environment. */
const stepsAtLength = Number(process.env.QWEN2_TEST_SCHEDULER_STEPS ?? 1_000_000);

describe('scheduler', () => {
  it('keeps its promises in any scenario, and a tight cache and shared prefixes are among them', () => {
    let [steps, preemptions, found] = [0, 0, 0];
    fc.assert(
      fc.property(scenarios, fc.integer(), (scenario, seed) => {
        const simulation = new SchedulerSimulation(scenario, seed);
        simulation.run(60);
        steps += simulation.steps;
        preemptions += simulation.preemptions;
        found += simulation.prefixTokensFound;
      }),
      { numRuns: 400, seed: 1 },
    );
    assert.ok(steps > 10_000 && preemptions > 500 && found > 10_000, `${steps} ${preemptions} ${found}`);
  });

  it(`keeps them through ${stepsAtLength} steps with small caches, priorities, aborts and failures`, () => {
    const many = fc.sample(scenarios, { numRuns: 1000, seed: 2 });
    const totals = { steps: 0, preemptions: 0, found: 0, failures: 0 };
    for (let seed = 0; totals.steps < stepsAtLength; seed++) {
      const simulation = new SchedulerSimulation(many[seed % many.length]!, seed);
      simulation.run(500);
      totals.steps += simulation.steps;
      totals.preemptions += simulation.preemptions;
      totals.found += simulation.prefixTokensFound;
      totals.failures += simulation.failures;
    }
    const { steps, preemptions, found, failures } = totals;
    assert.ok(preemptions > 0.02 * steps && found > steps && failures > 0.01 * steps, JSON.stringify(totals));
  }).timeout(stepsAtLength / 10);

  it('makes many steps in little time, each as long as it has sequences, however many wait', () => {
    const secondsFor = (waiting: number) => {
      const allocator = new BlockAllocator(4096, 16);
      const scheduler = new Scheduler({ tokens: 512, sequences: 64 }, allocator);
      for (let i = 0; i < waiting; i++) scheduler.add(sequenceOf(filled(100, i), { maxTokens: 300 }));
      const started = performance.now();
      for (let step = 0; step < 250; step++)
        for (const entry of scheduler.next()) {
          scheduler.confirm(entry);
          if (entry.choosesToken) entry.sequence.accept(1, undefined);
        }
      return (performance.now() - started) / 1000;
    };
    secondsFor(64);
    const [few, many] = [
      Math.min(...[1, 2, 3].map(() => secondsFor(64))),
      Math.min(...[1, 2, 3].map(() => secondsFor(50_000))),
    ];
    assert.ok(many < 2 * few + 0.01, `${many} s with 50,000 waiting, ${few} s with 64`);
  });

  it('serves lower priorities first, but nothing waits for more than a thousand arrivals for each', () => {
    const scheduler = new Scheduler({ tokens: 1, sequences: 1 }, new BlockAllocator(64, 16));
    const low = sequenceOf([1], { priority: 1 });
    scheduler.add(low);
    for (let i = 0; i < 2000; i++) scheduler.add(sequenceOf([1, 2, 3, i]));
    const order = scheduler.all();
    assert.ok(order.every(({ turn }, i) => i === 0 || turn >= order[i - 1]!.turn));
    assert.ok([999, 1000].includes(order.indexOf(low)), 'as the one that came a thousand later');
  });

  it('computes a prefix that many share once', () => {
    const scheduler = new Scheduler({ tokens: 64, sequences: 8 }, new BlockAllocator(64, 4));
    const shared = filled(20, 7);
    const sequences = [1, 2, 3, 4].map((last) => sequenceOf([...shared, last]));
    for (const sequence of sequences) scheduler.add(sequence);
    const first = scheduler.next();
    assert.deepEqual(countsOf(first), [[sequences[0], 21]]);
    for (const entry of first) scheduler.confirm(entry);
    sequences[0]!.accept(5, undefined);
    const second = scheduler.next();
    assert.deepEqual(
      second.map(({ sequence, count }) => [sequences.indexOf(sequence), count]),
      [
        [0, 1],
        [1, 1],
        [2, 1],
        [3, 1],
      ],
    );
    assert.deepEqual(scheduler.prefixes, { tokens: 84, found: 60 });
  });

  it('goes on with others while a prefix is computed, and lets the next one compute it if its sequence goes', () => {
    const scheduler = new Scheduler({ tokens: 8, sequences: 4 }, new BlockAllocator(64, 4));
    const [one, two] = [sequenceOf(filled(20, 7)), sequenceOf(filled(20, 7))];
    const other = sequenceOf(filled(3, 1));
    for (const sequence of [one, two, other]) scheduler.add(sequence);
    for (const entry of scheduler.next()) scheduler.confirm(entry);
    assert.deepEqual(countsOf(scheduler.next()), [[one, 8]]);
    scheduler.remove(one);
    assert.deepEqual(countsOf(scheduler.next()), [[two, 8]]);
    assert.equal(two.blocks.length, 5);
  });
});

describe('waiting line', () => {
  it('gives by turn what has not ended', () =>
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: -50, max: 50 }), fc.boolean())), (given) => {
        const line = new WaitingLine();
        const sequences = given.map(([turn, ends]) => Object.assign(sequenceOf([1]), { turn, ends }));
        for (const sequence of sequences) line.push(sequence);
        for (const sequence of sequences) sequence.ended = sequence.ends;
        const turns = sequences.filter(({ ends }) => !ends).map(({ turn }) => turn);
        const expected = turns.sort((a, b) => a - b);
        assert.deepEqual(
          line.all().map(({ turn }) => turn),
          expected,
        );
        for (const turn of expected) {
          assert.equal(line.first()!.turn, turn);
          line.shift();
        }
        assert.equal(line.first(), undefined);
      }),
      { numRuns: 300, seed: 1 },
    ));
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

  /** Computes tokens from nothing, remembers them, and gives the blocks back. */
  function leave(allocator: BlockAllocator, tokens: number[]): number[] {
    const blocks: number[] = [];
    assert.ok(allocator.extend(blocks, tokens.length));
    let prefix = noPrefix;
    for (const [i, block] of blocks.entries())
      prefix = allocator.remember(block, prefix, tokens, i * allocator.blockSize);
    allocator.release(blocks);
    return blocks;
  }

  it('keeps contents until their place is needed, the longest unused first and the ends of texts before their beginnings', () => {
    const allocator = new BlockAllocator(4, 2);
    const [a, b] = [
      [1, 1, 2, 2],
      [3, 3, 4, 4],
    ];
    const [ofA, ofB] = [leave(allocator, a!), leave(allocator, b!)];
    const taken: number[] = [];
    allocator.extend(taken, 2);
    assert.deepEqual(taken, [ofA[1]]);
    const found: number[] = [];
    allocator.reuse(found, a!, 4);
    assert.deepEqual(found, [ofA[0]], 'what is left of the first');
    allocator.reuse(found.splice(0) && found, b!, 4);
    assert.deepEqual(found, ofB);
    assert.equal(allocator.freeBlocks, 0);
  });

  it('finds no more of a text than was asked for, and nothing behind another beginning', () => {
    const allocator = new BlockAllocator(4, 2);
    const blocks = leave(allocator, [1, 1, 2, 2]);
    const found: number[] = [];
    allocator.reuse(found, [1, 1, 2, 2], 3);
    assert.deepEqual(found, [blocks[0]]);
    const other: number[] = [];
    allocator.reuse(other, [5, 5, 2, 2], 4);
    assert.deepEqual(other, []);
    const joined: number[] = [];
    allocator.reuse(joined, [11, 2, 2, 2], 4);
    assert.deepEqual(joined, [], 'numbers are not run together');
  });

  it('shares one of two blocks with the same content', () => {
    const allocator = new BlockAllocator(4, 2);
    const [one, two]: [number[], number[]] = [[], []];
    allocator.extend(one, 2);
    allocator.extend(two, 2);
    const prefix = allocator.remember(one[0]!, noPrefix, [1, 2], 0);
    assert.equal(allocator.remember(two[0]!, noPrefix, [1, 2], 0), prefix);
    allocator.release(two);
    const found: number[] = [];
    allocator.reuse(found, [1, 2, 3], 2);
    assert.deepEqual(found, one);
    allocator.release(one);
    assert.equal(allocator.freeBlocks, 3, 'it is still held');
    allocator.release(found);
    assert.equal(allocator.freeBlocks, 4);
  });
});
