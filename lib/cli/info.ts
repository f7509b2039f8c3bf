import { Command } from 'commander';
import { type CheckpointSummary, type DeviceStatus, inspectCheckpoint, listDevices } from '../index.js';
import { gigabytes } from './terminal.js';

export function infoCommand(): Command {
  return new Command('info')
    .description('Shows the devices, and why one is unusable; with a folder, what it holds and what of it fits where')
    .argument('[folder]', 'a Hugging Face checkpoint')
    .option('--json', 'print one JSON object')
    .action(info);
}

async function info(folder: string | undefined, { json }: { json?: boolean }): Promise<void> {
  const devices = await listDevices();
  const checkpoint = folder === undefined ? undefined : await inspectCheckpoint(folder);
  if (json) {
    process.stdout.write(`${JSON.stringify({ devices, ...(checkpoint && { checkpoint: forJson(checkpoint) }) })}\n`);
    return;
  }
  const lines = [...devices.map(deviceLine), ...(checkpoint ? ['', ...checkpointLines(folder!, checkpoint)] : [])];
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** JSON has no typed arrays. */
function forJson({ config, ...rest }: CheckpointSummary) {
  const rope = { ...config.rope, inverseFrequencies: [...config.rope.inverseFrequencies] };
  const slidingWindows = config.slidingWindows.map((window) => window ?? null);
  return { config: { ...config, rope, slidingWindows }, ...rest };
}

function deviceLine({ name, available, description, freeBytes = 0, totalBytes = 0 }: DeviceStatus): string {
  const memory = available ? `; ${gigabytes(freeBytes)} of ${gigabytes(totalBytes)} free` : '';
  return `${name.padEnd(10)} ${available ? description : `unusable: ${description}`}${memory}`;
}

function checkpointLines(folder: string, { config, parameters, fileBytes, hasTokenizer, devices }: CheckpointSummary) {
  const sliding = config.slidingWindows.filter((window) => window !== undefined).length;
  const heads = `${config.numAttentionHeads} heads of ${config.headDim}, ${config.numKvHeads} for keys and values`;
  return [
    folder,
    `layers     ${config.numHiddenLayers}${sliding > 0 ? `, ${sliding} with a sliding window` : ''}`,
    `width      ${config.hiddenSize}, intermediate ${config.intermediateSize}, ${heads}`,
    `vocabulary ${config.vocabularySize}${config.tieWordEmbeddings ? ', tied embeddings' : ''}`,
    `parameters ${(parameters / 1e6).toFixed(1)} million, ${gigabytes(fileBytes)} in files${config.sourceDtype ? ` as ${config.sourceDtype}` : ''}`,
    `context    ${config.contextLength} tokens`,
    `tokenizer  ${hasTokenizer ? 'yes' : 'none: works on token ids'}`,
    ...devices.map(({ name, weightBytes, freeBytes, cacheTokens }) =>
      cacheTokens > 0
        ? `on ${name.padEnd(10)} weights ${gigabytes(weightBytes)}; the rest holds keys and values of ${cacheTokens} tokens`
        : `on ${name.padEnd(10)} does not fit: weights ${gigabytes(weightBytes)}, free ${gigabytes(freeBytes)}`,
    ),
  ];
}
