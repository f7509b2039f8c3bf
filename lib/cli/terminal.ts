import { Presets, SingleBar } from 'cli-progress';
import { type LoadOptions, loadModel, type Model, type RandomModel } from '../index.js';

const megabyte = 1e6;

/** Loads a model with a progress bar on the terminal; in a pipe, in silence. Ctrl-C ends the loading. */
export async function loadWithProgress(source: string | RandomModel, options: LoadOptions): Promise<Model> {
  const bar = new SingleBar(
    {
      stream: process.stderr,
      format: 'loading {bar} {percentage}% | {value}/{total} MB | {eta_formatted} left',
      clearOnComplete: true,
      hideCursor: true,
    },
    Presets.shades_classic,
  );
  const interrupt = onInterrupt();
  try {
    return await loadModel(source, {
      ...options,
      signal: interrupt.signal,
      onProgress({ loadedBytes, totalBytes }) {
        if (!process.stderr.isTTY) return;
        if (!bar.isActive) bar.start(Math.ceil(totalBytes / megabyte), 0);
        bar.update(Math.ceil(loadedBytes / megabyte));
      },
    });
  } finally {
    bar.stop();
    interrupt.dispose();
  }
}

export const interruptedExitCode = 130;

/** A signal that fires at Ctrl-C, which then does nothing else; a second Ctrl-C ends the process. */
export function onInterrupt(): { signal: AbortSignal; dispose(): void } {
  const controller = new AbortController();
  const onSigint = () => {
    if (controller.signal.aborted) process.exit(interruptedExitCode);
    controller.abort();
  };
  process.on('SIGINT', onSigint);
  return { signal: controller.signal, dispose: () => process.off('SIGINT', onSigint) };
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
