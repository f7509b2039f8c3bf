import assert from 'node:assert/strict';
import fc from 'fast-check';
import type { SamplingParameters } from '../../lib/sampler/parameters.js';
import { fixtureFolder } from '../support/checkpoints.js';
import { type EngineBench, type EngineBenchOptions, type Outcome, withEngine } from '../support/engineBench.js';
import { type DeviceCase, devicesUnderTest, isCuda, reference, requireDevice } from '../support/opBench.js';
import { philox } from '../support/philox.js';

interface Request {
  prompt: readonly number[];
  sampling: SamplingParameters;
  choice: number;
  priority: number;
  /** Tokens that all requests have had together when this one comes, or it comes when nothing else runs. */
  arrival: number;
}

/** Requests, and an engine that computes them together. */
interface Scenario {
  requests: Request[];
  engine: EngineBenchOptions;
}

const vocabularySize = 512;

/** How much there is to compute; on devices that are slow, little, which is where the cache is tight. */
interface Size {
  contextLength: number;
  /** Of a prompt's tokens those that others may begin with; tokens to generate; requests: at least and at most. */
  shared: Span;
  maxTokens: Span;
  requests: Span;
  /** Texts that prompts begin with. */
  texts: number;
  cacheTokens: number[];
}
type Span = { min: number; max: number };

const large: Size = {
  contextLength: 96,
  shared: { min: 0, max: 52 },
  maxTokens: { min: 1, max: 32 },
  requests: { min: 2, max: 5 },
  texts: 3,
  cacheTokens: [96, 192, 1536],
};
const small: Size = {
  contextLength: 48,
  shared: { min: 16, max: 24 },
  maxTokens: { min: 6, max: 12 },
  requests: { min: 3, max: 3 },
  texts: 1,
  cacheTokens: [64, 80],
};

/** Some of the first tokens of one of some texts, then tokens of its own: blocks of 16 tokens are shared, or end early. */
const promptsOf = ({ texts, shared }: Size) =>
  fc
    .record({
      text: fc.nat({ max: texts - 1 }),
      shared: fc.integer(shared),
      own: fc.integer({ min: 1, max: 12 }),
      seed: fc.nat({ max: 1 << 20 }),
    })
    .map(({ text, shared, own, seed }) => [...randomTokens(shared, text), ...randomTokens(own, 3 + seed)]);

const greedyOrSeeded: fc.Arbitrary<SamplingParameters> = fc.oneof(
  fc.constant({ temperature: 0 }),
  fc.record(
    {
      temperature: fc.constantFrom(0.5, 1, 1.5),
      seed: fc.nat({ max: 1000 }),
      topP: fc.constantFrom(0.5, 0.9),
      topK: fc.constantFrom(5, 50),
      minP: fc.constantFrom(0.02, 0.2),
    },
    { requiredKeys: ['temperature', 'seed'] },
  ),
);

const extras: fc.Arbitrary<SamplingParameters> = fc.record(
  {
    repetitionPenalty: fc.constantFrom(0.8, 1.3),
    presencePenalty: fc.constantFrom(-0.5, 0.8),
    frequencyPenalty: fc.constantFrom(0.4, 1),
    logitBias: fc.constant({ 5: 3, 6: -Infinity }),
    promptLogprobs: fc.constantFrom(0, 4),
  },
  { requiredKeys: [] },
);

/** A request's continuations differ in their number. */
const requestsOf = (size: Size) =>
  fc
    .record({
      prompt: promptsOf(size),
      sampling: fc.tuple(greedyOrSeeded, extras),
      maxTokens: fc.integer(size.maxTokens),
      logprobs: fc.constantFrom(1, 20),
      n: fc.constantFrom(1, 1, 2),
      priority: fc.integer({ min: -1, max: 1 }),
      arrival: fc.oneof(fc.constant(0), fc.nat(size.maxTokens)),
    })
    .map(({ prompt, sampling: [how, extra], maxTokens, logprobs, n, priority, arrival }) =>
      Array.from({ length: n }, (_, choice): Request => {
        const sampling = { ...how, ...extra, maxTokens, logprobs };
        return { prompt, sampling, choice, priority, arrival };
      }),
    );

/** A cache of one whole context or of many; steps of little and of much. */
const enginesOf = ({ contextLength, cacheTokens }: Size): fc.Arbitrary<EngineBenchOptions> =>
  fc
    .record({
      cacheTokens: fc.constantFrom(...cacheTokens),
      maxSequences: fc.integer({ min: 2, max: 8 }),
      stepTokens: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constant(512)),
      stepsAhead: fc.integer({ min: 0, max: 2 }),
      capture: fc.boolean(),
    })
    .map(({ maxSequences, stepTokens, ...rest }) => ({
      ...{ contextLength, maxSequences, stepTokens: Math.max(maxSequences, stepTokens), ...rest },
    }));

