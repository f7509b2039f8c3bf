/**
 * What the JavaScript thread does for a step, as a fraction of what it may take.
 *
 *   node dist/bench/scheduler.js [--steps 2000] [--sequences 1,16,64,256] [--output results.json]
 *
 * First with a device that computes nothing: engine, scheduler, block allocator, step inputs and sampling parameters as they
 * are, but for the calls of the addon. Then the demo model on the CPU, with all of it: how long the event loop stands
 * still, and how long it is busy for each step. The last line is one JSON object.
 */
import { writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { loadModel } from '../lib/index.js';
import { demoFolder } from '../test/support/checkpoints.js';
import { waitedForCore, watchEventLoop } from '../test/support/eventLoop.js';
import { stepMicroseconds } from '../test/support/nullEngine.js';

/** Microseconds that a step of so many sequences may take of the thread. */
const stepBudget = (sequences: number) => 100 + 2 * sequences;
/** Milliseconds within which 99 of 100 turns of the event loop come. */
const delayBudget = 5;
const waiting = 10_000;

const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: '2000' },
    sequences: { type: 'string', default: '1,16,64,256' },
    output: { type: 'string' },
  },
});

const report = { waiting, steps: [] as StepTimes[], generating: undefined as GeneratingTimes | undefined };
console.log(
  `| sequences | waiting | µs a step, median | p99 | median / budget | p99 / budget |\n|---|---|---|---|---|---|`,
);
for (const sequences of options.sequences.split(',').map(Number)) {
  const times = await measureSteps(sequences);
  report.steps.push(times);
  console.log(
    `| ${sequences} | ${waiting} | ${times.median.toFixed(0)} | ${times.p99.toFixed(0)} | ` +
      `${percent(times.median / times.budget)} | ${percent(times.p99 / times.budget)} |`,
  );
}
report.generating = await measureGenerating(64, 200);
const { sequences, microsecondsAStep, delayP99, delayMax } = report.generating;
console.log(
  `\nThe demo model on the CPU, ${sequences} sequences: the event loop's delay has p99 ${delayP99.toFixed(1)} ms, ` +
    `${percent(delayP99 / delayBudget)} of its budget, at most ${delayMax.toFixed(1)} ms; it is busy for ` +
    `${microsecondsAStep.toFixed(0)} µs a step, text and the addon's calls included`,
);
if (options.output !== undefined) writeFileSync(options.output, JSON.stringify(report, undefined, 1));
console.log(JSON.stringify(report));

interface StepTimes {
  sequences: number;
  /** Microseconds. */
  budget: number;
  median: number;
  p99: number;
}

async function measureSteps(sequences: number): Promise<StepTimes> {
  const times = await stepMicroseconds(sequences, waiting, Number(options.steps));
  times.sort((a, b) => a - b);
  const quantile = (q: number) => times[Math.floor(q * (times.length - 1))]!;
  return { sequences, budget: stepBudget(sequences), median: quantile(0.5), p99: quantile(0.99) };
}

interface GeneratingTimes {
  sequences: number;
  microsecondsAStep: number;
  /** Milliseconds. */
  delayP99: number;
  delayMax: number;
}

async function measureGenerating(sequences: number, maxTokens: number): Promise<GeneratingTimes> {
  // A core is left to the thread that is measured.
  const threads = Math.max(1, availableParallelism() - 1);
  const model = await loadModel(demoFolder, { device: 'cpu', threads, contextLength: 256, maxSequences: sequences });
  try {
    const stop = watchEventLoop();
    const [before, waitedBefore] = [performance.eventLoopUtilization(), waitedForCore()];
    const generate = (seed: number) =>
      model.generate({ tokens: [3, 4, 5, seed] }, { maxTokens, ignoreEos: true, temperature: 1, seed }).result();
    await Promise.all(Array.from({ length: sequences }, (_, seed) => generate(seed)));
    const busy = performance.eventLoopUtilization(before).active - (waitedForCore() - waitedBefore);
    const { p99, max } = stop();
    return { sequences, microsecondsAStep: (1000 * busy) / model.stats().steps, delayP99: p99, delayMax: max };
  } finally {
    await model.dispose();
  }
}

function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(0)}%`;
}
