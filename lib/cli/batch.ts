import { Presets, SingleBar } from 'cli-progress';
import { Command } from 'commander';
import { type BatchFileProgress, Qwen2Error, runBatchFile } from '../index.js';
import { addLoadOptions, type LoadArguments, loadOptions, wholeNumber } from './options.js';
import { interruptedExitCode, loadWithProgress, note, onInterrupt } from './terminal.js';

interface BatchArguments extends LoadArguments {
  output: string;
  errors?: string;
  sequences: number;
  json?: boolean;
}

export function batchCommand(): Command {
  const command = new Command('batch')
    .description('Generates for the requests of a file; interrupted anywhere, the same command goes on')
    .argument('<folder>', 'a Hugging Face checkpoint')
    .argument('<input>', "requests, a line each: OpenAI's batch format or {id, prompt | messages, …}; - is stdin")
    .requiredOption('-o, --output <file>', 'results, a line each, as they are made')
    .option('--errors <file>', 'lines that are no requests (default: beside the output)')
    .option('-b, --sequences <n>', 'requests that are computed together', wholeNumber, 32)
    .option('--json', 'print one JSON object, at the end');
  return addLoadOptions(command).action(batch);
}

async function batch(folder: string, input: string, options: BatchArguments): Promise<void> {
  const { output, errors, sequences, json } = options;
  if (sequences < 1) throw new Qwen2Error('invalid_argument', '--sequences must be 1 or more');
  const model = await loadWithProgress(folder, { ...loadOptions(options), maxSequences: sequences });
  const interrupt = onInterrupt();
  const bar = new Bar();
  try {
    const given = { input, output, errors, signal: interrupt.signal };
    const progress = await runBatchFile(model, { ...given, onProgress: (now) => bar.show(now) });
    bar.stop();
    if (json) process.stdout.write(`${JSON.stringify(progress)}\n`);
    else note(summary(progress));
  } catch (error) {
    bar.stop();
    if (!(error instanceof Qwen2Error) || error.code !== 'aborted') throw error;
    note('qwen2: interrupted; what is finished is in the output, and the same command goes on');
    process.exitCode = interruptedExitCode;
  } finally {
    interrupt.dispose();
    await model.dispose();
  }
}

/** On a terminal only. */
class Bar {
  readonly #bar = new SingleBar(
    {
      stream: process.stderr,
      format: '{bar} {value}/{total} | {rate} tokens/s | {running} running{notes} | {eta_formatted} left',
      hideCursor: true,
    },
    Presets.shades_classic,
  );

  show(progress: BatchFileProgress): void {
    if (!process.stderr.isTTY) return;
    const { finished, skipped, invalid, running, total } = progress;
    const ended = finished + skipped + invalid;
    const payload = { running, rate: rate(progress).toFixed(0), notes: notes(progress) };
    if (!this.#bar.isActive) this.#bar.start(total ?? ended + running, 0, payload);
    this.#bar.setTotal(total ?? ended + running);
    this.#bar.update(ended, payload);
  }

  stop(): void {
    this.#bar.stop();
  }
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
