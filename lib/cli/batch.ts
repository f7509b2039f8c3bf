import { Command } from 'commander';
import { type BatchFileProgress, defaultDevice, type LoadOptions, Qwen2Error, runBatchFile } from '../index.js';
import { addBatchInvariantOption, addLoadOptions, type LoadArguments, loadOptions, wholeNumber } from './options.js';
import { loadWithProgress, note, ProgressBar, runResumable } from './terminal.js';

interface BatchArguments extends LoadArguments {
  output: string;
  errors?: string;
  sequences: number;
  kvCacheMemory?: number | `${number}%`;
  batchInvariant?: boolean;
  json?: boolean;
}

export function batchCommand(): Command {
  const command = new Command('batch')
    .description('Generates for the requests of a file; interrupted anywhere, the same command goes on')
    .argument('<folder>', 'a Hugging Face checkpoint')
    .argument('<input>', "requests, a line each: OpenAI's batch format or {id, prompt | messages, …}; - is stdin")
    .requiredOption('-o, --output <file>', 'results, a line each, as they are made')
    .option('--errors <file>', 'lines that are no requests (default: beside the output)')
    .option('-b, --sequences <n>', 'requests that are computed together', wholeNumber, 64)
    .option('--kv-cache-memory <size>', `bytes of the KV cache, or a part such as 90% ${cacheDefaults}`, cacheMemory)
    .option('--json', 'print one JSON object, at the end');
  return addBatchInvariantOption(addLoadOptions(command)).action(batch);
}

async function batch(folder: string, input: string, options: BatchArguments): Promise<void> {
  const { output, errors, sequences, batchInvariant, json } = options;
  if (sequences < 1) throw new Qwen2Error('invalid_argument', '--sequences must be 1 or more');
  const device = options.device === 'auto' ? await defaultDevice() : options.device;
  const model = await loadWithProgress(folder, { ...batchLoadOptions({ ...options, device }), batchInvariant });
  const bar = new ProgressBar(format, false);
  try {
    const progress = await runResumable(bar, 'what is finished is in the output', (signal) =>
      runBatchFile(model, { input, output, errors, signal, batchInvariant, onProgress: (now) => show(bar, now) }),
    );
    if (progress === undefined) return;
    if (json) process.stdout.write(`${JSON.stringify(progress)}\n`);
    else note(summary(progress));
  } finally {
    await model.dispose();
  }
}

/** What the KV cache gets where nobody says: of a GPU's memory nearly all, of the computer's what leaves others room. */
const cacheDefaults = "(default: 90% of what a GPU's weights leave; half of the free memory on the CPU)";

/**
 * What a batch loads its model with, on a device that is known. A batch wants throughput: many sequences at once, and a GPU
 * to itself. Where the cache is too small for so many, fewer run.
 */
export function batchLoadOptions(
  options: LoadArguments & Pick<BatchArguments, 'sequences' | 'kvCacheMemory'>,
): LoadOptions {
  const { device, sequences, kvCacheMemory } = options;
  const given = loadOptions(options);
  const isGpu = /^cuda(:\d+)?$/.test(device);
  const memory = kvCacheMemory ?? (isGpu ? '90%' : undefined);
  return { ...given, maxSequences: sequences, kvCache: { ...given.kvCache, memory } };
}

/** As the library takes it, which also checks it. */
function cacheMemory(text: string): number | `${number}%` {
  return text.endsWith('%') ? (text as `${number}%`) : wholeNumber(text);
}

const format = '{bar} {value}/{total} | {rate} tokens/s | {running} running{notes} | {eta_formatted} left';

function show(bar: ProgressBar, progress: BatchFileProgress): void {
  const { finished, skipped, invalid, running, total } = progress;
  const ended = finished + skipped + invalid;
  bar.show(ended, total ?? ended + running, { running, rate: rate(progress).toFixed(0), notes: notes(progress) });
}

function rate({ completionTokens, seconds }: BatchFileProgress): number {
  return seconds > 0 ? completionTokens / seconds : 0;
}

function notes({ failed, skipped, invalid }: BatchFileProgress): string {
  const counts = { failed, 'there before': skipped, 'lines invalid': invalid };
  const told = Object.entries(counts).filter(([, count]) => count > 0);
  return told.map(([what, count]) => ` | ${count} ${what}`).join('');
}

function summary(progress: BatchFileProgress): string {
  const { finished, promptTokens, completionTokens, seconds } = progress;
  return (
    `${finished} done in ${seconds.toFixed(1)} s | ${promptTokens} tokens read, ${completionTokens} written, ` +
    `${rate(progress).toFixed(0)} a second${notes(progress)}`
  );
}
