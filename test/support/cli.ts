import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text as readAll } from 'node:stream/consumers';
import { packageFolder } from '../../lib/native/addon.js';
import { demoFolder } from './checkpoints.js';

const program = join(packageFolder, 'dist', 'lib', 'cli', 'main.js');

/** What a shell sees of a command that has ended. */
export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `qwen2` in a pipe: no terminal on any side. Files that it writes may grow to `fileKilobytes`. */
export function qwen2(
  args: readonly string[],
  input = '',
  { fileKilobytes }: { fileKilobytes?: number } = {},
): Promise<Outcome> {
  const running = startQwen2(args, fileKilobytes);
  running.child.stdin.on('error', () => {}); // a command that is misused ends without reading
  running.child.stdin.end(input);
  return outcomeOf(running);
}

/** A command that runs, and what it will have written and returned. */
export function startQwen2(args: readonly string[], fileKilobytes?: number) {
  const command = [process.execPath, program, ...args];
  const limited = ['bash', '-c', `ulimit -f ${fileKilobytes}; exec "$@"`, 'bash', ...command];
  const [file = '', ...rest] = fileKilobytes === undefined ? command : limited;
  const child = spawn(file, rest, { stdio: 'pipe' });
  const code = once(child, 'exit').then(([code]) => code as number | null);
  return { child, stdout: readAll(child.stdout), stderr: readAll(child.stderr), code };
}

/** Resolves when the command has written something to stdout; rejects if it ends without. */
export async function firstOutput({ child, code, stderr }: ReturnType<typeof startQwen2>): Promise<void> {
  const ended = code.then(async (value) => assert.fail(`exit code ${value} and no output: ${await stderr}`));
  await Promise.race([once(child.stdout, 'data'), ended]);
}

export async function outcomeOf({ stdout, stderr, code }: ReturnType<typeof startQwen2>): Promise<Outcome> {
  return { code: await code, stdout: await stdout, stderr: await stderr };
}

export const keys = { enter: '\r', ctrlC: '\x03', ctrlD: '\x04' };

/** `qwen2` on a pseudo-terminal, which util-linux's script makes: it shows what a person sees. */
export class Terminal {
  readonly #child: ChildProcess;
  readonly #exit: Promise<unknown[]>;
  #shown = '';
  /** Up to here, text has been waited for. */
  #seen = 0;

  constructor(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const words = [process.execPath, program, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`);
    const command = `stty cols 100 rows 30; exec ${words.join(' ')}`;
    this.#child = spawn('script', ['-qfec', command, '/dev/null'], {
      env: { ...process.env, SHELL: '/bin/sh', TERM: 'xterm', ...env },
    });
    this.#exit = once(this.#child, 'exit');
    this.#child.stdout!.setEncoding('utf8').on('data', (data) => {
      this.#shown += data;
    });
  }

  type(text: string): void {
    this.#child.stdin!.write(text);
  }

  /** Resolves when the pattern is shown, with everything from the end of the last wait to the end of the match. */
  async waitFor(pattern: RegExp, milliseconds = 20_000): Promise<string> {
    const deadline = Date.now() + milliseconds;
    for (;;) {
      const unseen = this.#shown.slice(this.#seen);
      const match = pattern.exec(unseen);
      if (match) {
        const end = match.index + match[0].length;
        this.#seen += end;
        return unseen.slice(0, end);
      }
      if (Date.now() > deadline || this.#child.exitCode !== null)
        throw new Error(`The terminal never showed ${pattern}, only ${JSON.stringify(unseen)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Waits for the program's end. */
  async exitCode(): Promise<number> {
    const [code] = await this.#exit;
    return code as number;
  }

  /** Ends the program, if a test failed before it did. */
  close(): void {
    this.#child.kill();
  }
}

/** A copy of the demo model with some files replaced; `use` gets its folder, which is removed afterwards. */
export async function withDemoCopy(files: Record<string, object>, use: (folder: string) => Promise<void>) {
  const folder = await mkdtemp(join(tmpdir(), 'qwen2-cli-'));
  try {
    await cp(demoFolder, folder, { recursive: true });
    for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), JSON.stringify(content));
    await use(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
