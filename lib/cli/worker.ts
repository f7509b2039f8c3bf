import { Command } from 'commander';
import { Qwen2Error, requireQueue, runQueueWorker } from '../index.js';
import { addBatchModelOptions, type BatchModelArguments, loadBatchModel } from './batchModel.js';
import { wholeNumber } from './options.js';
import { note, onInterrupt } from './terminal.js';

interface WorkerArguments extends BatchModelArguments {
  queue: string;
  heartbeat: number;
}

export function workerCommand(): Command {
  const command = new Command('worker')
    .description('Computes what `qwen2 batch --queue` puts into a queue, until Ctrl-C or SIGTERM; one a GPU')
    .argument('<folder>', 'a Hugging Face checkpoint')
    .requiredOption('--queue <url>', 'Redis: redis://host:port/database')
    .option('--heartbeat <seconds>', 'after such a silence others take over', wholeNumber, 30);
  return addBatchModelOptions(command).action(work);
}

async function work(folder: string, options: WorkerArguments): Promise<void> {
  const { queue, heartbeat } = options;
  if (heartbeat < 1 || heartbeat > 3600)
    throw new Qwen2Error('invalid_argument', `--heartbeat is ${heartbeat}; it must be from 1 to 3600 seconds`);
  await requireQueue(queue);
  const model = await loadBatchModel(folder, options);
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
