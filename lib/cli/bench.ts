import { readFile } from 'node:fs/promises';
import { Command } from 'commander';
import { type DeviceLimits, type Model, measureDevice, Qwen2Error, type RandomModel } from '../index.js';
import {
  addBatchInvariantOption,
  addCacheOption,
  addDeviceOptions,
  addExactOption,
  addWeightOptions,
  type CacheArguments,
  cacheOptions,
  type DeviceArguments,
  deviceOptions,
  type WeightArguments,
  weightOptions,
  wholeNumber,
} from './options.js';
import { gigabytes, loadWithProgress } from './terminal.js';

interface BenchArguments extends DeviceArguments, WeightArguments, CacheArguments {
  shape: string;
  promptTokens: number;
  newTokens: number;
  sequences: number;
  repeat: number;
  seed: number;
  batchInvariant?: boolean;
}

/** Times of one round, in seconds. */
interface Round {
  prefillSeconds: number;
  decodeSeconds: number;
}

export function benchCommand(): Command {
  const command = new Command('bench')
    .description('Measures prefill and decode. The last line is one JSON object')
    .argument('[folder]', 'a Hugging Face checkpoint; without it, random weights of --shape')
    .option('--shape <name>', 'qwen2-0.5b, qwen2-1.5b, qwen2-7b, qwen2-72b, or the path of a config.json', 'qwen2-0.5b')
    .option('-p, --prompt-tokens <n>', 'tokens of each prompt', wholeNumber, 512)
    .option('-n, --new-tokens <n>', 'tokens to generate for each', wholeNumber, 64)
    .option('-b, --sequences <n>', 'prompts at the same time', wholeNumber, 1)
    .option('-r, --repeat <n>', 'rounds; the median counts, and one more warms up', wholeNumber, 3)
    .option('-s, --seed <n>', 'of the prompts', wholeNumber, 1);
  return addBatchInvariantOption(addCacheOption(addExactOption(addWeightOptions(addDeviceOptions(command))))).action(
    bench,
  );
}

async function bench(folder: string | undefined, options: BenchArguments): Promise<void> {
  checkOptions(options);
  const source = folder ?? (await randomModel(options.shape));
  const { promptTokens, newTokens, sequences } = options;
  const model = await loadWithProgress(source, {
    ...deviceOptions(options),
    ...weightOptions(options),
    ...cacheOptions(options),
    batchInvariant: options.batchInvariant,
    contextLength: promptTokens + newTokens,
    maxSequences: sequences,
    stepTokens: Math.max(512, sequences),
  });
  try {
    await runRound(model, options, 0);
    const peakMemoryBytes = process.resourceUsage().maxRSS * 1024;
    const rounds: MeasuredRound[] = [];
    // Limits move with the machine's other load, so each round is held against the better of those around it.
    let before = await measureDevice(model.device, deviceOptions(options));
    for (let round = 1; round <= options.repeat; round++) {
      const times = await runRound(model, options, round);
      const after = await measureDevice(model.device, deviceOptions(options));
      rounds.push({ ...times, limits: better(before, after) });
      before = after;
    }
    report(model, options, rounds, peakMemoryBytes);
  } finally {
    await model.dispose();
  }
}

function checkOptions({ promptTokens, newTokens, sequences, repeat }: BenchArguments): void {
  if (Math.min(promptTokens, sequences, repeat) < 1 || newTokens < 2)
    throw new Qwen2Error(
      'invalid_argument',
      '--prompt-tokens, --sequences and --repeat must be 1 or more, and --new-tokens 2 or more: the first one belongs to prefill',
    );
}

/** @throws not_found, invalid_checkpoint for a config.json that can't be used */
async function randomModel(shape: string): Promise<RandomModel> {
  if (!shape.endsWith('.json')) return { config: shape as RandomModel['config'], weights: 'random' };
  let text: string;
  try {
    text = await readFile(shape, 'utf8');
  } catch (cause) {
    throw new Qwen2Error('not_found', `--shape ${shape} can't be read: ${(cause as Error).message}`, { cause });
  }
  try {
    return { config: JSON.parse(text), weights: 'random' };
  } catch (cause) {
    throw new Qwen2Error('invalid_checkpoint', `--shape ${shape} is not JSON: ${(cause as Error).message}`, { cause });
  }
}

