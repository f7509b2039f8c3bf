import { Presets, SingleBar } from 'cli-progress';
import { type LoadOptions, loadModel, type Model, Qwen2Error, type RandomModel } from '../index.js';

const megabyte = 1e6;

/** A progress bar on the terminal; in a pipe, nothing. */
export class ProgressBar {
  readonly #bar: SingleBar;

  /** @param format in cli-progress's words */
  constructor(format: string, clearOnComplete: boolean) {
    this.#bar = new SingleBar(
      { stream: process.stderr, format, clearOnComplete, hideCursor: true },
      Presets.shades_classic,
    );
  }

  /** @param notes for the words of the format that are not cli-progress's own */
  show(value: number, total: number, notes: object = {}): void {
    if (!process.stderr.isTTY) return;
    if (!this.#bar.isActive) this.#bar.start(total, 0, notes);
    this.#bar.setTotal(total);
    this.#bar.update(value, notes);
  }

  /** Of bytes, in megabytes. */
  showBytes(bytes: number, total: number): void {
    this.show(Math.ceil(bytes / megabyte), Math.ceil(total / megabyte));
  }

  stop(): void {
    this.#bar.stop();
  }
}

/** Loads a model with a progress bar. Ctrl-C ends the loading. */
export async function loadWithProgress(source: string | RandomModel, options: LoadOptions): Promise<Model> {
  const bar = new ProgressBar(bytesFormat('loading'), true);
  const interrupt = onInterrupt();
  try {
    return await loadModel(source, {
      ...options,
      signal: interrupt.signal,
      onProgress: ({ loadedBytes, totalBytes }) => bar.showBytes(loadedBytes, totalBytes),
    });
  } finally {
    bar.stop();
    interrupt.dispose();
  }
}

/** For ProgressBar.showBytes. */
export function bytesFormat(what: string): string {
  return `${what} {bar} {percentage}% | {value}/{total} MB | {eta_formatted} left`;
}

/**
 * Runs what can be resumed, with a bar. Ctrl-C ends it with the exit code of that and a note that the same command goes on,
 * instead of an error.
 */
export async function runResumable<T>(
  bar: ProgressBar,
  kept: string,
  body: (signal: AbortSignal) => Promise<T>,
): Promise<T | undefined> {
  const interrupt = onInterrupt();
  try {
    return await body(interrupt.signal);
  } catch (error) {
    bar.stop();
    if (!(error instanceof Qwen2Error) || error.code !== 'aborted') throw error;
    note(`qwen2: interrupted; ${kept}, and the same command goes on`);
    process.exitCode = interruptedExitCode;
    return undefined;
  } finally {
    bar.stop();
    interrupt.dispose();
  }
}

export const interruptedExitCode = 130;

/** A signal that fires at Ctrl-C, or SIGTERM, which then does nothing else; a second one ends the process. */
export function onInterrupt(): { signal: AbortSignal; dispose(): void } {
  const controller = new AbortController();
  const interrupt = () => {
    if (controller.signal.aborted) process.exit(interruptedExitCode);
    controller.abort();
  };
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const signal of signals) process.on(signal, interrupt);
  return {
    signal: controller.signal,
    dispose: () => {
      for (const signal of signals) process.off(signal, interrupt);
    },
  };
}

export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Dimmed on a terminal that shows colours. */
export function dim(text: string): string {
  return process.stderr.isTTY && process.env.NO_COLOR === undefined ? `\x1b[2m${text}\x1b[22m` : text;
}

export function gigabytes(bytes: number): string {
  return bytes < 0.995e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
