import { Command } from 'commander';
import {
  type CheckpointSummary,
  type DeviceFit,
  type DeviceStatus,
  inspectCheckpoint,
  listDevices,
  measureDevice,
} from '../index.js';
import {
  addCacheOption,
  addWeightOptions,
  type CacheArguments,
  cacheOptions,
  type WeightArguments,
} from './options.js';
import { gigabytes } from './terminal.js';

interface InfoArguments extends WeightArguments, CacheArguments {
  json?: boolean;
  measure: boolean;
}

/** A checkpoint on a device, and what that device reads at best, if it was measured. */
interface MeasuredFit extends DeviceFit {
  readBytesPerSecond?: number;
}

type Summary = CheckpointSummary & { devices: MeasuredFit[] };

export function infoCommand(): Command {
  const command = new Command('info')
    .description('Shows the devices, and why one is unusable; with a folder, what it holds and what of it fits where')
    .argument('[folder]', 'a Hugging Face checkpoint')
    .option('--no-measure', 'with a folder: leave out how long a decode step takes at the least, two seconds a device')
    .option('--json', 'print one JSON object');
  return addCacheOption(addWeightOptions(command)).action(info);
}

async function info(folder: string | undefined, options: InfoArguments): Promise<void> {
  const devices = await listDevices();
  const checkpoint = folder === undefined ? undefined : await summarize(folder, options);
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ devices, ...(checkpoint && { checkpoint: forJson(checkpoint) }) })}\n`);
    return;
  }
  const lines = [...devices.map(deviceLine), ...(checkpoint ? ['', ...checkpointLines(folder!, checkpoint)] : [])];
  process.stdout.write(`${lines.join('\n')}\n`);
}

async function summarize(folder: string, { quantize, lmHead, measure, ...cache }: InfoArguments): Promise<Summary> {
  const summary = await inspectCheckpoint(folder, { quantize, lmHead, ...cacheOptions(cache) });
  const devices: MeasuredFit[] = [];
  for (const fit of summary.devices) {
    const measured = measure && fit.name !== 'reference' ? await measureDevice(fit.name) : {};
    devices.push({ ...fit, ...measured });
  }
  return { ...summary, devices };
}

/** JSON has no typed arrays. */
function forJson({ config, ...rest }: Summary) {
  const rope = { ...config.rope, inverseFrequencies: [...config.rope.inverseFrequencies] };
  const slidingWindows = config.slidingWindows.map((window) => window ?? null);
  return { config: { ...config, rope, slidingWindows }, ...rest };
}

function deviceLine({ name, available, description, freeBytes = 0, totalBytes = 0 }: DeviceStatus): string {
  const memory = available ? `; ${gigabytes(freeBytes)} of ${gigabytes(totalBytes)} free` : '';
  return `${name.padEnd(10)} ${available ? description : `unusable: ${description}`}${memory}`;
}

function checkpointLines(folder: string, { config, parameters, fileBytes, hasTokenizer, devices }: Summary): string[] {
  const sliding = config.slidingWindows.filter((window) => window !== undefined).length;
  const heads = `${config.numAttentionHeads} heads of ${config.headDim}, ${config.numKvHeads} for keys and values`;
  const { quantization, sourceDtype } = config;
  const saved = quantization ? quantizationOf(quantization) : sourceDtype;
  return [
    folder,
    `layers     ${config.numHiddenLayers}${sliding > 0 ? `, ${sliding} with a sliding window` : ''}`,
    `width      ${config.hiddenSize}, intermediate ${config.intermediateSize}, ${heads}`,
    `vocabulary ${config.vocabularySize}${config.tieWordEmbeddings ? ', tied embeddings' : ''}`,
    `parameters ${(parameters / 1e6).toFixed(1)} million, ${gigabytes(fileBytes)} in files${saved ? ` as ${saved}` : ''}`,
    `context    ${config.contextLength} tokens`,
    `tokenizer  ${hasTokenizer ? 'yes' : 'none: works on token ids'}`,
    ...devices.flatMap((fit) => fitLines(fit, config.contextLength)),
  ];
}

function quantizationOf({ format, groupSize }: NonNullable<CheckpointSummary['config']['quantization']>): string {
  const method = format === 'awq' ? 'AWQ' : 'GPTQ';
  return `${method} int4, ${groupSize === -1 ? 'a scale a row' : `groups of ${groupSize}`}`;
}

function fitLines(fit: MeasuredFit, contextLength: number): string[] {
  const { name, weightBytes, decodeWeightBytes, freeBytes, cacheTokens, cacheBytesPerToken, readBytesPerSecond } = fit;
  const on = `on ${name.padEnd(10)}`;
  if (cacheTokens === 0) return [`${on} does not fit: weights ${gigabytes(weightBytes)}, free ${gigabytes(freeBytes)}`];
  const floor = readBytesPerSecond
    ? `, ${((1000 * decodeWeightBytes) / readBytesPerSecond).toFixed(2)} ms at the measured ${gigabytes(readBytesPerSecond)}/s`
    : '';
  return [
    `${on} weights ${gigabytes(weightBytes)}; the rest holds keys and values of ${cacheTokens} tokens`,
    `${' '.repeat(on.length)} of ${cacheBytesPerToken} bytes each: ${fit.fullContexts} sequences of ${contextLength}`,
    `${' '.repeat(on.length)} a decode step reads ${gigabytes(decodeWeightBytes)} and the cache${floor}`,
  ];
}
