import { Command, InvalidArgumentError } from 'commander';
import { type BatchFileProgress, type BatchFiles, Qwen2Error, runBatchFile, runQueuedBatch } from '../index.js';
import { addBatchModelOptions, type BatchModelArguments, loadBatchModel } from './batchModel.js';
import { wholeNumber } from './options.js';
import { note, ProgressBar, runResumable } from './terminal.js';

interface BatchArguments extends BatchModelArguments {
  output: string;
  errors?: string;
  part?: BatchFiles['part'];
  queue?: string;
  shardSize?: number;
  json?: boolean;
}

/** Options that say what is computed how, which with a queue is the workers' business. */
const ofComputing = new Set<string>();

export function batchCommand(): Command {
  const command = new Command('batch')
    .description('Generates for the requests of a file; interrupted anywhere, the same command goes on')
    .usage('<folder> <input> -o <file> [options], or --queue <url> <input> -o <file> [options]')
    .argument('<paths...>', 'a Hugging Face checkpoint, but with a queue, and the requests')
    .addHelpText('after', "\nRequests are lines of OpenAI's batch format, or {id, prompt | messages, …}; - is stdin.")
    .requiredOption('-o, --output <file>', 'results, a line each, as they are made')
    .option('--errors <file>', 'lines that are no requests (default: beside the output)')
    .option('--part <i/n>', 'do only every n-th line, from the i-th on; the output is named after the part', part)
    .option(
      '--queue <url>',
      'leave the computing to the workers at this Redis (qwen2 worker): redis://host:port/database',
    )
    .option('--shard-size <n>', 'with a queue: requests that a worker takes at a time (default: 64)', wholeNumber)
    .option('--json', 'print one JSON object, at the end');
  for (const option of addBatchModelOptions(new Command()).options) {
    command.addOption(option);
    ofComputing.add(option.attributeName());
  }
  return command.action(batch);
}

async function batch(paths: readonly string[], options: BatchArguments, command: Command): Promise<void> {
  const { queue } = options;
  const expected = queue === undefined ? 2 : 1;
  if (paths.length !== expected)
    throw new Qwen2Error(
      'invalid_argument',
      queue === undefined
        ? `A batch has a folder and an input; got ${paths.join(' ')}`
        : `With --queue a batch has an input only, and its workers the folder; got ${paths.join(' ')}`,
    );
  if (queue !== undefined) requireNoneOfComputing(command);
  else if (options.shardSize !== undefined) throw new Qwen2Error('invalid_argument', '--shard-size belongs to --queue');
  const progress = await (queue === undefined
    ? runHere(paths[0]!, options, paths[1]!)
    : runQueued(queue, options, paths[0]!));
  if (progress === undefined) return;
  if (options.json) process.stdout.write(`${JSON.stringify(progress)}\n`);
  else note(summary(progress));
}

function requireNoneOfComputing(command: Command): void {
  for (const option of command.options)
    if (ofComputing.has(option.attributeName()) && command.getOptionValueSource(option.attributeName()) === 'cli')
      throw new Qwen2Error('invalid_argument', `With --queue, ${option.long} is an option of qwen2 worker`);
}

async function runHere(folder: string, options: BatchArguments, input: string): Promise<BatchFileProgress | undefined> {
  const files = filesOf(input, options);
  const model = await loadBatchModel(folder, options);
  const bar = new ProgressBar(format, false);
  try {
    return await runResumable(bar, 'what is finished is in the output', (signal) =>
      runBatchFile(model, {
        ...files,
        signal,
        batchInvariant: model.batchInvariant,
        onProgress: (now) => show(bar, now),
      }),
    );
  } finally {
    await model.dispose();
  }
}

function runQueued(queue: string, options: BatchArguments, input: string): Promise<BatchFileProgress | undefined> {
  const bar = new ProgressBar(format, false);
  const kept = 'what is finished is in the output, workers go on with what they have';
  return runResumable(bar, kept, (signal) =>
    runQueuedBatch({
      ...filesOf(input, options),
      queue,
      shardSize: options.shardSize,
      signal,
      onProgress: (now) => show(bar, now),
      onNote: (text) => note(`qwen2: ${text}`),
    }),
  );
}

/** Parts of one input, which may be written in one folder, have outputs of their own. */
function filesOf(input: string, { output, errors, part }: BatchArguments): BatchFiles {
  if (part === undefined) return { input, output, errors };
  return { input, output: `${output.replace(/\.jsonl$/, '')}.${part.index}-of-${part.count}.jsonl`, errors, part };
}

function part(text: string): BatchFiles['part'] {
  const [, index, count] = /^(\d+)\/(\d+)$/.exec(text) ?? [];
  if (index === undefined || Number(index) < 1 || Number(index) > Number(count))
    throw new InvalidArgumentError('It must be i/n, such as 1/8 for the first of eight parts.');
  return { index: Number(index), count: Number(count) };
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