/** Prefill: from nothing to every sequence's first token. Decode: from there to the last token of all. */
async function runRound(
  model: Model,
  { promptTokens, newTokens, sequences, seed }: BenchArguments,
  round: number,
): Promise<Round> {
  const started = performance.now();
  let firstTokens = 0;
  let prefilled = started;
  const run = async (index: number) => {
    const tokens = randomTokens(promptTokens, model.config.vocabularySize, seed + 7919 * (round * sequences + index));
    const generation = model.generate({ tokens }, { maxTokens: newTokens, temperature: 0, ignoreEos: true });
    let received = 0;
    for await (const piece of generation) {
      const isFirst = received === 0;
      received += piece.tokens.length;
      if (isFirst && received > 0 && ++firstTokens === sequences) prefilled = performance.now();
    }
  };
  await Promise.all(Array.from({ length: sequences }, (_, index) => run(index)));
  const ended = performance.now();
  return { prefillSeconds: (prefilled - started) / 1000, decodeSeconds: (ended - prefilled) / 1000 };
}

/** Numerical Recipes' linear congruential generator: the content does not matter, repeatability does. */
function randomTokens(count: number, vocabularySize: number, seed: number): number[] {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabularySize);
  });
}

interface MeasuredRound extends Round {
  limits: DeviceLimits;
}

function better(a: DeviceLimits, b: DeviceLimits): DeviceLimits {
  return {
    readBytesPerSecond: Math.max(a.readBytesPerSecond, b.readBytesPerSecond),
    bf16OperationsPerSecond: Math.max(a.bf16OperationsPerSecond, b.bf16OperationsPerSecond),
    int8OperationsPerSecond: Math.max(a.int8OperationsPerSecond, b.int8OperationsPerSecond),
  };
}

function report(
  model: Model,
  options: BenchArguments,
  rounds: readonly MeasuredRound[],
  peakMemoryBytes: number,
): void {
  const { promptTokens, newTokens, sequences } = options;
  const { decodeWeightBytes, cacheBytesPerToken } = model.memory;
  const prefillSeconds = median(rounds.map((round) => round.prefillSeconds));
  const decodeSeconds = median(rounds.map((round) => round.decodeSeconds));
  const stepsPerSecond = (newTokens - 1) / decodeSeconds;
  const bytesPerStep = decodeWeightBytes + sequences * cacheBytesPerToken * (promptTokens + newTokens / 2);
  const { hiddenSize, vocabularySize, tieWordEmbeddings } = model.config;
  // Neither the embedding table nor, but for the last token of a prompt, the LM head multiplies anything in prefill.
  const multiplied = model.parameters - vocabularySize * hiddenSize * (tieWordEmbeddings ? 1 : 2);
  const prefillTokensPerSecond = (sequences * promptTokens) / prefillSeconds;
  const bandwidth = median(rounds.map(({ limits }) => limits.readBytesPerSecond));
  const rounds8Bits = multipliesBytes(model, options);
  const peak = ({ bf16OperationsPerSecond, int8OperationsPerSecond }: DeviceLimits) =>
    rounds8Bits ? int8OperationsPerSecond : bf16OperationsPerSecond;
  const operations = median(rounds.map(({ limits }) => peak(limits)));
  const bytesPerRound = (newTokens - 1) * bytesPerStep;
  const operationsPerRound = 2 * multiplied * sequences * promptTokens;
  const figures = {
    device: model.device,
    parameters: model.parameters,
    promptTokens,
    newTokens,
    sequences,
    prefillTokensPerSecond,
    decodeTokensPerSecond: sequences * stepsPerSecond,
    loadSeconds: model.loadSeconds,
    peakMemoryBytes,
    measuredBytesPerSecond: bandwidth,
    decodeBandwidthFraction: median(
      rounds.map(({ decodeSeconds, limits }) => bytesPerRound / decodeSeconds / limits.readBytesPerSecond),
    ),
    measuredOperationsPerSecond: operations,
    prefillOperationsFraction: median(
      rounds.map(({ prefillSeconds, limits }) => operationsPerRound / prefillSeconds / peak(limits)),
    ),
  };
  const percent = (fraction: number) => `${(100 * fraction).toFixed(0)}%`;
  process.stdout.write(
    `prefill ${figures.prefillTokensPerSecond.toFixed(1)} tokens/s, ${percent(figures.prefillOperationsFraction)} of the measured ${(operations / 1e9).toFixed(0)} ${rounds8Bits ? 'GOP/s of 8 bits' : 'GFLOP/s'}\n` +
      `decode  ${figures.decodeTokensPerSecond.toFixed(1)} tokens/s, ${percent(figures.decodeBandwidthFraction)} of the measured ${(bandwidth / 1e9).toFixed(1)} GB/s\n` +
      `loaded in ${model.loadSeconds.toFixed(1)} s; peak memory ${gigabytes(peakMemoryBytes)}\n` +
      `${JSON.stringify(figures)}\n`,
  );
}

/** Whether matrices are multiplied with activations of 8 bits: those of int4 on the CPU, unless `exact` is asked for. */
function multipliesBytes({ device, config }: Model, { quantize, exact }: BenchArguments): boolean {
  return device === 'cpu' && exact !== true && (quantize === 'int4' || config.quantization !== undefined);
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