const scenariosOf = (size: Size): fc.Arbitrary<Scenario> => {
  const { min: minLength, max: maxLength } = size.requests;
  return fc.record({
    requests: fc.array(requestsOf(size), { minLength, maxLength }).map((groups) => groups.flat()),
    engine: enginesOf(size),
  });
};

interface ModelCase {
  title: string;
  folder: string;
  options: EngineBenchOptions;
  /** On which devices; default: all. */
  on?: (device: DeviceCase) => boolean;
}

const models: ModelCase[] = [
  // The emulation takes long: it has a model of one layer instead of four, and one of the quantized ones.
  {
    title: 'bf16, a window in some layers',
    folder: fixtureFolder('qwen2-sliding'),
    options: {},
    on: (device) => !isCuda(device),
  },
  { title: 'bf16', folder: fixtureFolder('qwen2-gqa-8h2kv'), options: {}, on: isCuda },
  {
    title: 'int4, and int8 for head and KV cache',
    folder: fixtureFolder('qwen2-awq'),
    options: { lmHead: 'int8', kvCache: { dtype: 'int8' } },
  },
  {
    title: 'bf16 rounded to int4, int8 for head and embedding, fp8 for the KV cache',
    folder: fixtureFolder('qwen2-tied'),
    options: { quantize: 'int4', lmHead: 'int8', kvCache: { dtype: 'fp8' } },
    on: (device) => !isCuda(device),
  },
];

describe('batch invariance', () => {
  const hosts = devicesUnderTest.filter(({ name, threads }) => name === 'cpu' && threads === 2);
  for (const device of [reference, ...hosts, ...devicesUnderTest.filter(isCuda)])
    for (const { title, folder, options } of models.filter(({ on }) => on?.(device) ?? true))
      it(`gives each request the tokens and bits that it gets alone, on ${device.title}: ${title}`, async function () {
        requireDevice(this, device);
        const size = device.name === 'cpu' ? large : small;
        // With fast-check's liking for small numbers, prompts would share less than a block.
        const [scenarios, numRuns] = size === large ? [fc.noBias(scenariosOf(large)), 10] : [scenariosOf(small), 2];
        const { contextLength } = size;
        const model = {
          ...options,
          device: device.name,
          ...(device.simd && { simd: device.simd }),
          batchInvariant: true,
        };
        const seen = { preemptions: 0, prefixHits: 0 };
        await fc.assert(
          fc.asyncProperty(scenarios, async ({ requests, engine }) => {
            const { outcomes, stats } = await together(folder, { ...model, ...engine }, requests);
            for (const [i, outcome] of outcomes.entries())
              assert.deepStrictEqual(outcome, await alone(folder, { ...model, contextLength }, requests[i]!));
            seen.preemptions += stats.preemptions;
            seen.prefixHits += stats.prefixHitRate > 0 ? 1 : 0;
          }),
          { numRuns, seed: 3, endOnFailure: size === small },
        );
        assert.ok(seen.preemptions > 0 && seen.prefixHits > 0, JSON.stringify(seen));
      });
});

function randomTokens(length: number, seed: number): number[] {
  return Array.from({ length }, (_, i) => philox([i, 0, 0, 5], [seed, 0])[0] % vocabularySize);
}

const submit = (bench: EngineBench, { prompt, sampling, choice, priority }: Request, onToken?: () => void) =>
  bench.submit(prompt, { ...sampling, choice, priority, ...(onToken && { onToken }) });

/** A request in an engine of its own that has computed nothing before. */
function alone(folder: string, options: EngineBenchOptions, request: Request): Promise<Outcome> {
  return withEngine(folder, options, (bench) => submit(bench, request).done);
}

function together(folder: string, options: EngineBenchOptions, requests: readonly Request[]) {
  return withEngine(folder, options, async (bench) => {
    const waiting = requests
      .map((request, i) => ({ request, i }))
      .sort((a, b) => a.request.arrival - b.request.arrival);
    const outcomes = new Array<Promise<Outcome>>(requests.length);
    let heard = 0;
    let running = 0;
    const start = () => {
      while (waiting.length > 0 && (running === 0 || waiting[0]!.request.arrival <= heard)) {
        const { request, i } = waiting.shift()!;
        running++;
        outcomes[i] = submit(bench, request, () => {
          heard++;
          start();
        }).done.finally(() => {
          running--;
          start();
        });
      }
    };
    start();
    while (waiting.length > 0) await Promise.all(outcomes);
    return { outcomes: await Promise.all(outcomes), stats: bench.engine.stats() };
  });
}
