import { Command } from 'commander';
import { Qwen2Error, requireQueue, runQueueWorker } from '../index.js';
import { addLoadOptions, type LoadArguments, loadOptions, wholeNumber } from './options.js';
import { loadWithProgress, note, onInterrupt } from './terminal.js';

interface WorkerArguments extends LoadArguments {
  queue: string;
  heartbeat: number;
  sequences: number;
}

export function workerCommand(): Command {
  const command = new Command('worker')
    .description('Computes what `qwen2 batch --queue` puts into a queue, until Ctrl-C or SIGTERM; one a GPU')
    .argument('<folder>', 'a Hugging Face checkpoint')
    .requiredOption('--queue <url>', 'Redis: redis://host:port/database')
    .option('--heartbeat <seconds>', 'after such a silence others take over', wholeNumber, 30)
    .option('-b, --sequences <n>', 'requests that are computed together', wholeNumber, 32);
  return addLoadOptions(command).action(work);
}

async function work(folder: string, options: WorkerArguments): Promise<void> {
  const { queue, heartbeat, sequences } = options;
  if (sequences < 1) throw new Qwen2Error('invalid_argument', '--sequences must be 1 or more');
  if (heartbeat < 1 || heartbeat > 3600)
    throw new Qwen2Error('invalid_argument', `--heartbeat is ${heartbeat}; it must be from 1 to 3600 seconds`);
  await requireQueue(queue);
  const model = await loadWithProgress(folder, { ...loadOptions(options), maxSequences: sequences });
  const interrupt = onInterrupt();
  try {
    note(`qwen2 worker: ready on ${model.device}`);
    const { shards, finished, failed } = await runQueueWorker(model, {
      queue,
      heartbeatSeconds: heartbeat,
      signal: interrupt.signal,
      onNote: (text) => note(`qwen2: ${text}`),
    });
    note(`qwen2 worker: ${finished} requests and ${shards} whole shards done, ${failed} failed; the rest is others'`);
  } finally {
    interrupt.dispose();
    await model.dispose();
  }
}
